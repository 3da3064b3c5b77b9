"""The native sampler: actions from the very model that is trained, no copy."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from paw_lightning.samplers.base import Generation, Sampler, evaluating
from paw_lightning.samplers.decoding import Decoder
from paw_lightning.samplers.session import Session


class NativeSampler(Decoder, Sampler):
    """Samples from `model` itself; a prompt that several rows share, or its beginning, is read once.

    On CUDA it writes with fixed shapes, which are captured as a graph and replayed, and looks at what has ended every 8
    tokens; a model that cannot is told so once, and written token by token. Not yet run on hardware.

    Args:
        max_batch_tokens: the most rows x tokens in the cache at a time, what is being read apart. None: what free
            memory holds when a rollout begins (on CPUs what 4 GiB hold). How rows are batched changes rounding.
    """

    trainers_arithmetic: ClassVar[bool] = True

    @torch.no_grad()
    def generate(
        self, prompts: list[list[int]], *, temperature: float, max_new_tokens: int, uniforms: Tensor
    ) -> list[Generation]:
        """Draw token i of row b as F^-1(uniforms[b, i]), F the cumulative distribution of softmax(logits / T).

        `uniforms`, float [B, max_new_tokens] in [0, 1), is the only randomness; rows do not affect each other, apart
        from rounding. T = 0 is greedy, and log-probs and entropies are then those of T = 1.

        Raises:
            SettingsError: a setting is wrong, or a prompt too long for the model.
            ValueError: a prompt is empty, or the uniforms are of another shape or range.
            FloatingPointError: logits are not finite.
        """
        if not prompts:
            return []
        self.check(prompts, temperature, max_new_tokens, uniforms)
        uniforms = uniforms.to(self.model.device)
        generations: dict[int, Generation] = {}
        with evaluating(self.model):
            budget = self.token_budget(len(prompts))
            for rows in self.decode_batches(prompts, range(len(prompts)), max_new_tokens, budget):
                batch = [prompts[row] for row in rows]
                cache = self.prefill(batch, max_new_tokens)
                actions = self.decode(batch, cache, temperature, uniforms[rows])
                generations.update(zip(rows, actions, strict=True))
                del cache  # before the next one is made
        return [generations[row] for row in range(len(prompts))]

    def release(self) -> None:
        """Give back the memory of CUDA graphs, which the update could not use; that of the cache is free already."""
        if self.captured:
            torch.cuda.empty_cache()
        self.captured = False

    def session(self) -> Sampler:
        """A sampler for one rollout of growing transcripts, which remembers what it has read."""
        return Session(self)
