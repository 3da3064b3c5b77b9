"""Questions that are answered by searching."""

from paw_lightning.envs.search.env import SearchEnv

__all__ = ["SearchEnv"]
