"""examples/train.py and examples/quickstart.ipynb train, and the names that they import take no time to import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

import paw_lightning
from tests.conftest import ROOT

EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "quickstart.ipynb"
SIZES = "ITERATIONS, GROUPS, TASKS = 3, 4, 20"


def test_script_trains_and_leaves_a_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The world model's weight is above 0: both of PaW's callbacks are in the script."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import train

    trainer = train.train(iterations=1, groups=2, validation_tasks=2, folder=str(tmp_path))
    assert trainer.current_epoch == 1
    assert float(trainer.callback_metrics["wm/effective_weight"]) > 0
    assert AutoModelForCausalLM.from_pretrained(Path(trainer.log_dir, "policy")).num_parameters() == 385_632


def test_script_is_short() -> None:
    text = (EXAMPLES / "train.py").read_text()
    assert len(text.split("\n\n\nif __name__")[0].splitlines()) <= 30


def test_notebook_runs_and_stores_small_outputs(tmp_path: Path) -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert 0 < len(json.dumps([cell["outputs"] for cell in cells])) < 4_000
    code = "\n".join("".join(cell["source"]) for cell in cells)
    assert SIZES in code
    code = code.replace(SIZES, "ITERATIONS, GROUPS, TASKS = 1, 2, 2").replace('"runs"', repr(str(tmp_path)))
    space: dict[str, object] = {}
    exec(compile(code, NOTEBOOK.name, "exec"), space)
    assert space["policy"].num_parameters() == 385_632


def test_every_public_name_is_what_it_says() -> None:
    for name in paw_lightning.__all__:
        assert getattr(paw_lightning, name).__name__ == name
    assert {*paw_lightning.__all__} == set(paw_lightning._HOME_OF) <= set(dir(paw_lightning))
    with pytest.raises(AttributeError, match="no attribute 'PawModule'"):
        _ = paw_lightning.PawModule


def test_importing_the_package_imports_nothing_large() -> None:
    code = "import sys, paw_lightning; print(sorted({'torch', 'lightning', 'transformers', 'numpy'} & {*sys.modules}))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
