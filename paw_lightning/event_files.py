"""The curves that a run wrote into its folder, read back: TensorBoard's event files, and CSVLogger's `metrics.csv`."""

from __future__ import annotations

import csv
from pathlib import Path

Scalars = dict[str, list[tuple[int, float]]]
"""{tag: [(step, value)]}, in the order in which they were written."""

EVENTS = "events.out.tfevents.*"
"""The names of TensorBoard's files."""
METRICS = "metrics.csv"
"""CSVLogger's file; a run whose loggers leave no curves in its folder writes one of its own."""


def read_scalars(folder: Path) -> Scalars:
    """All scalars of a run; event files keep 32 bits of a value.

    A run that had another logger when it was resumed has both kinds of file: what the CSV file holds comes last.
    Rows of the CSV file that cannot be read are left out.
    """
    scalars = _read_events(folder) if any(folder.glob(EVENTS)) else {}
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
    for row in csv.DictReader(whole_lines(file)):
        try:
            step = int(row.pop("step"))
            points = {tag: float(value) for tag, value in row.items() if value}
        except (KeyError, ValueError):
            continue
        for tag, value in points.items():
            scalars.setdefault(tag, []).append((step, value))
    return scalars


def whole_lines(file: Path) -> list[str]:
    """The head of a CSV file and its rows, but for those that a full disk or a kill left half; [] if there is no file.

    Half a row ends the file, or what was logged next stands on the same line, which then has too many cells.
    """
    try:
        with file.open(newline="", encoding="utf-8", errors="replace") as text:
            lines = [line for line in text if line.endswith("\n")]
    except FileNotFoundError:
        return []
    cells = [len(next(csv.reader([line]))) for line in lines]  # each by itself: half a row may lack a quotation mark
    return [line for line, count in zip(lines, cells, strict=True) if count == cells[0]]
