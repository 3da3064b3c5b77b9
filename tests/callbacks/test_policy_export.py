"""The exported policy is the trained one, or it is not exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tokenizers import Tokenizer, normalizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

from paw_lightning.callbacks import policy_export, read_back
from paw_lightning.callbacks.policy_export import export_policy
from paw_lightning.callbacks.read_back import Trained
from paw_lightning.commands.export import command
from paw_lightning.errors import SettingsError
from paw_lightning.models.loading import load_tokenizer
from paw_lightning.models.lora import LoRA
from paw_lightning.training.module import PaWModule
from paw_lightning.whole_files import replace_folder
from tests.conftest import byte_tokenizer
from tests.helpers import runs

SEQUENCES = [list(range(20, 60)), list(range(100, 180))]


def make(path: str, scale: float = 0.0, **settings) -> PaWModule:
    """A module whose weights, or adapters, have been moved by random numbers of this size."""
    module = PaWModule(path, **settings)
    module.configure_model()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p += scale * torch.randn(p.shape, generator=noise).to(p.dtype)
    return module


def test_read_back(tiny_model_dir: str, tmp_path: Path) -> None:
    module = make(tiny_model_dir, 0.02)
    lines = export_policy(module, tmp_path / "policy", sequences=SEQUENCES)
    assert lines[0] == "(read back: same ids, equal log-probs)"
    assert lines[1].startswith("KL(trained || exported) 0.0e+00 nats a token, KL(trained || before training) ")
    assert len(lines) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "policy").state_dict()
    assert all(torch.equal(exported[name], tensor) for name, tensor in module.language_model.state_dict().items())
    export_policy(module, tmp_path / "policy")  # a resumed run's second export, on fixed texts


def test_distances_are_those_of_the_distributions(tiny_model_dir: str) -> None:
    """Worked out from the two models' logits at the last 64 of 80 tokens, or at all but the first of 40."""
    module, other = make(tiny_model_dir), make(tiny_model_dir, 0.02).language_model.eval()
    distance = Trained.read(module.language_model, module.tokenizer, SEQUENCES).distance(other)
    kls, gaps = [], []
    for ids in SEQUENCES:
        first = max(0, len(ids) - 65)
        with torch.no_grad():
            p, q = (
                model(torch.tensor([ids])).logits[0, first:-1].log_softmax(-1)
                for model in (module.language_model.eval(), other)
            )
        kls += [float((row.exp() * (row - other_row)).sum()) for row, other_row in zip(p, q, strict=True)]
        gaps += [abs(float(p[i, token] - q[i, token])) for i, token in enumerate(ids[first + 1 :])]
    assert len(gaps) == 39 + 64
    assert distance.divergence == pytest.approx(sum(kls) / len(kls), rel=1e-4)
    assert distance.mean == pytest.approx(sum(gaps) / len(gaps), rel=1e-4)
    assert distance.largest == pytest.approx(max(gaps), rel=1e-4)


def divergence(lines: list[str]) -> float:
    """KL(trained || exported)."""
    return float(lines[1].split()[3])


def test_merging_into_bfloat16_is_measured_and_float32_keeps_it(tiny_model_dir: str, tmp_path: Path) -> None:
    """Adapters that move log-probs by less than the rounding of bfloat16 weights: small B, about 2e-5 beside 0.02."""
    module = make(tiny_model_dir, 2e-5, lora=LoRA(rank=4), dtype="bfloat16")
    rounded = export_policy(module, tmp_path / "rounded", sequences=SEQUENCES)
    assert rounded[2].startswith("rounding the weights cost more than a tenth of what training changed: policy_export.")
    whole = export_policy(module, tmp_path / "whole", dtype="float32", sequences=SEQUENCES)
    assert len(whole) == 2
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "whole").dtype == torch.float32
    assert divergence(whole) < divergence(rounded) / 100
    assert float(whole[1].split()[-1]) > 1e-10, "training moved it"
    apart = export_policy(module, tmp_path / "apart", "separate", sequences=SEQUENCES)
    assert apart[0] == "(read back: same ids, equal log-probs)"


