"""Batched decoding from a live Hugging Face causal LM: prompts go into a cache, actions come token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from paw_lightning.errors import SettingsError
from paw_lightning.models.window import context_window
from paw_lightning.samplers.base import Generation
from paw_lightning.samplers.kv_cache import (
    CACHE_BYTES,
    LayerStates,
    RoomyLayer,
    align_right,
    buckets,
    reading_limits,
    room_for,
    shared_prefix_length,
    storage_of,
    token_bytes,
    write_back,
)


class Decoder:
    """Reads prompts into a cache of keys and values, and writes an action behind each.

    Any decoder-only model whose cache is keys and values will do, adapters included; `generation_config` is never read.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        stop_token_ids: Sequence[int],
        pad_token_id: int,
        max_batch_tokens: int | None = None,
    ) -> None:
        if max_batch_tokens is not None and max_batch_tokens < 1:
            raise SettingsError(
                f"rollout.sampler.init_args.max_batch_tokens is {max_batch_tokens}; wanted at least 1, or null"
            )
        self.model = model
        self.stop_token_ids = frozenset(stop_token_ids)
        self.pad_token_id = pad_token_id
        element = next(model.parameters()).element_size()
        self.max_batch_tokens = max_batch_tokens or max(1, CACHE_BYTES // token_bytes(model.config, element))

    def check(self, prompts: list[list[int]], temperature: float, max_new_tokens: int, uniforms: Tensor) -> None:
        if temperature < 0:
            raise ValueError(f"temperature is {temperature}; wanted 0 (greedy) or more")
        if max_new_tokens < 1:
            raise SettingsError(f"rollout.max_action_tokens is {max_new_tokens}; wanted at least 1")
        if uniforms.shape != (len(prompts), max_new_tokens):
            raise ValueError(f"uniforms is of shape {tuple(uniforms.shape)}; wanted {(len(prompts), max_new_tokens)}")
        if not ((uniforms >= 0) & (uniforms < 1)).all():
            raise ValueError("uniforms has values outside [0, 1); wanted draws of torch.rand")
        lengths = [len(prompt) for prompt in prompts]
        if 0 in lengths:
            raise ValueError(f"prompt {lengths.index(0)} is empty; wanted at least one token")
        window, positions = context_window(self.model.config)
        if window is not None and max(lengths) > window - max_new_tokens:
            raise SettingsError(
                f"rollout.max_action_tokens is {max_new_tokens} and a prompt has {max(lengths)} tokens; wanted "
                f"at most {window - max_new_tokens} to fit {positions}: lower rollout.prompt.max_tokens or "
                "rollout.max_action_tokens"
            )

    def decode_batches(
        self, prompts: list[list[int]], rows: Sequence[int], max_new_tokens: int, max_tokens: int
    ) -> Iterator[list[int]]:
        """Cut rows into batches of at most max_tokens, shortest prompt first, equal prompts side by side."""
        order = sorted(rows, key=lambda row: (len(prompts[row]), prompts[row]))
        while order:
            count = max(1, max_tokens // (len(prompts[order[-1]]) + max_new_tokens))
            yield order[-count:]
            del order[-count:]

    def prefill(self, prompts: list[list[int]], room: int) -> Cache:
        """Read all but the last token of every prompt: that one is decoded first, so no logits are needed here.

        Cache row b is that context of prompt b, padded on the left, with `room` free places on the right.
        """
        device = self.model.device
        read_tokens, call_cost = reading_limits(self.model)
        # Every context once
        contexts = [tuple(prompt[:-1]) for prompt in prompts]
        unique = list(dict.fromkeys(contexts))  # ascending in length, as the prompts are
        number = {context: place for place, context in enumerate(unique)}
        source = torch.tensor([number[context] for context in contexts], device=device)
        lengths = torch.tensor([len(context) for context in contexts], device=device)
        # What all of them begin with, if reading it apart pays
        shared = shared_prefix_length(unique)
        shared = shared if shared * (len(unique) - 1) > call_cost else 0
        prefix = self._read([unique[0][:shared]], None) if shared else None
        # The rest, in buckets of like length, copied to every row that has it
        width = max(1, len(unique[-1]))
        columns = torch.arange(width + room, device=device) - width
        storage: list[LayerStates] = []
        for bucket in buckets([len(context) - shared for context in unique], read_tokens, call_cost):
            states = self._read([context[shared:] for context in unique[bucket]], prefix)
            storage = storage or [
                (room_for(k, len(contexts), columns), room_for(v, len(contexts), columns)) for k, v in states
            ]
            rows = ((source >= bucket.start) & (source < bucket.stop)).nonzero().flatten()
            aligned = align_right(states, source[rows] - bucket.start, columns + lengths[rows, None])
            for whole, part in zip(storage, aligned, strict=True):
                for into, copied in zip(whole, part, strict=True):
                    into[rows] = copied
            del states  # before the next bucket is read
        layers: list[Any] = [RoomyLayer(layer, width) for layer in storage]
        return Cache(layers=layers)

    def _read(self, sequences: Sequence[Sequence[int]], prefix: list[LayerStates] | None) -> list[LayerStates]:
        """Return the keys and values after each sequence, the prefix in front.

        Padding goes to the right, where causal attention does not look: no mask is needed.
        """
        rows, width = len(sequences), max(1, *map(len, sequences))
        ids = [[*sequence, *[self.pad_token_id] * (width - len(sequence))] for sequence in sequences]
        cache: Any = DynamicCache(prefix and [tuple(t.expand(rows, -1, -1, -1) for t in layer) for layer in prefix])
        start = cache.get_seq_length()
        device = self.model.device
        self.model(
            input_ids=torch.tensor(ids, device=device),
            position_ids=torch.arange(start, start + width, device=device)[None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return [(layer.keys, layer.values) for layer in cache.layers]

    def decode(
        self,
        prompts: list[list[int]],
        cache: Cache,
        temperature: float,
        uniforms: Tensor,
        *,
        complete: bool = False,
    ) -> list[Generation]:
        """Write an action after each prompt; the cache holds the contexts.

        With `complete` the storage that came in holds afterwards, from its next free column on, each prompt's last
        token and its action but for the last token, also of rows that ended early; otherwise these are lost.
        """
        count, steps = uniforms.shape
        device, width = uniforms.device, cache.get_seq_length()
        # Where each row's next token goes, and what it sees
        positions = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
        mask = torch.arange(width + steps, device=device) >= width - positions[:, None]
        padded = not bool(mask.all())
        # What has been written
        stop_tokens = torch.tensor(sorted(self.stop_token_ids), dtype=torch.long, device=device)
        current = torch.tensor([prompt[-1] for prompt in prompts], device=device)
        tokens = torch.full((count, steps), self.pad_token_id, device=device)
        logprobs, entropies = torch.zeros(2, count, steps, device=device, dtype=at_least_float32(self.model.dtype))
        # Who is still writing
        rows = torch.arange(count, device=device)
        finished = torch.zeros(count, dtype=torch.bool, device=device)
        own, copied = storage_of(cache) if complete else [], width
        for step in range(steps):
            # A token for every row
            seen = mask[:, : width + step + 1] if padded else None
            logits = self._next_logits(current, seen, positions + step, cache)
            current, logprobs[rows, step], entropies[rows, step] = draw(logits, temperature, uniforms[rows, step])
            tokens[rows, step] = current
            # Rows that have ended leave
            finished |= torch.isin(current, stop_tokens)
            left = len(rows) - int(finished.sum())
            if left == 0:
                break
            if left <= len(rows) // 2:  # fewer rows repay the copy of their cache
                if complete:
                    copied = write_back(cache, own, rows, copied)
                keep = (~finished).nonzero().flatten()
                cache.batch_select_indices(keep)
                rows, current, positions, mask = rows[keep], current[keep], positions[keep], mask[keep]
                finished = finished[keep]
        if complete:
            write_back(cache, own, rows, copied)
        return self._generations(tokens, logprobs, entropies)

    def _next_logits(self, current: Tensor, seen: Tensor | None, positions: Tensor, cache: Cache) -> Tensor:
        """Logits [B, V] after the current token [B] of every row."""
        return self.model(
            input_ids=current[:, None],
            attention_mask=seen,
            position_ids=positions[:, None],
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]

    def _generations(self, tokens: Tensor, logprobs: Tensor, entropies: Tensor) -> list[Generation]:
        if not logprobs.isfinite().all():
            raise FloatingPointError("the model's logits are not finite: its weights have diverged")
        table = zip(tokens.tolist(), logprobs.tolist(), entropies.tolist(), strict=True)
        return [self._cut(*row) for row in table]

    def _cut(self, tokens: list[int], logprobs: list[float], entropies: list[float]) -> Generation:
        """Drop what a row drew after its stop token, while it waited for the others."""
        end = next((place for place, token in enumerate(tokens, 1) if token in self.stop_token_ids), None)
        return Generation(tokens[:end], logprobs[:end], entropies[:end], stopped=end is not None)


def draw(logits: Tensor, temperature: float, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inverse-CDF draw: the first token whose cumulative probability exceeds its uniform number.

    logits [B, V], uniforms [B] -> token ids [B], their log-probs [B] and the entropies [B], in nats, in float32
    (float64 for float64 logits).
    """
    logprobs = torch.log_softmax(logits.to(at_least_float32(logits.dtype)) / (temperature or 1.0), dim=-1)
    probabilities = logprobs.exp()
    if temperature == 0:
        tokens = logprobs.argmax(-1, keepdim=True)
    else:
        cumulative = probabilities.double().cumsum(-1)  # in float32 the rarest tokens would add nothing
        target = uniforms[:, None] * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, target, right=True).clamp_max(logits.shape[-1] - 1)  # for NaN only
    return tokens[:, 0], logprobs.gather(-1, tokens)[:, 0], torch.special.entr(probabilities).sum(-1)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype that log-probs of such logits are computed and recorded in."""
    return torch.promote_types(dtype, torch.float32)
