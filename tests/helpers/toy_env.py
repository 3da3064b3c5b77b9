"""A three-turn world whose outcome depends on the action's length, so that even a random policy sees both outcomes."""

from __future__ import annotations

import sys
from typing import Any

from paw_lightning.envs import TextEnv


class ToyEnv(TextEnv):
    """Wins when most actions have an even length; misbehaves on demand."""

    def __init__(
        self,
        split: str = "train",
        fail_on: int | None = None,
        failure: str = "raise",
        max_reward: float | None = 1.0,
        commands: bool = False,
        uneven: bool = False,
        num_tasks: int | None = None,
        nuisance: bool = False,
    ) -> None:
        self.split, self.fail_on, self.failure, self.max_reward = split, fail_on, failure, max_reward
        self.commands = {"admissible_commands": ["be even"]} if commands else {}
        self.uneven, self.num_tasks = uneven, num_tasks
        self.labels = {"nuisance_spans": [(0, 4)]} if nuisance else {}
        self.closed = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        self.seed, self.turn, self.even = seed, 0, 0
        info = {"task": f"be even in house {seed}", "group_key": f"{self.split}-{seed}"}
        return f"start of {seed}", info | self.commands | (
            {} if self.max_reward is None else {"max_reward": self.max_reward}
        )

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        self.even += len(action) % 2 == 0
        done = self.turn == (1 + (self.seed or 0) % 3 if self.uneven else 3)
        won = done and self.even >= 2
        if self.seed == self.fail_on and self.turn == 2:
            if self.failure == "raise":
                raise ConnectionError("the world fell over")
            if self.failure == "exit":
                sys.exit("usage: step ACTION")
            if self.failure == "interrupt":
                raise KeyboardInterrupt
            observation = {"empty": "", "number": 7}[self.failure]
            return observation, 0.0, False, False, {}
        info = {"won": won} | self.commands | self.labels
        return f"turn {self.turn}: {len(action)} letters", float(won), done, False, info

    def close(self) -> None:
        self.closed = True
