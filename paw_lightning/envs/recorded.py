"""RecordedEpisodes: episodes that somebody has played, read from a file, to imitate or to be judged by."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from paw_lightning.envs.base import TextEnv
from paw_lightning.envs.loading import (
    ENVIRONMENT,
    EnvironmentSpec,
    build_environment,
    check_split,
    expand,
    wrong_argument,
)
from paw_lightning.text.tool_calls import Call, Tool

HELD_OUT = {"val": 8, "test": 9}
"""Last digit of the numbers of the episodes that validation and test keep for themselves."""


@dataclass(frozen=True)
class RecordedTurn:
    """What the player saw and did."""

    observation: str
    action: str
    """The command that was played."""
    answer: str
    """All that the player wrote; the command where nothing else is known."""
    admissible: list[str] | None


@dataclass(frozen=True)
class RecordedEpisode:
    """One line of the file."""

    task: str
    turns: tuple[RecordedTurn, ...]
    last_observation: str
    """What the last action brought about; empty where nobody wrote it down."""
    tools: list[Tool] | None = None
    """What could be called, where actions are tool calls."""


class RecordedEpisodes(TextEnv):
    """Plays back a file of episodes, whatever is done: for imitation (`rollout.advantage: Imitation`), or to compare.

    One JSON object a line::

        {"task": "put a mug in desk.",
         "turns": [{"observation": "You see a desk 1.", "action": "go to desk 1"},
                   {"observation": "You arrive at desk 1.", "action": "move mug 1 to desk 1"}],
         "last_observation": "You move the mug 1 to the desk 1."}

    Where an action is a tool call (``{"name": ..., "arguments": {...}}`` as text) a line has `tools`, as in `TextEnv`.

    A turn may also have `answer`, all that was written (the thinking and the tags of the run's action format), and
    `admissible_commands`. A policy that plays gets the recorded observations too; each turn in which it does what was
    recorded pays 1 / number of turns, and it has won where it did so in all of them.

    Args:
        split: "train", "val" or "test".
        path: the file; ``~`` and environment variables are expanded.
        environment: ``{class_path: ..., init_args: {...}}`` in which validation and test are played. Without it they
            play back a tenth of the episodes each, which training leaves out.

    Raises:
        SettingsError: no such file, or a line that is no episode; the message names the line.
    """

    def __init__(self, split: str = "train", *, path: str, environment: EnvironmentSpec | None = None) -> None:
        check_split(split)
        self._world: TextEnv | None = None
        if environment is not None and split != "train":
            self._world = build_environment(environment, split, f"{ENVIRONMENT}.init_args.environment")
            self.num_tasks = self._world.num_tasks
            return
        episodes = _load(expand(path, "path"))
        self._numbers = [i for i in range(len(episodes)) if environment is not None or _split_of(i) == split]
        if not self._numbers:
            raise wrong_argument("path", path, f"more than {len(episodes)} episodes, as {split!r} gets none of them")
        self._episodes = episodes
        self.num_tasks = len(self._numbers)
        self._turn = 0

    def begin_reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Begin it in the world that is played in."""
        if self._world is not None:
            self._world.begin_reset(seed=seed, options=options)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start episode ``seed`` of the split; beyond the last one from the first again."""
        if self._world is not None:
            return self._world.reset(seed=seed, options=options)
        assert self.num_tasks is not None
        number = self._numbers[(seed or 0) % self.num_tasks]
        self._episode, self._turn, self._equal = self._episodes[number], 0, True
        info = {"task": self._episode.task, "max_reward": 1.0, "group_key": f"episode {number}"}
        tools = {} if self._episode.tools is None else {"tools": self._episode.tools}
        return self._episode.turns[0].observation, info | tools | self._admissible()

    def begin_step(self, action: str) -> None:
        """Begin it in the world that is played in."""
        if self._world is not None:
            self._world.begin_step(action)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Go on in the recording; see the class for the reward."""
        if self._world is not None:
            return self._world.step(action)
        turns = self._episode.turns
        equal = _meaning(action) == _meaning(turns[self._turn].action)
        self._equal &= equal
        self._turn += 1
        over = self._turn == len(turns)
        observation = self._episode.last_observation if over else turns[self._turn].observation
        info = {"won": over and self._equal, **({} if over else self._admissible())}
        return observation, equal / len(turns), over, False, info

    def demonstrate(self) -> str:
        """What was written at this turn."""
        if self._world is not None:
            return self._world.demonstrate()
        return self._episode.turns[self._turn].answer

    def peek(self, action: str) -> str:
        """Ask the world that is played in; a recording knows no other answer."""
        return super().peek(action) if self._world is None else self._world.peek(action)

    def close(self) -> None:
        """Close the world that is played in."""
        if self._world is not None:
            self._world.close()

    def _admissible(self) -> dict[str, list[str]]:
        listed = self._episode.turns[self._turn].admissible
        return {} if listed is None else {"admissible_commands": listed}


def lines_of_split(path: str, split: str) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line, that belong to a split: a tenth each to val and test.

    Raises:
        SettingsError: no such file, a line that is no object, or none for the split.
    """
    try:
        lines = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise wrong_argument("tasks", path, f"a file with a JSON object a line: {error}") from error
    if not all(isinstance(line, dict) for line in lines):
        raise wrong_argument("tasks", path, "a file with a JSON object a line, and nothing else")
    own = [line for i, line in enumerate(lines) if _split_of(i) == split]
    if not own:
        raise wrong_argument("tasks", path, f"more than {len(lines)} tasks, as {split!r} gets none of them")
    return own


def _split_of(number: int) -> str:
    """Which split an episode belongs to where all come from the same file."""
    return next((split for split, digit in HELD_OUT.items() if number % 10 == digit), "train")


@lru_cache(maxsize=4)
def _load(path: str) -> tuple[RecordedEpisode, ...]:
    if not Path(path).is_file():
        raise wrong_argument("path", path, "a file with one episode a line, as JSON")
    episodes = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").split("\n"), 1):
        if line.strip():
            try:
                episodes.append(_read(json.loads(line)))
            except (KeyError, TypeError, ValueError) as error:
                wanted = f"{{task, turns: [{{observation, action}}, ...]}} in each line, but line {number} is none"
                raise wrong_argument("path", path, f"{wanted} ({type(error).__name__}: {error})") from error
    if not episodes:
        raise wrong_argument("path", path, "at least one episode")
    return tuple(episodes)


def _read(line: Any) -> RecordedEpisode:
    turns = tuple(
        RecordedTurn(
            _text(turn["observation"]),
            _text(turn["action"]),
            _text(turn.get("answer", turn["action"])),
            _commands(turn.get("admissible_commands")),
        )
        for turn in line["turns"]
    )
    if not turns:
        raise ValueError("no turns")
    return RecordedEpisode(_text(line["task"]), turns, _text(line.get("last_observation", "")), line.get("tools"))


def _meaning(action: str) -> Any:
    """What two equal actions share: of a tool call its content, else the letters."""
    return Call.read(action) or action.strip().casefold()


def _commands(value: Any) -> list[str] | None:
    if value is not None and not isinstance(value, list):
        raise TypeError(f"admissible_commands is {value!r}, which is no list")
    return None if value is None else [_text(command) for command in value]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
