"""What the command line writes into a run's folder: its configuration, and from where each start went on."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn

from paw_lightning.cli.resuming import forget_run
from paw_lightning.errors import NotWrittenError
from paw_lightning.training.checkpoint_files import clear_leftovers
from paw_lightning.training.run_folder import CHECKPOINTS, last_checkpoint, resume_command, run_folder
from paw_lightning.training.saved_settings import differences
from paw_lightning.whole_files import FULL, chain, not_written, refused, write_whole

STARTS = "starts.jsonl"
"""A line for each start of the run: when, from which checkpoint, after how many iterations, what changed."""


class RepeatableConfig(SaveConfigCallback):
    """Saves the configuration into the run's own folder; fitting it again repeats the run from its beginning.

    It therefore names neither a checkpoint nor the version of a logger: the repetition gets a folder of its own.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **kwargs: Any) -> None:
        config = config.clone()
        forget_run(config)
        config.ckpt_path = None
        self.changes: list[str] = []
        """What the run has otherwise than the one that it goes on from, a line for each key."""
        super().__init__(parser, config, **kwargs)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write the file into the run's folder; of a run without one, beside its checkpoints if it saves any."""
        folder = run_folder(trainer)  # asks all ranks
        if folder is not None:
            place = folder
        elif stage == "fit" and trainer.checkpoint_callbacks and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            place = Path(trainer.default_root_dir, CHECKPOINTS)  # a config.yaml further up may be somebody's own
        else:
            return
        if trainer.is_global_zero:
            if folder is not None:
                clear_leftovers(folder / CHECKPOINTS)
            text = self.parser.dump(self.config, skip_unset=False, skip_validation=True)
            write_whole(place / self.config_filename, lambda file: file.write(text.encode()))

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look what has changed; an evaluation changes nothing."""
        before: Any = checkpoint.get("settings", {}).get("configuration")
        now: Any = pl_module.configuration
        self.changes = differences(before, now) if before and now else []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note from where this start goes on."""
        folder = run_folder(trainer)  # asks all ranks
        if folder is None or not trainer.is_global_zero:
            return
        start = {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
            "iterations": trainer.current_epoch,
            "changed": self.changes,
        }
        with (folder / STARTS).open("a") as file:
            file.write(json.dumps(start, ensure_ascii=False) + "\n")


def said_of_the_disk(error: Exception, trainer: L.Trainer) -> str | None:
    """What to tell of an error whose reason is a disk that took no more; None where that is not the reason.

    Loggers write from threads of their own and when they are closed, so the reason may lie deep, and twice.
    """
    ours = next((str(e) for e in chain(error) if isinstance(e, NotWrittenError)), None)
    found = refused(error)
    refusal = found if found is not None and found.errno in FULL else None
    if ours is None and refusal is None:
        return None
    folder = run_folder(trainer) if trainer.world_size == 1 else None  # other ranks may have died: ask them nothing
    if ours is None:
        assert refusal is not None
        ours = not_written(Path(refusal.filename or folder or trainer.default_root_dir), refusal)
    kept = last_checkpoint(trainer) if trainer.state.fn == TrainerFn.FITTING else None
    safe = f"; {kept} is whole, make room and go on with: {resume_command(trainer, folder)}" if kept else "; make room"
    return f"{ours}{safe}, or write elsewhere (trainer.logger.init_args.save_dir)"
