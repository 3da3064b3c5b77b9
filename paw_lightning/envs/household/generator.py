"""Seeded houses for the household world: small, always solvable, in ALFWorld's words."""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from paw_lightning.envs.household.game import Goal, HouseholdGame

APPLIANCE = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}
"""Task -> the receptacle kind it needs; a house has at most one of each."""
OPENABLE = ("cabinet", "drawer", "fridge", "microwave")
RECEPTACLES = (
    *("cabinet", "countertop", "desk", "diningtable", "drawer", "dresser"),
    *("fridge", "garbagecan", "microwave", "shelf", "sidetable", "sinkbasin"),
)
LAMP = "desklamp"
LAMP_PLACES = ("desk", "dresser", "shelf", "sidetable")
SENTENCES = {
    "pick": "put a {object} in {target}.",
    "look": "examine the {object} with the {target}.",
    "clean": "put a clean {object} in {target}.",
    "heat": "put a hot {object} in {target}.",
    "cool": "put a cool {object} in {target}.",
    "pick_two": "put two {object} in {target}.",
}
MIN_RECEPTACLES = 2
MIN_OBJECTS = {"pick": 1, "look": 2, "clean": 1, "heat": 1, "cool": 1, "pick_two": 2}
"""Task -> how many objects it is about, the lamp included."""


SHARES, HELD_OUT = 16, ("val", "test")
"""How many shares starts and goals are dealt into, and whose the first of them are; the others train."""


@dataclass(frozen=True)
class Group:
    """Object kinds that behave alike: the receptacle kinds that may hold them, the tasks that may ask for them.

    Serving "clean" is being cleanable, and so on.
    """

    kinds: tuple[str, ...]
    places: tuple[str, ...]
    tasks: tuple[str, ...]


TABLES = ("countertop", "diningtable", "sidetable")
FOOD = Group(
    kinds=("apple", "egg", "potato", "tomato"),
    places=(*TABLES, "fridge", "garbagecan", "microwave", "sinkbasin"),
    tasks=("pick", "clean", "heat", "cool", "pick_two"),
)
DISHES = Group(
    kinds=("cup", "mug", "plate"),
    places=(*TABLES, "cabinet", "fridge", "microwave", "shelf", "sinkbasin"),
    tasks=("pick", "clean", "heat", "cool", "pick_two"),
)
CUTLERY = Group(
    kinds=("fork", "knife", "spatula", "spoon"),
    places=(*TABLES, "drawer", "sinkbasin"),
    tasks=("pick", "clean", "pick_two"),
)
WASHING = Group(
    kinds=("cloth", "soapbar"),
    places=("cabinet", "countertop", "drawer", "garbagecan", "shelf", "sinkbasin"),
    tasks=("pick", "clean", "pick_two"),
)
BELONGINGS = Group(
    kinds=("book", "cellphone", "creditcard", "keychain", "pen", "pencil"),
    places=(*TABLES, "desk", "drawer", "dresser", "shelf"),
    tasks=("pick", "look", "pick_two"),
)
GROUPS = (FOOD, DISHES, CUTLERY, WASHING, BELONGINGS)
PLACES = {kind: group.places for group in GROUPS for kind in group.kinds} | {LAMP: LAMP_PLACES}
CAN_CONTAIN = frozenset((place, kind) for kind, places in PLACES.items() for place in places)


def generate_game(rng: random.Random, tasks: Sequence[str], receptacles: int, objects: int) -> HouseholdGame:
    """Draw a house with a task from ``tasks`` (a name that occurs twice is twice as likely).

    ``receptacles`` is at least MIN_RECEPTACLES and ``objects`` (counting lamps) at least the task's MIN_OBJECTS.
    Nothing of the wanted kind starts in a receptacle of the target kind, so that no house is won for free.
    """
    task = rng.choice(tasks)
    group = rng.choice([group for group in GROUPS if task in group.tasks])
    wanted = rng.choice(group.kinds)
    fixed = [APPLIANCE[task]] if task in APPLIANCE else []
    if task == "look":
        goal = Goal(task, wanted, LAMP)
        fixed.append(rng.choice(LAMP_PLACES))
    else:
        goal = Goal(task, wanted, rng.choice([kind for kind in group.places if kind not in fixed]))
        fixed.append(goal.target)
    places = _draw_receptacles(rng, goal, fixed, receptacles)
    contents = _place_objects(rng, goal, places, objects)
    return _build(goal, places, contents)


