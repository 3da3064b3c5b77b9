"""A real vLLM server on this machine's CPUs, and a model that it can serve there."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from paw_lightning.models.loading import ASSETS, load_tokenizer

FLAGS = [
    *("--dtype", "float32", "--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"),
    *("--enforce-eager", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "16384"),
    *("--gpu-memory-utilization", "0.3", "--max-model-len", "2048"),
]
"""What docs/scaling.md says for CPUs."""
STARTS = 600
"""Seconds that a start may take on busy cores; 45 on idle ones."""


def save_model(folder: Path) -> str:
    """A random model whose head is not tied and whose attention heads are as wide as vLLM's kernels for CPUs want."""
    tokenizer = load_tokenizer(str(ASSETS / "tiny-household"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        initializer_range=0.15,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


class RealServer:
    """One server process and those that it starts.

    Args:
        command: path of `vllm`.
        model: its folder.
        log: file for what it prints.
        flags: beside FLAGS.
        developer: with VLLM_SERVER_DEV_MODE=1.
    """

    def __init__(self, command: str, model: str, log: Path, *flags: str, developer: bool = True) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.arguments = [command, "serve", model, "--host", "127.0.0.1", "--port", str(self.port), *FLAGS, *flags]
        own = {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_CI_ENV": "1", "VLLM_NO_USAGE_STATS": "1"}
        own |= (
            {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}
            if developer
            else {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
        )
        self.environment, self.log = {**os.environ, **own}, log
        self.environment.pop("PYTHONPATH", None)
        self.start()

    def start(self) -> None:
        """Start it, again if need be, and wait until it answers."""
        with self.log.open("a") as log:
            self.process: Any = subprocess.Popen(
                self.arguments, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + STARTS
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(1)
        raise TimeoutError(f"no answer within {STARTS} s: {self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        """As `kill -9` of everything that belongs to it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
