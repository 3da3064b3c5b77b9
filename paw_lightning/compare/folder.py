"""The folder of a comparison: which comparison it belongs to, and the files that its runs read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from paw_lightning import config_files
from paw_lightning.compare.changes import differences, listed, of_training
from paw_lightning.compare.study import Arm, Comparison
from paw_lightning.errors import SettingsError

RECORD = "comparison.json"
REPORT_FILES = ("report.md", "report.json", "report.html", "curves.png")


def check_folder(output: Path, comparison: Comparison) -> None:
    """Refuse another comparison's folder with SettingsError, naming the difference."""
    if (output / RECORD).exists():
        _refuse(output, differences(trained_with(output), comparison.resolved()))
    else:
        check_new(output)


def check_new(output: Path) -> None:
    """Refuse what is no folder, or holds something else than a report."""
    if output.exists() and not output.is_dir():
        raise SettingsError(f"--output is {output}, which is a file; wanted a folder")
    if output.exists() and any(path.name not in (".lock", *REPORT_FILES) for path in output.iterdir()):
        raise SettingsError(
            f"--output is {output}, which holds something else than a comparison; wanted a new or empty folder"
        )


def trained_with(output: Path) -> dict[str, Any]:
    """What the runs in the folder were trained with, as `Comparison.resolved` tells it."""
    record: dict[str, Any] = json.loads((output / RECORD).read_text())
    return record


def check_report(output: Path, comparison: Comparison) -> list[str]:
    """Refuse a folder whose report would be another one; returns how its runs were trained otherwise.

    Runs that were made with an older version of a configuration can still be reported; a new folder has none.
    """
    if not (output / RECORD).exists():
        check_new(output)
        return []
    changes = differences(trained_with(output), comparison.resolved())
    _refuse(output, [change for change in changes if not of_training(change)])
    return changes


def _refuse(output: Path, changes: list[str]) -> None:
    if changes:
        raise SettingsError(
            f"--output is {output}, which another comparison made ({listed(changes)}); "
            "wanted the same comparison, or a folder of its own for this one"
        )


def claim_folder(output: Path, comparison: Comparison) -> None:
    """Record what the folder belongs to, with copies of the arms' configuration files."""
    for name, arm in comparison.arms.items():
        (output / name).mkdir(exist_ok=True)
        for config, copy in zip(arm.files, config_copies(output, name, arm), strict=True):
            copy.write_text(config_files.own_text(config.read_text()))
    (output / RECORD).write_text(json.dumps(comparison.resolved(), indent=1))


def config_copies(output: Path, name: str, arm: Arm) -> list[Path]:
    """The copies of the configuration files that the runs read, so that later edits do not reach them."""
    return [output / name / f"config_{number}.yaml" for number in range(len(arm.files))]
