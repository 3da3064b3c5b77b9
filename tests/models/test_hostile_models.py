"""A model directory runs no code: not of its weights, not of its Python files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from paw_lightning.errors import SettingsError
from paw_lightning.models.loading import load_language_model, load_tokenizer
from tests.helpers.hostile import Hostile


@pytest.fixture
def model(tiny_model_dir: str, tmp_path: Path) -> Path:
    """A copy whose weights are in torch's own format."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    state = load_language_model(tiny_model_dir).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    return folder


def test_weights_of_torchs_own_format_are_read_as_plain_data(model: Path, tiny_model_dir: str, tmp_path: Path) -> None:
    expected = load_language_model(tiny_model_dir).state_dict()
    for name, tensor in load_language_model(str(model)).state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    torch.save({**expected, "more": Hostile(tmp_path / "hit")}, model / "pytorch_model.bin")
    with pytest.raises(SettingsError, match=r"model\.path is .*its weights hold more than tensors, and to read them"):
        load_language_model(str(model))
    assert not (tmp_path / "hit").exists()


def test_python_files_of_a_directory_are_never_run(model: Path, tmp_path: Path, monkeypatch) -> None:
    """An unknown kind of model and of tokenizer that name a file of the directory; nobody is asked about it."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    (model / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'hit')!r})\n")
    classes = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "evil.X")
    maps = {
        "config.json": {"model_type": "evil", "auto_map": classes},
        "tokenizer_config.json": {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.X", None]}},
    }
    for name, more in maps.items():
        (model / name).write_text(json.dumps(json.loads((model / name).read_text()) | more))
    for load in (load_language_model, load_tokenizer):
        with pytest.raises(SettingsError, match=r"model\.path is .*custom code"):
            load(str(model))
    assert not (tmp_path / "hit").exists()
