"""ScienceWorld: thirty kinds of science experiments in a house with a workshop (extra `scienceworld`, needs Java)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paw_lightning.envs.base import TextEnv
from paw_lightning.envs.loading import import_extra, require_java


class ScienceWorldEnv(TextEnv):
    """ScienceWorld's tasks; the reward is the change of the score, which lies in [0, 1], so R_max is 1.

    A focus on the wrong thing ends an episode with a score of -100 of 100; it counts as 0 (choice).

    Args:
        split: the variations of each task are ScienceWorld's own train, dev ("val") and test sets.
        tasks: names of tasks, such as "find-living-thing"; a seed walks through the variations of all of them.
        simplifications: ScienceWorld's own, as in ``"teleportAction,openDoors"``, or "easy" for all of them.
        admissible: list the admissible commands of every step: hundreds, and it takes two thirds of the speed.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        tasks: Sequence[str] = ("find-living-thing",),
        simplifications: str = "easy",
        admissible: bool = False,
    ) -> None:
        package = import_extra("scienceworld", "scienceworld")
        require_java()
        self._env = package.ScienceWorldEnv("", envStepLimit=2**30)  # rollout.max_steps ends episodes
        self._simplifications, self._admissible = simplifications, admissible
        self._games: list[tuple[str, int]] = []
        for task in tasks:
            self._env.load(task, 0, simplifications)
            sets = {"train": self._env.get_variations_train, "val": self._env.get_variations_dev}
            self._games += [(task, variation) for variation in sets.get(split, self._env.get_variations_test)()]
        self.num_tasks = len(self._games)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start variation number `seed` of the split."""
        task, variation = self._games[(seed or 0) % len(self._games)]
        self._env.load(task, variation, self._simplifications)
        self._env.server.reset()
        self._score = 0.0
        observation = self._env.server.step("look around")
        start = {"task": self._env.get_task_description(), "max_reward": 1.0, "group_key": f"{task}/{variation}"}
        return observation, self._info() | start | {"kind": task}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one action on the simulator itself, since the package's own step lists every command each time."""
        observation = self._env.server.step(action)
        raw = float(self._env.server.getScore())
        reward, self._score = max(raw, 0.0) - self._score, max(raw, 0.0)
        done = raw < 0 or bool(self._env.server.getCompleted())
        return observation, reward, done, False, self._info()

    def close(self) -> None:
        """Stop the Java machine."""
        self._env.close()

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {"won": self._score >= 1.0}
        if self._admissible:
            info["admissible_commands"] = sorted(self._env.get_valid_action_object_combinations())
        return info
