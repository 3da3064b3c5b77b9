"""The hidden-rule environment: doors, levers, and a rule that holds in every episode of a run."""

from __future__ import annotations

import math
import random
import re
from copy import copy
from functools import lru_cache
from itertools import permutations
from typing import Any, Literal, get_args

from paw_lightning.envs.base import TextEnv
from paw_lightning.envs.hidden_rule.exact import Exact
from paw_lightning.envs.loading import check_split, wrong_argument

# fmt: off
DOORS = [
    "oak", "iron", "bone", "glass", "stone", "brass", "clay", "cork", "ivory", "jade", "lead", "mud",
    "onyx", "paper", "quartz", "rope", "salt", "slate", "steel", "straw", "tin", "wax", "wool", "zinc",
]
LEVERS = [
    "amber", "black", "blue", "brown", "gold", "gray", "green", "lime",
    "mauve", "olive", "pink", "plum", "red", "teal", "violet", "white",
]
# fmt: on
MOST_TASKS = 100_000
COMMAND = re.compile(r"open (\w+) with (\w+)")
JAM, NOTHING = "The lever jams.", "Nothing happens."
Tells = Literal["rule", "lever", "nothing"]
Reward = Literal["sparse", "dense"]


class HiddenRuleEnv(TextEnv):
    """A row of doors, each opened by one lever; which one, a rule says that is never told and never changes.

    The player sees one door at a time and pulls a lever. The right one opens the door; after a wrong one its bolt is
    in sight, which shows the lever that opens it. So every failure tells a part of the rule, and whoever keeps it, in
    its weights, wins the next episode. ``exact`` has what can be reached and known, see
    :class:`~paw_lightning.envs.hidden_rule.exact.Exact`.

    A task is a row of doors of different kinds; no two splits share one, and the rule is that of all three. A pull is
    ``open oak with red``; anything else, another door's name too, does nothing and costs a turn like a pull. The
    episode ends with its last door or its last turn, whose answer tells as much as any other.

    Args:
        split: "train", "val" or "test": of all rows of doors, in an order that never changes, a tenth each is for
            validation and test.
        doors: kinds of door, 3 to 24: as many facts has the rule.
        levers: 2 to 16.
        horizon: doors of an episode, 2 to `doors`.
        spare: turns beyond one for each door.
        slip: probability that a lever jams, which costs the turn and tells nothing.
        noise: probability that a bolt is seen wrongly, as another lever's, up to 0.5.
        tells: what a wrong pull shows. `rule`, door and lever side by side ("oak with red"): a part of the rule that
            can be read anywhere, so that even an observation given to another transition (the control `shuffled`)
            tells it.
            `lever`, the lever alone: which door it is of stands in the context, and a shuffled one tells nothing.
            `nothing`: that the door stays shut.
        reward: `sparse` pays ``success_reward`` for the last door, `dense` an equal part of it for each.
        rule_seed: another number gives another rule.
        success_reward: return of an episode in which all doors open, and ``info["max_reward"]``.
        num_tasks: use only the first so many tasks of the split; None: all.

    Raises:
        SettingsError: a value that cannot work; the message names its key.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        doors: int = 12,
        levers: int = 8,
        horizon: int = 3,
        spare: int = 1,
        slip: float = 0.0,
        noise: float = 0.0,
        tells: Tells = "rule",
        reward: Reward = "sparse",
        rule_seed: int = 0,
        success_reward: float = 1.0,
        num_tasks: int | None = None,
    ) -> None:
        check_split(split)
        _check_sizes(doors, levers, horizon, spare)
        _check_chances(slip, noise, success_reward)
        for name, value, choices in (("tells", tells, Tells), ("reward", reward, Reward)):
            if value not in get_args(choices):
                raise wrong_argument(name, value, f"one of {list(get_args(choices))}")
        self.split, self.success_reward = split, float(success_reward)
        self.levers, self.tells = LEVERS[:levers], tells
        self.exact = Exact(doors, levers, horizon, horizon + spare, slip, noise, tells != "nothing", reward == "dense")
        self._rule = draw_rule(doors, levers, rule_seed)
        self._tasks = rows_of_doors(doors, horizon)[split]
        if num_tasks is not None and not 1 <= num_tasks <= len(self._tasks):
            raise wrong_argument("num_tasks", num_tasks, f"between 1 and {len(self._tasks)}, the number of tasks")
        self.num_tasks: int = num_tasks or len(self._tasks)
        self._task_rng = random.Random(f"{split} task order")
        self._row: tuple[str, ...] = ()
        self._opened = self._turn = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start task ``seed`` modulo ``num_tasks``; without a seed, one that the environment draws."""
        number = (self._task_rng.randrange(self.num_tasks) if seed is None else seed) % self.num_tasks
        self._rng = random.Random(f"{self.split} {number} {(options or {}).get('episode_seed', 0)}")
        self._row, self._group_key = self._tasks[number], f"{self.split}/{number}"
        self._opened = self._turn = 0
        return f"You stand before the {self._row[0]} door.", self._info([])

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one turn.

        Raises:
            RuntimeError: no episode is running.
        """
        if not self._row or self._over:
            raise RuntimeError("no episode is running: call reset() before step()")
        before = self._opened
        text, unknowable = self._answer(action.strip())
        spans = [(text.rindex(piece), text.rindex(piece) + len(piece)) for piece in unknowable]
        self._turn += 1
        won = self._opened == len(self._row)
        share = (self._opened - before) / len(self._row) if self.exact.dense else float(won)
        return text, self.success_reward * share, self._over, False, self._info(spans)

    def peek(self, action: str) -> str:
        """The observation that ``action`` would get now, from a copy of the random state."""
        twin = copy(self)
        twin._rng = copy(self._rng)
        return twin.step(action)[0]

    def demonstrate(self) -> str:
        """What one does who knows the rule."""
        door = self._row[self._opened]
        return f"open {door} with {self._rule[door]}"

    @property
    def rule(self) -> dict[str, str]:
        """Door -> the lever that opens it: for diagnosis, no player is told."""
        return dict(self._rule)

    @property
    def _over(self) -> bool:
        return self._opened == len(self._row) or self._turn == self.exact.pulls

    def _answer(self, action: str) -> tuple[str, list[str]]:
        """The world's answer, and its pieces that nobody can predict; a right lever moves the player on."""
        door, command = self._row[self._opened], COMMAND.fullmatch(action)
        if command is None or command[1] != door or command[2] not in self.levers:
            return NOTHING, []
        if self._rng.random() < self.exact.slip:
            return JAM, [JAM]
        if command[2] == self._rule[door]:
            self._opened += 1
            if self._opened == len(self._row):
                return "The door opens. You are free.", []
            following = self._row[self._opened]
            certain = len(self._rule) - self._opened == 1  # the only kind that has not come yet
            return f"The door opens. Next is the {following} door.", [] if certain else [following]
        if not self.exact.tells:
            return "The door stays shut.", []
        bolt = self._rule[door]
        misread = self._rng.random() < self.exact.noise
        if misread:
            bolt = self._rng.choice([lever for lever in self.levers if lever != bolt])
        says = f"Its bolt reads {door} with {bolt}." if self.tells == "rule" else f"It opens with {bolt}."
        return f"The door stays shut. {says}", [bolt] if misread else []

    def _info(self, nuisance_spans: list[tuple[int, int]]) -> dict[str, Any]:
        exact = self.exact
        levers = ", ".join(self.levers)
        door = self._row[min(self._opened, exact.horizon - 1)]
        return {
            "admissible_commands": [f"open {door} with {lever}" for lever in self.levers],
            "won": self._opened == exact.horizon,
            "task": f"Open {exact.horizon} doors with at most {exact.pulls} pulls. The levers are {levers}.",
            "max_reward": self.success_reward,
            "group_key": self._group_key,
            "nuisance_spans": nuisance_spans,
        }


