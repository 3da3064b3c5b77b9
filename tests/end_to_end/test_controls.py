"""Selection rules, coefficients, matched weights and wrong targets: the controls that make an effect believable."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from paw_lightning.callbacks import EntropySelection, RewardBalance, TargetControl
from paw_lightning.envs import TextEnv
from paw_lightning.errors import SettingsError
from paw_lightning.policy.advantages.no_reward import NoReward
from paw_lightning.rollouts.counterfactuals import counterfactual
from paw_lightning.types import Rollout
from tests.conftest import ROOT
from tests.helpers import runs
from tests.helpers.factories import make_episode, make_group, make_transition
from tests.helpers.playing import TOKENIZER, collector, play
from tests.helpers.runs import assert_same_curves, assert_same_end
from tests.helpers.toy_env import ToyEnv
from tests.helpers.updates import weigh


def rollout_of(*groups: list, environments: tuple[str, ...] = (), iteration: int = 0) -> Rollout:
    """One episode per group, of these transitions."""
    made = [make_group([0.0], [1], max_return=1.0) for _ in groups]
    for g, (group, transitions) in enumerate(zip(made, groups, strict=True)):
        group.episodes = [make_episode(transitions)]
        group.environment = environments[g] if environments else ""
    return Rollout(iteration, made)


def turn(entropy: float, logprob: float = -1.0, **fields):
    """A turn with this action entropy and mean log-prob, unlike every other turn unless told otherwise."""
    texts = {"anchor": f"at {entropy}", "action_text": f"do {entropy}", "observation_text": f"see {entropy}"}
    return make_transition(token_entropies=[entropy], sampled_logprobs=[logprob], **(texts | fields))


def selected(rollout: Rollout, **settings) -> list[bool]:
    EntropySelection(**settings).select(rollout, seed=1)
    return [t.selected for t in rollout.transitions]


def test_nothing_to_predict_takes_no_place() -> None:
    """P has four members, so alpha 0.5 keeps two: the highest of them, 3 and 2; 9 has no observation."""
    turns = [turn(1), turn(9, observation_ids=[]), turn(3), turn(2), turn(0.5)]
    rollout = rollout_of(turns)
    assert selected(rollout, alpha=0.5) == [False, False, True, True, False]
    assert rollout.metrics["wm/selected_fraction"] == 0.5 and rollout.metrics["wm/entropy_threshold"] == 2


def test_nothing_to_predict_anywhere() -> None:
    assert selected(rollout_of([turn(1, observation_ids=[])]), alpha=1) == [False]


def test_lowest_probability_rule() -> None:
    """Mean log-probs -1, -4, -2: half of three, rounded up, are the lowest two."""
    rollout = rollout_of([turn(3, -1), turn(1, -4), turn(2, -2)])
    assert selected(rollout, alpha=0.5, rule="lowest_probability") == [False, True, True]
    assert "wm/entropy_threshold" not in rollout.metrics


def test_random_rule_is_drawn_anew_each_iteration_and_alike_when_resumed() -> None:
    def draw(iteration: int) -> list[bool]:
        turns = [turn(i) for i in range(40)]
        return selected(rollout_of(turns, iteration=iteration), alpha=0.5, rule="random")

    assert draw(0) == draw(0) != draw(1)
    assert sum(draw(0)) == 20
    assert draw(0) != [False] * 20 + [True] * 20, "the highest entropies are the last"


def test_a_share_of_one_keeps_everything_under_any_rule() -> None:
    for rule in ("entropy", "random", "lowest_probability"):
        assert selected(rollout_of([turn(1), turn(2)]), alpha=1, rule=rule) == [True, True]
        assert selected(rollout_of([turn(1), turn(2)]), alpha=0, rule=rule) == [False, False]
    with pytest.raises(ValueError, match=r"entropy_selection.rule is 'all'; wanted one of"):
        EntropySelection(rule="all")


def test_repeats_count_once() -> None:
    """Five turns of which the third and the fourth repeat the first: P has three, alpha 0.6 keeps ceil(1.8) = 2.

    The repeats have the highest entropies, and would otherwise take both places. The same texts in another environment
    are another transition.
    """
    same = {"anchor": "hall", "action_text": "look", "observation_text": "a hall"}
    turns = [turn(5, **same), turn(4), turn(7, **same)], [turn(6, **same), turn(3)]
    rollout = rollout_of(*turns)
    assert selected(rollout, alpha=0.6, deduplicate=True) == [True, True, False, False, False]
    assert rollout.metrics["wm/duplicate_fraction"] == pytest.approx(2 / 5)
    assert selected(rollout, alpha=0.6) == [True, False, True, True, False]
    apart = rollout_of(*turns, environments=("house", "shop"))
    assert selected(apart, alpha=1, deduplicate=True) == [True, True, False, True, True]


@pytest.mark.parametrize("text", ["anchor", "action_text", "observation_text"])
def test_a_transition_that_differs_in_one_text_is_no_repeat(text: str) -> None:
    same = {"anchor": "hall", "action_text": "look", "observation_text": "a hall"}
    assert selected(rollout_of([turn(1, **same), turn(1, **(same | {text: "other"}))]), alpha=1, deduplicate=True) == [
        True,
        True,
    ]


def test_pool_of_each_environment() -> None:
    """Entropies 9, 8 in one environment and 2, 1 in another: half of all is the first pair; half of each is 9 and 2."""
    turns = [turn(9), turn(8)], [turn(2), turn(1)]
    rollout = rollout_of(*turns, environments=("house", "shop"))
    assert selected(rollout, alpha=0.5) == [True, True, False, False]
    assert selected(rollout, alpha=0.5, pool="environment") == [True, False, True, False]
    assert rollout.metrics["wm/entropy_threshold/house"] == 9
    assert rollout.metrics["wm/entropy_threshold/shop"] == 2


def coefficients(rollout: Rollout, **settings) -> list[float]:
    for t in rollout.transitions:
        t.selected = True
    weigh(RewardBalance(**settings), rollout)
    return [group.coefficient for group in rollout.groups]


@pytest.mark.parametrize(("iteration", "value"), [(0, 1.0), (5, 0.6), (10, 0.2), (50, 0.2)])
def test_linear_coefficient_of_the_iteration(iteration: int, value: float) -> None:
    """From 1 to 0.2 in ten iterations: 0.08 less in each."""
    rollout = rollout_of([turn(1)], [turn(2)], iteration=iteration)
    settings = {"coefficient": "linear", "value": 1.0, "final_value": 0.2, "anneal_iterations": 10}
    assert coefficients(rollout, **settings) == pytest.approx([value, value])


def test_without_a_reward_returns_count_as_nothing() -> None:
    """Eq. 10 with mean return 0 gives 1, and `value` scales it, whatever was won."""
    rollout = rollout_of([turn(1, reward=1.0)])
    rollout.transitions[0].selected = True
    balance = RewardBalance(value=0.4)
    weigh(balance, rollout, rewardless=NoReward().rewardless)
    assert [group.coefficient for group in rollout.groups] == [0.4]


def test_value_scales_the_reward_adaptive_coefficient() -> None:
    """Returns 0 and 0.5 of at most 1: 0.4 * 1 and 0.4 * 0.5."""
    rollout = rollout_of([turn(1)], [turn(2, reward=0.5)])
    assert coefficients(rollout, value=0.4) == pytest.approx([0.4, 0.2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"value": -1.0}, r"reward_balance\.value is -1\.0"),
        ({"final_value": -1.0}, r"reward_balance\.final_value is -1\.0"),
        ({"coefficient": "linear"}, r"reward_balance\.anneal_iterations is None"),
        ({"coefficient": "linear", "anneal_iterations": 0}, r"reward_balance\.anneal_iterations is 0"),
    ],
)
def test_bad_balances_name_their_key(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardBalance(**settings)


def fit_once(tmp_path: Path, model: str, **settings) -> dict[str, dict[int, float]]:
    """Curves of one iteration with one optimizer step: every logged number is of the policy that sampled."""
    once = {"trainer__max_epochs": 1, "data__minibatches": 1, "trainer__limit_val_batches": 0}
    return runs.curves(runs.fit(tmp_path, model, **(once | settings)))


def last(curves: dict[str, dict[int, float]], tag: str) -> float:
    return list(curves[tag].values())[-1]


@pytest.mark.parametrize("kind", ["cross_entropy", "mae", "focal"])
def test_a_matched_loss_shows_the_effective_weight_of_clipped_mae(
    kind: str, tiny_model_dir: str, tmp_path: Path
) -> None:
    """A random policy gives a token about 1/259: rho 0.0038 clips a good part of them. With R_max 2 no lambda is 0."""
    rho = {"model__world_model_loss__rho": 0.0038, "reward_balance__max_return": 2.0}
    paw = fit_once(tmp_path, tiny_model_dir, **rho)
    other = {"model__world_model_loss__kind": kind, **rho}
    alone = fit_once(tmp_path, tiny_model_dir, **other)
    matched = fit_once(tmp_path, tiny_model_dir, reward_balance__match_weight_of="clipped_mae", **other)
    assert 0.1 < last(paw, "wm/active_token_fraction") < 0.9
    weight = last(paw, "wm/effective_weight")
    assert last(matched, "wm/effective_weight") == pytest.approx(weight, rel=1e-5)
    assert last(alone, "wm/effective_weight") != pytest.approx(weight, rel=0.1)
    scale = last(matched, "wm/matching_scale")
    assert last(matched, "wm/coefficient") == pytest.approx(last(alone, "wm/coefficient") * scale, rel=1e-6)


def test_matching_does_not_depend_on_how_the_update_is_cut(tiny_model_dir: str, tmp_path: Path) -> None:
    scales = [
        last(
            fit_once(
                tmp_path,
                tiny_model_dir,
                model__world_model_loss__kind="cross_entropy",
                reward_balance__match_weight_of="clipped_mae",
                reward_balance__max_return=2.0,
                trainer__accumulate_grad_batches=micro_batches,
                data__minibatches=minibatches,
            ),
            "wm/matching_scale",
        )
        for micro_batches, minibatches in [(1, 1), (3, 1), (2, 3)]
    ]
    assert 0 < scales[0] < 0.1
    assert scales[1:] == pytest.approx([scales[0]] * 2, rel=1e-5)


def test_a_kind_is_its_own_match(tiny_model_dir: str, tmp_path: Path) -> None:
    plain = runs.weights(runs.fit(tmp_path, tiny_model_dir, trainer__limit_val_batches=0))
    matched = runs.fit(
        tmp_path, tiny_model_dir, trainer__limit_val_batches=0, reward_balance__match_weight_of="clipped_mae"
    )
    for name, tensor in runs.weights(matched).items():
        assert torch.equal(tensor, plain[name]), name


@pytest.mark.slow
def test_a_resumed_run_selects_weighs_and_shuffles_as_the_unbroken_one(tiny_model_dir: str, tmp_path: Path) -> None:
    """Every control that is drawn, annealed or measured is a function of the iteration and its rollout."""
    settings = {
        "entropy_selection__rule": "random",
        "entropy_selection__deduplicate": "true",
        "target_control__targets": "shuffled",
        "reward_balance__coefficient": "linear",
        "reward_balance__anneal_iterations": 3,
        "reward_balance__match_weight_of": "cross_entropy",
        "world_model_health__every": 2,
        "trainer__limit_val_batches": 0,
    }
    unbroken = runs.fit(tmp_path / "unbroken", tiny_model_dir, trainer__max_epochs=3, **settings)
    stopped = runs.fit(tmp_path / "stopped", tiny_model_dir, trainer__max_epochs=1, **settings)
    checkpoint = runs.log_dir(stopped) / "checkpoints" / "last.ckpt"
    resumed = runs.fit(tmp_path / "b", tiny_model_dir, trainer__max_epochs=3, ckpt_path=checkpoint, **settings)
    assert_same_end(unbroken, resumed)
    assert_same_curves(unbroken, resumed)


def targets(rollout: Rollout, control: str) -> list[list[int]]:
    for t in rollout.transitions:
        t.selected = True
    TargetControl(control).replace(rollout, tokenizer=None, horizon=1, seed=1)  # its tokenizer is not read
    return [t.target_ids for t in rollout.transitions]


def test_a_shuffle_leaves_no_target_in_place() -> None:
    """Four observations twice each: nobody keeps its own, nor its twin's; and with six of eight alike, four must."""
    own = [[i] for i in (1, 2, 3, 4) * 2]
    rollout = rollout_of([turn(i, observation_ids=ids) for i, ids in enumerate(own)])
    dealt = targets(rollout, "shuffled")
    assert sorted(dealt) == sorted(own)
    assert all(a != b for a, b in zip(own, dealt, strict=True))
    assert rollout.metrics["wm/true_target_fraction"] == 0
    rollout = rollout_of([turn(i, observation_ids=[min(i, 2)]) for i in range(8)])
    targets(rollout, "shuffled")
    assert rollout.metrics["wm/true_target_fraction"] == 4 / 8


