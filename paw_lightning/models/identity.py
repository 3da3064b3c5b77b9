"""What a checkpoint belongs to: its model's shapes, its tokens and chat template, the weights of its reference."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from paw_lightning.errors import SettingsError
from paw_lightning.text.chat import ChatFormat

REFERENCE = "reference weights"
CONFIG_KEYS = {
    "world_model_head": "model.world_model_head",
    "critic": "model.critic",
    "lora": "model.lora",
    **dict.fromkeys(
        (f"chat template {part}" for part in ("before a message", "before an answer", "after an answer")),
        "model.chat_template",
    ),
}
"""What sets a part of the identity, where that is not model.path."""
IDENTITY_KEYS = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "tie_word_embeddings",
)


def model_identity(
    language_model: PreTrainedModel,
    chat: ChatFormat,
    separate_world_model_head: bool,
    *,
    critic: str = "none",
    with_weights: bool,
) -> dict[str, Any]:
    """Return what a checkpoint belongs to: the shapes of its model, the tokens of its tokenizer.

    `with_weights` adds the weights as loaded: they are the reference of a KL term.
    """
    config = language_model.config
    result = {
        **{key: getattr(config, key, None) for key in IDENTITY_KEYS},
        "world_model_head": "separate" if separate_world_model_head else "shared",
        "tokenizer": vocabulary_digest(chat),
        **chat.identity(),
    }
    if critic != "none":
        result["critic"] = critic
    return result | ({REFERENCE: weight_digest(language_model)} if with_weights else {})


def vocabulary_digest(chat: ChatFormat) -> str:
    """A digest of all tokens and of the chat template."""
    vocabulary = json.dumps(sorted(chat.tokenizer.get_vocab().items())) + str(chat.tokenizer.chat_template)
    return hashlib.sha256(vocabulary.encode()).hexdigest()[:16]


def tokenizer_digest(chat: ChatFormat) -> str:
    """A digest of all that texts become tokens by: the vocabulary, and what stands between messages."""
    return hashlib.sha256(repr((vocabulary_digest(chat), chat.identity())).encode()).hexdigest()[:16]


def weight_digest(model: nn.Module) -> str:
    """A digest of the first 256 numbers of every parameter: any training changes them."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().flatten()[:256].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def check_identity(saved: dict[str, Any], current: dict[str, Any], *, same_reference: bool = True) -> None:
    """Raise SettingsError that names every difference between a checkpoint's model and the configured one.

    Reference weights are compared when both have them and `same_reference` asks for it.
    """
    keys = saved.keys() | current.keys()
    if not (same_reference and REFERENCE in saved and REFERENCE in current):
        keys -= {REFERENCE}
    different = [key for key in sorted(keys) if saved.get(key) != current.get(key)]
    if different:
        listed = "; ".join(
            "{}: checkpoint {}, configured {}".format(key, *_pair(saved.get(key), current.get(key)))
            for key in different
        )
        settings = " and ".join(dict.fromkeys(CONFIG_KEYS.get(key, "model.path") for key in different))
        raise SettingsError(
            f"ckpt_path is a checkpoint of another model or tokenizer ({listed}); wanted {settings} as in the run that "
            "saved it, or another checkpoint"
        )


def _pair(saved: Any, current: Any) -> tuple[str, str]:
    """Both values for a message; of two long texts the place where they part."""
    if not (isinstance(saved, str) and isinstance(current, str)):
        return repr(saved), repr(current)
    same = next((i for i, (a, b) in enumerate(zip(saved, current, strict=False)) if a != b), 0)
    start = max(0, same - 20)
    return repr(saved[start : start + 60]), repr(current[start : start + 60])
