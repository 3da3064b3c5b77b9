"""Advantages relative to a group: GRPO, RLOO and GiGPO.

Two conventions exist and give different numbers. `level="trajectory"`: statistics over a group's episodes.
`level="row"` (verl-agent's): over all turns of the group, each carrying its episode's return.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from paw_lightning.errors import SettingsError
from paw_lightning.policy.advantages.base import KEY, GroupAdvantage, Level, check, penalties
from paw_lightning.policy.advantages.comparing import (
    Normalization,
    anchor_clusters,
    check_normalization,
    check_steps,
    outcome_advantages,
    standardize,
    standardize_within,
    step_returns,
)
from paw_lightning.types import RolloutGroup, alike


@dataclass(frozen=True)
class GRPO(GroupAdvantage):
    """An episode's return against its group's: A = (R - mean R) / (std R + 1e-6), for every token; std is unbiased.

    A group whose scores are all equal has advantage 0.

    Args:
        level: statistics over episodes, or over turns that each carry their episode's return.
        normalize_std: False leaves the division out (Dr.GRPO).
        invalid_action_penalty: >= 0; subtracted from a turn whose text held no action.
        penalty_in_score: False subtracts the penalty from that turn's advantage alone. True subtracts it from the
            score before normalising (verl-agent's convention), which blows it up to several standard deviations
            in a group that differs by nothing else, however small it is.
    """

    level: Level = "trajectory"
    normalize_std: bool = True
    invalid_action_penalty: float = 0.0
    penalty_in_score: bool = False

    def __post_init__(self) -> None:
        check(self.level, self.invalid_action_penalty)

    def __call__(self, group: RolloutGroup) -> list[float]:
        """One advantage per transition, in the order of `group.transitions`."""
        in_score, apart = penalties(group, self.invalid_action_penalty, self.penalty_in_score)
        outcome = outcome_advantages(
            group, self.level, in_score, lambda scores: standardize(scores, self.normalize_std)
        )
        return [a - penalty for a, penalty in zip(outcome, apart, strict=True)]


@dataclass(frozen=True)
class RLOO(GroupAdvantage):
    """An episode's return less the mean of its group's other returns (leave one out); the arguments are GRPO's.

    At row level the others are the group's other turns: A = (s - mean s) N / (N - 1) over N turns.
    """

    level: Level = "trajectory"
    invalid_action_penalty: float = 0.0
    penalty_in_score: bool = False

    def __post_init__(self) -> None:
        check(self.level, self.invalid_action_penalty)

    def __call__(self, group: RolloutGroup) -> list[float]:
        """One advantage per transition, in the order of `group.transitions`."""
        in_score, apart = penalties(group, self.invalid_action_penalty, self.penalty_in_score)
        outcome = outcome_advantages(group, self.level, in_score, _leave_one_out)
        return [a - penalty for a, penalty in zip(outcome, apart, strict=True)]


@dataclass(frozen=True)
class GiGPO(GroupAdvantage):
    """GRPO, plus a comparison of the turns that saw the same observation: A = A_episode + omega A_step.

    Step return G_t = r_t + gamma G_{t+1}. The group's turns in matching states form a cluster, in which
    A_step = (G - mean G) / F; a turn alone in its cluster has A_step = 0. A state is what the environment calls it
    (`info["state_key"]`), else the observation.

    Args:
        level: of the episode part, as in GRPO.
        omega: weight of the step part; >= 0.
        gamma: discount per turn, in [0, 1].
        normalization: both parts divide by std + 1e-6 (`mean_std_norm`), or neither does (`mean_norm`).
        similarity: in (0, 1]; the difflib ratio to a cluster's first member from which on an observation joins it.
            1 wants equal text, as names of states always have to be.
        invalid_action_penalty: as in GRPO.
        penalty_in_score: as in GRPO; True also lowers the invalid turn's own step return.
    """

    level: Level = "trajectory"
    omega: float = 1.0
    gamma: float = 0.95
    normalization: Normalization = "mean_std_norm"
    similarity: float = 1.0
    invalid_action_penalty: float = 0.0
    penalty_in_score: bool = False

    def __post_init__(self) -> None:
        check(self.level, self.invalid_action_penalty)
        check_steps(self.omega, self.similarity)
        check_normalization(self.normalization)
        if not 0 <= self.gamma <= 1:
            raise SettingsError(f"{KEY}.gamma is {self.gamma}; wanted a discount in [0, 1]")

    @property
    def compares_turns(self) -> bool:
        """Turns in one state are compared, also within one episode."""
        return self.omega > 0

    def __call__(self, group: RolloutGroup) -> list[float]:
        """One advantage per transition, in the order of `group.transitions`."""
        divide = self.normalization == "mean_std_norm"
        in_score, apart = penalties(group, self.invalid_action_penalty, self.penalty_in_score)
        outcome = outcome_advantages(group, self.level, in_score, lambda scores: standardize(scores, divide))
        scores = [g - penalty for g, penalty in zip(step_returns(group, self.gamma), in_score, strict=True)]
        states = [state for episode in group.episodes for state in episode.states[:-1]]
        clusters = anchor_clusters(states, 1 if group.names_states else self.similarity)
        step = standardize_within(clusters, scores, divide)
        return [a + self.omega * s - penalty for a, s, penalty in zip(outcome, step, apart, strict=True)]


def _leave_one_out(scores: list[float]) -> list[float]:
    if alike(scores):
        return [0.0] * len(scores)
    mean, factor = fmean(scores), len(scores) / (len(scores) - 1)
    return [(score - mean) * factor for score in scores]
