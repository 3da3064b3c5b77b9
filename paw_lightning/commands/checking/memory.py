"""Memory, by the arithmetic of ``paw-lightning estimate``."""

from __future__ import annotations

from paw_lightning.commands.checking.findings import Finding, warning
from paw_lightning.commands.run_settings import RunSettings

GIB = 2**30


def show_memory(settings: RunSettings, longest_row: int) -> Finding:
    """Print the largest demands of a run on one device, and whether this machine's has as much."""
    return warning("memory", "not estimated")
