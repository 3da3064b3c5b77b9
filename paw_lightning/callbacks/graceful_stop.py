"""GracefulStop: Ctrl-C and SIGTERM finish the iteration, save it, and stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from paw_lightning import ranks


class GracefulStop(L.Callback):
    """Turns the first SIGINT or SIGTERM into "stop after this iteration"; a second one stops at once.

    An iteration is the unit that a resumed run repeats exactly, so stopping anywhere else would save a state that no
    unbroken run passes through. What a second signal breaks off is lost up to the last iteration's checkpoint.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.previous: dict[signal.Signals, Any] = {}

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

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop here; ModelCheckpoint, which always comes last, saves after this hook."""
        received = [number for number in ranks.gathered(self.received) if number is not None]
        if received:
            self.received = received[0]  # it may have reached another rank alone
            trainer.should_stop = True
            # Whoever stops it by hand takes back `trainer.min_epochs` and `min_steps`, which would overrule that.
            trainer.fit_loop.min_epochs, trainer.fit_loop.epoch_loop.min_steps = 0, None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the signals back."""
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}
