"""Small tokenizers of the kinds that models bring: byte-level with merges, and SentencePiece's, with control tokens."""

from __future__ import annotations

import re

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CONTROL = re.compile(r"<\|\w+\|>|<\uff5c[^\uff5c]+\uff5c>")
SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Qwen's word boundaries, without its English endings: line breaks go with the punctuation before them."""


def byte_level(*controls: str, bos: str | None = None, eos: str = "<|end|>", template: str | None = None):
    """One token per byte, and for what meets at a border: ".\\n", two line breaks, ".>", and a word with its blank."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(".", "\u010a"), ("\u010a", "\u010a"), (".", ">"), ("\u0120", "Y"), ("\u0120", "g"), (".", "[")]
    tokens = [*alphabet, *(a + b for a, b in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return _finished(tokenizer, controls, bos, eos, template)


def sentencepiece(*controls: str, bos: str | None = "<s>", eos: str = "</s>", template: str | None = None):
    """Blanks are letters, every text begins with one, and what has no token is spelled in bytes: Llama 2's kind."""
    letters = ["\u2581", *map(chr, range(33, 127))]
    merges = [("\u2581", "Y"), ("\u2581", "g"), (".", "["), ("\u2581", "["), ("\u2581", "\u2581")]
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *(a + b for a, b in merges)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _finished(tokenizer, controls, bos, eos, template, unk_token="<unk>")


def _finished(tokenizer: Tokenizer, controls, bos: str | None, eos: str, template: str | None, **special: str):
    if bos is not None:
        tokenizer.add_special_tokens([AddedToken(bos, special=True)])
        place = tokenizer.token_to_id(bos)
        tokenizer.post_processor = processors.TemplateProcessing(f"{bos} $A", special_tokens=[(bos, place)])
        special["bos_token"] = bos
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, pad_token="<|pad|>", **special)
    fast.add_tokens([AddedToken(text, special=True, normalized=False) for text in controls], special_tokens=True)
    fast.chat_template = template
    return fast


def for_template(kind, template: str, *controls: str, eos: str | None = None):
    """A small tokenizer that has every control token that the template writes by name."""
    named = dict.fromkeys([*CONTROL.findall(template), *controls])
    roles = ["<|user|>", "<|assistant|>"] if "<|{{ m.role }}|>" in template else []
    return kind(*named, *roles, bos="<s>", eos=eos or "</s>", template=template)
