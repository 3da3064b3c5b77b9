"""The command line: ``paw-lightning fit|validate|test|... --config NAME``.

Only the door is imported at once; what trains comes with the first name that is asked for here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paw_lightning.cli.checkpoints import check_checkpoint
from paw_lightning.cli.door import main

if TYPE_CHECKING:
    from paw_lightning.cli.training import CHECKPOINT_DEFAULTS, SECTIONS, TRAINER_DEFAULTS, PaWCLI, run

__all__ = ["CHECKPOINT_DEFAULTS", "SECTIONS", "TRAINER_DEFAULTS", "PaWCLI", "check_checkpoint", "main", "run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from paw_lightning.cli import training

    return getattr(training, name)
