"""Rules and sentences of the household world: ALFWorld's text engine without PDDL, planner or TextWorld."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from copy import copy

from paw_lightning.envs.household.game import Commands, HouseholdGame

NOTHING_HAPPENS = "Nothing happens."
WELCOME = "-= Welcome to TextWorld, ALFRED! =-"
ROOM = "You are in the middle of a room. Looking quickly around you, you see"
HELP = """
Available commands:
  look:                             look around your current location
  inventory:                        check your current inventory
  go to (receptacle):               move to a receptacle
  open (receptacle):                open a receptacle
  close (receptacle):               close a receptacle
  take (object) from (receptacle):  take an object from a receptacle
  move (object) to (receptacle):  place an object in or on a receptacle
  examine (something):              examine a receptacle or an object
  use (object):                     use an object
  heat (object) with (receptacle):  heat an object using a receptacle
  clean (object) with (receptacle): clean an object using a receptacle
  cool (object) with (receptacle):  cool an object using a receptacle
  slice (object) with (object):     slice an object using a sharp object
"""

PASSIVE = frozenset({"look", "inventory", "help", "examine"})
"""Verbs that change nothing."""
APPLIANCES = {"clean": ("sink", "sinkbasin"), "heat": ("microwave",), "cool": ("fridge",)}
"""Verb -> the receptacle kinds that do it."""
KNIVES = ("knife", "butterknife")


def listing(items: Iterable[str]) -> str:
    """Join as the reference does: "nothing", "a", "a, and b", "a, b, and c"."""
    names = list(items)
    if len(names) < 2:
        return names[0] if names else "nothing"
    return f"{', '.join(names[:-1])}, and {names[-1]}"


class HouseholdEngine:
    """One episode of a game: takes commands, and answers with the same sentences as the reference engine.

    ``admissible`` (sorted) and ``won`` describe the state after the last command.
    """

    def __init__(self, game: HouseholdGame) -> None:
        self.game = game
        self.location = game.start
        self.held: str | None = None
        self.contents = {name: list(game.contents.get(name, ())) for name in game.receptacles}
        self.object_locations = set(game.object_locations)
        self.removed: set[tuple[str, str]] = set()
        """(object, receptacle) pairs that were undone by a take: `look` shows no other loose objects."""
        self.opened: set[str] = set()
        self.treated: dict[str, set[str]] = {"clean": set(), "heat": set(), "cool": set(game.cold)}
        """Verb -> the objects in the state that it brings about."""
        self.sliced: set[str] = set()
        self.toggled: set[str] = set()
        self.won = False
        self._update()

    def copy(self) -> HouseholdEngine:
        """An independent engine in the same state; the game itself is shared."""
        twin = copy(self)
        twin.contents = {name: list(objects) for name, objects in self.contents.items()}
        twin.treated = {verb: set(objects) for verb, objects in self.treated.items()}
        for name in ("object_locations", "removed", "opened", "sliced", "toggled"):
            setattr(twin, name, set(getattr(self, name)))
        return twin

    @property
    def here(self) -> tuple[str, ...]:
        """The receptacles at the player's location."""
        return self.game.neighbours[self.location]

    def state_key(self) -> str:
        """Names the state: where the player is, which receptacles there are open, what it holds, and what else differs
        from the start: things elsewhere, things in another condition, and lamps that are on. Of a thing that was in two
        receptacles, as some of the official games have it, also which it has left.

        Not which receptacles far away are open: two ways to the same work done would then hardly ever meet again.

        Example: "fridge 1; open fridge 1; held apple 1 clean; cup 2 in sinkbasin 1; lit desklamp 1".
        """
        parts = [", ".join(self.here), *(f"open {name}" for name in self.here if name in self.opened)]
        if self.held is not None:
            parts.append(" ".join(["held", self.held, *self._condition(self.held)]))
        for receptacle, names in self.contents.items():
            before = self.game.contents.get(receptacle, ())
            left = self.game.listed_twice.intersection(before).difference(names)
            parts += [f"{name} out of {receptacle}" for name in sorted(left)]
            for name in names:
                condition = self._condition(name)
                if name not in before or condition != ["cool"] * (name in self.game.cold):
                    parts.append(" ".join([name, "in", receptacle, *condition]))
        return "; ".join([*parts, *(f"lit {name}" for name in sorted(self.toggled))])

    def _condition(self, name: str) -> list[str]:
        """What has been done to a thing; what stands in a fridge is cool from the start."""
        done = [verb for verb, names in self.treated.items() if name in names]
        return [*done, "sliced"] if name in self.sliced else done

    def intro(self) -> str:
        """The first observation of an episode."""
        seen = listing(f"a {name}" for name in self.game.receptacles)
        return f"{WELCOME}\n\n{ROOM} {seen}.\n\nYour task is to: {self.game.task}"

    def step(self, command: str) -> str:
        """Play one command and return the answer; anything not admissible gets ``NOTHING_HAPPENS``."""
        if command not in self.commands:
            return NOTHING_HAPPENS
        verb, *arguments = self.commands[command]
        feedback: str = getattr(self, verb)(*arguments)
        if verb not in PASSIVE:
            self._update()
        self.won = self._goal_holds()
        return feedback

    # One method per verb: change the state, return the sentence. `commands` only ever names possible ones.

    def look(self) -> str:
        if not self.here:  # as in the reference: only the intro lists the room's receptacles
            return f"{ROOM} nothing."
        loose = {name for name, receptacle in self.removed if receptacle in self.here}
        loose = {name for name in loose if (name, self.location) in self.object_locations}
        names = listing(f"a {name}" for name in sorted(loose, key=self.game.rank.__getitem__))
        return f"You are facing the {listing(self.here)}. Next to it, you see {names}."

    def inventory(self) -> str:
        return f"You are carrying: a {self.held}." if self.held else "You are not carrying anything."

    def help(self) -> str:
        return HELP

    def examine(self, name: str) -> str:
        if name not in self.contents:
            return self._describe(name)
        if name in self.game.openable and name not in self.opened:
            return f"The {name} is closed."
        seen = listing(f"a {thing}" for thing in self.contents[name])
        if name in self.game.openable:
            return f"The {name} is open. In it, you see {seen}."
        return f"On the {name}, you see {seen}."

    def go(self, receptacle: str) -> str:
        self.location = self.game.receptacle_locations[receptacle]
        return f"You arrive at {receptacle}. {self.examine(receptacle)}"

    def open(self, receptacle: str) -> str:
        self.opened.add(receptacle)
        return f"You open the {receptacle}. {self.examine(receptacle)}"

    def close(self, receptacle: str) -> str:
        self.opened.remove(receptacle)
        return f"You close the {receptacle}."

    def take(self, name: str, receptacle: str) -> str:
        self.contents[receptacle].remove(name)
        self.removed.add((name, receptacle))
        self.object_locations.discard((name, self.location))
        self.held = name
        return f"You pick up the {name} from the {receptacle}."

    def move(self, name: str, receptacle: str) -> str:
        if name not in self.contents[receptacle]:
            insort(self.contents[receptacle], name, key=self.game.rank.__getitem__)
        self.removed.discard((name, receptacle))
        self.object_locations.add((name, self.location))
        self.held = None
        return f"You move the {name} to the {receptacle}."

    def clean(self, name: str, receptacle: str) -> str:
        self.treated["clean"].add(name)
        return f"You clean the {name} using the {receptacle}."

    def heat(self, name: str, receptacle: str) -> str:
        self.treated["heat"].add(name)
        self.treated["cool"].discard(name)
        return f"You heat the {name} using the {receptacle}."

    def cool(self, name: str, receptacle: str) -> str:
        self.treated["cool"].add(name)
        self.treated["heat"].discard(name)
        return f"You cool the {name} using the {receptacle}."

    def use(self, name: str) -> str:
        self.toggled.add(name)
        return f"You turn on the {name}."  # the reference never says "off"

    def slice(self, name: str, knife: str) -> str:
        self.sliced.add(name)
        return f"You sliced the {name} with the {knife}."

    def _describe(self, name: str) -> str:
        """The answer to examining an object."""
        if name in self.game.vessels:
            inside = listing(f"a {thing}" for thing in self.game.vessels[name])
            return f"This is a normal {name}. In it, you see {inside}."
        clean, hot, cool = (name in self.treated[verb] for verb in ("clean", "heat", "cool"))
        sliced = name in self.sliced
        temperature = "hot" if hot else "cool" if cool else ""
        if cool and not clean and not sliced:
            temperature = "cold"
        state = " and ".join(word for word in (temperature, "clean" if clean else "") if word)
        adjectives = f"{state} sliced".strip() if sliced else state
        return f"This is a {adjectives} {name}." if adjectives else f"There's nothing special about {name}."

    def _update(self) -> None:
        """Recompute what the world reacts to."""
        commands = dict(self.game.travel[self.location])
        for receptacle in self.here:
            self._add_receptacle_commands(commands, receptacle)
        if self.held is not None:
            self._add_tool_commands(commands, self.held)
        self.commands = commands
        self.admissible = sorted(commands)

    def _add_receptacle_commands(self, commands: Commands, receptacle: str) -> None:
        game, held = self.game, self.held
        commands[f"examine {receptacle}"] = ("examine", receptacle)
        accessible = receptacle not in game.openable or receptacle in self.opened
        if receptacle in game.openable:
            verb = "close" if accessible else "open"
            commands[f"{verb} {receptacle}"] = (verb, receptacle)
        for name in self.contents[receptacle]:
            if name in game.toggleable:
                commands[f"use {name}"] = ("use", name)
            if held is None and accessible and name in game.pickupable:
                commands[f"take {name} from {receptacle}"] = ("take", name, receptacle)
        if held is None:
            return
        kind = game.kinds.get(receptacle, "")
        if accessible and (kind, game.kinds.get(held)) in game.can_contain:
            commands[f"move {held} to {receptacle}"] = ("move", held, receptacle)
        # Appliances work with their door closed.
        for verb, able in (("clean", game.cleanable), ("heat", game.heatable), ("cool", game.coolable)):
            if held in able and kind in APPLIANCES[verb]:
                commands[f"{verb} {held} with {receptacle}"] = (verb, held, receptacle)

    def _add_tool_commands(self, commands: Commands, held: str) -> None:
        commands[f"examine {held}"] = ("examine", held)
        if self.game.kinds.get(held) in KNIVES:
            for name, location in self.object_locations:
                if location == self.location and name in self.game.sliceable:
                    commands[f"slice {name} with {held}"] = ("slice", name, held)

    def _goal_holds(self) -> bool:
        goal, kinds = self.game.goal, self.game.kinds
        if goal.task == "look":
            lit = (
                kinds.get(name) == goal.target and name in self.toggled
                for receptacle in self.here
                for name in self.contents[receptacle]
            )
            return self.held is not None and kinds.get(self.held) == goal.object and any(lit)
        treated = self.treated.get(goal.task)
        wanted = 2 if goal.task == "pick_two" else 1
        for receptacle in self.game.goal_receptacles:
            names = [name for name in self.contents[receptacle] if kinds.get(name) == goal.object]
            if treated is not None:
                names = [name for name in names if name in treated]
            if len(names) >= wanted:
                return True
        return False
