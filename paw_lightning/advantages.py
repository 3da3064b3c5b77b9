"""Group-relative advantages (GRPO, RLOO, GiGPO) and generalised advantage estimation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from statistics import fmean, stdev
from typing import Literal

import torch
from torch import Tensor

from paw_lightning.types import RolloutGroup

Level = Literal["trajectory", "row"]
EPSILON = 1e-6


@dataclass(frozen=True)
class GRPO:
    """A = (R - mean R) / (std R + 1e-6), the same for every action token of an episode (std unbiased).

    A group whose scores are all equal has advantage 0.

    Args:
        level: statistics over the group's episodes (`trajectory`), or over all its turns, each carrying its
            episode's return (`row`, verl-agent's convention).
        normalize_std: False leaves the division out (Dr.GRPO).
        invalid_action_penalty: subtracted from a turn whose action could not be parsed; >= 0.
        penalty_in_score: False subtracts the penalty from the advantage of that turn alone. True subtracts it from
            the score before normalising (verl-agent): a group that differs by nothing else has it blown up to
            several standard deviations, however small it is.
    """

    level: Level = "trajectory"
    normalize_std: bool = True
    invalid_action_penalty: float = 0.0
    penalty_in_score: bool = False

    def __post_init__(self) -> None:
        _check_common(self.level, self.invalid_action_penalty)

    def __call__(self, group: RolloutGroup) -> list[float]:
        """One advantage per transition, in the order of `group.transitions`."""
        penalties = _penalties(group, self.invalid_action_penalty)
        in_score, separate = _place(penalties, self.penalty_in_score)
        outcome = _over_group(group, self.level, in_score, lambda scores: _standardize(scores, self.normalize_std))
        return [a - penalty for a, penalty in zip(outcome, separate, strict=True)]


@dataclass(frozen=True)
class RLOO:
    """A = R - mean of the group's other returns; arguments as in GRPO.

    At `row` level the others are all other turns of the group: (s - mean s) N / (N - 1) over N turns.
    """

    level: Level = "trajectory"
    invalid_action_penalty: float = 0.0
    penalty_in_score: bool = False

    def __post_init__(self) -> None:
        _check_common(self.level, self.invalid_action_penalty)

    def __call__(self, group: RolloutGroup) -> list[float]:
        """One advantage per transition, in the order of `group.transitions`."""
        penalties = _penalties(group, self.invalid_action_penalty)
        in_score, separate = _place(penalties, self.penalty_in_score)
        outcome = _over_group(group, self.level, in_score, _leave_one_out)
        return [a - penalty for a, penalty in zip(outcome, separate, strict=True)]


@dataclass(frozen=True)
class GiGPO:
    """A = A_episode + omega A_step: GRPO's advantage plus a comparison of turns taken from the same observation.

    Step return G_t = r_t + gamma G_{t+1}. Turns of the group whose anchors match form a cluster;
    A_step = (G - cluster mean) / F, and 0 in a cluster of one.

    Args:
        omega: weight of the step part.
        gamma: discount per turn, in [0, 1].
        normalization: F and the division of the episode part: std + 1e-6 (`mean_std_norm`) or 1 (`mean_norm`).
        similarity: anchors match from this difflib ratio to the cluster's first member on, in (0, 1]; 1 wants
            equal text.
        level, invalid_action_penalty, penalty_in_score: as in GRPO; `penalty_in_score` also lowers the step return
            of the invalid turn itself.
    """

    level: Level = "trajectory"
    omega: float = 1.0
    gamma: float = 0.95
    normalization: Literal["mean_std_norm", "mean_norm"] = "mean_std_norm"
    similarity: float = 1.0
    invalid_action_penalty: float = 0.0
    penalty_in_score: bool = False

    def __post_init__(self) -> None:
        _check_common(self.level, self.invalid_action_penalty)
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"GiGPO's gamma is {self.gamma}; wanted a discount in [0, 1]")
        if self.normalization not in ("mean_std_norm", "mean_norm"):
            raise ValueError(f"GiGPO's normalization is {self.normalization!r}; wanted mean_std_norm or mean_norm")
        if not 0 < self.similarity <= 1:
            raise ValueError(f"GiGPO's similarity is {self.similarity}; wanted a ratio in (0, 1]")

    def __call__(self, group: RolloutGroup) -> list[float]:
        """One advantage per transition, in the order of `group.transitions`."""
        divide = self.normalization == "mean_std_norm"
        penalties = _penalties(group, self.invalid_action_penalty)
        in_score, separate = _place(penalties, self.penalty_in_score)
        outcome = _over_group(group, self.level, in_score, lambda scores: _standardize(scores, divide))
        step_returns = [
            g for e in group.episodes for g in discounted_returns([t.reward for t in e.transitions], self.gamma)
        ]
        scores = [g - penalty for g, penalty in zip(step_returns, in_score, strict=True)]
        step = [0.0] * len(scores)
        for members in anchor_clusters([t.anchor for t in group.transitions], self.similarity):
            if len(members) > 1:
                for i, a in zip(members, _standardize([scores[i] for i in members], divide), strict=True):
                    step[i] = a
        return [a + self.omega * s - penalty for a, s, penalty in zip(outcome, step, separate, strict=True)]


def discounted_returns(rewards: Sequence[float], gamma: float) -> list[float]:
    """G_t = r_t + gamma G_{t+1}."""
    returns, following = [], 0.0
    for reward in reversed(rewards):
        following = reward + gamma * following
        returns.append(following)
    return returns[::-1]


def anchor_clusters(anchors: Sequence[str], similarity: float = 1.0) -> list[list[int]]:
    """Indices of matching anchors; each joins the first cluster whose first member it matches, else opens one."""
    exact: dict[str, list[int]] = {}
    for i, anchor in enumerate(anchors):
        home = anchor
        if anchor not in exact and similarity < 1:
            home = next((first for first in exact if _alike(anchor, first, similarity)), anchor)
        exact.setdefault(home, []).append(i)
    return list(exact.values())


def gae(rewards: Tensor, values: Tensor, *, gamma: float = 1.0, gae_lambda: float = 1.0) -> tuple[Tensor, Tensor]:
    """Advantages and value targets [N] of consecutive action tokens, from rewards [N] and values [N].

    delta_i = r_i + gamma V_{i+1} - V_i, A_i = delta_i + gamma lambda A_{i+1}, target = A + V; V after the end is 0.
    """
    advantages = torch.zeros_like(values)
    following_value = following_advantage = 0.0
    for i in reversed(range(len(values))):
        delta = rewards[i] + gamma * following_value - values[i]
        following_advantage = delta + gamma * gae_lambda * following_advantage
        following_value = values[i]
        advantages[i] = following_advantage
    return advantages, advantages + values


def _check_common(level: str, penalty: float) -> None:
    if level not in ("trajectory", "row"):
        raise ValueError(f"the advantages' level is {level!r}; wanted 'trajectory' or 'row'")
    if not penalty >= 0:
        raise ValueError(f"the advantages' invalid_action_penalty is {penalty}; wanted at least 0: it is subtracted")


def _penalties(group: RolloutGroup, penalty: float) -> list[float]:
    return [0.0 if t.well_formed else penalty for t in group.transitions]


def _place(penalties: list[float], in_score: bool) -> tuple[list[float], list[float]]:
    """(What lowers each turn's score, what lowers its advantage)."""
    nothing = [0.0] * len(penalties)
    return (penalties, nothing) if in_score else (nothing, penalties)


def _over_group(group, level, penalties, advantages_of) -> list[float]:
    """Apply `advantages_of` to the group's scores: one per turn at row level, else one per episode."""
    lengths = [len(episode.transitions) for episode in group.episodes]
    if level == "row":
        spread = [r for r, length in zip(group.returns, lengths, strict=True) for _ in range(length)]
        return advantages_of([r - penalty for r, penalty in zip(spread, penalties, strict=True)])
    remaining = iter(penalties)
    scores = [r - sum(next(remaining) for _ in range(length)) for r, length in zip(group.returns, lengths, strict=True)]
    return [a for a, length in zip(advantages_of(scores), lengths, strict=True) for _ in range(length)]


def _standardize(scores: list[float], divide: bool) -> list[float]:
    if len(scores) == 0 or max(scores) == min(scores):
        return [0.0] * len(scores)
    mean = fmean(scores)
    scale = stdev(scores) + EPSILON if divide else 1.0
    return [(score - mean) / scale for score in scores]


def _leave_one_out(scores: list[float]) -> list[float]:
    if len(scores) < 2:
        return [0.0] * len(scores)
    mean, factor = fmean(scores), len(scores) / (len(scores) - 1)
    return [(score - mean) * factor for score in scores]


def _alike(left: str, right: str, threshold: float) -> bool:
    return SequenceMatcher(None, left, right).ratio() >= threshold
