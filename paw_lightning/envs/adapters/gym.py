"""Gymnasium environments whose text is a rendering, and MiniGrid described in words (extra `gym`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from paw_lightning.envs.base import TextEnv
from paw_lightning.envs.loading import import_extra
from paw_lightning.errors import SettingsError

SPLITS = ("train", "val", "test")
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
HIGHLIGHT = re.compile(r"\x1b\[[0-9;]+m(.)\x1b\[0m")


class GymnasiumEnv(TextEnv):
    """A Gymnasium environment with numbered actions; the observation is what it renders as text.

    What the renderer shows in colour, usually the player, is put in brackets. An action that is not in the list leaves
    the world alone and is answered with the list.

    Args:
        split: each split has its own third of the seeds.
        id: what ``gymnasium.make`` is called with.
        actions: the name of each action, in the order of its number.
        task: the goal in a sentence.
        max_reward: R_max; None leaves it to reward_balance.max_return.
        winning_reward: an episode is won when it ends with a reward above this.
        make: further arguments of ``gymnasium.make``.
    """

    renderer: str | None = "ansi"

    def __init__(
        self,
        split: str = "train",
        *,
        id: str = "FrozenLake-v1",
        actions: Sequence[str] = ("left", "down", "right", "up"),
        task: str = "",
        max_reward: float | None = 1.0,
        winning_reward: float = 0.0,
        make: dict[str, Any] | None = None,
    ) -> None:
        gymnasium = import_extra("gymnasium", "gym")
        self._env = self._make(gymnasium, id, {"render_mode": self.renderer, **(make or {})})
        count = getattr(self._env.action_space, "n", None)
        if count is None or len(actions) > count:
            raise SettingsError(f"actions names {len(actions)} actions; {id} has the space {self._env.action_space}")
        self._split, self._id, self._actions, self._task = SPLITS.index(split), id, list(actions), task
        self._max_reward, self._winning_reward = max_reward, winning_reward

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start with the split's seed number `seed`."""
        number = 3 * (seed or 0) + self._split
        observation, _ = self._env.reset(seed=number)
        self._text = self._describe(observation)
        start: dict[str, Any] = {"task": self._task, "group_key": f"{self._id}/{number}"}
        if self._max_reward is not None:
            start["max_reward"] = self._max_reward
        return self._text, self._info(False) | start

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one named action."""
        if action not in self._actions:
            return f"Unknown action. Actions: {', '.join(self._actions)}.", 0.0, False, False, self._info(False)
        observation, reward, terminated, truncated, _ = self._env.step(self._actions.index(action))
        won = terminated and reward > self._winning_reward
        return self._describe(observation), float(reward), terminated, truncated, self._info(won)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _make(self, gymnasium: Any, id: str, settings: dict[str, Any]) -> Any:
        return gymnasium.make(id, **settings)

    def _describe(self, observation: Any) -> str:
        """The observation in words: itself if it is text, else the rendering."""
        if isinstance(observation, str):
            return observation
        return ESCAPES.sub("", HIGHLIGHT.sub(r"[\1]", self._env.render())).strip()

    def _info(self, won: bool) -> dict[str, Any]:
        return {"admissible_commands": sorted(self._actions), "won": won}


class MiniGridEnv(GymnasiumEnv):
    """A MiniGrid or BabyAI world: what the agent sees, in words with distances; the mission is the task.

    An episode's reward is 1 - 0.9 * steps / limit when the mission is done, so R_max is 1.

    Args:
        split: each split has its own third of the seeds.
        id: what ``gymnasium.make`` is called with, such as "BabyAI-GoToRedBall-v0".
        make: further arguments of ``gymnasium.make``.
    """

    renderer = None

    def __init__(
        self, split: str = "train", *, id: str = "BabyAI-GoToObj-v0", make: dict[str, Any] | None = None
    ) -> None:
        actions = ("turn left", "turn right", "go forward", "pick up", "drop", "toggle")
        super().__init__(split, id=id, actions=actions, make=make)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start with the split's seed number `seed`."""
        observation, info = super().reset(seed=seed, options=options)
        return observation, info | {"task": self._env.unwrapped.mission}

    def _make(self, gymnasium: Any, id: str, settings: dict[str, Any]) -> Any:
        import_extra("minigrid", "gym")  # registers its worlds
        return super()._make(gymnasium, id, settings)

    def _describe(self, observation: Any) -> str:
        world = self._env.unwrapped
        grid, _ = world.gen_obs_grid()
        middle, here = grid.width // 2, grid.height - 1  # the agent looks up from the middle of the last row
        sights = []
        for row in range(here, -1, -1):
            for column in range(grid.width):
                thing = grid.get(column, row)
                ahead, aside = here - row, column - middle
                # A grid hides unseen cells as empty ones and walls are everywhere: only the wall ahead is told.
                if thing is None or (ahead, aside) == (0, 0) or (thing.type == "wall" and aside):
                    continue
                sights.append(f"{_name(thing)} {_place(ahead, aside)}")
        nearest_wall = next((sight for sight in sights if sight.startswith("a wall")), None)
        told = [sight for sight in sights if not sight.startswith("a wall") or sight == nearest_wall]
        carried = f" You carry {_name(world.carrying)}." if world.carrying else ""
        return f"You see {', '.join(told) or 'nothing'}.{carried}"


def _name(thing: Any) -> str:
    if thing.type == "wall":
        return "a wall"
    state = ""
    if thing.type == "door":
        state = "open " if thing.is_open else "locked " if thing.is_locked else "closed "
    return f"a {state}{thing.color} {thing.type}"


def _place(ahead: int, aside: int) -> str:
    parts = [f"{ahead} ahead"] if ahead else []
    if aside:
        parts.append(f"{abs(aside)} to the {'right' if aside > 0 else 'left'}")
    return " and ".join(parts)
