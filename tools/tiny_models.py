"""What all tiny policies have in common: a tokenizer of their own, an architecture, and how they are optimized."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

import torch
from base_worlds import Phase, Recipe
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

PAD, END = "<|pad|>", "<|end|>"
MOST_TOKENS = 4096
"""Of a prompt and its action."""


def train_bpe(
    texts: Iterable[str],
    vocabulary: int,
    words: pre_tokenizers.PreTokenizer,
    normalizer: Any = None,
    more_special_tokens: tuple[str, ...] = (),
    **options: Any,
) -> PreTrainedTokenizerFast:
    """Byte-level BPE: nothing is unknown, nearly every word of the texts is one token.

    Args:
        texts: to learn from.
        vocabulary: number of tokens.
        words: cuts a text into what may become one token.
        normalizer: of the text before that, if any.
        more_special_tokens: besides padding and the end.
        options: of the Hugging Face tokenizer.
    """
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = words
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, *more_special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, model_max_length=MOST_TOKENS, **options
    )


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A Qwen2 with random weights."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.feedforward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
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


def optimize(model: Qwen2ForCausalLM, recipe: Recipe, phase: Phase, losses: Iterable[tuple[Tensor, Tensor]]) -> None:
    """One step for each pair of losses: on actions, and with a smaller weight on observations."""
    optimizers = make_optimizers(model)
    started = time.perf_counter()
    model.train()
    for step, (action_loss, observation_loss) in enumerate(losses):
        model.zero_grad()
        (action_loss + recipe.observation_weight * observation_loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = learning_rate(phase, recipe.warmup, step)
            optimizer.step()
        if (step + 1) % 50 == 0 or step + 1 == phase.steps:
            seconds = time.perf_counter() - started
            shown = f"action loss {action_loss.item():.3f}, observation loss {observation_loss.item():.3f}"
            print(f"step {step + 1}/{phase.steps}: {shown}, {seconds:.0f} s", flush=True)


def make_optimizers(model: Qwen2ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for the rest: copying names forms in half the steps of AdamW alone."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, weight_decay=0.0, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0)]


def learning_rate(phase: Phase, warmup: int, step: int) -> float:
    """Linear warm-up times a cosine down to a twentieth of the peak."""
    warm = min(1.0, (step + 1) / warmup)
    fall = (1 + math.cos(math.pi * step / phase.steps)) / 2
    final = phase.learning_rate / 20
    return warm * (final + (phase.learning_rate - final) * fall)
