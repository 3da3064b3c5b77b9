"""Tiny random models of several architectures, prompts for them, and log-probs by plain forward passes."""

import copy
import random

import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

VOCABULARY, WINDOW, NEW_TOKENS = 61, 64, 6
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": WINDOW,
    "initializer_range": 0.2,  # far from uniform predictions, which would hide a wrong context
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "qwen2": Qwen2Config(**SIZES),
    "qwen2-eager": Qwen2Config(**SIZES, attn_implementation="eager"),
    "qwen2-sliding": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=7, max_window_layers=1),
    "llama": LlamaConfig(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=WINDOW, initializer_range=0.2
    ),
}


def make_model(name="qwen2", dtype=torch.float32, **overrides):
    config = copy.deepcopy(CONFIGS[name])  # from_config writes to it
    config.update(overrides)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def random_prompts(*lengths, beginning=()):
    dice = random.Random(sum(lengths))
    return [[*beginning, *(dice.randrange(1, VOCABULARY) for _ in range(length))] for length in lengths]


def tokens_of(generations):
    return [generation.token_ids for generation in generations]


@torch.no_grad()
def teacher_forced(model, prompt, action, temperature):
    """Log-probs and entropies of the action from one forward pass over prompt | action, alone and without a cache."""
    logits = model(input_ids=torch.tensor([prompt + action]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    distribution = torch.distributions.Categorical(logits=logits.float() / temperature)
    return distribution.log_prob(torch.tensor(action)), distribution.entropy()


def assert_teacher_forced(model, prompts, generations, temperature=1.0, tolerance=1e-5):
    for prompt, generation in zip(prompts, generations, strict=True):
        logprobs, entropies = teacher_forced(model, prompt, generation.token_ids, temperature)
        assert_close(torch.tensor(generation.logprobs), logprobs, atol=tolerance, rtol=0)
        assert_close(torch.tensor(generation.entropies), entropies, atol=tolerance, rtol=0)
