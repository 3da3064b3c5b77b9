"""examples/trl_grpo.py: PaW's world-model loss reaches the weights of TRL's trainer, and nothing else changes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer

from paw_lightning.models.loading import load_tokenizer
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "examples"))

import trl_grpo

PROMPTS = Dataset.from_dict({"prompt": [[{"role": "user", "content": f"room {i}"}] for i in range(4)]})


def no_reward(completions, **_):
    return [0.0] * len(completions)


def train(
    model: str,
    folder: Path,
    reward=trl_grpo.even_length,
    kind=trl_grpo.PaWGRPOTrainer,
    steps=3,
    rows=8,
    optimizer="sgd",
    **options,
):
    """A trained trainer: 8 rows, two groups of 4, in each optimizer step.

    Comparisons need SGD: Adam's first steps make a sign of every gradient, however small the number it rounds.
    """
    if kind is trl_grpo.PaWGRPOTrainer:
        options = {"observe": trl_grpo.observe, "max_return": 1.0, **options}
    settings = GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=8 // rows,
        num_generations=4,
        max_completion_length=6,
        learning_rate=0.01 if optimizer == "adamw_torch" else 1.0,
        optim=optimizer,
        lr_scheduler_type="constant",
        max_steps=steps,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
    )
    trainer = kind(
        model=AutoModelForCausalLM.from_pretrained(model),
        processing_class=load_tokenizer(model),
        reward_funcs=reward,
        args=settings,
        train_dataset=PROMPTS,
        **options,
    )
    trainer.train()
    return trainer


def logged(trainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def assert_same_weights(first, second) -> None:
    other = second.model.state_dict()
    for name, tensor in first.model.state_dict().items():
        torch.testing.assert_close(tensor, other[name], atol=2e-5, rtol=1e-4, msg=name)


def test_observations_become_likely(tiny_model_dir: str, tmp_path: Path) -> None:
    """Without any reward the advantages are 0: what trains is the world model alone. It starts at -log(1/259) = 5.6."""
    trainer = train(tiny_model_dir, tmp_path, no_reward, steps=12, optimizer="adamw_torch")
    nll = logged(trainer, "wm/observation_nll")
    assert nll[0] == pytest.approx(5.56, abs=0.2) and nll[-1] < 4
    # lambda = 1 in every group, and 1 - p of about 258/259 for every target: the loss of eq. 11 starts at about 1.
    assert logged(trainer, "wm/loss")[0] == pytest.approx(258 / 259, abs=0.01)


def test_the_loss_does_not_depend_on_micro_batches(tiny_model_dir: str, tmp_path: Path) -> None:
    whole, cut = (train(tiny_model_dir, tmp_path, no_reward, rows=rows) for rows in (8, 2))
    assert_same_weights(whole, cut)
    assert sum(logged(whole, "wm/loss")) == pytest.approx(sum(logged(cut, "wm/loss")), rel=1e-4)


def test_nothing_selected_is_plain_grpo(tiny_model_dir: str, tmp_path: Path) -> None:
    plain = train(tiny_model_dir, tmp_path, kind=GRPOTrainer)
    off = train(tiny_model_dir, tmp_path, alpha=0.0)
    paw = train(tiny_model_dir, tmp_path)
    assert_same_weights(plain, off)
    start = AutoModelForCausalLM.from_pretrained(tiny_model_dir).state_dict()
    weights = plain.model.state_dict()
    assert any(not torch.equal(tensor, weights[name]) for name, tensor in start.items()), "GRPO alone learns"
    with pytest.raises(AssertionError):
        assert_same_weights(plain, paw)


def test_targets_are_the_observation(tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    """The weighted tokens decode to what the world answered, in three quarters of the rows."""
    texts = []
    original = trl_grpo.PaWGRPOTrainer._generate_and_score_completions

    def keep(self, inputs):
        batch = original(self, inputs)
        for ids, weights, own in zip(
            batch["completion_ids"], batch["target_weights"], batch["tool_mask"] * batch["completion_mask"], strict=True
        ):
            assert not (own.bool() & (weights > 0)).any(), "no action token is a target"
            texts.append(self.processing_class.decode(ids[weights > 0]))
        return batch

    monkeypatch.setattr(trl_grpo.PaWGRPOTrainer, "_generate_and_score_completions", keep)
    train(tiny_model_dir, tmp_path, no_reward, steps=1)
    assert sorted(map(bool, texts)) == [False] * 2 + [True] * 6
    assert {text for text in texts if text} <= {f"You walk on. This is room {i}." for i in range(1, 5)}


def test_another_temperature_is_refused(tiny_model_dir: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wanted temperature 1"):
        trl_grpo.PaWGRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(tiny_model_dir),
            processing_class=load_tokenizer(tiny_model_dir),
            reward_funcs=no_reward,
            args=GRPOConfig(output_dir=str(tmp_path), temperature=0.5, use_cpu=True, report_to=[]),
            train_dataset=PROMPTS,
            observe=trl_grpo.observe,
            max_return=1.0,
        )


def test_the_example_as_it_is_run() -> None:
    nll = logged(trl_grpo.main(), "wm/observation_nll")
    assert nll[0] > 6 and nll[-1] < 4
