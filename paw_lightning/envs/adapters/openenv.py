"""OpenEnv: environments behind a web socket (extra `openenv`, which brings a web-socket client, not OpenEnv)."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from paw_lightning.envs.base import ROUNDING, TextEnv
from paw_lightning.envs.loading import import_extra, wrong_argument
from paw_lightning.envs.tool_schema import EMPTY, read_call
from paw_lightning.errors import ServerAwayError
from paw_lightning.text.tool_calls import Tool


class OpenEnvEnv(TextEnv):
    """A client of one OpenEnv server; each environment holds a session of its own.

    Nothing here installs or starts the server. Steps of several environments overlap, as an answer is waited for only
    when it is needed. Where one does not come, the session is over: the next reset opens another, as the late answer
    would be taken for that of a later request.

    Args:
        split: is sent with the seed at each reset, for servers that know of it.
        url: the server's address, such as ``ws://localhost:8000``.
        action_field: the field of the server's action that holds the text.
        observation_field: the field of its observation that holds the text; None takes the only text field there is.
        action: further fields of the action.
        max_reward: R_max; None leaves it to reward_balance.max_return.
        winning_reward: an episode is won when its return reaches this.
        timeout: seconds that an answer may take.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        url: str,
        action_field: str = "message",
        observation_field: str | None = None,
        action: dict[str, Any] | None = None,
        max_reward: float | None = 1.0,
        winning_reward: float = 1.0,
        timeout: float = 60.0,
    ) -> None:
        client = import_extra("websockets.sync.client", "openenv")
        failures = import_extra("websockets.exceptions", "openenv")
        self._split, self._action_field, self._observation_field = split, action_field, observation_field
        self._action, self._max_reward, self._winning_reward = action or {}, max_reward, winning_reward
        self._timeout = timeout
        address = url.replace("http", "ws", 1) if url.startswith("http") else url
        self._connect = partial(client.connect, f"{address.rstrip('/')}/ws", open_timeout=timeout, max_size=None)
        try:
            self._socket: Any = self._connect()
        except (OSError, failures.WebSocketException) as error:  # the latter of a server that speaks something else
            raise wrong_argument(
                "url", url, f"the address of a server that answers: {error}", ServerAwayError
            ) from error
        self._over = True  # there is no episode before the first reset
        self._begun: dict[str, Any] | None = None
        """The request that was sent and whose answer nobody has read yet."""

    def begin_reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Send the reset."""
        self._over = True
        if self._begun is not None:  # its answer would come first
            self.close()
        if self._socket is None:
            self._socket = self._connect()
        self._send({"type": "reset", "data": {"seed": seed, "split": self._split}})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode; a server that ignores seeds chooses the task itself."""
        if self._begun is None or self._begun["type"] != "reset":
            self.begin_reset(seed=seed)
        observation, _, _ = self._receive()
        self._return, self._over = 0.0, False
        info: dict[str, Any] = {"group_key": f"{self._split}/{seed}"}
        return observation, info if self._max_reward is None else info | {"max_reward": self._max_reward}

    def begin_step(self, action: str) -> None:
        """Send the action."""
        self._check_running()
        self._send({"type": "step", "data": {**self._action, self._action_field: action}})

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one action."""
        if self._begun is None:
            self.begin_step(action)
        observation, reward, done = self._receive()
        self._return += reward
        self._over = done
        return observation, reward, done, False, {"won": done and self._return >= self._winning_reward - ROUNDING}

    def close(self) -> None:
        """End the session."""
        socket, self._socket, self._begun, self._over = self._socket, None, None, True
        if socket is not None:
            socket.close()

    def _check_running(self) -> None:
        if self._over:
            raise RuntimeError("the episode with the OpenEnv server is over: call reset() before step()")

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._socket.send(json.dumps(message))
        except BaseException:
            self.close()
            raise
        self._begun = message

    def _receive(self) -> tuple[str, float, bool]:
        data = self._answer()
        return self._text(data["observation"]), float(data.get("reward") or 0.0), bool(data.get("done"))

    def _answer(self) -> dict[str, Any]:
        """What the server says, an observation with reward and end."""
        try:
            answer = json.loads(self._socket.recv(timeout=self._timeout))
        except BaseException:  # also of a signal: the answer may still come
            self.close()
            raise
        self._begun = None
        if answer.get("type") != "observation":
            raise RuntimeError(f"the OpenEnv server answered {str(answer)[:300]}; wanted an observation")
        data: dict[str, Any] = answer["data"]
        return data

    def _text(self, observation: dict[str, Any]) -> str:
        if self._observation_field is not None:
            return observation[self._observation_field]
        texts = [name for name, value in observation.items() if isinstance(value, str)]
        if len(texts) != 1:
            raise wrong_argument("observation_field", None, f"one of the text fields that were sent: {texts}")
        return observation[texts[0]]


class OpenEnvToolEnv(OpenEnvEnv):
    """A client of an OpenEnv server whose actions are tool calls; ``rollout.prompt.action_format: tool_call``.

    The tools are asked for once (``list_tools``), and each call is one step (``call_tool``). A call that the schema of
    its tool refuses never reaches the server. Reward and end are the server's: without a reward nothing is learnt.

    Args:
        task: the goal as one sentence; also what is read first where the server's first observation has no text.
        settings: those of `OpenEnvEnv` but for the fields of an action.
    """

    def __init__(self, split: str = "train", *, url: str, task: str = "Use the tools.", **settings: Any) -> None:
        super().__init__(split, url=url, **settings)
        self._task = task
        self._send({"type": "step", "data": {"type": "list_tools"}})
        listed = self._answer()["observation"].get("tools")
        if not listed:
            raise wrong_argument("url", url, f"a server with tools; it answered list_tools with {listed!r}")
        self._tools = {tool["name"]: _tool(tool) for tool in listed}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode, and tell its tools."""
        observation, info = super().reset(seed=seed, options=options)
        return observation, {**info, "task": self._task, "tools": [*self._tools.values()]}

    def begin_step(self, action: str) -> None:
        """Send the call, if it is one that the server could answer."""
        self._check_running()
        call = read_call(action, self._tools.values())
        if not isinstance(call, str):
            data = {"type": "call_tool", "tool_name": call.name, "arguments": call.arguments}
            self._send({"type": "step", "data": data})

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one call; what is none is told so without asking the server."""
        self._check_running()
        if isinstance(fault := read_call(action, self._tools.values()), str):
            return f"error: {fault}", 0.0, False, False, {"won": False, "admissible_action": False}
        observation, reward, ended, cut, info = super().step(action)
        return observation, reward, ended, cut, {**info, "admissible_action": self._heard}

    def _text(self, observation: dict[str, Any]) -> str:
        """A tool's result, or what was wrong with the call; of a reset what the server shows, if anything."""
        self._heard = not observation.get("error")
        if not self._heard:
            return f"error: {observation['error'].get('message')}"
        if "result" not in observation:
            texts = [value for value in observation.values() if isinstance(value, str) and value.strip()]
            return super()._text(observation) if texts else self._task
        result = observation["result"]
        if isinstance(result, dict) and "content" in result:
            self._heard = not (result.get("is_error") or result.get("isError"))
            texts = [part["text"] for part in result["content"] or [] if part.get("type") == "text"]
            return "\n".join(texts).strip() or EMPTY
        return (result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)).strip() or EMPTY


def _tool(told: dict[str, Any]) -> Tool:
    parameters = told.get("input_schema") or {"type": "object", "properties": {}}
    function = {"name": told["name"], "description": told.get("description") or "", "parameters": parameters}
    return {"type": "function", "function": function}
