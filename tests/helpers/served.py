"""A vLLM sampler of a test, what it is asked, and how far its server is from the trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from paw_lightning.samplers.vllm import VLLMSampler

PROMPTS = [list(range(10, 40)), list(range(10, 33)), list(range(10, 40))]
UNIFORMS = torch.rand(3, 6, generator=torch.Generator().manual_seed(0))
SYNC = [
    "/is_sleeping",
    "/pause?mode=wait",
    "/collective_rpc",
    "/reset_prefix_cache",
    "/update_weight_version",
    "/resume",
]


def move(model: Any) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) * 0.2)


def make(model: Any, url: str, folder: Path, **settings: Any) -> VLLMSampler:
    return VLLMSampler(model, settings.pop("stops", [2]), 0, urls=[url], weights=str(folder / "weights"), **settings)


def sample(sampler: VLLMSampler) -> list:
    return sampler.generate(PROMPTS, temperature=0.7, max_new_tokens=6, uniforms=UNIFORMS)


def gap(model: Any, actions: list) -> float:
    worst = 0.0
    for prompt, action in zip(PROMPTS, actions, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + action.token_ids])).logits[0, len(prompt) - 1 : -1] / 0.7
        own = torch.log_softmax(logits, -1).gather(1, torch.tensor(action.token_ids)[:, None])[:, 0]
        worst = max(worst, (own - torch.tensor(action.logprobs)).abs().max().item())
    return worst


def make_synced(model: Any, url: str, folder: Path, **settings: Any) -> VLLMSampler:
    sampler = make(model, url, folder, **settings)
    sampler.update_weights()
    return sampler
