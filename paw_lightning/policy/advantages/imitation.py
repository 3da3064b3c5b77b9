"""Imitation: the actions of a rollout are an expert's, and all of them are right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from paw_lightning.policy.advantages.base import GroupAdvantage
from paw_lightning.types import RolloutGroup


@dataclass(frozen=True)
class Imitation(GroupAdvantage):
    """A = 1 for every action of an expert, who plays in the policy's place: the policy loss is then cross-entropy.

    With advantage 1 and the ratio pi / pi taken against itself, the gradient of the clipped surrogate is that of
    -log pi(a | h), clipping never sets in, and every optimizer step of an iteration learns alike. The environment's
    `demonstrate` says what the expert does; its rewards are shown and teach nothing.
    """

    demonstrated: ClassVar[bool] = True
    rewardless: ClassVar[bool] = True
    relative: ClassVar[bool] = False

    def __call__(self, group: RolloutGroup) -> list[float]:
        """One 1 per transition."""
        return [1.0 for _ in group.transitions]
