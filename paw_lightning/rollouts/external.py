"""What a sampler that keeps weights, or what it computed with them, outside of the model has to offer."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from paw_lightning.rollouts.sampler import Generation


class ExternalSampler(ABC):
    """Base of the samplers that `rollout.sampler` can name by class; built with (model, stop tokens, padding token)."""

    @abstractmethod
    def update_weights(self) -> None:
        """The model's weights have changed; called on every rank before each rollout and evaluation."""

    def release(self) -> None:  # noqa: B027 - most have nothing to give back
        """A rollout or an evaluation is over: give back memory of the trainer's device that only sampling needs."""

    @abstractmethod
    def generate(
        self, prompts: list[list[int]], *, temperature: float, max_new_tokens: int, uniforms: Tensor
    ) -> list[Generation]:
        """As the native sampler's. `entropies` may be left empty (scoring fills them in); `uniforms`, float
        [B, max_new_tokens], is what randomness should come from, as far as the sampler allows."""
