"""Worlds that are played by calling tools: the public methods of a class."""

from __future__ import annotations

import inspect
import json
from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from random import Random
from typing import Any, ClassVar

from paw_lightning.envs.base import TextEnv
from paw_lightning.envs.tool_schema import EMPTY, read_call, tool_schema
from paw_lightning.errors import SettingsError
from paw_lightning.text.tool_calls import Tool


class ToolError(Exception):
    """What a tool says to a call that it cannot answer; the episode goes on, and the action counts as inadmissible."""


class ToolEnv(TextEnv):
    """A world whose actions are calls of its tools, played with ``rollout.prompt.action_format: tool_call``.

    Every public method that a subclass adds is a tool. Its name, its type hints and its docstring (one sentence, and
    ``Args:`` with a line for each argument) are what the model's chat template tells the policy of it. A tool returns
    what the policy reads next, a text or what becomes one as JSON; raises `ToolError` for a call that it cannot answer;
    and calls `finish` where the task is over.

    Example:
        A safe with two tools::

            class Safe(ToolEnv):
                task = "Open the safe."

                def start(self, random):
                    self.code = random.choice(["red", "blue"])
                    return "There is a safe with a red and a blue button, and a note."

                def read_note(self) -> str:
                    '''Read the note.'''
                    return f"It says: {self.code}."

                def press(self, color: str) -> str:
                    '''Press a button.

                    Args:
                        color: Of the button.
                    '''
                    self.finish(won=color == self.code)
                    return "Click."
    """

    task: str = ""
    """What has to be done, as one sentence; `start` may change it."""
    max_reward: ClassVar[float] = 1.0
    """R_max, the return of an episode that is won."""

    def __init__(self, split: str = "train") -> None:
        self.split = split
        self._earned, self._done, self._won = 0.0, True, False  # there is no episode before the first reset

    @abstractmethod
    def start(self, random: Random) -> str:
        """Begin a task that the random numbers fix, and return its first observation."""

    def finish(self, *, won: bool, reward: float | None = None) -> None:
        """End the episode; its reward is `max_reward` where it is won, and 0 otherwise, unless another is given."""
        self._done, self._won = True, won
        self._earned += (self.max_reward if won else 0.0) if reward is None else reward

    def earn(self, reward: float) -> None:
        """Add to the reward of this step."""
        self._earned += reward

    @cached_property
    def tools(self) -> list[Tool]:
        """What the chat template is told of every tool."""
        names, own = self.tool_names(), f"rollout.environment is {type(self).__name__}"
        if not names:
            raise SettingsError(f"{own}, which has no public method; wanted tools")
        if taken := _taken(type(self)):
            raise SettingsError(
                f"{own}, whose method {taken} has other arguments, or another answer, than every environment's {taken} "
                "has; wanted a tool of another name"
            )
        try:
            return [tool_schema(getattr(self, name)) for name in names]
        except (TypeError, NameError) as error:  # the latter of a type hint that stands for nothing
            raise SettingsError(f"{own}, whose tools cannot be described: {error}") from error

    @classmethod
    def tool_names(cls) -> list[str]:
        """The public methods that a subclass adds, in the order in which they are written."""
        added = [name for base in reversed(cls.__mro__) if not issubclass(ToolEnv, base) for name in vars(base)]
        own = [name for name in dict.fromkeys(added) if not name.startswith("_") and not hasattr(ToolEnv, name)]
        return [name for name in own if inspect.isfunction(getattr(cls, name))]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start task number `seed` of the split."""
        self._earned, self._done, self._won = 0.0, False, False
        observation = self.start(Random(f"{self.split} {seed or 0}"))
        told = {"task": self.task, "max_reward": self.max_reward, "group_key": f"{self.split}/{seed or 0}"}
        return observation, {**told, "tools": self.tools}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Answer one call; what is none, or is wrong, is told so."""
        if self._done:
            raise RuntimeError("the episode is over: call reset() before step()")
        self._earned = 0.0
        try:
            answer, heard = self._answer(action), True
        except ToolError as error:
            answer, heard = f"error: {error}", False
        return answer, self._earned, self._done, False, {"won": self._won, "admissible_action": heard}

    def _answer(self, action: str) -> str:
        call = read_call(action, self.tools)
        if isinstance(call, str):
            raise ToolError(call)
        answer = as_text(getattr(self, call.name)(**call.arguments))
        return answer if answer.strip() or self._done else EMPTY


def as_text(answer: Any) -> str:
    """What a tool has answered as the policy reads it: a text as it is, nothing of None, else JSON where it can be."""
    if answer is None or isinstance(answer, str):
        return answer or ""
    try:
        return json.dumps(answer, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(answer)


def _taken(cls: type[ToolEnv]) -> str | None:
    """A method that was meant as a tool and has the name of one that every environment has."""
    names = [name for name in dir(ToolEnv) if not name.startswith("_") and inspect.isfunction(getattr(ToolEnv, name))]
    own = {name: getattr(cls, name) for name in names if inspect.isfunction(getattr(cls, name))}
    return next((name for name, method in own.items() if _differs(method, getattr(ToolEnv, name))), None)


def _differs(method: Callable[..., Any], base: Callable[..., Any]) -> bool:
    """It cannot be called like the other one, or answers with a text where that has none."""
    wanted = [p for p in inspect.signature(base).parameters.values() if p.default is p.empty]
    named = {p.name: None for p in wanted if p.kind is p.KEYWORD_ONLY}
    try:
        inspect.signature(method).bind(*wanted[: len(wanted) - len(named)], **named)
    except TypeError:
        return True
    return [_tells(function) for function in (method, base)] == [True, False]


def _tells(method: Callable[..., Any]) -> bool:
    return inspect.signature(method).return_annotation in (str, "str")
