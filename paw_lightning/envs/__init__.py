"""Text environments: plain Python, no torch. Adapters of optional packages are in modules of their own."""

from paw_lightning.envs.base import TextEnv
from paw_lightning.envs.hidden_rule.env import HiddenRuleEnv
from paw_lightning.envs.household.env import HouseholdEnv
from paw_lightning.envs.mixture import MixtureEnv
from paw_lightning.envs.recorded import RecordedEpisodes
from paw_lightning.envs.safe import SafeEnv
from paw_lightning.envs.search.env import SearchEnv
from paw_lightning.envs.shop.env import ShopEnv
from paw_lightning.envs.tools import ToolEnv, ToolError
from paw_lightning.envs.worker.env import WorkerEnv

__all__ = [
    "HiddenRuleEnv",
    "HouseholdEnv",
    "MixtureEnv",
    "RecordedEpisodes",
    "SafeEnv",
    "SearchEnv",
    "ShopEnv",
    "TextEnv",
    "ToolEnv",
    "ToolError",
    "WorkerEnv",
]
