"""What a replay needs of its recording, looked at before the first step."""

from __future__ import annotations

import math

import lightning as L

from paw_lightning.rollouts.replay import Replay
from paw_lightning.rollouts.runner import Runner


def check_replay(trainer: L.Trainer, runner: Runner) -> None:
    """Refuse a recording that is too short, or was played with other settings."""
    if isinstance(runner, Replay):
        runner.check(iterations(trainer))


def check_replay_files(trainer: L.Trainer, runner: Runner) -> None:
    """Refuse a recording that lacks files of the iterations to come."""
    if isinstance(runner, Replay):
        runner.run.check_files(range(trainer.current_epoch + 1, (iterations(trainer) or 0) + 1))


def iterations(trainer: L.Trainer) -> int | None:
    """How many iterations the whole run has; None where it has no end."""
    epochs = trainer.max_epochs if trainer.max_epochs is not None else -1
    steps = math.ceil(trainer.max_steps / minibatches(trainer)) if trainer.max_steps >= 0 else -1
    return min((count for count in (epochs, steps) if count >= 0), default=None)


def minibatches(trainer: L.Trainer) -> int:
    """Optimizer steps of an iteration."""
    return trainer.datamodule.cutter.minibatches  # type: ignore[attr-defined,no-any-return]