def test_bfloat16_weights_may_be_written_as_float32(tiny_model_dir: str, tmp_path: Path) -> None:
    module = make(tiny_model_dir, dtype="bfloat16")
    export_policy(module, tmp_path, dtype="float32")
    assert AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.float32
    assert module.language_model.dtype == torch.bfloat16


@pytest.mark.parametrize("adapters", ["merged", "separate"])
def test_untied_embeddings_with_adapters(adapters: str, tiny_model_dir: str, tmp_path: Path) -> None:
    untied = AutoModelForCausalLM.from_pretrained(tiny_model_dir, tie_word_embeddings=False)
    untied.save_pretrained(tmp_path / "untied")
    load_tokenizer(tiny_model_dir).save_pretrained(tmp_path / "untied")
    module = make(str(tmp_path / "untied"), 0.02, lora=LoRA(rank=2, target_modules=["embed_tokens", "q_proj"]))
    assert "same ids" in export_policy(module, tmp_path / "policy", adapters, sequences=SEQUENCES)[0]


def test_other_weights_are_refused_and_the_checkpoint_named(tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    """A merge that doubles what the adapters do."""
    original = policy_export.merged

    def doubled(model, dtype):
        model = original(model, dtype)
        with torch.no_grad():
            model.get_input_embeddings().weight *= 2
        return model

    monkeypatch.setattr(policy_export, "merged", doubled)
    said = r"the policy in .*policy\.unchecked, loaded again, .* by .* nats on average; wanted at most 0\.001"
    with pytest.raises(SettingsError, match=said + r".* The trained weights are in .*last\.ckpt$") as error:
        runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=1, trainer__limit_val_batches=0, model__lora__rank=2)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("**/policy"))
    [checkpoint] = tmp_path.glob("**/last.ckpt")
    with pytest.raises(SettingsError, match="loaded again"):
        command([str(checkpoint)])
    monkeypatch.undo()
    assert command([str(checkpoint), "--dtype", "float32"]) == 0


def test_a_run_compares_on_rows_of_its_last_rollout(tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    read = []
    original = read_back.Trained.read
    monkeypatch.setattr(
        policy_export.Trained,
        "read",
        lambda model, tokenizer, rows: read.append(rows) or original(model, tokenizer, rows),
    )
    cli = runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=1, trainer__limit_val_batches=0)
    [rows] = read
    assert len(rows) == policy_export.COMPARED_ROWS
    assert all(cli.model.tokenizer.decode(row).startswith("<|start|>user") for row in rows)


def test_an_earlier_export_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """Adapters beside whole weights would be loaded on top of them."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "adapter_model.safetensors").touch()
    for name, text in (("new", "2"), ("old", "1")):
        (tmp_path / name / "templates").mkdir(parents=True)
        (tmp_path / name / "templates" / "a").write_text(text)
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()] == ["old/templates/a"]
    assert (tmp_path / "old" / "templates" / "a").read_text() == "2"
    assert not (tmp_path / "new").exists()


def test_a_tokenizer_that_comes_back_different_is_refused(tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    """It reads in lower case as long as it is in memory."""
    module = make(tiny_model_dir)
    module.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    original = type(module.tokenizer).save_pretrained
    monkeypatch.setattr(
        type(module.tokenizer),
        "save_pretrained",
        lambda self, directory: original(PaWModule(tiny_model_dir).tokenizer, directory),
    )
    with pytest.raises(SettingsError, match=r"tokenizer in .*, loaded again, reads .You are .* otherwise.*model\.path"):
        export_policy(module, tmp_path / "policy")
    assert not (tmp_path / "policy").exists()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (
            lambda t: setattr(t, "chat_template", t.chat_template.replace("assistant", "model")),
            "a dialogue under its chat template",
        ),
        (lambda t: setattr(t, "pad_token", "<|start|>"), "the padding token"),
    ],
)
def test_what_a_tokenizer_may_lose(change, name: str, tiny_model_dir: str, tmp_path: Path) -> None:
    tokenizer = PaWModule(tiny_model_dir).tokenizer
    tokenizer.save_pretrained(tmp_path)
    read_back.check_tokenizer(tokenizer, tmp_path)
    change(tokenizer)
    with pytest.raises(SettingsError, match=f"reads {name}"):
        read_back.check_tokenizer(tokenizer, tmp_path)


def test_a_tokenizer_that_auto_tokenizer_reads_otherwise_is_warned_of(tiny_model_dir: str, tmp_path: Path) -> None:
    """Transformers gives every Qwen2 model Qwen's own word boundaries, where digits stand alone."""
    numbers = byte_tokenizer()
    model = json.loads(numbers.backend_tokenizer.to_str())
    model["model"]["vocab"]["12"], model["model"]["merges"] = len(model["model"]["vocab"]), [["1", "2"]]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(model)), eos_token="<|end|>", pad_token="<|pad|>"
    )
    tokenizer.save_pretrained(tmp_path)
    Qwen2Config().save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"AutoTokenizer reads .* otherwise .* with \w+\.from_pretrained"):
        read_back.check_tokenizer(load_tokenizer(str(tmp_path)), tmp_path)


