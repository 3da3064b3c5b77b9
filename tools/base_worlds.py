"""The worlds that a tiny base policy can be made for, and how each is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import household_transcripts
import search_transcripts
import shop_transcripts
from household_transcripts import Transcript

from paw_lightning.envs.base import TextEnv


@dataclass(frozen=True)
class Phase:
    """One stretch of training with an optimizer of its own."""

    noise: float
    """Share of the player's actions that are drawn from all that the world would react to."""
    steps: int
    learning_rate: float
    """Peak; it falls to a twentieth of it."""
    growing: float = 0.0
    """Share of the transcripts that are written as in the episode layout."""
    turns: int | None = None
    """Only the first turns of each transcript, where what is hard to learn stands in them; None: all."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the base policy becomes."""

    phases: tuple[Phase, ...] = (Phase(0.5, 1800, 4e-3), Phase(0.5, 400, 2e-3, growing=0.75))
    """There is noise from the first step on: put in at the end alone, the first few updates of any kind would remove
    it. More of it later (a second phase of 450 steps at 0.65) gave a base that learns more slowly."""
    observation_weight: float = 0.3
    """Weight of the loss on shuffled observations, next to 1 for the loss on actions."""
    vocabulary: int = 640
    width: int = 96
    feedforward: int = 256
    layers: int = 3
    heads: int = 4
    batch: int = 32
    warmup: int = 50


@dataclass(frozen=True)
class World:
    """A world, its configuration, and the texts and transcripts that a base policy learns from."""

    name: str
    config: Path
    """What the base policy is for."""
    rollout: Callable[[], dict[str, Any]]
    """The configuration's section of that name: environment, prompt and limits."""
    environment: Callable[[str], TextEnv]
    """Split -> the configuration's environment."""
    episodes: Callable[[str, float], Iterator[Transcript]]
    """Seed and noise -> endless transcripts, none of a task that training will see."""
    texts: Callable[[int], Iterator[str]]
    """Seed -> texts for a tokenizer."""
    recipe: Recipe
    story: str
    """For the model card: who played, and what."""


HOUSEHOLD_INSIGHT = 0.3
"""Share of the episodes whose player knows where everything is, so that taking and putting down are frequent."""
HOUSEHOLD = World(
    name="household",
    config=household_transcripts.WORLD,
    rollout=household_transcripts.world,
    environment=household_transcripts.make_environment,
    episodes=lambda seed, noise: household_transcripts.play_houses(seed, noise=noise, insight=HOUSEHOLD_INSIGHT),
    texts=household_transcripts.household_texts,
    recipe=Recipe(),
    story="each of a house never seen in the same phase before or again. The expert has to search; in a share "
    f"{HOUSEHOLD_INSIGHT} of the episodes one plays who knows where everything is",
)
SHOP = World(
    name="shop",
    config=shop_transcripts.WORLD,
    rollout=shop_transcripts.world,
    environment=shop_transcripts.make_environment,
    episodes=lambda seed, noise: shop_transcripts.play_shops(seed, noise=noise),
    texts=shop_transcripts.shop_texts,
    recipe=Recipe(
        # To click what stands on a page is the hard part, and is learnt in short transcripts first.
        phases=(Phase(0.3, 1600, 4e-3, growing=0.3, turns=2), Phase(0.4, 300, 2e-3, growing=0.6)),
        vocabulary=800,
        batch=24,
    ),
    story="each of a goal never seen in the same phase before or again, in shops other than the one of the "
    "configuration. The expert goes by what the pages say",
)
SEARCH_INSIGHT = 0.5
"""Share of the episodes whose player reads which of a document's facts is asked for; in the others it guesses."""
SEARCH = World(
    name="search",
    config=search_transcripts.WORLD,
    rollout=search_transcripts.world,
    environment=search_transcripts.make_environment,
    episodes=lambda seed, noise: search_transcripts.play_questions(seed, noise=noise, insight=SEARCH_INSIGHT),
    texts=search_transcripts.search_texts,
    recipe=Recipe(phases=(Phase(0.4, 600, 4e-3), Phase(0.4, 200, 2e-3, growing=0.75))),
    story="each of a question never asked in the same phase before or again, about facts other than those of the "
    f"configuration. In a share {SEARCH_INSIGHT} of the episodes the player reads which fact is asked for, in the "
    "others it guesses among what is new",
)
WORLDS = {world.name: world for world in (HOUSEHOLD, SHOP, SEARCH)}
