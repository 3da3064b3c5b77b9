"""One training sequence per transition against one per episode: rollout, scoring and update of the same iteration.

python benchmarks/layouts.py --config configs/household/paw.yaml

Processor seconds, the two layouts in turns. The rollouts are the base policy's own in each layout, so they differ.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from paw_overhead import build, micro_batches

from paw_lightning.module import PaWModule
from paw_lightning.types import Minibatch

TURN_TEMPLATE = "{observation}\nTask: {task}\n"


def update(module: PaWModule, batches: list[Minibatch]) -> None:
    """Forward and backward over a whole iteration's micro-batches."""
    module.zero_grad()
    for batch in batches:
        losses = module.losses(batch)
        (losses.policy + losses.world_model).backward()


def iteration(made, number: int) -> dict[str, float]:
    """Seconds and sizes of one iteration."""
    module, data, trainer = made.model, made.datamodule, made.trainer
    loop = next(c for c in trainer.callbacks if type(c).__name__ == "EnvironmentLoop")
    loop.setup(trainer, module, "fit")
    start = time.process_time()
    rollout = loop.collect(number, data.train_tasks(number), data.group_size)
    played = time.process_time()
    batches = micro_batches(data, rollout, module.tokenizer.pad_token_id, trainer.accumulate_grad_batches)
    cut = time.process_time()
    update(module, batches)
    return {
        "rollout and scoring": played - start,
        "update": time.process_time() - cut,
        "transitions": len(rollout.transitions),
        "rows": sum(len(batch.input_ids) for batch in batches),
        "tokens": sum(batch.input_ids.numel() for batch in batches),
        "overflows": sum(e.overflowed for e in rollout.episodes),
        "success": sum(e.won for e in rollout.episodes) / len(rollout.episodes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/household/paw.yaml")
    parser.add_argument("--turn-template", default=TURN_TEMPLATE)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    arms = {"step": build(options.config), "episode": build(options.config)}
    for name, made in arms.items():
        loop = next(c for c in made.trainer.callbacks if type(c).__name__ == "EnvironmentLoop")
        loop.layout, loop.prompt = name, replace(loop.prompt, turn_template=options.turn_template)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    for number in range(options.iterations + 1):
        for name, made in arms.items():
            measured = iteration(made, number)
            if number:  # the first round warms up
                results[name].append(measured)
    medians = {name: {k: statistics.median(r[k] for r in rows) for k in rows[0]} for name, rows in results.items()}
    print("| | step | episode | step / episode |")
    print("|---|---|---|---|")
    for key, step in medians["step"].items():
        episode = medians["episode"][key]
        print(f"| {key} | {step:.4g} | {episode:.4g} | {step / episode if episode else float('nan'):.2f} |")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
