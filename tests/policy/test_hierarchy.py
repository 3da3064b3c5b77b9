"""HGPO: numbers worked out by hand, and what must hold of any group."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paw_lightning.errors import SettingsError
from paw_lightning.policy.advantages import GRPO, HGPO, GiGPO
from paw_lightning.policy.advantages.hierarchy import same_histories
from paw_lightning.types import RolloutGroup
from tests.helpers.factories import make_episode, make_group

PLAIN = {"gamma": 0.5, "normalization": "mean_norm"}
# Three episodes of two turns: A B (return 8), A B (return 0), C B (return 4). G with gamma 0.5: 4 8, 0 0, 2 4.
# k = 1: A has 4 and 0, +-2; C is alone; B has 8, 0, 4: mean 4, so 4, -4, 0 (which takes no part).
# k = 2: "A B" has 8 and 0, +-4; "C B" is alone. k = 3 does not exist in two turns.
THREE = make_group([8, 0, 4], [2, 2, 2], anchors=["AB", "AB", "CB"])


def test_the_clusters_by_hand() -> None:
    assert same_histories(THREE, 1) == [[0, 2], [1, 3, 5], [4]]
    assert same_histories(THREE, 2) == [[1, 3], [5]], "a first turn has no history"
    assert same_histories(THREE, 3) == []


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        (HGPO(history=0, **PLAIN), [2, 4, -2, -4, 0, 0]),
        # weights 2 and 3: (2 x 4 + 3 x 4) / 5 = 4, and the last turn has no part at all
        (HGPO(history=1, **PLAIN), [2, 4, -2, -4, 0, 0]),
        # Returns 8, 0, 4 deviate by 4, -4, 0, with weight 1: A (1 x 4 + 2 x 2) / 3, B all 4
        (HGPO(level="trajectory", history=1, **PLAIN), [8 / 3, 4, -8 / 3, -4, 0, 0]),
        # biased std: of 4, 0 it is 2; of 8, 0, 4 sqrt(32 / 3) = 3.26599; of 8, 0 it is 4.
        # B: (2 x 4 / 3.26599 + 3 x 1) / 5 = 1.08990
        (HGPO(history=1, gamma=0.5), [1, 1.08990, -1, -1.08990, 0, 0]),
        # alpha 0: both alike, (1.22474 + 1) / 2; alpha 2: 4 and 9, (4 x 1.22474 + 9) / 13 = 1.06915
        (HGPO(history=1, gamma=0.5, alpha=0), [1, 1.11237, -1, -1.11237, 0, 0]),
        (HGPO(history=1, gamma=0.5, alpha=2), [1, 1.06915, -1, -1.06915, 0, 0]),
    ],
)
def test_three_episodes_by_hand(algorithm: HGPO, expected: list[float]) -> None:
    assert algorithm(THREE) == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_the_row_level_of_the_episode_part() -> None:
    """Rows 8, 0 0 0 have mean 2, so 6 and -2; episodes 8, 0 have 4 and -4. At k = 1 A has 8 and 0: +-4.

    The weights are 1 and 2; B and C are alone.
    """
    group = make_group([8, 0], [1, 3], anchors=["A", "ABC"])
    plain = {"gamma": 1.0, "normalization": "mean_norm", "history": 0}
    assert HGPO(level="row", **plain)(group) == pytest.approx([(6 + 8) / 3, (-2 - 8) / 3, -2, -2])
    assert HGPO(level="trajectory", **plain)(group) == pytest.approx([(4 + 8) / 3, (-4 - 8) / 3, -4, -4])
    assert HGPO(**plain)(group) == [4, -4, 0, 0]


def test_a_longer_history_tells_apart_what_one_observation_mixes() -> None:
    """B after A pays 4 or 0, B after C pays 9 or 5 (gamma 1). k = 1: mean 4.5; k = 2: +-2. Weights 2 and 3.

    (2 x -0.5 + 3 x 2) / 5 = 1: after A the better turn gains though it is below the mean of all Bs.
    """
    group = make_group([4, 0, 9, 5], [2] * 4, anchors=["AB", "AB", "CB", "CB"])
    advantages = HGPO(history=1, gamma=1.0, normalization="mean_norm")(group)
    assert advantages[1::2] == pytest.approx([1, (2 * -4.5 - 6) / 5, (2 * 4.5 + 6) / 5, (2 * 0.5 - 6) / 5])


def test_a_turn_at_the_mean_of_its_cluster_takes_no_part_whatever_the_rounding() -> None:
    """B pays 0.1, 0.2 and 0.3, whose mean in floats is not quite 0.2."""
    group = make_group([0.1, 0.2, 0.3], [2] * 3, anchors=["DB", "AB", "EB"])
    assert HGPO(history=1, gamma=1.0, normalization="mean_norm", level="trajectory")(group)[3] == 0.0


def test_without_history_it_is_the_step_part_of_gigpo() -> None:
    group = make_group([4, 0, 9], [2, 3, 2], anchors=["AB", "ABA", "AC"])
    steps = [
        a - b for a, b in zip(GiGPO(normalization="mean_norm")(group), GRPO("trajectory", False)(group), strict=True)
    ]
    assert HGPO(history=0, normalization="mean_norm")(group) == pytest.approx(steps)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.text("AB", min_size=1, max_size=5), st.integers(0, 3)), min_size=1, max_size=6))
def test_the_order_of_episodes_plays_no_part_and_all_stays_within_the_extremes(drawn: list) -> None:
    texts, returns = zip(*drawn, strict=True)
    group = make_group(returns, list(map(len, texts)), anchors=texts)
    forward = HGPO(normalization="mean_norm")(group)
    backward = HGPO(normalization="mean_norm")(RolloutGroup("task", 1.0, group.episodes[::-1]))
    parts, start = [], 0
    for text in texts:
        parts.append(forward[start : start + len(text)])
        start += len(text)
    assert backward == pytest.approx([a for part in parts[::-1] for a in part], abs=1e-9)
    assert max(map(abs, forward)) <= max(returns) - min(min(returns), 0)


@pytest.mark.parametrize("value", [0.0, 0.1, 10.0])
def test_equal_returns_of_equal_length_teach_nothing(value: float) -> None:
    group = make_group([value] * 3, [2] * 3, anchors=["AB"] * 3)
    assert HGPO()(group) == HGPO(level="row")(group) == [0.0] * 6


def test_penalties() -> None:
    """Apart from the rest; or in the score: A has 4 and 0 - 0.5, +-2.25."""
    group = make_group([8, 0], [2, 2], anchors=["AB", "AC"], invalid=[(1, 0)])
    settings = PLAIN | {"history": 0, "invalid_action_penalty": 0.5}
    assert HGPO(**settings)(group) == [2, 0, -2.5, 0]
    assert HGPO(penalty_in_score=True, **settings)(group) == [2.25, 0, -2.25, 0]


def test_groups_without_turns() -> None:
    assert HGPO()(RolloutGroup("task", 1.0, [])) == []
    assert HGPO()(RolloutGroup("task", 1.0, [make_episode([]), make_episode([])])) == []
    assert HGPO()(make_group([3.0], [1])) == [0.0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"history": -1}, "history is -1; wanted at least 0"),
        ({"alpha": -0.5}, "alpha is -0.5"),
        ({"gamma": 1.5}, "gamma is 1.5"),
        ({"normalization": "std"}, "normalization is 'std'"),
        ({"level": "turn"}, "level is 'turn'"),
        ({"invalid_action_penalty": -1.0}, "invalid_action_penalty is -1.0"),
    ],
)
def test_bad_settings_are_named(wrong: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=rf"rollout\.advantage\.init_args\.{message}"):
        HGPO(**wrong)
