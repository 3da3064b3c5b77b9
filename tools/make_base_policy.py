"""Makes the small language models that reinforcement learning starts from.

They are such as the package ships (tiny-household, the quickstart's; tiny-shop; tiny-search), and the policy of
`--config alfworld/small`.

Each begins with random weights and imitates a noisy player in its world, and observations shuffled across episodes:
afterwards it writes commands that the world reacts to and knows how answers sound, but seldom solves a task and does
not know which answer an action brings about. The imitation is the package's own (`method/imitate`, `wm/actobs`), one
run after the other. The same seed on the same machine gives the same weights.

    python tools/make_base_policy.py --output DIRECTORY                   # of the household world
    python tools/make_base_policy.py --world shop --output DIRECTORY
    python tools/base_policy_report.py --world shop --policy DIRECTORY    # plays it, and writes its model card

    export ALFWORLD_DATA=...   # the folder that contains json_2.1.1
    python tools/make_base_policy.py --world alfworld --output runs/alfworld-base
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from base_worlds import WORLDS, Phase, World
from tiny_models import build_model, train_tokenizer

from paw_lightning.cli.door import train

SETTINGS = Path(__file__).with_name("base_policy.yaml")


def imitate(world: World, number: int, start: Path, output: Path, seed: int) -> None:
    """Phase `number`: one run of imitation, from the policy in the folder `start`."""
    phase = world.phases[number]
    configs = [world.config, "method/imitate", "wm/actobs", str(SETTINGS)]
    options = settings(world, phase) | {
        "seed_everything": seed,
        "model.path": str(start),
        "rollout.environment.init_args.dice": number,
        "policy_export.folder": str(output),
        "trainer.logger": False,
    }
    arguments = [word for config in configs for word in ("--config", config)]
    arguments += [f"--{key}={v if isinstance(v, str) else json.dumps(v)}" for key, v in options.items()]
    if status := train(["fit", *arguments]):  # a signal has stopped it: the next phase would begin where it did not end
        sys.exit(status)


def settings(world: World, phase: Phase) -> dict[str, Any]:
    """What a phase sets, by the keys of a configuration."""
    played = {"world": world.name, **asdict(phase.skill)}
    # Copying names forms in half the steps of AdamW alone.
    optimizer = {"lr": phase.learning_rate, "weight_decay": 0.0, "betas": [0.9, 0.98]}
    schedule = {
        "max_lr": phase.learning_rate,
        "total_steps": phase.iterations + 1,
        "pct_start": 0.05,
        "div_factor": 5.0,
        "final_div_factor": 4.0,  # a twentieth of the peak
        "cycle_momentum": False,
    }
    return {
        "trainer.max_epochs": phase.iterations,
        "data.groups": phase.episodes,
        "rollout.environment": {"class_path": "played_world.PlayedWorld", "init_args": played},
        "rollout.layout": phase.layout,
        "rollout.prompt": world.rollout["prompt"] if phase.layout == "episode" else world.step_prompt,
        "rollout.max_steps": phase.turns or world.turns,
        "model.optimizer": {"class_path": "paw_lightning.training.muon.MuonWithAdamW", "init_args": optimizer},
        "model.lr_scheduler": {"class_path": "torch.optim.lr_scheduler.OneCycleLR", "init_args": schedule},
    }


def make(world: World, output: Path, seed: int) -> None:
    """Make a world's policy and write its directory."""
    started = time.perf_counter()
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(world.texts(seed), world.vocabulary, world.words())
    model = build_model(world.shape, tokenizer)
    print(f"{len(tokenizer)} tokens, {model.num_parameters():,} parameters", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "start"
        model.save_pretrained(start)
        tokenizer.save_pretrained(start)
        for number in range(len(world.phases)):
            made = output if number == len(world.phases) - 1 else Path(folder) / f"phase {number}"
            imitate(world, number, start, made, seed)
            start = made
    print(f"wrote {output} after {time.perf_counter() - started:.0f} s", flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=WORLDS, default="household", help="what it is to play")
    parser.add_argument("--output", type=Path, required=True, help="directory to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="another number may change the weights' last bits")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # Absolute: a run exports to a relative folder only below its own, and these runs have none.
    make(WORLDS[options.world], options.output.resolve(), options.seed)


if __name__ == "__main__":
    main()
