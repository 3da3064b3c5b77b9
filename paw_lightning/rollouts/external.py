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

    @abstractmethod
    def generate(
        self, prompts: list[list[int]], *, temperature: float, max_new_tokens: int, uniforms: Tensor
    ) -> list[Generation]:
        """As the native sampler's. `entropies` may be left empty (scoring fills them in); `uniforms`, float
        [B, max_new_tokens], is what randomness should come from, as far as the sampler allows."""
