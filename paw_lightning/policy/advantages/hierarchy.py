"""HGPO: turns compared with those that saw the same observation, and more so with those of the same history."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import pstdev

from paw_lightning.errors import SettingsError
from paw_lightning.policy.advantages.base import KEY, GroupAdvantage, Level, check, penalties
from paw_lightning.policy.advantages.comparing import (
    Normalization,
    check_normalization,
    outcome_advantages,
    standardize,
    standardize_within,
    step_returns,
)
from paw_lightning.types import RolloutGroup

ROUNDING = 1e-9


@dataclass(frozen=True)
class HGPO(GroupAdvantage):
    """A weighted mean of comparisons: with the turns of the same last observation, of the same last two, and so on.

    He et al., "Hierarchy-of-Groups Policy Optimization", ICLR 2026, arXiv 2602.22817, as its recipe for verl-agent
    computes it. Step return G_t = r_t + gamma G_{t+1}. For k = 1 to history + 1 the group's turns whose last k
    observations are equal (the current one and the k - 1 before it, in their own episodes) form a cluster, in which
    A_k = (G - mean G) / F. Then

        A = sum_k w_k A_k / sum_k w_k,    w_k = (k + 1)^alpha

    over those k at which the turn differs from its cluster's mean: a turn alone, or in a cluster of equal returns,
    takes no part at that k and leaves its weight to the others. A turn early in its episode has fewer k.

    Choices are the recipe's: the weights (whose k counts the current observation too), F = std + 1e-6 with the *biased*
    std, exact text, no episode part of its own: the outcome comes in through G. "Equal" is that of the whole package.
    Where the environment names its states (`info["state_key"]`), they are compared instead of the observations.

    Args:
        level: null has no episode part; `trajectory` or `row` adds GRPO's advantage as k = 0 (the recipe's
            `base_group`, at row level).
        history: K, how many earlier observations may have to agree; >= 0. With 0 and no level it is GiGPO's step part
            but for the biased std.
        alpha: >= 0; 0 weighs all k alike, a large one takes the longest history that anybody shares.
        gamma: discount per turn, in [0, 1].
        normalization: all parts divide by std + 1e-6 (`mean_std_norm`), or none does (`mean_norm`).
        invalid_action_penalty: as in GRPO.
        penalty_in_score: as in GRPO; True also lowers the invalid turn's own step return.
    """

    level: Level | None = None
    history: int = 2
    alpha: float = 1.0
    gamma: float = 0.95
    normalization: Normalization = "mean_std_norm"
    invalid_action_penalty: float = 0.0
    penalty_in_score: bool = False

    def __post_init__(self) -> None:
        check(self.level or "trajectory", self.invalid_action_penalty)
        check_normalization(self.normalization)
        if not self.history >= 0:
            raise SettingsError(f"{KEY}.history is {self.history}; wanted at least 0 earlier observations")
        if not self.alpha >= 0:
            raise SettingsError(f"{KEY}.alpha is {self.alpha}; wanted at least 0")
        if not 0 <= self.gamma <= 1:
            raise SettingsError(f"{KEY}.gamma is {self.gamma}; wanted a discount in [0, 1]")

    @property
    def compares_turns(self) -> bool:
        """Turns in one state are compared, also within one episode."""
        return True

    def __call__(self, group: RolloutGroup) -> list[float]:
        """One advantage per transition, in the order of `group.transitions`."""
        divide = self.normalization == "mean_std_norm"
        in_score, apart = penalties(group, self.invalid_action_penalty, self.penalty_in_score)
        scores = [g - penalty for g, penalty in zip(step_returns(group, self.gamma), in_score, strict=True)]
        depths = [
            standardize_within(same_histories(group, k), scores, divide, pstdev) for k in range(1, self.history + 2)
        ]
        outcome = [0.0] * len(scores)
        if self.level is not None:
            outcome = outcome_advantages(group, self.level, in_score, lambda scores: standardize(scores, divide))
        weights = [(k + 1) ** self.alpha for k in range(self.history + 2)]
        return [
            _weighted_mean(of_turn, weights) - penalty
            for *of_turn, penalty in zip(outcome, *depths, apart, strict=True)
        ]


def same_histories(group: RolloutGroup, k: int) -> list[list[int]]:
    """Indices of the turns whose last k states are equal, cluster by cluster; earlier turns are in none."""
    clusters: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    place = 0
    for episode in group.episodes:
        states = episode.states[:-1]
        for i in range(k - 1, len(states)):
            clusters[tuple(states[i - k + 1 : i + 1])].append(place + i)
        place += len(states)
    return list(clusters.values())


def _weighted_mean(advantages: list[float], weights: list[float]) -> float:
    """Of the advantages that are more than the rounding of a mean; 0 where none is."""
    kept = [(a, w) for a, w in zip(advantages, weights, strict=True) if abs(a) > ROUNDING]
    return sum(a * w for a, w in kept) / sum(w for _, w in kept) if kept else 0.0
