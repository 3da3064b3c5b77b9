"""Runs the command line on tiny models and reads back what it left behind."""

from __future__ import annotations

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
