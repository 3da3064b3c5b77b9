"""What `test` says: intervals, kinds of tasks, several attempts and temperatures, worked out by hand."""

from __future__ import annotations

import json
import logging
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paw_lightning.callbacks import EnvironmentLoop
from paw_lightning.callbacks.evaluation_report import markdown, named, sentences
from paw_lightning.callbacks.evaluation_statistics import (
    attempts_of,
    best_of,
    independent_episodes,
    interval,
    kind_of,
    lines,
    pass_at,
)
from paw_lightning.callbacks.rollout_curves import evaluation_metrics
from paw_lightning.envs import HouseholdEnv, SearchEnv
from paw_lightning.errors import SettingsError
from paw_lightning.types import Evaluation, RolloutGroup
from tests.helpers import runs
from tests.helpers.factories import make_group


def tasks(*outcomes: str, kind: str = "") -> list[RolloutGroup]:
    """A group for each word, an episode for each of its letters: W is won in one turn, L lost in two."""
    groups = []
    for word in outcomes:
        group = make_group([float(letter == "W") for letter in word], [1 if letter == "W" else 2 for letter in word])
        for episode in group.episodes:
            episode.kind = kind
        groups.append(group)
    return groups


# The interval


def test_intervals_by_hand() -> None:
    """z = 1.959964, z^2 = 3.841459. 15 of 100: (0.15 + 0.019207) / 1.038415 = 0.162948, half the width
    1.959964 sqrt(0.001275 + 0.000096036) / 1.038415 = 0.069888. None of 100: 2 * 0.019207 / 1.038415 = 0.036994.
    """
    assert interval([1.0] * 15 + [0.0] * 85) == pytest.approx((0.162948 - 0.069888, 0.162948 + 0.069888), abs=1e-5)
    assert interval([0.0] * 100) == pytest.approx((0.0, 0.036994), abs=1e-5)
    assert interval([1.0] * 100) == pytest.approx((1 - 0.036994, 1.0), abs=1e-5)
    assert interval([1.0])[1] == 1.0 and interval([1.0])[0] < 0.3, "one task says little"


def test_episodes_of_a_task_count_as_what_they_are_worth() -> None:
    """Ten tasks won by half, four episodes each, and two tasks more in the mind, 0 and 1: variance of the mean of 12.

    All alike within a task: 12 * 0.25 / 11 / 12, so 0.25 * 11 / 0.25 = 11 episodes. Rates of 0.25 and 0.75:
    (10 * 0.0625 + 0.5) / 11 / 12 = 0.0085227, 29.33 episodes. All 0.5: 0.5 / 11 / 12, 66, of which there are 40.
    """
    assert independent_episodes([0.0, 1.0] * 5, 4) == pytest.approx(11)
    assert independent_episodes([0.25, 0.75] * 5, 4) == pytest.approx(29 + 1 / 3)
    assert independent_episodes([0.5] * 10, 4) == 40
    assert independent_episodes([0.0, 1.0] * 5, 1) == 10, "one episode each: they are independent"


def test_a_few_wins_do_not_pass_for_certainty() -> None:
    """33 tasks of four episodes: the first win narrows the interval hardly."""
    (_, never), (_, once) = interval([0.0] * 33, 4), interval([0.0] * 32 + [0.25], 4)
    assert independent_episodes([0.0] * 33, 4) < 36 and once > 0.9 * never


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_an_interval_holds_its_rate_and_narrows_with_samples_at_most_to_all_of_them(wins: list[int]) -> None:
    rates = [w / 4 for w in wins]
    low, high = interval(rates, samples=4)
    assert 0 <= low <= sum(rates) / len(rates) + 1e-12 and sum(rates) / len(rates) - 1e-12 <= high <= 1
    few = interval(rates)
    assert high - low <= few[1] - few[0] + 1e-9
    assert len(rates) <= independent_episodes(rates, 4) <= 4 * len(rates)


# Several attempts


