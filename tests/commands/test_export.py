"""A checkpoint as a model directory; sharded ones are in tests/test_ranks.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from paw_lightning.commands.export import command
from paw_lightning.errors import SettingsError
from tests.helpers import runs


def test_it_is_what_the_run_exported(tiny_model_dir: str, tmp_path: Path, capsys) -> None:
    run = runs.log_dir(runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=1))
    checkpoint = run / "checkpoints" / "last.ckpt"
    assert command([str(checkpoint)]) == 0
    assert f"exported to {run / 'exported'}" in capsys.readouterr().out
    expected, exported = (
        AutoModelForCausalLM.from_pretrained(run / name).state_dict() for name in ("policy", "exported")
    )
    assert exported.keys() == expected.keys()
    assert all(torch.equal(exported[name], tensor) for name, tensor in expected.items())
    lora = yaml.safe_load((run / "config.yaml").read_text())
    lora["model"]["lora"]["rank"] = 2
    (tmp_path / "lora.yaml").write_text(yaml.safe_dump(lora))
    with pytest.raises(SettingsError, match=r"last.ckpt, which lacks model.language_model.*lora.*; wanted one of"):
        command([str(checkpoint), "--config", str(tmp_path / "lora.yaml")])


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"the checkpoint is nowhere.ckpt, which does not exist"):
        command(["nowhere.ckpt"])
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    with pytest.raises(SettingsError, match=r"--config is .*config.yaml, which does not exist"):
        command([str(checkpoint)])
    (tmp_path / "config.yaml").write_text("model: {path: tiny-household}")
    with pytest.raises(SettingsError, match=r"--config is .*config.yaml, which has no whole `model`"):
        command([str(checkpoint)])
