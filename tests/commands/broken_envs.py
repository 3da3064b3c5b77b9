"""The toy world, broken in one way at a time."""

from __future__ import annotations

from typing import Any

from tests.helpers.toy_env import ToyEnv

CALLS = [0]
"""How many steps were played in this process, whoever played them."""


class SplitEnv(ToyEnv):
    """Nothing is wrong with it: the splits hold different tasks."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        return f"{self.split}: {observation}", info

    def peek(self, action: str) -> str:
        return f"turn {self.turn + 1}: {len(action)} letters"


class Forgetful(SplitEnv):
    """Chance without a seed."""

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        CALLS[0] += 1
        observation, *rest = super().step(action)
        return f"{observation} ({CALLS[0]})", *rest  # type: ignore[return-value]


class NeverWon(SplitEnv):
    """Pays, and never says that it was won."""

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        del info["won"]
        return observation, reward, terminated, truncated, info


class FourItems(SplitEnv):
    """Gym's old signature."""

    def step(self, action: str) -> Any:
        observation, reward, done, _, info = super().step(action)
        return observation, reward, done, info


class Silent(SplitEnv):
    """Says nothing at the first turn."""

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, *rest = super().step(action)
        return "" if self.turn == 1 else observation, *rest  # type: ignore[return-value]


class Generous(SplitEnv):
    """Pays more than it says is the most."""

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, *rest = super().step(action)
        return observation, 1.0, *rest  # type: ignore[return-value]


class Raises(SplitEnv):
    """A bug of the user's."""

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        raise RuntimeError("my bug in step")


class NoSplit(SplitEnv):
    """Refuses a split."""

    def __init__(self, split: str = "train") -> None:
        if split == "val":
            raise FileNotFoundError("no validation games")
        super().__init__(split)


class Clumsy(SplitEnv):
    """Moves when it is peeked at."""

    def peek(self, action: str) -> str:
        return str(self.step(action)[0])


class NamedOnce(SplitEnv):
    """Names the first state alone."""

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        return observation, {**info, "state_key": "start"}


class Wordy(SplitEnv):
    """Admissible commands as one string."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        return observation, info | {"admissible_commands": "look"}


class Endless(SplitEnv):
    """A split of five tasks that does not start over."""

    def __init__(self, split: str = "train") -> None:
        super().__init__(split, num_tasks=5)
