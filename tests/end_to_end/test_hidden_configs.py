"""The hidden-rule configuration: its base policy knows the words and not the rule, a run trains, a person plays."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest

from paw_lightning import config_files
from paw_lightning.commands.play import command
from paw_lightning.envs import HiddenRuleEnv
from paw_lightning.models.loading import ASSETS
from tests.conftest import ROOT
from tests.helpers import runs

BASE = ROOT / "configs" / "hidden" / "base.yaml"
OVERLAYS = tuple(ROOT / "configs" / f"{name}.yaml" for name in ("method/grpo", "wm/paw"))
SETTINGS = config_files.merged(BASE)["rollout"]["environment"]["init_args"]


def test_every_config_is_tested() -> None:
    assert sorted((ROOT / "configs" / "hidden").glob("*.yaml")) == [BASE]


def test_a_run_plays_from_words_and_not_from_the_rule(tmp_path: Path) -> None:
    """512 episodes before anything is learnt: every action is a pull, and no more are won than ignorance can win."""
    quick = {
        "trainer__max_epochs": 1,
        "data__groups": 64,
        "trainer__limit_val_batches": 0,
        "policy_export__folder": None,
    }
    cli = runs.fit(tmp_path, "tiny-hidden", (BASE, *OVERLAYS), **quick, trainer__num_sanity_val_steps=0)
    curves = {tag: next(iter(points.values())) for tag, points in runs.curves(cli).items()}
    assert curves["rollout/dropped_groups"] == curves["rollout/overlong_observations"] == 0
    assert curves["rollout/well_formed_rate"] > 0.99 and curves["rollout/valid_action_rate"] > 0.98
    best = HiddenRuleEnv(**SETTINGS).exact.success("ignorant")
    assert curves["rollout/success_rate"] < best + 4 * math.sqrt(best * (1 - best) / 512)
    assert curves["wm/observation_nll"] > 0 and curves["wm/coefficient"] > 0.9


def test_the_policy_is_small() -> None:
    assert sum(file.stat().st_size for file in (ASSETS / "tiny-hidden").iterdir()) <= 1_000_000


def test_a_person_plays(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    env = HiddenRuleEnv("val", **SETTINGS)
    env.reset(seed=3)
    plan = []
    for _ in range(3):
        plan.append(env.demonstrate())
        env.step(plan[-1])
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in plan)))
    assert command(["--config", str(BASE), "--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert "You stand before the" in out and "You are free." in out and "won: 3 turns, return 1 of 1" in out
