"""Keeps the terminal for what concerns the run: advertisement and lists of absent devices are left out."""

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
"""What lines of Lightning's that tell a user nothing have in them."""


def quiet() -> None:
    """Drop the chatter of Lightning's loggers and its own use of torch; every other line and warning stays."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).addFilter(_says_something)
    for words in (".*treespec, LeafSpec.*", "LightningCLI's args parameter"):
        warnings.filterwarnings("ignore", message=words)


def _says_something(record: logging.LogRecord) -> bool:
    return not any(words in record.getMessage() for words in CHATTER)
