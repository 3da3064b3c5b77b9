"""The worlds that a tiny base policy can be made for, and how each is made."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from players import (
    HiddenRulePlayer,
    HouseholdPlayer,
    Player,
    SafePlayer,
    SearchPlayer,
    ShopPlayer,
    Skill,
    SweepingPlayer,
    play,
)
from tiny_models import SMALL, Shape, Words, calling_words, dialogue_text, qwen_words

from paw_lightning import config_files
from paw_lightning.envs.base import TextEnv
from paw_lightning.envs.hidden_rule.env import HiddenRuleEnv
from paw_lightning.envs.household.env import HouseholdEnv
from paw_lightning.envs.household.game import TASKS
from paw_lightning.envs.safe import COLORS, PLACES, SafeEnv
from paw_lightning.envs.search.env import SearchEnv
from paw_lightning.envs.shop.env import ShopEnv
from paw_lightning.text.prompts import Prompt

STORY = "> {action}"


@dataclass(frozen=True)
class Phase:
    """One run of imitation, with an optimizer and a layout of its own."""

    skill: Skill
    iterations: int
    learning_rate: float
    """Peak; it falls to a twentieth of it."""
    layout: str = "episode"
    episodes: int = 128
    """Of an iteration, which makes four optimizer steps."""
    turns: int | None = None
    """Only the first turns of each episode, where what is hard to learn stands in them; None: the world's."""


@dataclass(frozen=True)
class World:
    """A world, its configuration, and the tasks and player that a base policy learns from."""

    name: str
    config: str
    """What the base policy is for."""
    kind: type[TextEnv]
    """Class of the configuration's environment."""
    start: Callable[[int], tuple[TextEnv, int]]
    """Number -> an environment and one of its tasks, none that training will see."""
    player: Callable[..., Player]
    texts: Callable[[int], Iterator[str]]
    """Seed -> texts for a tokenizer."""
    phases: tuple[Phase, ...]
    turns: int
    """Of an episode that it learns from."""
    story: str
    """For the model card: who played, and what."""
    vocabulary: int = 640
    shape: Shape = SMALL
    words: Callable[[], Words] = qwen_words
    action_prefix: str = " "
    """What an action begins with, behind the mark that ends a prompt."""
    after_action: str = "\n"
    """What stands behind an action in a prompt's history."""

    @property
    def rollout(self) -> dict[str, Any]:
        """The configuration's section: environment, prompt and limits."""
        return section(self.config)

    def environment(self, split: str) -> TextEnv:
        """The configuration's."""
        return environment(self.config, self.kind, split)

    @property
    def step_prompt(self) -> dict[str, Any]:
        """Prompts for the step layout: the configuration's own, or such as show the episode from its beginning."""
        prompt = self.rollout["prompt"]
        if "template" in prompt:
            return prompt
        turn = prompt["turn_template"]
        story = {"template": "{history}" + turn, "history_turn": turn + STORY + self.after_action}
        return prompt | story | {"turn_template": Prompt().turn_template, "history_length": self.turns}


def environment(config: str, kind: type, split: str = "train", **changes: Any) -> Any:
    """A configuration's environment, with changes."""
    return kind(split, **{**section(config)["environment"]["init_args"], **changes})


@cache
def section(config: str) -> dict[str, Any]:
    """A configuration's `rollout`."""
    return config_files.merged(config)["rollout"]


FIRST_HOUSE = 10_000_000
"""Number of the first house played: far from any that training reaches."""
FIRST_SHOP = FIRST_FACTS = 10_000
"""Of the first shop visited and the first fact base asked about: nothing in them is of the one that training visits."""
FIRST_RULE = 10_000_000
"""Of the first rule played by: far from any that a run is trained on."""
FIRST_SAFE = 10_000_000
"""Number of the first safe opened: far from any that training reaches."""
VISITS = 64
"""To one shop; then comes the next, so that no product is worth remembering."""
HOUSES: dict[str, Any] = {"receptacles": 6, "objects": 6}
"""Houses a little larger than the quickstart's, so that nothing there is new to a policy made from them."""
FACTS: dict[str, Any] = {"lands": 40, "hops": (1, 2)}
"""Of one fact base; the next one follows when its questions are used up, so that no fact is worth remembering."""


def start_house(number: int) -> tuple[TextEnv, int]:
    """Every house another one."""
    return environment("household/base", HouseholdEnv, **HOUSES), FIRST_HOUSE + number


def start_shop(number: int) -> tuple[TextEnv, int]:
    """Every goal another one."""
    shop, goal = divmod(number, VISITS)
    return environment("shop/base", ShopEnv, catalogue_seed=FIRST_SHOP + shop), goal


def start_question(number: int) -> tuple[TextEnv, int]:
    """Every question another one, of one hop and of two."""
    facts, question = divmod(number, questions())
    return environment("search/base", SearchEnv, **FACTS, fact_seed=FIRST_FACTS + facts), question


