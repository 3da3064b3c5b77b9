"""The reference ALFWorld engine as a text environment, for a worker: it overwrites sys.argv and standard output."""

from __future__ import annotations

from typing import Any

from paw_lightning.envs import TextEnv
from paw_lightning.envs.loading import import_extra


class ReferenceAlfworld(TextEnv):
    """One official game in TextWorld's planner-backed engine with alfworld's names."""

    def __init__(self, split: str = "train", *, game_file: str) -> None:
        textworld = import_extra("textworld", "alfworld")
        names = import_extra("alfworld.agents.environment.alfred_tw_env", "alfworld")
        infos = textworld.EnvInfos(won=True, admissible_commands=True)
        self._env = textworld.start(game_file, infos, wrappers=[names.AlfredDemangler])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        state = self._env.reset()
        return state.feedback, _info(state)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        state, score, done = self._env.step(action)
        return state.feedback, float(score), bool(done), False, _info(state)

    def close(self) -> None:
        self._env.close()


def _info(state: Any) -> dict[str, Any]:
    return {"admissible_commands": sorted(state.admissible_commands), "won": bool(state.won)}
