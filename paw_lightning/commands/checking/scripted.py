"""Whole episodes without a model, through the collector that a run uses: what the texts look like as tokens."""

from __future__ import annotations

import random
from typing import Any

from torch import Tensor

from paw_lightning.commands.checking.probe import choose
from paw_lightning.commands.run_settings import RunSettings, make_collector
from paw_lightning.envs.base import TextEnv
from paw_lightning.rollouts.collector import PlayedGroups
from paw_lightning.samplers.base import Generation, Sampler
from paw_lightning.text.prompts import PromptBuilder
from paw_lightning.text.tool_calls import Tool


class Witness(TextEnv):
    """Plays in an environment and remembers what it said last."""

    def __init__(self, env: TextEnv) -> None:
        self.env = env
        self.observation = ""
        self.admissible: list[str] | None = None
        self.tools: list[Tool] | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        self.observation, info = self.env.reset(seed=seed, options=options)
        self.admissible, self.tools = info.get("admissible_commands"), info.get("tools")
        return self.observation, info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.observation, self.admissible = observation, info.get("admissible_commands")
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        self.env.close()


class ScriptedSampler(Sampler):
    """Writes an action that the witness's environment admits, drawn at random, in the format of the settings."""

    def __init__(self, witness: Witness, prompts: PromptBuilder) -> None:
        self.witness, self.prompts = witness, prompts
        self.random = random.Random("scripted")

    def generate(
        self, prompts: list[list[int]], *, temperature: float, max_new_tokens: int, uniforms: Tensor
    ) -> list[Generation]:
        """One action for the one episode under way."""
        witness, told = self.witness, self.prompts.with_tools(self.witness.tools)
        command = choose(witness.admissible, witness.observation, self.random, told.tools)
        ids = told.chat.encode_answer(told.form.answer(command, told.chat.scaffold.opened))
        return [Generation(ids, [0.0] * len(ids), [0.0] * len(ids), True) for _ in prompts]


def play_scripted(settings: RunSettings, episodes: int) -> PlayedGroups:
    """Play the first train tasks, one after the other, with random admissible actions."""
    witness = Witness(settings.rollout.environment("train"))
    prompts = settings.prompts
    sampler = ScriptedSampler(witness, prompts)
    collector = make_collector(settings, sampler, sorted(prompts.chat.stop_ids), lambda: witness)
    played = PlayedGroups([], [], {})
    for task in range(episodes):
        one = collector.play([task], 1, temperature=1.0, seed=("check",))
        played.groups += one.groups
        played.failures += one.failures
        if one.failures:
            break  # the environment was closed
    collector.close()
    return played
