"""Text environments: plain Python, no torch."""

from paw_lightning.envs.base import TextEnv
from paw_lightning.envs.household import HouseholdEnv
from paw_lightning.envs.search import SearchEnv
from paw_lightning.envs.shop import ShopEnv

__all__ = ["HouseholdEnv", "SearchEnv", "ShopEnv", "TextEnv"]
