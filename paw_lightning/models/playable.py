"""Whether a model can play: a token is read the same from a cache of keys and values as with all before it anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from paw_lightning.errors import SettingsError

ROWS = ([5, 9, 6, 11, 7, 5, 12, 8, 10], [7, 5, 10, 6, 9, 11])
"""Places behind the first quarter of the vocabulary; the last token of each row is read through the cache.

Not the first tokens: many models keep those for control tokens that training never met, and what they make of a row of
such is so wild that rounding alone moved the log-probs of a trained SmolLM2 by 0.0015 nats (by 4e-6 with others).
"""
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Nats, mean over the vocabulary; 0.1 in half precision."""


@torch.no_grad()
def check_playable(model: PreTrainedModel, path: str) -> None:
    """Read two rows of unequal length as samplers do, and compare with what training reads.

    Raises:
        SettingsError: the model keeps something else than keys and values of each token (linear attention, a state
            space), takes positions from elsewhere than its caller (some decoders of encoder-decoder models), or is
            another one while it trains; the message names ``model.path``.
    """
    wanted = "wanted a causal language model of attention layers (no linear attention, state space or encoder)"
    size = model.config.get_text_config().vocab_size
    rows = [[(size // 4 + place) % size for place in row] for row in ROWS]
    with torch.random.fork_rng(devices=[]), readable(model):
        try:
            played = _read_through_cache(model.eval(), rows)
            trained = _read_anew(model.train(), rows)
        except Exception as error:
            said = _other_layers(model) or f"{type(error).__name__}: {error}".partition("\n")[0]
            raise SettingsError(
                f"model.path is {path!r}, which cannot play from a cache of keys and values ({said}); {wanted}"
            ) from error
    gap = (played - trained).abs().mean().item()
    if not gap <= TOLERANCE.get(model.dtype, 0.1):
        why = _other_layers(model) or "it counts positions itself, or is random in training"
        raise SettingsError(
            f"model.path is {path!r}, whose log-probs read from a cache of keys and values differ by {gap:.2g} nats "
            f"from those read anew ({why}); {wanted}"
        )


@contextmanager
def readable(model: PreTrainedModel, widened: bool = False) -> Iterator[None]:
    """Where flash attention cannot run another implementation reads inside: on a CPU, and in float32 (`widened`)."""
    asked = model.config._attn_implementation
    if (widened or model.device.type == "cpu") and "flash" in str(asked):
        model.config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        model.config._attn_implementation = asked


def _other_layers(model: PreTrainedModel) -> str:
    """What transformers would keep for the model's layers instead of plain keys and values; empty where it is these."""
    try:
        kinds = {type(layer).__name__ for layer in DynamicCache(config=model.config).layers}
    except Exception:  # it only explains
        return ""
    others = sorted(kinds - {"DynamicLayer", "DynamicSlidingWindowLayer"})
    return f"its layers need {', '.join(others)}" if others else ""


def _read_through_cache(model: PreTrainedModel, rows: list[list[int]]) -> Tensor:
    """Log-probs [rows, V] of what follows: contexts read with padding on the right, then aligned on the right."""
    device = model.device
    lengths = torch.tensor([len(row) - 1 for row in rows], device=device)
    width = int(lengths.max())
    # The contexts
    contexts = [[*row[:-1], *row[: width - len(row) + 1]] for row in rows]  # any padding will do
    cache: Any = DynamicCache()
    model(
        input_ids=torch.tensor(contexts, device=device),
        position_ids=torch.arange(width, device=device)[None],
        past_key_values=cache,
        use_cache=True,
    )
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    # The last tokens
    columns = torch.arange(width, device=device) - (width - lengths[:, None])
    aligned: Any = [tuple(_align(state, columns) for state in states) for states in layers]
    out = model(
        input_ids=torch.tensor([row[-1:] for row in rows], device=device),
        attention_mask=torch.cat([columns, lengths[:, None]], 1) >= 0,
        position_ids=lengths[:, None],
        past_key_values=DynamicCache(aligned),
        use_cache=True,
    )
    return out.logits[:, -1].float().log_softmax(-1)


def _align(states: Tensor, columns: Tensor) -> Tensor:
    """Column c of row b comes from columns[b, c]; where that is negative, from anywhere."""
    return torch.stack([row[:, places.clamp(min=0)] for row, places in zip(states, columns, strict=True)])


def _read_anew(model: PreTrainedModel, rows: list[list[int]]) -> Tensor:
    """The same log-probs, each row alone and without a cache."""
    ids = [torch.tensor([row], device=model.device) for row in rows]
    logits = [model(input_ids=row, use_cache=False).logits[0, -1] for row in ids]
    return torch.stack(logits).float().log_softmax(-1)