def test_wrong_action_predicts_the_counterfactual_or_nothing() -> None:
    rollout = rollout_of([turn(1, counterfactual_ids=[50, 51]), turn(2, counterfactual_ids=None)])
    assert targets(rollout, "wrong_action") == [[50, 51], []]


def test_a_control_replaces_all_that_a_selected_transition_reaches() -> None:
    """Two steps ahead of the second of five: its own observation and the next."""
    rollout = rollout_of([turn(i, observation_ids=[i], counterfactual_ids=[10 + i]) for i in range(5)])
    rollout.transitions[1].selected = True
    TargetControl("wrong_action").replace(rollout, tokenizer=None, horizon=2, seed=1)
    assert [t.control_ids for t in rollout.transitions] == [None, [11], [12], None, None]


def test_a_control_does_not_deal_in_what_nothing_reaches() -> None:
    """Three steps ahead of the first, whose second observation is empty: the third is behind it and stays out."""
    rollout = rollout_of([turn(i, observation_ids=ids) for i, ids in enumerate([[1], [], [3]])], [turn(9)])
    rollout.transitions[0].selected = True
    TargetControl("shuffled").replace(rollout, tokenizer=None, horizon=3, seed=1)
    assert [t.control_ids for t in rollout.transitions] == [[1], None, None, None]


