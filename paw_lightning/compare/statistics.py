"""The statistics of a comparison: pure functions of numbers per seed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 10_000
EXACT_PAIRS = 12
DECIMALS = 12
"""More than any metric has: what is left of a difference of 0 beyond them is rounding."""


def final_value(curve: Mapping[int, float], points: int = 1) -> float:
    """Mean of the curve's last points; {iteration: value}."""
    return float(np.mean([curve[iteration] for iteration in sorted(curve)[-points:]]))


def area_under_curve(curve: Mapping[int, float]) -> float:
    """Trapezoid over iterations, divided by their span: the curve's mean height, in the metric's own unit."""
    iterations = sorted(curve)
    values = np.array([curve[iteration] for iteration in iterations])
    if len(values) == 1:
        return float(values[0])
    return float(np.average((values[1:] + values[:-1]) / 2, weights=np.diff(iterations)))


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean; None for fewer than two values.

    Of two or three values it is their whole range, and never more: it is too narrow where seeds are few.
    """
    if len(values) < 2:
        return None
    draws = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    means = np.asarray(values)[draws].mean(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return round(float(low), DECIMALS), round(float(high), DECIMALS)


def paired_differences(arm: Mapping[int, float], base: Mapping[int, float]) -> list[float]:
    """arm - base for every seed that both have; {seed: value}."""
    return [round(arm[seed] - base[seed], DECIMALS) for seed in sorted(arm.keys() & base.keys())]


def probability_of_improvement(arm: Sequence[float], base: Sequence[float]) -> float | None:
    """Share of all pairs (one run of each) in which the arm's value is the larger, ties counting half."""
    if not arm or not base:
        return None
    gaps = np.subtract.outer(arm, base)
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean())


def chance_of_difference(differences: Sequence[float], seed: int = 0) -> float | None:
    """How often two equal arms differ on average as much as this, in either direction; None for fewer than two pairs.

    The sign-flip test: between equal arms every difference might as well have had the other sign. Exact up to
    EXACT_PAIRS pairs, by all their 2^n signs. Five pairs never come below 2/32: no claim at 95 % can rest on them.
    """
    pairs = len(differences)
    if pairs < 2:
        return None
    if pairs <= EXACT_PAIRS:
        signs = np.array(list(itertools.product([1, -1], repeat=pairs)))
    else:
        drawn = np.random.default_rng(seed).choice([1, -1], size=(RESAMPLES, pairs))
        signs = np.vstack([np.ones(pairs), drawn])  # the signs that came are one of the possibilities
    sums = np.abs(signs @ np.asarray(differences))
    return float((sums >= sums[0] - 1e-9).mean())


def holm(chances: Sequence[float]) -> list[float]:
    """Holm's correction: with m comparisons the smallest chance is multiplied by m, the next by m - 1, ..., at most 1.

    A chance is never corrected to less than one that was smaller before. Where all arms of a table are equal, a table
    that calls chances up to 5 % a result names one in at most 5 % of the cases.
    """
    order = sorted(range(len(chances)), key=lambda i: chances[i])
    corrected, largest = [0.0] * len(chances), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(chances) - rank) * chances[i]))
        corrected[i] = largest
    return corrected
