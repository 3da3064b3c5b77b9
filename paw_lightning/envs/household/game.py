"""What one house of the household world is, before anybody acts in it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

TASKS = ("pick", "look", "clean", "heat", "cool", "pick_two")
"""ALFWorld's six task types, by their short names."""

Commands = dict[str, tuple[str, ...]]
"""What the world reacts to: command text -> (method of the engine, its arguments...)."""


@dataclass(frozen=True)
class Goal:
    """What wins: ``task`` (one of TASKS), the wanted ``object`` kind and the ``target`` kind (receptacle or lamp)."""

    task: str
    object: str
    target: str


@dataclass(frozen=True)
class HouseholdGame:
    """Everything about one house that no action changes, and where things start; shared by all who play it.

    Receptacles and objects go by their display names ("mug 1"); ``kinds`` gives each its kind ("mug").
    """

    task: str
    """The goal as one sentence."""
    goal: Goal
    order: tuple[str, ...]
    """All names, in the order in which lists print them."""
    kinds: dict[str, str]
    receptacle_locations: dict[str, str]
    start: str
    """The player's first location, where no receptacle is."""
    contents: dict[str, tuple[str, ...]]
    """Receptacle -> the objects in it, in printing order. An official object can be in several at once."""
    can_contain: frozenset[tuple[str, str]]
    """Pairs (receptacle kind, object kind)."""
    openable: frozenset[str]
    pickupable: frozenset[str]
    toggleable: frozenset[str]
    cleanable: frozenset[str]
    heatable: frozenset[str]
    coolable: frozenset[str]
    sliceable: frozenset[str]
    object_locations: frozenset[tuple[str, str]]
    """Pairs (object, location). Official files state them apart from ``contents``, and the two can disagree."""
    cold: frozenset[str] = frozenset()
    """Objects that start cooled."""
    vessels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Objects that could hold others (a bowl), with what is in them; no action moves anything into or out of one."""
    walkthrough: tuple[str, ...] | None = None
    """A stored solution, where the game came with one."""

    @cached_property
    def rank(self) -> dict[str, int]:
        """Name -> its place in ``order``."""
        return {name: place for place, name in enumerate(self.order)}

    @cached_property
    def receptacles(self) -> tuple[str, ...]:
        """All receptacles, in printing order."""
        return tuple(sorted(self.receptacle_locations, key=self.rank.__getitem__))

    @cached_property
    def goal_receptacles(self) -> tuple[str, ...]:
        """The receptacles of the goal's target kind; none when the target is a lamp."""
        return tuple(name for name in self.receptacles if self.kinds.get(name) == self.goal.target)

    @cached_property
    def listed_twice(self) -> frozenset[str]:
        """Objects that are in several receptacles at the start."""
        listed = Counter(name for names in self.contents.values() for name in names)
        return frozenset(name for name, places in listed.items() if places > 1)

    @cached_property
    def neighbours(self) -> dict[str, tuple[str, ...]]:
        """Location -> the receptacles there, in printing order."""
        places: dict[str, list[str]] = {self.start: []}
        for name in self.receptacles:
            places.setdefault(self.receptacle_locations[name], []).append(name)
        return {location: tuple(names) for location, names in places.items()}

    @cached_property
    def travel(self) -> dict[str, Commands]:
        """Location -> the commands that depend on nothing else: going elsewhere, looking around."""
        go: Commands = {f"go to {name}": ("go", name) for name in self.receptacles}
        always: Commands = {verb: (verb,) for verb in ("help", "inventory", "look")}
        return {
            here: {text: call for text, call in go.items() if call[1] not in names} | always
            for here, names in self.neighbours.items()
        }
