"""Noisy players: experts of the worlds that a base policy is made for, who do anything now and then."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from paw_lightning.envs.base import TextEnv
from paw_lightning.envs.hidden_rule.env import HiddenRuleEnv
from paw_lightning.envs.hidden_rule.players import IgnorantPlayer
from paw_lightning.envs.household.env import HouseholdEnv
from paw_lightning.envs.household.expert import ExplorerExpert
from paw_lightning.envs.safe import SafeEnv, draw_code
from paw_lightning.envs.search.env import NAME, SearchEnv
from paw_lightning.envs.shop.env import SEARCH
from paw_lightning.envs.shop.expert import ShopExpert
from paw_lightning.text.tool_calls import Call


@dataclass(frozen=True)
class Skill:
    """How well a player plays."""

    noise: float
    """Share of its actions that are drawn from all that the world would react to."""
    insight: float = 0.0
    """Share of its episodes in which it knows what others have to find out."""
    mistakes: float = 0.0
    """Share of its actions that the world would not react to; of SweepingPlayer alone."""
    dawdling: float = 0.0
    """Share of its episodes in which it looks around after every arrival; of SweepingPlayer alone."""


class Player(Protocol):
    """Plays one episode; has seen the first observation when it is made."""

    def act(self, observation: str, info: dict[str, Any]) -> str:
        """What it does now; it is shown every observation of the episode once."""


class HouseholdPlayer:
    """With insight it knows where everything is; otherwise it has to search."""

    def __init__(self, env: HouseholdEnv, observation: str, info: dict[str, Any], rng: random.Random, skill: Skill):
        self.env, self.rng, self.skill = env, rng, skill
        self.explorer = ExplorerExpert(rng, info["task"])
        self.knowing = rng.random() < skill.insight

    def act(self, observation: str, info: dict[str, Any]) -> str:
        """An expert's command, or any that the house would react to."""
        admissible = info["admissible_commands"]
        action = self.explorer.act(observation, admissible)
        if self.knowing:
            action = self.env.expert_plan()[0]
        if self.rng.random() < self.skill.noise:
            action = self.rng.choice([command for command in admissible if command != "help"])
        return action


class SweepingPlayer(HouseholdPlayer):
    """Searches place by place in the order in which they are listed, from any of them on, and may make mistakes.

    A small model learns to copy the next name of a list in far fewer episodes than to draw any that it has not visited.
    Mistakes are answered by "Nothing happens.": a model that has never read it repeats its own mistakes for ever.
    """

    def __init__(self, env: HouseholdEnv, observation: str, info: dict[str, Any], rng: random.Random, skill: Skill):
        super().__init__(env, observation, info, rng, skill)
        self.explorer.rng = self.onward = Onward(rng)
        self.known = dict[str, None]()
        """Commands that the house would have reacted to at some turn."""
        self.dawdles = skill.dawdling > 0 and rng.random() < skill.dawdling

    def act(self, observation: str, info: dict[str, Any]) -> str:
        """A searching or a knowing player's command, or any that the house would react to, or a mistake."""
        if not self.onward.places:  # the first observation lists them all
            self.onward.places = re.findall(r"\ba ([a-z]+ \d+)", observation)
        if match := re.match(r"You arrive at ([a-z]+ \d+)", observation):
            self.onward.here = match[1]
        self.known |= dict.fromkeys(info["admissible_commands"])
        action = super().act(observation, info)
        if self.dawdles and observation.startswith("You arrive at"):
            action = "look"
        if self.skill.mistakes and self.rng.random() < self.skill.mistakes:
            action = self.mistake(action, info["admissible_commands"])
        return action

    def mistake(self, action: str, admissible: list[str]) -> str:
        """A command that was right at another turn, or this one with another number."""
        past = [command for command in self.known if command not in admissible]
        if past and self.rng.random() < 0.5:
            return self.rng.choice(past)
        return re.sub(r"\d+", str(self.rng.randint(1, 4)), action, count=1)


