"""The command line: ``paw-lightning fit|validate|test --config FILE ...``."""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import transformers
from jsonargparse import ActionConfigFile, Namespace
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from paw_lightning import callbacks, config_files
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


class ConfigParser(LightningArgumentParser):
    """Reads a file without its list of the files that it lies on: these stand before it on the command line."""

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Namespace:
        """Parse a file's own settings."""
        return super().parse_string(config_files.own_text(content), *args, **kwargs)


class PaWCLI(LightningCLI):
    """A LightningCLI with one top-level section for each of the package's callbacks."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """As Lightning's, with the package's own parser."""
        kwargs.setdefault("dump_header", [f"lightning.pytorch=={L.__version__}"])
        parser = ConfigParser(**kwargs)
        parser.add_argument("-c", "--config", action=ActionConfigFile, help="a file, or the name of a shipped one")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the sections; one seed rules everything random."""
        for name, callback in SECTIONS.items():
            parser.add_lightning_class_args(callback, name)
        parser.set_defaults(CHECKPOINT_DEFAULTS)
        parser.link_arguments("seed_everything", "data.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Find the files of ``--config``, and refuse a checkpoint that is none long before a model is built."""
        if args is None or isinstance(args, list):
            args = config_files.expand(sys.argv[1:] if args is None else args)
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


def check_checkpoint(path: str | None) -> None:
    """Refuse a path to no checkpoint; what names none on this machine (Lightning's words, addresses) is left to it.

    Raises:
        ValueError: neither a file that `torch.save` wrote nor a folder, as sharded checkpoints are.
    """
    if path is None or path in ("best", "last", "hpc") or path.startswith("registry") or "://" in path:
        return
    file = Path(path).expanduser()
    if not path or not (_is_saved_folder(file) if file.is_dir() else _is_saved_file(file)):
        found = "is no checkpoint" if file.exists() else "does not exist"
        raise ValueError(f"ckpt_path is {path!r}, which {found}; wanted RUN/checkpoints/last.ckpt, or best.ckpt")


def _is_saved_folder(folder: Path) -> bool:
    """Sharded checkpoints have a part for each rank and a list of what is where."""
    return any((folder / name).exists() for name in (".metadata", "meta.pt"))


def _is_saved_file(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/data.pkl") for name in archive.namelist())


def run(args: list[str] | None = None) -> PaWCLI:
    """Run one command line (by default the process's) and return what it built."""
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")  # Lightning's own use of torch
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")  # they are the process's, expanded
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


def refuses_settings(error: BaseException) -> bool:
    """Whether the package's own code turned settings down before anything was played; all else is shown as a bug."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    called = {frame.f_code.co_name for frame in frames}
    # Lightning runs from `_run_stage` on; an environment is first built there, to count its tasks.
    set_up = "_run_stage" not in called or "num_tasks" in called
    return set_up and frames[-1].f_globals["__name__"].startswith("paw_lightning.")


def main() -> None:
    """The console script.

    A run whose settings are refused exits with 2, as for an unknown key; one that a signal stopped with 128 plus the
    signal's number, as shells count.
    """
    sys.path.insert(0, os.getcwd())  # so that a config can name a class of a file beside it, as `python -m` can
    try:
        trainer = run().trainer
    except SIGTERMException:  # before the first iteration the signal is Lightning's, which would exit with 0
        sys.exit(128 + signal.SIGTERM)
    except SystemExit as end:
        interrupt = end.__context__
        if not isinstance(interrupt, KeyboardInterrupt):
            raise
        # Ctrl-C outside of training, or a second signal in it (GracefulStop says which): Lightning would exit with 1.
        sys.exit(128 + (interrupt.args or (signal.SIGINT,))[0])
    except (ValueError, FileNotFoundError) as error:
        if not refuses_settings(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, callbacks.GracefulStop) and callback.received:
            sys.exit(128 + callback.received)
