"""GracefulStop: Ctrl-C and SIGTERM finish and save the iteration where the time allows, and drop it otherwise."""

from __future__ import annotations

import signal
import threading
import time
import warnings
from collections import deque
from contextlib import suppress
from types import FrameType
from typing import Any, Literal

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from paw_lightning import ranks
from paw_lightning.callbacks.stop_watch import POLL, Listener, StopWatch, call_main_thread, end_process, next_order
from paw_lightning.errors import EvaluationCut, SettingsError
from paw_lightning.training.run_folder import last_checkpoint, resume_command, run_folder

RECENT = 5
"""Iterations that the time of the one under way is estimated from."""
Phase = Literal["before", "training", "waiting", "evaluating", "saving", "between", "ending"]
"""`waiting`: the last batch is learnt, and whoever plays ahead is waited for."""


class Stopped(KeyboardInterrupt):
    """A signal, the argument, ends the run without finishing the iteration."""


class GracefulStop(L.Callback):
    """Ends a run within a bounded time after SIGINT or SIGTERM; a second signal ends it at once.

    An iteration is the unit that a resumed run repeats exactly, so a half-finished one is never saved. The one under
    way is finished and saved if the time allows, judged by the iterations before it; otherwise it is dropped at once,
    and `last.ckpt` holds the one before. A validation takes no part in that state: it is left out or broken off, its
    point is missing from the curve, and its iteration does not compete for the best checkpoint.

    Args:
        seconds: that a run may go on after a signal; null finishes the iteration however long it takes. A process that
            does not come back from one long operation within ten more seconds is ended from outside of it.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, seconds: float | None = 60.0) -> None:
        if seconds is not None and not seconds >= 0:
            raise SettingsError(f"graceful_stop.seconds is {seconds}; wanted at least 0, or null to wait for ever")
        self.seconds = seconds
        self.received: signal.Signals | None = None
        self.previous: dict[signal.Signals, Any] = {}
        self.validation_batches: int | float | None = None
        """The trainer's limit, to be given back; None while validation is not held back."""
        self.phase: Phase = "before"
        self.trained, self.saved = deque[float](maxlen=RECENT), deque[float](maxlen=RECENT)
        """Seconds of playing, learning and waiting for who plays, and of saving, of the iterations of this process."""
        self._began = self._ended = 0.0
        self._why = ""
        self._folder: Any = None
        self._watch: StopWatch | None = None
        self._listener: Listener | None = None
        self._order = ""

    # Taking the signals over

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Look who has the signals now, as Lightning takes SIGTERM over before anything runs; begin anew."""
        self.received, self.phase, self._watch, self._listener = None, "before", None, None
        self._order = next_order() if ranks.world()[1] > 1 else ""
        data: Any = getattr(trainer, "datamodule", None)
        if data is not None:
            data.cut = data.cut_asked = False
        self.previous = {number: signal.getsignal(number) for number in self.SIGNALS}

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take them over (only the main thread may): Lightning would let a validation go on to its end."""
        self._take(trainer)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As above."""
        self._take(trainer)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As above."""
        self._take(trainer)
        self._folder = run_folder(trainer)  # asks all ranks, as no handler may

    def _take(self, trainer: L.Trainer) -> None:
        """Handle them here; with several ranks, listen for those of the others as well."""
        self.trainer = trainer
        if ranks.world()[1] > 1 and self._listener is None:
            self._listener = Listener(self._order, self._hear)
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                signal.signal(number, self._handle)

    def _hear(self, word: str) -> None:
        """Another rank was told to stop: this one does the same, from outside where its main thread is blocked."""
        number = signal.Signals(int(word.split()[0]))
        if self.received is None:
            call_main_thread(number)
        if word.endswith("drop"):
            StopWatch(number, None, self._dropped(number, "another rank was told to stop"))

    # What a signal does

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
            self._decide()
        elif self._watch is not None and self._watch.due and self.phase == "saving":
            pass  # nearly done; the watch sees to it
        else:
            late = self._watch is not None and self._watch.due
            self._drop(f"it did not end within graceful_stop.seconds: {self.seconds:g}" if late else "stopped at once")

    def _decide(self) -> None:
        """Finish or drop; with several ranks the first that was told decides for all."""
        left = self._seconds_left()
        fits = self.seconds is None or left is None or left <= self.seconds
        verdict = "finish" if fits and self.phase != "before" else "drop"
        if ranks.world()[1] > 1:
            verdict = ranks.post(self._order, f"{int(self._number)} {verdict}").split()[1]
        if verdict == "drop":
            limit = f"graceful_stop.seconds is {self.seconds:g}" if self.seconds is not None else ""
            self._drop("" if left is None else f"it needs about {left:.0f} s more, {limit}")
        if self.seconds is not None:
            last_words = self._dropped(self._number, "its main thread did not answer")
            self._watch = StopWatch(self._number, self.seconds, last_words)
        if self.phase in ("training", "waiting", "evaluating"):
            wait = "" if left is None else f", about {left:.0f} s more"
            limit = "" if self.seconds is None else f" (graceful_stop.seconds: {self.seconds:g})"
            said = f"{self._number.name}: stopping after this iteration{wait}{limit}; once more stops at once"
            with suppress(RuntimeError):  # the signal came in the middle of a print
                rank_zero_warn(said)
        if self.phase == "evaluating":
            self._cut()

    @property
    def _number(self) -> signal.Signals:
        assert self.received is not None
        return self.received

    def _seconds_left(self) -> float | None:
        """Of the iteration under way, its checkpoint included; None where no iteration was finished to judge by."""
        if self.phase not in ("training", "waiting"):
            return 0.0 if self.phase != "before" else None
        if not self.trained or not self.saved:
            return None
        spent = time.perf_counter() - self._began
        return max(0.0, sum(self.trained) / len(self.trained) - spent) + sum(self.saved) / len(self.saved)

    def _cut(self) -> None:
        """Break the validation off."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        data.cut_asked = True
        if data.evaluating and ranks.world()[1] == 1:  # out of a blocked environment, too; ranks agree on it in turns
            raise EvaluationCut

    def _drop(self, why: str) -> None:
        """Leave the iteration as it is."""
        self._why = why
        if ranks.world()[1] > 1:
            # A rank that left in good order would wait for the others, or make them fail: let them hear of it first.
            time.sleep(2 * POLL)
            if self.trainer.is_global_zero:
                for logger in self.trainer.loggers:
                    with suppress(Exception):
                        logger.save()
            end_process(self._number, self._dropped(self._number, why))
        if self._watch is None:
            self._watch = StopWatch(self._number, None, self._dropped(self._number, why))
        raise Stopped(self._number)

    def _dropped(self, number: signal.Signals, why: str) -> str:
        """What was done and how to go on, in one line."""
        trainer, name = self.trainer, number.name
        if trainer.state.fn != TrainerFn.FITTING:
            return f"{name}: the evaluation is broken off"
        if self.phase == "before":
            return f"{name}: stopped before the first iteration, so nothing is saved"
        checkpoint = last_checkpoint(trainer)
        if self.phase == "ending":
            return f"{name}: the policy was not exported; the trained weights are in {checkpoint}"
        under_way = f"iteration {trainer.current_epoch + 1} is dropped" + (f" ({why})" if why else "")
        if checkpoint is None:
            return f"{name}: {under_way}; no iteration was finished yet, so nothing is saved"
        command = resume_command(trainer, self._folder)
        return f"{name}: {under_way}; {checkpoint} holds what was finished before; go on with: {command}"

    # Where the iteration is

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """An iteration begins, unless a signal came when the one before had just been saved."""
        now = time.perf_counter()
        if self.phase == "saving":
            self.saved.append(now - self._ended)
        self.phase = "between"
        if self._stopping():
            raise Stopped(self._number)
        self.phase, self._began = "training", now

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hold back the validation that would follow the iteration's last batch."""
        if not trainer.is_last_batch:
            return
        self.phase = "waiting"  # EnvironmentLoop may come after this callback, and waits in the same hook
        # The same on all ranks, so that all ask or none does.
        if trainer.enable_validation and self._validates(trainer) and self._stopping():
            self.validation_batches, trainer.limit_val_batches = trainer.limit_val_batches, 0
            # The best checkpoint's metric is not there, and for once nobody forgot to log it.
            warnings.filterwarnings("ignore", message=".*could not find the monitored key.*")
            self._say_no_validation("left out")

    def _trained(self) -> None:
        """The iteration is learnt, and the next rollout is played where that goes on beside it."""
        if self.phase == "waiting":
            self.trained.append(time.perf_counter() - self._began)

    def _say_no_validation(self, how: str) -> None:
        rank_zero_warn(
            f"the validation of iteration {self.trainer.current_epoch + 1} is {how}: its point is missing from the "
            "curve, and it does not compete for best.ckpt; `validate` with last.ckpt makes up for it"
        )

    def _validates(self, trainer: L.Trainer) -> bool:
        every = trainer.check_val_every_n_epoch
        return every is None or (trainer.current_epoch + 1) % every == 0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on a signal breaks the validation off; of `validate`, and before training, it ends the run."""
        self._take(trainer)
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._trained()
            self.phase = "evaluating"
            if self.received is not None:  # since the last batch
                trainer.datamodule.cut_asked = True  # type: ignore[attr-defined]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What is left is to save."""
        if self.phase == "evaluating":
            self.phase = "saving"
            if trainer.datamodule.cut:  # type: ignore[attr-defined]
                self._say_no_validation("broken off")

    def _stopping(self) -> bool:
        """A signal may have reached another rank alone; every rank has to call it."""
        received = [number for number in ranks.gathered(self.received) if number is not None]
        self.received = received[0] if received else None
        return bool(received)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop here; ModelCheckpoint, which always comes last, saves after this hook."""
        self._trained()
        self.phase, self._ended = "saving", time.perf_counter()
        if self._stopping():
            trainer.should_stop = True
            # Whoever stops it by hand takes back `trainer.min_epochs` and `min_steps`, which would overrule that.
            trainer.fit_loop.min_epochs, trainer.fit_loop.epoch_loop.min_steps = 0, None

    # The end

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give validation back; what is left is the exported policy."""
        self.phase = "ending"
        if self.received is not None:
            rank_zero_info(self._finished())
        if self.validation_batches is not None:
            trainer.limit_val_batches, self.validation_batches = self.validation_batches, None

    def _finished(self) -> str:
        saved, command = last_checkpoint(self.trainer), resume_command(self.trainer, self._folder)
        where = f", which is in {saved}; go on with: {command}" if saved else ""
        return f"{self._number.name}: stopped after iteration {self.trainer.current_epoch}{where}"

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the signals back."""
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Say what was dropped, and give the signals back."""
        if isinstance(exception, Stopped):
            rank_zero_info(self._finished() if self.phase == "between" else self._dropped(self._number, self._why))
        self._restore()

    def _restore(self) -> None:
        for thread in (self._watch, self._listener):
            if thread is not None:
                thread.cancelled.set()
        for number, handler in self.previous.items():
            if threading.current_thread() is threading.main_thread() and handler is not None:
                signal.signal(number, handler)
        self.previous = {}
