"""RolloutFiles: what was played, scored, chosen and learnt, as a file for each iteration, validation and test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from paw_lightning.callbacks.base import RolloutCallback
from paw_lightning.callbacks.environment_loop import EnvironmentLoop
from paw_lightning.callbacks.recorded_header import RecordedHeader
from paw_lightning.callbacks.target_readings import Reading, TargetReadings, write_readings
from paw_lightning.errors import NotWrittenError, SettingsError
from paw_lightning.rollout_files import Header, RecordedEpisode, RolloutFile, keeping, write
from paw_lightning.rollout_files.reading import ENDING, FOLDER, number_of
from paw_lightning.rollouts.recording import record
from paw_lightning.rollouts.replay import Replay
from paw_lightning.training.module import PaWModule
from paw_lightning.training.run_folder import run_folder, shown
from paw_lightning.types import Evaluation, MicroBatch, Rollout
from paw_lightning.whole_files import clear_parts


class RolloutFiles(RolloutCallback):
    """Writes every rollout, whole, into the folder `rollouts` of the run (config key ``rollout_files``).

    An iteration's file is written after its last micro-batch and before any checkpoint of it, so that a finished
    iteration has its file; an update that fails has one, too. A run that went back to an earlier checkpoint removes the
    files of what it plays anew, when the first such iteration is finished. Where a file cannot be written, a warning
    says so and training goes on. docs/rollout_files.md describes the files, docs/replay.md what they are good for.

    Args:
        enabled: false writes nothing.
        max_megabytes: of all files together. When they are more, files in the middle of the run go, evenly spread: the
            first one and the latest stay.
        keep_every: of training keep every so many-th iteration, beside the first and the latest; 1 keeps all.
        keep_last: how many of the latest files neither rule removes; at least 1.
    """

    def __init__(
        self, enabled: bool = True, max_megabytes: float = 1000.0, keep_every: int = 1, keep_last: int = 10
    ) -> None:
        if not max_megabytes > 0:
            raise SettingsError(f"rollout_files.max_megabytes is {max_megabytes}; wanted above 0 (enabled: false)")
        for name, value in (("keep_every", keep_every), ("keep_last", keep_last)):
            if value < 1:
                raise SettingsError(f"rollout_files.{name} is {value}; wanted at least 1")
        self.enabled, self.max_megabytes = enabled, max_megabytes
        self.keep_every, self.keep_last = keep_every, keep_last
        self.folder: Path | None = None
        self._headers: RecordedHeader | None = None
        self._rollout: Rollout | None = None
        self._readings = TargetReadings()
        self._trained = 0
        """Iterations behind the checkpoint that an evaluation plays with."""
        self._warned: set[str] = set()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the folder, and clear it of what was never finished."""
        run = run_folder(trainer) if self.enabled else None  # asks all ranks
        self.folder = None if run is None else run / FOLDER
        self._rollout = None
        self._headers = None
        if self.folder is not None and trainer.is_global_zero:
            clear_parts(self.folder)

    # Training

    def on_rollout_end(self, trainer: L.Trainer, pl_module: L.LightningModule, rollout: Rollout) -> None:
        """Keep what was played until its update is over."""
        if self.folder is not None:
            self._rollout, self._readings = rollout, TargetReadings()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: MicroBatch, batch_idx: int
    ) -> None:
        """Take down what was read of the targets; after the last micro-batch write the file."""
        if self._rollout is None:
            return
        assert isinstance(pl_module, PaWModule)
        if "target_logprobs" in outputs:  # a training step of the user's own may return its loss alone
            self._readings.add(batch, outputs["target_logprobs"], batch_idx // trainer.accumulate_grad_batches)
        if trainer.is_last_batch:
            readings = self._readings.gathered(self._rollout, pl_module.world_model_loss)  # asks all ranks
            self._write_rollout(trainer, pl_module, readings)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write the rollout whose update has failed: a replay can then look at it again."""
        if self._rollout is not None:
            assert isinstance(pl_module, PaWModule)
            readings = self._readings.own(self._rollout, pl_module.world_model_loss)  # other ranks may be gone
            self._write_rollout(trainer, pl_module, readings, f"{type(exception).__name__}: {exception}")

    def _write_rollout(self, trainer: L.Trainer, module: PaWModule, readings: list[Reading], error: str = "") -> None:
        rollout, self._rollout = self._rollout, None
        if rollout is None or not trainer.is_global_zero:
            return
        episodes = record(rollout.groups, rollout.left_out)
        write_readings(readings, episodes)
        header = self._header(trainer, module).of_rollout(rollout, episodes)
        header.error = error
        if not error:  # before that the checkpoint that was left is still the latest
            self._remove_left(header.iteration)
        self._write(f"train-{header.iteration:06d}", header, episodes)

    # Evaluation

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Learn how far the weights of an evaluation were trained."""
        self._trained = checkpoint["epoch"] + 1

    def on_evaluation_end(self, trainer: L.Trainer, pl_module: L.LightningModule, evaluation: Evaluation) -> None:
        """Write what a validation, or a test at one temperature, has played."""
        if self.folder is None or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, PaWModule)
        episodes = record(evaluation.groups)
        header = self._header(trainer, pl_module).of_evaluation(evaluation, self._iterations(trainer), episodes)
        several = len(self.runner.temperatures(evaluation.split)) > 1  # type: ignore[arg-type]
        name = f"{evaluation.split}-{header.iteration:06d}" + f"-t{evaluation.temperature:g}" * several
        self._write(name, header, episodes)

    def _iterations(self, trainer: L.Trainer) -> int:
        """Behind the weights that an evaluation plays with."""
        if trainer.state.fn == TrainerFn.FITTING:
            return 0 if trainer.sanity_checking else trainer.current_epoch + 1
        return self._trained if trainer.ckpt_path else trainer.current_epoch

    # The files

    def _header(self, trainer: L.Trainer, module: PaWModule) -> RecordedHeader:
        if self._headers is None:
            callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
            [advantage] = [type(loop.advantage).__name__ for loop in callbacks if isinstance(loop, EnvironmentLoop)]
            self._headers = RecordedHeader(self.runner, module, advantage)
        return self._headers

    def _remove_left(self, iteration: int) -> None:
        """Remove what the run had played from here on before it was resumed from an earlier checkpoint."""
        assert self.folder is not None
        if isinstance(self.runner, Replay) and self.runner.run.place.resolve() == self.folder.resolve():
            return  # it will read them
        try:
            removed = keeping.remove_from(self.folder, iteration)
        except OSError as error:
            self._warn_once("left", f"{error}: the file is of rollouts that the run has left; remove it yourself")
            return
        later = sum(number_of(path) > iteration for path in removed)
        if later:
            rank_zero_info(
                f"rollouts: {later} files of later iterations are removed: the run went on from iteration "
                f"{iteration - 1}, and plays them anew"
            )

    def _write(self, name: str, header: Header, episodes: list[RecordedEpisode]) -> None:
        """Write a file, and make room for the next."""
        assert self.folder is not None
        try:
            write(self.folder / f"{name}{ENDING}", RolloutFile(header, episodes))
            keeping.remove_between(self.folder, self.keep_every, self.keep_last)
            removed = keeping.make_room(self.folder, int(self.max_megabytes * 1e6), self.keep_last)
        except (NotWrittenError, OSError) as error:
            self._warn_once(
                "written",
                f"{error}: the run goes on without its rollout, and a replay will miss it (rollout_files.enabled: "
                "false writes no files)",
            )
            return
        if removed:
            self._warn_once(
                "removed",
                f"{shown(self.folder)} has reached {self.max_megabytes:g} MB (rollout_files.max_megabytes): from now "
                "on files in the middle of the run are removed, and it cannot be replayed as a whole",
            )

    def _warn_once(self, about: str, message: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            rank_zero_warn(message)
