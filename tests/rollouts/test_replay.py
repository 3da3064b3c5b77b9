"""A replay is the recorded run, bit for bit; with other settings it is an ablation that says where it is off-policy."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from paw_lightning.errors import SettingsError
from paw_lightning.rollout_files import read, train_files
from tests.helpers import runs
from tests.helpers.toy_env import ToyEnv

LORA = {"model__lora__rank": 2, "model__lora__target_modules": "all-linear"}
KINDS: dict[str, dict[str, Any]] = {
    "step": {"rollout__layout": "step"},
    "episode": {"rollout__layout": "episode"},
    "kl": {"model__policy_loss__kl_coefficient": 0.1},
    "ppo": runs.PPO,
    "separate critic": runs.PPO | {"model__critic": "separate", "rollout__layout": "episode"},
    "lora": LORA | {"model__policy_loss__kl_coefficient": 0.1},
    "placebo": {"rollout__layout": "episode", "target_control__targets": "shuffled"},
    "gigpo": {"rollout__advantage": "paw_lightning.policy.advantages.GiGPO"},
    "dynamic sampling": {"data__dynamic_sampling": 2},
    "horizon": {"data__world_model_horizon": 2},
    "turns of losses": {"data__world_model_interval": 1},
    "trainer's log-probs": {"rollout__old_logprobs": "trainer", "rollout__importance_cap": 2.0},
    "matched weight": {
        "model__world_model_loss__kind": "cross_entropy",
        "reward_balance__match_weight_of": "clipped_mae",
    },
    "uneven": {"rollout__environment__init_args__uneven": True, "rollout__environment__init_args__nuisance": True},
}


def no_environment(self: ToyEnv, split: str = "train", **arguments: Any) -> None:
    raise AssertionError("a replay built an environment")


@pytest.fixture
def fit(tiny_model_dir: str, tmp_path: Path):
    """`fit(name, ...)` without validation, into a folder of its own."""
    quick = {"trainer__limit_val_batches": 0, "trainer__max_epochs": 3, "policy_export__folder": None}

    def run(name: str, **settings: Any):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*could not find the monitored key.*")
            return runs.fit(tmp_path / name, tiny_model_dir, **quick | settings)

    return run


def off_policy(cli: Any) -> list[float]:
    return [value for _, value in sorted(runs.curves(cli)["rollout/off_policy"].items())]


def assert_same_run(recorded: Any, replayed: Any) -> None:
    """Weights, optimizer, and all curves but the clocks and the one that only a replay has."""
    runs.assert_same_end(recorded, replayed)
    old, new = (
        {tag: points for tag, points in runs.curves(cli).items() if not runs.CLOCKS.match(tag)}
        for cli in (recorded, replayed)
    )
    assert set(new.pop("rollout/off_policy").values()) == {0.0}
    assert old == new
    assert len(old) > 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_replay_is_the_recorded_run_without_its_environment(kind: str, fit, monkeypatch) -> None:
    recorded = fit("recorded", **KINDS[kind])
    monkeypatch.setattr(ToyEnv, "__init__", no_environment)
    replayed = fit("replayed", **KINDS[kind], data__replay=runs.log_dir(recorded))
    assert_same_run(recorded, replayed)
