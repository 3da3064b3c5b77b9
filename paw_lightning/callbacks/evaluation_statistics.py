"""What an evaluation says: rates with intervals by kind of task, and what the best of several attempts wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt
from statistics import fmean, variance

from paw_lightning.types import Evaluation, RolloutGroup

QUANTILE = 1.959964
"""Of the normal distribution, for 95 % between both ends."""


@dataclass(frozen=True)
class Line:
    """One line of a report: all tasks, or those of one kind."""

    kind: str
    tasks: int
    samples: int
    """Episodes of each task."""
    success_rate: float
    interval: tuple[float, float]
    """95 %, of the success rate."""
    mean_return: float
    turns: float
    pass_at: dict[int, float]
    """k -> how likely one of k attempts at a task wins."""
    best_of: dict[int, float]
    """k -> mean return of the best of k attempts."""


def lines(evaluation: Evaluation) -> list[Line]:
    """All tasks, then each kind of task where there are several; nothing where no task could be played."""
    kinds: dict[str, list[RolloutGroup]] = {}
    for group in evaluation.groups:
        kinds.setdefault(kind_of(group), []).append(group)
    parts = [("all", evaluation.groups), *(sorted(kinds.items()) if len(kinds) > 1 else [])]
    return [line(kind, groups) for kind, groups in parts if groups]


def kind_of(group: RolloutGroup) -> str:
    """The kind of a group's task: of a mixture's, environment and kind."""
    words = [word for word in (group.environment, group.episodes[0].kind) if word]
    return "/".join(words) or "other"


def line(kind: str, groups: Sequence[RolloutGroup]) -> Line:
    """What a few tasks say, of which all have as many episodes."""
    samples = len(groups[0].episodes)
    won = [sum(e.won for e in group.episodes) for group in groups]
    episodes = [e for group in groups for e in group.episodes]
    rates = [wins / samples for wins in won]
    attempts = attempts_of(samples)
    return Line(
        kind,
        len(groups),
        samples,
        fmean(rates),
        interval(rates, samples),
        fmean(e.episode_return for e in episodes),
        fmean(len(e.transitions) for e in episodes),
        {k: fmean(pass_at(k, samples, wins) for wins in won) for k in attempts},
        {k: fmean(best_of(k, group.returns) for group in groups) for k in attempts},
    )


def attempts_of(samples: int) -> list[int]:
    """Numbers of attempts that are told of: 2, 4, 8, ... and all.

    Example: of 6 samples 2, 4 and 6.
    """
    powers = {2**i for i in range(1, samples.bit_length())}
    return sorted(powers | {samples}) if samples > 1 else []


def interval(rates: Sequence[float], samples: int = 1) -> tuple[float, float]:
    """95 % interval of the mean of tasks' rates: Wilson's, for as many independent episodes as theirs count.

    Example: 15 of 100 tasks give 0.093 to 0.233; 0 of 100 give 0 to 0.037.
    """
    p, size = fmean(rates), independent_episodes(rates, samples)
    middle = (p + QUANTILE**2 / (2 * size)) / (1 + QUANTILE**2 / size)
    half = QUANTILE * sqrt(p * (1 - p) / size + (QUANTILE / (2 * size)) ** 2) / (1 + QUANTILE**2 / size)
    return max(0.0, middle - half), min(1.0, middle + half)


def independent_episodes(rates: Sequence[float], samples: int) -> float:
    """How many independent episodes would tell as much of the mean as these tasks with so many episodes each.

    As many as would give it the variance that it has, p (1 - p) / size; from n for tasks that are always won or always
    lost to n k for tasks that differ by chance alone. A task that was always won and one that was always lost are
    thought beside them (choice), so that a few wins in many tasks do not pass for certainty.
    """
    count, seen = len(rates), [*rates, 0.0, 1.0]
    p = fmean(seen)
    return min(max(p * (1 - p) / (variance(seen) / len(seen)), count), count * samples)


def pass_at(k: int, samples: int, wins: int) -> float:
    """How likely one of k attempts wins, of which `wins` of so many samples did: 1 - C(n - c, k) / C(n, k).

    It is the mean over all choices of k of the samples, so that it is unbiased (Chen et al. 2021, arXiv 2107.03374).
    """
    return 1 - comb(samples - wins, k) / comb(samples, k)


def best_of(k: int, returns: Sequence[float]) -> float:
    """Mean over all choices of k of the returns of the largest among them.

    Sorted upwards, the i-th is the largest of C(i - 1, k - 1) choices.
    """
    chosen = (value * comb(i, k - 1) for i, value in enumerate(sorted(returns)))
    return sum(chosen) / comb(len(returns), k)
