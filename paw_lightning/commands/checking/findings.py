"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "FAIL"]


@dataclass(frozen=True)
class Finding:
    """One line of the summary; the text of a warning or a failure says what to do."""

    level: Level
    name: str
    text: str


def ok(name: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding("ok", name, text)


def warning(name: str, text: str) -> Finding:
    """A run would continue, and perhaps not do what is wanted."""
    return Finding("warning", name, text)


def failure(name: str, text: str) -> Finding:
    """A run would stop, drop groups or train on something wrong."""
    return Finding("FAIL", name, text)
