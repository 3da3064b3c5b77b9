"""IterationProgressBar: one bar over the whole run, moving through rollout and update."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from tqdm import tqdm

from paw_lightning.callbacks.base import RolloutCallback
from paw_lightning.types import Rollout

ROLLOUT_SHARE = 0.5
"""Part of an iteration's bar that the rollout fills; the update fills the rest."""


LOG_INTERVAL = 10.0
"""Seconds between two lines where the bar is not on a terminal."""


class IterationProgressBar(ProgressBar, RolloutCallback):
    """Shows iteration, phase, success rate and time left on one line of the terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True
        self.bar: tqdm | None = None
        self.success: dict[str, float] = {}
        self.drawn = float("-inf")

    def disable(self) -> None:
        """Called by Lightning on every rank but the first."""
        self.enabled = False

    def enable(self) -> None:
        """Called by Lightning on the first rank."""
        self.enabled = True

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Open the bar."""
        super().setup(trainer, pl_module, stage)
        if self.enabled and self.bar is None:
            iterations = trainer.max_epochs if stage == "fit" and trainer.max_epochs else 1
            layout = "{desc}: {percentage:3.0f}%|{bar:20}| {elapsed}<{remaining}{postfix}"
            self.bar = tqdm(
                total=float(iterations),
                desc=str(TrainerFn(stage).value),
                bar_format=layout,
                file=sys.stderr,
                leave=True,
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting where a resumed run starts."""
        if self.bar:
            self.bar.initial = trainer.current_epoch
            self.bar.reset(total=float(max(trainer.max_epochs or 1, 1)))

    def on_rollout_progress(self, finished: int, total: int, stage: str) -> None:
        """Move through the rollout; an evaluation shows its count without moving a training bar."""
        share = finished / total
        if stage == "train":
            self._show(f"rollout {finished}/{total}", ROLLOUT_SHARE * share)
        else:
            self._show(f"{stage} {finished}/{total}", None if self.fitting else share)

    def on_rollout_end(self, trainer: L.Trainer, pl_module: L.LightningModule, rollout: Rollout) -> None:
        """Take the success rate of the iteration."""
        self.success["train"] = sum(e.won for e in rollout.episodes) / len(rollout.episodes)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move through the update."""
        done = (batch_idx + 1) / max(int(trainer.num_training_batches), 1)
        self._show(f"update {done:.0%}", ROLLOUT_SHARE + (1 - ROLLOUT_SHARE) * done)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the success rate on unseen tasks."""
        value = trainer.callback_metrics.get("val/success_rate")
        if value is not None:
            self.success["val"] = float(value)
            self._show("validated", None)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    @property
    def fitting(self) -> bool:
        """The bar counts iterations; otherwise it counts evaluation episodes."""
        return self.trainer.state.fn == TrainerFn.FITTING

    def _show(self, phase: str, within: float | None) -> None:
        """Set the bar to the current iteration plus a fraction of it (None: leave it) and describe the phase."""
        if self.bar is None:
            return
        trainer = self.trainer
        iteration = trainer.current_epoch
        if self.fitting:
            phase = f"iteration {iteration + 1}/{trainer.max_epochs} {phase}"
        successes = [f"success {value:.2f} ({name})" for name, value in self.success.items()]
        self.bar.set_postfix_str(", ".join([phase, *successes]), refresh=False)
        if within is not None:
            self.bar.n = min((iteration if self.fitting else 0) + within, self.bar.total)
        # A terminal is redrawn at every turn; a log file would fill with lines.
        if sys.stderr.isatty() or time.monotonic() - self.drawn > LOG_INTERVAL:
            self.drawn = time.monotonic()
            self.bar.refresh()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print a line without tearing the bar."""
        tqdm.write(" ".join(map(str, args)), file=sys.stderr)
