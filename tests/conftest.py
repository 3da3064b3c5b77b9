"""Shared fixtures: a tiny random language model on disk, and where the reference data lies."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

ROOT = Path(__file__).parent.parent
MOST_WORKERS = 8
"""Each holds torch and a few small models: about a gigabyte."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """As many as there are cores to use; pytest-xdist would count those that a container may not use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Several threads on busy cores are slower than one, and one is reproducible."""
    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # for the processes that tests start


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges: one token per byte, three control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<|pad|>", "<|start|>", "<|end|>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>", additional_special_tokens=["<|start|>"]
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random two-layer Qwen2 with a byte tokenizer, saved as any Hugging Face model is."""
    directory = tmp_path_factory.mktemp("tiny-model")
    fast = byte_tokenizer()
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        pad_token_id=fast.pad_token_id,
        eos_token_id=fast.eos_token_id,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    fast.save_pretrained(directory)
    return str(directory)


def golden_records(shared: Path, name: str) -> list[dict[str, Any]]:
    """What a reference engine was recorded to do, one record per line."""
    path = shared / "golden" / name
    if not path.is_file():
        pytest.skip(f"NO REFERENCE TRANSCRIPTS: {path} does not exist; set PAW_SHARED")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data that is not part of the project; tests that need it skip without it."""
    folder = Path(os.environ.get("PAW_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"NO REFERENCE DATA: {folder} does not exist; set PAW_SHARED to the folder with golden/ and data/")
    return folder
