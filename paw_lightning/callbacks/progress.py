"""IterationProgressBar: a line that moves through rollout and update, and one that stays for every iteration."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn

from paw_lightning.callbacks.base import RolloutCallback
from paw_lightning.callbacks.status_line import StatusLine
from paw_lightning.types import Rollout

ROLLOUT_SHARE = 0.5
"""Part of an iteration's bar that the rollout fills; the update fills the rest."""
LEGEND = "val, train: success; KL: since playing; H: entropy in nats; wm: its loss"
COLUMNS = {
    # name on the screen: (curve, characters, decimals, how expendable)
    "train": ("rollout/success_rate", 4, 2, 1),
    "return": ("rollout/return", 5, 2, 4),
    "KL": ("train/approx_kl", 4, 3, 2),
    "H": ("train/entropy", 4, 2, 3),
    "wm": ("train/wm_loss", 4, 3, 2),
}
"""What is said of an iteration, `val` apart, which is blank where nobody validated."""


class IterationProgressBar(ProgressBar, RolloutCallback):
    """Prints one line per iteration; on a terminal, a line below shows phase, success rate and time left."""

    def __init__(self) -> None:
        super().__init__()
        self.enabled = True
        self.line: StatusLine | None = None
        self.success: dict[str, float] = {}
        self.validated: float | None = None
        """Success on unseen tasks in the iteration under way."""
        self.iteration: int | None = None
        """The one under way, counted from 0."""

    def disable(self) -> None:
        """Called by Lightning on every rank but the first."""
        self.enabled = False

    def enable(self) -> None:
        """Called by Lightning on the first rank."""
        self.enabled = True

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Open the line; a log file gets none, it would fill with copies."""
        super().setup(trainer, pl_module, stage)
        self.start, self.iteration = time.monotonic(), None
        self.done = self.done_at_start = 0.0
        if self.enabled and self.line is None and sys.stderr.isatty():
            self.line = StatusLine(sys.stderr)
            self.line.open()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting where a resumed run starts, and say what the columns are."""
        self.start = time.monotonic()
        self.done = self.done_at_start = float(trainer.current_epoch)
        self.print(LEGEND)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The iteration before has all its curves only now."""
        self._report()
        self.iteration, self.validated, self.iteration_start = trainer.current_epoch, None, time.monotonic()

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
            self.validated = self.success["val"] = float(value)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the last iteration."""
        self._report()
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the terminal as it was."""
        self._close()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the terminal as it was."""
        self._close()

    def _close(self) -> None:
        if self.line is not None:
            self.line.close()
            self.line = None

    @property
    def fitting(self) -> bool:
        """The bar counts iterations; otherwise it counts evaluation episodes."""
        return self.trainer.state.fn == TrainerFn.FITTING

    def _name(self, iteration: int) -> str:
        epochs = self.trainer.max_epochs or -1
        count = f"{iteration + 1}/{epochs}" if epochs > 0 else str(iteration + 1)
        return "it " + count.rjust(2 * len(str(epochs)) + 1 if epochs > 0 else 1)

    def _report(self) -> None:
        """Print the line of the iteration that is over."""
        if self.iteration is None or not self.enabled:
            return
        metrics = self.trainer.callback_metrics
        values = {name: metrics.get(curve) for name, (curve, *_) in COLUMNS.items()}
        parts = [(0, self._name(self.iteration)), (0, column("val", self.validated, 4, 2))]
        parts += [(spare, column(name, values[name], size, n)) for name, (_, size, n, spare) in COLUMNS.items()]
        parts.append((1, f"{number(time.monotonic() - self.iteration_start, 1)} s".rjust(6)))
        self.iteration = None
        self.print(squeezed(parts, self.line.width if self.line else sys.maxsize))

    def _show(self, phase: str, within: float | None) -> None:
        """Draw the current iteration plus a fraction of it (None: only the phase)."""
        if self.line is None:
            return
        trainer = self.trainer
        total = (trainer.max_epochs or -1) if self.fitting else 1
        if within is not None:
            self.done = min((trainer.current_epoch if self.fitting else 0) + within, abs(total))
        name = self._name(trainer.current_epoch) if self.fitting else str(trainer.state.fn)
        parts = [(0, name), (2, phase)]
        parts += [(1, f"{name} {number(value)}") for name, value in self.success.items()]
        parts.append((3, self._times(total)))
        text = squeezed(parts, self.line.width)
        room = min(self.line.width - len(text) - len(" []"), 22)
        if total > 0 and room >= 6:
            full = int(room * self.done / total)
            text = f"[{'#' * full}{'.' * (room - full)}] {text}"
        self.line.show(text)

    def _times(self, total: int) -> str:
        """Time gone by, and time left where enough is done to tell."""
        elapsed, done = time.monotonic() - self.start, self.done - self.done_at_start
        if total <= 0 or done < ROLLOUT_SHARE / 2:
            return clock(elapsed)
        return f"{clock(elapsed)} left {clock(elapsed * (total - self.done) / done)}"

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print a line that stays."""
        if self.enabled:
            print(*args, file=sys.stderr, flush=True)


def number(value: Any, decimals: int = 2) -> str:
    """Few characters: no zero before the point, at most as many decimals as leave about three digits."""
    value = float(value)
    if not math.isfinite(value):
        return str(value)
    digits = len(str(int(abs(value))))
    text = f"{value:.{max(min(decimals, 3 - digits + (abs(value) < 1)), 0)}f}"
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 and "." in text else text


def column(name: str, value: Any, characters: int, decimals: int) -> str:
    """A name and its value, or as many blanks."""
    if value is None:
        return " " * (len(name) + 1 + characters)
    return f"{name} {number(value, decimals).rjust(characters)}"


def squeezed(parts: list[tuple[int, str]], width: int) -> str:
    """Join parts of a line, given as (how expendable, text), without those that do not fit, the most expendable first.

    Parts of expendability 0 stay, cut off if need be.
    """
    while len("  ".join(text for _, text in parts)) > width and any(spare for spare, _ in parts):
        worst = max(range(len(parts)), key=lambda i: (parts[i][0], i))
        parts = parts[:worst] + parts[worst + 1 :]
    return "  ".join(text for _, text in parts)[:width]


def clock(seconds: float) -> str:
    """As `m:ss`, or `h:mm:ss`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
