"""A collector that plays the toy world with a sampler whose words follow its uniforms."""

from __future__ import annotations

from paw_lightning.rollouts.collector import Collector
from paw_lightning.samplers.base import Generation, Sampler
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.prompts import Prompt, PromptBuilder
from tests.conftest import byte_tokenizer
from tests.helpers.toy_env import ToyEnv

TOKENIZER = byte_tokenizer()
END = TOKENIZER.eos_token_id


class ScriptedSampler(Sampler):
    """Writes as many letters as its uniform says; records what it was asked."""

    def __init__(self) -> None:
        self.prompts: list[list[list[int]]] = []

    def generate(self, prompts, *, temperature, max_new_tokens, uniforms):
        self.prompts.append(prompts)
        letters = [1 + int(u * 3) for u in uniforms[:, 0]]
        words = [TOKENIZER("x" * n).input_ids for n in letters]
        return [Generation([*w, END], [-1.0] * (len(w) + 1), [0.5] * (len(w) + 1), True) for w in words]


def collector(sampler=None, prompt: Prompt | None = None, reached=lambda: False, **env) -> Collector:
    builder = PromptBuilder(prompt or Prompt(), ChatFormat(TOKENIZER))
    return Collector(
        lambda: ToyEnv(**env),
        builder,
        sampler or ScriptedSampler(),
        max_steps=5,
        max_action_tokens=6,
        max_observation_tokens=100,
        stop_token_ids=[END],
        reached=reached,
    )


def play(c: Collector, tasks=(0, 1), seed=("run", 0)):
    return c.play(tasks, 2, temperature=1.0, seed=seed)
