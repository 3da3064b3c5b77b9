"""Transcripts of a noisy customer in made-up shops, as text."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from household_transcripts import Transcript, section

from paw_lightning import config_files
from paw_lightning.envs.shop.env import SEARCH, ShopEnv
from paw_lightning.envs.shop.expert import ShopExpert

WORLD = config_files.find("shop/base")
FIRST_SHOP = 10_000
"""Number of the first shop visited here: none of its products is of the one that training visits."""
VISITS = 64
"""To one shop; then comes the next, so that no product is worth remembering."""
TURNS = 8


def world() -> dict[str, Any]:
    """The tiny setting's environment, prompt, and limits."""
    # The space keeps "]" and the line break two tokens, as they are when the policy writes "]" and stops.
    return section(WORLD, " \n")


def make_environment(split: str, **changes: Any) -> ShopEnv:
    """The tiny setting's environment, with changes."""
    return ShopEnv(split, **{**world()["environment"]["init_args"], **changes})


def play(env: ShopEnv, goal: int, rng: random.Random, *, noise: float, turns: int) -> Transcript:
    """Play one goal for at most `turns` turns.

    Each action is, with probability `noise`, anything that the shop would react to (a search: for some of the task's
    words); else the expert's.
    """
    observation, info = env.reset(seed=goal)
    expert = ShopExpert(info["task"])
    words = expert.wish.query.split()
    played = []
    for _ in range(turns):
        action = expert.act(observation)
        if rng.random() < noise:
            action = rng.choice(info["admissible_commands"])
            if action == SEARCH:
                action = f"search[{' '.join(rng.sample(words, rng.randint(1, len(words))))}]"
        answer, _, terminated, _, info = env.step(action)
        played.append((observation, action, answer))
        if terminated:
            break
        observation = answer
    return Transcript(expert.task, played)


def play_shops(seed: int | str, *, noise: float) -> Iterator[Transcript]:
    """Endless transcripts, every goal another one."""
    shop = FIRST_SHOP
    while True:
        env = make_environment("train", catalogue_seed=shop)
        for goal in range(VISITS):
            yield play(env, goal, random.Random(f"{seed} {shop} {goal}"), noise=noise, turns=TURNS)
        shop += 1


def shop_texts(seed: int) -> Iterator[str]:
    """Pages, actions and tasks of other shops, for a tokenizer."""
    for shop in range(2 * FIRST_SHOP, 2 * FIRST_SHOP + 8):
        env = make_environment("train", catalogue_seed=shop)
        for goal in range(VISITS):
            transcript = play(env, goal, random.Random(f"{seed} {shop} {goal}"), noise=0.5, turns=TURNS)
            for observation, action, answer in transcript.turns:
                yield f"{observation}\nTask: {transcript.task}\n> {action} \n{answer}"
