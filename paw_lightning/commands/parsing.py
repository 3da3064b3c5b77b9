"""The settings of a run, read by the parser that ``fit`` uses, without building anything."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from jsonargparse import Namespace

from paw_lightning import config_files
from paw_lightning.cli import TRAINER_DEFAULTS, PaWCLI
from paw_lightning.training.datamodule import RolloutDataModule
from paw_lightning.training.module import PaWModule


class _Parser(PaWCLI):
    """Stops where ``fit`` would begin to act."""

    def _set_seed(self) -> None:
        """Nothing random follows."""

    def before_instantiate_classes(self) -> None:
        """No run is gone on with."""

    def instantiate_classes(self) -> None:
        """Nothing is built: no tokenizer, no environment, no device."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing runs."""


def parse_settings(words: Sequence[str]) -> Namespace:
    """Every key with its value, defaults included; what ``fit`` would refuse is refused in the same words.

    Args:
        words: `--config NAME` and `--key value` as behind ``paw-lightning fit``.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
        parser: Any = _Parser(
            PaWModule,
            RolloutDataModule,
            args=["fit", *config_files.expand(words), "--ckpt_path=null"],  # a run's own config.yaml may name one
            seed_everything_default=0,
            auto_configure_optimizers=False,
            trainer_defaults=TRAINER_DEFAULTS,
        )
    return parser.config["fit"]
