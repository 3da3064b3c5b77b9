"""Hides lines of Lightning that say nothing about the run, such as advertisements."""

from __future__ import annotations

import logging
import warnings

CHATTER = (
    "Tip: For seamless cloud",
    "GPU available:",
    "TPU available:",
    "IPU available:",
    "HPU available:",
    "Seed set",
)
"""Parts of the lines that are dropped."""


def quiet() -> None:
    """Drop the lines that match the patterns above; every other line and warning stays."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).addFilter(_says_something)
    warnings.formatwarning = _in_one_line  # type: ignore[assignment]
    for words in (".*treespec, LeafSpec.*", "LightningCLI's args parameter"):
        warnings.filterwarnings("ignore", message=words)


def _in_one_line(message: Warning | str, category: type[Warning], filename: str, *_: object) -> str:
    """A warning as a sentence; of other people's code with the file that it comes from."""
    own = "paw_lightning" in filename or "lightning/pytorch" in filename
    return f"warning: {message}\n" if own else f"{filename}: {category.__name__}: {message}\n"


def _says_something(record: logging.LogRecord) -> bool:
    return not any(words in record.getMessage() for words in CHATTER)