def test_a_placebo_several_steps_ahead_trains(tiny_model_dir: str, tmp_path: Path) -> None:
    """With half of the transitions selected, in the episode layout: no target is true."""
    settings = {"data__world_model_horizon": 3, "entropy_selection__alpha": 0.5, "rollout__layout": "episode"}
    settings["reward_balance__max_return"] = 2.0  # the toy world is always won: no lambda is 0
    curves = fit_once(tmp_path, tiny_model_dir, target_control__targets="random_tokens", **settings)
    assert last(curves, "wm/true_target_fraction") < 0.1 and last(curves, "train/wm_loss") > 0


class Peeking(ToyEnv):
    """Three commands are admissible; answers to what was not done begin with "instead"."""

    def __init__(self) -> None:
        super().__init__()
        self.commands = {"admissible_commands": ["one", "three", "two"]}

    def step(self, action):
        observation, reward, done, cut, info = super().step(action)
        return observation, reward, done, cut, info | {"nuisance_spans": [(0, 4)]}

    def peek(self, action: str) -> str:
        return f"instead {action}"


def test_the_collector_records_another_answer_only_when_asked() -> None:
    def record(asked: bool, seed: int = 0) -> list[str | None]:
        player = collector()
        player.make_env, player.counterfactuals = Peeking, asked
        transitions = [t for group in play(player, seed=("run", seed)).groups for t in group.transitions]
        assert all(t.nuisance_spans == [(0, 4)] for t in transitions)
        found = [t.counterfactual_ids for t in transitions]
        return [None if ids is None else TOKENIZER.decode(ids) for ids in found]

    assert set(record(False)) == {None}
    assert set(record(True)) == {"instead one", "instead two", "instead three"}
    assert record(True) == record(True) != record(True, seed=1), "the other action hangs on the seed alone"


