"""PlayedWorld: the environment that a base policy is made in, a world whose expert is its noisy player."""

from __future__ import annotations

import random
from typing import Any

from base_worlds import WORLDS
from players import Skill

from paw_lightning.envs.base import TextEnv


class PlayedWorld(TextEnv):
    """Plays a world of `base_worlds` on tasks that no training will meet, for imitation.

    Args:
        split: of no importance, every task is one of these.
        world: its name.
        noise, insight, mistakes, dawdling: of the player, see `players.Skill`.
        dice: another number gives other actions on the same tasks.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        world: str,
        noise: float,
        insight: float,
        mistakes: float = 0.0,
        dawdling: float = 0.0,
        dice: int = 0,
    ) -> None:
        self.world, self.skill, self.dice = WORLDS[world], Skill(noise, insight, mistakes, dawdling), dice

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin task ``seed``."""
        number = seed or 0
        self.env, task = self.world.start(number)
        observation, self.info = self.env.reset(seed=task, options=options)
        rng = random.Random(f"{self.dice} {number}")
        self.player = self.world.player(self.env, observation, self.info, rng, self.skill)
        self.shown = self.player.act(observation, self.info)
        return observation, self.info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play on, and let the player see what came of it."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.info = {**self.info, **info}
        if not (terminated or truncated):
            try:
                self.shown = self.player.act(observation, self.info)
            except RuntimeError:  # a detour left it with an object that fits nowhere
                truncated = True
        return observation, reward, terminated, truncated, info

    def demonstrate(self) -> str:
        """What the player does; behind a space where that is how an action begins in the world's prompts."""
        return self.world.action_prefix + self.shown
