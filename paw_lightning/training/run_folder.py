"""Where a run keeps its files, and the commands that continue it."""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

CHECKPOINTS = "checkpoints"
"""Folder of a run's checkpoints, in its own or, without a logger, in `trainer.default_root_dir`."""


def run_folder(trainer: L.Trainer) -> Path | None:
    """The folder that belongs to this run alone, `<save_dir>/<name>/<version>`; None where nothing is logged.

    ``trainer.log_dir`` is that folder for TensorBoard and CSV files only: for other loggers it is the bare `save_dir`,
    where a second run would write over the first one's files. Every rank has to call it.
    """
    logger = trainer.logger
    if logger is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    if isinstance(logger, TensorBoardLogger | CSVLogger):
        folder = str(trainer.log_dir)
    else:  # as ModelCheckpoint does, so that the checkpoints lie in it
        version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
        folder = str(Path(logger.save_dir or trainer.default_root_dir, str(logger.name), version))
    return Path(trainer.strategy.broadcast(folder))


def claim_folders(loggers: Iterable[Any]) -> list[Path]:
    """Give every logger that numbers its runs the next number whose folder could be made, and return these folders.

    Such loggers (TensorBoard, CSV) take the number behind the largest that they see: two that are started at the same
    time see the same one. A folder is made by one process only. Loggers of one place share a number. Only the first
    rank may call it; loggers whose version is given, or comes from a server, keep it.
    """
    made: dict[Path, int] = {}
    for logger in loggers:
        numbered = hasattr(logger, "_get_next_version") and logger._version is None
        if not numbered or "://" in str(logger.root_dir):
            continue
        place = Path(os.path.expandvars(logger.root_dir)).expanduser()
        if place not in made:
            made[place] = next(filter(partial(_makes, place), itertools.count(logger._get_next_version())))
        logger._version = made[place]
    return [place / f"version_{number}" for place, number in made.items()]


def _makes(place: Path, number: int) -> bool:
    """Whether this process is the one that makes the folder of a number."""
    try:
        (place / f"version_{number}").mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def last_checkpoint(trainer: L.Trainer) -> Path | None:
    """The checkpoint of the last whole iteration, else the one the run began with; None where there is neither."""
    callbacks = trainer.checkpoint_callbacks
    saved = [c.best_model_path for c in callbacks if isinstance(c, ModelCheckpoint) and c.monitor is None]
    paths = [path for path in [*saved, trainer.ckpt_path] if path and Path(path).exists()]
    return shown(paths[0]) if paths else None


def resume_command(trainer: L.Trainer, folder: Path | None) -> str | None:
    """What to type to train on, for longer where the run is complete; None where no checkpoint was saved."""
    checkpoint = last_checkpoint(trainer)
    if checkpoint is None:
        return None
    config = (folder or Path(trainer.default_root_dir, CHECKPOINTS)) / "config.yaml"
    if not config.exists():  # a script of the user's own
        return f'trainer.fit(module, datamodule, ckpt_path="{checkpoint}")'
    words = ["fit", "--config", str(shown(config)), "--ckpt_path", str(checkpoint), *longer(trainer)]
    return f"{program('paw-lightning')} {shlex.join(words)}"


def longer(trainer: L.Trainer) -> list[str]:
    """The option that trains a complete run for as long again; none where iterations are left."""
    epochs, steps = trainer.max_epochs or -1, trainer.max_steps
    if 0 < epochs <= trainer.current_epoch:
        return ["--trainer.max_epochs", str(2 * epochs)]
    return ["--trainer.max_steps", str(2 * steps)] if 0 < steps <= trainer.global_step else []


def program(name: str) -> str:
    """How a command of this Python's own environment is typed here: bare where the shell would find that very one."""
    own = Path(sys.executable).parent / name
    found = shutil.which(name)
    if (found and Path(found) == own) or not own.exists():
        return name if found or name != "paw-lightning" else f"{shlex.quote(sys.executable)} -m paw_lightning"
    return shlex.quote(str(shown(own)))


def shown(path: str | Path) -> Path:
    """A path as short as it can be typed in the current folder."""
    try:
        return Path(path).absolute().relative_to(Path.cwd())
    except ValueError:
        return Path(path)
