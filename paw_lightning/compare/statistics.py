"""The statistics of a comparison: pure functions of numbers per seed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from math import ceil, cos, log2, pi, sin, sqrt, tan

import numpy as np

CONFIDENCE = 0.95
LARGEST_P_VALUE = 0.05
"""Above it a difference is no result."""
EXACT_PAIRS = 12
DRAWN_SIGNS = 10_000
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


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % t interval of the mean: mean -+ t s / sqrt(n), with s over n - 1; None for fewer than two values.

    It covers the true mean in 95 % of cases when the values are normal, however few they are.
    """
    count = len(values)
    if count < 2:
        return None
    middle, half = np.mean(values), t_quantile(count - 1) * np.std(values, ddof=1) / sqrt(count)
    return round(float(middle - half), DECIMALS), round(float(middle + half), DECIMALS)


def t_quantile(freedom: int) -> float:
    """What |t| stays below with probability CONFIDENCE; t is Student's, with ``freedom`` degrees of freedom."""
    low, high = 0.0, pi / 2
    while low < (angle := (low + high) / 2) < high:  # halved down to neighbouring floats
        low, high = (angle, high) if _t_inside(angle, freedom) < CONFIDENCE else (low, angle)
    return sqrt(freedom) * tan(angle)


def _t_inside(angle: float, freedom: int) -> float:
    """P(|t| <= sqrt(freedom) tan(angle)), by its finite series (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    odd = freedom % 2
    term, total = cos(angle) if odd else 1.0, 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= cos(angle) ** 2 * (power + 1) / (power + 2)
    return (angle + sin(angle) * total) * 2 / pi if odd else sin(angle) * total


def paired_differences(arm: Mapping[int, float], base: Mapping[int, float]) -> list[float]:
    """arm - base for every seed that both have; {seed: value}."""
    return [round(arm[seed] - base[seed], DECIMALS) for seed in sorted(arm.keys() & base.keys())]


def probability_of_improvement(arm: Sequence[float], base: Sequence[float]) -> float | None:
    """Share of all pairs (one run of each) in which the arm's value is the larger, ties counting half."""
    if not arm or not base:
        return None
    gaps = np.subtract.outer(arm, base)
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean())


def sign_flip_p_value(differences: Sequence[float], seed: int = 0) -> float | None:
    """How often two equal arms differ on average as much as this, in either direction; None for fewer than two pairs.

    The sign-flip test: between equal arms every difference might as well have had the other sign. Exact up to
    EXACT_PAIRS pairs, by all their 2^n signs, of which at least two reach what came: five pairs never come below 2/32.
    """
    pairs = len(differences)
    if pairs < 2:
        return None
    if pairs <= EXACT_PAIRS:
        signs = np.array(list(itertools.product([1, -1], repeat=pairs)))
    else:
        drawn = np.random.default_rng(seed).choice([1, -1], size=(DRAWN_SIGNS, pairs))
        signs = np.vstack([np.ones(pairs), drawn])  # the signs that came are one of the possibilities
    sums = np.abs(signs @ np.asarray(differences))
    return float((sums >= sums[0] - 1e-9).mean())


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment of m p values: the smallest times m, the next times m - 1, and so on, at most 1.

    None becomes less than one that was smaller before. Where all arms of a table are equal, a table that calls adjusted
    p values up to 5 % a result names one in at most 5 % of cases.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def least_p_value(pairs: int, differences: int) -> float:
    """The least adjusted p value that so many differences can have: 2 / 2^pairs, the least of the test, times them."""
    return min(1.0, differences * 2 ** (1 - pairs))


def seeds_for_a_result(differences: int) -> int:
    """The fewest pairs with which one of so many differences can count as a result."""
    return 1 + ceil(log2(differences / LARGEST_P_VALUE))
