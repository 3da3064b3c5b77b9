"""The settings that a checkpoint holds, and what a resumed run has otherwise."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

OWN = (
    "trainer.logger",
    "success_report",
    "evaluation_report",
    "rollout_files",
    "rollout_samples",
    "run_cost",
    "graceful_stop",
)
"""Sections that no resumed run is told about: where it writes to and what it prints."""
OWN_KEYS = frozenset(
    {
        "ckpt_path",
        "config",
        "verbose",
        "weights_only",
        *(f"trainer.{name}_{unit}" for name in ("max", "min") for unit in ("epochs", "steps")),
        *(f"trainer.enable_{name}" for name in ("progress_bar", "model_summary", "checkpointing")),
        "trainer.default_root_dir",
        "trainer.log_every_n_steps",
        "trainer.profiler",
    }
)
"""Keys of the same kind, and those that say how far to train."""
LONGEST = 60
ABSENT = "not set"


@dataclass
class RunSettings:
    """A run's settings by key: plain data."""

    known: dict[str, Any]
    """What module, datamodule and optimizer know of themselves."""
    configuration: dict[str, Any] | None
    """All of them; None in a run that was not started from the command line."""

    def say_changes(self, saved: RunSettings) -> None:
        """Warn once of all that this run has otherwise than the one that saved the checkpoint, line by line."""
        before, now = saved.configuration, self.configuration
        if before is None or now is None:
            before, now = saved.known, self.known
        if lines := differences(before, now):
            rank_zero_warn("\n  ".join(["the resumed run has other settings than the one that was stopped:", *lines]))


def flat(settings: Any, key: str = "") -> dict[str, Any]:
    """Nested settings by dotted key; the places in a list of sections are numbers.

    Example: ``{"a": {"class_path": "A", "init_args": {"b": [1, 2]}}}`` is ``{"a": "A", "a.init_args.b": [1, 2]}``.
    """
    own: dict[str, Any] = {}
    parts: Any = {}
    if isinstance(settings, dict):
        parts = settings.items()
    elif isinstance(settings, list) and any(isinstance(item, dict) for item in settings):
        parts = enumerate(settings)
    if isinstance(settings, dict) and "class_path" in settings:  # the value of the key, as on the command line
        own, parts = {key: settings["class_path"]}, [("init_args", settings.get("init_args") or {})]
    elif not parts and key.endswith(".init_args"):
        return {}
    elif not parts:
        return {key: settings}
    return own | {k: v for name, part in parts for k, v in flat(part, f"{key}.{name}" if key else str(name)).items()}


def differences(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """A line ``key: old -> new`` for each key of two runs' flat settings that the second is told about."""
    keys = [key for key in dict.fromkeys([*now, *saved]) if saved.get(key, ABSENT) != now.get(key, ABSENT)]
    return [
        f"{key}: {' -> '.join(_shown(saved.get(key, ABSENT), now.get(key, ABSENT)))}" for key in keys if _trains(key)
    ]


def _trains(key: str) -> bool:
    return key not in OWN_KEYS and not any(key == own or key.startswith(f"{own}.") for own in OWN)


def _shown(*values: Any) -> list[str]:
    """Each value in one short line; of long ones the stretch in which they differ."""
    lines = [
        value.replace("\n", "\\n") if value and isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for value in values
    ]
    equal = next((i for i, column in enumerate(zip(*lines, strict=False)) if len(set(column)) > 1), 0)
    start = max(0, equal - LONGEST // 2) if max(map(len, lines)) > LONGEST else 0
    return [
        ("..." if start else "") + line[start : start + LONGEST] + "..." * (len(line) > start + LONGEST)
        for line in lines
    ]
