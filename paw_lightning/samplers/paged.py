"""Prompts -> actions with transformers' continuous batching: paged keys and values, for accelerators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from paw_lightning.samplers.base import Generation, Sampler, evaluating
from paw_lightning.samplers.cache_memory import cache_bytes
from paw_lightning.samplers.kv_cache import device_kind, token_bytes

BATCH_TOKENS = {"cpu": 512, "accelerator": 8_192}
"""Tokens of one forward call where nothing is set; every page needs a mask of so many rows."""


class PagedSampler(Sampler):
    """Samples from `model` itself; finished rows make room for waiting ones at every token.

    It draws with its own generator, seeded from the first uniform number of a rollout: two runs agree only as far as
    its scheduler's timing does. It gives no entropies (scoring fills them in). On CPUs it is several times slower than
    the native sampler.

    Args:
        page_size: tokens of one page of the cache.
        num_blocks: pages; null takes twice as many as the prompts and actions of a call need, as far as free memory (on
            CPUs 4 GiB) holds them with their attention masks (transformers itself would take nearly all there is).
        max_batch_tokens: tokens of one forward call; null is 512 on CPUs and 8,192 elsewhere.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        stop_token_ids: Sequence[int],
        pad_token_id: int,
        page_size: int = 256,
        num_blocks: int | None = None,
        max_batch_tokens: int | None = None,
    ) -> None:
        self.model: Any = model
        self.stop_token_ids, self.pad_token_id = list(stop_token_ids), pad_token_id
        self.page_size = page_size
        self.max_batch_tokens = max_batch_tokens or BATCH_TOKENS[device_kind(model)]
        self.num_blocks = num_blocks
        self.blocks = 0
        """Pages of the cache as it is; 0 where there is none."""
        self.most_blocks = 0
        """Pages that memory held when there was no cache."""

    def update_weights(self) -> None:
        """Forget all pages: they hold keys and values of the old weights, and would be reused silently."""
        self.release()

    def release(self) -> None:
        """Free the pages, whose memory the update needs."""
        self.model.destroy_cached_continuous_batching_manager()
        self.blocks = 0

    def generate(
        self, prompts: list[list[int]], *, temperature: float, max_new_tokens: int, uniforms: Tensor
    ) -> list[Generation]:
        """One action per prompt; log-probs are those of the distribution that was drawn from."""
        if not prompts:
            return []
        blocks = self._wanted([len(prompt) + max_new_tokens for prompt in prompts])
        if blocks > self.blocks:  # the old cache, of fewer pages, makes room
            self.release()
            self.blocks = blocks
        batching = ContinuousBatchingConfig(
            page_size=self.page_size,
            num_blocks=self.blocks,
            max_batch_tokens=self.max_batch_tokens,
            return_logprobs=True,
            seed=seed_of(uniforms[0]),
        )
        with evaluating(self.model):
            results: dict[str, Any] = self.model.generate_batch(
                prompts,
                generation_config=self._settings(temperature, max_new_tokens),
                continuous_batching_config=batching,
                persistent_manager=True,
            )
        ordered = [results[name] for name in sorted(results, key=lambda name: int(name.rpartition("_")[2]))]
        failed = [result.error for result in ordered if result.error is not None]
        if failed or len(ordered) != len(prompts):
            raise RuntimeError(
                f"continuous batching answered {len(ordered)} of {len(prompts)} prompts, errors {failed[:1]}; use "
                "rollout.sampler: native, or set its num_blocks and max_batch_tokens"
            )
        return [self._generation(result) for result in ordered]

    def _wanted(self, lengths: list[int]) -> int:
        """Pages for sequences of these lengths; those that find no room at first wait for others to end."""
        if not self.blocks:
            self.most_blocks = cache_bytes(self.model, len(lengths)) // self._page_bytes()
        needed = [-(-length // self.page_size) for length in lengths]
        return self.num_blocks or max(*needed, min(2 * sum(needed), self.most_blocks))

    def _page_bytes(self) -> int:
        """A page's keys and values, and its columns in two masks, one being read while the other is filled."""
        element = next(self.model.parameters()).element_size()
        flash = "flash" in (getattr(self.model.config, "_attn_implementation", None) or "")
        mask = 0 if flash else 2 * self.max_batch_tokens * element
        return self.page_size * (token_bytes(self.model.config, element) + mask)

    def _settings(self, temperature: float, max_new_tokens: int) -> GenerationConfig:
        """Every sampling setting by name: what is left out comes from the model's generation_config."""
        return GenerationConfig(
            do_sample=temperature > 0,
            temperature=temperature or 1.0,
            top_k=0,
            top_p=1.0,
            min_p=None,
            repetition_penalty=1.0,
            eos_token_id=self.stop_token_ids or -1,
            pad_token_id=self.pad_token_id,
            max_new_tokens=max_new_tokens,
        )

    def _generation(self, result: Any) -> Generation:
        tokens = list(result.generated_tokens)
        return Generation(tokens, list(result.logprobs), [], stopped=bool(tokens) and tokens[-1] in self.stop_token_ids)


def seed_of(uniforms: Tensor) -> int:
    """A 31-bit seed from the random numbers of one action."""
    return int(uniforms[0].item() * 2**24) * 128 + int(uniforms[-1].item() * 128)
