"""What all tiny policies have in common: a tokenizer of their own, and an architecture."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from paw_lightning.models.loading import ASSETS

PAD, END = "<|pad|>", "<|end|>"
USER, ASSISTANT = "<|user|>", "<|assistant|>"
MOST_TOKENS = 4096
"""Of a prompt and its action."""
ADVENTURE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{{ '<|end|>\n' if message['role'] == 'assistant' else '>' }}{% endfor %}"
)
"""A text adventure's own look: the player's line starts with ">"."""
DIALOGUE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


CALLS = (ASSETS / "tools.jinja").read_text()
"""A dialogue with tool calls."""
MESSAGE = "<|im_start|>"
"""What a message begins with there."""


@dataclass(frozen=True)
class Shape:
    """Size of a model."""

    width: int = 96
    feedforward: int = 256
    layers: int = 3
    heads: int = 4


SMALL = Shape()


@dataclass(frozen=True)
class Words:
    """How a tokenizer cuts a text into what may become one token, and how it writes a dialogue."""

    cut: pre_tokenizers.PreTokenizer
    chat_template: str
    normalizer: normalizers.Normalizer | None = None
    special_tokens: tuple[str, ...] = ()

    @classmethod
    def of_pieces(cls, pieces: str) -> Words:
        """Every match of a regular expression may become one token."""
        cut = pre_tokenizers.Split(Regex(pieces), behavior="isolated")
        letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return cls(pre_tokenizers.Sequence([cut, letters]), DIALOGUE, special_tokens=(USER, ASSISTANT))


def qwen_words() -> Words:
    """Qwen's own word boundaries: AutoTokenizer gives them to every Qwen2 model, whatever its files say."""
    backend = Qwen2Tokenizer().backend_tokenizer
    return Words(backend.pre_tokenizer, ADVENTURE, backend.normalizer)


def calling_words(names: Sequence[str]) -> Words:
    """For tool calls: a digit, a name and a line break are one token each, as may be all that stands between them."""
    either = "|".join(map(re.escape, names))
    words = Words.of_pieces(rf"[0-9]|{either}|\n|(?:(?!{either})[^\n0-9])+")
    return replace(words, chat_template=CALLS, special_tokens=(MESSAGE,))


def dialogue_text(first: str, turns: Sequence[tuple[str, str]], tools: list[Any]) -> str:
    """A first message, then calls (in JSON) and their answers, without the tokens that stand around messages."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": first}]
    for call, answer in turns:
        messages.append({"role": "assistant", "content": "", "tool_calls": [{"function": json.loads(call)}]})
        messages.append({"role": "tool", "content": answer})
    rendered: Any = render_jinja_template([messages], tools=tools, chat_template=CALLS, eos_token="")
    [text], _ = rendered
    return str(text).replace(MESSAGE, "")


def train_tokenizer(texts: Iterable[str], vocabulary: int, words: Words) -> PreTrainedTokenizerFast:
    """Byte-level BPE: nothing is unknown, nearly every word of the texts is one token."""
    tokenizer = Tokenizer(models.BPE())
    if words.normalizer is not None:
        tokenizer.normalizer = words.normalizer
    tokenizer.pre_tokenizer = words.cut
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, *words.special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    options: dict[str, Any] = {}
    if words.special_tokens:
        options = {"additional_special_tokens": list(words.special_tokens), "clean_up_tokenization_spaces": False}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        model_max_length=MOST_TOKENS,
        chat_template=words.chat_template,
        **options,
    )


def build_model(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A Qwen2 with random weights."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.feedforward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=MOST_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.float32,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model
