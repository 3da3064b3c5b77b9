"""What a replay needs of its recording, looked at before the first step."""

from __future__ import annotations

import math
from typing import Any

from paw_lightning.rollouts.replay import Replay
from paw_lightning.rollouts.runner import Runner


def check_replay(trainer: Any, runner: Runner) -> None:
    """Refuse a recording that is too short, or was played with other settings."""
    if isinstance(runner, Replay):
        runner.check(*length(trainer))


def check_replay_files(trainer: Any, runner: Runner) -> None:
    """Refuse a recording that lacks files of the iterations to come."""
    if isinstance(runner, Replay):
        last, _ = length(trainer)
        runner.run.check_files(range(trainer.current_epoch + 1, (last or 0) + 1))


def length(trainer: Any) -> tuple[int | None, str]:
    """How many iterations the whole run has, None where it has no end; and the setting that says so."""
    epochs, steps = trainer.max_epochs, trainer.max_steps
    ends = [(epochs, f"trainer.max_epochs {epochs}")] if epochs is not None and epochs >= 0 else []
    if steps >= 0:
        ends.append((math.ceil(steps / trainer.datamodule.cutter.minibatches), f"trainer.max_steps {steps}"))
    return min(ends) if ends else (None, f"trainer.max_epochs {epochs}")
