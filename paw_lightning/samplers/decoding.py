"""Batched decoding from a live Hugging Face causal LM: prompts go into a cache, actions come token by token."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from paw_lightning.errors import SettingsError
from paw_lightning.models.window import context_window
from paw_lightning.samplers.base import Generation
from paw_lightning.samplers.cache_memory import cache_bytes
from paw_lightning.samplers.kv_cache import (
    LayerStates,
    RoomyLayer,
    align_right,
    buckets,
    device_kind,
    reading_limits,
    room_for,
    shared_prefix_length,
    storage_of,
    token_bytes,
    write_back,
)
from paw_lightning.samplers.steps import CAPTURES, LOOK_EVERY, FixedSteps, GrowingSteps, Step, why_not_fixed
from paw_lightning.samplers.writing import Writing, at_least_float32

logger = logging.getLogger(__name__)


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
        self.max_batch_tokens = max_batch_tokens
        self.fixed: bool | None = None
        """Whether steps of fixed shapes, which a CUDA graph can replay, work for this model; None: not tried yet."""
        self.captured = False
        """Whether a graph has been captured since memory was last given back."""

    def token_budget(self, rows: int) -> int:
        """The most rows x tokens to hold at a time, of a rollout of so many rows; to be asked while none are held."""
        if self.max_batch_tokens is not None:
            return self.max_batch_tokens
        element = next(self.model.parameters()).element_size()
        return max(1, cache_bytes(self.model, rows) // token_bytes(self.model.config, element))

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
        width, steps, kind = cache.get_seq_length(), uniforms.shape[1], device_kind(self.model)
        dtype = at_least_float32(self.model.dtype)
        writing = Writing(prompts, width, temperature, uniforms, self.stop_token_ids, self.pad_token_id, dtype)
        own, copied, done = storage_of(cache) if complete else [], width, 0
        reading = self._steps(cache, writing)
        while done < steps:
            # Some tokens for every row
            count = min(LOOK_EVERY[kind], steps - done)
            reading.run(count, steps - done)
            done += count
            # Rows that have ended leave
            left = writing.left() if done < steps else 0
            if left == 0:
                break
            if left <= len(writing.rows) // 2 and steps - done >= reading.fewest:  # it repays the copy of their cache
                if complete:
                    write_back(reading.cache, own, writing.rows, copied, width + done)
                    copied = width + done
                reading.select(writing.drop_finished())
        if complete:
            write_back(reading.cache, own, writing.rows, copied, width + done)
        return writing.generations()

    def _steps(self, cache: Cache, writing: Writing) -> GrowingSteps | FixedSteps:
        """How this batch is written: with fixed shapes where the device replays them and the model allows it."""
        capture = CAPTURES.get(self.model.device.type)
        if capture is not None and self.fixed is None:
            self._give_up(why_not_fixed(self.model, cache, writing))
        if capture is None or not self.fixed:
            return GrowingSteps(self.model, cache, writing)
        return FixedSteps(self.model, cache, writing, partial(self._capture, capture))

    def _capture(self, capture: Callable[[Step], Step], step: Step) -> Step:
        """Capture a step; where that fails, now and from now on it is launched kernel by kernel."""
        if not self.fixed:
            return step
        try:
            replay = capture(step)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._give_up(f"{type(error).__name__}: {error}".partition("\n")[0])
            return step
        self.captured = True
        return replay

    def _give_up(self, reason: str | None) -> None:
        """Note whether steps of fixed shapes work, and say once why not."""
        self.fixed = reason is None
        if reason is not None:
            name = type(self.model).__name__
            logger.warning("%s writes without CUDA graphs, token by token from a growing cache: %s", name, reason)
