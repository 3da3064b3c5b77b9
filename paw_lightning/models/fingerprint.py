"""A few letters that tell weights from others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

SAMPLED = 256
"""Numbers of each tensor, evenly spaced over it."""


@torch.no_grad()
def fingerprint(parameters: Iterable[Tensor]) -> str:
    """A digest of a sample of every tensor: any optimizer step changes it, and it takes milliseconds."""
    samples = [flat[:: max(1, len(flat) // SAMPLED)].double() for p in parameters if len(flat := p.detach().flatten())]
    return hashlib.sha256(torch.cat(samples).cpu().numpy().tobytes()).hexdigest()[:16] if samples else ""
