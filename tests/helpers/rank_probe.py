"""A callback that writes down, on every rank, what the run was made of."""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import lightning as L

from paw_lightning import ranks
from paw_lightning.callbacks import RolloutCallback
from paw_lightning.errors import SamplerFailedError
from paw_lightning.types import MicroBatch, Rollout
from tests.helpers.copied_sampler import Copied


class RankProbe(RolloutCallback):
    """Appends each iteration's pool and each micro-batch's size to ``rank<r>.jsonl`` in the run's folder."""

    rollout: Rollout | None = None

    def on_rollout_end(self, trainer: L.Trainer, pl_module: L.LightningModule, rollout: Rollout) -> None:
        self.rollout = rollout  # the other callbacks have not all written into it yet

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: MicroBatch, _: int) -> None:
        if self.rollout is not None:
            self._write(
                trainer,
                actions=[t.action_ids for t in self.rollout.transitions],
                selected=[t.selected for t in self.rollout.transitions],
                advantages=[t.advantage for t in self.rollout.transitions],
                coefficients=[group.coefficient for group in self.rollout.groups],
            )
            self.rollout = None
        self._write(trainer, rows=len(batch.input_ids), weight=batch.policy_weights.sum().item())

    def _write(self, trainer: L.Trainer, **record: object) -> None:
        folder = Path(trainer.log_dir or ".")
        with (folder / f"rank{ranks.world()[0]}.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")


class BrokenSampler(L.Callback):
    """The second rank's logits are not finite."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if ranks.world()[0] == 1:
            for parameter in pl_module.parameters():
                parameter.data.fill_(float("nan"))


class BrokenAhead(L.Callback):
    """The second rank's sampler fails beside the update."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        def prepare(self: Copied, prompt: list[int]) -> None:
            if ranks.world()[0] == 1 and threading.current_thread() is not threading.main_thread():
                raise SamplerFailedError("the server is on fire; wanted another (rollout.sampler)")

        Copied.prepare = prepare  # type: ignore[method-assign]


class ShiftedMask(L.Callback):
    """The second rank's action masks cover one token too early."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        original = data.transfer_batch_to_device

        def shift(batch: object, *rest: object) -> object:
            batch = original(batch, *rest)
            if isinstance(batch, MicroBatch) and ranks.world()[0] == 1:
                return replace(batch, action_mask=batch.action_mask.roll(-1, 1))
            return batch

        data.transfer_batch_to_device = shift


class SignalInValidation(RankProbe):
    """The second rank alone gets SIGTERM, when the first validation begins."""

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if ranks.world()[0] == 1 and trainer.current_epoch == 0:
            os.kill(os.getpid(), signal.SIGTERM)


class SignalOnRankOne(RankProbe):
    """The second rank alone gets SIGTERM, in an iteration."""

    def __init__(self, iteration: int = 0) -> None:
        self.iteration = iteration

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: MicroBatch, batch_idx: int
    ) -> None:
        if ranks.world()[0] == 1 and trainer.current_epoch == self.iteration and batch_idx == 0:
            os.kill(os.getpid(), signal.SIGTERM)
