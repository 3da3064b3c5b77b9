"""The household environment: ALFWorld's games and generated houses behind the text environment protocol."""

from __future__ import annotations

import random
from collections.abc import Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

from paw_lightning.envs.base import TextEnv
from paw_lightning.envs.household.engine import PASSIVE, HouseholdEngine, listing
from paw_lightning.envs.household.expert import ExplorerExpert, plan
from paw_lightning.envs.household.files import find_games, load_game
from paw_lightning.envs.household.game import TASKS, HouseholdGame
from paw_lightning.envs.household.generator import MIN_OBJECTS, MIN_RECEPTACLES, generate_game, split_of
from paw_lightning.envs.loading import check_split, expand, wrong_argument

NUISANCES = ("none", "random_ids", "stochastic")
FAILURE_PROBABILITY = 0.2
"""How often a command that would change the house fails under ``nuisance: stochastic``."""
FAILURE = "You fumble, and nothing changes."
DEFAULT_RECEPTACLES = 6
DEFAULT_OBJECTS = 8


class HouseholdEnv(TextEnv):
    """Household tasks in text: official ALFWorld games, or seeded houses with the same rules and words.

    The games come from one official file (``game_file``), from a folder of them (``data_path``), or, with neither,
    from the generator. The winning step pays ``success_reward`` and ends the episode; every other step pays 0.

    Args:
        split: "train", "val" or "test"; with ``data_path`` the folders train, valid_seen and valid_unseen. Two splits
            have no generated house with the same receptacles and task.
        game_file: path of one ``game.tw-pddl``; every seed and split plays it.
        data_path: the folder that contains ``json_2.1.1``, that folder itself, or the split's folder in it. ``~`` and
            environment variables are expanded; empty means generated houses.
        tasks: which of the six task types occur; generated houses draw from it, so a name given twice weighs double.
        receptacles: number of receptacles of a generated house.
        objects: number of objects of a generated house, the lamp of a "look" task included.
        nuisance: "random_ids" ends every observation with a tag that nobody can predict; "stochastic" lets commands
            that would change the house fail with probability 0.2. ``options["episode_seed"]`` of reset seeds both.
        success_reward: reward of the winning step, and ``info["max_reward"]``.
        brief_intro: reduce the first observation to the list of receptacles (the goal is in ``info["task"]``).
        state_keys: tell the states' names (``info["state_key"]``), by which credit by turn compares turns.
        num_tasks: use only the first so many tasks of the split; None: all games, or a new house for every seed.

    Raises:
        SettingsError: a value that cannot work; the message names its key.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        game_file: str | None = None,
        data_path: str | None = None,
        tasks: Sequence[str] = TASKS,
        receptacles: int = DEFAULT_RECEPTACLES,
        objects: int = DEFAULT_OBJECTS,
        nuisance: str = "none",
        success_reward: float = 1.0,
        brief_intro: bool = False,
        state_keys: bool = False,
        num_tasks: int | None = None,
    ) -> None:
        check_split(split)
        _check_choices(tasks, nuisance)
        if success_reward <= 0:
            raise wrong_argument("success_reward", success_reward, "a positive number")
        self.split = split
        self.tasks = tuple(tasks)
        self.receptacles = receptacles
        self.objects = objects
        self.nuisance = nuisance
        self.success_reward = float(success_reward)
        self.brief_intro = brief_intro
        self.state_keys = state_keys
        self._files = self._official_games(game_file, data_path)
        if not self._files:
            _check_sizes(self.tasks, receptacles, objects)
        elif (receptacles, objects) != (DEFAULT_RECEPTACLES, DEFAULT_OBJECTS):
            wanted = f"no setting of it or of objects (which is {objects}) beside official games, which bring their own"
            raise wrong_argument("receptacles", receptacles, wanted)
        self.num_tasks: int | None = _task_count(num_tasks, len(self._files))
        self._task_rng = random.Random(f"{split} task order")
        self._engine: HouseholdEngine | None = None
        self._expert: ExplorerExpert | None = None
        self._unread: list[str] = []
        """Observations that the expert has not seen."""
        self._shown = ""
        """What the expert does now."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start task ``seed`` modulo ``num_tasks``; without a seed, one that the environment draws."""
        if seed is None:
            seed = self._task_rng.randrange(self.num_tasks or 2**31)
        number = seed % self.num_tasks if self.num_tasks else seed
        self._episode_rng = random.Random(f"{self.split} {number} {(options or {}).get('episode_seed', 0)}")
        if self._files:
            self._group_key = "/".join(Path(self._files[number]).parts[-4:-1])
        else:
            self._group_key = f"{self.split}/{number}"
        self._engine = HouseholdEngine(self._game(number))
        self._expert, self._unread = None, []
        if not self.brief_intro:
            return self._present(self._engine.intro())
        return self._present(f"You see {listing(f'a {name}' for name in self._engine.game.receptacles)}.")

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one command; whatever the house does not react to is answered by "Nothing happens.".

        Raises:
            RuntimeError: no episode is running.
        """
        engine = self._started()
        if engine.won:
            raise RuntimeError("the episode is over: call reset() before step()")
        command = action.strip()
        failed = self._fails(engine, command)
        text, info = self._present(FAILURE if failed else engine.step(command))
        if failed:
            info["nuisance_spans"] = [(0, len(text))]
        return text, self.success_reward * engine.won, engine.won, False, info

    def peek(self, action: str) -> str:
        """The observation that ``action`` would get now, from a copy of the house and of its random state."""
        twin = copy(self)
        twin._engine = self._started().copy()
        twin._episode_rng = copy(self._episode_rng)
        return twin.step(action)[0]

    def demonstrate(self) -> str:
        """The next command of an expert who, like any player, has to look for things."""
        engine = self._started()
        if self._expert is None:
            # Of the episode's own random numbers, so that the episodes of a group search in other orders.
            self._expert = ExplorerExpert(copy(self._episode_rng), engine.game.task)
        if self._unread:
            *earlier, last = self._unread
            for text in earlier:
                self._expert.observe(text)
            self._unread, self._shown = [], self._expert.act(last, engine.admissible)
        return self._shown

    def close(self) -> None:
        """Do nothing: a house holds no resources."""

    def expert_plan(self) -> list[str]:
        """Commands that solve the task from the current state, by an expert who knows where everything is.

        Under ``nuisance: stochastic`` it wins only if none of its commands fails.
        """
        return plan(self._started())

    @property
    def walkthrough(self) -> list[str] | None:
        """The solution stored in the current official game, from its start; None for generated houses."""
        stored = self._started().game.walkthrough
        return None if stored is None else list(stored)

    def _official_games(self, game_file: str | None, data_path: str | None) -> tuple[str, ...]:
        if game_file and data_path:
            raise wrong_argument("game_file", game_file, f"only one of it and data_path, which is {data_path!r}")
        if not game_file:
            return find_games(expand(data_path, "data_path"), self.split, self.tasks) if data_path else ()
        path = expand(game_file, "game_file")
        task = load_game(path).goal.task
        if task not in self.tasks:
            raise wrong_argument("game_file", path, f"a game of the tasks {list(self.tasks)}, which {task!r} is not")
        return (path,)

    def _game(self, number: int) -> HouseholdGame:
        if self._files:
            return load_game(self._files[number])
        # A text seed is hashed by `random` itself, alike in every process; the split keeps the streams apart.
        rng = random.Random(f"{self.split} house {number}")
        draws = iter(partial(generate_game, rng, self.tasks, self.receptacles, self.objects), None)
        return next(game for game in draws if split_of(game) == self.split)

    def _started(self) -> HouseholdEngine:
        if self._engine is None:
            raise RuntimeError("no episode has been started: call reset() first")
        return self._engine

    def _fails(self, engine: HouseholdEngine, command: str) -> bool:
        if self.nuisance != "stochastic" or engine.commands.get(command, ("look",))[0] in PASSIVE:
            return False
        return self._episode_rng.random() < FAILURE_PROBABILITY

    def _present(self, text: str) -> tuple[str, dict[str, Any]]:
        """The observation as the player gets it, and its info."""
        engine = self._started()
        self._unread = [*self._unread, text]  # a new list: a twin (peek) reads nothing for the house itself
        spans = []
        if self.nuisance == "random_ids":
            start = len(text) + len(" (tag ")
            text = f"{text} (tag {self._episode_rng.getrandbits(16):04x})"
            spans = [(start, start + 4)]
        info = {
            "admissible_commands": list(engine.admissible),
            "won": engine.won,
            "task": engine.game.task,
            "kind": engine.game.goal.task,
            "max_reward": self.success_reward,
            "group_key": self._group_key,
            "nuisance_spans": spans,
        }
        return text, info | ({"state_key": engine.state_key()} if self.state_keys else {})


def _check_choices(tasks: Sequence[str], nuisance: str) -> None:
    if isinstance(tasks, str) or not tasks or not set(tasks) <= set(TASKS):
        raise wrong_argument("tasks", tasks, f"a non-empty list out of {list(TASKS)}")
    if nuisance not in NUISANCES:
        raise wrong_argument("nuisance", nuisance, f"one of {list(NUISANCES)}")


def _check_sizes(tasks: Sequence[str], receptacles: int, objects: int) -> None:
    if receptacles < MIN_RECEPTACLES:
        raise wrong_argument("receptacles", receptacles, f"at least {MIN_RECEPTACLES}")
    for task in tasks:
        if objects < MIN_OBJECTS[task]:
            raise wrong_argument("objects", objects, f"at least {MIN_OBJECTS[task]}, as a {task!r} task needs")


def _task_count(asked: int | None, games: int) -> int | None:
    if asked is not None and (asked < 1 or (games and asked > games)):
        limit = f"between 1 and {games}, the number of games" if games else "at least 1"
        raise wrong_argument("num_tasks", asked, limit)
    return asked or games or None
