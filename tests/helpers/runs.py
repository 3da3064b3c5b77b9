"""Runs the command line on tiny models and reads back what it left behind."""

from __future__ import annotations

import multiprocessing
import os
import re
import socket
from pathlib import Path
from typing import Any

import torch

from paw_lightning.cli import PaWCLI, run
from paw_lightning.event_files import read_scalars

CLOCKS = re.compile("time/")
TOY = {
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 2,
    "trainer.accumulate_grad_batches": 2,
    "trainer.num_sanity_val_steps": 0,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.gradient_clip_val": None,
    "model.optimizer": "torch.optim.AdamW",
    "model.optimizer.init_args.lr": 0.01,
    "data.groups": 2,
    "data.group_size": 3,
    "data.validation_tasks": 4,
    "rollout.environment": "tests.helpers.toy_env.ToyEnv",
    "rollout.max_steps": 3,
    "rollout.max_action_tokens": 6,
}
PPO = {"rollout__advantage": "paw_lightning.policy.advantages.GAE", "model__critic": "shared"}
FEW_EPISODES = {
    "trainer__check_val_every_n_epoch": 1,
    "trainer__num_sanity_val_steps": 0,
    "trainer__accumulate_grad_batches": 2,
    "data__groups": 2,
    "data__group_size": 2,
    "data__minibatches": 2,
    "data__validation_tasks": 2,
    "policy_export__folder": None,
}
"""Iterations of a config that take seconds with a policy that plays it."""
ONE_ITERATION = FEW_EPISODES | {
    "trainer__accelerator": "cpu",
    "trainer__max_epochs": 1,
    "rollout__max_steps": 3,
    "rollout__max_action_tokens": 8,
    "rollout__prompt__max_tokens": 6000,  # of a tokenizer that spends one token on every byte
}
"""What a config is shrunk to so that the byte tokenizer's tiny model gets through it in seconds."""


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


def fit_ranks(
    directory: Path,
    model: str,
    strategy: str = "",
    *,
    devices: int = 2,
    configs: tuple[Path, ...] = (),
    exit_code: int = 0,
    **settings: Any,
) -> Path:
    """Run `fit` in several processes, as torchrun starts them, and return the run's log directory.

    Either on the toy world with a strategy given by class, or with config files that name theirs.

    A rank that waits for another longer than 25 seconds fails, so that a bug is an error and not a hang.
    """
    timeout = "0:00:25" if strategy.endswith("DDPStrategy") else 25
    toy = {**TOY, "trainer.strategy": strategy, "trainer.strategy.timeout": timeout}
    options = {
        **({} if configs else toy),
        "trainer.devices": devices,
        "trainer.logger.init_args.save_dir": directory,
        "trainer.callbacks+": "tests.helpers.rank_probe.RankProbe",
        "model.path": model,
        **{name.replace("__", "."): value for name, value in settings.items()},
    }
    directory.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")  # imports once for all, and forks no used autograd
    context.set_forkserver_preload(["tests.helpers.runs"])
    port, command = free_port(), ["fit", *[f"--config={path}" for path in configs], *arguments(options)]
    processes = [
        context.Process(target=_rank, args=(rank, devices, port, command, directory)) for rank in range(devices)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        process.kill()
    outputs = [(directory / f"output{rank}.txt").read_text()[-3000:] for rank in range(devices)]
    assert all(process.exitcode == exit_code for process in processes), "\n\n".join(outputs)
    return max((directory / "paw_lightning").iterdir(), key=lambda path: path.stat().st_mtime)


def _rank(rank: int, size: int, port: int, command: list[str], directory: Path) -> None:
    output = os.open(directory / f"output{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {name: str(value) for name, value in {**numbers, **rendezvous}.items()}
    run(command)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def weights(cli: PaWCLI) -> dict[str, torch.Tensor]:
    """The trained language model's parameters."""
    return cli.model.language_model.state_dict()


def log_dir(cli: PaWCLI) -> Path:
    """Where the run wrote its curves."""
    return Path(cli.trainer.log_dir)


def curves(cli: PaWCLI) -> dict[str, dict[int, float]]:
    """Every scalar of the run: tag -> {step: value}."""
    return read_curves(log_dir(cli))


def read_curves(directory: Path) -> dict[str, dict[int, float]]:
    """Every scalar in a log directory."""
    return {tag: dict(points) for tag, points in read_scalars(directory).items()}


def assert_same_end(unbroken, resumed) -> None:
    for name, tensor in weights(unbroken).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
    old, new = unbroken.trainer.optimizers[0].state_dict(), resumed.trainer.optimizers[0].state_dict()
    for key, state in old["state"].items():
        for name, value in state.items():
            assert torch.equal(value, new["state"][key][name]), (key, name)
    assert old["state"], "an optimizer without state proves nothing"


def assert_same_curves(unbroken, resumed) -> None:
    """Every logged value of the resumed part equals the unbroken run's, wall-clock times excepted."""
    old, new = curves(unbroken), curves(resumed)
    compared = 0
    for tag, points in new.items():
        if not CLOCKS.match(tag):
            for step, value in points.items():
                assert old[tag][step] == value, (tag, step)
                compared += 1
    assert compared > 20