def split_of(game: HouseholdGame) -> str:
    """The split that plays every house with this start and goal, so that no other split has one of them.

    A checksum of the task and the receptacles, which is all that a player sees at first (in one order), decides.
    """
    seen = " ".join([game.task, *game.receptacles])
    return dict(enumerate(HELD_OUT)).get(zlib.crc32(seen.encode()) % SHARES, "train")


def _draw_receptacles(rng: random.Random, goal: Goal, kinds: list[str], count: int) -> list[str]:
    """Names of ``count`` receptacles: those of ``kinds``, somewhere for the wanted object to be, and any others."""
    kinds = list(kinds)
    sources = [kind for kind in PLACES[goal.object] if kind != goal.target]
    if not set(sources) & set(kinds):
        kinds.append(rng.choice(sources))
    while len(kinds) < count:
        kind = rng.choice(RECEPTACLES)
        if kind not in APPLIANCE.values() or kind not in kinds:
            kinds.append(kind)
    return _number(kinds)


def _place_objects(rng: random.Random, goal: Goal, receptacles: list[str], count: int) -> dict[str, list[str]]:
    """Receptacle -> names of the objects in it: what the task is about, then random others up to ``count``."""

    def choices(kind: str) -> list[str]:
        barred = goal.target if kind == goal.object else None
        allowed = [place for place in PLACES[kind] if place != barred]
        return [name for name in receptacles if name.split()[0] in allowed]

    kinds = [goal.object] * (2 if goal.task == "pick_two" else 1) + [LAMP] * (goal.task == "look")
    others = [kind for group in GROUPS for kind in group.kinds if choices(kind)]
    kinds += rng.choices(others, k=count - len(kinds))
    contents: dict[str, list[str]] = {name: [] for name in receptacles}
    for name in _number(kinds):
        contents[rng.choice(choices(name.split()[0]))].append(name)
    return contents


def _number(kinds: list[str]) -> list[str]:
    """Kinds -> display names: "mug", "mug" -> "mug 1", "mug 2"."""
    seen: Counter[str] = Counter()
    names = []
    for kind in kinds:
        seen[kind] += 1
        names.append(f"{kind} {seen[kind]}")
    return names


def _build(goal: Goal, receptacles: list[str], contents: dict[str, list[str]]) -> HouseholdGame:
    objects = [name for names in contents.values() for name in names]
    kinds = {name: name.split()[0] for name in receptacles + objects}
    # As in the official games, lists go by kind, highest number first.
    order = sorted(kinds, key=lambda name: (kinds[name], -int(name.split()[1])))
    rank = {name: place for place, name in enumerate(order)}

    def able(task: str) -> frozenset[str]:
        served = {kind for group in GROUPS if task in group.tasks for kind in group.kinds}
        return frozenset(name for name in objects if kinds[name] in served)

    return HouseholdGame(
        task=SENTENCES[goal.task].format(object=goal.object, target=goal.target),
        goal=goal,
        order=tuple(order),
        kinds=kinds,
        receptacle_locations={name: f"by {name}" for name in receptacles},
        start="middle of the room",
        contents={name: tuple(sorted(names, key=rank.__getitem__)) for name, names in contents.items()},
        can_contain=CAN_CONTAIN,
        openable=frozenset(name for name in receptacles if kinds[name] in OPENABLE),
        pickupable=frozenset(name for name in objects if kinds[name] != LAMP),
        toggleable=frozenset(name for name in objects if kinds[name] == LAMP),
        cleanable=able("clean"),
        heatable=able("heat"),
        coolable=able("cool"),
        sliceable=frozenset(name for name in objects if kinds[name] in FOOD.kinds),
        object_locations=frozenset((name, f"by {place}") for place, names in contents.items() for name in names),
    )
