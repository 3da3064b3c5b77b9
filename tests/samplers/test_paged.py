"""Continuous batching: it samples the right distribution, whatever the model's own generation settings say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from paw_lightning.samplers import cache_memory as module
from paw_lightning.samplers.paged import PagedSampler
from tests.helpers import runs

PROMPTS = [list(range(10, 40)), list(range(10, 33)), list(range(10, 40))]


@pytest.fixture
def model(tiny_model_dir: str):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir).train()
    # What instruction-tuned models bring along: none of it may leak into sampling.
    model.generation_config.update(do_sample=True, temperature=0.7, top_k=5, top_p=0.8, repetition_penalty=1.3)
    return model


def sampler(model, stops: list[int]) -> PagedSampler:
    return PagedSampler(model, stops, 0, page_size=8, num_blocks=128, max_batch_tokens=256)


def bare(model, **settings) -> PagedSampler:
    return PagedSampler(model, [2], 0, **settings)


def test_without_settings_memory_is_what_the_prompts_need(model, monkeypatch) -> None:
    """36, 29 and 36 tokens with their actions: a page of 256 for each, and as many again."""
    asked: list[ContinuousBatchingConfig] = []
    original = model.generate_batch

    def generate_batch(prompts, continuous_batching_config, **settings):
        asked.append(continuous_batching_config)
        return original(prompts, continuous_batching_config=continuous_batching_config, **settings)

    monkeypatch.setattr(model, "generate_batch", generate_batch)
    settings = {"temperature": 1.0, "max_new_tokens": 6, "uniforms": uniforms(3, 6)}
    paged = bare(model)
    [action, *_] = paged.generate(PROMPTS, **settings)
    expected = own_logprobs(model, PROMPTS[0], action.token_ids, 1.0)
    torch.testing.assert_close(torch.tensor(action.logprobs), expected, atol=1e-4, rtol=1e-4)
    paged.generate([list(range(10, 30)) * 30], temperature=1.0, max_new_tokens=6, uniforms=uniforms(1, 6))
    paged.release()
    assert [(c.num_blocks, c.max_batch_tokens) for c in asked] == [(6, 512), (6, 512)], "606 tokens fit 3 of 6 pages"
    assert paged.blocks == 0


def test_more_prompts_get_more_pages_up_to_the_bound(model, monkeypatch) -> None:
    """A token has 2 x 512 x 4 bytes in two masks, and 2 x 2 layers x 16 numbers x 4 bytes of keys and values."""
    monkeypatch.setattr(module, "CACHE_BYTES", 100 * 256 * (4096 + 2 * 2 * 16 * 4))
    paged = bare(model)
    assert [paged._wanted([256] * rows) for rows in (1, 50, 80)] == [2, 100, 100]
    assert paged._wanted([256 * 101]) == 101, "one sequence has to fit"
    paged.blocks = 100
    monkeypatch.setattr(module, "CACHE_BYTES", 0)
    assert paged._wanted([256] * 80) == 100, "what there was before it took its pages"
    assert bare(model, num_blocks=7)._wanted([256] * 50) == 7


def uniforms(rows: int, steps: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, steps, generator=torch.Generator().manual_seed(seed))


def own_logprobs(model, prompt: list[int], action: list[int], temperature: float) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.tensor([prompt + action])).logits[0, len(prompt) - 1 : -1].float()
    return torch.log_softmax(logits / temperature, -1).gather(1, torch.tensor(action)[:, None])[:, 0]


def test_logprobs_are_the_models_own_and_no_setting_leaks(model) -> None:
    """With top_k 5 a token would have about 1/5 and not about 1/259: the log-probs would differ by 4 nats."""
    paged = sampler(model, [2])
    actions = paged.generate(PROMPTS, temperature=0.5, max_new_tokens=6, uniforms=uniforms(3, 6))
    for prompt, action in zip(PROMPTS, actions, strict=True):
        expected = own_logprobs(model, prompt, action.token_ids, 0.5)
        torch.testing.assert_close(torch.tensor(action.logprobs), expected, atol=1e-4, rtol=1e-4)
        assert action.entropies == []
    assert actions[0].token_ids != actions[2].token_ids, "equal prompts are drawn independently"
    assert model.training
    paged.update_weights()


def test_new_weights_are_read_after_an_update(model) -> None:
    """The prompts fill whole pages, which the next call would take over as they are."""
    paged = sampler(model, [2])
    paged.generate(PROMPTS, temperature=1.0, max_new_tokens=4, uniforms=uniforms(3, 4))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) * 0.2)
    paged.update_weights()
    actions = paged.generate(PROMPTS, temperature=1.0, max_new_tokens=4, uniforms=uniforms(3, 4))
    for prompt, action in zip(PROMPTS, actions, strict=True):
        expected = own_logprobs(model, prompt, action.token_ids, 1.0)
        torch.testing.assert_close(torch.tensor(action.logprobs), expected, atol=1e-3, rtol=1e-3)
    paged.update_weights()


def test_a_stop_token_ends_the_action_and_belongs_to_it(model) -> None:
    """Every second token stops, so that some action of 12 tokens does with probability 1 - 2^-12."""
    stops = list(range(0, 259, 2))
    paged = sampler(model, stops)
    actions = paged.generate(PROMPTS, temperature=1.0, max_new_tokens=12, uniforms=uniforms(3, 12))
    assert any(action.stopped for action in actions)
    for action in actions:
        assert not set(action.token_ids[:-1]) & set(stops)
        assert action.stopped == (action.token_ids[-1] in stops)
    paged.update_weights()


@pytest.mark.slow
def test_a_run_with_paged_rollouts(tiny_model_dir: str, tmp_path: Path) -> None:
    cli = runs.fit(tmp_path, tiny_model_dir, rollout__sampler="paged", trainer__limit_val_batches=0)
    curves = runs.curves(cli)
    assert max(curves["rollout/logprob_gap"].values()) < 1e-4
    assert min(curves["rollout/action_entropy"].values()) > 1, "scoring filled the entropies in"
