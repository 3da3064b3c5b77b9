"""Names of states, which an environment may tell, take the observations' place where turns are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from paw_lightning.policy.advantages import GRPO, HGPO, GiGPO, GraphGPO
from paw_lightning.policy.advantages.graph import SUCCESS, transition_graph
from paw_lightning.types import Episode, RolloutGroup
from tests.helpers.factories import make_episode, make_group

COMPARING = (GiGPO(), GraphGPO(), HGPO(level="trajectory"))
TEXTS = [["hall", "shelf"], ["hall", "desk"]]


def named(names: Sequence[str], texts: Sequence[Sequence[str]] | None = None, returns: Sequence[float] = (4, 0)) -> Any:
    """A group whose episode j passes through the states that the letters of names[j] stand for."""
    group = make_group(returns, [len(keys) - 1 for keys in names], anchors=texts)
    for episode, keys in zip(group.episodes, names, strict=True):
        episode.state_keys = list(keys)
    return group


@pytest.mark.parametrize("advantage", COMPARING)
def test_texts_that_agree_are_two_states_where_their_names_differ(advantage: Any) -> None:
    assert advantage(make_group([4, 0], [2, 2], anchors=TEXTS)) != GRPO()(make_group([4, 0], [2, 2]))
    assert advantage(named(["ABC", "DEF"], TEXTS)) == pytest.approx(GRPO()(make_group([4, 0], [2, 2])))


@pytest.mark.parametrize("advantage", COMPARING)
def test_texts_that_differ_are_one_state_where_their_names_agree(advantage: Any) -> None:
    same = advantage(make_group([4, 0], [2, 2], anchors=TEXTS))
    assert advantage(named(["HSX", "HDY"])) == same


def test_gigpo_by_names_by_hand() -> None:
    """Both begin in H: returns 0.5 x 4 = 2 and 0, so +-1 without division; the outcome is 4 or 0, so +-2."""
    advantage = GiGPO(gamma=0.5, normalization="mean_norm")
    assert advantage(named(["HSX", "HDY"])) == pytest.approx([3, 2, -3, -2])


def test_the_state_after_the_last_turn_is_a_node() -> None:
    """The second episode ends, lost, where the first one goes on to success: in K."""
    group = named(["HKX", "CHK"])
    # H=0 K=1 (X is success) C=3
    assert transition_graph(group) == [(0, 1), (1, SUCCESS), (3, 0), (0, 1)]


@pytest.mark.parametrize("advantage", [GiGPO(similarity=0.5), GraphGPO(similarity=0.5)])
def test_names_that_resemble_each_other_are_two_states(advantage: Any) -> None:
    group = named([["state 1", "state 3", "x"], ["state 2", "state 4", "y"]])
    assert advantage(group) == pytest.approx(GRPO()(make_group([4, 0], [2, 2])))
    observations = make_group([4, 0], [2, 2], anchors=[["state 1", "state 3"], ["state 2", "state 4"]])
    assert advantage(observations) != pytest.approx(GRPO()(make_group([4, 0], [2, 2])))


def test_an_episode_without_turns_has_no_states() -> None:
    assert make_episode([]).states == []
    assert GiGPO()(RolloutGroup("task", 1.0, [Episode(0, 0, "")])) == []
