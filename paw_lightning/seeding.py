"""Seeds without state: whatever is random is a function of what it is for, so a resumed run repeats itself."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def stable_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on the parts alone (not on the process, as ``hash`` does)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """Return a CPU generator seeded with :func:`stable_seed`."""
    return torch.Generator().manual_seed(stable_seed(*parts))


def uniforms(count: int, *parts: int | str) -> Tensor:
    """Return float32 [count] in [0, 1): the random numbers of one action.

    Whatever the default dtype is: under `trainer.precision: bf16-true` that has 256 numbers between 0 and 1, and
    tokens rarer than that would never be drawn.
    """
    return torch.rand(count, dtype=torch.float32, generator=generator(*parts))
