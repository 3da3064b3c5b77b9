"""Which files of a run stay: the first, the latest, and as many in between as there is room for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from paw_lightning.rollout_files.reading import number_of, rollout_files


def remove_between(folder: Path, every: int, last: int) -> None:
    """Of the training files keep the first, the latest `last`, and of the others every `every`-th iteration."""
    files = [path for path in rollout_files(folder) if path.name.startswith("train-")]
    for path in files[1:-last]:
        if number_of(path) % every:
            path.unlink(missing_ok=True)


def remove_from(folder: Path, iteration: int) -> list[Path]:
    """Remove the training and validation files of an iteration and of those after it, and return them.

    Example: a run of 20 iterations is resumed from the checkpoint of the 4th. When it has played the 5th anew, the
    files of 5 to 20 belong to a future that will not come.
    """
    files = [path for path in rollout_files(folder) if not path.name.startswith("test-")]
    removed = [path for path in files if number_of(path) >= iteration]
    for path in removed:
        path.unlink(missing_ok=True)
    return removed


def make_room(folder: Path, limit: int, last: int) -> list[Path]:
    """Remove files until the folder holds at most `limit` bytes, and return them.

    The next one to go is always the one whose neighbours are nearest to each other, so that what is left of the middle
    is evenly spread. The first and the latest `last` files of training, and those of validation, stay; where they
    alone are too large, all but the first and the very latest of each go.
    """
    sizes = {path: path.stat().st_size for path in rollout_files(folder)}
    removed: list[Path] = []
    for protected in (last, 1):
        while sum(sizes.values()) > limit and (victim := _densest(list(sizes), protected)) is not None:
            victim.unlink(missing_ok=True)
            removed.append(victim)
            del sizes[victim]
    return removed


def _densest(files: Sequence[Path], last: int) -> Path | None:
    """The unprotected file whose neighbours of its kind are the fewest iterations apart; the earliest of several."""
    kinds: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        kinds[path.name.replace(f"{number_of(path):06d}", "", 1)].append(path)
    gaps = [
        (number_of(after) - number_of(before), path)
        for kind in kinds.values()
        for before, path, after in list(zip(kind, kind[1:], kind[2:], strict=False))[: max(0, len(kind) - 1 - last)]
    ]
    return min(gaps, key=lambda pair: pair[0])[1] if gaps else None
