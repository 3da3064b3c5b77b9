"""MCP: the tools of a Model Context Protocol server (extra `mcp`, its Python SDK)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from paw_lightning.envs.adapters.mcp_session import Session
from paw_lightning.envs.base import ROUNDING, TextEnv
from paw_lightning.envs.loading import check_split, expand, import_extra, wrong_argument
from paw_lightning.envs.recorded import lines_of_split
from paw_lightning.envs.tool_schema import read_call
from paw_lightning.text.tool_calls import Tool

ANSWER: Tool = {
    "type": "function",
    "function": {
        "name": "answer",
        "description": "Give the final answer; the task is over then.",
        "parameters": {
            "type": "object",
            "properties": {"text": {"type": "string", "description": "The answer."}},
            "required": ["text"],
        },
    },
}
"""The final tool where the server has none."""


@dataclass(frozen=True)
class Called:
    """A call of an episode, and what was answered."""

    name: str
    arguments: dict[str, Any]
    answer: str
    heard: bool
    """The tool has answered; it did not complain."""


Reward = Callable[[dict[str, Any], Sequence[Called]], float]
"""From a task, one line of the file, and all calls to the reward of the episode."""


class MCPEnv(TextEnv):
    """Plays with the tools of an MCP server, in a session of its own; ``rollout.prompt.action_format: tool_call``.

    An MCP server knows tools and no tasks, so a task, its end and its reward are told here:

    - The task is a line of `tasks`; where the server makes tasks itself, its `start_tool` is called at each reset.
    - The episode ends with a call of `final_tool`, one of the server's or ``answer(text)``, which is added.
    - The reward is then what the function `reward` makes of the task and of all calls; an episode that ends otherwise
      has none. Won is a reward of `max_reward`.

    Without a `start_tool` every episode gets a new session (and a new process, where `command` starts the server), as
    nobody knows what an old one has kept.

    Args:
        split: "train", "val" or "test".
        command: program and arguments of a server that speaks over its standard input and output; it has the
            environment variables of this process.
        url: the address of a server that speaks streamable HTTP, such as ``http://localhost:8000/mcp``.
        reward: ``module.function`` of a function (task, calls) -> float; the task is a dict, calls are of `Called`.
        tasks: a file with a JSON object a line: ``task``, a sentence, perhaps ``observation``, what is shown first, and
            whatever `reward` wants. A tenth of the lines each is kept for val and for test.
        start_tool: a tool of the server that begins a task. It is called with ``seed`` and ``split``, as far as it has
            such arguments; its text is the first observation. The policy cannot call it.
        task: the sentence, where no line has one.
        final_tool: whose call ends the episode.
        tools: names of those that the policy may call; None: all.
        max_reward: R_max.
        timeout: seconds that a call may take.

    Raises:
        SettingsError: a value that cannot work; the message names its key.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        reward: str,
        command: list[str] | None = None,
        url: str | None = None,
        tasks: str | None = None,
        start_tool: str | None = None,
        task: str = "Use the tools.",
        final_tool: str = "answer",
        tools: list[str] | None = None,
        max_reward: float = 1.0,
        timeout: float = 60.0,
    ) -> None:
        check_split(split)
        if bool(command) == bool(url):
            raise wrong_argument("command", command, "either it or url")
        if bool(tasks) == bool(start_tool):
            raise wrong_argument("tasks", tasks, "either it or start_tool")
        self._sdk = import_extra("mcp", "mcp")
        self._split, self._command, self._url, self._timeout = split, command, url, timeout
        self._reward, self._task, self._max_reward = _function(reward), task, max_reward
        self._lines = None if tasks is None else lines_of_split(expand(tasks, "tasks"), split)
        self.num_tasks = None if self._lines is None else len(self._lines)
        self._start_tool, self._final_tool, self._names = start_tool, final_tool, tools
        self._session: Session | None = None
        self._begun: Any = None
        self._over = True  # there is no episode before the first reset

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start task number `seed`."""
        try:
            return self._begin(seed or 0)
        except BaseException:  # a session whose server has gone answers no later reset either
            self.close()
            raise

    def _begin(self, number: int) -> tuple[str, dict[str, Any]]:
        self._calls: list[Called] = []
        if self._begun is not None or not self._start_tool:
            self.close()
        if self._session is None:
            self._session = Session(self._sdk, self._command, self._url, self._timeout)
            self._known = {tool["function"]["name"]: tool for tool in self._session.tools()}
            self._open = self._opened()
        line: dict[str, Any] = {}
        if self._lines is not None:
            line = self._lines[number % len(self._lines)]
        self._current = {"task": self._task, **line}
        told = {"task": str(self._current["task"]), "max_reward": self._max_reward, "tools": [*self._open.values()]}
        shown = self._started(number) if self._start_tool else str(line.get("observation") or told["task"])
        self._over = False
        return shown, {**told, "group_key": f"{self._split}/{number % (self.num_tasks or number + 1)}"}

    def begin_step(self, action: str) -> None:
        """Send the call, if it is one that the server could answer."""
        if self._over:
            raise RuntimeError("the episode is over: call reset() before step()")
        call = read_call(action, self._open.values())
        if not isinstance(call, str) and call.name in self._known:
            assert self._session is not None
            self._begun = self._session.begin(call.name, call.arguments)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Answer one call; what is none, or is wrong, is told so without asking the server."""
        if self._begun is None:
            self.begin_step(action)
        call = read_call(action, self._open.values())
        if isinstance(call, str):
            return f"error: {call}", 0.0, False, False, {"won": False, "admissible_action": False}
        text, heard = "The answer was given.", True
        if call.name in self._known:
            assert self._session is not None
            text, heard = self._session.finish(self._begun)
            self._begun = None
        self._calls.append(Called(call.name, call.arguments, text, heard))
        self._over = done = call.name == self._final_tool and heard
        reward = float(self._reward(self._current, self._calls)) if done else 0.0
        won = done and reward >= self._max_reward - ROUNDING
        return text, reward, done, False, {"won": won, "admissible_action": heard}

    def close(self) -> None:
        """End the session, and the server that it has started."""
        session, self._session, self._begun, self._over = self._session, None, None, True
        if session is not None:
            session.close()

    def _opened(self) -> dict[str, Tool]:
        """What the policy may call."""
        unknown = {*(self._names or ()), *([self._start_tool] if self._start_tool else ())} - self._known.keys()
        if unknown:
            raise wrong_argument("tools", sorted(unknown), f"some of the server's, {sorted(self._known)}")
        shown = {
            name: tool
            for name, tool in self._known.items()
            if name != self._start_tool and (self._names is None or name in (*self._names, self._final_tool))
        }
        if self._final_tool not in shown:
            if self._final_tool != ANSWER["function"]["name"]:
                raise wrong_argument("final_tool", self._final_tool, f"one of {sorted(self._known)}, or answer")
            shown[self._final_tool] = ANSWER
        return shown

    def _started(self, number: int) -> str:
        """What the server says of a task that it makes."""
        assert self._session is not None and self._start_tool is not None
        wanted = self._known[self._start_tool]["function"]["parameters"].get("properties") or {}
        told = {name: value for name, value in (("seed", number), ("split", self._split)) if name in wanted}
        text, heard = self._session.finish(self._session.begin(self._start_tool, told))
        if not heard:
            raise RuntimeError(f"the MCP server's tool {self._start_tool} answered {told} with {text!r}; wanted a task")
        return text


def _function(path: str) -> Reward:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise wrong_argument("reward", path, f"module.function, a function (task, calls) -> float: {error}") from error
    if not callable(found):
        raise wrong_argument("reward", path, "module.function, a function (task, calls) -> float")
    return found
