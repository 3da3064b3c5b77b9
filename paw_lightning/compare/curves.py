"""The curves of one run, as its files hold them, counted in iterations."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import isnan, nan
from pathlib import Path

import numpy as np

from paw_lightning import event_files
from paw_lightning.event_files import Scalars

VALIDATION_WITNESS = "val/dropped_tasks"
"""Logged by every validation between iterations, lost ones too, but not by the one before training."""
TRAINING_SECONDS = ("time/rollout_s", "time/update_s")


@dataclass(frozen=True)
class Curve:
    """The metric of one finished run."""

    points: dict[int, float]
    """{finished iterations: value}; 0 is before training."""
    training_seconds: float
    also: dict[str, float] = field(default_factory=dict)
    """Last values of the further curves that the run has."""


def read_scalars(folder: Path) -> Scalars:
    """All scalars of a run, as the numbers that were logged."""
    scalars = event_files.read_scalars(folder)
    return {tag: [(step, as_logged(value)) for step, value in points] for tag, points in scalars.items()}


def as_logged(value: float) -> float:
    """The number as it was logged: event files keep 32 bits, so 0.105 is read back as 0.10499999672."""
    return float(str(np.float32(value)))


def metric_points(scalars: Scalars, metric: str) -> dict[int, float]:
    """{finished iterations: value}; what a resumed run wrote again replaces what it had written before.

    A validation that lost all its tasks has the value nan, whether that was written or nothing was.
    The first point of a validation metric is that before training, at step 0. Where steps are optimizer steps it
    shares step 0 with the end of an iteration of one step: the extra point there is the former. At a later step the
    extra point is that of a resumed run's sanity check.
    """
    written = scalars.get(metric, [])
    iteration_of = event_files.iterations(scalars)
    witness = scalars.get(VALIDATION_WITNESS, []) if metric.startswith("val/") else written
    regular = Counter(step for step, _ in witness)
    points = dict.fromkeys((iteration_of.get(step, step) for step in regular), nan) if written else {}
    points |= {iteration_of.get(step, step): value for step, value in written if regular[step]}
    if written and written[0][0] == 0 and Counter(step for step, _ in written)[0] > regular[0]:
        points[0] = written[0][1]
    return dict(sorted(points.items()))


def known(points: dict[int, float]) -> dict[int, float]:
    """The points that are numbers."""
    return {iteration: value for iteration, value in points.items() if not isnan(value)}


def training_seconds(scalars: Scalars) -> float:
    """Wall seconds of all rollouts and updates; an iteration that was done twice counts once."""
    return sum(sum(dict(scalars.get(tag, [])).values()) for tag in TRAINING_SECONDS)
