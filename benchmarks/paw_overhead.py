"""What PaW adds to an update: time and tokens over plain GRPO, on the same rollouts, side by side.

python benchmarks/paw_overhead.py --config configs/household/paw.yaml
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import lightning as L
import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningCLI

from paw_lightning import cli as command_line
from paw_lightning.callbacks import EntropySelection, RewardBalance
from paw_lightning.datamodule import RolloutDataModule
from paw_lightning.module import PaWModule
from paw_lightning.types import Minibatch, Rollout

ARMS = {"grpo": 0.0, "paw": 0.75}


def parse() -> Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/household/paw.yaml")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def build(config: str) -> LightningCLI:
    """Module, datamodule, callbacks and trainer of a config, set up but not run."""
    made = command_line.PaWCLI(
        PaWModule,
        RolloutDataModule,
        args=[f"--config={config}", "--trainer.logger=false", "--trainer.enable_checkpointing=false"],
        run=False,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        save_config_callback=None,
    )
    made.trainer.strategy.connect(made.model)
    made.model.trainer = made.trainer
    made.datamodule.trainer = made.trainer
    made.trainer.datamodule = made.datamodule
    made.model.configure_model()
    return made


def select(trainer: L.Trainer, module: PaWModule, rollout: Rollout, alpha: float) -> None:
    """Give the rollout PaW's fields for this share of transitions."""
    EntropySelection(alpha=alpha).on_rollout_end(trainer, module, rollout)
    RewardBalance().on_rollout_end(trainer, module, rollout)


def update_seconds(module: PaWModule, batches: list[Minibatch]) -> float:
    """Forward and backward over a whole iteration's micro-batches."""
    module.zero_grad()
    start = time.perf_counter()
    for batch in batches:
        losses = module.losses(batch)
        (losses.policy + losses.world_model).backward()
    return time.perf_counter() - start


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    made = build(options.config)
    module, data, trainer = made.model, made.datamodule, made.trainer
    loop = next(c for c in trainer.callbacks if type(c).__name__ == "EnvironmentLoop")
    loop.setup(trainer, module, "fit")
    start = time.perf_counter()
    rollout = loop.collect(0, data.train_tasks(0), data.group_size)
    rollout_seconds = time.perf_counter() - start
    batches, tokens = {}, {}
    for name, alpha in ARMS.items():
        select(trainer, module, rollout, alpha)
        tokens[name] = sum(row.length for part in data.minibatch_rows(rollout) for row in part)
        batches[name] = list(data.micro_batches(rollout))
    seconds: dict[str, list[float]] = {name: [] for name in ARMS}
    for _ in range(options.repeats):
        for name in ARMS:
            seconds[name].append(update_seconds(module, batches[name]))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = [paw / grpo for paw, grpo in zip(seconds["paw"], seconds["grpo"], strict=True)]
    report = {
        "transitions": len(rollout.transitions),
        "tokens_grpo": tokens["grpo"],
        "tokens_added_share": tokens["paw"] / tokens["grpo"] - 1,
        "update_seconds": medians,
        "rollout_seconds": rollout_seconds,
        "update_ratio": statistics.median(ratios),
        "step_ratio": (rollout_seconds + medians["paw"]) / (rollout_seconds + medians["grpo"]),
    }
    print("| transitions | tokens without PaW | added by PaW | update, PaW / GRPO | whole step, PaW / GRPO |")
    print("|---|---|---|---|---|")
    print(
        f"| {report['transitions']} | {tokens['grpo']} | {report['tokens_added_share']:.1%} "
        f"| {report['update_ratio']:.3f} | {report['step_ratio']:.3f} |"
    )
    if options.json:
        options.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
