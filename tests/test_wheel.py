"""What an installed wheel brings, and that every subcommand works from an empty folder without the checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.timeout(900)  # each command imports torch anew
COMMANDS = Path("paw_lightning", "commands")
ELSEWHERE = {"compare": Path("paw_lightning", "compare", "command.py")}
"""Subcommands whose module is not called as they are."""
TINY = [
    "--trainer.max_epochs=1",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.limit_val_batches=0",
    "--data.groups=2",
    "--data.group_size=2",
    "--data.minibatches=1",
    "--rollout.max_steps=2",
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as an installer builds it, with the build tool that is there."""
    pytest.importorskip("hatchling", reason="NO BUILD TOOL: pip install hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(folder)!r}))"
    built = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder / built.stdout.split()[-1]


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


class Installed:
    """The unpacked wheel, used from a folder of its own; other packages are the test interpreter's."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        self.package, self.empty = folder / "site", folder / "empty"
        self.empty.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self.package)

    def run(self, *args: str, status: int = 0) -> str:
        environment = os.environ | {"PYTHONPATH": str(self.package), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
        command = [sys.executable, "-m", "paw_lightning", *args]
        ran = subprocess.run(
            command, cwd=self.empty, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        output = ran.stdout + ran.stderr
        assert ran.returncode == status, f"{args}: {ran.returncode}\n{output[-3000:]}"
        return output

    def has(self, name: str) -> bool:
        return (self.package / ELSEWHERE.get(name, COMMANDS / f"{name}.py")).is_file()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(wheel, tmp_path_factory.mktemp("installed"))


@pytest.mark.parametrize("folder", ["assets", "commands/viewing/browser", "configs"])
def test_the_wheel_brings_every_file(folder: str, names: set[str]) -> None:
    source = ROOT / folder if folder == "configs" else ROOT / "paw_lightning" / folder
    files = {f"paw_lightning/{folder}/{path.relative_to(source)}" for path in source.rglob("*") if path.is_file()}
    assert files <= names and len(files) > 15


def test_the_wheel_brings_nothing_else(names: set[str]) -> None:
    assert "paw_lightning/py.typed" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"paw_lightning"}
    assert not [name for name in names if "__pycache__" in name]


def test_metadata_is_complete(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("METADATA")]
        text = archive.read(name).decode()
    for field in ("Author", "Keywords", "Project-URL", "License-Expression", "Requires-Python", "Classifier"):
        assert re.search(rf"^{field}: .+", text, re.MULTILINE), field


def test_configs_come_from_the_wheel(installed: Installed) -> None:
    code = (
        "from paw_lightning import config_files; from paw_lightning.commands.configs import command;"
        "command(['copy', 'household/paw', 'mine.yaml']); command([]); print(config_files.find('household/paw'))"
    )
    environment = os.environ | {"PYTHONPATH": str(installed.package)}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=installed.empty, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split()[-1] == str(installed.package / "paw_lightning" / "configs" / "household" / "paw.yaml")
    assert (installed.empty / "mine.yaml").is_file()


@pytest.fixture(scope="module")
def trained(installed: Installed) -> Path:
    """The folder of one tiny run of the quickstart, from the wheel."""
    installed.run("fit", "--config", "household/paw", *TINY)
    [run] = (installed.empty / "runs" / "paw_lightning").iterdir()
    assert (run / "policy" / "model.safetensors").is_file() and (run / "config.yaml").is_file()
    return run


@pytest.mark.slow
def test_training_commands(installed: Installed, trained: Path) -> None:
    tasks = ["--data.validation_tasks=2", "--data.test_tasks=2"]
    for name in ("validate", "test"):
        checkpoint = f"--ckpt_path={trained / 'checkpoints' / 'last.ckpt'}"
        assert "success_rate" in installed.run(name, "-c", "household/paw", *tasks, checkpoint)


COMPARISON = """\
metric: rollout/success_rate
base: grpo
seeds: [1]
common: [{common}]
arms:
  grpo: {{configs: [household/grpo]}}
  paw: {{configs: [household/paw]}}
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["configs", "compare", "estimate", "export", "plot", "view", "play", "check"])
def test_every_subcommand(name: str, installed: Installed, trained: Path) -> None:
    if not installed.has(name):
        pytest.skip(f"NO SUBCOMMAND {name}")
    (installed.empty / "comparison.yaml").write_text(COMPARISON.format(common=", ".join(TINY)))
    checkpoint = str(trained / "checkpoints" / "last.ckpt")
    arguments = {
        "configs": [],
        "compare": ["comparison.yaml", "--output", "compared", "--jobs", "1"],
        "estimate": ["--config", "household/paw"],
        "export": [checkpoint, "--output", "exported"],
        "plot": [str(trained), "--output", "curves.png"],
        "view": [str(trained), "--output", "page.html"],
        "play": ["--config", "household/paw", "--policy", str(trained / "policy"), "--episodes=1"],
        "check": ["--config", "household/paw"],
    }[name]
    installed.run(name, "--help")
    assert installed.run(name, *arguments)


@pytest.mark.slow
def test_help_version_and_mistakes(installed: Installed) -> None:
    assert "fit" in installed.run("--help")
    assert re.search(r"\d+\.\d+", installed.run("--version"))
    assert "household/paw" in installed.run("fit", "--config", "household/pwa", status=2)
