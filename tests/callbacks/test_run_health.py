"""What keeps a run from learning is said, once."""

from __future__ import annotations

import warnings

import pytest

from paw_lightning.callbacks import RunHealth
from paw_lightning.errors import SettingsError
from paw_lightning.types import Rollout
from tests.helpers.updates import make_rollout


def played(rewards: tuple[float, float, float] = (0, 0, 0), won: bool = False, well_formed: bool = True) -> Rollout:
    """Three episodes of one group each with these returns; R_max is 1."""
    rollout = make_rollout()
    for episode, reward in zip(rollout.episodes, rewards, strict=True):
        episode.won = won
        for t in episode.transitions:
            t.well_formed, t.reward = well_formed, 0.0
        episode.transitions[-1].reward = reward
    return rollout


def said(callback: RunHealth, rollouts: list[Rollout]) -> list[str]:
    """All warnings of a series of iterations."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for rollout in rollouts:
            callback.on_rollout_end(None, None, rollout)
    return [str(warning.message) for warning in caught]


def test_no_reward_is_said_once_after_so_many_iterations() -> None:
    callback = RunHealth(no_reward_iterations=3, no_success_iterations=0)
    assert said(callback, [played()] * 2) == []
    [message] = said(callback, [played()] * 5)
    assert message.startswith("no reward seen in 3 iterations: every episode returned 0")
    assert "rollout.max_steps" in message


def test_a_reward_in_between_starts_the_count_anew() -> None:
    callback = RunHealth(no_reward_iterations=3, no_success_iterations=0)
    assert said(callback, [played(), played(), played((0, 0.5, 0)), played(), played()]) == []


def test_success_of_zero_is_another_matter_than_no_reward() -> None:
    callback = RunHealth(no_reward_iterations=3, no_success_iterations=4)
    assert said(callback, [played((0, 0.5, 0))] * 3) == []
    [message] = said(callback, [played((0, 0.5, 0))] * 3)
    assert message.startswith("success has been 0 for 4 iterations")


def test_a_success_is_none_of_these() -> None:
    assert said(RunHealth(1, 1), [played((1, 1, 1), won=True)] * 3) == []


def test_zero_never_warns() -> None:
    assert said(RunHealth(0, 0), [played()] * 30) == []


def test_a_forgotten_won_is_said_once() -> None:
    """Two of three episodes return R_max = 1."""
    [message] = said(RunHealth(), [played((1, 0, 1))] * 3)
    assert message.startswith("2 of 3 episodes returned max_reward (1) and none was ever won; wanted info['won']")


def test_whoever_won_before_has_not_forgotten_it() -> None:
    assert said(RunHealth(), [played((1, 1, 0), won=True), played((1, 0, 0))]) == []


def test_unreadable_actions_are_said_once() -> None:
    """Six transitions, none well-formed."""
    [message] = said(RunHealth(), [played((0, 1, 0), won=True, well_formed=False)] * 2)
    assert message.startswith("0 of 6 actions are well-formed") and "rollout.prompt.action_format" in message


# Dynamic sampling


def sorted_out(rollout: Rollout) -> Rollout:
    """All groups but the last are left out."""
    rollout.left_out, rollout.groups = rollout.groups[:-1], rollout.groups[-1:]
    return rollout


def test_a_success_that_is_left_out_is_one() -> None:
    """The tasks that are always won teach the policy nothing; the one that trains is won by nobody."""
    rollout = sorted_out(played((1, 1, 0.5)))
    for group in rollout.left_out:
        for episode in group.episodes:
            episode.won = True
    assert said(RunHealth(0, 2), [rollout] * 3) == []


def test_unreadable_actions_that_are_left_out_count() -> None:
    """Of 1 + 10 x (3 + 2) transitions one is well-formed, 2 %: that of the one group that trains."""
    rollout = sorted_out(played((0, 0, 1), won=True))
    for group in rollout.left_out:
        for t in group.transitions:
            t.well_formed = False
    rollout.left_out *= 10
    assert [len(group.transitions) for group in (*rollout.groups, *rollout.left_out[:2])] == [1, 3, 2]
    [message] = said(RunHealth(), [rollout])
    assert message.startswith("1 of 51 actions are well-formed")


def test_a_forgotten_won_that_is_left_out_is_said() -> None:
    """Two of three episodes return R_max, and both are left out."""
    [message] = said(RunHealth(), [sorted_out(played((1, 1, 0.5)))])
    assert message.startswith("2 of 3 episodes returned max_reward (1) and none was ever won")


def test_a_resumed_run_does_not_repeat_itself() -> None:
    first, second = RunHealth(no_reward_iterations=2), RunHealth(no_reward_iterations=2)
    assert len(said(first, [played()] * 2)) == 1
    second.load_state_dict(first.state_dict())
    assert said(second, [played()] * 2) == []


def test_negative_patience_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"run_health\.no_reward_iterations is -1; wanted at least 0"):
        RunHealth(no_reward_iterations=-1)
