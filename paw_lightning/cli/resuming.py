"""A resumed run goes on where it was: in the folder, and in the W&B or MLflow run, that its checkpoint belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger

from paw_lightning.training.loggers import keep_curves

RUN_KEYS = {"TensorBoardLogger": "version", "CSVLogger": "version", "WandbLogger": "version", "MLFlowLogger": "run_id"}
"""{logger: the argument that names a run within what it belongs to}."""
HOMES = {"WandbLogger": "project"}
"""{logger: the argument that names the folder between `save_dir` and a run's own}; else `name`."""


def continue_run(config: Any) -> None:
    """Give the loggers of a `fit` configuration with a checkpoint the run that it lies in, where that is theirs."""
    if not config.get("ckpt_path"):
        return
    folder = Path(config.ckpt_path).resolve().parent.parent
    for name, options in _loggers(config):
        if options.get(RUN_KEYS[name]) is None and folder.parent == _home(config, name, options, folder):
            options[RUN_KEYS[name]] = folder.name


def forget_run(config: Any) -> None:
    """Take a run's name away, so that the configuration without its checkpoint gives a run of its own."""
    for name, options in _loggers(config):
        if options.get(RUN_KEYS[name]) is not None:
            options[RUN_KEYS[name]] = None


def keep_files(config: Any, loggers: list[Logger]) -> None:
    """Let the CSV files of a resumed run be continued."""
    if config.get("ckpt_path"):
        for logger in loggers:
            if isinstance(logger, CSVLogger):
                keep_curves(logger)


def _loggers(config: Any) -> Iterator[tuple[str, Any]]:
    """Class name and arguments of the configured loggers whose runs can be continued."""
    given = config.trainer.logger
    for logger in given if isinstance(given, list) else [given]:
        name = str(getattr(logger, "class_path", "")).rpartition(".")[2]
        if name in RUN_KEYS and getattr(logger, "init_args", None) is not None:
            yield name, logger.init_args


def _home(config: Any, name: str, options: Any, folder: Path) -> Path:
    """The folder of all runs that the logger's run belongs to."""
    root = Path(options.get("save_dir") or config.trainer.get("default_root_dir") or ".")
    if name == "MLFlowLogger":  # the folder between is the number of its experiment, which only the store knows
        local = not options.get("tracking_uri") or str(options.tracking_uri).startswith("file:")
        root = root if local else Path(config.trainer.get("default_root_dir") or ".")
        return Path(root, folder.parent.name).resolve()
    between = options.get(HOMES.get(name, "name")) or ("lightning_logs" if name == "WandbLogger" else "")
    return Path(root, between).resolve()
