"""How episodes are played and scored: the settings of the `rollout` section that need no Lightning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedModel

from paw_lightning.envs.base import TextEnv
from paw_lightning.errors import SettingsError, one_of
from paw_lightning.rollouts.layouts import Layout, check_prompt
from paw_lightning.samplers.base import Sampler
from paw_lightning.samplers.native import NativeSampler
from paw_lightning.samplers.paged import PagedSampler
from paw_lightning.samplers.vllm import VLLMSampler
from paw_lightning.text.prompts import Prompt

SamplerFactory = Callable[[PreTrainedModel, list[int], int], Sampler]
"""Called with the language model, the tokens that end an action, and the padding token."""
SAMPLERS: dict[str, SamplerFactory] = {"native": NativeSampler, "paged": PagedSampler, "vllm": VLLMSampler}


@dataclass(frozen=True)
class RolloutSettings:
    """How episodes are played and scored; the arguments, and their defaults, are those of EnvironmentLoop."""

    environment: Callable[[str], TextEnv]
    prompt: Prompt
    layout: type[Layout]
    sampler: SamplerFactory
    max_steps: int
    max_action_tokens: int
    max_observation_tokens: int
    temperature: float
    validation_temperature: float
    episode_retries: int
    old_logprobs: Literal["sampler", "trainer"] | None
    importance_cap: float | None
    scoring_tokens: int
    test_temperatures: Sequence[float] = ()
    ahead: Literal[0, 1] = 0
    """Updates between the weights that play and those that are trained on it."""
    counterfactuals: bool = False
    """Record with each training turn the world's answer to another action (`target_control.targets: wrong_action`)."""
    demonstrated: bool = False
    """In training the environment's expert writes the actions (`rollout.advantage: Imitation`)."""

    def __post_init__(self) -> None:
        for name in ("max_steps", "max_action_tokens", "max_observation_tokens", "scoring_tokens"):
            if getattr(self, name) < 1:
                raise SettingsError(f"rollout.{name} is {getattr(self, name)}; wanted at least 1")
        if not self.temperature > 0:
            raise SettingsError(
                f"rollout.temperature is {self.temperature}; wanted above 0: a greedy policy cannot explore"
            )
        if not self.validation_temperature >= 0:
            raise SettingsError(f"rollout.validation_temperature is {self.validation_temperature}; wanted at least 0")
        tested = self.test_temperatures
        if len({f"{t:g}" for t in tested}) < len(tested) or not all(temperature >= 0 for temperature in tested):
            raise SettingsError(f"rollout.test_temperatures is {list(tested)}; wanted each once, and at least 0")
        if self.episode_retries < 0:
            raise SettingsError(f"rollout.episode_retries is {self.episode_retries}; wanted at least 0")
        cap = self.importance_cap
        if cap is not None and (not cap > 0 or self.old_logprobs == "sampler"):
            raise SettingsError(
                f"rollout.importance_cap is {cap} and rollout.old_logprobs is {self.old_logprobs!r}; wanted a cap "
                "above 0 and `trainer`, which measures the sampler against the trainer, or a cap of null"
            )
        one_of("rollout.ahead", self.ahead, (0, 1))
        if self.ahead and cap is None and self.old_logprobs == "trainer":
            raise SettingsError(
                f"rollout.ahead is {self.ahead} and rollout.old_logprobs is 'trainer', which would take the ratio "
                "against weights that have not played; wanted old_logprobs: sampler, or a rollout.importance_cap"
            )
        check_prompt(self.layout, self.prompt)

    def takes_sampled_logprobs(self, sampler: Sampler) -> bool:
        """Whether the policy's ratio is taken against the log-probs recorded while sampling."""
        if self.old_logprobs is None:
            return self.importance_cap is None and (sampler.trainers_arithmetic or bool(self.ahead))
        return self.old_logprobs == "sampler"
