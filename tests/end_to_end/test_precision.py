"""Runs whose weights are not float32: they play and train in one arithmetic, resume exactly, and export."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from paw_lightning.rollouts.scoring import write_importance
from paw_lightning.samplers.native import NativeSampler
from paw_lightning.seeding import uniforms
from tests.helpers import runs
from tests.helpers.runs import assert_same_curves, assert_same_end
from tests.helpers.tiny_models import make_model
from tests.helpers.updates import transition

SETTINGS = {
    "model__policy_loss__kl_coefficient": 0.1,
    "model__optimizer__init_args__eps": 1e-4,  # 1e-8 is 0 in float16
    "rollout__temperature": 0.7,
}


@pytest.mark.parametrize(
    ("precision", "dtype", "layout"),
    [("bf16-true", torch.bfloat16, "episode"), ("64-true", torch.float64, "step"), ("16-true", torch.float16, "step")],
)
def test_a_run_in_a_true_precision(
    precision: str, dtype: torch.dtype, layout: str, tiny_model_dir: str, tmp_path: Path
) -> None:
    """Log-probs are float32 throughout: rounded to bfloat16, those of -5 nats would be 0.01 off."""
    settings = {"trainer__precision": precision, "rollout__layout": layout, **SETTINGS}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cli = runs.fit(tmp_path, tiny_model_dir, **settings)
    [reference] = cli.model._reference
    assert {p.dtype for p in [*cli.model.model.parameters(), *reference.parameters()]} == {dtype}
    assert max(runs.curves(cli)["rollout/logprob_gap"].values()) < 1e-4
    exported = AutoModelForCausalLM.from_pretrained(runs.log_dir(cli) / "policy", dtype="auto")
    for name, tensor in runs.weights(cli).items():
        assert torch.equal(exported.state_dict()[name], tensor), name
    said = any(f"trainer.precision is {precision}: optimizer steps below its" in str(w.message) for w in caught)
    assert said is (dtype != torch.float64)


def test_a_run_in_float64_resumes_exactly(tiny_model_dir: str, tmp_path: Path) -> None:
    """Its weights would else pass through the float32 in which the model is loaded."""
    fit = partial(runs.fit, trainer__precision="64-true", trainer__limit_val_batches=0, canaries__enabled=False)
    unbroken = fit(tmp_path / "unbroken", tiny_model_dir)
    stopped = fit(tmp_path / "stopped", tiny_model_dir, trainer__max_epochs=1)
    checkpoint = runs.log_dir(stopped) / "checkpoints" / "last.ckpt"
    resumed = fit(tmp_path / "resumed", tiny_model_dir, ckpt_path=checkpoint)
    assert_same_end(unbroken, resumed)
    assert_same_curves(unbroken, resumed)


def test_float64_logprobs_are_recorded_as_such() -> None:
    """float32 would be 1e-7 off, a tenth of what the canaries allow in float64."""
    model = make_model("qwen2", dtype=torch.float64)
    prompt, noise = list(range(1, 9)), torch.rand(1, 5, generator=torch.Generator().manual_seed(0))
    settings = {"temperature": 0.7, "max_new_tokens": 5, "uniforms": noise}
    [action] = NativeSampler(model, [], 0).generate([prompt], **settings)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + action.token_ids])).logits[0, len(prompt) - 1 : -1]
    own = torch.log_softmax(logits / 0.7, -1).gather(1, torch.tensor(action.token_ids)[:, None])[:, 0]
    assert action.logprobs == pytest.approx(own.tolist(), abs=1e-12)


@pytest.fixture
def coarse_default():
    """What `trainer.precision: bf16-true` makes of tensors without a dtype while it plays and scores."""
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(torch.float32)


def test_random_numbers_are_as_fine_as_ever(coarse_default) -> None:
    """bfloat16 has 256 numbers in [0, 1): rarer tokens than that would never be drawn."""
    assert len(set(uniforms(4000, "many").tolist())) > 3990


def test_the_importance_of_a_token_is_not_rounded(coarse_default) -> None:
    """exp(-5.01 + 5.02) = 1.01005; -5.02 is -5.03125 in bfloat16."""
    t = transition(1, [60], [], 0.0, sampled_logprobs=[-5.02], old_logprobs=torch.tensor([-5.01], dtype=torch.float32))
    write_importance([t], 2.0)
    assert t.importance.tolist() == pytest.approx([1.01005], abs=1e-5)