def test_a_peek_that_breaks_costs_the_group_and_is_named() -> None:
    class Blind(Peeking):
        def peek(self, action: str) -> str:
            raise OSError("too dark")

    player = collector()
    player.make_env, player.counterfactuals = Blind, True
    played = play(player, tasks=(0,))
    assert played.groups == []
    assert re.search(r"Blind\.peek\('(one|two|three)'\) failed with OSError: too dark", played.failures[0])


def test_the_action_taken_is_no_counterfactual() -> None:
    """Of three commands two are left, in alphabetical order: an even number draws the first of them."""
    env = Peeking()
    answers = [counterfactual(env, ["wait", "go", "stay"], "go", drawn) for drawn in (6, 7)]
    assert answers == ["instead stay", "instead wait"]
    assert counterfactual(env, ["go"], "go", 6) is None


HOUSEHOLD = tuple(ROOT / "configs" / f"{name}.yaml" for name in ("household/base", "method/grpo", "wm/paw"))
TINY = {
    "trainer__max_epochs": 1,
    "trainer__limit_val_batches": 0,
    "trainer__num_sanity_val_steps": 0,
    "data__groups": 2,
    "data__group_size": 2,
    "data__minibatches": 1,
    "trainer__accumulate_grad_batches": 1,
    "policy_export__folder": None,
}


def test_wrong_action_in_the_household_world(tmp_path: Path) -> None:
    """Weights differ from PaW's, and hardly a target is true by chance."""
    true = runs.fit(tmp_path, "tiny-household", HOUSEHOLD, **TINY)
    wrong = runs.fit(tmp_path, "tiny-household", HOUSEHOLD, target_control__targets="wrong_action", **TINY)
    curves = runs.curves(wrong)
    assert last(curves, "wm/true_target_fraction") < 0.2
    assert last(curves, "rollout/return") == last(runs.curves(true), "rollout/return"), "a peek changes no rollout"
    assert any(not torch.equal(t, runs.weights(wrong)[n]) for n, t in runs.weights(true).items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"rollout__environment__commands": True},
            r"target_control\.targets is 'wrong_action' and ToyEnv cannot answer an action",
        ),
        ({}, r"target_control\.targets is 'wrong_action' and ToyEnv lists no info\['admissible_commands'\]"),
    ],
)
def test_an_environment_without_other_answers_is_named(
    settings: dict, message: str, tiny_model_dir: str, tmp_path: Path
) -> None:
    assert ToyEnv.peek is TextEnv.peek
    with pytest.raises(SettingsError, match=message):
        runs.fit(tmp_path, tiny_model_dir, target_control__targets="wrong_action", **settings)
