"""Transcripts of a noisy player in generated houses, as text."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paw_lightning import config_files
from paw_lightning.envs.household.env import HouseholdEnv
from paw_lightning.envs.household.expert import ExplorerExpert
from paw_lightning.envs.household.game import TASKS

WORLD = config_files.find("household/base")
FIRST_HOUSE = 10_000_000
"""Number of the first house played here: far from any that training reaches."""
HOUSES, TURNS = {"receptacles": 6, "objects": 6}, 12
"""Houses a little larger than the quickstart's, so that nothing there is new to a policy made from them."""


@dataclass(frozen=True)
class Transcript:
    """One episode."""

    task: str
    turns: list[tuple[str, str, str]]
    """(observation, action, answer) in time order."""


def section(config: Path, after_action: str = "\n") -> dict[str, Any]:
    """A world's `rollout` section, with prompts for the step layout as well: they show the episode from its beginning.

    `after_action` is what stands behind an action there.
    """
    rollout = config_files.merged(config)["rollout"]
    turn = rollout["prompt"]["turn_template"]
    rollout["prompt"] |= {
        "template": "{history}" + turn,
        "history_turn": turn + "> {action}" + after_action,
        "history_length": rollout["max_steps"],
    }
    return rollout


def world() -> dict[str, Any]:
    """The quickstart's environment, prompt, and limits."""
    return section(WORLD)


def make_environment(split: str, **changes: Any) -> HouseholdEnv:
    """The quickstart's environment, with changes."""
    return HouseholdEnv(split, **{**world()["environment"]["init_args"], **changes})


def play(env: HouseholdEnv, house: int, rng: random.Random, *, noise: float, insight: float, turns: int) -> Transcript:
    """Play one house for at most `turns` turns.

    Each action is, with probability `noise`, any that the house would react to; else an expert's, who in a share
    `insight` of the episodes knows where everything is and in the others has to search.
    """
    observation, info = env.reset(seed=house)
    explorer, knowing = ExplorerExpert(rng, info["task"]), rng.random() < insight
    played = []
    for _ in range(turns):
        admissible = info["admissible_commands"]
        action = explorer.act(observation, admissible)
        if knowing:
            action = env.expert_plan()[0]
        if rng.random() < noise:
            action = rng.choice([command for command in admissible if command != "help"])
        answer, _, terminated, _, following = env.step(action)
        played.append((observation, action, answer))
        if terminated:
            break
        observation, info = answer, {**info, **following}
    return Transcript(info["task"], played)


def play_houses(seed: int | str, *, noise: float, insight: float) -> Iterator[Transcript]:
    """Endless transcripts, every house another one."""
    env, house = make_environment("train", **HOUSES), FIRST_HOUSE
    while True:
        yield play(env, house, random.Random(f"{seed} {house}"), noise=noise, insight=insight, turns=TURNS)
        house += 1


def household_texts(seed: int) -> Iterator[str]:
    """Observations, commands and tasks of larger houses with every task type, for a tokenizer."""
    env = make_environment("train", tasks=TASKS, receptacles=12, objects=16)
    for house in range(2 * FIRST_HOUSE, 2 * FIRST_HOUSE + 600):
        transcript = play(env, house, random.Random(f"{seed} {house}"), noise=0.5, insight=0.5, turns=20)
        for observation, action, answer in transcript.turns:
            yield f"{observation}\nTask: {transcript.task}\n> {action}\n{answer}"
