"""Episodes to read: losers beside winners, the worst groups first."""

from __future__ import annotations

import dataclasses

from paw_lightning.callbacks.rollout_samples import render, telling
from paw_lightning.types import Episode, RolloutGroup
from tests.helpers.updates import make_rollout


def group(name: str, outcomes: str) -> RolloutGroup:
    """One episode per letter, `w` for won."""
    return RolloutGroup(name, 1.0, [Episode(0, i, name, won=letter == "w") for i, letter in enumerate(outcomes)])


def shown(*groups: RolloutGroup) -> list[tuple[str, int]]:
    return [(group.group_key, episode.member) for group, episode in telling(list(groups))]


def test_worst_groups_first_and_both_outcomes_of_each() -> None:
    """A: 2 of 3 won, B: 1 of 3, C: all."""
    assert shown(group("A", "wlw"), group("B", "llw"), group("C", "www")) == [
        ("B", 2),
        ("B", 0),
        ("A", 0),
        ("A", 1),
        ("C", 0),
    ]


def test_a_success_comes_second_even_where_most_groups_fail() -> None:
    """A, B and D have no success; C, 1 of 3, is the worst that has one, E is better."""
    groups = [group("A", "lll"), group("B", "lll"), group("C", "lwl"), group("D", "lll"), group("E", "lww")]
    assert shown(*groups)[:4] == [("A", 0), ("C", 1), ("C", 0), ("B", 0)]


def test_the_head_explains_itself() -> None:
    """Three turns, return 0.5 of at most 1, lambda 0.5, in a group of one lost and one won episode."""
    rollout = make_rollout()
    group = rollout.groups[0]
    group.transitions[0].reward = 0.5
    group.episodes.append(dataclasses.replace(group.episodes[0], won=True))
    text = render(group, group.episodes[0])
    assert "LOST: task" in text
    assert "member 0 of a group that won 1 of 2; return 0.5 of at most 1 in 3 turns" in text
    assert "weight of the world-model loss (lambda) 0.50" in text
    assert "entropy 0.00, advantage +1.00, answer predicted" in text
