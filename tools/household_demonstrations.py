"""Demonstrations in the household world: noisy play, tokenised exactly as reinforcement learning will see it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from paw_lightning.envs.household import HouseholdEnv
from paw_lightning.envs.household_expert import ExplorerExpert
from paw_lightning.tokenization import PromptBuilder, Turn

FIRST_HOUSE = 10_000_000
"""Number of the first house that is played for demonstrations: far from any that training reaches."""


@dataclass(frozen=True)
class Step:
    """One turn of a demonstration, as text."""

    task: str
    initial: str
    turns: tuple[Turn, ...]
    observation: str
    admissible: list[str]
    expert: str
    others: list[str]
    """Drawn from all commands that the house would react to."""
    answer: str
    """To the one of them that was played."""


@dataclass(frozen=True)
class Example:
    """One turn of a demonstration, as token ids."""

    prompt_ids: list[int]
    action_ids: list[list[int]]
    """The expert's action, then the others; each ends with the end-of-turn token."""
    observation_ids: list[int]


def play(
    env: HouseholdEnv, house: int, rng: random.Random, *, noise: float, insight: float, others: int, turns: int
) -> list[Step]:
    """Play one house for at most `turns` turns.

    Each action is, with probability `noise`, any that the house would react to; else an expert's. The expert of a share
    `insight` of the episodes knows where everything is: it finds what it looks for far more often than one who has to
    search, so that taking and putting down, what a policy has to learn most, are frequent.
    """
    observation, info = env.reset(seed=house)
    initial, task = observation, info["task"]
    explorer = ExplorerExpert(rng, task)
    knowing = rng.random() < insight
    steps: list[Step] = []
    history: list[Turn] = []
    for _ in range(turns):
        admissible = info["admissible_commands"]
        expert = explorer.act(observation, admissible)
        if knowing:
            expert = env.expert_plan()[0]
        possible = [command for command in admissible if command != "help"]
        drawn = rng.choices(possible, k=others)
        action = drawn[0] if rng.random() < noise else expert
        answer, _, won, _, info = env.step(action)
        steps.append(Step(task, initial, tuple(history), observation, admissible, expert, drawn, answer))
        history.append(Turn(observation, action))
        observation = answer
        if won:
            break
    return steps


def episodes(env: HouseholdEnv, count: int, seed: int, **options: float) -> Iterator[list[Step]]:
    """Play `count` houses, every one a different one."""
    for house in range(FIRST_HOUSE, FIRST_HOUSE + count):
        yield play(env, house, random.Random(f"{seed} {house}"), **options)


def examples(
    played: Iterator[list[Step]], builder: PromptBuilder, per_episode: int, seed: int, progress: Callable[[int], None]
) -> list[Example]:
    """Tokenise up to `per_episode` random turns of each episode: turns of one episode teach much the same."""
    rng = random.Random(f"{seed} turns")
    drawn = []
    for number, steps in enumerate(played, start=1):
        drawn += [_tokenise(step, builder) for step in rng.sample(steps, min(per_episode, len(steps)))]
        progress(number)
    return drawn


def _tokenise(step: Step, builder: PromptBuilder) -> Example:
    chat = builder.chat
    prompt_ids = builder.build(step.task, step.observation, step.turns, step.initial, step.admissible)
    action_ids = [[*chat.encode_text(action), chat.tokenizer.eos_token_id] for action in (step.expert, *step.others)]
    return Example(prompt_ids, action_ids, chat.encode_text(step.answer))
