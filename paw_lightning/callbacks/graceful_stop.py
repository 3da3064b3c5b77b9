"""GracefulStop: Ctrl-C and SIGTERM finish the iteration, save it, and stop."""

from __future__ import annotations

import signal
import threading
import warnings
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from paw_lightning import ranks


class GracefulStop(L.Callback):
    """Turns the first SIGINT or SIGTERM into "stop after this iteration"; a second one stops at once.

    An iteration is the unit that a resumed run repeats exactly, so stopping anywhere else would save a state that no
    unbroken run passes through. What a second signal breaks off is lost up to the last iteration's checkpoint.

    Whoever sends a signal waits seconds, not for a validation, which takes no part in that state: it is left out, its
    point is missing from the curve, and its iteration does not compete for the best checkpoint.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.previous: dict[signal.Signals, Any] = {}
        self.validation_batches: int | float | None = None
        """The trainer's limit, to be given back; None while validation is not held back."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the signals over (only the main thread may)."""
        if threading.current_thread() is threading.main_thread():
            self.previous = {number: signal.signal(number, self._handle) for number in self.SIGNALS}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self._restore()
            raise KeyboardInterrupt(number)
        self.received = signal.Signals(number)
        rank_zero_warn(f"{self.received.name}: stopping after this iteration; once more stops at once")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hold back the validation that would follow the iteration's last batch."""
        # The same on all ranks, so that all ask or none does.
        due = trainer.is_last_batch and trainer.enable_validation and self._validates(trainer)
        if due and self._stopping():
            self.validation_batches, trainer.limit_val_batches = trainer.limit_val_batches, 0
            # The best checkpoint's metric is not there, and for once nobody forgot to log it.
            warnings.filterwarnings("ignore", message=".*could not find the monitored key.*")
            rank_zero_warn(
                f"the validation of iteration {trainer.current_epoch + 1} is left out: its point is missing from the "
                "curve, and it does not compete for best.ckpt; `validate` with last.ckpt makes up for it"
            )

    def _validates(self, trainer: L.Trainer) -> bool:
        every = trainer.check_val_every_n_epoch
        return every is None or (trainer.current_epoch + 1) % every == 0

    def _stopping(self) -> bool:
        """A signal may have reached another rank alone; every rank has to call it."""
        received = [number for number in ranks.gathered(self.received) if number is not None]
        self.received = received[0] if received else None
        return bool(received)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop here; ModelCheckpoint, which always comes last, saves after this hook."""
        if self._stopping():
            trainer.should_stop = True
            # Whoever stops it by hand takes back `trainer.min_epochs` and `min_steps`, which would overrule that.
            trainer.fit_loop.min_epochs, trainer.fit_loop.epoch_loop.min_steps = 0, None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the signals and validation back."""
        self._restore()
        if self.validation_batches is not None:
            trainer.limit_val_batches, self.validation_batches = self.validation_batches, None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}
