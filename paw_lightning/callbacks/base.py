"""What a callback of this package may do besides Lightning's hooks: look at rollouts."""

from __future__ import annotations

import lightning as L

from paw_lightning.rollouts.runner import Runner
from paw_lightning.types import Evaluation, Rollout


class RolloutCallback(L.Callback):
    """A callback that is also shown rollouts. It observes: the only field it may write is ``rollout.metrics``."""

    runner: Runner
    """Who plays: its sampler, its settings, its tasks."""

    def connect(self, runner: Runner) -> None:
        """Called once at set-up, before anything is played."""
        self.runner = runner

    def on_rollout_progress(self, finished: int, total: int, stage: str) -> None:
        """Episodes finished so far; stage is "train", "val" or "test"."""

    def on_rollout_end(self, trainer: L.Trainer, pl_module: L.LightningModule, rollout: Rollout) -> None:
        """A training rollout is complete: every field is written, and nothing has been trained on it yet."""

    def on_evaluation_end(self, trainer: L.Trainer, pl_module: L.LightningModule, evaluation: Evaluation) -> None:
        """A validation is complete, or one temperature of a test; its metrics are logged."""
