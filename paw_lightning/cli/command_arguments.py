"""The arguments of a subcommand; a wrong one is refused in one line, like any other setting."""

from __future__ import annotations

import argparse
from typing import NoReturn

from paw_lightning.errors import SettingsError

NO_MATPLOTLIB = "matplotlib is not installed; wanted it for the pictures: pip install 'matplotlib>=3.9'"


class Arguments(argparse.ArgumentParser):
    """An ``argparse`` parser of a command that keeps the layout of its help text.

    Args:
        command: its name behind ``paw-lightning``.
        description: what ``--help`` begins with.
    """

    def __init__(self, command: str, description: str) -> None:
        super().__init__(
            prog=f"paw-lightning {command}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise SettingsError with argparse's sentence."""
        raise SettingsError(f"{message}; wanted what {self.prog} --help shows")
