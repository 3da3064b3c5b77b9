"""The curves that a run wrote into its folder, read back: TensorBoard's event files, and CSVLogger's `metrics.csv`."""

from __future__ import annotations

import csv
from pathlib import Path

Scalars = dict[str, list[tuple[int, float]]]
"""{tag: [(step, value)]}, in the order in which they were written."""

METRICS = "metrics.csv"
"""CSVLogger's file; a run whose loggers leave no curves in its folder writes one of its own."""


def read_scalars(folder: Path) -> Scalars:
    """All scalars of a run; event files keep 32 bits of a value.

    A run that had another logger when it was resumed has both kinds of file: what the CSV file holds comes last.
    """
    scalars = _read_events(folder) if any(folder.glob("events.out.tfevents.*")) else {}
    for tag, points in _read_csv(folder / METRICS).items():
        scalars.setdefault(tag, []).extend(points)
    return scalars


def iterations(scalars: Scalars) -> dict[int, int]:
    """{step: finished iterations} where they differ: steps are iterations.

    Earlier versions of this package counted optimizer steps, and said by `epoch` which iteration each belonged to.
    """
    return {step: round(epoch) + 1 for step, epoch in scalars.get("epoch", [])}


def _read_events(folder: Path) -> Scalars:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # slow to import

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def _read_csv(file: Path) -> Scalars:
    """A row for each time that something was logged; a cell is empty where its tag was not."""
    scalars: Scalars = {}
    if file.exists():
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines):
                step = int(row.pop("step"))
                for tag, value in row.items():
                    if value:
                        scalars.setdefault(tag, []).append((step, float(value)))
    return scalars
