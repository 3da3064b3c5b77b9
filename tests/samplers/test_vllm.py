"""The vLLM sampler against a small server that speaks the same requests; a real one needs a GPU."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from paw_lightning.rollouts.scoring import write_importance
from paw_lightning.samplers.vllm import VLLMSampler
from paw_lightning.update.collate import collate
from paw_lightning.update.rows import policy_rows
from tests.helpers import runs
from tests.helpers.factories import make_transition
from tests.helpers.fake_vllm import FakeVLLM, serving

PROMPTS = [list(range(10, 40)), list(range(10, 33)), list(range(10, 40))]
UNIFORMS = torch.rand(3, 6, generator=torch.Generator().manual_seed(0))


def sample(sampler: VLLMSampler) -> list:
    return sampler.generate(PROMPTS, temperature=0.7, max_new_tokens=6, uniforms=UNIFORMS)


def gap(model, actions: list) -> float:
    worst = 0.0
    for prompt, action in zip(PROMPTS, actions, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + action.token_ids])).logits[0, len(prompt) - 1 : -1] / 0.7
        own = torch.log_softmax(logits, -1).gather(1, torch.tensor(action.token_ids)[:, None])[:, 0]
        worst = max(worst, (own - torch.tensor(action.logprobs)).abs().max().item())
    return worst


def test_the_server_plays_with_the_trainers_weights(tiny_model_dir: str, tmp_path: Path) -> None:
    fake, model = FakeVLLM(tiny_model_dir), AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) * 0.2)
    with serving(fake) as url:
        sampler = VLLMSampler(model, [2], 0, urls=[url], weights=str(tmp_path / "weights"))
        assert gap(model, sample(sampler)) > 0.1, "other weights"
        sampler.update_weights()
        actions = sample(sampler)
    assert gap(model, actions) < 1e-5
    assert [path for path, _ in fake.calls if "complet" not in path] == [
        "/v1/models",
        "/collective_rpc",
        "/reset_prefix_cache",
    ]
    seeds = [payload["seed"] for path, payload in fake.calls[-3:] if path == "/v1/completions"]
    assert len(set(seeds)) == 3, "equal prompts of a group are drawn independently"
    assert actions == actions and actions[0].token_ids != actions[2].token_ids


def test_sampling_settings_are_all_named(tiny_model_dir: str, tmp_path: Path) -> None:
    """What a request leaves out, a server takes from the model's generation_config."""
    fake = FakeVLLM(tiny_model_dir)
    with serving(fake) as url:
        sample(VLLMSampler(fake.model, [2], 0, urls=[url], weights=str(tmp_path)))
    request = fake.calls[-1][1]
    neutral = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "temperature": 0.7}
    assert neutral.items() <= request.items()


def test_a_server_that_drops_the_stop_token_is_refused(tiny_model_dir: str, tmp_path: Path) -> None:
    fake = FakeVLLM(tiny_model_dir, fault="drops the stop token")
    with serving(fake) as url, pytest.raises(RuntimeError, match=r"stop token as the last.*rollout\.sampler"):
        sample(VLLMSampler(fake.model, list(range(0, 259, 2)), 0, urls=[url], weights=str(tmp_path)))


def test_a_missing_server_is_named(tiny_model_dir: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with pytest.raises(ConnectionError, match=r"no vLLM server at http://127\.0\.0\.1:9/.*rollout\.sampler"):
        sample(VLLMSampler(model, [2], 0, urls=["http://127.0.0.1:9"], weights=str(tmp_path)))


@pytest.mark.parametrize("lora", [0, 2])
def test_a_run_with_rollouts_from_a_server(lora: int, tiny_model_dir: str, tmp_path: Path) -> None:
    fake = FakeVLLM(tiny_model_dir)
    with serving(fake) as url:
        cli = runs.fit(
            tmp_path,
            tiny_model_dir,
            rollout__sampler="paw_lightning.samplers.vllm.VLLMSampler",
            rollout__sampler__urls=f"[{url}]",
            rollout__sampler__weights=tmp_path / "weights",
            rollout__old_logprobs="trainer",
            model__lora__rank=lora,
        )
    curves = runs.curves(cli)
    assert len(curves["rollout/sampler_gap"]) == 2
    assert max(curves["rollout/sampler_gap"].values()) < 1e-5, "refreshed before each rollout"
    assert min(curves["rollout/action_entropy"].values()) > 1, "scoring filled the entropies in"


def test_importance_is_truncated_and_scales_the_advantage() -> None:
    """p / q = 2 and 1/2; the first is cut at 1.5. Times the advantage of 4: 6 and 2."""
    t = make_transition(old_logprobs=torch.tensor([-1.0, -2.0]), advantage=4.0)
    t.sampled_logprobs = [-1.0 - math.log(2), -2.0 + math.log(2)]
    write_importance([t], cap=1.5)
    batch = collate(policy_rows([t]), on_policy=False)
    torch.testing.assert_close(batch.advantages, torch.tensor([6.0, 2.0]))
    t.token_advantages = torch.tensor([1.0, 2.0])  # PPO's
    batch = collate(policy_rows([t]), on_policy=False)
    torch.testing.assert_close(batch.advantages, torch.tensor([1.5, 1.0]))


def test_a_server_whose_arithmetic_differs(tiny_model_dir: str, tmp_path: Path) -> None:
    """It reports half of every probability: a gap of log 2, and with a cap the advantages of p / q = 2 are used."""
    fake, trained = FakeVLLM(tiny_model_dir, fault="half the probability"), []
    for cap in (None, 3.0):
        with serving(fake) as url:
            cli = runs.fit(
                tmp_path / str(cap),
                tiny_model_dir,
                rollout__sampler="paw_lightning.samplers.vllm.VLLMSampler",
                rollout__sampler__urls=f"[{url}]",
                rollout__sampler__weights=tmp_path / "weights",
                rollout__old_logprobs="trainer",
                rollout__importance_cap=cap,
                canaries__logprob_tolerance=1.0,  # they would stop the run
                rollout__environment__commands="true",
                rollout__inadmissible_action_penalty=0.5,  # so that every advantage is negative
                trainer__max_epochs=1,
                trainer__limit_val_batches=0,
            )
        assert list(runs.curves(cli)["rollout/sampler_gap"].values()) == pytest.approx([math.log(2)], abs=1e-4)
        trained.append(runs.weights(cli))
    assert any(not torch.equal(tensor, trained[1][name]) for name, tensor in trained[0].items())


def test_importance_needs_the_trainers_logprobs(tiny_model_dir: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rollout\.importance_cap is 2\.0.*old_logprobs is 'sampler'"):
        runs.fit(tmp_path, tiny_model_dir, rollout__importance_cap=2.0, rollout__old_logprobs="sampler")
