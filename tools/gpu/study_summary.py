"""What the study's curves say: success where all arms of a seed still ran, and paired differences from GRPO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import mean

from paw_lightning.compare.statistics import paired_differences, t_interval

Curves = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Arm -> seed -> iteration -> success."""
ARMS = ("GRPO", "GRPO + PaW", "placebo", "ECHO")


@dataclass(frozen=True)
class Line:
    """One arm."""

    mean: float
    difference: float | None
    """From GRPO, mean over seeds; None for GRPO itself."""
    interval: tuple[float, float] | None
    """95 % t interval of it; None for fewer than two seeds."""


@dataclass(frozen=True)
class Summary:
    """The last iteration that all four arms of a seed have reached, and the seeds whose arms have."""

    iteration: int | None = None
    seeds: tuple[str, ...] = ()
    arms: dict[str, Line] = field(default_factory=dict)


def summary(runs: Curves) -> Summary:
    """Compare the arms at the last iteration that any seed has reached with all four, over the seeds that have.

    Example: seed 1 has reached 16 with all arms and seed 2 only 12: iteration 16, seed 1 alone.
    """
    every = sorted({seed for curves in runs.values() for seed in curves}, key=int)
    common = {
        seed: set.intersection(*({int(i) for i in runs.get(arm, {}).get(seed, {})} for arm in ARMS)) for seed in every
    }
    reached = set().union(*common.values()) if common else set()
    if not reached:
        return Summary()
    last = max(reached)
    seeds = tuple(seed for seed in every if last in common[seed])
    values = {arm: {int(seed): runs[arm][seed][str(last)] for seed in seeds} for arm in ARMS}
    lines = {}
    for arm in ARMS:
        gaps = paired_differences(values[arm], values["GRPO"]) if arm != "GRPO" else []
        lines[arm] = Line(mean(values[arm].values()), mean(gaps) if gaps else None, t_interval(gaps))
    return Summary(last, seeds, lines)
