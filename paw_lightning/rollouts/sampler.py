"""Prompts -> actions: batched decoding from a live Hugging Face causal LM, token ids in, token ids out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

# Prompt tokens to read in one forward call, and how many more of them cost as much as another call. Measured on CPU,
# where larger reads fall out of the processor's caches; estimated for accelerators, which want few and large calls.
READ_TOKENS, CALL_COST = {"cpu": 2_048, "accelerator": 16_384}, {"cpu": 128, "accelerator": 2_048}
CACHE_BYTES = 2**32  # keys and values of what is being written, and remembered, at a time

LayerStates = tuple[Tensor, Tensor]
"""Keys and values of one layer, each [rows, heads, tokens, head size]."""


@dataclass(frozen=True)
class Generation:
    """One sampled action."""

    token_ids: list[int]
    """As sampled, the stop token included when one was drawn."""
    logprobs: list[float]
    """log q of each token under the distribution it was drawn from (temperature applied), in nats."""
    entropies: list[float]
    """Entropy of that distribution at each token, in nats."""
    stopped: bool
    """Ended with a stop token (False: ran into max_new_tokens)."""


class Sampler(Protocol):
    """Turns prompts, each the whole list of its token ids, into actions, one each, in the same order."""

    def generate(
        self, prompts: list[list[int]], *, temperature: float, max_new_tokens: int, uniforms: Tensor
    ) -> list[Generation]: ...


@runtime_checkable
class SessionSampler(Sampler, Protocol):
    """A sampler that can remember what it has read."""

    def session(self) -> Sampler:
        """A sampler for one rollout of growing transcripts: the same answers, and nothing is read twice.

        The weights do not change while it is in use. Prompts may come in any order, and stay away for good.
        """


class NativeSampler:
    """Samples from `model` itself, no copy; a prompt that several rows share, or its beginning, is read once.

    Any decoder-only model whose cache is keys and values will do, adapters included; `generation_config` is never
    read. `max_batch_tokens` bounds the rows x tokens in the cache at a time, what is being read apart; None: what
    4 GiB hold.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        stop_token_ids: Sequence[int],
        pad_token_id: int,
        max_batch_tokens: int | None = None,
    ) -> None:
        if max_batch_tokens is not None and max_batch_tokens < 1:
            raise ValueError(f"rollout.sampler.max_batch_tokens is {max_batch_tokens}; wanted at least 1, or null")
        self.model = model
        self.stop_token_ids = frozenset(stop_token_ids)
        self.pad_token_id = pad_token_id
        element = next(model.parameters()).element_size()
        self.max_batch_tokens = max_batch_tokens or max(1, CACHE_BYTES // token_bytes(model.config, element))

    @torch.no_grad()
    def generate(
        self, prompts: list[list[int]], *, temperature: float, max_new_tokens: int, uniforms: Tensor
    ) -> list[Generation]:
        """Draw token i of row b as F^-1(uniforms[b, i]), F the cumulative distribution of softmax(logits / T).

        `uniforms`, float [B, max_new_tokens] in [0, 1), is the only randomness: rounding aside, no row sees another.
        T = 0 is greedy, and log-probs and entropies are then those of T = 1. Raises ValueError for an empty or too
        long prompt or a bad setting, FloatingPointError for logits that are not finite.
        """
        if not prompts:
            return []
        self.check(prompts, temperature, max_new_tokens, uniforms)
        uniforms = uniforms.to(self.model.device)
        generations: dict[int, Generation] = {}
        with evaluating(self.model):
            for rows in self.decode_batches(prompts, range(len(prompts)), max_new_tokens, self.max_batch_tokens):
                batch = [prompts[row] for row in rows]
                cache = self.prefill(batch, max_new_tokens)
                actions = self.decode(batch, cache, temperature, uniforms[rows])
                generations.update(zip(rows, actions, strict=True))
        return [generations[row] for row in range(len(prompts))]

    def session(self) -> Sampler:
        """A sampler for one rollout of growing transcripts, which remembers what it has read."""
        from paw_lightning.rollouts.session import Session  # built on this class

        return Session(self)

    def check(self, prompts: list[list[int]], temperature: float, max_new_tokens: int, uniforms: Tensor) -> None:
        if temperature < 0:
            raise ValueError(f"temperature is {temperature}; it must be 0 (greedy) or positive")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; set `rollout.max_action_tokens` to 1 or more")
        if uniforms.shape != (len(prompts), max_new_tokens):
            raise ValueError(f"uniforms is {tuple(uniforms.shape)}, not {(len(prompts), max_new_tokens)}")
        if not ((uniforms >= 0) & (uniforms < 1)).all():
            raise ValueError("uniforms has values outside [0, 1)")
        lengths = [len(prompt) for prompt in prompts]
        if 0 in lengths:
            raise ValueError(f"prompt {lengths.index(0)} is empty; a prompt needs at least one token")
        window = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if window is not None and max(lengths) > window - max_new_tokens:
            raise ValueError(
                f"a prompt has {max(lengths)} tokens; with {max_new_tokens} for the action, at most "
                f"{window - max_new_tokens} fit the model's {window} positions: shorten `rollout.prompt` or lower "
                "`rollout.max_action_tokens`"
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
        contexts = [tuple(prompt[:-1]) for prompt in prompts]
        unique = list(dict.fromkeys(contexts))  # ascending in length, as the prompts are
        number = {context: place for place, context in enumerate(unique)}
        source = torch.tensor([number[context] for context in contexts], device=device)
        lengths = torch.tensor([len(context) for context in contexts], device=device)

        shared = shared_prefix_length(unique)
        shared = shared if shared * (len(unique) - 1) > call_cost else 0
        prefix = self._read([unique[0][:shared]], None) if shared else None
        width = max(1, len(unique[-1]))
        columns = torch.arange(width + room, device=device) - width
        storage: list[LayerStates] = []
        for bucket in buckets([len(context) - shared for context in unique], read_tokens, call_cost):
            states = self._read([context[shared:] for context in unique[bucket]], prefix)
            storage = storage or [
                (_room_for(k, len(contexts), columns), _room_for(v, len(contexts), columns)) for k, v in states
            ]
            rows = ((source >= bucket.start) & (source < bucket.stop)).nonzero().flatten()
            aligned = align_right(states, source[rows] - bucket.start, columns + lengths[rows, None])
            for whole, part in zip(storage, aligned, strict=True):
                for into, copied in zip(whole, part, strict=True):
                    into[rows] = copied
            del states  # before the next bucket's are
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
        """Write an action after each prompt, whose context the cache holds; `complete` keeps the rows that leave early.

        Afterwards the storage that came in holds, from column width on, the prompt's last token and the action but for
        its last.
        """
        count, steps = uniforms.shape
        device = uniforms.device
        width = cache.get_seq_length()
        positions = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
        mask = torch.arange(width + steps, device=device) >= width - positions[:, None]
        padded = not bool(mask.all())
        stop_tokens = torch.tensor(sorted(self.stop_token_ids), dtype=torch.long, device=device)
        current = torch.tensor([prompt[-1] for prompt in prompts], device=device)
        tokens = torch.full((count, steps), self.pad_token_id, device=device)
        logprobs, entropies = torch.zeros(2, count, steps, device=device)
        rows = torch.arange(count, device=device)
        finished = torch.zeros(count, dtype=torch.bool, device=device)
        own = storage_of(cache) if complete else []
        copied = width
        for step in range(steps):
            logits = self.model(
                input_ids=current[:, None],
                attention_mask=mask[:, : width + step + 1] if padded else None,
                position_ids=positions[:, None] + step,
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
            current, logprobs[rows, step], entropies[rows, step] = draw(logits, temperature, uniforms[rows, step])
            tokens[rows, step] = current
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
        if not logprobs.isfinite().all():
            raise FloatingPointError("the model's logits are not finite: its weights have diverged")
        table = zip(tokens.tolist(), logprobs.tolist(), entropies.tolist(), strict=True)
        return [self._cut(*row) for row in table]

    def _cut(self, tokens: list[int], logprobs: list[float], entropies: list[float]) -> Generation:
        """Drop what a row drew after its stop token, while it waited for the others."""
        end = next((place for place, token in enumerate(tokens, 1) if token in self.stop_token_ids), None)
        return Generation(tokens[:end], logprobs[:end], entropies[:end], stopped=end is not None)


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


def token_bytes(config: Any, element: int) -> int:
    """Bytes of a token's keys and values in all layers, `element` bytes a number."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * head_size * element


def storage_of(cache: Cache) -> list[LayerStates]:
    """Keys and values of every layer, free places included."""
    layers: list[Any] = cache.layers
    return [layer.storage for layer in layers]


def write_back(cache: Cache, storage: list[LayerStates], rows: Tensor, start: int) -> int:
    """Copy columns `start` on of a cache that was cut down to `rows` to where it came from; return its width."""
    end = cache.get_seq_length()
    for (keys, values), (all_keys, all_values) in zip(storage_of(cache), storage, strict=True):
        if keys is not all_keys:
            all_keys[rows, :, start:end] = keys[:, :, start:end]
            all_values[rows, :, start:end] = values[:, :, start:end]
    return end


def align_right(states: list[LayerStates], source: Tensor, places: Tensor) -> Iterator[LayerStates]:
    """Copy row source[b], token places[b, c] to row b, column c; where there is no such token, anything.

    Layer by layer, so that no second copy of all need be held.
    """
    heads, tokens = states[0][0].shape[1:3]
    rows = source[:, None] * heads + torch.arange(heads, device=source.device)
    vectors = (rows[:, :, None] * tokens + places.clamp(0, tokens - 1)[:, None, :]).flatten()

    def copied(old: Tensor) -> Tensor:
        # Whole vectors of one table: several times as fast as indexing rows, heads and tokens.
        return old.reshape(-1, old.shape[-1]).index_select(0, vectors).view(len(source), heads, places.shape[1], -1)

    return ((copied(keys), copied(values)) for keys, values in states)


def _room_for(states: Tensor, rows: int, columns: Tensor) -> Tensor:
    """Empty keys or values like these for so many rows and columns."""
    return states.new_empty(rows, states.shape[1], len(columns), states.shape[3])


def draw(logits: Tensor, temperature: float, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inverse-CDF draw: the first token whose cumulative probability exceeds its uniform number.

    logits [B, V], uniforms [B] -> token ids [B], their log-probs [B] and the entropies [B], in nats.
    """
    logprobs = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)
    probabilities = logprobs.exp()
    if temperature == 0:
        tokens = logprobs.argmax(-1, keepdim=True)
    else:
        cumulative = probabilities.double().cumsum(-1)  # in float32 the rarest tokens would add nothing
        target = uniforms[:, None] * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, target, right=True).clamp_max(logits.shape[-1] - 1)  # for NaN only
    return tokens[:, 0], logprobs.gather(-1, tokens)[:, 0], torch.special.entr(probabilities).sum(-1)


def reading_limits(model: PreTrainedModel) -> tuple[int, int]:
    """Tokens to read in one call, and how many more of them cost as much as another call."""
    kind = "cpu" if model.device.type == "cpu" else "accelerator"
    return READ_TOKENS[kind], CALL_COST[kind]


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


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule is back in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
