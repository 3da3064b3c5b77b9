"""The settings of a run, read by the parser that ``fit`` uses, without running anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jsonargparse import Namespace

from paw_lightning import config_files
from paw_lightning.cli.arguments import check_settings, settings_of
from paw_lightning.cli.training import TRAINER_DEFAULTS, PaWCLI
from paw_lightning.training.datamodule import RolloutDataModule
from paw_lightning.training.module import PaWModule


class _Reader(PaWCLI):
    """Stops where ``fit`` would begin to act: no seed, no trainer, no run; nothing is built."""

    def _set_seed(self) -> None:
        """Nothing random follows."""

    def before_instantiate_classes(self) -> None:
        """No run is resumed."""

    def instantiate_classes(self) -> None:
        """No tokenizer, no environment, no device."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing runs."""


def read(words: Sequence[str]) -> PaWCLI:
    """Parse `--config NAME` and `--key value` as behind ``paw-lightning fit``, refusing what fit would refuse."""
    check_settings(settings_of(config_files.expand(words)))
    # A run's own config.yaml may name a checkpoint.
    args = ["fit", *words, "--ckpt_path=null"]
    return _Reader(PaWModule, RolloutDataModule, args=args, trainer_defaults=TRAINER_DEFAULTS)


def parse_settings(words: Sequence[str]) -> Namespace:
    """Every key with its value, defaults included."""
    parser: Any = read(words)
    return parser.config["fit"]
