"""The text of ``paw-lightning --help``, and the error for an unknown subcommand."""

from __future__ import annotations

import difflib

from paw_lightning.cli.sections import COMMANDS, TRAINING
from paw_lightning.errors import SettingsError

HABITS = {
    "train": "fit",
    "run": "fit",
    "eval": "validate",
    "evaluate": "validate",
    "val": "validate",
    "config": "configs",
}
"""Other names for what a subcommand does."""


def overview() -> str:
    """All subcommands, one a line, and how to begin."""
    rows = {**TRAINING, **{name: text for name, (_, text) in COMMANDS.items()}}
    width = max(map(len, rows))
    return "\n".join(
        [
            "usage: paw-lightning COMMAND ...",
            "",
            "Policy and world-model co-training of language agents.",
            "",
            *(f"  {name:{width}}  {text}" for name, text in rows.items()),
            "",
            "  paw-lightning fit --config household/paw       train a small policy on a CPU",
            "  paw-lightning fit --help                       every key of a configuration",
            "  paw-lightning COMMAND --help                   what a command takes",
            "  paw-lightning --version",
        ]
    )


def refuse_command(name: str) -> SettingsError:
    """The error for a subcommand that does not exist, with the one that was most likely meant."""
    if name == "predict":
        return SettingsError(
            "command is 'predict', which does not exist; wanted play, which shows how the policy acts, or test, which "
            "measures it"
        )
    names = [*TRAINING, *COMMANDS]
    near = [HABITS[name]] if name in HABITS else difflib.get_close_matches(name, names, n=1)
    meant = f"did you mean {near[0]}?" if near else f"wanted one of {', '.join(names)}"
    return SettingsError(f"command is {name!r}, which does not exist; {meant}")
