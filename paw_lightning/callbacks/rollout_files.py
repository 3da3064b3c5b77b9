"""RolloutFiles: what was played, scored, chosen and learnt, as a file for each iteration, validation and test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from paw_lightning import __version__
from paw_lightning.callbacks.base import RolloutCallback
from paw_lightning.callbacks.rollout_curves import rollout_metrics
from paw_lightning.callbacks.target_readings import TargetReadings
from paw_lightning.models.fingerprint import fingerprint
from paw_lightning.rollout_files import Header, RecordedEpisode, RolloutFile, write
from paw_lightning.rollout_files.reading import FOLDER
from paw_lightning.rollouts.recording import record
from paw_lightning.training.module import PaWModule
from paw_lightning.training.run_folder import run_folder
from paw_lightning.types import Evaluation, MicroBatch, Rollout


class RolloutFiles(RolloutCallback):
    """Writes every rollout into the run's folder `rollouts`, whole; docs/rollout_files.md describes the files.

    Args:
        enabled: false writes nothing.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self.texts: dict[int, str] = {}
        self._rollout: Rollout | None = None
        self._readings = TargetReadings()
        self._weights = ""

    def on_rollout_end(self, trainer: L.Trainer, pl_module: L.LightningModule, rollout: Rollout) -> None:
        """Keep what was played until its update is over."""
        assert isinstance(pl_module, PaWModule)
        self._rollout, self._readings = rollout, TargetReadings()
        self._weights = fingerprint(pl_module.played_model.language_model.parameters())

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: MicroBatch,
        batch_idx: int,
    ) -> None:
        """Take down what was read of the targets; after the last micro-batch write the file, before any checkpoint."""
        if self._rollout is None or not self.enabled:
            return
        assert isinstance(pl_module, PaWModule)
        self._readings.add(batch, outputs["target_logprobs"], batch_idx // trainer.accumulate_grad_batches)
        if trainer.is_last_batch:
            self._write_rollout(trainer, pl_module)

    def _write_rollout(self, trainer: L.Trainer, module: PaWModule) -> None:
        rollout, self._rollout = self._rollout, None
        assert rollout is not None
        episodes = record(rollout.groups, rollout.left_out)
        self._readings.write(rollout, episodes, module.world_model_loss)
        header = Header(
            split="train",
            iteration=rollout.iteration + 1,
            temperature=rollout.temperature,
            demonstrated=rollout.demonstrated,
            foreign_logprobs=rollout.foreign_logprobs,
            dropped_groups=rollout.dropped_groups,
            metrics=rollout_metrics(rollout),
            seconds=rollout.seconds,
            weights=self._weights,
        )
        self._write(trainer, module, f"train-{header.iteration:06d}", header, episodes)

    def on_evaluation_end(self, trainer: L.Trainer, pl_module: L.LightningModule, evaluation: Evaluation) -> None:
        """Write what a validation, or a test at one temperature, has played."""
        assert isinstance(pl_module, PaWModule)
        if not self.enabled:
            return
        done = 0 if trainer.sanity_checking else trainer.current_epoch + 1
        header = Header(
            split=evaluation.split,
            iteration=done,
            temperature=evaluation.temperature,
            dropped_groups=len(evaluation.failures),
            failures=evaluation.failures,
            weights=fingerprint(pl_module.played_model.language_model.parameters()),
        )
        self._write(trainer, pl_module, f"{evaluation.split}-{done:06d}", header, record(evaluation.groups))

    def _write(
        self, trainer: L.Trainer, module: PaWModule, name: str, header: Header, episodes: list[RecordedEpisode]
    ) -> None:
        folder = run_folder(trainer)  # asks all ranks
        if folder is None or not trainer.is_global_zero:
            return
        loss, loop = module.world_model_loss, self.runner
        header.package, header.model, header.seed = __version__, module.path, loop.tasks.seed
        header.layout = loop.settings.layout.__name__
        header.world_model_loss = type(loss.token_loss).__name__
        header.rho = getattr(loss.token_loss, "rho", None)
        header.texts = self._texts(module, episodes)
        try:
            write(folder / FOLDER / f"{name}.jsonl.gz", RolloutFile(header, episodes))
        except OSError as error:
            rank_zero_warn(f"{folder / FOLDER} cannot be written to: {error}")

    def _texts(self, module: PaWModule, episodes: list[RecordedEpisode]) -> dict[int, str]:
        """The text of every token id in the file."""
        used: set[int] = set()
        for episode in episodes:
            for t in episode.turns:
                used.update(t.prompt_ids, t.turn_ids, t.action_ids, t.bridge_ids, t.observation_ids)
                used.update(t.control_ids or (), t.counterfactual_ids or ())
        for token in used - self.texts.keys():
            self.texts[token] = module.tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return {token: self.texts[token] for token in sorted(used)}
