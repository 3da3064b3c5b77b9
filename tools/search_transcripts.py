"""Transcripts of a noisy player who answers questions about invented facts, as text."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from household_transcripts import Transcript, section

from paw_lightning import config_files
from paw_lightning.envs.search.env import NAME, SearchEnv

WORLD = config_files.find("search/base")
FIRST_BASE = 10_000
"""Number of the first fact base played here: none of its names and facts is of the one that training asks about."""
LANDS = 40
"""Of one fact base; the next one follows when its questions are used up, so that no fact is worth remembering."""
TURNS = 4


def world() -> dict[str, Any]:
    """The tiny setting's environment, prompt, and limits."""
    return section(WORLD)


def make_environment(split: str, **changes: Any) -> SearchEnv:
    """The tiny setting's environment, with changes."""
    return SearchEnv(split, **{**world()["environment"]["init_args"], **changes})


def play(env: SearchEnv, question: int, rng: random.Random, *, noise: float, insight: float, turns: int) -> Transcript:
    """Play one question for at most `turns` turns.

    Each action is, with probability `noise`, a search for or an answer with any name in sight; else a sensible one. The
    sensible player searches step by step; who has read the last document answers, in a share `insight` of the episodes
    with the right name, in the others with any name that was new in it.
    """
    observation, info = env.reset(seed=question)
    *searches, answer = env.expert_plan()
    reads, done, sight, played = rng.random() < insight, 0, observation, []
    new: list[str] = []
    for _ in range(turns):
        if rng.random() < noise:
            action = f"{rng.choice(('search', 'answer'))} {rng.choice(names(sight))}"
        elif done < len(searches):
            action = searches[done]
        else:
            action = answer if reads else f"answer {rng.choice(new or names(sight))}"
        done += done < len(searches) and action == searches[done]
        following, _, terminated, truncated, _ = env.step(action)
        played.append((observation, action, following))
        if terminated or truncated:
            break
        new = [name for name in names(following) if name not in sight]
        observation, sight = following, f"{sight} {following}"
    return Transcript(info["task"], played)


def names(text: str) -> list[str]:
    """The invented names in a text."""
    return NAME.findall(text)


def play_questions(seed: int | str, *, noise: float, insight: float) -> Iterator[Transcript]:
    """Endless transcripts, every question another one, of one hop and of two."""
    number = FIRST_BASE
    while True:
        env = make_environment("train", lands=LANDS, hops=(1, 2), fact_seed=number)
        for question in range(env.num_tasks):
            rng = random.Random(f"{seed} {number} {question}")
            yield play(env, question, rng, noise=noise, insight=insight, turns=TURNS)
        number += 1


def search_texts(seed: int) -> Iterator[str]:
    """Questions, documents and commands of other fact bases, for a tokenizer."""
    for number in range(2 * FIRST_BASE, 2 * FIRST_BASE + 3):
        env = make_environment("train", lands=LANDS, hops=(1, 2), topk=3, fact_seed=number)
        for question in range(env.num_tasks):
            rng = random.Random(f"{seed} {number} {question}")
            transcript = play(env, question, rng, noise=0.5, insight=0.5, turns=TURNS)
            for observation, action, answer in transcript.turns:
                yield f"{observation}\nQuestion: {transcript.task}\n> {action}\n{answer}"
