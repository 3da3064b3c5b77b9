"""What several processes tell each other: plain Python objects, in rank order, never a model's tensors."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from paw_lightning.errors import EvaluationCut

T = TypeVar("T")
_thread = threading.local()
"""`line`: what this thread talks over; the first thread of a process has none and talks over the default group."""


def world() -> tuple[int, int]:
    """(This process's rank, number of processes); (0, 1) where there is only one."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def warn(message: str) -> None:
    """Warn once for all processes: the first one speaks."""
    if world()[0] == 0:
        warnings.warn(message, stacklevel=3)


def rank_slice(count: int) -> slice:
    """This rank's part of `count` items.

    Parts are neighbours, their sizes differ by at most one, and joined in rank order they are all the items.
    Example: 5 items on 2 ranks are 0:2 and 2:5.
    """
    rank, size = world()
    return slice(count * rank // size, count * (rank + 1) // size)


def gathered(value: T) -> list[T]:
    """What every rank gave, in rank order; every rank has to call it."""
    _, size = world()
    if size == 1:
        return [value]
    values: list[Any] = [None] * size
    dist.all_gather_object(values, value, group=getattr(_thread, "line", None))
    return values


def pooled(items: Sequence[T]) -> list[T]:
    """The items of all ranks, joined in rank order; every rank has to call it."""
    return [item for part in gathered(list(items)) for item in part]


def pooled_means(sums: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Sum over count of each name over all ranks, (sum, count) being this rank's; not all need have every name."""
    totals: dict[str, tuple[float, float]] = {}
    for part in gathered(dict(sums)):
        for name, (value, count) in part.items():
            total, number = totals.get(name, (0.0, 0.0))
            totals[name] = (total + value, number + count)
    return {name: total / count for name, (total, count) in totals.items()}


def together(work: Callable[[], T]) -> list[T]:
    """Run `work` on every rank and return the results in rank order; where it fails on one rank, all raise."""
    result: Any = None
    error: Exception | EvaluationCut | None = None
    try:
        result = work()
    except (Exception, EvaluationCut) as caught:
        error = caught
    outcomes = gathered((result, None if error is None else f"{type(error).__name__}: {error}"))
    if error is not None:
        raise error
    for rank, (_, message) in enumerate(outcomes):
        if message is not None and message.startswith(EvaluationCut.__name__):
            raise EvaluationCut
        if message is not None:
            raise RuntimeError(f"rank {rank} failed with {message}")
    return [value for value, _ in outcomes]


def second_line(timeout: timedelta | None) -> Any:
    """What another thread can talk to its like on all ranks over, meanwhile; every rank has to call it.

    None where there is one process. On CPUs: what is said are Python objects, and the devices are the update's.
    """
    return dist.new_group(backend="gloo", timeout=timeout) if world()[1] > 1 else None


@contextmanager
def over(line: Any) -> Iterator[None]:
    """Inside, this thread talks over a line of its own."""
    _thread.line = line
    try:
        yield
    finally:
        _thread.line = None


def hang_up(line: Any) -> None:
    """Give a line back."""
    if line is not None and dist.is_initialized():
        dist.destroy_process_group(line)


def post(name: str, word: str) -> str:
    """Leave a word for all ranks under a name, unless one has, and return what is there; nobody has to wait for it."""
    return str(_get_default_store().compare_set(name, "", word).decode())


def posted(name: str) -> str | None:
    """The word that a rank has left under a name; None where none has."""
    store = _get_default_store()
    return str(store.get(name).decode()) if store.check([name]) else None
