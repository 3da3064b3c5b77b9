"""Prompts -> actions: a batched decode loop over a live Hugging Face causal LM, token ids in, token ids out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

FORWARD_OVERHEAD = 256
"""What one more forward call costs, in prompt tokens: the work a split of the prefill has to save before it pays."""


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


class NativeSampler:
    """Samples from `model` itself, no copy; a prompt, or a beginning of it, that several rows share is read once.

    Any decoder-only model with a key-value cache works; `generation_config` is never read. `max_batch_tokens` bounds
    rows x tokens held in the cache at a time.
    """

    def __init__(
        self,
        model: nn.Module,
        stop_token_ids: Sequence[int],
        pad_token_id: int,
        max_batch_tokens: int = 65_536,
    ) -> None:
        self.model = model
        self.stop_token_ids = frozenset(stop_token_ids)
        self.pad_token_id = pad_token_id
        self.max_batch_tokens = max_batch_tokens

    @torch.no_grad()
    def generate(
        self, prompts: list[list[int]], *, temperature: float, max_new_tokens: int, uniforms: Tensor
    ) -> list[Generation]:
        """Draws token i of row b as F^-1(uniforms[b, i]), F the cumulative distribution of softmax(logits / T).

        `uniforms` is float [B, max_new_tokens] in [0, 1) and the only randomness, so a row's action depends neither on
        the other rows nor on any generator's state. T = 0 is greedy; its log-probs and entropies are those of T = 1.
        Raises ValueError for an empty or too long prompt, FloatingPointError when the model's logits are not finite.
        """
        self._check(prompts, temperature, max_new_tokens, uniforms)
        device = self.model.device
        uniforms = uniforms.to(device)
        generations: dict[int, Generation] = {}
        with evaluating(self.model):
            for rows in self._decode_batches(prompts, max_new_tokens):
                batch = [prompts[row] for row in rows]
                sampled = self._decode(batch, self._prefill(batch, max_new_tokens), temperature, uniforms[rows])
                generations.update(zip(rows, sampled, strict=True))
        return [generations[row] for row in range(len(prompts))]

    def _check(self, prompts: list[list[int]], temperature: float, max_new_tokens: int, uniforms: Tensor) -> None:
        if temperature < 0:
            raise ValueError(f"temperature is {temperature}; it must be 0 (greedy) or positive")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; `rollout.max_action_tokens` must be at least 1")
        if prompts and uniforms.shape != (len(prompts), max_new_tokens):
            raise ValueError(f"uniforms has shape {tuple(uniforms.shape)}, not {(len(prompts), max_new_tokens)}")
        if not all(prompts):
            raise ValueError(
                f"prompt {[len(prompt) for prompt in prompts].index(0)} is empty; there is nothing to condition on"
            )
        window = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        longest = max(map(len, prompts), default=0)
        if window is not None and longest + max_new_tokens > window:
            raise ValueError(
                f"a prompt of {longest} tokens and an action of up to {max_new_tokens} do not fit the model's "
                f"{window} positions; shorten `rollout.prompt` to {window - max_new_tokens} tokens or lower "
                "`rollout.max_action_tokens`"
            )

    def _decode_batches(self, prompts: list[list[int]], max_new_tokens: int) -> Iterator[list[int]]:
        """Row numbers by batch; equal prompts are neighbours, so that a batch boundary rarely parts them."""
        order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), prompts[row]))
        while order:
            width = len(prompts[order[-1]]) + max_new_tokens
            count = max(1, self.max_batch_tokens // width)
            yield order[-count:]
            del order[-count:]

    def _prefill(self, prompts: list[list[int]], room: int) -> Cache:
        """Reads all but the last token of every prompt; row b of the cache is that context, padded on the left.

        The last token is the first one decoded: no prefill position ever needs its logits.
        """
        contexts = sorted({tuple(prompt[:-1]) for prompt in prompts}, key=len)
        prefix = shared_prefix(contexts)
        prefix_cache = self._read([prefix], None) if prefix else None
        lengths = [len(context) - len(prefix) for context in contexts]
        states = [
            self._read([context[len(prefix) :] for context in contexts[rows]], prefix_cache)
            for rows in buckets(lengths)
        ]
        index = {context: row for row, context in enumerate(contexts)}
        return self._gather(states, [index[tuple(prompt[:-1])] for prompt in prompts], [len(p) - 1 for p in prompts], room)

    def _read(self, sequences, prefix):
        """Keys and values of every layer, [rows, heads, tokens, size], after the sequences; right padded.

        Padding on the right is invisible to causal attention: no mask is needed.
        """
        width = max(1, max(map(len, sequences)))
        padded = [[*sequence, *[self.pad_token_id] * (width - len(sequence))] for sequence in sequences]
        if prefix is None:
            cache, start = DynamicCache(), 0
        else:
            cache = DynamicCache(
                [(k.expand(len(padded), -1, -1, -1), v.expand(len(padded), -1, -1, -1)) for k, v in prefix]
            )
            start = cache.get_seq_length()
        device = self.model.device
        self.model(
            input_ids=torch.tensor(padded, device=device),
            position_ids=torch.arange(start, start + width, device=device)[None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return [(layer.keys, layer.values) for layer in cache.layers]

    def _gather(self, states, source: list[int], lengths: list[int], room: int) -> Cache:
        """One cache row per prompt: copies each row's source, its padding moved from the right to the left."""
        device = self.model.device
        width = max(1, max(lengths))
        positions = torch.arange(width + room, device=device) - (width - torch.tensor(lengths, device=device)[:, None])
        positions = positions.clamp(0, width - 1)[:, None, :]
        rows = torch.tensor(source, device=device)[:, None, None]

        def merge(parts):
            heads = torch.arange(parts[0].shape[1], device=device)[:, None]
            padded = [nn.functional.pad(part, (0, 0, 0, width - part.shape[2])) for part in parts]
            return torch.cat(padded)[rows, heads, positions]

        return Cache(
            layers=[
                RoomyLayer(merge([part[layer][0] for part in states]), merge([part[layer][1] for part in states]), width)
                for layer in range(len(states[0]))
            ]
        )

    def _decode(
        self, prompts: list[list[int]], cache: Cache, temperature: float, uniforms: Tensor
    ) -> list[Generation]:
        count, steps = uniforms.shape
        device = uniforms.device
        width = cache.get_seq_length()
        lengths = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
        mask = torch.arange(width + steps, device=device) >= width - lengths[:, None]
        stop_tokens = torch.tensor(sorted(self.stop_token_ids), device=device)
        current = torch.tensor([prompt[-1] for prompt in prompts], device=device)
        tokens = torch.full((count, steps), self.pad_token_id, device=device)
        logprobs, entropies = torch.zeros(2, count, steps, device=device)
        rows = torch.arange(count, device=device)
        finished = torch.zeros(count, dtype=torch.bool, device=device)
        for step in range(steps):
            logits = self.model(
                input_ids=current[:, None],
                attention_mask=mask[:, : width + step + 1],
                position_ids=(lengths + step)[:, None],
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
            current, logprob, entropy = draw(logits, temperature, uniforms[rows, step])
            tokens[rows, step], logprobs[rows, step], entropies[rows, step] = current, logprob, entropy
            finished = finished | torch.isin(current, stop_tokens)
            remaining = len(rows) - int(finished.sum())
            if remaining == 0:
                break
            if remaining <= len(rows) // 2:
                keep = (~finished).nonzero().flatten()
                cache.batch_select_indices(keep)
                rows, current, lengths, mask, finished = (
                    tensor[keep] for tensor in (rows, current, lengths, mask, finished)
                )
        columns = tokens.tolist(), logprobs.tolist(), entropies.tolist()
        return [self._trim(*row) for row in zip(*columns, strict=True)]

    def _trim(self, tokens: list[int], logprobs: list[float], entropies: list[float]) -> Generation:
        """Cuts a row after its first stop token: what was drawn later is an artefact of the batch."""
        end = next((i + 1 for i, token in enumerate(tokens) if token in self.stop_token_ids), None)
        return Generation(tokens[:end], logprobs[:end], entropies[:end], stopped=end is not None)


class RoomyLayer(DynamicLayer):
    """Keys and values with room for the whole action: a new token is written in place, nothing is copied to append it."""

    def __init__(self, keys: Tensor, values: Tensor, used: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._fill((keys, values), used)

    def _fill(self, storage: tuple[Tensor, Tensor], used: int) -> None:
        self.storage = storage
        self.keys, self.values = (tensor[:, :, :used] for tensor in storage)

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        used = self.get_seq_length()
        end = used + key_states.shape[2]
        self.storage[0][:, :, used:end] = key_states
        self.storage[1][:, :, used:end] = value_states
        self._fill(self.storage, end)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        self._fill((self.storage[0][indices], self.storage[1][indices]), self.get_seq_length())


def draw(logits: Tensor, temperature: float, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inverse-CDF draw: the first token whose cumulative probability exceeds its uniform number.

    logits [B, V], uniforms [B] -> token ids [B], their log-probs [B] and the entropies [B] in nats.
    """
    logprobs = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)
    probabilities = logprobs.exp()
    if temperature == 0:
        tokens = logprobs.argmax(-1)
    else:
        cumulative = probabilities.double().cumsum(-1)
        total = cumulative[:, -1:]
        target = torch.minimum(uniforms[:, None] * total, total.nextafter(torch.zeros_like(total)))
        tokens = torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp_max(logits.shape[-1] - 1)
    return tokens, logprobs.gather(-1, tokens[:, None]).squeeze(-1), torch.special.entr(probabilities).sum(-1)


def shared_prefix(contexts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The common beginning of all contexts, or () where reading it apart would cost more than it saves."""
    first, last = min(contexts), max(contexts)
    length = next((i for i, pair in enumerate(zip(first, last)) if pair[0] != pair[1]), min(len(first), len(last)))
    return first[:length] if (len(contexts) - 1) * length > FORWARD_OVERHEAD else ()


def buckets(lengths: Sequence[int]) -> Iterable[slice]:
    """Cuts ascending lengths into slices whose padding costs less than the forward call that would avoid it."""
    start, waste = 0, 0
    for end in range(1, len(lengths)):
        waste += (end - start) * (lengths[end] - lengths[end - 1])
        if waste > FORWARD_OVERHEAD:
            yield slice(start, end)
            start, waste = end, 0
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
