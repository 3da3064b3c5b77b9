"""Sampling for transcripts that grow: each turn reads what is new, the rest is remembered as keys and values."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from paw_lightning.samplers.base import Generation, Sampler, evaluating
from paw_lightning.samplers.decoding import Decoder
from paw_lightning.samplers.kv_cache import LayerStates, RoomyLayer, align_right, buckets, reading_limits, storage_of


@dataclass
class Remembered:
    """A transcript up to its latest action, and where the keys and values of all its tokens but the last lie."""

    ids: list[int]
    states: list[LayerStates]
    """Of the whole batch it was decoded in; shared with the others of that batch."""
    row: int
    end: int
    """The column after its last token that was read."""


class Session(Sampler):
    """The native sampler for one rollout, with the same answers.

    A prompt that begins with an earlier prompt and its action is read from there on; any other from its start.
    A transcript that does not come back is forgotten. `max_batch_tokens` bounds what is remembered and what is being
    decoded together, half of it each; what does not fit is read again. The model's weights must stay as they are.
    """

    def __init__(self, sampler: Decoder) -> None:
        self.sampler = sampler
        self.memory: list[Remembered] = []
        self.budget: int | None = None
        """Rows x tokens that are remembered, and that are being decoded, at most; asked for when playing begins."""

    @torch.no_grad()
    def generate(
        self, prompts: list[list[int]], *, temperature: float, max_new_tokens: int, uniforms: Tensor
    ) -> list[Generation]:
        """As `NativeSampler.generate`."""
        if not prompts:
            return []
        sampler = self.sampler
        sampler.check(prompts, temperature, max_new_tokens, uniforms)
        if self.budget is None:
            self.budget = sampler.token_budget(len(prompts)) // 2
        budget = self.budget
        uniforms = uniforms.to(sampler.model.device)
        known = self._recall(prompts, budget, max_new_tokens)
        fresh = [row for row in range(len(prompts)) if row not in known]
        # Known rows by how much of them is new: rows of like number are read together.
        batches = [sorted(known, key=lambda row: len(prompts[row]) - len(known[row].ids))] if known else []
        batches += sampler.decode_batches(prompts, fresh, max_new_tokens, budget)
        generations: dict[int, Generation] = {}
        with evaluating(sampler.model):
            for rows in batches:
                batch = [prompts[row] for row in rows]
                if rows[0] in known:
                    cache = self._go_on(batch, [known[row] for row in rows], max_new_tokens)
                    known.clear()  # the old keys and values have been copied
                else:
                    cache = sampler.prefill(batch, max_new_tokens)
                states = storage_of(cache)
                start = cache.get_seq_length()
                actions = sampler.decode(batch, cache, temperature, uniforms[rows], complete=True)
                generations.update(zip(rows, actions, strict=True))
                if self._held() + _places(states) <= budget:
                    self.memory += [
                        Remembered(prompt + action.token_ids, states, i, start + len(action.token_ids))
                        for i, (prompt, action) in enumerate(zip(batch, actions, strict=True))
                    ]
        return [generations[row] for row in range(len(prompts))]

    def _recall(self, prompts: list[list[int]], budget: int, room: int) -> dict[int, Remembered]:
        """Take the remembered beginnings of the prompts, as far as one batch has room; forget the rest."""
        memory = sorted(self.memory, key=lambda remembered: remembered.ids)
        self.memory = []
        keys = [remembered.ids for remembered in memory]
        known: dict[int, Remembered] = {}
        for row, prompt in enumerate(prompts):
            place = bisect_right(keys, prompt) - 1
            while place >= 0 and prompt[: len(keys[place])] != keys[place]:
                place -= 1
            if place >= 0:
                del keys[place]
                known[row] = memory.pop(place)
        by_length = sorted(known, key=lambda row: len(prompts[row]))
        while by_length and len(by_length) * (len(prompts[by_length[-1]]) + room) > budget:
            del known[by_length.pop()]
        return known

    def _held(self) -> int:
        return sum(_places(states) for states in {id(r.states): r.states for r in self.memory}.values())

    def _go_on(self, prompts: list[list[int]], known: list[Remembered], room: int) -> Cache:
        """The cache of :meth:`Decoder.prefill` for rows in ascending order of their number of new tokens."""
        contexts = [prompt[:-1] for prompt in prompts]
        width = max(map(len, contexts))
        storage = self._gather(contexts, known, width, room)
        new = [max(1, len(context) - len(r.ids) + 1) for context, r in zip(contexts, known, strict=True)]
        for bucket in buckets(new, *reading_limits(self.sampler.model)):
            self._read(contexts[bucket], [(k[bucket], v[bucket]) for k, v in storage], width, new[bucket.stop - 1])
        layers: list[Any] = [RoomyLayer(states, width) for states in storage]
        return Cache(layers=layers)

    def _gather(self, contexts: list[list[int]], known: list[Remembered], width: int, room: int) -> list[LayerStates]:
        """Copy what is remembered so that every context will end at column `width`, with `room` after it."""
        device = self.sampler.model.device
        # Where each row's tokens lie in its old storage
        columns = torch.arange(width + room, device=device)
        starts = [r.end - len(r.ids) + 1 - (width - len(c)) for c, r in zip(contexts, known, strict=True)]
        places = columns + torch.tensor(starts, device=device)[:, None]
        source = torch.tensor([r.row for r in known], device=device)
        parts: list[list[LayerStates]] = list({id(r.states): r.states for r in known}.values())
        if len(parts) == 1:
            return list(align_right(parts[0], source, places))
        # Rows of several storages: each storage's own, then all in order
        number = {id(states): i for i, states in enumerate(parts)}
        part = torch.tensor([number[id(r.states)] for r in known], device=device)
        pieces = [align_right(states, source[part == i], places[part == i]) for i, states in enumerate(parts)]
        order = torch.cat([(part == i).nonzero().flatten() for i in range(len(parts))]).argsort()
        return [
            (torch.cat([k for k, _ in layer])[order], torch.cat([v for _, v in layer])[order])
            for layer in zip(*pieces, strict=True)
        ]

    def _read(self, contexts: Sequence[list[int]], storage: list[LayerStates], width: int, count: int) -> None:
        """Read the last `count` tokens of every context into `storage`; old ones among them come out as they were."""
        device, pad = self.sampler.model.device, self.sampler.pad_token_id
        ids = [[pad] * (count - len(context)) + context[-count:] for context in contexts]
        lengths = torch.tensor([len(context) for context in contexts], device=device)
        mask = torch.arange(width, device=device) >= width - lengths[:, None]
        padded = any(len(context) < width for context in contexts)
        positions = torch.arange(-count, 0, device=device) + lengths[:, None]
        layers: list[Any] = [RoomyLayer(states, width - count) for states in storage]
        self.sampler.model(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=mask if padded else None,
            position_ids=positions.clamp(min=0),
            past_key_values=Cache(layers=layers),
            use_cache=True,
            logits_to_keep=1,
        )


def _places(states: list[LayerStates]) -> int:
    """Rows x tokens that these keys and values take."""
    return states[0][0].shape[0] * states[0][0].shape[2]
