"""PaW's selectors, against numbers worked out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paw_lightning.world_model.coefficient import linear_coefficient, reward_adaptive_coefficient
from paw_lightning.world_model.loss import target_token_weights
from paw_lightning.world_model.selection import (
    action_entropy,
    by_chance,
    by_surprise,
    first_occurrences,
    select,
    select_top_entropy,
)
from paw_lightning.world_model.targets import shuffled_places
from tests.helpers.factories import make_transition


def test_action_entropy():
    # full: (0.2 + 0.6) / 2. sampled: q = 1/2 and 1/4, (1/2 ln 2 + 1/4 * 2 ln 2) / 2 = ln 2 / 2.
    logprobs = [math.log(0.5), math.log(0.25)]
    assert action_entropy([0.2, 0.6], logprobs, "full") == pytest.approx(0.4)
    assert action_entropy([0.2, 0.6], logprobs, "sampled") == pytest.approx(math.log(2) / 2)
    assert action_entropy([0.2, 0.6], logprobs) == pytest.approx(0.4)


def test_action_entropy_edges():
    assert action_entropy([], [], "full") == action_entropy([], [], "sampled") == 0.0
    assert action_entropy([0.0], [0.0], "sampled") == 0.0  # a certain token
    assert action_entropy([0.0], [-1.0], "sampled") == pytest.approx(1 / math.e)  # the largest value
    with pytest.raises(ValueError, match=r"entropy_selection.entropy is 'mean'"):
        action_entropy([0.1], [-0.1], "mean")


@pytest.mark.parametrize(
    ("alpha", "count", "kept"),
    [
        (0.75, 8, 6),
        (0.75, 9, 7),  # 6.75
        (0.7, 10, 7),
        (0.07, 100, 7),  # 7.000000000000001 in binary
        (0.29, 100, 29),  # 28.999999999999996 in binary
        (0.0, 5, 0),
        (1.0, 5, 5),
        (1, 5, 5),
        (1e-9, 5, 1),
        (0.5, 0, 0),
    ],
)
def test_how_many_are_kept(alpha, count, kept):
    entropies = torch.rand(count)
    assert select_top_entropy(entropies, alpha).sum() == kept
    turns = [make_transition()] * count
    assert sum(select(by_surprise, turns, alpha, torch.Generator())) == kept
    assert sum(select(by_chance, turns, alpha, torch.Generator().manual_seed(0))) == kept


def test_highest_entropies_are_kept_and_ties_fall_to_the_earlier():
    # ceil(0.5 * 5) = 3: the 0.9, then the first two of the three 0.5
    assert select_top_entropy([0.5, 0.1, 0.5, 0.9, 0.5], 0.5).tolist() == [True, False, True, True, False]
    assert select_top_entropy([0.3] * 4, 0.5).tolist() == [True, True, False, False]


def test_lowest_probabilities_are_kept():
    turns = [make_transition(sampled_logprobs=[logprob]) for logprob in (-0.1, -3.0, -0.2, -1.0)]
    assert select(by_surprise, turns, 0.5, torch.Generator()) == [False, True, False, True]


def test_random_selection_is_seeded():
    turns = [make_transition()] * 50
    draw = [select(by_chance, turns, 0.5, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert draw[0] == draw[1] != draw[2]


def test_first_occurrences():
    keys = [("hall", "go"), ("hall", "look"), ("hall", "go"), ("hall", "go")]
    assert first_occurrences(keys).tolist() == [True, True, False, False]
    assert first_occurrences([]).tolist() == []


@given(st.lists(st.floats(0, 20), max_size=30), st.integers(0, 20))
def test_nothing_left_out_has_more_entropy_than_something_kept(entropies, twentieths):
    mask = select_top_entropy(entropies, twentieths / 20)
    values = torch.tensor(entropies, dtype=torch.float64)
    assert mask.dtype == torch.bool and mask.shape == values.shape
    assert mask.sum() == -(-twentieths * len(entropies) // 20)
    if mask.any() and not mask.all():
        assert values[mask].min() >= values[~mask].max()


@pytest.mark.parametrize("alpha", [-0.1, 1.1, 75, math.nan])
def test_alpha_outside_its_range(alpha):
    with pytest.raises(ValueError, match=r"entropy_selection.alpha is"):
        select_top_entropy([1.0], alpha)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_broken_entropies(broken):
    with pytest.raises(ValueError, match=r"entropy_selection.rule gives transition 1 the score"):
        select_top_entropy([1.0, broken], 0.5)


@pytest.mark.parametrize(
    ("returns", "max_return", "coefficient"),
    [
        ([10, 0, 0, 0], 10, 0.75),  # 1 - 2.5 / 10
        ([0, 0], 10, 1.0),
        ([1, 1], 1, 0.0),
        ([0.5, 0.25], 1, 0.625),
        ([-4, 0], 10, 1.0),  # 1.2, clamped
        ([1 + 1e-6], 1, 0.0),  # a sum of rewards, rounded
        ([0.1] * 10, 1, 0.9),
    ],
)
def test_reward_adaptive_coefficient(returns, max_return, coefficient):
    assert reward_adaptive_coefficient(returns, max_return, "Shop") == pytest.approx(coefficient)


@pytest.mark.parametrize(
    ("returns", "max_return", "message"),
    [
        ([1.0], None, "Shop does not state its largest return; set reward_balance.max_return"),
        ([1.0], 0.0, "the largest return of Shop is 0.0.*reward_balance.max_return"),
        ([1.0], -1.0, "the largest return of Shop is -1.0"),
        ([1.0], math.nan, "the largest return of Shop is nan"),
        ([0.0, 10.0], 1.0, "Shop gave a return of 10.0, above its largest, 1.0; set reward_balance.max_return"),
        ([0.0, math.nan], 1.0, r"Shop gave the returns \[0.0, nan\]"),
        ([], 1.0, "a group of Shop has no episode"),
    ],
)
def test_returns_that_give_no_coefficient(returns, max_return, message):
    with pytest.raises(ValueError, match=message):
        reward_adaptive_coefficient(returns, max_return, "Shop")


def test_token_weights_by_hand():
    # Three groups. Group 0 (lambda 0.6): two selected, 4 and 1 tokens: 0.6 / (3 * 2 * 4) and 0.6 / (3 * 2 * 1).
    # Group 1 (lambda 1.0): none selected, yet it counts. Group 2 (lambda 0.9): one selected with 3 tokens:
    # 0.9 / (3 * 1 * 3); its other selected transition has nothing to predict and is not counted.
    weights = target_token_weights(
        groups=[0, 0, 0, 1, 2, 2],
        selected=[True, True, False, False, True, True],
        observation_lengths=[4, 1, 7, 5, 3, 0],
        coefficients=[0.6, 1.0, 0.9],
    )
    assert weights == pytest.approx([0.025, 0.1, 0, 0, 0.1, 0])


def test_token_weights_of_nothing():
    assert target_token_weights([], [], [], []) == []
    assert target_token_weights([0, 1], [False, False], [3, 3], [1.0, 1.0]) == [0.0, 0.0]


@given(st.data())
def test_token_weights_make_the_mean_over_groups_of_means_over_transitions(data):
    coefficients = data.draw(st.lists(st.floats(0, 1), min_size=1, max_size=4))
    turn = st.tuples(st.integers(0, len(coefficients) - 1), st.booleans(), st.integers(0, 6))
    turns = data.draw(st.lists(turn, max_size=12))
    weights = target_token_weights(
        *([list(column) for column in zip(*turns, strict=True)] or [[], [], []]), coefficients
    )
    losses = [float(i + 1) for i in range(len(turns))]  # each token of transition i loses i + 1, so its mean does
    total = sum(w * length * loss for w, (_, _, length), loss in zip(weights, turns, losses, strict=True))
    expected = 0.0
    for g, coefficient in enumerate(coefficients):
        own = [x for x, (group, chosen, size) in zip(losses, turns, strict=True) if group == g and chosen and size]
        expected += coefficient * sum(own) / len(own) if own else 0.0
    assert total == pytest.approx(expected / len(coefficients))


@given(st.lists(st.integers(0, 4), max_size=14), st.integers(0, 9))
def test_shuffled_places_keep_as_few_items_as_can_be(keys, seed):
    """With m copies of one item among N places, 2 m - N places have to keep an equal one, and none otherwise."""
    places = shuffled_places(keys, torch.Generator().manual_seed(seed))
    assert sorted(places) == list(range(len(keys)))
    most = max((keys.count(key) for key in keys), default=0)
    kept = sum(keys[place] == key for key, place in zip(keys, places, strict=True))
    assert kept == max(2 * most - len(keys), 0)


def test_shuffled_places_are_drawn():
    draws = {tuple(shuffled_places(range(6), torch.Generator().manual_seed(seed))) for seed in range(20)}
    assert len(draws) > 15, "265 derangements of six items exist"


@pytest.mark.parametrize(("iteration", "coefficient"), [(0, 0.8), (1, 0.6), (3, 0.2), (4, 0.0), (9, 0.0)])
def test_linear_coefficient(iteration, coefficient):
    """From 0.8 to 0 in four iterations: 0.2 less each, and then no less."""
    assert linear_coefficient(iteration, 0.8, 0.0, 4) == pytest.approx(coefficient)
