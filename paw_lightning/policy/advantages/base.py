"""What an advantage is, and what its algorithms share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from paw_lightning.errors import SettingsError
from paw_lightning.types import Rollout, RolloutGroup, Transition

Level = Literal["trajectory", "row"]
EPSILON = 1e-6
KEY = "rollout.advantage.init_args"  # where the configuration holds these settings


class Advantage(ABC):
    """How much better than expected each action was; `rollout.advantage` names one, also a class of yours.

    A subclass of GroupAdvantage gives one number per turn of a group. One that sees the whole update, or gives a number
    to each token, writes them itself in `write`.
    """

    reads_values: ClassVar[bool] = False
    """It needs a critic's values (`model.critic`)."""
    rewardless: ClassVar[bool] = False
    """No reward reaches the policy: what else would bring one in is refused."""
    idle: ClassVar[bool] = False
    """It teaches the policy nothing: the world model trains alone."""
    demonstrated: ClassVar[bool] = False
    """The actions of training are an expert's: the environment demonstrates them, the policy only reads them."""
    relative: ClassVar[bool] = True
    """It compares the episodes of a group, so that a group of one teaches nothing."""

    @property
    def compares_turns(self) -> bool:
        """It also compares turns with each other, within one episode as well: a group of one may teach something."""
        return False

    @abstractmethod
    def write(self, rollout: Rollout, inadmissible_penalty: float = 0.0) -> None:
        """Write `advantage` of every transition; an estimator per token also writes token_advantages, value_targets.

        Args:
            inadmissible_penalty: taken off the finished advantage of a turn whose action the environment refused, so
                outside any normalisation; :func:`inadmissible` gives it for a turn.
        """


class GroupAdvantage(Advantage):
    """An advantage made group by group: one number per turn."""

    @abstractmethod
    def __call__(self, group: RolloutGroup) -> list[float]:
        """One advantage per transition, in the order of `group.transitions`."""

    def write(self, rollout: Rollout, inadmissible_penalty: float = 0.0) -> None:
        """Write `advantage` of every transition."""
        for group in rollout.groups:
            for t, advantage in zip(group.transitions, self(group), strict=True):
                t.advantage = advantage - inadmissible(t, inadmissible_penalty)


@dataclass(frozen=True)
class PlainFunction(GroupAdvantage):
    """A function of a group, or any other callable, in the form of an advantage."""

    function: Callable[[RolloutGroup], list[float]]

    def __call__(self, group: RolloutGroup) -> list[float]:
        """What the function gives."""
        return self.function(group)


def inadmissible(transition: Transition, penalty: float) -> float:
    """The penalty where the environment did not take the action, else 0."""
    return 0.0 if transition.admissible else penalty


def check(level: str, invalid_action_penalty: float) -> None:
    """Refuse the two settings that all algorithms share, naming their keys."""
    if level not in ("trajectory", "row"):
        raise SettingsError(f"{KEY}.level is {level!r}; wanted 'trajectory' or 'row'")
    if not invalid_action_penalty >= 0:
        raise SettingsError(
            f"{KEY}.invalid_action_penalty is {invalid_action_penalty}; wanted at least 0, as it is subtracted"
        )


def penalties(group: RolloutGroup, penalty: float, in_score: bool) -> tuple[list[float], list[float]]:
    """(What lowers each turn's score, what lowers its advantage), for turns whose text held no action."""
    malformed = [0.0 if t.well_formed else penalty for t in group.transitions]
    none = [0.0] * len(malformed)
    return (malformed, none) if in_score else (none, malformed)