def test_several_attempts_by_hand() -> None:
    """One of four wins: 1/4, then 1 - C(3, 2) / C(4, 2) = 1 - 3/6, then surely. Returns 0, 0.5 and 1: the pairs' best
    are 0.5, 1 and 1.
    """
    assert [pass_at(k, 4, 1) for k in (1, 2, 4)] == [0.25, 0.5, 1.0]
    assert pass_at(4, 4, 0) == 0.0
    assert best_of(2, [1.0, 0.0, 0.5]) == pytest.approx(2.5 / 3)
    assert [attempts_of(n) for n in (1, 2, 3, 4, 6)] == [[], [2], [2, 3], [2, 4], [2, 4, 6]]


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=7), st.data())
def test_several_attempts_are_means_over_all_choices(returns: list[float], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(returns)))
    choices = [max(chosen) for chosen in combinations(returns, k)]
    assert best_of(k, returns) == pytest.approx(sum(choices) / len(choices))
    wins = [float(value == 1) for value in returns]
    choices = [max(chosen) for chosen in combinations(wins, k)]
    assert pass_at(k, len(wins), int(sum(wins))) == pytest.approx(sum(choices) / len(choices))


# Lines and pages


def test_lines_by_kind() -> None:
    """All: 3 of 6; heat 2 of 4, cool 1 of 2, in the order of the alphabet. Turns: W one, L two."""
    groups = tasks("WL", "LW", kind="heat") + tasks("WL", kind="cool")
    everything, cool, heat = lines(Evaluation("test", 1.0, groups))
    assert [(found.kind, found.tasks, found.samples) for found in (everything, cool, heat)] == [
        ("all", 3, 2),
        ("cool", 1, 2),
        ("heat", 2, 2),
    ]
    assert (everything.success_rate, everything.mean_return, everything.turns) == (0.5, 0.5, 1.5)
    assert everything.pass_at == {2: 1.0} and everything.best_of == {2: 1.0}
    assert [found.kind for found in lines(Evaluation("test", 1.0, tasks("W", "L", kind="heat")))] == ["all"]
    assert lines(Evaluation("test", 1.0)) == []


def test_the_kind_of_a_task_in_a_mixture() -> None:
    [group] = tasks("W", kind="heat")
    group.environment = "house"
    assert kind_of(group) == "house/heat"
    assert kind_of(tasks("W")[0]) == "other"


def test_what_the_terminal_says() -> None:
    said = sentences(Evaluation("test", 0.4, tasks("WL", "LL", kind="a") + tasks("LL", kind="b"), ["it broke"]))
    assert said[0].startswith("test at temperature 0.4: 16.7% of 3 tasks x 2 (95 % interval ")
    assert said[0].endswith(", pass@2 33.3%")
    assert said[1].startswith("         a: 25.0% of 2 tasks x 2") and said[2].startswith("         b: 0.0% of 1 tasks")
    assert said[3] == "         1 more were lost to their environment; the last failure: it broke"


def test_a_kind_cannot_break_the_page() -> None:
    page = markdown("p", [Evaluation("test", 1.0, tasks("W", kind="a|b\n| x |") + tasks("L", kind="c"))])
    assert "| a\\|b \\| x \\| | 1 | 100.0% |" in page
    assert "No task could be played" in markdown("p", [Evaluation("test", 1.0, [], ["broken"])])


def test_the_standard_error_counts_tasks() -> None:
    """Rates 1/2 and 0: variance 1/16, over 2 tasks. One episode each, 1 and 0: sqrt(0.25 / 2)."""
    key = "test/success_rate_stderr"
    assert evaluation_metrics("test", tasks("WL", "LL"), 0)[key] == pytest.approx((1 / 32) ** 0.5)
    assert evaluation_metrics("test", tasks("W", "L"), 0)[key] == pytest.approx(0.125**0.5)


# From the command line


def test_worlds_name_their_kinds() -> None:
    house = HouseholdEnv("val", tasks=["heat"], receptacles=4, objects=2)
    assert house.reset(seed=1)[1]["kind"] == "heat"
    env = SearchEnv("val")
    kinds = {env.reset(seed=seed)[1]["kind"] for seed in range(20)}
    assert kinds == {"1-hop", "2-hop"}


