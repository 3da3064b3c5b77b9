"""Environments of the package `verifiers` up to 0.3 (extra `verifiers`), played turn by turn.

Its own loop (`MultiTurnEnv.rollout`) plays each episode, and the model that it asks is an object in this process whose
answer is the next `step`: setup, turns, stop conditions and overridden prompts are then the package's own, while calls
of `env_response` and `is_completed` from here would be a second loop beside it, and 0.4 would need a server over HTTP.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from paw_lightning.envs.adapters.verifiers_loading import Desk, Question, drawing_from, load, one_at_a_time, rows_of
from paw_lightning.envs.base import ROUNDING, TextEnv
from paw_lightning.envs.loading import check_split
from paw_lightning.envs.tool_schema import EMPTY, read_call
from paw_lightning.text.tool_calls import Call, Tool


class VerifiersEnv(TextEnv):
    """Plays an environment of `verifiers` (its ``load_environment()``): one row of its data set is one task.

    - The first observation is the text of the row's prompt (system, few-shot and user messages), the task that of its
      last user message. What is observed later are the messages that answer an action.
    - Where it has tools, a call (``rollout.prompt.action_format: tool_call``) reaches it as one. A call that its tool's
      schema refuses is answered here and does not; an answer without a call does, and ends a `ToolEnv`.
    - The reward comes at the end: the rubric's total. An episode that `rollout.max_steps` cuts off has none, so let it
      be as large as the environment's own ``max_turns``.
    - ``train`` plays its `dataset`; ``val`` and ``test`` its `eval_dataset`, rows 0, 2, 4, ... and rows 1, 3, 5, ...

    A rubric that asks a judge's model or compares episodes with each other is refused. A reward function that raises
    pays 0 and is logged, as the package has it. Python's own random numbers are seeded for each episode.

    Args:
        split: "train", "val" or "test".
        environment: the name that ``verifiers.load_environment`` takes: an installed module, dashes for underscores.
        arguments: those of its ``load_environment``.
        max_reward: R_max, the largest total of its rubric.
        winning_reward: an episode is won when its reward reaches this.

    Raises:
        SettingsError: a value that cannot work; the message names its key.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        environment: str,
        arguments: dict[str, Any] | None = None,
        max_reward: float = 1.0,
        winning_reward: float = 1.0,
    ) -> None:
        check_split(split)
        self._split, self._max_reward, self._winning_reward = split, max_reward, winning_reward
        self._loaded = load(environment, arguments or {})
        self._rows = rows_of(self._loaded.environment, environment, split)
        self.num_tasks = len(self._rows)
        self._episode: asyncio.Task[Any] | None = None
        self._question: Question | None = None
        """What the environment waits for; None where no episode runs."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start with the split's row number `seed`."""
        self.close()
        number = (seed or 0) % len(self._rows)
        self._random = random.Random(f"{self._split} {number}")
        self._desk, self._turn = Desk(), 0
        with self._alone():
            self._episode = self._loaded.loop.create_task(self._play(dict(self._rows[number])))
            question = self._until_asked()
        if question is None:
            raise RuntimeError(f"the environment ended before its first turn: {self._ended()['stop_condition']!r}")
        self._random = random.Random(f"{self._split} {number} {(options or {}).get('episode_seed')}")
        asked = [message for message in question.messages if message["role"] in ("user", "text")]
        start = {"task": _text(asked[-1:]), "max_reward": self._max_reward, "group_key": f"{self._split}/{number}"}
        return _text(question.messages) or EMPTY, start | ({"tools": [*self._tools.values()]} if self._tools else {})

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one answer of the policy."""
        written = Call.read(action) if self._tools else None
        call = None if written is None else read_call(action, self._tools.values())
        told = {"admissible_action": True} if self._tools else {}
        if isinstance(call, str):
            return f"error: {call}", 0.0, False, False, {"won": False, "admissible_action": False}
        if self._question is None:
            raise RuntimeError("the episode is over: call reset() before step()")
        self._turn += 1
        with self._alone():
            self._question.answer.set_result(self._loaded.response(self._turn, action, call))
            question = self._until_asked()
        if question is not None:
            return _text(_new(question.messages)) or EMPTY, 0.0, False, False, {"won": False, **told}
        state = self._ended()
        reward = float(state["reward"])
        won = reward >= self._winning_reward - ROUNDING
        return _text(_new(state["completion"])), reward, True, False, {"won": won, **told}

    def close(self) -> None:
        """End the episode, so that the environment cleans up after it."""
        episode, self._episode, self._question = self._episode, None, None
        if episode is not None and not episode.done():
            with self._alone(), suppress(asyncio.CancelledError):
                episode.cancel()
                self._loaded.loop.run_until_complete(episode)

    async def _play(self, row: dict[str, Any]) -> Any:
        """A whole episode as the package plays it, with its score."""
        environment = self._loaded.environment
        state = await environment.rollout(row, self._loaded.client(self._desk), "policy", {})
        error = state.get("error")
        if error is not None and not isinstance(error, self._loaded.package.ToolError):  # that one is the policy's
            raise RuntimeError(f"the environment failed: {error!r}") from error
        try:
            await environment.rubric.score_rollout(state)
        finally:
            await environment.rubric.cleanup(state)
        return state

    def _until_asked(self) -> Question | None:
        """Let the environment work until it asks for an answer; None where the episode is over."""
        assert self._episode is not None
        self._question = self._loaded.loop.run_until_complete(self._desk.next_question(self._episode))
        if self._question is not None:
            self._tools = {tool.name: _tool(tool) for tool in self._question.tools}
        return self._question

    def _ended(self) -> Any:
        """The state of the episode that is over; raises what has ended it."""
        assert self._episode is not None
        return self._episode.result()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else has the loop: what an episode is told wakes it, and whoever runs the loop then plays it on."""
        with one_at_a_time, drawing_from(self._random):
            yield


def _tool(tool: Any) -> Tool:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _new(messages: list[Any]) -> list[Any]:
    """What stands behind the last answer of the policy."""
    answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    return messages[answers[-1] + 1 :] if answers else messages


def _text(messages: list[Any]) -> str:
    """The text of messages; what is not text is named."""
    parts = []
    for message in messages:
        content = message["content"] or ""
        parts += [content] if isinstance(content, str) else [_part(part) for part in content]
    return "\n\n".join(filter(None, (part.strip() for part in parts)))


def _part(part: Any) -> str:
    return str(part["text"]) if part["type"] == "text" else f"({part['type']})"