@cache
def questions() -> int:
    """That can be asked about one fact base."""
    return int(environment("search/base", SearchEnv, **FACTS, fact_seed=FIRST_FACTS).num_tasks)


def start_rule(number: int) -> tuple[TextEnv, int]:
    """Every episode another rule, so that none is worth remembering."""
    return environment("hidden/base", HiddenRuleEnv, rule_seed=FIRST_RULE + number), number


def start_safe(number: int) -> tuple[TextEnv, int]:
    """Every safe another one."""
    return environment("tools/safe", SafeEnv), FIRST_SAFE + number


def start_game(number: int) -> tuple[TextEnv, int]:
    """ALFWorld's training games, again and again."""
    return environment("alfworld/small", HouseholdEnv), number


def household_texts(seed: int) -> Iterator[str]:
    """Observations, commands and tasks of larger houses with every task type."""
    env = environment("household/base", HouseholdEnv, tasks=TASKS, receptacles=12, objects=16)
    for house in range(2 * FIRST_HOUSE, 2 * FIRST_HOUSE + 600):
        for task, observation, action, answer in _played(env, house, HouseholdPlayer, f"{seed} {house}", 20):
            yield f"{observation}\nTask: {task}\n> {action}\n{answer}"


def shop_texts(seed: int) -> Iterator[str]:
    """Pages, actions and tasks of other shops."""
    for shop in range(2 * FIRST_SHOP, 2 * FIRST_SHOP + 8):
        env = environment("shop/base", ShopEnv, catalogue_seed=shop)
        for goal in range(VISITS):
            for task, observation, action, answer in _played(env, goal, ShopPlayer, f"{seed} {shop} {goal}", 8):
                yield f"{observation}\nTask: {task}\n> {action} \n{answer}"


def search_texts(seed: int) -> Iterator[str]:
    """Questions, documents and commands of other fact bases."""
    for number in range(2 * FIRST_FACTS, 2 * FIRST_FACTS + 3):
        env = environment("search/base", SearchEnv, **FACTS, topk=3, fact_seed=number)
        for question in range(env.num_tasks):
            dice = f"{seed} {number} {question}"
            for task, observation, action, answer in _played(env, question, SearchPlayer, dice, 4):
                yield f"{observation}\nQuestion: {task}\n> {action}\n{answer}"


def hidden_texts(seed: int) -> Iterator[str]:
    """Answers and commands under other rules, with every kind of door and every answer."""
    for rule in range(2 * FIRST_RULE, 2 * FIRST_RULE + 600):
        env = environment("hidden/base", HiddenRuleEnv, doors=24, levers=16, slip=0.1, rule_seed=rule)
        for _, observation, action, answer in _played(env, rule, HiddenRulePlayer, f"{seed} {rule}", 4):
            yield f"{observation}\n> {action}\n{answer}"


def tools_texts(seed: int) -> Iterator[str]:
    """Dialogues about other safes, as the chat template writes them."""
    env = environment("tools/safe", SafeEnv, places=len(PLACES))
    for safe in range(2 * FIRST_SAFE, 2 * FIRST_SAFE + 300):
        turns = list(_played(env, safe, SafePlayer, f"{seed} {safe}", 6))
        task, first, *_ = turns[0]
        yield dialogue_text(f"{first}\nTask: {task}", [(action, answer) for *_, action, answer in turns], env.tools)


def alfworld_texts(seed: int, games: int = 1000) -> Iterator[str]:
    """Tasks, commands and answers of training games, played at random and by their walkthroughs."""
    env, rng = environment("alfworld/small", HouseholdEnv), random.Random(f"{seed} texts")
    for game in range(games):
        observation, info = env.reset(seed=game)
        yield f"{observation}\nTask: {info['task']}"
        for command in [*rng.sample(info["admissible_commands"], 5), *(env.walkthrough or [])]:
            yield command
            yield f"{env.step(command)[0]}\nTask: {info['task']}"


def alfworld_words() -> Words:
    """A place with its number is one token, as is a phrase between two names; objects keep their number apart.

    Short transcripts are most of the speed; and the task's object and the one in view begin with the same token.
    """
    texts = "\n".join(alfworld_texts(0))
    places, names = (
        "|".join(sorted(set(re.findall(rf"{before} ([a-z]+) \d", texts)))) for before in ("go to", r"\b(?:a|to|from)")
    )
    pieces = rf" (?:{places}) [0-9]+| (?:{names})\b| [0-9]+|\n?(?:(?! (?:{names})\b| [0-9])[^\n])+|\n"
    return Words.of_pieces(pieces)


def _played(env: TextEnv, task: int, player: Any, dice: str, turns: int) -> Iterator[tuple[str, ...]]:
    return play(env, task, player, random.Random(dice), Skill(0.5, 0.5), turns)