def test_a_test_of_several_temperatures_and_samples(tiny_model_dir: str, tmp_path: Path, caplog) -> None:
    """3 tasks x 2 samples at two temperatures, in batches of two tasks; the greedy samples of a task are equal."""
    settings = {"data__test_tasks": 3, "data__test_samples": 2, "data__evaluation_batch": 4}
    temperatures = {"rollout__test_temperatures": "[1.0, 0.0]"}
    with caplog.at_level(logging.INFO):
        cli = runs.fit(tmp_path, tiny_model_dir, command="test", **settings, **temperatures)
    found = json.loads((runs.log_dir(cli) / "test_report.json").read_text())
    first, greedy = found["evaluations"]
    assert (first["temperature"], greedy["temperature"]) == (1.0, 0.0)
    assert found["policy"] == f"{tiny_model_dir}, as it is" and found["split"] == "test"
    for part, name in ((first, "test"), (greedy, "test/T0")):
        line = part["lines"][0]
        assert (line["tasks"], line["samples"], part["lost_tasks"]) == (3, 2, 0)
        assert line["success_rate"] == pytest.approx(float(cli.trainer.callback_metrics[f"{name}/success_rate"]))
        assert line["mean_return"] == pytest.approx(float(cli.trainer.callback_metrics[f"{name}/return"]))
    assert greedy["lines"][0]["pass_at"]["2"] == pytest.approx(greedy["lines"][0]["success_rate"])
    page = (runs.log_dir(cli) / "test_report.md").read_text()
    assert "## Temperature 1\n" in page and "## Temperature 0\n" in page and "pass@2" in page
    assert f"policy:  {tiny_model_dir}, as it is" in caplog.messages


def test_one_sample_is_the_first_of_several(tiny_model_dir: str, tmp_path: Path) -> None:
    """The same tasks, dice and weights: more samples add episodes and change none."""
    played = []
    for samples in (1, 3):
        cli = runs.fit(tmp_path, tiny_model_dir, command="test", data__test_tasks=2, data__test_samples=samples)
        loop = next(c for c in cli.trainer.callbacks if hasattr(c, "evaluate"))
        groups = loop.runner.evaluate("test", [0, 1], samples, 1.0).groups
        played.append([[t.action_ids for t in group.episodes[0].transitions] for group in groups])
    assert played[0] == played[1]


@pytest.mark.slow
def test_a_training_run_writes_no_report(tiny_model_dir: str, tmp_path: Path) -> None:
    cli = runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=1)
    assert not list(runs.log_dir(cli).glob("*report*"))
    cli = runs.fit(tmp_path, tiny_model_dir, command="validate", evaluation_report__enabled="false")
    assert not list(tmp_path.rglob("*report*"))
    runs.fit(tmp_path, tiny_model_dir, command="validate")
    [page] = tmp_path.rglob("val_report.md")
    assert page.read_text().startswith("# Val report")


@pytest.mark.slow
def test_the_weights_that_played_are_named(tiny_model_dir: str, tmp_path: Path) -> None:
    """A checkpoint; random weights; and in Python, what `fit` has just made of them."""
    cli = runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=1)
    assert named(cli.trainer, cli.model) == f"{tiny_model_dir}, as trained in this process"
    cli.trainer.test(cli.model, cli.datamodule)
    checkpoint = runs.log_dir(cli) / "checkpoints" / "last.ckpt"
    assert "as trained in this process" in (runs.log_dir(cli) / "test_report.md").read_text()
    cli = runs.fit(tmp_path, tiny_model_dir, command="test", ckpt_path=checkpoint)
    assert named(cli.trainer, cli.model) == f"the checkpoint {checkpoint}"
    cli = runs.fit(tmp_path, tiny_model_dir, command="test", model__weights="random")
    assert named(cli.trainer, cli.model) == f"random weights of {tiny_model_dir}"


def test_an_interrupted_evaluation_is_forgotten(tiny_model_dir: str, tmp_path: Path) -> None:
    """Batches of 2 of 4 validation tasks; the second one fails, then a test is played."""
    cli = runs.fit(tmp_path, tiny_model_dir, command="validate", data__evaluation_batch=2, data__test_tasks=3)
    loop = next(c for c in cli.trainer.callbacks if isinstance(c, EnvironmentLoop))
    loop.on_validation_start(cli.trainer, cli.model)
    loop.evaluate("val", [0, 1], 1, 1.0)
    cli.trainer.test(cli.model, cli.datamodule)
    assert json.loads((runs.log_dir(cli) / "test_report.json").read_text())["evaluations"][0]["lines"][0]["tasks"] == 3


@pytest.mark.parametrize("temperatures", ["[1.0, 1.0]", "[0.4, 0.4000001]", "[-0.5]"])
def test_bad_temperatures_are_named(temperatures: str, tiny_model_dir: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"rollout\.test_temperatures is .*; wanted each once, and at least 0"):
        runs.fit(tmp_path, tiny_model_dir, command="test", rollout__test_temperatures=temperatures)
    with pytest.raises(SettingsError, match=r"data\.test_samples is 0; wanted at least 1"):
        runs.fit(tmp_path, tiny_model_dir, command="test", data__test_samples=0)
