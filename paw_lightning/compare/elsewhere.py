"""Runs of the same comparison that other machines made, read from their reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paw_lightning.compare.changes import differences, of_training
from paw_lightning.compare.study import Comparison
from paw_lightning.errors import SettingsError

if TYPE_CHECKING:
    from paw_lightning.compare.results import Failure

RunKey = tuple[str, int]
"""Arm and seed."""


@dataclass
class Elsewhere:
    """Runs that are not in the folder of this comparison."""

    runs: dict[RunKey, Any] = field(default_factory=dict)
    """The curve of each finished one."""
    reports: dict[RunKey, Path] = field(default_factory=dict)
    """Which report it was read from."""
    failures: dict[RunKey, Failure] = field(default_factory=dict)
    """Runs that failed there; they can be tried again here."""
    codes: set[str] = field(default_factory=set)
    """The states of the package's code that the runs were made with."""
    changes: list[str] = field(default_factory=list)
    """Settings that are others now than when the runs were made."""


def read_reports(paths: Sequence[Path], comparison: Comparison, seeds: Sequence[int]) -> Elsewhere:
    """Read the runs with these seeds from `report.json` files of this comparison; arms that it lacks are left out.

    Raises:
        SettingsError: a file is no report, or another comparison's, or gives no run, or holds a run that one before it
            holds too.
    """
    found = Elsewhere()
    for path in paths:
        report = _read(path)
        try:
            _take(found, report, path, comparison, seeds)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SettingsError(
                f"--reports: {path} is not as compare writes it ({type(error).__name__}: {error}); wanted a report.json"
            ) from error
    return found


def check_apart(found: Elsewhere, done: Sequence[RunKey], output: Path) -> None:
    """Refuse a run that is finished in this folder and in a report: which of the two counts?"""
    if both := [run for run in done if run in found.runs]:
        raise _twice(str(found.reports[both[0]]), f"--output {output}", both[0])


def _take(found: Elsewhere, report: dict[str, Any], path: Path, comparison: Comparison, seeds: Sequence[int]) -> None:
    """Add what a report has of this comparison."""
    from paw_lightning.compare.results import Failure  # numpy is slow to import

    changes = differences(report["comparison"], comparison.resolved(), whole=False)
    if other := [change for change in changes if not of_training(change)]:
        raise SettingsError(
            f"--reports: {path} is another comparison's ({'; '.join(other)}); wanted reports of the same one"
        )
    before = len(found.runs)
    for arm in comparison.arms:
        for text, curve in report["curves"].get(arm, {}).items():
            if int(text) in seeds:
                _add(found, (arm, int(text)), curve, path)
    if len(found.runs) == before:
        raise SettingsError(f"--reports: {path} has no finished run of these arms and seeds; wanted one that has some")
    for failed in report.get("failures", []):
        if failed["seed"] in seeds and failed["arm"] in comparison.arms:
            found.failures[failed["arm"], failed["seed"]] = Failure(**failed)
    found.codes |= set(report["codes"])
    found.changes += [change for change in [*report.get("changes", []), *changes] if change not in found.changes]


def _add(found: Elsewhere, run: RunKey, curve: dict[str, Any], path: Path) -> None:
    from paw_lightning.compare.curves import Curve

    if run in found.runs:
        raise _twice(str(path), str(found.reports[run]), run)
    points = {int(iteration): float(value) for iteration, value in curve["points"].items()}
    if not any(points) or not all(map(isfinite, points.values())):
        raise ValueError(f"{run[0]}, seed {run[1]} has the points {points}, not finite ones of a trained policy")
    also = {tag: value for tag, value in curve["also"].items() if isfinite(value)}
    found.runs[run], found.reports[run] = Curve(points, float(curve["training_seconds"]), also), path


def _twice(one: str, other: str, run: RunKey) -> SettingsError:
    return SettingsError(f"--reports: {one} and {other} both hold {run[0]}, seed {run[1]}; wanted each run once")


def _read(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"--reports: {path} cannot be read ({error}); wanted a comparison's report.json") from error
    if not isinstance(report, dict) or not {"comparison", "codes", "curves"} <= report.keys():
        raise SettingsError(
            f"--reports: {path} does not say what it compares; wanted a report.json of this version (there, compare "
            "--report-only writes it anew)"
        )
    return report
