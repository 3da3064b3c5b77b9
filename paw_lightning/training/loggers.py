"""What Lightning's loggers have no common way to take, written for each of them: texts, histograms, the settings.

Scalars go through ``self.log`` and are Lightning's own business.
"""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from paw_lightning.event_files import METRICS, whole_lines
from paw_lightning.training.run_folder import run_folder
from paw_lightning.whole_files import write_whole

SERVED = (TensorBoardLogger, WandbLogger, MLFlowLogger)
"""Loggers that take texts and histograms; for any other they are files in the run's folder."""
METRIC = "val/success_rate"
"""What TensorBoard's table of settings shows beside them."""


class FolderCurves(CSVLogger):
    """The curves of a run in its own folder, where none of its loggers writes them there: `compare` and `plot` read it.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder.parent.parent, name=folder.parent.name, version=folder.name)


def write_texts(trainer: L.Trainer, tag: str, texts: Sequence[str], step: int) -> None:
    """Write Markdown texts under one tag, for instance the episodes of an iteration; every rank has to call it.

    TensorBoard gets them as `tag/0`, `tag/1`, ..., W&B as the rows of a table, MLflow and the run's folder as one file
    `tag/iteration_00012.md`.
    """
    folder = files_of(trainer)
    if not trainer.is_global_zero or not texts:
        return
    whole, name = "\n\n---\n\n".join(texts), f"iteration_{step:05}.md"
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            for number, text in enumerate(texts):
                logger.experiment.add_text(f"{tag}/{number}", text, step)
        elif isinstance(logger, WandbLogger):
            rows = [[step, number, text] for number, text in enumerate(texts)]
            logger.log_table(tag, columns=["iteration", "number", "text"], data=rows, step=step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_text(logger.run_id, whole, f"{tag}/{name}")
    if folder is not None:
        path = folder / tag / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(whole)


def write_histogram(trainer: L.Trainer, tag: str, values: Tensor, step: int) -> None:
    """Write how numbers are distributed; every rank has to call it.

    MLflow and the run's folder get the numbers themselves, as lines of JSON: ``{"iteration": 12, "values": [0.5, 1]}``.
    """
    folder = files_of(trainer)
    if not trainer.is_global_zero:
        return
    record = {"iteration": step, "values": [round(value, 6) for value in values.tolist()]}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_histogram(tag, values, step)
        elif isinstance(logger, WandbLogger):
            import wandb

            logger.log_metrics({tag: wandb.Histogram(record["values"])}, step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_dict(logger.run_id, record, f"histograms/{tag}/iteration_{step:05}.json")
    if folder is not None:
        path = folder / "histograms" / f"{tag}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def write_settings(trainer: L.Trainer, settings: dict[str, Any], file: Path) -> None:
    """Write a run's settings by dotted key, and its configuration file; of rank 0 alone.

    A resumed run replaces them, but for MLflow: there nobody can replace a parameter, and only new ones are added.
    """
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            _write_tensorboard_settings(logger, settings)
        elif isinstance(logger, MLFlowLogger):
            known = logger.experiment.get_run(logger.run_id).data.params
            logger.log_hyperparams({key: value for key, value in settings.items() if key not in known})
            if file.exists():
                logger.experiment.log_artifact(logger.run_id, str(file))
        else:
            logger.log_hyperparams(settings)
        if isinstance(logger, WandbLogger) and file.exists():
            logger.experiment.save(str(file), base_path=str(file.parent), policy="now")


def _write_tensorboard_settings(logger: TensorBoardLogger, settings: dict[str, Any]) -> None:
    """The table in the tab HPARAMS; Lightning's own way would add a curve `hp_metric` that is always -1."""
    from torch.utils.tensorboard.summary import hparams  # slow to import

    logger.log_hyperparams(settings, {})
    shown = {key: v if isinstance(v, bool | int | float | str) else str(v) for key, v in settings.items()}
    for summary in hparams(shown, {METRIC: None}):
        logger.experiment._get_file_writer().add_summary(summary)


def files_of(trainer: L.Trainer) -> Path | None:
    """The folder for what some logger cannot take, None where all can take it; every rank has to call it."""
    return run_folder(trainer) if unserved(trainer.loggers) else None


def unserved(loggers: Sequence[Logger]) -> list[Logger]:
    """The loggers that take no texts and histograms."""
    return [logger for logger in loggers if not isinstance(logger, (*SERVED, FolderCurves))]


@rank_zero_only
def keep_curves(logger: CSVLogger) -> None:
    """Let a CSVLogger go on with the file of the run that it continues; by itself it would delete it.

    Half a row goes: the next one would stand on its line, and the logger fails over such a line at the next new curve.
    """
    path = Path(logger.log_dir, METRICS)
    kept = path.with_suffix(".kept")  # also found by the next start, should this one be killed on the way
    if path.exists():
        path.rename(kept)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Experiment logs directory")
        writer = logger.experiment
    if kept.exists():
        lines = whole_lines(kept)
        whole = "".join(lines).encode()
        if len(whole) != kept.stat().st_size:
            write_whole(kept, lambda file: file.write(whole), len(whole))
        writer.metrics_keys = next(csv.reader(lines), [])
        kept.rename(path)
