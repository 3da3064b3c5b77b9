"""What a callback of this package may do besides Lightning's hooks."""

from __future__ import annotations

from typing import Any

import lightning as L

from paw_lightning.types import Rollout


class RolloutCallback(L.Callback):
    """A callback that is also told of finished rollouts."""

    needs_counterfactuals = False
    """Ask the collector to record, beside each observation, the world's answer to another action."""

    def on_rollout_progress(self, finished: int, total: int, stage: str) -> None:
        """Episodes finished so far; stage is "train", "val" or "test"."""

    def on_rollout_end(self, trainer: L.Trainer, pl_module: L.LightningModule, rollout: Rollout) -> None:
        """A training rollout is complete and has its advantages; write what is yours into it."""


def environment_loop(trainer: L.Trainer) -> Any:
    """The EnvironmentLoop, which plays (untyped: its file is above this one)."""
    return trainer.datamodule.source  # type: ignore[attr-defined]


def rollout_callbacks(trainer: L.Trainer) -> list[RolloutCallback]:
    """The trainer's callbacks that want to know of rollouts, in order."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, RolloutCallback)]
