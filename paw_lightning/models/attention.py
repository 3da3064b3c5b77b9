"""The attention masks of rows with branches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from paw_lightning.errors import SettingsError


def branch_arguments(model: PreTrainedModel, position_ids: Tensor, visible: Tensor) -> dict[str, Any]:
    """Arguments of the model's forward pass, from position_ids long [B, T] and visible bool [B, 1, T, T].

    Layers with a sliding window see only the visible tokens whose positions are near. Raises SettingsError
    for attention that takes no such mask.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"]
    masks = {kind: _mask(model, kind, position_ids, visible, window) for kind in dict.fromkeys(kinds)}
    mask: Any = masks if len(masks) > 1 else next(iter(masks.values()))
    return {"position_ids": position_ids, "attention_mask": mask}


def _mask(model: PreTrainedModel, kind: str, position_ids: Tensor, visible: Tensor, window: int | None) -> Tensor:
    attention = model.config._attn_implementation
    if attention not in ("sdpa", "eager") or kind not in ("full_attention", "sliding_attention"):
        raise SettingsError(
            f"model.attention is {attention!r} ({kind}), which cannot read a row with branches; wanted sdpa or "
            "eager and a model with full or sliding attention, or target_control.targets: observation"
        )
    if kind == "sliding_attention" and window is not None:
        distance = position_ids[:, None, :, None] - position_ids[:, None, None, :]
        visible = visible & (distance < window)
    if attention == "sdpa":
        return visible
    dtype = model.get_input_embeddings().weight.dtype
    hidden = torch.finfo(dtype).min  # type: ignore[arg-type]
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, hidden)  # type: ignore[arg-type]
