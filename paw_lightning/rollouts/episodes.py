"""The episodes of a rollout: their places in groups, the attempts at them, and checks of what environments answer."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from paw_lightning.envs.base import FAILURES, TextEnv
from paw_lightning.rollouts.failures import origin, wanted
from paw_lightning.rollouts.layouts import Layout
from paw_lightning.text.actions import ParsedAction
from paw_lightning.types import Episode, RolloutGroup

logger = logging.getLogger(__name__)

FirstLook = tuple[str, dict[str, Any]]
"""An environment's first observation and its info."""


class EpisodeError(RuntimeError):
    """This attempt at an episode cannot be finished; `retry` says whether another could be."""

    def __init__(self, message: str, *, retry: bool = True) -> None:
        super().__init__(message)
        self.retry = retry


@dataclass
class Player:
    """One attempt at an episode, under way."""

    env: TextEnv
    episode: Episode
    observation: str
    admissible: list[str] | None
    layout: Layout
    done: bool = False
    failure: EpisodeError | None = None

    @property
    def turn(self) -> int:
        """Turns played."""
        return len(self.episode.transitions)


@dataclass(eq=False)
class Seat:
    """One place in a group, its environment, and the attempt at its episode."""

    group: int
    task_seed: int
    member: int
    errors: list[str] = field(default_factory=list)
    """Why each attempt before this one failed."""
    env: TextEnv | None = None
    player: Player | None = None

    @property
    def done(self) -> bool:
        return self.player is not None and self.player.done


def take_seats(
    task_seeds: Sequence[int], group_size: int, played: Mapping[int, int]
) -> tuple[list[RolloutGroup], list[Seat]]:
    """Empty groups, and the seats of all of them; `played`: members of a task that others play."""
    groups = [RolloutGroup(group_key=str(seed), max_return=None, episodes=[]) for seed in task_seeds]
    seats: list[Seat] = []
    earlier = defaultdict(int, played)  # a task played twice has members 0..k-1, then k..2k-1
    for g, task_seed in enumerate(task_seeds):
        first = earlier[task_seed]
        earlier[task_seed] += group_size
        seats += [Seat(g, task_seed, member) for member in range(first, first + group_size)]
    return groups, seats


def check_observation(observation: Any, terminal: bool) -> None:
    """Only the last observation of an episode may be empty: there is nothing to act on in an empty one."""
    if not isinstance(observation, str):
        raise TypeError(f"observation of type {type(observation).__name__}; wanted a str")
    if not observation.strip() and not terminal:
        raise ValueError("an empty observation in the middle of an episode; wanted text")


def check_info(info: Any) -> list[str] | None:
    """Return the admissible commands after checking what a group's statistics and prompts will be made of."""
    if not isinstance(info, dict):
        raise TypeError(f"info of type {type(info).__name__}; wanted a dict")
    largest = info.get("max_reward")
    if largest is not None and not isinstance(largest, Real):
        raise TypeError(f"info['max_reward'] is {largest!r}; wanted a number")
    admissible = info.get("admissible_commands")
    if isinstance(admissible, str):
        raise TypeError(f"info['admissible_commands'] is {admissible!r}; wanted a list of str")
    if admissible is not None and not all(isinstance(command, str) for command in admissible):
        raise TypeError("info['admissible_commands'] holds something that is not a str")
    key = info.get("state_key")
    if key is not None and not isinstance(key, str):
        raise TypeError(f"info['state_key'] is {key!r}; wanted a str")
    check_tools(info.get("tools"))
    return None if admissible is None else list(admissible)


def named_state(info: dict[str, Any]) -> list[str]:
    """The name of the state now, in a list; empty where it has none."""
    key = info.get("state_key")
    return [] if key is None else [key]


def check_state_key(info: dict[str, Any], before: Sequence[str]) -> list[str]:
    """The name of the state after a step, in a list, or an empty one; `before`: those that the episode has so far."""
    named = named_state(info)
    if bool(named) != bool(before):
        key = info.get("state_key")
        raise ValueError(f"info['state_key'] is {key!r}; wanted a name at reset and at every step, or never")
    return named


def check_names(episodes: Sequence[Episode]) -> str:
    """What is wrong where some episodes of a group name their states and others do not; empty where nothing is."""
    naming = sum(bool(episode.state_keys) for episode in episodes)
    if naming in (0, len(episodes)):
        return ""
    return (
        f"info['state_key'] names the states of {naming} of {len(episodes)} episodes of one task; wanted a name in all "
        "of them, or in none"
    )


def check_tools(tools: Any) -> None:
    """Refuse what no chat template could write as the tools that may be called."""
    if tools is None:
        return
    wanted = (
        "wanted a list of {'type': 'function', 'function': {'name': ..., 'description': ..., 'parameters': "
        "{'type': 'object', 'properties': ...}}}"
    )
    if not isinstance(tools, list | tuple):
        raise TypeError(f"info['tools'] is {tools!r}; {wanted}")
    names = []
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) else None
        named = isinstance(function, dict) and isinstance(function.get("name"), str) and function["name"]
        parameters = function.get("parameters", {}) if isinstance(function, dict) else None
        described = isinstance(parameters, dict) and isinstance(parameters.get("properties", {}), dict)
        if not (named and described):
            raise TypeError(f"info['tools'] holds {tool!r}; {wanted}")
        names.append(named)
    if len({*names}) < len(names):
        raise ValueError(f"info['tools'] names one tool twice: {names}; wanted a name for each")
    try:
        json.dumps(tools)
    except (TypeError, ValueError) as error:
        raise TypeError(f"info['tools'] is no JSON ({error}); {wanted}") from error


def was_admissible(action: ParsedAction, listed: list[str] | None, info: dict[str, Any]) -> bool:
    """The environment's word for it, else its list's; without either any well-formed action is."""
    otherwise = action.well_formed if listed is None else action.text in listed
    return bool(info.get("admissible_action", otherwise))


def close_quietly(env: TextEnv) -> None:
    """Close an environment; one that fails at that must not take the run along."""
    try:
        env.close()
    except FAILURES as error:
        logger.warning("%s", describe(env, "close", error))


def describe(env: TextEnv | None, call: str, error: BaseException) -> str:
    """What went wrong where, and in which line of the environment's own code, for a message."""
    name = "the environment" if env is None else type(env).__name__
    answer, line = wanted(call, error), origin(env, call, error)
    problem = f"{type(error).__name__}: {error}{answer and f'; wanted {answer}'}{line and f', {line}'}"
    return f"{name}.{call} failed with {problem} (rollout.environment)"
