"""TextArena's games for one player (extra `textarena`)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from paw_lightning.envs.base import TextEnv
from paw_lightning.envs.loading import import_extra


class TextArenaEnv(TextEnv):
    """A TextArena game for one player; the reward comes at the end, R_max is 1.

    The games draw from Python's global random numbers. Each environment here has a state of its own for them, but some
    games use NumPy's too: run them in a WorkerEnv.

    Args:
        split: each split has its own tasks.
        game: the game's id. Those that end in "-raw" show what is new; the others repeat the whole dialogue each turn.
    """

    def __init__(self, split: str = "train", *, game: str = "GuessTheNumber-v0-raw") -> None:
        textarena = import_extra("textarena", "textarena")
        self._split, self._game = split, game
        self._echo = textarena.ObservationType.PLAYER_ACTION
        self._random = random.Random(0).getstate()
        with self._own_random():
            self._env = textarena.make(game)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start the game with the split's seed number `seed`."""
        number = random.Random(f"{self._split} {seed or 0}").getrandbits(31)
        with self._own_random():
            self._env.reset(num_players=1, seed=number)
            text = self._observation()
        return text, {"task": self._game.split("-")[0], "max_reward": 1.0, "group_key": f"{self._game}/{number}"}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Make one move, in the form that the rules ask for (usually in square brackets)."""
        with self._own_random():
            done, _ = self._env.step(action)
            if not done:
                return self._observation(), 0.0, False, False, {"won": False}
            rewards, infos = self._env.close()
        reward = float((rewards or {}).get(0, 0.0))
        return str(infos[0].get("reason", "")), reward, True, False, {"won": reward >= 1.0}

    @contextmanager
    def _own_random(self) -> Iterator[None]:
        outside = random.getstate()
        random.setstate(self._random)
        try:
            yield
        finally:
            self._random = random.getstate()
            random.setstate(outside)

    def _observation(self) -> str:
        _, messages = self._env.get_observation()
        if isinstance(messages, str):
            return messages
        return "\n".join(text for _, text, kind in messages if kind is not self._echo)
