"""Text environments: plain Python, no torch."""

from paw_lightning.envs.base import TextEnv

__all__ = ["TextEnv"]
