"""Two ways to read the next token of every row: with a cache that grows, or with one whose shapes never change.

The first looks at no more than has been written, which suits a CPU. The second also reads the free places, hidden by a
mask: all its steps are the same work on the same tensors, so that a CUDA graph can repeat one without launching its
kernels one by one. Graphs are captured anew for each batch: weights and caches may lie elsewhere then, and no graph
outlives its batch. Not yet run on hardware; the tests replay recorded steps on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from paw_lightning.models.playable import TOLERANCE
from paw_lightning.samplers.kv_cache import FixedLayer, LayerStates, RoomyLayer, storage_of
from paw_lightning.samplers.writing import Writing

LOOK_EVERY = {"cpu": 1, "accelerator": 8}
"""Tokens of every row between two looks of the host at who has ended. A look makes it wait for the device, which costs
nothing on a CPU; rows that end between two looks draw at most so many tokens for nothing."""

CAPTURE_STEPS = 16
"""Steps that have to be left for a graph to be worth its capture, which takes as long as a few steps (choice)."""

Step = Callable[[], None]


class GrowingSteps:
    """Steps over a cache that shows what has been written so far."""

    fewest = 0
    """Steps that have to be left for a smaller batch to be worth the copy of its cache."""

    def __init__(self, model: PreTrainedModel, cache: Cache, writing: Writing) -> None:
        self.model, self.cache, self.writing = model, cache, writing
        self.mask = writing.columns >= writing.starts[:, None] if writing.padded else None

    def run(self, count: int, left: int) -> None:
        """Write `count` tokens per row, `left` of them being possible."""
        for _ in range(count):
            self.writing.record(self.logits())

    def logits(self) -> Tensor:
        """Logits [rows, V] after the current token of every row."""
        seen = None if self.mask is None else self.mask[:, : self.cache.get_seq_length() + 1]
        return next_logits(self.model, self.writing, self.cache, seen)

    def select(self, keep: Tensor) -> None:
        """Go on with these rows of the batch."""
        self.cache.batch_select_indices(keep)
        self.mask = None if self.mask is None else self.mask[keep]


class FixedSteps:
    """Steps over a cache that shows all its places, captured once a few of them have been run, and then replayed."""

    fewest = CAPTURE_STEPS

    def __init__(
        self,
        model: PreTrainedModel,
        cache: Cache,
        writing: Writing,
        capture: Callable[[Step], Step],
    ) -> None:
        self.model, self.writing, self.capture = model, writing, capture
        self.column = torch.full_like(writing.step, cache.get_seq_length())
        self.cache = fixed(storage_of(cache), self.column)
        self.replay: Step | None = None
        self.warm = False
        """Whether the kernels of these shapes have run before: their first use may load or tune them."""

    def run(self, count: int, left: int) -> None:
        """Write `count` tokens per row, `left` of them being possible."""
        if self.replay is None and self.warm and left >= CAPTURE_STEPS:
            self.replay = self.capture(self._step)
        step = self.replay or self._step
        for _ in range(count):
            step()
        self.warm = True

    def logits(self) -> Tensor:
        """Logits [rows, V] after the current token of every row."""
        columns = self.writing.columns
        seen = (columns >= self.writing.starts[:, None]) & (columns <= self.column)
        return next_logits(self.model, self.writing, self.cache, seen)

    def select(self, keep: Tensor) -> None:
        """Go on with these rows of the batch; a graph of the larger one is of no use."""
        self.replay, self.warm = None, False
        self.cache.batch_select_indices(keep)

    def _step(self) -> None:
        self.writing.record(self.logits())
        self.column += 1


def next_logits(model: PreTrainedModel, writing: Writing, cache: Cache, seen: Tensor | None) -> Tensor:
    """Logits [rows, V] after the current token of every row, which sees the columns `seen`, bool [rows, columns]."""
    logits: Tensor = model(
        input_ids=writing.current[:, None],
        attention_mask=seen,
        position_ids=writing.positions[:, None],
        past_key_values=cache,
        use_cache=True,
    ).logits
    return logits[:, -1]


def fixed(storage: list[LayerStates], column: Tensor) -> Cache:
    """A cache whose next token goes to `column`, long [1], of this storage."""
    layers: list[Any] = [FixedLayer(states, column) for states in storage]
    return Cache(layers=layers)


@torch.no_grad()
def why_not_fixed(model: PreTrainedModel, cache: Cache, writing: Writing) -> str | None:
    """Try a step of fixed shapes where the batch stands, and say what is wrong with it; None: nothing.

    The same token is read both ways; what comes out has to agree, and no step may wait for the device.
    """
    if "flash" in str(model.config._attn_implementation):
        return "flash attention cuts padding out, whose amount the host has to know"
    width = cache.get_seq_length()
    layers: list[Any] = [RoomyLayer(states, width) for states in storage_of(cache)]
    try:
        steps = FixedSteps(model, cache, writing, lambda step: step)
        steps.logits()  # the first run may load kernels and make tables
        with waiting_refused(writing.current.device):
            read = steps.logits()
        expected = GrowingSteps(model, Cache(layers=layers), writing).logits()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    gap = float((read.float().log_softmax(-1) - expected.float().log_softmax(-1)).abs().mean())
    rounds = 0.1 if torch.is_autocast_enabled(expected.device.type) else TOLERANCE.get(model.dtype, 0.1)
    return None if gap <= rounds else f"its log-probs would differ by {gap:.2g} nats"


@contextmanager
def waiting_refused(device: torch.device) -> Iterator[None]:
    """Inside, what makes the host wait for the device is an error; on a CPU nothing does."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def cuda_graph(step: Step) -> Step:
    """Capture the kernels of a step, which does nothing yet, and return what runs them all.

    Only this thread's calls may spoil the capture: others ask CUDA for events (NCCL's) or pinned memory meanwhile.
    """
    graph = torch.cuda.CUDAGraph()
    here = torch.cuda.stream(torch.cuda.current_stream())  # returned to also where the capture fails
    with here, torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()
    return graph.replay


CAPTURES: dict[str, Callable[[Step], Step]] = {"cuda": cuda_graph}
"""How a step is captured, by kind of device; on others the cache grows."""
