"""Runs the command line on tiny models and reads back what it left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from paw_lightning.cli import PaWCLI, run

TOY = {
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 2,
    "trainer.accumulate_grad_batches": 2,
    "trainer.num_sanity_val_steps": 0,
    "model.optimizer": "torch.optim.AdamW",
    "model.optimizer.init_args.lr": 0.01,
    "data.groups": 2,
    "data.group_size": 3,
    "data.validation_tasks": 4,
    "rollout.environment": "tests.toy_env.ToyEnv",
    "rollout.max_steps": 3,
    "rollout.max_action_tokens": 6,
}


def arguments(settings: dict[str, Any]) -> list[str]:
    """Settings as command-line options."""
    return [f"--{key}={'null' if value is None else value}" for key, value in settings.items()]


def fit(
    directory: Path, model: str, configs: tuple[Path, ...] = (), *, command: str = "fit", **settings: Any
) -> PaWCLI:
    """Run a command with the toy world's settings (or with config files), `__` in a name standing for a dot."""
    overrides = {name.replace("__", "."): value for name, value in settings.items()}
    base = {} if configs else TOY
    logger = {"trainer.logger.init_args.save_dir": directory, "model.path": model}
    files = [f"--config={path}" for path in configs]
    return run([command, *files, *arguments({**base, **logger, **overrides})])


def fit_ranks(directory: Path, model: str, strategy: str, *, devices: int = 2, **settings: Any) -> Path:
    """Run `fit` as a user does, in processes of their own, and return the run's log directory.

    A rank that waits for another longer than 25 seconds fails, so that a bug is an error and not a hang.
    """
    timeout = {"strategy": strategy, "strategy.timeout": "0:00:25" if strategy.endswith("DDPStrategy") else 25}
    strategies = {f"trainer.{name}": value for name, value in timeout.items()}
    options = {
        **TOY,
        **strategies,
        "trainer.devices": devices,
        "trainer.logger.init_args.save_dir": directory,
        "model.path": model,
        **{name.replace("__", "."): value for name, value in settings.items()},
    }
    command = [sys.executable, "-m", "paw_lightning", "fit", *arguments(options)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    return max((directory / "paw_lightning").iterdir(), key=lambda path: path.stat().st_mtime)


def weights(cli: PaWCLI) -> dict[str, torch.Tensor]:
    """The trained language model's parameters."""
    return cli.model.language_model.state_dict()


def log_dir(cli: PaWCLI) -> Path:
    """Where the run wrote its curves."""
    return Path(cli.trainer.log_dir)


def curves(cli: PaWCLI) -> dict[str, dict[int, float]]:
    """Every scalar of the run: tag -> {step: value}."""
    events = EventAccumulator(str(log_dir(cli)), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
