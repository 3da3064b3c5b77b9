"""No advantage at all: the world model alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from paw_lightning.policy.advantages.base import GroupAdvantage
from paw_lightning.types import RolloutGroup


@dataclass(frozen=True)
class NoReward(GroupAdvantage):
    """A = 0: the policy loss vanishes and the world model (and a KL term) trains alone, a control without reward.

    What else would bring a reward in is refused: penalties on the advantage, `data.dynamic_sampling`, a critic.
    """

    rewardless: ClassVar[bool] = True
    idle: ClassVar[bool] = True
    relative: ClassVar[bool] = False

    def __call__(self, group: RolloutGroup) -> list[float]:
        """One zero per transition."""
        return [0.0 for _ in group.transitions]
