"""Advantages relative to a group: GRPO, RLOO and GiGPO.

Two conventions exist and give different numbers. `level="trajectory"`: statistics over a group's episodes.
`level="row"` (verl-agent's): over all turns of the group, each carrying its episode's return.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from statistics import fmean, stdev
from typing import Literal

from paw_lightning.errors import SettingsError
from paw_lightning.policy.advantages.base import EPSILON, KEY, GroupAdvantage, Level, check, penalties
from paw_lightning.types import Episode, RolloutGroup, alike


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
        outcome = _outcome(group, self.level, in_score, lambda scores: _standardize(scores, self.normalize_std))
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
        outcome = _outcome(group, self.level, in_score, _leave_one_out)
        return [a - penalty for a, penalty in zip(outcome, apart, strict=True)]


@dataclass(frozen=True)
class GiGPO(GroupAdvantage):
    """GRPO, plus a comparison of the turns that saw the same observation: A = A_episode + omega A_step.

    Step return G_t = r_t + gamma G_{t+1}. The group's turns with matching anchors form a cluster, in which
    A_step = (G - mean G) / F; a turn alone in its cluster has A_step = 0.

    Args:
        level: of the episode part, as in GRPO.
        omega: weight of the step part; >= 0.
        gamma: discount per turn, in [0, 1].
        normalization: both parts divide by std + 1e-6 (`mean_std_norm`), or neither does (`mean_norm`).
        similarity: in (0, 1]; the difflib ratio to a cluster's first member from which on an anchor joins it.
            1 wants equal text.
        invalid_action_penalty: as in GRPO.
        penalty_in_score: as in GRPO; True also lowers the invalid turn's own step return.
    """

    level: Level = "trajectory"
    omega: float = 1.0
    gamma: float = 0.95
    normalization: Literal["mean_std_norm", "mean_norm"] = "mean_std_norm"
    similarity: float = 1.0
    invalid_action_penalty: float = 0.0
    penalty_in_score: bool = False

    def __post_init__(self) -> None:
        check(self.level, self.invalid_action_penalty)
        if not self.omega >= 0:
            raise SettingsError(f"{KEY}.omega is {self.omega}; wanted a weight of at least 0")
        if not 0 <= self.gamma <= 1:
            raise SettingsError(f"{KEY}.gamma is {self.gamma}; wanted a discount in [0, 1]")
        if self.normalization not in ("mean_std_norm", "mean_norm"):
            raise SettingsError(f"{KEY}.normalization is {self.normalization!r}; wanted 'mean_std_norm' or 'mean_norm'")
        if not 0 < self.similarity <= 1:
            raise SettingsError(f"{KEY}.similarity is {self.similarity}; wanted a ratio in (0, 1]")

    def __call__(self, group: RolloutGroup) -> list[float]:
        """One advantage per transition, in the order of `group.transitions`."""
        divide = self.normalization == "mean_std_norm"
        in_score, apart = penalties(group, self.invalid_action_penalty, self.penalty_in_score)
        outcome = _outcome(group, self.level, in_score, lambda scores: _standardize(scores, divide))
        returns = [g for episode in group.episodes for g in discounted_returns(_rewards(episode), self.gamma)]
        scores = [g - penalty for g, penalty in zip(returns, in_score, strict=True)]
        step = [0.0] * len(scores)
        for members in anchor_clusters([t.anchor for t in group.transitions], self.similarity):
            for i, a in zip(members, _standardize([scores[i] for i in members], divide), strict=True):
                step[i] = a
        return [a + self.omega * s - penalty for a, s, penalty in zip(outcome, step, apart, strict=True)]


def discounted_returns(rewards: Sequence[float], gamma: float) -> list[float]:
    """G_t = r_t + gamma G_{t+1}, one per turn."""
    returns, following = [], 0.0
    for reward in reversed(rewards):
        following = reward + gamma * following
        returns.append(following)
    return returns[::-1]


def anchor_clusters(anchors: Sequence[str], similarity: float = 1.0) -> list[list[int]]:
    """Indices of matching anchors: each joins the first cluster whose first member it resembles, or opens one."""
    clusters: dict[str, list[int]] = {}
    for i, anchor in enumerate(anchors):
        home = anchor
        if anchor not in clusters and similarity < 1:
            home = next((first for first in clusters if _resembles(anchor, first, similarity)), anchor)
        clusters.setdefault(home, []).append(i)
    return list(clusters.values())


def _resembles(anchor: str, first: str, similarity: float) -> bool:
    matcher = SequenceMatcher(None, anchor, first)
    bounds = (matcher.real_quick_ratio, matcher.quick_ratio)  # upper bounds of the ratio, far cheaper
    return all(bound() >= similarity for bound in bounds) and matcher.ratio() >= similarity


def _rewards(episode: Episode) -> list[float]:
    return [t.reward for t in episode.transitions]


def _outcome(
    group: RolloutGroup, level: Level, lowered: list[float], advantages_of: Callable[[list[float]], list[float]]
) -> list[float]:
    """Per turn, `advantages_of` the scores: returns less penalties, of the episodes or of their turns."""
    episode_of_turn = [j for j, episode in enumerate(group.episodes) for _ in episode.transitions]
    returns = group.returns
    if level == "row":
        scores = [returns[j] - penalty for j, penalty in zip(episode_of_turn, lowered, strict=True)]
        return scores if len(scores) == 1 else advantages_of(scores)  # verl-agent: a lone row has mean 0, std 1
    for j, penalty in zip(episode_of_turn, lowered, strict=True):
        returns[j] -= penalty
    advantages = advantages_of(returns)
    return [advantages[j] for j in episode_of_turn]


def _standardize(scores: list[float], divide: bool) -> list[float]:
    if alike(scores):
        return [0.0] * len(scores)
    mean, scale = fmean(scores), stdev(scores) + EPSILON if divide else 1.0
    return [(score - mean) / scale for score in scores]


def _leave_one_out(scores: list[float]) -> list[float]:
    if alike(scores):
        return [0.0] * len(scores)
    mean, factor = fmean(scores), len(scores) / (len(scores) - 1)
    return [(score - mean) * factor for score in scores]
