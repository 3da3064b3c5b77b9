"""Dynamic sampling: what is kept, what is played again, and that a resumed run plays the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paw_lightning.rollouts.collector import PlayedGroups
from paw_lightning.rollouts.dynamic_sampling import play_useful, without_variance
from paw_lightning.types import RolloutGroup
from tests.helpers import runs
from tests.helpers.factories import make_episode, make_group, make_transition
from tests.helpers.runs import assert_same_curves, assert_same_end


class Rounds:
    """Plays prepared rounds of returns, one inner list per group; "x" is a group lost to its environment."""

    def __init__(self, *rounds: list) -> None:
        self.rounds, self.asked = rounds, []

    def __call__(self, number: int, count: int) -> PlayedGroups:
        self.asked.append((number, count))
        returns = self.rounds[number][:count]
        groups = [make_group(values, [1] * len(values)) for values in returns if values != "x"]
        return PlayedGroups(groups, ["lost"] * returns.count("x"), {"environment": 1.0}, 1)


def returns(groups) -> list[list[float]]:
    return [group.returns for group in groups]


def test_rounds_are_played_for_what_is_missing() -> None:
    """3 wanted: round 0 has one useful group, round 1 one of two, round 2 the last."""
    play = Rounds([[0, 0], [1, 0], [1, 1]], [[0, 1], [0, 0]], [[1, 0]])
    result = play_useful(play, 3, 5)
    assert play.asked == [(0, 3), (1, 2), (2, 1)]
    assert returns(result.played.groups) == [[1, 0], [0, 1], [1, 0]]
    assert returns(result.left_out) == [[0, 0], [1, 1], [0, 0]]
    assert result.resampled == 3
    assert result.played.seconds == {"environment": 3.0}
    assert result.played.retried_episodes == 3, "one in each round"


def test_the_bound_ends_the_search() -> None:
    play = Rounds([[0, 0], [1, 0]], [[1, 1]], [[0, 1]])
    result = play_useful(play, 2, 1)
    assert play.asked == [(0, 2), (1, 1)]
    assert returns(result.played.groups) == [[1, 0]], "fewer than wanted"


def test_without_any_useful_group_as_many_are_kept_as_ever() -> None:
    """An update of all that was played would be up to six times as large."""
    result = play_useful(Rounds([[0, 0], [1, 1]], [[2, 2], [0, 0]]), 2, 1)
    assert returns(result.played.groups) == [[0, 0], [1, 1]]
    assert returns(result.left_out) == [[2, 2], [0, 0]]


def test_zero_rounds_keep_everything() -> None:
    play = Rounds([[0, 0], [1, 0]])
    result = play_useful(play, 2, 0)
    assert play.asked == [(0, 2)] and len(result.played.groups) == 2 and result.resampled == 0


def test_a_lost_group_is_replaced_and_counted() -> None:
    result = play_useful(Rounds([[1, 0], "x"], [[0, 1]]), 2, 1)
    assert len(result.played.groups) == 2 and result.played.failures == ["lost"]


@pytest.mark.parametrize(
    ("values", "flat"),
    [
        ([1, 1], True),
        ([1, 0], False),
        ([3], True),
        ([0.3, 0.1 + 0.2, 0.1 * 3], True),  # 0.3, 0.30000000000000004 twice
        ([-0.3, -(0.1 + 0.2)], True),
        ([3.0, float(torch.tensor(0.3)) * 10], True),  # 3.00000012, as of rewards in float32
        ([3.0, 3.00001], False),
        ([0.0, 1e-12], False),  # whatever its size, it is no rounding of 0
    ],
)
def test_variance_of_returns(values: list[float], flat: bool) -> None:
    assert without_variance(make_group(values, [2] * len(values))) is flat


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=6), st.randoms())
def test_the_order_of_rewards_makes_no_variance(rewards: list[float], dice) -> None:
    """Summed one after the other, [0.1, 0.2, 0.3] and [0.3, 0.2, 0.1] would differ; as would rewards that cancel."""
    other = dice.sample(rewards, len(rewards))
    episodes = [make_episode([make_transition(reward=r) for r in order]) for order in (rewards, other)]
    group = RolloutGroup("key", 1.0, episodes)
    assert len(set(group.returns)) == 1 and without_variance(group)


@pytest.mark.slow
def test_a_run_counts_its_rounds_and_resumes_exactly(tiny_model_dir: str, tmp_path: Path) -> None:
    settings = {"data__dynamic_sampling": 2, "seed_everything": 3}
    unbroken = runs.fit(tmp_path / "unbroken", tiny_model_dir, trainer__max_epochs=3, **settings)
    curves = runs.curves(unbroken)
    assert len(curves["rollout/zero_variance_groups"]) == len(curves["rollout/resampled_groups"]) == 3
    assert any(curves["rollout/resampled_groups"].values()), "some round was played"
    stopped = runs.fit(tmp_path / "stopped", tiny_model_dir, trainer__max_epochs=1, **settings)
    checkpoint = runs.log_dir(stopped) / "checkpoints" / "last.ckpt"
    resumed = runs.fit(tmp_path / "resumed", tiny_model_dir, trainer__max_epochs=3, ckpt_path=checkpoint, **settings)
    assert_same_end(unbroken, resumed)
    assert_same_curves(unbroken, resumed)
    with pytest.warns(UserWarning, match=r"data\.dynamic_sampling: 2 -> 0"):
        runs.fit(tmp_path / "other", tiny_model_dir, trainer__max_epochs=1, ckpt_path=checkpoint)
