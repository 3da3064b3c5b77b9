"""Every shipped config runs through the command line; the README's example too."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from tests import runs
from tests.conftest import ROOT

CONFIGS = ROOT / "configs"
HOUSEHOLD = sorted((CONFIGS / "household").glob("*.yaml"))
SMALL = {
    "trainer__max_epochs": 1,
    "trainer__check_val_every_n_epoch": 1,
    "data__groups": 2,
    "data__group_size": 2,
    "data__validation_tasks": 2,
    "policy_export__folder": None,
}


@pytest.mark.parametrize("config", HOUSEHOLD, ids=lambda path: path.stem)
def test_household_config_runs(config: Path, tmp_path: Path) -> None:
    cli = runs.fit(tmp_path, "tiny-household", (config,), **SMALL)
    curves = runs.curves(cli)
    assert curves["rollout/well_formed_rate"], "it has played"
    assert list(curves["rollout/dropped_groups"].values()) == [0.0]


@pytest.mark.parametrize("overlay", ["lora.yaml", "strategy/single.yaml"])
def test_overlay_runs_in_one_process(overlay: str, tmp_path: Path) -> None:
    cli = runs.fit(tmp_path, "tiny-household", (CONFIGS / "household" / "paw.yaml", CONFIGS / overlay), **SMALL)
    assert runs.curves(cli)["rollout/well_formed_rate"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "fsdp2"])
def test_strategy_runs_in_two_processes(strategy: str, tmp_path: Path) -> None:
    configs = (CONFIGS / "household" / "paw.yaml", CONFIGS / "strategy" / f"{strategy}.yaml")
    directory = runs.fit_ranks(tmp_path, "tiny-household", configs=configs, **SMALL)
    assert runs.read_curves(directory)["rollout/well_formed_rate"]


def test_paw_and_grpo_differ_by_paws_keys_alone() -> None:
    paw, grpo = (yaml.safe_load((CONFIGS / "household" / f"{name}.yaml").read_text()) for name in ("paw", "grpo"))
    different = {
        f"{section}.{key}"
        for section in paw.keys() | grpo.keys()
        for key in _keys(paw.get(section)) | _keys(grpo.get(section))
        if _get(paw, section, key) != _get(grpo, section, key)
    }
    allowed = {"entropy_selection.alpha", "entropy_selection.entropy", "model.world_model_loss"}
    allowed |= {"reward_balance.coefficient", "success_report.next_command"}
    assert "entropy_selection.alpha" in different
    assert different <= allowed


def _keys(section: object) -> set[str]:
    return set(section) if isinstance(section, dict) else {""}


def _get(config: dict, section: str, key: str) -> object:
    value = config.get(section)
    return value.get(key) if isinstance(value, dict) else value


def test_readme_environment_runs(tiny_model_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's "bring your own environment" code, copied out of it and trained on with its own command."""
    readme = (ROOT / "README.md").read_text()
    [code] = re.findall(r"```python\n# guessing\.py\n(.*?)```", readme, re.DOTALL)
    (tmp_path / "guessing.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "guessing", raising=False)
    assert "--config configs/household/paw.yaml --rollout.environment guessing.Guessing" in readme
    cli = runs.fit(
        tmp_path,
        tiny_model_dir,
        (CONFIGS / "household" / "paw.yaml",),
        rollout__environment="guessing.Guessing",
        rollout__prompt__max_tokens=400,
        rollout__max_steps=3,
        **SMALL,
    )
    assert runs.curves(cli)["rollout/episode_length"]


def test_every_config_is_tested() -> None:
    """A new folder of configs needs a test of its own: name it here."""
    assert {path.parent.name for path in CONFIGS.rglob("*.yaml")} <= {
        "household",
        "alfworld",
        "compare",
        "strategy",
        "configs",
    }
