"""What Lightning runs: ``fit``, ``validate`` and ``test`` with a section for each callback."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import transformers
from jsonargparse import Namespace
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from paw_lightning import callbacks, config_files
from paw_lightning.cli.checkpoints import check_checkpoint
from paw_lightning.cli.checks import check_configuration
from paw_lightning.cli.choices import choices
from paw_lightning.cli.messages import explain
from paw_lightning.cli.quiet import quiet
from paw_lightning.cli.resuming import continue_run, keep_files
from paw_lightning.cli.run_files import RepeatableConfig, said_of_the_disk
from paw_lightning.cli.sampler_names import with_sampler_paths
from paw_lightning.cli.sections import SECTIONS, TRAINING
from paw_lightning.errors import NotWrittenError, SettingsError
from paw_lightning.training.datamodule import RolloutDataModule
from paw_lightning.training.module import PaWModule
from paw_lightning.training.run_folder import claim_folders
from paw_lightning.training.saved_settings import flat

CALLBACKS = tuple(name for name in SECTIONS if name not in ("trainer", "model", "data"))
USAGE = "paw-lightning {} [--config NAME|FILE ...] [--KEY VALUE ...]"
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
    "max_epochs": 100,
    "gradient_clip_val": 1.0,
    "accumulate_grad_batches": 16,  # a step of long episodes is read in parts: all rows at once are gigabytes
    "check_val_every_n_epoch": 10,
    "num_sanity_val_steps": -1,  # every validation task once before training: what is learnt is seen against it
    "log_every_n_steps": 1,
    "inference_mode": False,  # tensors made under it may not enter a sharded model's training later
    "enable_model_summary": False,
    "logger": {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": "runs", "name": "paw_lightning"},
    },
}


class PaWParser(LightningArgumentParser):
    """A parser whose errors are one line and whose help begins with the package's own keys."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one line and end with status 2; parsers within parsers raise instead."""
        if not self.exit_on_error:
            super().error(message, ex)
        print("error:", explain(message), file=sys.stderr)
        sys.exit(2)

    def parse_string(self, content: str, *args: Any, **kwargs: Any) -> Namespace:
        """Parse a file's own settings: the files that it lies on stand before it on the command line."""
        return super().parse_string(config_files.own_text(content), *args, **kwargs)

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """Put the package's sections first, the trainer's many keys after them, those of checkpoints' writers once."""
        order = [name for name in SECTIONS if name != "trainer"] + ["trainer", *TRAINING]
        places = {}
        for name, group in (self.groups or {}).items():
            places[id(group)] = order.index(name.partition(".")[0])
            if not str(group.title).startswith(f"{name}: "):
                group.title = f"{name}: {group.title}"
        self._action_groups = sorted(self._action_groups, key=lambda group: places.get(id(group), -1))
        for action in self._actions:
            if action.dest.startswith("last_checkpoint."):  # the same keys as those of best_checkpoint
                action.help = argparse.SUPPRESS
        return super().format_help(formatter)


