"""A fake environment manager in the manner of verl-agent: lists in and out, actions read out of the policy's text."""

from __future__ import annotations

import re
from typing import Any

import numpy as np


class Manager:
    """Counts to `goal` one "up" at a time; pays 10 there."""

    def __init__(self, goal: int) -> None:
        self.goal = goal
        self.closed = False

    def reset(self, kwargs: list[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        assert len(kwargs) == 1
        self.count, self.seed = 0, kwargs[0]["seed"]
        return self._observe(f"task {self.seed}: count to {self.goal}"), [self._info(False)]

    def step(self, texts: list[str]) -> tuple[dict[str, Any], np.ndarray, np.ndarray, list[dict[str, Any]]]:
        [text] = texts
        found = re.search(r"<think>.*</think><action>(.*)</action>", text)
        self.count += found is not None and found.group(1) == "up"
        won = self.count == self.goal
        observation = self._observe(f"you are at {self.count}" if found else "no action")
        return observation, np.array([10.0 * won]), np.array([won]), [self._info(won)]

    def close(self) -> None:
        self.closed = True

    def _observe(self, text: str) -> dict[str, Any]:
        return {"text": [f"You are an agent. History: ... Now: {text}"], "image": None, "anchor": [text]}

    def _info(self, won: bool) -> dict[str, Any]:
        return {"won": won, "admissible_commands": ["up", "down"], "is_action_valid": np.array(True)}


def make_one(split: str, goal: int = 2) -> Manager:
    """What ``ManagedEnv.factory`` names."""
    return Manager(goal)
