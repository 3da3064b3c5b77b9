"""Runs whose weights are not float32: they play and train in one arithmetic, resume exactly, and export."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from paw_lightning.rollouts.scoring import write_importance
from paw_lightning.seeding import uniforms
from tests.helpers import runs
from tests.helpers.runs import assert_same_curves, assert_same_end
from tests.helpers.updates import transition

SETTINGS = {
    "model__policy_loss__kl_coefficient": 0.1,
    "model__optimizer__init_args__eps": 1e-4,  # 1e-8 is 0 in float16
    "rollout__temperature": 0.7,
}


@pytest.mark.parametrize(
    ("precision", "dtype", "layout"),
    [
        ("bf16-true", torch.bfloat16, "episode"),
        ("64-true", torch.float64, "step"),
        ("16-true", torch.float16, "episode"),
    ],
)
def test_a_run_in_a_true_precision(
    precision: str, dtype: torch.dtype, layout: str, tiny_model_dir: str, tmp_path: Path
) -> None:
    """Log-probs are float32 throughout: rounded to bfloat16, those of -5 nats would be 0.01 off."""
    settings = {"trainer__precision": precision, "rollout__layout": layout, **SETTINGS}
    unbroken = runs.fit(tmp_path / "unbroken", tiny_model_dir, trainer__max_epochs=2, **settings)
    assert {p.dtype for p in unbroken.model.model.parameters()} == {dtype}
    curves = runs.curves(unbroken)
    assert max(curves["rollout/logprob_gap"].values()) < 1e-4
    stopped = runs.fit(tmp_path / "stopped", tiny_model_dir, trainer__max_epochs=1, **settings)
    checkpoint = runs.log_dir(stopped) / "checkpoints" / "last.ckpt"
    resumed = runs.fit(tmp_path / "resumed", tiny_model_dir, trainer__max_epochs=2, ckpt_path=checkpoint, **settings)
    assert_same_end(unbroken, resumed)
    assert_same_curves(unbroken, resumed)
    exported = AutoModelForCausalLM.from_pretrained(runs.log_dir(unbroken) / "policy", dtype="auto")
    for name, tensor in runs.weights(unbroken).items():
        assert torch.equal(exported.state_dict()[name], tensor), name


def test_the_reference_is_the_policy_as_it_begins(tiny_model_dir: str, tmp_path: Path) -> None:
    """In one step nothing has moved: a reference of other weights than the rounded ones would show."""
    one = {"trainer__max_epochs": 1, "data__minibatches": 1, "trainer__limit_val_batches": 0}
    cli = runs.fit(tmp_path, tiny_model_dir, trainer__precision="bf16-true", **SETTINGS, **one)
    assert runs.curves(cli)["train/reference_kl"][0] == pytest.approx(0, abs=1e-7)


def test_steps_that_are_lost_are_warned_of(tiny_model_dir: str, tmp_path: Path) -> None:
    quick = {"trainer__fast_dev_run": 1, "trainer__precision": "bf16-true"}
    with pytest.warns(UserWarning, match=r"trainer\.precision is bf16-true: optimizer steps below its precision"):
        runs.fit(tmp_path, tiny_model_dir, **quick)


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
