"""The statistics of a comparison: pure functions of numbers per seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 10_000


def final_value(curve: Mapping[int, float], points: int = 1) -> float:
    """Mean of the curve's last points; {iteration: value}."""
    return float(np.mean([curve[iteration] for iteration in sorted(curve)[-points:]]))


def area_under_curve(curve: Mapping[int, float]) -> float:
    """Trapezoid over iterations, divided by their number: the curve's mean height, in the metric's own unit."""
    iterations = sorted(curve)
    values = [curve[iteration] for iteration in iterations]
    width = iterations[-1] - iterations[0]
    return float(np.trapezoid(values, iterations) / width) if width else values[0]


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean; None for fewer than two values.

    Of two or three values it is their whole range, and never more: it is too narrow where seeds are few.
    """
    if len(values) < 2:
        return None
    draws = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    means = np.asarray(values)[draws].mean(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def paired_differences(arm: Mapping[int, float], base: Mapping[int, float]) -> list[float]:
    """arm - base for every seed that both have; {seed: value}."""
    return [arm[seed] - base[seed] for seed in sorted(arm.keys() & base.keys())]


def probability_of_improvement(arm: Sequence[float], base: Sequence[float]) -> float | None:
    """Share of all pairs (one run of each) in which the arm's value is the larger, ties counting half."""
    if not arm or not base:
        return None
    gaps = np.subtract.outer(arm, base)
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean())


def chance_of_one_sign(pairs: int) -> float:
    """How often the differences of two equal arms all have the same sign: 2 (1/2)^pairs.

    Their bootstrap interval then excludes 0, so no comparison of so few pairs errs less often than this.
    """
    return 2.0 ** (1 - pairs)
