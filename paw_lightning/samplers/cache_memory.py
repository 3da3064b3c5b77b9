"""How much memory keys and values may take: on a GPU what is free when a rollout begins, on a CPU a fixed amount."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from paw_lightning.samplers.kv_cache import READ_TOKENS, token_bytes

CACHE_BYTES = 2**32
"""Where free memory is not asked for, as on CPUs: batches are then cut alike on every machine, however busy it is."""

MARGIN = 0.1
"""Share of the free memory that is left alone: what lies scattered in the allocator, and kernels' own (choice)."""

SECOND_COPY = 1.25
"""The most that is held, over the bound: a session's batch, half of it, is cut down to its half in a second copy."""

DRAW_BYTES = 40
"""Of each word of each row: its logit, what is made of it in float32, and the cumulative probability in float64."""


def cache_bytes(model: PreTrainedModel, rows: int) -> int:
    """Bytes that keys and values of a rollout of so many rows may take; to be asked while there are none."""
    free = free_bytes(model.device)
    if free is None:
        return CACHE_BYTES
    element = next(model.parameters()).element_size()
    copied = sum(p.numel() for p in model.parameters() if p.requires_grad and p.dtype == torch.float32)
    autocast = torch.is_autocast_enabled(model.device.type)  # it keeps a half-precision copy of each trained weight
    return share(free, passing_bytes(model.config, rows, element) + autocast * 2 * copied)


def share(free: float, passing: float) -> int:
    """Bytes for keys and values of so many free ones, of which `passing` are needed for a moment."""
    return max(0, int(((1 - MARGIN) * free - passing) / SECOND_COPY))


def free_bytes(device: torch.device) -> int | None:
    """Bytes that could be taken: the device's free ones and those that PyTorch has reserved and does not use.

    None where they are not known: on everything but CUDA. Not yet run on hardware.
    """
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def passing_bytes(config: Any, rows: int, element: int) -> int:
    """Bytes that a rollout needs for a moment, beside weights and cache: an estimate from shapes alone (choice).

    One call's worth of reading, with its keys and values before they are copied to their rows and a few states of each
    token; and what the draw makes of the logits, twice: a CUDA graph has memory of its own.
    """
    text = config.get_text_config()
    wide = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    states = element * (6 * text.hidden_size + 4 * wide)
    reading = READ_TOKENS["accelerator"] * (token_bytes(config, element) + states)
    return reading + 2 * rows * text.vocab_size * DRAW_BYTES