class PaWCLI(LightningCLI):
    """A LightningCLI with one top-level section for each of the package's callbacks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = kwargs.get("args")
        words = sys.argv[1:] if given is None else given
        self.claimed: list[Path] = []
        """Folders that were made for this run's loggers."""
        self.asked = words[0] if isinstance(words, list) and words else None
        texts = {
            name: {"description": f"{TRAINING[name].capitalize()}.", "usage": USAGE.format(name)} for name in self.names
        }
        defaults: dict[str, Any] = {
            "parser_class": PaWParser,
            "parser_kwargs": {"prog": "paw-lightning", **texts},
            "auto_configure_optimizers": False,
        }
        super().__init__(*args, **defaults | kwargs)

    @property
    def names(self) -> list[str]:
        """The subcommand that is asked for, as a parser for each takes a second; without one, all of them."""
        return [self.asked] if self.asked in TRAINING else list(TRAINING)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Lightning's subcommands that are used here."""
        return {name: LightningCLI.subcommands()[name] for name in self.names}

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed: every random number of a run follows from it."""
        parser.add_argument("--seed_everything", type=int, default=0, help="Seed of everything that is random.")
        for action in parser._actions:
            if action.dest == "config":
                action.help = "A configuration file, or the name of a shipped one; several are laid over each other."

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the sections."""
        for name in CALLBACKS:
            parser.add_lightning_class_args(_named(SECTIONS[name]), name)
        parser.set_defaults(CHECKPOINT_DEFAULTS)
        parser.link_arguments("seed_everything", "data.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Find the files of ``--config``; refuse what can be refused long before a model is built."""
        if args is None or isinstance(args, list):
            args = with_sampler_paths(config_files.expand(sys.argv[1:] if args is None else args))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "LightningCLI's args parameter")  # they are the process's own, expanded
            super().parse_arguments(parser, args)
        if self.config.get("subcommand"):
            config = self.config[self.config.subcommand]
            check_checkpoint(config.get("ckpt_path"))
            check_configuration(config)

    def _parse_ckpt_path(self) -> None:
        """Lightning would read the whole checkpoint for hyperparameters here; ours holds none."""

    def _add_instantiators(self) -> None:
        """Lightning would write the whole configuration out for hyperparameters here; `before_fit` has them."""

    def before_instantiate_classes(self) -> None:
        """Let a resumed run write into the folder of the checkpoint's run, so that its curves continue."""
        if self.subcommand == "fit":
            continue_run(self.config[self.subcommand])

    def before_fit(self) -> None:
        """Tell the module all settings: its checkpoints hold them, and a resumed run says which it has otherwise."""
        parser, config = self._parser(self.subcommand), self.config[self.subcommand]
        keep_files(config, self.trainer.loggers)
        self.model.configuration = flat(
            json.loads(parser.dump(config, format="json", skip_unset=False, skip_validation=True))
        )

    def instantiate_classes(self) -> None:
        """Build what the configuration names; an error about an argument becomes a SettingsError."""
        try:
            super().instantiate_classes()
            self.claimed = claim_folders(self.trainer.loggers) if self.trainer.is_global_zero else []
        except SettingsError:
            raise
        except (MisconfigurationException, ValueError, OSError, ImportError) as error:
            raise SettingsError(self._blame(error)) from error

    def _blame(self, error: Exception) -> str:
        """The message of an error, with the key before it where the message tells which key it is."""
        config, text = self.config[self.subcommand], " ".join(str(error).split())
        problem = re.search(r"Problem with given class_path '([\w.]+)': (.+?)(?= - Expected| Given value|$)", text)
        if problem:
            text = f"{problem[1]} cannot be built: {problem[2]}"
        given = vars(config.trainer)
        named = [name for name in given if f"`{name}`" in text or f"{name}=" in text]
        texts = {name: value for name, value in given.items() if isinstance(value, str)}
        named += [name for name, value in texts.items() if value in text or value.replace("-", "_") in text]
        if named:
            return f"trainer.{named[0]} is {given[named[0]]!r}; {text}"
        logger = getattr(config.trainer.logger, "class_path", "")
        blamed = isinstance(error, ImportError) or (problem is not None and problem[1] == logger)
        return f"trainer.logger is {logger}; {text}" if blamed and logger else text

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the subcommand; a run that is refused before its first step leaves no folder behind."""
        try:
            super()._run_subcommand(subcommand)
        except SettingsError:
            for folder in self.claimed if self.trainer.global_step == 0 else []:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        except Exception as error:
            if (message := said_of_the_disk(error, self.trainer)) is None:
                raise
            raise NotWrittenError(message) from error

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[L.Callback]) -> L.Trainer:
        """Let Lightning's own flags switch our default callbacks off instead of refusing them."""
        if config.get("enable_checkpointing") is False:
            callbacks = [callback for callback in callbacks if not isinstance(callback, ModelCheckpoint)]
        if config.get("enable_progress_bar") is False:
            defaults = self.trainer_defaults["callbacks"]
            self.trainer_defaults["callbacks"] = [c for c in defaults if not isinstance(c, ProgressBar)]
        return super()._instantiate_trainer(config, callbacks)


def _named(path: str) -> type:
    module, _, name = path.rpartition(".")
    found: type = getattr(importlib.import_module(module), name)
    return found


def run(args: list[str] | None = None) -> PaWCLI:
    """Run one command line (by default the process's) and return what it built."""
    transformers.utils.logging.disable_progress_bar()
    quiet()
    choices("rollout.environment")  # imports the adapters, so that their environments may be named without a path
    return PaWCLI(
        PaWModule,
        RolloutDataModule,
        args=args,
        save_config_callback=RepeatableConfig,
        trainer_defaults={
            **TRAINER_DEFAULTS,
            "callbacks": [callbacks.LoggerSetup(), callbacks.IterationProgressBar()],
        },
        save_config_kwargs={"overwrite": True},
    )
