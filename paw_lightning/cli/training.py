"""What Lightning runs: ``fit``, ``validate`` and ``test`` with a section for each callback."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning as L
import transformers
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from paw_lightning import callbacks
from paw_lightning.cli.checkpoints import check_checkpoint
from paw_lightning.training.datamodule import RolloutDataModule
from paw_lightning.training.module import PaWModule

# Callbacks get keys of their own: of a list only the last item could be overridden from the command line. They run in
# this order: what is predicted is settled before it is weighed, and weighed before it is looked at.
SECTIONS = {
    "rollout": callbacks.EnvironmentLoop,
    "entropy_selection": callbacks.EntropySelection,
    "target_control": callbacks.TargetControl,
    "reward_balance": callbacks.RewardBalance,
    "canaries": callbacks.Canaries,
    "world_model_health": callbacks.WorldModelHealth,
    "rollout_samples": callbacks.RolloutSamples,
    "policy_export": callbacks.PolicyExport,
    "success_report": callbacks.SuccessReport,
    "last_checkpoint": ModelCheckpoint,
    "best_checkpoint": ModelCheckpoint,
}
CHECKPOINT_DEFAULTS = {
    # Two writers: the one that monitors a metric only runs after validation, the other after every iteration.
    # The second is a "top 1" without a metric: Lightning writes a `save_last` of its own only beside a top-k save.
    "last_checkpoint.filename": "last",
    "last_checkpoint.enable_version_counter": False,
    "last_checkpoint.save_on_train_epoch_end": True,
    "best_checkpoint.monitor": "val/success_rate",
    "best_checkpoint.mode": "max",
    "best_checkpoint.filename": "best",
    "best_checkpoint.enable_version_counter": False,
}
TRAINER_DEFAULTS: dict[str, Any] = {
    "log_every_n_steps": 1,
    "inference_mode": False,  # tensors made under it may not enter a sharded model's training later
    "enable_model_summary": False,
    "logger": {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": "runs", "name": "paw_lightning"},
    },
}


class PaWCLI(LightningCLI):
    """A LightningCLI with one top-level section for each of the package's callbacks."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the sections; one seed rules everything random."""
        for name, callback in SECTIONS.items():
            parser.add_lightning_class_args(callback, name)
        parser.set_defaults(CHECKPOINT_DEFAULTS)
        parser.link_arguments("seed_everything", "data.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Refuse a checkpoint that is none before Lightning reads it, and long before a model is built."""
        super().parse_arguments(parser, args)
        if self.config.get("subcommand"):
            check_checkpoint(self.config[self.config.subcommand].get("ckpt_path"))

    def before_instantiate_classes(self) -> None:
        """Let a resumed run write on where the checkpoint's run wrote, so that it stays one curve."""
        if self.subcommand != "fit":
            return
        config = self.config[self.subcommand]
        options = getattr(config.trainer.logger, "init_args", None)
        if options is None or not config.get("ckpt_path") or options.get("version") is not None:
            return
        folder = Path(config.ckpt_path).resolve().parent.parent
        home = Path(options.get("save_dir") or ".", options.get("name") or "").resolve()
        if folder.parent == home:
            options.version = folder.name

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[L.Callback]) -> L.Trainer:
        """Let Lightning's own flags switch our default callbacks off instead of refusing them."""
        if config.get("enable_checkpointing") is False:
            callbacks = [callback for callback in callbacks if not isinstance(callback, ModelCheckpoint)]
        if config.get("enable_progress_bar") is False:
            defaults = self.trainer_defaults["callbacks"]
            self.trainer_defaults["callbacks"] = [c for c in defaults if not isinstance(c, ProgressBar)]
        return super()._instantiate_trainer(config, callbacks)


def run(args: list[str] | None = None) -> PaWCLI:
    """Run one command line (by default the process's) and return what it built."""
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")  # Lightning's own use of torch
    return PaWCLI(
        PaWModule,
        RolloutDataModule,
        args=args,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        trainer_defaults={
            **TRAINER_DEFAULTS,
            "callbacks": [callbacks.GracefulStop(), callbacks.IterationProgressBar()],
        },
        save_config_kwargs={"overwrite": True},
    )