class Onward(random.Random):
    """Chooses, of some of the places, the first one from `here` on; of anything else by the dice."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self.dice, self.places, self.here = dice, list[str](), ""

    def choice(self, seq: Any) -> Any:
        """One of them."""
        if seq[0] not in self.places:
            return self.dice.choice(seq)
        count = len(self.places)
        begin = self.places.index(self.here) if self.here else self.dice.randrange(count)
        return min(seq, key=lambda place: (self.places.index(place) - begin) % count)


class ShopPlayer:
    """Goes by what the pages say, or does anything that the shop would react to (a search: for some of the words)."""

    def __init__(self, env: TextEnv, observation: str, info: dict[str, Any], rng: random.Random, skill: Skill):
        self.rng, self.skill = rng, skill
        self.expert = ShopExpert(info["task"])

    def act(self, observation: str, info: dict[str, Any]) -> str:
        """The expert's click or search, or any."""
        action = self.expert.act(observation)
        if self.rng.random() < self.skill.noise:
            action = self.rng.choice(info["admissible_commands"])
            if action == SEARCH:
                words = self.expert.wish.query.split()
                action = f"search[{' '.join(self.rng.sample(words, self.rng.randint(1, len(words))))}]"
        return action


class SearchPlayer:
    """Searches step by step, then answers: with insight the right name, otherwise any that was new at the end."""

    def __init__(self, env: SearchEnv, observation: str, info: dict[str, Any], rng: random.Random, skill: Skill):
        self.rng, self.skill = rng, skill
        *self.searches, self.answer = env.expert_plan()
        self.reads = rng.random() < skill.insight
        self.sight = ""
        """All that was shown."""

    def act(self, observation: str, info: dict[str, Any]) -> str:
        """The next search or an answer; or one of the two with any name in sight."""
        new = [name for name in names(observation) if self.sight and name not in self.sight]
        self.sight = f"{self.sight} {observation}"
        if self.rng.random() < self.skill.noise:
            action = f"{self.rng.choice(('search', 'answer'))} {self.rng.choice(names(self.sight))}"
        elif self.searches:
            action = self.searches[0]
        else:
            action = self.answer if self.reads else f"answer {self.rng.choice(new or names(self.sight))}"
        if self.searches and action == self.searches[0]:
            self.searches.pop(0)
        return action


class HiddenRulePlayer:
    """With insight it heeds the bolts that it sees, otherwise it pulls any lever; it never knows the rule."""

    def __init__(self, env: HiddenRuleEnv, observation: str, info: dict[str, Any], rng: random.Random, skill: Skill):
        self.rng, self.skill = rng, skill
        self.player = IgnorantPlayer(env.levers, rng)
        self.heeding = rng.random() < skill.insight

    def act(self, observation: str, info: dict[str, Any]) -> str:
        """The ignorant player's pull, or any."""
        action = self.player.act(observation)
        if not self.heeding or self.rng.random() < self.skill.noise:
            action = self.rng.choice(info["admissible_commands"])
        self.player.pulled = action.split()[-1]
        return action


class SafePlayer:
    """Looks for the code and enters it, or makes any call: a look into one of the places, or a code made up."""

    def __init__(self, env: SafeEnv, observation: str, info: dict[str, Any], rng: random.Random, skill: Skill):
        self.env, self.rng, self.skill = env, rng, skill
        self.places = re.findall(r"\w+", observation.partition(":")[2])

    def act(self, observation: str, info: dict[str, Any]) -> str:
        """The expert's call, or any."""
        if self.rng.random() >= self.skill.noise:
            return self.env.demonstrate()
        if self.rng.random() < 0.5:
            return str(Call("look_in", {"place": self.rng.choice(self.places)}))
        return str(Call("enter", {"code": draw_code(self.rng, self.env.digits)}))


def names(text: str) -> list[str]:
    """The invented names in a text."""
    return NAME.findall(text)


def play(
    env: TextEnv, task: int, player: Any, rng: random.Random, skill: Skill, turns: int
) -> Iterator[tuple[str, ...]]:
    """One episode of at most so many turns: (task, observation, action, answer) of each."""
    observation, info = env.reset(seed=task)
    goal, playing = info["task"], player(env, observation, info, rng, skill)
    for _ in range(turns):
        action = playing.act(observation, info)
        answer, _, terminated, truncated, following = env.step(action)
        yield goal, observation, action, answer
        if terminated or truncated:
            return
        observation, info = answer, {**info, **following}
