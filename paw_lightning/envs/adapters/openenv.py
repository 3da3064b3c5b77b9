"""OpenEnv: environments behind a web socket (extra `openenv`, which brings a web-socket client, not OpenEnv)."""

from __future__ import annotations

import json
from typing import Any

from paw_lightning.envs.base import TextEnv
from paw_lightning.envs.loading import import_extra, wrong_argument


class OpenEnvEnv(TextEnv):
    """A client of one OpenEnv server; each environment holds a session of its own.

    The server is another machine's business: nothing here installs or starts it. Steps overlap, as the server's answer
    is waited for only when it is needed.

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
        self._split, self._action_field, self._observation_field = split, action_field, observation_field
        self._action, self._max_reward, self._winning_reward = action or {}, max_reward, winning_reward
        self._timeout = timeout
        address = url.replace("http", "ws", 1) if url.startswith("http") else url
        try:
            self._socket = client.connect(f"{address.rstrip('/')}/ws", open_timeout=timeout, max_size=None)
        except OSError as error:
            raise wrong_argument("url", url, f"the address of a server that answers: {error}") from error
        self._begun: dict[str, Any] | None = None

    def begin_reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Send the reset."""
        self._send({"type": "reset", "data": {"seed": seed, "split": self._split}})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode; a server that knows no seed starts whichever it likes."""
        if self._begun is None:
            self.begin_reset(seed=seed)
        observation, _, _ = self._receive()
        self._return = 0.0
        info: dict[str, Any] = {"group_key": f"{self._split}/{seed}"}
        return observation, info if self._max_reward is None else info | {"max_reward": self._max_reward}

    def begin_step(self, action: str) -> None:
        """Send the action."""
        self._send({"type": "step", "data": {**self._action, self._action_field: action}})

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one action."""
        if self._begun is None:
            self.begin_step(action)
        observation, reward, done = self._receive()
        self._return += reward
        return observation, reward, done, False, {"won": done and self._return >= self._winning_reward}

    def close(self) -> None:
        """End the session."""
        self._socket.close()

    def _send(self, message: dict[str, Any]) -> None:
        self._socket.send(json.dumps(message))
        self._begun = message

    def _receive(self) -> tuple[str, float, bool]:
        answer = json.loads(self._socket.recv(timeout=self._timeout))
        self._begun = None
        if answer.get("type") != "observation":
            raise RuntimeError(f"the OpenEnv server answered {str(answer)[:300]}; wanted an observation")
        data = answer["data"]
        return self._text(data["observation"]), float(data.get("reward") or 0.0), bool(data.get("done"))

    def _text(self, observation: dict[str, Any]) -> str:
        if self._observation_field is not None:
            return observation[self._observation_field]
        texts = [name for name, value in observation.items() if isinstance(value, str)]
        if len(texts) != 1:
            raise wrong_argument("observation_field", None, f"one of the text fields that were sent: {texts}")
        return observation[texts[0]]
