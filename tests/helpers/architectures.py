"""Tiny random models of many families of transformers, by the name that docs/support.md gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from paw_lightning.models.loading import without_dropout

VOCABULARY, WINDOW = 61, 256
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": WINDOW,
    "initializer_range": 0.2,  # far from uniform predictions, which would hide a wrong context
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
HEADS = {"head_dim": 8}
SLIDING = {"sliding_window": 5}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}
LATENT |= {"num_key_value_heads": 4}
OLD = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8}
ROTARY: dict[str, Any] = {"rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 20}


def of(config: str, *parts: dict[str, Any], **settings: Any) -> Callable[[], PreTrainedConfig]:
    """A configuration of the common shape, made when it is asked for."""
    return lambda: find(config)(**{**SHAPE, **{k: v for p in parts for k, v in p.items()}, **settings})


def old(config: str, **settings: Any) -> Callable[[], PreTrainedConfig]:
    """A configuration of the years when sizes had other names."""
    return lambda: find(config)(**{**OLD, **settings})


def find(config: str) -> Any:
    """The class of a configuration; the oldest transformers do not know all."""
    if not hasattr(hf, f"{config}Config"):
        pytest.skip(f"NOT IN TRANSFORMERS {hf.__version__}: {config}")
    return getattr(hf, f"{config}Config")


def gemma3() -> PreTrainedConfig:
    """A model that also reads images, of which only the text is used."""
    text = hf.Gemma3TextConfig(**SHAPE, **HEADS, **SLIDING)
    vision = {**VISION, "image_size": 28, "patch_size": 14}
    return hf.Gemma3Config(text_config=text.to_dict(), vision_config=vision, mm_tokens_per_image=4)


REPRESENTATIVE: dict[str, Callable[[], PreTrainedConfig]] = {
    "Qwen2": of("Qwen2"),
    "Qwen3": of("Qwen3", HEADS),
    "Qwen3-MoE": of("Qwen3Moe", HEADS, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
    "Llama": of("Llama"),
    "Mistral": of("Mistral", SLIDING),
    "Gemma 2": of("Gemma2", HEADS, SLIDING),
    "Gemma 3": gemma3,
    "Gemma 4": of(
        "Gemma4Text",
        HEADS,
        SLIDING,
        global_head_dim=16,
        num_kv_shared_layers=0,
        vocab_size_per_layer_input=61,
        hidden_size_per_layer_input=8,
    ),
    "Phi-3": of("Phi3"),
    "GPT-OSS": of("GptOss", HEADS, SLIDING, EXPERTS),
    "DeepSeek-V3": of("DeepseekV3", LATENT, ROUTED, first_k_dense_replace=1),
    "GPT-2": old("GPT2", n_positions=WINDOW),
}
OTHERS: dict[str, Callable[[], PreTrainedConfig]] = {
    "Apertus": of("Apertus"),
    "Arcee": of("Arcee", HEADS),
    "BLOOM": lambda: hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.2),
    "Cohere": of("Cohere"),
    "Cohere 2": of("Cohere2", SLIDING),
    "CWM": of("Cwm", HEADS, SLIDING),
    "DeepSeek-V2": of("DeepseekV2", LATENT, ROUTED, first_k_dense_replace=1),
    "dots1": of("Dots1", HEADS, ROUTED, first_k_dense_replace=1, n_shared_experts=1),
    "Ernie 4.5": of("Ernie4_5", HEADS),
    "EXAONE 4": of("Exaone4", SLIDING, layer_types=["sliding_attention", "full_attention"]),
    "Falcon": of("Falcon"),
    "Gemma": of("Gemma", HEADS),
    "GLM": of("Glm", HEADS),
    "GLM 4": of("Glm4", HEADS),
    "GLM 4 MoE": of("Glm4Moe", HEADS, ROUTED, first_k_dense_replace=1),
    "GPT-J": old("GPTJ", n_positions=WINDOW, rotary_dim=8),
    "GPT-Neo": of("GPTNeo", num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=5),
    "GPT-NeoX": of("GPTNeoX"),
    "GPTBigCode": old("GPTBigCode", n_positions=WINDOW),
    "Granite": of("Granite", logits_scaling=6.0),
    "Granite MoE": of("GraniteMoe", EXPERTS),
    "Granite 4 (attention only)": of(
        "GraniteMoeHybrid", MAMBA, layer_types=["attention"] * 2, num_local_experts=0, shared_intermediate_size=32
    ),
    "Helium": of("Helium", HEADS),
    "Hunyuan": of("HunYuanDenseV1", HEADS),
    "MiMo-V2-Flash": of("MiMoV2Flash", HEADS, SLIDING, ROUTED, swa_num_key_value_heads=4, v_head_dim=8),
    "MiniCPM3": of("MiniCPM3", LATENT),
    "MiniMax-M2": of("MiniMaxM2", HEADS, EXPERTS),
    "Ministral": of("Ministral", HEADS, SLIDING),
    "Mixtral": of("Mixtral", EXPERTS),
    "MPT": lambda: hf.MptConfig(vocab_size=VOCABULARY, d_model=32, n_layers=2, n_heads=4, max_seq_len=WINDOW),
    "Nemotron": of("Nemotron"),
    "OLMo": of("Olmo"),
    "OLMo 2": of("Olmo2"),
    "OLMo 3": of("Olmo3", SLIDING, layer_types=["sliding_attention", "full_attention"]),
    "OLMoE": of("Olmoe", num_experts=4, num_experts_per_tok=2),
    "OPT": of("OPT", ffn_dim=64, word_embed_proj_dim=32),
    "Persimmon": of("Persimmon"),
    "Phi": of("Phi"),
    "Qwen2-MoE": of(
        "Qwen2Moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=16
    ),
    "Seed-OSS": of("SeedOss", HEADS),
    "SmolLM3": of("SmolLM3"),
    "StableLM": of("StableLm"),
    "Starcoder 2": of("Starcoder2"),
}
REFUSED: dict[str, Callable[[], PreTrainedConfig]] = {
    "Qwen3.5": of(
        "Qwen3_5Text",
        HEADS,
        num_hidden_layers=4,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    ),
    "Mamba": lambda: hf.MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2),
    "LFM2": of("Lfm2", layer_types=["conv", "full_attention"]),
    "Bamba": of("Bamba", MAMBA, attn_layer_indices=[1]),
    "DeepSeek-V3.2": of("DeepseekV32", LATENT, ROUTED, index_n_heads=2, index_head_dim=16, index_topk=4),
    "RWKV": lambda: hf.RwkvConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2),
    "BART": lambda: hf.BartConfig(
        vocab_size=VOCABULARY,
        d_model=32,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=64,
        init_std=0.2,
        is_decoder=True,
    ),
    "OpenAI GPT": lambda: hf.OpenAIGPTConfig(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4),
}
CHANGING_ROTARY: dict[str, Callable[[], PreTrainedConfig]] = {
    "longrope": of(
        "Phi3",
        original_max_position_embeddings=20,
        rope_parameters={**ROTARY, "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4},
    ),
    "dynamic": of("Llama", rope_parameters={**ROTARY, "rope_type": "dynamic"}),
}


def build(config: Callable[[], PreTrainedConfig]) -> PreTrainedModel:
    """The model with random weights, the same every time."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(without_dropout(config())).eval()