@lru_cache(maxsize=16)
def rows_of_doors(doors: int, horizon: int) -> dict[str, list[tuple[str, ...]]]:
    """Split -> its tasks: all rows of different doors, shuffled once, a tenth (at least one) for val and for test."""
    rows = list(permutations(DOORS[:doors], horizon))
    random.Random(f"rows {doors} {horizon}").shuffle(rows)
    tenth = max(1, len(rows) // 10)
    return {"val": rows[:tenth], "test": rows[tenth : 2 * tenth], "train": rows[2 * tenth :]}


def draw_rule(doors: int, levers: int, rule_seed: int) -> dict[str, str]:
    """Door -> lever, each drawn uniformly."""
    rng = random.Random(f"rule {rule_seed}")
    return {door: rng.choice(LEVERS[:levers]) for door in DOORS[:doors]}


def _check_sizes(doors: int, levers: int, horizon: int, spare: int) -> None:
    if not 3 <= doors <= len(DOORS):
        raise wrong_argument("doors", doors, f"from 3 to {len(DOORS)}")
    if not 2 <= levers <= len(LEVERS):
        raise wrong_argument("levers", levers, f"from 2 to {len(LEVERS)}")
    if not 2 <= horizon <= doors:
        raise wrong_argument("horizon", horizon, f"from 2 to {doors}, the kinds of door")
    if math.perm(doors, horizon) > MOST_TASKS:
        most = max(h for h in range(2, horizon) if math.perm(doors, h) <= MOST_TASKS)
        raise wrong_argument("horizon", horizon, f"at most {most} with {doors} doors, or fewer doors")
    if spare < 0:
        raise wrong_argument("spare", spare, "at least 0")


def _check_chances(slip: float, noise: float, success_reward: float) -> None:
    if not 0 <= slip < 1:
        raise wrong_argument("slip", slip, "a probability below 1")
    if not 0 <= noise <= 0.5:
        raise wrong_argument("noise", noise, "a probability of at most 0.5")
    if not success_reward > 0:
        raise wrong_argument("success_reward", success_reward, "a positive number")
