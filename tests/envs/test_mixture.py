"""Mixtures: which task goes where, what passes through, and what a run logs of each part."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paw_lightning.envs import HouseholdEnv, MixtureEnv
from paw_lightning.envs.mixture import assign, shares
from tests.helpers import runs

TOY = {"class_path": "tests.helpers.toy_env.ToyEnv"}
HOUSE = {"class_path": "paw_lightning.envs.HouseholdEnv", "init_args": {"num_tasks": 3, "success_reward": 5.0}}
WORKER = {"class_path": "paw_lightning.envs.WorkerEnv", "init_args": {"environment": HOUSE}}


def test_seeds_are_dealt_by_weight() -> None:
    """Weights 1 : 2 : 1. The first has a quarter: seeds 3, 7, ...; of the rest, two thirds and one third."""
    parts = shares({"a": 1.0, "b": 2.0, "c": 1.0})
    assert parts == [("a", Fraction(1, 4)), ("b", Fraction(2, 3)), ("c", Fraction(1))]
    assert [assign(seed, parts) for seed in range(8)] == [
        ("c", 0),  # the rest's 0: floor(2/3) = 0, so not b's
        ("b", 0),
        ("b", 1),
        ("a", 0),
        ("c", 1),
        ("b", 2),
        ("b", 3),
        ("a", 1),
    ]


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=5), st.integers(0, 10**9))
def test_every_window_is_fair_and_no_task_is_left_out(weights: list[float], start: int) -> None:
    parts = shares({str(i): weight for i, weight in enumerate(weights)})
    window = [assign(seed, parts) for seed in range(start, start + 60)]
    counts = Counter(name for name, _ in window)
    for i, weight in enumerate(weights):
        assert abs(counts[str(i)] - 60 * weight / sum(weights)) <= i + 1
        numbers = [number for name, number in window if name == str(i)]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True


def test_a_part_plays_as_it_would_alone() -> None:
    env = MixtureEnv("val", environments={"toy": TOY, "house": HOUSE})
    assert env.reset(seed=1)[1]["environment"] == "toy"
    observation, info = env.reset(seed=0)
    alone = HouseholdEnv("val", num_tasks=3, success_reward=5.0)
    expected, theirs = alone.reset(seed=0)
    assert (observation, info["max_reward"], info["admissible_commands"]) == (
        expected,
        5.0,
        theirs["admissible_commands"],
    )
    assert (info["environment"], info["group_key"]) == ("house", "house/val/0")
    for command in alone.expert_plan():
        assert env.step(command)[:4] == alone.step(command)[:4]
    assert env.reset(seed=6)[0] == alone.reset(seed=3)[0] == expected, "house's task 3 of 3 is its task 0"


def test_a_mixture_of_workers_begins_in_the_right_one() -> None:
    env = MixtureEnv("train", environments={"toy": TOY, "house": WORKER})
    options = {"episode_seed": 1}
    env.begin_reset(seed=0, options=options)
    assert env.reset(seed=0, options=options)[1]["environment"] == "house"
    env.begin_step("look")
    assert env.step("look")[0].startswith("You are in the middle of a room.")
    env.close()


@pytest.mark.parametrize(
    ("environments", "cause"),
    [
        ({}, "environments is {}; wanted"),
        ({"toy": TOY | {"weight": 0}}, "environments.toy.weight is 0.0; wanted a positive number"),
        ({"a/b": TOY}, "wanted plain names"),
        ({"toy": TOY | {"size": 1}}, "and perhaps weight"),
    ],
)
def test_mixtures_that_cannot_be_are_refused(environments: dict, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        MixtureEnv("train", environments=environments)


def test_a_run_logs_each_part(tiny_model_dir: str, tmp_path: Path) -> None:
    """Equal weights: of two groups one is each environment's, and of four validation tasks two are."""
    environments = {"toy": TOY | {"weight": 1.0}, "house": WORKER | {"weight": 1.0}}
    cli = runs.fit(
        tmp_path,
        tiny_model_dir,
        rollout__environment="paw_lightning.envs.MixtureEnv",
        rollout__environment__init_args__environments=environments,
    )
    curves = runs.curves(cli)
    for name in ("toy", "house"):
        for tag in ("success_rate", "return", "episode_length"):
            assert len(curves[f"rollout/{name}/{tag}"]) == len(curves[f"val/{name}/{tag}"]) == 2
    for prefix in ("rollout", "val"):
        values = [list(curves[f"{prefix}/{part}return"].values()) for part in ("", "toy/", "house/")]
        assert values[0] == pytest.approx([(toy + house) / 2 for toy, house in zip(*values[1:], strict=True)])
    assert list(curves["rollout/dropped_groups"].values()) == [0.0, 0.0]
    # lambda = 1 - mean return / R_max, with R_max 1 for the toy world and 5 for the house, in which nobody wins.
    toy = list(curves["rollout/toy/return"].values())
    assert list(curves["wm/coefficient"].values()) == pytest.approx([(1 - value + 1) / 2 for value in toy])


def test_each_part_of_a_run_gets_its_share_of_the_predictions(tiny_model_dir: str, tmp_path: Path) -> None:
    """Three episodes of three turns in each part: alpha 0.5 keeps ceil(4.5) = 5 of each, not 9 of all 18."""
    cli = runs.fit(
        tmp_path,
        tiny_model_dir,
        trainer__max_epochs=1,
        trainer__limit_val_batches=0,
        rollout__environment="paw_lightning.envs.MixtureEnv",
        rollout__environment__init_args__environments={"toy": TOY, "house": HOUSE},
        entropy_selection__pool="environment",
        entropy_selection__alpha=0.5,
    )
    curves = runs.curves(cli)
    assert list(curves["wm/selected_fraction"].values()) == pytest.approx([10 / 18])
    assert {tag for tag in curves if tag.startswith("wm/entropy_threshold")} == {
        "wm/entropy_threshold/toy",
        "wm/entropy_threshold/house",
    }
