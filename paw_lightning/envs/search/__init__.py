"""Questions that are answered by searching."""

from paw_lightning.envs.search.env import SearchEnv
from paw_lightning.envs.search.protocol import SearchTags

__all__ = ["SearchEnv", "SearchTags"]
