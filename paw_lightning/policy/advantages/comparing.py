"""What several algorithms compare: returns of a group's episodes, and scores of its turns within clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from difflib import SequenceMatcher
from statistics import fmean, stdev
from typing import Literal, get_args

from paw_lightning.errors import SettingsError
from paw_lightning.policy.advantages.base import EPSILON, KEY, Level
from paw_lightning.types import RolloutGroup, alike

Normalization = Literal["mean_std_norm", "mean_norm"]


def check_normalization(normalization: str) -> None:
    """Refuse an unknown normalisation."""
    if normalization not in get_args(Normalization):
        raise SettingsError(f"{KEY}.normalization is {normalization!r}; wanted 'mean_std_norm' or 'mean_norm'")


def check_steps(omega: float, similarity: float) -> None:
    """Refuse a negative weight of the step part, and a similarity that is no ratio."""
    if not omega >= 0:
        raise SettingsError(f"{KEY}.omega is {omega}; wanted a weight of at least 0")
    if not 0 < similarity <= 1:
        raise SettingsError(f"{KEY}.similarity is {similarity}; wanted a ratio in (0, 1]")


def standardize(
    scores: Sequence[float], divide: bool, spread: Callable[[Sequence[float]], float] = stdev
) -> list[float]:
    """(score - mean) / (spread + 1e-6), or score - mean without `divide`; 0 where all scores are equal."""
    if alike(scores):
        return [0.0] * len(scores)
    mean, scale = fmean(scores), spread(scores) + EPSILON if divide else 1.0
    return [(score - mean) / scale for score in scores]


def standardize_within(
    clusters: Iterable[Sequence[int]],
    scores: Sequence[float],
    divide: bool,
    spread: Callable[[Sequence[float]], float] = stdev,
) -> list[float]:
    """Each score against those of its cluster, which is given by indices; 0 for one that is in no cluster."""
    standardized = [0.0] * len(scores)
    for members in clusters:
        for i, value in zip(members, standardize([scores[i] for i in members], divide, spread), strict=True):
            standardized[i] = value
    return standardized


def outcome_advantages(
    group: RolloutGroup, level: Level, lowered: Sequence[float], advantages_of: Callable[[list[float]], list[float]]
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


def step_returns(group: RolloutGroup, gamma: float) -> list[float]:
    """The discounted return of every turn of a group, episode by episode."""
    return [
        value
        for episode in group.episodes
        for value in discounted_returns([t.reward for t in episode.transitions], gamma)
    ]


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
    # Without `autojunk`, which takes letters that are frequent in a long text for noise, and one order for another.
    matcher = SequenceMatcher(None, anchor, first, autojunk=False)
    bounds = (matcher.real_quick_ratio, matcher.quick_ratio)  # upper bounds of the ratio, far cheaper
    return all(bound() >= similarity for bound in bounds) and matcher.ratio() >= similarity
