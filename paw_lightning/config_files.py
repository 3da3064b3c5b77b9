"""Configuration files by name."""

from __future__ import annotations


def expand(args: list[str]) -> list[str]:
    """The arguments with every `--config` resolved."""
    return args
