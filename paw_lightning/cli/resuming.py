"""A resumed run goes on where it was: in the folder, and in the W&B or MLflow run, that its checkpoint belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from paw_lightning.rollout_files.reading import FOLDER
from paw_lightning.training.loggers import keep_curves

RUN_KEYS = {"TensorBoardLogger": "version", "CSVLogger": "version", "WandbLogger": "version", "MLFlowLogger": "run_id"}
"""{logger: the argument that names a run within what it belongs to}."""
FOLDERS = ("TensorBoardLogger", "CSVLogger")
"""Loggers whose runs are folders and nothing else."""
HOMES = {"WandbLogger": "project"}
"""{logger: the argument that names the folder between `save_dir` and a run's own}; else `name`."""


def continue_run(config: Any) -> None:
    """Give the loggers of a `fit` configuration with a checkpoint the run that it lies in, where that is theirs."""
    if not config.get("ckpt_path"):
        return
    folder = Path(config.ckpt_path).resolve().parent.parent
    if _is_replayed(config, folder):
        return  # what is replayed stays as it is
    for name, options in _loggers(config):
        if options.get(RUN_KEYS[name]) is not None:
            continue
        home = _home(config, name, options, folder)
        if folder.parent != home and _moved(name, options, folder, home):
            options["save_dir"], home = str(folder.parent.parent), folder.parent
        if folder.parent == home:
            options[RUN_KEYS[name]] = folder.name
        elif name in FOLDERS and _is_run(folder):
            rank_zero_warn(
                f"ckpt_path lies in {folder} and trainer.logger writes into {home}: the run goes on in a new folder "
                "there"
            )


def _is_replayed(config: Any, folder: Path) -> bool:
    """Whether the run of the checkpoint is the one whose rollouts are trained on again."""
    replay = config.get("data", {}).get("replay")
    return replay is not None and Path(replay).expanduser().resolve() in (folder, folder / FOLDER)


def _moved(name: str, options: Any, folder: Path, home: Path) -> bool:
    """Whether a run's folder is where its relative `save_dir` was, seen from where the run was started."""
    given = Path(options.get("save_dir") or ".")
    return name in FOLDERS and not given.is_absolute() and folder.parent.name == home.name and _is_run(folder)


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").exists()


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
