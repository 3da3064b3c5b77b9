"""What a run wrote for TensorBoard, read back."""

from __future__ import annotations

from pathlib import Path

Scalars = dict[str, list[tuple[int, float]]]
"""{tag: [(step, value)]}, in the order in which they were written."""


def read_scalars(folder: Path) -> Scalars:
    """All scalars in a run's event files; the values have the 32 bits that the files keep."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # slow to import

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
