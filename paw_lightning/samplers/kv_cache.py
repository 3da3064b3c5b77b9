"""Keys and values of a batch of prompts: how they are laid out, copied and read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer

# Prompt tokens to read in one forward call, and how many more of them cost as much as another call. Measured on CPU,
# where larger reads fall out of the processor's caches; estimated for accelerators, which want few and large calls.
READ_TOKENS, CALL_COST = {"cpu": 2_048, "accelerator": 16_384}, {"cpu": 128, "accelerator": 2_048}


LayerStates = tuple[Tensor, Tensor]
"""Keys and values of one layer, each [rows, heads, tokens, head size]."""


class RoomyLayer(DynamicLayer):
    """A cache layer with its last places set aside: a new token is written there instead of copying everything."""

    def __init__(self, storage: LayerStates, used: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = storage[0].dtype, storage[0].device, True
        self._hold(storage, used)

    def _hold(self, storage: LayerStates, used: int) -> LayerStates:
        self.storage, self.used = storage, used
        self.keys, self.values = storage[0][:, :, :used], storage[1][:, :, :used]
        return self.keys, self.values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> LayerStates:
        end = self.used + key_states.shape[2]
        self.storage[0][:, :, self.used : end] = key_states
        self.storage[1][:, :, self.used : end] = value_states
        return self._hold(self.storage, end)

    def batch_select_indices(self, indices: Tensor) -> None:
        self._hold((self.storage[0][indices], self.storage[1][indices]), self.used)


class FixedLayer(StaticLayer):
    """A cache layer that shows all its places, free ones too: shape and address stay the same at every step."""

    def __init__(self, storage: LayerStates, column: Tensor) -> None:
        super().__init__(max_cache_len=storage[0].shape[2])
        self.dtype, self.device, self.is_initialized = storage[0].dtype, storage[0].device, True
        self._hold(storage)
        self.column = column
        """[1], long: where the next token goes, in every layer of the cache."""

    def _hold(self, storage: LayerStates) -> None:
        self.storage = storage
        self.keys, self.values = storage

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> LayerStates:
        self.storage[0].index_copy_(2, self.column, key_states)
        self.storage[1].index_copy_(2, self.column, value_states)
        return self.storage

    def get_seq_length(self) -> Any:
        return self.column[0]

    def batch_select_indices(self, indices: Tensor) -> None:
        self._hold((self.storage[0][indices], self.storage[1][indices]))


def token_bytes(config: Any, element: int) -> int:
    """Bytes of a token's keys and values in all layers, `element` bytes a number."""
    text = config.get_text_config()
    layers = getattr(text, "per_layer_config", None) or {}  # of models whose layers differ in size
    whole = [layers[number] for number in range(text.num_hidden_layers)] if layers else [text] * text.num_hidden_layers
    return 2 * element * sum(_heads(layer) * _head_size(layer) for layer in whole)


def _heads(config: Any) -> int:
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads


def _head_size(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def storage_of(cache: Cache) -> list[LayerStates]:
    """Keys and values of every layer, free places included."""
    layers: list[Any] = cache.layers
    return [layer.storage for layer in layers]


def write_back(cache: Cache, storage: list[LayerStates], rows: Tensor, start: int, end: int) -> None:
    """Copy columns `start` to `end` of a cache that was cut down to `rows` to where it came from."""
    for (keys, values), (all_keys, all_values) in zip(storage_of(cache), storage, strict=True):
        if keys is not all_keys:
            all_keys[rows, :, start:end] = keys[:, :, start:end]
            all_values[rows, :, start:end] = values[:, :, start:end]


def align_right(states: list[LayerStates], source: Tensor, places: Tensor) -> Iterator[LayerStates]:
    """Copy row source[b], token places[b, c] to row b, column c; where there is no such token, anything.

    Layer by layer, so that no second copy of all need be held.
    """

    @cache
    def vectors(heads: int, tokens: int) -> Tensor:
        rows = source[:, None] * heads + torch.arange(heads, device=source.device)
        return (rows[:, :, None] * tokens + places.clamp(0, tokens - 1)[:, None, :]).flatten()

    def copied(old: Tensor) -> Tensor:
        # Whole vectors of one table: several times as fast as indexing rows, heads and tokens.
        _, heads, tokens, size = old.shape  # layers may differ in heads and in their size
        table = old.reshape(-1, size).index_select(0, vectors(heads, tokens))
        return table.view(len(source), heads, places.shape[1], size)

    return ((copied(keys), copied(values)) for keys, values in states)


def room_for(states: Tensor, rows: int, columns: Tensor) -> Tensor:
    """Empty keys or values like these for so many rows and columns."""
    return states.new_empty(rows, states.shape[1], len(columns), states.shape[3])


def reading_limits(model: PreTrainedModel) -> tuple[int, int]:
    """Tokens to read in one call, and how many more of them cost as much as another call."""
    kind = device_kind(model)
    return READ_TOKENS[kind], CALL_COST[kind]


def device_kind(model: PreTrainedModel) -> str:
    """Whose numbers to take: those of `cpu`, or of `accelerator`."""
    return "cpu" if model.device.type == "cpu" else "accelerator"


def shared_prefix_length(sequences: Sequence[tuple[int, ...]]) -> int:
    """Tokens that all sequences begin with: what the first and the last in dictionary order have in common."""
    pairs = zip(min(sequences), max(sequences), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def buckets(lengths: Sequence[int], max_tokens: int, max_padding: int) -> Iterator[slice]:
    """Cut ascending lengths into slices of at most max_tokens (one row always fits) and max_padding of padding."""
    start = padding = 0
    for end in range(1, len(lengths)):
        padding += (end - start) * (lengths[end] - lengths[end - 1])
        if padding > max_padding or (end - start + 1) * lengths[end] > max_tokens:
            yield slice(start, end)
            start, padding = end, 0
    yield slice(start, len(lengths))