HOUSEHOLD = World(
    name="household",
    config="household/base",
    kind=HouseholdEnv,
    start=start_house,
    player=HouseholdPlayer,
    texts=household_texts,
    # Noise from the first step on: put in at the end alone, the first few updates of any kind would remove it.
    phases=(
        Phase(Skill(0.5, 0.3), 450, 4e-3),
        Phase(Skill(0.5, 0.3), 60, 2e-3, layout="step", episodes=32),
        Phase(Skill(0.5, 0.3), 60, 2e-3),
    ),
    turns=12,
    story="each of a house never seen in the same phase before or again. The expert has to search; in a share 0.3 of "
    "the episodes one plays who knows where everything is",
)
SHOP = World(
    name="shop",
    config="shop/base",
    kind=ShopEnv,
    start=start_shop,
    player=ShopPlayer,
    texts=shop_texts,
    # To click what stands on a page is the hard part, and is learnt in short episodes first.
    phases=(
        Phase(Skill(0.3), 300, 4e-3, episodes=96, turns=2),
        Phase(Skill(0.3), 60, 2e-3, layout="step", episodes=32),
        Phase(Skill(0.4), 75, 2e-3, episodes=96),
    ),
    turns=8,
    story="each of a goal never seen in the same phase before or again, in shops other than the one of the "
    "configuration. The expert goes by what the pages say",
    vocabulary=800,
    after_action=" \n",  # "]" and the line break stay two tokens, as when the policy writes "]" and stops
)
SEARCH = World(
    name="search",
    config="search/base",
    kind=SearchEnv,
    start=start_question,
    player=SearchPlayer,
    texts=search_texts,
    phases=(
        Phase(Skill(0.4, 0.5), 150, 4e-3),
        Phase(Skill(0.4, 0.5), 30, 2e-3, layout="step", episodes=32),
        Phase(Skill(0.4, 0.5), 30, 2e-3),
    ),
    turns=4,
    story="each of a question never asked in the same phase before or again, about facts other than those of the "
    "configuration. In a share 0.5 of the episodes the player reads which fact is asked for, in the others it guesses "
    "among what is new",
)
HIDDEN = World(
    name="hidden",
    config="hidden/base",
    kind=HiddenRuleEnv,
    start=start_rule,
    player=HiddenRulePlayer,
    texts=hidden_texts,
    phases=(
        Phase(Skill(0.3, 0.3), 60, 4e-3),
        Phase(Skill(0.3, 0.3), 10, 2e-3, layout="step", episodes=64),
    ),
    turns=4,
    story="each under a rule never met before or again, and never that of the configuration. In a share 0.3 of the "
    "episodes the player pulls the lever of the bolt that it has just seen, in the others any",
    vocabulary=480,
    shape=Shape(width=64, feedforward=160),
)
TOOLS = World(
    name="tools",
    config="tools/safe",
    kind=SafeEnv,
    start=start_safe,
    player=SafePlayer,
    texts=tools_texts,
    # What to do with a note is learnt from a better player first, and mostly hidden under any calls then.
    phases=(Phase(Skill(0.3), 120, 4e-3, episodes=64), Phase(Skill(0.75), 16, 2e-3, episodes=64)),
    turns=4,
    story="each of a safe never seen before or again. The expert looks into one place after the other, then enters the "
    "code of the note; any call is a look into one of the places, or a code made up",
    vocabulary=1024,
    words=partial(calling_words, (*PLACES, *COLORS)),
    action_prefix="",
)
ALFWORLD = World(
    name="alfworld",
    config="alfworld/small",
    kind=HouseholdEnv,
    start=start_game,
    player=SweepingPlayer,
    texts=alfworld_texts,
    # How things are handled comes first, in short episodes of players who mostly know where they are; then the search.
    phases=(
        Phase(Skill(0.2, 0.8), 160, 4e-3, episodes=16, turns=12),
        Phase(Skill(0.1, 0.5, mistakes=0.1), 160, 3e-3, episodes=24),
        # Half of the players dawdle: a habit that costs half of the turns, and that reinforcement learning can drop.
        Phase(Skill(0.1, 0.15, mistakes=0.1, dawdling=0.5), 160, 3e-3, episodes=24, turns=24),
    ),
    turns=24,
    story="of the training games. In a share 0.8, 0.5, then 0.15 of the episodes the player knows where everything "
    "is, in the others it looks into one place after the other, in the order in which they are listed; after the first "
    "phase a share 0.1 of its turns are mistakes, which nothing happens on, and in the third one half of the players "
    "look around after every arrival, which tells them nothing",
    vocabulary=1536,
    shape=Shape(width=128, feedforward=384, layers=3, heads=4),
    words=alfworld_words,
    action_prefix="",
)
WORLDS = {world.name: world for world in (HOUSEHOLD, SHOP, SEARCH, HIDDEN, TOOLS, ALFWORLD)}
