"""Plays the base policy, checks that its weakness is real, and writes its model card from what it measured.

The check: updates without any reward, world-model loss only, with true and with shuffled targets. If they raised the
success rate, the quickstart would show the removal of noise, not learning.

    python tools/base_policy_report.py [--world shop] [--policy DIRECTORY]
"""

from __future__ import annotations

import argparse
import math
import tempfile
import textwrap
from functools import partial
from pathlib import Path

import torch
from base_worlds import HOUSEHOLD, WORLDS, World

from paw_lightning import cli, config_files
from paw_lightning.models.loading import ASSETS, load_language_model, load_tokenizer
from paw_lightning.rollouts.collector import Collector
from paw_lightning.rollouts.layouts import LAYOUTS
from paw_lightning.rollouts.runner import stop_token_ids
from paw_lightning.samplers.native import NativeSampler
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.prompts import Prompt, PromptBuilder

EPISODES = 200
UPDATES = 10
TEMPERATURES = (1.0, 0.4)
NAMES = {"observation": "true", "shuffled": "shuffled"}


def evaluate(
    directory: str, temperature: float, world: World = HOUSEHOLD, episodes: int = EPISODES
) -> dict[str, float]:
    """Play unseen tasks, each once while there are more; rates in [0, 1]."""
    tokenizer, model, settings = load_tokenizer(directory), load_language_model(directory), world.rollout
    chat = ChatFormat(tokenizer)
    stops = stop_token_ids(chat, model)
    collector = Collector(
        partial(world.environment, "val"),
        PromptBuilder(Prompt(**settings["prompt"]), chat),
        NativeSampler(model, stops, tokenizer.pad_token_id),
        max_steps=settings["max_steps"],
        max_action_tokens=settings["max_action_tokens"],
        max_observation_tokens=settings["max_observation_tokens"],
        stop_token_ids=stops,
        layout=LAYOUTS[settings.get("layout", "step")],
    )
    tasks = world.environment("val").num_tasks or episodes
    seeds = [number % tasks for number in range(episodes)]
    played = collector.play(seeds, 1, temperature=temperature, seed=("report",))
    finished = [episode for group in played.groups for episode in group.episodes]
    turns = [t for episode in finished for t in episode.transitions]
    return {
        "success_rate": sum(e.won for e in finished) / len(finished),
        "well_formed_rate": sum(t.well_formed for t in turns) / len(turns),
        "admissible_rate": sum(t.admissible for t in turns) / len(turns),
    }


def update_without_reward(directory: str, world: World, targets: str, folder: Path) -> str:
    """Train the world model alone for a few iterations; returns the exported policy's directory."""
    made = cli.run(
        [
            "fit",
            *config_files.expand(["--config", world.config]),
            f"--model.path={directory}",
            "--rollout.advantage=paw_lightning.policy.advantages.NoReward",
            "--rollout.inadmissible_action_penalty=0",  # a penalty is a reward too
            f"--target_control.targets={targets}",
            "--model.policy_loss.kl_coefficient=0",  # it would pull the policy back and hide a rise
            f"--trainer.max_epochs={UPDATES}",
            "--trainer.limit_val_batches=0",
            "--trainer.num_sanity_val_steps=0",
            f"--trainer.logger.init_args.save_dir={folder / targets}",
        ]
    )
    return str(Path(made.trainer.log_dir or folder) / "policy")


def write_card(directory: Path, world: World, results: dict[str, dict[float, dict[str, float]]]) -> None:
    """The model card; every number in it was just measured."""
    base, rollout = results["as made"], world.rollout
    rows = [
        f"| {name} | {rates[1.0]['success_rate']:.1%} | {rates[0.4]['success_rate']:.1%} |"
        for name, rates in results.items()
    ]
    error = math.sqrt(base[1.0]["success_rate"] * (1 - base[1.0]["success_rate"]) / EPISODES)
    phases = "; then ".join(
        f"{phase.iterations} iterations of {phase.episodes} episodes in the {phase.layout} layout, in which the player "
        f"did anything that the world would react to in a share {phase.skill.noise} of its turns"
        for phase in world.phases
    )
    settings = ", ".join(f"{key} {value}" for key, value in rollout["environment"]["init_args"].items())
    parameters = load_language_model(str(directory)).num_parameters()
    command = f"--world {world.name}"
    made = f"""
        **How it was made.** `python tools/make_base_policy.py {command} --output DIRECTORY`, by imitation from random
        weights: {phases}; {world.story}. Beside the actions, with weight 0.3, it learnt observations shuffled across
        episodes: it knows how answers sound, not which action brings which answer."""
    does = f"""
        **What it does.** {EPISODES} episodes of unseen tasks ({settings}; {rollout["max_steps"]} turns), standard error
        {error:.1%}. At temperature 1 {base[1.0]["well_formed_rate"]:.1%} of its actions are well-formed and
        {base[1.0]["admissible_rate"]:.1%} are such that the world reacts to them."""
    check = f"""
        The last rows are the check that its weakness is real: {UPDATES} iterations of
        `{world.config}` without any reward, only the world-model loss, on the true next
        observations and on observations shuffled across the update. `python tools/base_policy_report.py {command}`
        measures all of this and writes this file."""
    text = f"""---
license: mit
success_at_temperature_1: {base[1.0]["success_rate"]:.4f}
success_at_temperature_0.4: {base[0.4]["success_rate"]:.4f}
---

# tiny-{world.name}

A Qwen2-architecture language model of {parameters:,} parameters that plays the generated {world.name} world badly: a
start for tiny runs, standing where an instruction-tuned model stands in a real one. It has seen nothing but text of
that world and is of no other use.

{paragraph(made)}

{paragraph(does)}

| policy | success, temperature 1 | temperature 0.4 |
|---|---|---|
{chr(10).join(rows)}

{paragraph(check)}
"""
    (directory / "README.md").write_text(text)


def paragraph(text: str) -> str:
    """Wrapped anew, without indentation."""
    return textwrap.fill(" ".join(text.split()), 118, break_long_words=False, break_on_hyphens=False)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=WORLDS, default="household")
    parser.add_argument("--policy", type=Path, help="its directory; default: tiny-WORLD among the package's assets")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    world = WORLDS[options.world]
    policy = options.policy or ASSETS / f"tiny-{world.name}"
    torch.set_num_threads(options.threads)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        policies = {"as made": str(policy)}
        for targets in ("observation", "shuffled"):
            policies[f"after {UPDATES} updates without reward, {NAMES[targets]} targets"] = update_without_reward(
                str(policy), world, targets, Path(folder)
            )
        for name, directory in policies.items():
            results[name] = {temperature: evaluate(directory, temperature, world) for temperature in TEMPERATURES}
            print(name, results[name], flush=True)
    write_card(policy, world, results)


if __name__ == "__main__":
    main()