def test_generation_settings_that_cannot_be_saved(tiny_model_dir: str, tmp_path: Path) -> None:
    """A temperature without sampling: loaded with a warning, refused by save_pretrained."""
    module = make(tiny_model_dir)
    module.language_model.generation_config.temperature = 0.6
    with pytest.warns(
        UserWarning, match=r"generation_config\.json of .* is not valid, only its token ids.*temperature"
    ):
        export_policy(module, tmp_path)
    written = AutoModelForCausalLM.from_pretrained(tmp_path).generation_config
    assert written.eos_token_id == module.tokenizer.eos_token_id and written.temperature in (None, 1.0)


def test_forms_that_go_nowhere_are_refused(tiny_model_dir: str, tmp_path: Path) -> None:
    apart = {"model__lora__rank": 2, "policy_export__adapters": "separate"}
    with pytest.raises(SettingsError, match=r"policy_export\.dtype is 'float32' and policy_export\.adapters is"):
        runs.fit(tmp_path, tiny_model_dir, policy_export__dtype="float32", **apart)
    with pytest.raises(SettingsError, match=r"'separate' and model\.weights is 'random'; wanted 'merged'"):
        runs.fit(tmp_path, tiny_model_dir, model__weights="random", **apart)


def test_a_device_without_room_for_float32_reads_in_the_weights_own_type(tiny_model_dir: str, monkeypatch) -> None:
    module = make(tiny_model_dir, dtype="bfloat16")
    original, asked = read_back._read, []

    def read(model, sequences, arithmetic):
        asked.append(arithmetic)
        if arithmetic == torch.float32:
            raise torch.OutOfMemoryError
        return original(model, sequences, arithmetic)

    monkeypatch.setattr(read_back, "_read", read)
    trained = Trained.read(module.language_model, module.tokenizer, SEQUENCES)
    assert trained.arithmetic == torch.bfloat16
    assert trained.distance(module.language_model).largest == 0
    assert asked == [torch.float32, torch.bfloat16, torch.bfloat16]


def test_weights_come_out_of_a_wider_type_as_they_were(tiny_model_dir: str) -> None:
    model = make(tiny_model_dir, dtype="bfloat16").language_model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with read_back.at_least(model, torch.float32):
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.bfloat16 and torch.equal(tensor, before[name])


def test_a_full_device_leaves_the_comparison_to_the_cpu(tiny_model_dir: str) -> None:
    module = make(tiny_model_dir)
    trained = Trained.read(module.language_model, module.tokenizer, SEQUENCES)
    loads = []

    def load():
        loads.append(1)
        if len(loads) == 1:
            raise torch.OutOfMemoryError
        return module.language_model

    assert read_back.distance_to(trained, load, torch.device("cpu"))[0].largest == 0


def test_separate_adapters_are_read_back_through_peft(tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    module = make(tiny_model_dir, 0.02, lora=LoRA(rank=2))
    loaded = []
    original = PeftModel.from_pretrained
    monkeypatch.setattr(PeftModel, "from_pretrained", lambda *words: loaded.append(words) or original(*words))
    export_policy(module, tmp_path / "policy", "separate", sequences=SEQUENCES)
    assert len(loaded) == 1
