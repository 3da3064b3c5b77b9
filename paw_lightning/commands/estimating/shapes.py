"""Numbers of a language model that its time hangs on, and the shapes of well-known sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from paw_lightning.errors import SettingsError
from paw_lightning.samplers.kv_cache import token_bytes


@dataclass(frozen=True)
class Shape:
    """Counts, not bytes."""

    backbone: int
    """Parameters that every token is multiplied with."""
    head: int
    """Parameters that a token is multiplied with where its prediction is wanted."""
    layers: int
    attention: int
    """Width of a layer's queries: heads x head size."""
    remembered: int
    """Numbers of keys and values that a token leaves behind, in all layers."""
    vocabulary: int
    total: int
    """Parameters of everything, looked-up embeddings included."""
    adapters: int = 0
    """LoRA's parameters; 0: the whole model is trained."""

    @property
    def read_in_a_step(self) -> int:
        """Parameters that writing one token per row reads."""
        return self.backbone + self.head


def shape_of(model: PreTrainedModel) -> Shape:
    """Count a model; tensors without data will do."""
    text, decoder = model.config.get_text_config(), model.get_decoder()
    head = model.get_output_embeddings().weight.numel()
    looked_up = cast(nn.Embedding, model.get_input_embeddings()).weight.numel()
    heads = text.num_attention_heads
    return Shape(
        backbone=sum(p.numel() for p in decoder.parameters()) - looked_up,
        head=head,
        layers=text.num_hidden_layers,
        attention=heads * (getattr(text, "head_dim", None) or text.hidden_size // heads),
        remembered=token_bytes(model.config, 1),
        vocabulary=text.vocab_size,
        total=sum(p.numel() for p in model.parameters()),
        adapters=sum(p.numel() for name, p in model.named_parameters() if "lora_" in name),
    )


def _qwen(hidden: int, inner: int, layers: int, heads: int, groups: int, vocabulary: int = 152_064) -> dict[str, Any]:
    return {
        "model_type": "qwen2",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "vocab_size": vocabulary,
        "tie_word_embeddings": vocabulary == 151_936,
        "max_position_embeddings": 32_768,
    }


SIZES: dict[str, dict[str, Any]] = {
    "0.5B": _qwen(896, 4_864, 24, 14, 2, 151_936),
    "1.5B": _qwen(1_536, 8_960, 28, 12, 2, 151_936),
    "3B": _qwen(2_048, 11_008, 36, 16, 2, 151_936),
    "7B": _qwen(3_584, 18_944, 28, 28, 4),
    "14B": _qwen(5_120, 13_824, 48, 40, 8),
    "32B": _qwen(5_120, 27_648, 64, 40, 8),
    "70B": {
        "model_type": "llama",
        "hidden_size": 8_192,
        "intermediate_size": 28_672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "tie_word_embeddings": False,
        "max_position_embeddings": 131_072,
    },
}
"""The shapes of Qwen2.5 (0.5B to 32B) and of Llama 3 (70B)."""


def config_of(size: str | None) -> PretrainedConfig | None:
    """The shape of a well-known size; None for no size.

    Raises:
        SettingsError: the size is not known.
    """
    if size is not None and size not in SIZES:
        raise SettingsError(f"--model_size is {size!r}; wanted one of {', '.join(SIZES)}, or model.path alone")
    return AutoConfig.for_model(**SIZES[size]) if size else None
