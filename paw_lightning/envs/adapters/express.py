"""TextWorldExpress: eight families of small and fast text games (extra `express`, needs Java)."""

from __future__ import annotations

from typing import Any

from paw_lightning.envs.base import TextEnv
from paw_lightning.envs.loading import check_split, import_extra, require_java

FOLDS = {"train": "train", "val": "dev", "test": "test"}


class ExpressEnv(TextEnv):
    """One of TextWorldExpress' games; the reward is the change of its score, R_max is 1.

    Args:
        split: the games' own folds train, dev ("val") and test.
        game: coin, cookingworld, twc, mapreader, arithmetic, sorting, simonsays or peckingorder.
        parameters: the game's own settings, as in ``"numLocations=3,includeDoors=0"``.
    """

    def __init__(self, split: str = "train", *, game: str = "coin", parameters: str = "") -> None:
        check_split(split)
        express = import_extra("textworld_express", "express")
        require_java()
        self._fold = FOLDS[split]
        self._env = express.TextWorldExpressEnv(envStepLimit=2**30)  # rollout.max_steps ends episodes
        self._env.load(game, parameters)
        seeds = {"train": self._env.getValidSeedsTrain, "dev": self._env.getValidSeedsDev}
        self._seeds = seeds.get(self._fold, self._env.getValidSeedsTest)()
        self.num_tasks = len(self._seeds)
        self._name = f"{game}/{parameters}/{self._fold}"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start game number `seed` of the fold."""
        number = self._seeds[(seed or 0) % len(self._seeds)]
        observation, state = self._env.reset(seed=number, gameFold=self._fold)
        start = {"task": state["taskDescription"], "max_reward": 1.0, "group_key": f"{self._name}/{number}"}
        return observation, _info(state) | start

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one action."""
        observation, reward, done, state = self._env.step(action)
        return observation, float(reward), bool(done), False, _info(state)

    def close(self) -> None:
        """Stop the Java machine."""
        self._env.close()


def _info(state: dict[str, Any]) -> dict[str, Any]:
    return {"admissible_commands": sorted(state["validActions"]), "won": bool(state["tasksuccess"])}
