"""A callback that writes down, on every rank, what the run was made of."""

from __future__ import annotations

import json
from pathlib import Path

import lightning as L

from paw_lightning import ranks
from paw_lightning.callbacks import RolloutCallback
from paw_lightning.types import Minibatch, Rollout


class RankProbe(RolloutCallback):
    """Appends each iteration's pool and each micro-batch's size to ``rank<r>.jsonl`` in the run's folder."""

    def on_rollout_end(self, trainer: L.Trainer, pl_module: L.LightningModule, rollout: Rollout) -> None:
        self._write(
            trainer,
            actions=[t.action_ids for t in rollout.transitions],
            selected=[t.wm_selected for t in rollout.transitions],
            advantages=[t.advantage for t in rollout.transitions],
            coefficients=[group.wm_coefficient for group in rollout.groups],
        )

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Minibatch, _: int) -> None:
        self._write(trainer, rows=len(batch.input_ids), weight=batch.policy_weights.sum().item())

    def _write(self, trainer: L.Trainer, **record: object) -> None:
        folder = Path(trainer.log_dir or ".")
        with (folder / f"rank{ranks.world()[0]}.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
