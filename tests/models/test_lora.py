"""LoRA: small checkpoints, an exact resume, a reference without a copy, and two ways out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, Qwen2Config

from paw_lightning.errors import SettingsError
from paw_lightning.models.lora import LoRA, adapters_off, add_adapters
from paw_lightning.training.module import PaWModule
from tests.helpers import runs
from tests.helpers.runs import assert_same_curves, assert_same_end

# A constant coefficient: the toy world's first groups win throughout, and would teach nothing.
LORA = {
    "model__lora__rank": 4,
    "model__lora__alpha": 8,
    "reward_balance__coefficient": "constant",
    "trainer__limit_val_batches": 0,
}
TOKENS = torch.arange(20, 60)[None]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS).logits


def test_adapters_start_at_the_loaded_policy_and_are_all_that_trains(tiny_model_dir: str) -> None:
    """Per layer q (32x32), k, v (32x16), o (32x32), gate, up (32x64), down (64x32); rank 4 costs 4 (in + out):
    4 (64 + 48 + 48 + 64 + 96 + 96 + 96) = 2048, two layers 4096.
    """
    module = PaWModule(tiny_model_dir, lora=LoRA(rank=4))
    module.configure_model()
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained.values()) == 4096
    assert all(".lora_" in name for name in trained)
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert torch.equal(logits(module.language_model), logits(base))


def test_same_adapters_whatever_was_drawn_before(tiny_model_dir: str) -> None:
    """Ranks that drew another number of random numbers must not begin with other adapters."""
    states = []
    for draws in (0, 3):
        torch.rand(draws)
        module = PaWModule(tiny_model_dir, lora=LoRA(rank=4))
        module.configure_model()
        states.append(module.state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_reference_is_the_loaded_model_without_a_copy(tiny_model_dir: str, tmp_path: Path) -> None:
    cli = runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=1, model__policy_loss__kl_coefficient=0.1, **LORA)
    module = cli.model
    assert module._reference == ()
    base = logits(AutoModelForCausalLM.from_pretrained(tiny_model_dir))
    assert not torch.equal(logits(module.language_model), base), "it has learnt"
    with module.reference_model() as reference:
        assert torch.equal(logits(reference.language_model), base)
    assert all(p.requires_grad == (".lora_" in name) for name, p in module.named_parameters())
    assert not torch.equal(logits(module.language_model), base)
    assert max(runs.curves(cli)["train/reference_kl"].values()) > 0


def test_checkpoint_holds_adapters_alone_and_resumes_exactly(tiny_model_dir: str, tmp_path: Path) -> None:
    unbroken = runs.fit(tmp_path / "unbroken", tiny_model_dir, trainer__max_epochs=3, **LORA)
    stopped = runs.fit(tmp_path / "stopped", tiny_model_dir, trainer__max_epochs=1, **LORA)
    checkpoint = runs.log_dir(stopped) / "checkpoints" / "last.ckpt"
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert state and all(".lora_" in name for name in state)
    resumed = runs.fit(tmp_path / "resumed", tiny_model_dir, trainer__max_epochs=3, ckpt_path=checkpoint, **LORA)
    assert_same_end(unbroken, resumed)
    assert_same_curves(unbroken, resumed)


@pytest.mark.parametrize("how", ["merged", pytest.param("separate", marks=pytest.mark.slow)])
def test_export(how: str, tiny_model_dir: str, tmp_path: Path) -> None:
    cli = runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=1, policy_export__adapters=how, **LORA)
    folder = runs.log_dir(cli) / "policy"
    if how == "merged":
        exported = AutoModelForCausalLM.from_pretrained(folder)
        assert not any(".lora_" in name for name in exported.state_dict())
    else:
        assert not (folder / "model.safetensors").exists()
        exported = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model_dir), folder)
    torch.testing.assert_close(logits(exported), logits(cli.model.language_model), atol=1e-5, rtol=1e-5)
    with adapters_off(cli.model.language_model):
        assert (logits(exported) - logits(cli.model.language_model)).abs().max() > 1e-3, "the adapters matter"


@pytest.mark.slow
def test_frozen_weights_may_be_bfloat16(tiny_model_dir: str, tmp_path: Path) -> None:
    cli = runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=1, model__dtype="bfloat16", **LORA)
    kinds = {p.requires_grad: p.dtype for p in cli.model.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}


def test_bfloat16_weights_that_train_are_warned_of(tiny_model_dir: str) -> None:
    module = PaWModule(tiny_model_dir, dtype="bfloat16")
    with pytest.warns(UserWarning, match=r"model\.dtype is bfloat16.*bf16-mixed"):
        module.configure_model()


def test_checkpoint_of_other_adapters_is_refused(tiny_model_dir: str, tmp_path: Path) -> None:
    stopped = runs.fit(tmp_path / "a", tiny_model_dir, trainer__max_epochs=1, **LORA)
    checkpoint = runs.log_dir(stopped) / "checkpoints" / "last.ckpt"
    with pytest.raises(ValueError, match=r"lora: checkpoint .*alpha=8.*configured .*alpha=16"):
        runs.fit(tmp_path / "b", tiny_model_dir, ckpt_path=checkpoint, **(LORA | {"model__lora__alpha": 16}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": -1}, r"model\.lora\.rank is -1"),
        ({"rank": 1, "alpha": 0.0}, r"model\.lora\.alpha is 0\.0"),
    ],
)
def test_bad_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoRA(**settings)


@pytest.mark.parametrize(
    ("tied", "layers", "what"),
    [
        (True, ["lm_head"], "adapts the LM head, whose own weight the losses read"),
        (False, ["lm_head", "q_proj"], "adapts the LM head, whose own weight the losses read"),
        (True, ["embed_tokens"], r"adapts embeddings that are the LM head's weight too \(tie_word_embeddings\)"),
        (False, ["embed_tokens"], None),
    ],
)
def test_adapters_of_weights_that_others_read_are_refused(tied: bool, layers: list[str], what: str | None) -> None:
    """Those of embeddings that are not tied are read by their layer alone."""
    config = Qwen2Config(
        vocab_size=61, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, tie_word_embeddings=tied,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    if what is None:
        add_adapters(model, LoRA(rank=1, target_modules=layers))
        assert [name for name, p in model.named_parameters() if p.requires_grad]
        return
    with pytest.raises(SettingsError, match=rf"model\.lora\.target_modules is .*{what}; wanted layers between"):
        add_adapters(model, LoRA(rank=1, target_modules=layers))


def test_unknown_layers_are_named(tiny_model_dir: str) -> None:
    module = PaWModule(tiny_model_dir, lora=LoRA(rank=1, target_modules=["w_pack"]))
    with pytest.raises(ValueError, match=r"model\.lora\.target_modules is \['w_pack'\]"):
        module.configure_model()
