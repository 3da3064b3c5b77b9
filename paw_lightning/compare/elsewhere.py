"""Runs of the same comparison that other machines made, read from their reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paw_lightning.compare.folder import differences, of_training
from paw_lightning.compare.study import Comparison
from paw_lightning.errors import SettingsError

if TYPE_CHECKING:
    from paw_lightning.compare.curves import Curve


@dataclass
class Elsewhere:
    """Finished runs that are not in the folder of this comparison."""

    runs: dict[tuple[str, int], Curve] = field(default_factory=dict)
    """{(arm, seed): its curve}."""
    reports: dict[tuple[str, int], Path] = field(default_factory=dict)
    """{(arm, seed): the report that it was read from}."""
    codes: set[str] = field(default_factory=set)
    """The states of the package's code that the runs were made with."""
    changes: list[str] = field(default_factory=list)
    """Settings that are others now than when the runs were made."""


def read_reports(paths: Sequence[Path], comparison: Comparison, seeds: Sequence[int]) -> Elsewhere:
    """Read the runs with these seeds from `report.json` files of this comparison; arms that it lacks are left out.

    Raises:
        SettingsError: a file is no report, or another comparison's, or holds a run that one before it holds too.
    """
    found = Elsewhere()
    for path in paths:
        report = _read(path)
        changes = differences(report["comparison"], comparison.resolved(), whole=False)
        if other := [change for change in changes if not of_training(change)]:
            raise SettingsError(
                f"--reports: {path} is another comparison's ({'; '.join(other)}); wanted reports of the same one"
            )
        found.changes += [change for change in changes if change not in found.changes]
        found.codes |= set(report["codes"])
        for arm in comparison.arms:
            for text, curve in report["curves"].get(arm, {}).items():
                if int(text) in seeds:
                    _add(found, (arm, int(text)), curve, path)
    return found


def _add(found: Elsewhere, run: tuple[str, int], curve: dict[str, Any], path: Path) -> None:
    from paw_lightning.compare.curves import Curve  # numpy is slow to import

    if run in found.runs:
        raise SettingsError(
            f"--reports: {path} and {found.reports[run]} both hold {run[0]}, seed {run[1]}; wanted each run once"
        )
    points = {int(iteration): float(value) for iteration, value in curve["points"].items()}
    found.runs[run], found.reports[run] = Curve(points, curve["training_seconds"], curve["also"]), path


def _read(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"--reports: {path} cannot be read ({error}); wanted a comparison's report.json") from error
    if not isinstance(report, dict) or not {"comparison", "codes", "curves"} <= report.keys():
        raise SettingsError(
            f"--reports: {path} does not say what it compares; wanted a report.json of this version (compare "
            "--report-only writes it anew)"
        )
    return report
