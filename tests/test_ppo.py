"""PPO: GAE, the critic and its loss, through the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import runs

PPO = {"rollout__advantage": "paw_lightning.advantages.GAE", "model__critic": "shared"}


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_ppo_trains_policy_and_critic(critic: str, tiny_model_dir: str, tmp_path: Path) -> None:
    cli = runs.fit(tmp_path, tiny_model_dir, **PPO | {"model__critic": critic})
    curves = runs.curves(cli)
    for tag in ("train/value_loss", "train/explained_variance", "train/policy_loss"):
        assert len(curves[tag]) == 2, tag
    print({k: v for k, v in curves.items() if k.startswith("train")})
