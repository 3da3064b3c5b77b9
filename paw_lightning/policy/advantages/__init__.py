"""What each action is worth: one class for each algorithm."""

from paw_lightning.policy.advantages.base import Advantage, GroupAdvantage
from paw_lightning.policy.advantages.gae import GAE
from paw_lightning.policy.advantages.graph import GraphGPO
from paw_lightning.policy.advantages.group import GRPO, RLOO, GiGPO
from paw_lightning.policy.advantages.hierarchy import HGPO
from paw_lightning.policy.advantages.imitation import Imitation
from paw_lightning.policy.advantages.no_reward import NoReward

__all__ = [
    "GAE",
    "GRPO",
    "HGPO",
    "RLOO",
    "Advantage",
    "GiGPO",
    "GraphGPO",
    "GroupAdvantage",
    "Imitation",
    "NoReward",
]
