"""SuccessReport: what a run achieved, where it is, and how to continue it."""

from __future__ import annotations

import math
import shlex
from dataclasses import asdict, dataclass
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from paw_lightning.callbacks.graceful_stop import Stopped
from paw_lightning.rollout_files.reading import FOLDER
from paw_lightning.training.run_folder import program, resume_command, run_folder, shown

METRIC = "val/success_rate"


@dataclass(frozen=True)
class Success:
    """The outcome of one validation."""

    rate: float
    """Nan where every task was lost to its environment."""
    tasks: int
    iteration: int
    """Iterations trained before it."""

    @property
    def standard_error(self) -> float:
        """sqrt(p (1 - p) / n), in percentage points."""
        return 100 * math.sqrt(self.rate * (1 - self.rate) / self.tasks) if self.tasks else math.nan


class SuccessReport(L.Callback):
    """Prints success before and after training, where the run and its curves are, and the commands to continue with.

    "Before" is Lightning's sanity check, which therefore has to see every validation task
    (``trainer.num_sanity_val_steps: -1``).

    Args:
        next_command: printed at the end; null prints none.
    """

    def __init__(self, next_command: str | None = None) -> None:
        self.next_command = next_command
        self.before: Success | None = None
        self.after: Success | None = None
        self.tasks = 0
        self.trained = False

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the tasks anew."""
        self.tasks = 0

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Count the episodes that the success rate is the mean of."""
        self.tasks += len(batch)

    def on_sanity_check_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the value before training, and give the curve its first point."""
        before = self._success(trainer)
        if before is None or self.before is not None:
            return  # a resumed run has its first point
        self.before = before
        if trainer.logger is not None and not math.isnan(before.rate):
            metrics = {METRIC: before.rate, f"{METRIC}_stderr": before.standard_error / 100}
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=trainer.current_epoch)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the latest value."""
        if not trainer.sanity_checking:
            self.after = self._success(trainer, after=1)

    def _success(self, trainer: L.Trainer, after: int = 0) -> Success | None:
        rate = trainer.callback_metrics.get(METRIC)
        return None if rate is None else Success(float(rate), self.tasks, trainer.current_epoch + after)

    def state_dict(self) -> dict[str, Any]:
        """What was validated survives a resume."""
        return {name: value and asdict(value) for name, value in (("before", self.before), ("after", self.after))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the values of the run that is resumed."""
        self.before, self.after = (
            None if state_dict[name] is None else Success(**state_dict[name]) for name in ("before", "after")
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """There was something left to do."""
        self.trained = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the lines."""
        if not self.trained and trainer.ckpt_path:
            rank_zero_warn(nothing_left(trainer))
        rank_zero_info(self._success_line(trainer))
        if self.after is not None and self.after.iteration < trainer.current_epoch:
            rank_zero_info(f"         last validated after iteration {self.after.iteration} of {trainer.current_epoch}")
        folder = run_folder(trainer)  # asks all ranks
        if folder is None:
            rank_zero_info("run:     no folder, as trainer.logger is false or trainer.fast_dev_run is set")
        else:
            rank_zero_info(f"run:     {shown(folder)}")
            rank_zero_info(f"curves:  {curves(trainer)}")
            if (folder / FOLDER).is_dir():
                rank_zero_info(f"view:    {program('paw-lightning')} view {shlex.quote(str(shown(folder)))}")
        replayed = getattr(trainer.datamodule, "replay", None)  # type: ignore[attr-defined]
        if replayed is not None:
            rank_zero_info(f"replay:  of {shown(replayed)}")
        # A replay that is complete has nothing more to read.
        if not (replayed is not None and complete(trainer)) and (command := resume_command(trainer, folder)):
            rank_zero_info(f"{'go on' if complete(trainer) else 'resume'}:".ljust(9) + command)
        if self.next_command:
            name, _, rest = self.next_command.partition(" ")
            command = f"{program(name)} {rest}" if name == "paw-lightning" else self.next_command
            rank_zero_info(f"next:    {command}")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Say how to continue from the last whole iteration."""
        if isinstance(exception, Stopped):
            return  # GracefulStop says it
        # Other ranks may have died: ask them nothing.
        if self.trained and trainer.world_size == 1 and (command := resume_command(trainer, run_folder(trainer))):
            rank_zero_info(f"resume:  {command}")

    def _success_line(self, trainer: L.Trainer) -> str:
        """Success on unseen tasks; without any validation, that of the last training iteration."""
        values = [value for value in (self.before, self.after) if value is not None]
        if not values:
            rate = trainer.callback_metrics.get("rollout/success_rate")
            known = "unknown" if rate is None else f"{float(rate):.1%} in the last iteration"
            return f"success in training: {known} (no validation in this run)"
        when = "" if self.after is not None else " before training, and not validated since"
        rates = " -> ".join("unknown" if math.isnan(value.rate) else f"{value.rate:.1%}" for value in values)
        if any(math.isnan(value.rate) for value in values):
            return f"success on unseen tasks{when}: {rates}; unknown: every validation task was lost to its environment"
        errors = ", ".join(f"{value.standard_error:.1f}" for value in values)
        tasks = ", ".join(dict.fromkeys(str(value.tasks) for value in values))
        return f"success on unseen tasks{when}: {rates} (standard error {errors}; {tasks} tasks)"


def complete(trainer: L.Trainer) -> bool:
    """The run has all the iterations, or optimizer steps, that it was meant to have."""
    epochs, steps = trainer.max_epochs or -1, trainer.max_steps
    return 0 < epochs <= trainer.current_epoch or 0 < steps <= trainer.global_step


def nothing_left(trainer: L.Trainer) -> str:
    """What a resumed run without any iteration left says."""
    epochs = trainer.max_epochs or -1
    if 0 < epochs <= trainer.current_epoch:
        done, key = f"{trainer.current_epoch} of {epochs} iterations", "trainer.max_epochs"
    else:
        done, key = f"{trainer.global_step} of {trainer.max_steps} optimizer steps", "trainer.max_steps"
    return f"nothing left to do: the checkpoint has {done}; raise {key}"


def curves(trainer: L.Trainer) -> str:
    """Where to look at the curves, by kind of logger."""
    logger = trainer.logger
    if isinstance(logger, TensorBoardLogger):
        return f"{program('tensorboard')} --logdir {shown(logger.log_dir)}"
    if isinstance(logger, CSVLogger):
        return str(shown(logger.log_dir) / "metrics.csv")
    return f"{type(logger).__name__}, {getattr(logger, 'name', None)}/{getattr(logger, 'version', None)}"
