"""Two experts for the household world: one that knows where everything is, one that has to look for it."""

from __future__ import annotations

import random
import re
from collections.abc import Collection
from dataclasses import dataclass, field

from paw_lightning.envs.household.engine import APPLIANCES, HouseholdEngine
from paw_lightning.envs.household.game import Goal

NAME = r"[a-z]+ \d+"
MAX_PLAN = 1000
PATTERNS = {
    r"(?:examine the|look at) (\w+) (?:with|under) the (\w+)": "look",
    r"(?:put|find) two (\w+) (?:and put them )?(?:in|on) (\w+)": "pick_two",
    r"(?:put a clean|clean some) (\w+) (?:and put it )?(?:in|on) (\w+)": "clean",
    r"(?:put a hot|heat some) (\w+) (?:and put it )?(?:in|on) (\w+)": "heat",
    r"(?:put a cool|cool some) (\w+) (?:and put it )?(?:in|on) (\w+)": "cool",
    r"put (?:a|some) (\w+) (?:in|on) (\w+)": "pick",
}
"""ALFWorld's goal sentences -> task; the groups are the wanted object and the target."""


@dataclass
class Knowledge:
    """What an expert believes about the house; names as displayed."""

    goal: Goal
    contents: dict[str, list[str] | None] = field(default_factory=dict)
    """Receptacle -> objects seen in it; None when nobody has looked."""
    held: str | None = None
    treated: set[str] = field(default_factory=set)
    """Objects in the state that the goal asks for."""


def next_command(known: Knowledge, admissible: Collection[str], rng: random.Random) -> str:
    """The next command of a sensible player: search at random, fetch, treat, deliver.

    Works from any reachable state, so it can take over after somebody else's detours.
    """
    goal, held = known.goal, known.held
    if held is not None and _kind(held) != goal.object:
        return _put_down(held, admissible, rng)
    if held is not None:
        return _deliver(known, held, admissible) or _search(known, admissible, rng)
    return _fetch(known, admissible) or _search(known, admissible, rng)


def _kind(name: str) -> str:
    return name.split()[0]


def _toward(receptacle: str, command: str, admissible: Collection[str]) -> str:
    """``command`` as soon as it is possible, until then the way to it."""
    for step in (command, f"open {receptacle}", f"go to {receptacle}"):
        if step in admissible:
            return step
    return f"examine {receptacle}"


def _fetch(known: Knowledge, admissible: Collection[str]) -> str | None:
    delivered = _destination(known) if known.goal.task == "pick_two" else None
    for receptacle, objects in known.contents.items():
        if receptacle != delivered:
            for name in objects or ():
                if _kind(name) == known.goal.object:
                    return _toward(receptacle, f"take {name} from {receptacle}", admissible)
    return None


def _deliver(known: Knowledge, held: str, admissible: Collection[str]) -> str | None:
    goal = known.goal
    if goal.task == "look":
        for receptacle, objects in known.contents.items():
            for name in objects or ():
                if _kind(name) == goal.target:
                    return _toward(receptacle, f"use {name}", admissible)
        return None
    if goal.task in APPLIANCES and held not in known.treated:
        tool = next(name for name in known.contents if _kind(name) in APPLIANCES[goal.task])
        return _toward(tool, f"{goal.task} {held} with {tool}", admissible)
    destination = _destination(known)
    return _toward(destination, f"move {held} to {destination}", admissible)


def _destination(known: Knowledge) -> str:
    """The receptacle of the target kind that holds most of what was asked for."""
    candidates = [name for name in known.contents if _kind(name) == known.goal.target]
    return max(candidates, key=lambda name: sum(_kind(o) == known.goal.object for o in known.contents[name] or ()))


def _search(known: Knowledge, admissible: Collection[str], rng: random.Random) -> str:
    unseen = [name for name, objects in known.contents.items() if objects is None]
    here = [name for name in unseen if f"examine {name}" in admissible]
    if not unseen:  # lost track: look again at random
        return rng.choice(_ways(admissible))
    receptacle = here[0] if here else rng.choice(unseen)
    return _toward(receptacle, f"open {receptacle}", admissible)


def _put_down(held: str, admissible: Collection[str], rng: random.Random) -> str:
    """Get rid of the wrong object at the first place that takes it."""
    here = [command for command in sorted(admissible) if command.startswith((f"move {held} to ", "open "))]
    return here[0] if here else rng.choice(_ways(admissible))


def _ways(admissible: Collection[str]) -> list[str]:
    return [command for command in sorted(admissible) if command.startswith("go to ")]


def plan(engine: HouseholdEngine) -> list[str]:
    """Commands that win from the engine's state, by an expert who knows where everything is; the engine is unchanged.

    Raises:
        RuntimeError: nothing worked, e.g. the player of an official game holds an object that fits nowhere.
    """
    engine, rng = engine.copy(), random.Random(0)
    goal = engine.game.goal
    commands: list[str] = []
    for _ in range(MAX_PLAN):
        if engine.won:
            return commands
        contents: dict[str, list[str] | None] = dict(engine.contents)
        known = Knowledge(goal, contents, engine.held, engine.treated.get(goal.task, set()))
        commands.append(next_command(known, engine.admissible, rng))
        engine.step(commands[-1])
    raise RuntimeError(f"no plan within {MAX_PLAN} commands for the task {engine.game.task!r}")


def parse_task(sentence: str) -> Goal:
    """Read one of ALFWorld's goal sentences.

    Raises:
        ValueError: the sentence fits none of them.
    """
    for pattern, task in PATTERNS.items():
        if match := re.match(pattern, sentence.lower()):
            return Goal(task, match[1], match[2])
    raise ValueError(f"task={sentence!r} is no ALFWorld goal sentence; expected e.g. 'put a mug in cabinet.'")


class ExplorerExpert:
    """Plays one episode from its text alone: looks into unseen receptacles in random order, then acts.

    Make one per episode, with ``info["task"]``, and pass *every* observation of the episode to ``act``. What it returns
    need not be what is played next: it learns what happened from the text.
    """

    def __init__(self, rng: random.Random, task: str) -> None:
        self.rng = rng
        self.known = Knowledge(parse_task(task))

    def act(self, observation: str, admissible: Collection[str]) -> str:
        """The next command, given the latest observation and ``info["admissible_commands"]``."""
        self.observe(observation)
        return next_command(self.known, admissible, self.rng)

    def observe(self, text: str) -> None:
        """Take in an observation without acting on it."""
        known = self.known
        if not known.contents:  # the first observation lists all receptacles
            known.contents = dict.fromkeys(re.findall(rf"\ba ({NAME})", text.split("Your task is to")[0]))
            return
        for receptacle, objects in re.findall(rf"(?:On the|The) ({NAME})(?: is open. In it)?, you see ([^.]*)", text):
            known.contents[receptacle] = re.findall(rf"\ba ({NAME})", objects)
        if match := re.search(rf"You (?:pick up|move) the ({NAME}) (from|to) the ({NAME})", text):
            name, direction, receptacle = match.groups()
            objects = [other for other in known.contents[receptacle] or () if other != name]
            known.contents[receptacle] = objects + [name] * (direction == "to")
            known.held = name if direction == "from" else None
        if match := re.search(rf"You (clean|heat|cool) the ({NAME}) using", text):
            if match[1] == known.goal.task:
                known.treated.add(match[2])
            elif match[1] != "clean":  # heating undoes cooling and the other way round
                known.treated.discard(match[2])
