"""Text environments: plain Python, no torch."""

from paw_lightning.envs.base import TextEnv
from paw_lightning.envs.household import HouseholdEnv

__all__ = ["HouseholdEnv", "TextEnv"]
