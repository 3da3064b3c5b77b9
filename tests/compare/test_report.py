"""The comparison tool's report: its statistics by hand, its reading of curves, its tables and sentences."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paw_lightning.compare import report, statistics, words
from paw_lightning.compare import results as compare_results
from paw_lightning.compare.charts import axis
from paw_lightning.compare.curves import Curve, as_logged, metric_points, training_seconds
from paw_lightning.compare.plots import plot
from paw_lightning.compare.results import Failure, Results, further_differences, summarise
from paw_lightning.event_files import Scalars
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import comparison_rates

# ---- statistics


def test_final_value_is_the_mean_of_the_last_points() -> None:
    curve = {4: 0.5, 0: 0.1, 2: 0.3}
    assert statistics.final_value(curve) == 0.5
    assert statistics.final_value(curve, 2) == pytest.approx(0.4)


def test_area_is_the_mean_height() -> None:
    # 0 to 2: mean height 0.5, area 1; 2 to 6: height 1, area 4; together 5 over a width of 6
    assert statistics.area_under_curve({0: 0.0, 6: 1.0, 2: 1.0}) == pytest.approx(5 / 6)
    assert statistics.area_under_curve({3: 0.7}) == 0.7


def test_t_interval_by_hand() -> None:
    """1, 2, 3: mean 2, standard deviation 1, t(2, 0.975) = 4.3027, half width 4.3027 / sqrt(3) = 2.4841."""
    assert statistics.t_interval([1.0, 2.0, 3.0]) == pytest.approx((-0.4841, 4.4841), abs=1e-4)
    # 0 and 1: mean 0.5, standard deviation sqrt(0.5), t(1, 0.975) = 12.706, half width 12.706 * 0.5 = 6.353.
    assert statistics.t_interval([0.0, 1.0]) == pytest.approx((-5.853, 6.853), abs=1e-3)
    assert statistics.t_interval([0.5] * 4) == (0.5, 0.5)
    assert statistics.t_interval([0.4]) is None and statistics.t_interval([]) is None


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (7, 2.365), (10, 2.228), (30, 2.042), (120, 1.980)],
)
def test_quantiles_are_those_of_the_printed_tables(freedom: int, quantile: float) -> None:
    """The column t(0.975) of any table of Student's distribution; odd and even degrees of freedom have two series."""
    assert statistics.t_quantile(freedom) == pytest.approx(quantile, abs=5e-4)


@pytest.mark.parametrize("seeds", [3, 8])
def test_equal_arms(seeds: int) -> None:
    """Of 150 tables with three equal arms: 95 % of the intervals hold 0 (450, standard deviation 1 %), and at most 5 %
    of the tables a result (1.8 %); with three seeds none can. Bounds at four deviations."""
    draw = comparison_rates.DRAWS["success 0.5"]
    coverage, result, excluding = comparison_rates.rates(draw, seeds, 3, 150, np.random.default_rng(seeds))
    assert 0.91 < coverage < 0.99
    assert result < 0.05 + 4 * 0.018 if seeds == 8 else result == 0
    assert excluding > 0.05, "what the page does not call a hint"


def test_a_large_difference_is_found_and_none_is_not() -> None:
    """Ten standard deviations in all of 20 tables; equal arms in at most 5 %: in 5 of 20 but once in 400 times."""
    rng = np.random.default_rng(0)
    assert comparison_rates.power(0.5, 0.05, 8, 2, 20, rng) == 1
    assert comparison_rates.power(0.0, 0.05, 8, 2, 20, rng) <= 4 / 20


def test_differences_have_no_rounding_errors() -> None:
    """Ties in the sign-flip test would be lost: 0.265 - 0.26 is 0.0050000000000000044."""
    base = dict(enumerate([0.26, 0.175, 0.185, 0.155, 0.13, 0.155]))
    arm = dict(enumerate([0.265, 0.155, 0.21, 0.185, 0.155, 0.185]))
    differences = statistics.paired_differences(arm, base)
    assert differences == [0.005, -0.02, 0.025, 0.03, 0.025, 0.03]


def test_differences_are_paired_by_common_seeds() -> None:
    arm, base = {4: 1.0, 2: 0.7, 1: 0.5}, {1: 0.4, 2: 0.9, 3: 0.0}
    assert statistics.paired_differences(arm, base) == pytest.approx([0.1, -0.2])


def test_probability_of_improvement_over_all_pairs() -> None:
    # (1, 1) is a tie, (1, 0), (2, 1) and (2, 0) are improvements: 3.5 of 4
    assert statistics.probability_of_improvement([1.0, 2.0], [1.0, 0.0]) == 0.875
    assert statistics.probability_of_improvement([], [1.0]) is None


def test_holm_by_hand() -> None:
    """0.01 x 3, then 0.04 x 1 is raised to what came before it: 0.03 x 2 = 0.06. Never above 1."""
    assert statistics.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert statistics.holm([0.6, 0.9]) == [1, 1]
    assert statistics.holm([]) == []


def test_sign_flip_p_value_by_hand() -> None:
    # Of the 8 signs of three differences only +++ and --- sum to 0.6 or more; of 64, two.
    assert statistics.sign_flip_p_value([0.3, 0.1, 0.2]) == 0.25
    assert statistics.sign_flip_p_value([-0.3] * 6) == 1 / 32
    # |+-3 +-1| is 4, 2, 2, 4 and every one reaches the observed 2.
    assert statistics.sign_flip_p_value([3.0, -1.0]) == 1
    assert statistics.sign_flip_p_value([0.0, 0.0]) == 1
    assert statistics.sign_flip_p_value([0.3]) is None
    # 20 pairs are sampled: a sum of at least 16 of 20 equal steps is 18 or more agreeing signs on either side,
    # 2 (1 + 20 + 190) / 2^20 = 0.0004.
    assert statistics.sign_flip_p_value([1.0] * 18 + [-1.0] * 2) == pytest.approx(0.0004, abs=0.0006)


def test_how_many_seeds_a_result_takes() -> None:
    """2 / 2^n <= 5 % from 6 seeds on; times five it is 6.2 % with 7 and 3.9 % with 8; times seven 5.5 % with 8."""
    assert [statistics.seeds_for_a_result(m) for m in (1, 5, 7)] == [6, 8, 9]
    assert statistics.least_p_value(7, 5) == pytest.approx(0.078, abs=1e-3)
    assert statistics.least_p_value(8, 7) == pytest.approx(0.0547, abs=1e-4)
    assert statistics.least_p_value(2, 3) == 1


# ---- curves


def test_points_lie_at_their_iterations() -> None:
    """0 is before training; a run that was resumed after iteration 1 wrote 2 again."""
    scalars = {
        "val/success_rate": [(0, 0.1), (2, 0.5), (2, 0.6), (4, 0.9)],
        "val/dropped_tasks": [(2, 0.0), (2, 0.0), (4, 0.0)],
        "rollout/return": [(1, 0.2), (2, 0.3), (2, 0.4), (3, 0.5)],
    }
    assert metric_points(scalars, "val/success_rate") == {0: 0.1, 2: 0.6, 4: 0.9}
    assert metric_points(scalars, "rollout/return") == {1: 0.2, 2: 0.4, 3: 0.5}


def test_points_of_earlier_versions_are_counted_in_iterations() -> None:
    """Two optimizer steps per iteration, validation after every second one, "before" at step 0."""
    scalars = {
        "epoch": [(1, 0.0), (3, 1.0), (3, 1.0), (5, 2.0), (7, 3.0), (7, 3.0)],
        "val/success_rate": [(0, 0.1), (3, 0.5), (7, 0.9)],
        "val/return": [(3, 0.5), (7, 0.9)],
        "val/dropped_tasks": [(3, 0.0), (7, 0.0)],
        "rollout/return": [(1, 0.2), (3, 0.3), (5, 0.4), (7, 0.5)],
    }
    assert metric_points(scalars, "val/success_rate") == {0: 0.1, 2: 0.5, 4: 0.9}
    assert metric_points(scalars, "val/return") == {2: 0.5, 4: 0.9}
    assert metric_points(scalars, "rollout/return") == {1: 0.2, 2: 0.3, 3: 0.4, 4: 0.5}
    assert metric_points(scalars, "val/typo") == {}


def test_before_and_first_iteration_may_share_step_0() -> None:
    epochs = [(0, 0.0), (1, 1.0)]
    both = {"epoch": epochs, "val/success_rate": [(0, 0.1), (0, 0.4), (1, 0.5)], "val/dropped_tasks": [(0, 0), (1, 0)]}
    assert metric_points(both, "val/success_rate") == {0: 0.1, 1: 0.4, 2: 0.5}
    no_sanity_check = {**both, "val/success_rate": [(0, 0.4), (1, 0.5)]}
    assert metric_points(no_sanity_check, "val/success_rate") == {1: 0.4, 2: 0.5}
    rarely_validated = {**both, "val/success_rate": [(0, 0.1), (1, 0.5)], "val/dropped_tasks": [(1, 0)]}
    assert metric_points(rarely_validated, "val/success_rate") == {0: 0.1, 2: 0.5}


def test_resumed_run_writes_over_its_old_points() -> None:
    """Killed after iteration 2 with the checkpoint of iteration 1: the sanity check at step 2 is no point."""
    scalars = {
        "epoch": [(1, 0.0), (3, 1.0), (3, 1.0), (5, 2.0)],
        "val/success_rate": [(0, 0.1), (1, 0.2), (3, 0.6), (2, 0.2), (3, 0.3), (5, 0.4)],
        "val/dropped_tasks": [(1, 0.0), (3, 0.0), (3, 0.0), (5, 0.0)],
        "time/rollout_s": [(1, 5.0), (3, 6.0), (3, 7.0), (5, 8.0)],
        "time/update_s": [(1, 1.0), (3, 1.0), (3, 1.0), (5, 1.0)],
    }
    assert metric_points(scalars, "val/success_rate") == {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4}
    assert training_seconds(scalars) == 5 + 7 + 8 + 3


def test_scalars_are_what_was_logged() -> None:
    """Event files keep 32 bits: 0.105 - 0.1 would not equal 0.115 - 0.11, and ties in the sign-flip test be lost."""
    assert as_logged(0.10499999672174454) == 0.105
    assert as_logged(0.0) == 0.0 and math.isnan(as_logged(math.nan))


def lost_validation(at: int) -> Scalars:
    """Four iterations of one step, each validated; that of iteration `at` lost all its tasks."""
    success = [(step, math.nan if step + 1 == at else 0.1 * (step + 1)) for step in range(4)]
    return {
        "epoch": [(step, float(step)) for step in range(4)],
        "val/success_rate": success,
        "val/return": [(step, 2 * value) for step, value in success if not math.isnan(value)],
        "val/dropped_tasks": [(step, float(math.isnan(value))) for step, value in success],
    }


@pytest.mark.parametrize("metric", ["val/success_rate", "val/return"])
@pytest.mark.parametrize(("at", "last_points", "missing"), [(4, 1, True), (3, 1, False), (3, 2, True), (2, 2, False)])
def test_a_lost_validation_has_no_older_value(
    at: int, last_points: int, missing: bool, metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare_results, "read_scalars", lambda _: lost_validation(at))
    results = Results(metric, "grpo", last_points, also=["val/return"])
    results.add_arm("grpo", "")
    results.add_run("grpo", 1, tmp_path, {"state": "done", "codes": []}, tmp_path / "log.txt")
    assert [f"has no {metric} at its end" in f.reason for f in results.failures] == [True] * missing
    if not missing:
        assert list(results.arms["grpo"][1].points) == [i for i in range(1, 5) if i != at]
        assert results.arms["grpo"][1].also == {"val/return": pytest.approx(0.8)}


def test_a_further_curve_that_lost_its_end_has_no_last_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scalars = lost_validation(4) | {"rollout/return": [(step, 0.5) for step in range(4)]}
    monkeypatch.setattr(compare_results, "read_scalars", lambda _: scalars)
    results = Results("rollout/return", "grpo", also=["val/return", "val/success_rate"])
    results.add_arm("grpo", "")
    results.add_run("grpo", 1, tmp_path, {"state": "done", "codes": []}, tmp_path / "log.txt")
    assert results.arms["grpo"][1].also == {}


# ---- report


def results_of(**arms: dict[int, dict[int, float]]) -> Results:
    results = Results("val/success_rate", next(iter(arms)))
    for name, curves in arms.items():
        results.add_arm(name, f"--config={name}.yaml")
        results.arms[name] = {seed: Curve(points, 60.0 + seed) for seed, points in curves.items()}
    return results


def test_row_of_an_arm() -> None:
    base = {1: {0: 0.1, 2: 0.4}, 2: {0: 0.1, 2: 0.6}, 3: {0: 0.1, 2: 0.2}}
    paw = {1: {0: 0.1, 2: 0.5}, 2: {0: 0.1, 2: 0.9}}
    first, row = summarise(results_of(grpo=base, paw=paw))
    assert (first.arm, first.difference, first.probability_of_improvement) == ("grpo", None, None)
    assert (row.seeds, row.before, row.last, row.pairs) == ([1, 2], 0.1, pytest.approx(0.7), 2)
    assert row.difference == pytest.approx(0.2), "0.1 and 0.3"
    assert row.difference_interval == pytest.approx((-1.0706, 1.4706), abs=1e-4), "0.2 -+ 12.706 * 0.1414 / sqrt(2)"
    assert row.probability_of_improvement == pytest.approx(5 / 6), "of six pairs, only 0.5 against 0.6 is none"
    assert row.area == pytest.approx(0.4), "(0.3 + 0.5) / 2"
    assert row.training_seconds == 61.5


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([], "has no seed in common with grpo"),
        ([0.3], "one seed has no interval, so nothing is claimed"),
        # Mean 0.1333, standard deviation 0.2082: 4.3027 * 0.2082 / sqrt(3) = 0.5171. Four of 8 signs reach 0.4.
        ([0.3, -0.1, 0.2], "no difference from grpo established (+0.133, 95 % interval -0.384 to +0.650, 3 seeds"),
        ([0.3, -0.1, 0.2], "3 seeds, adjusted p 0.500)."),
        ([0.0, 0.0], "no difference from grpo established"),
        # Mean 0.2, standard deviation 0.01: 4.3027 * 0.01 / sqrt(3) = 0.0248. But two of 8 signs reach 0.6.
        ([0.21, 0.19, 0.2], "no difference from grpo established (+0.200, 95 % interval +0.175 to +0.225, 3 seeds"),
        ([0.21, 0.19, 0.2], "3 seeds, adjusted p 0.250)."),
        ([-0.3] * 6, "ends 0.300 below grpo (95 % interval -0.300 to -0.300, 6 seeds, adjusted p 0.031)."),
        # All of one sign: 2 of 64. Mean 0.5, standard deviation 0.9830: 2.5706 * 0.9830 / sqrt(6) = 1.0316 > 0.5.
        ([2.5, 0.1, 0.1, 0.1, 0.1, 0.1], "no difference from grpo established (+0.500, 95 % interval -0.528 to +1.528"),
    ],
)
def test_verdict_claims_results_alone(differences: list[float], expected: str) -> None:
    base = {seed: {1: 0.5} for seed in range(1, 7)}
    arm = {seed: {1: 0.5 + difference} for seed, difference in enumerate(differences, start=1)}
    row = summarise(results_of(grpo=base, paw=arm))[1]
    assert expected in words.verdict(row, "val/success_rate")
    assert row.is_result == (differences == [-0.3] * 6)


def grouped_results() -> Results:
    """GRPO's and GiGPO's arms, each against its own base; one arm against another group's base."""
    results = Results("val/return", "grpo-off", also=["val/observation_nll"])
    for name, base, group, value in [
        ("grpo-paw", None, "GRPO", 0.5),
        ("grpo-off", None, "GRPO", 0.4),
        ("gigpo-off", "gigpo-off", "GiGPO", 0.8),
        ("gigpo-paw", "gigpo-off", "GiGPO", 0.7),
        ("gigpo-echo", "grpo-off", "GiGPO", 0.9),
    ]:
        results.add_arm(name, f"--config={name}.yaml", base, group)
        also = {} if "off" in name else {"val/observation_nll": 2.5}
        results.arms[name] = {seed: Curve({0: 0.0, 1: value}, 60.0, also) for seed in (1, 2)}
    return results


def test_every_arm_is_compared_with_its_base_in_its_table() -> None:
    results = grouped_results()
    rows = {row.arm: row for row in summarise(results)}
    assert list(rows) == ["grpo-off", "grpo-paw", "gigpo-off", "gigpo-paw", "gigpo-echo"], "bases first, by table"
    differences = {name: row.difference for name, row in rows.items() if row.difference is not None}
    # 0.5 - 0.4, 0.7 - 0.8, and 0.9 - 0.4 across the tables
    assert differences == pytest.approx({"grpo-paw": 0.1, "gigpo-paw": -0.1, "gigpo-echo": 0.5})
    listed = list(rows.values())
    text = report.markdown(results, words.sections(results, listed, []), words.notes(results, listed, []))
    first, second = text.split("## GiGPO")
    assert "## GRPO" in first and "difference from grpo-off" in first and "gigpo" not in first
    assert "difference from its base" in second and "-0.100 [-0.100, -0.100] (gigpo-off)" in second
    assert "gigpo-paw: no difference from gigpo-off established (-0.100" in second
    assert "| 60 s | 2.500 |" in first and "| 60 s | - |" in first, "the further column"


def test_p_values_are_adjusted_for_their_own_table_alone() -> None:
    """Three equal steps have 2/8 = 25 %; two such arms of one table 50 %, whatever their bases; one of another 25 %."""
    results = Results("val/return", "grpo")
    for name, base, group, value in [
        ("grpo", "grpo", "A", 0.0),
        ("gigpo", "gigpo", "A", 0.0),
        ("grpo_paw", "grpo", "A", 0.5),
        ("gigpo_paw", "gigpo", "A", 0.5),
        ("grpo_echo", "grpo", "B", 0.5),
    ]:
        results.add_arm(name, "", base, group)
        results.arms[name] = {seed: Curve({1: value}, 60.0) for seed in (1, 2, 3)}
    rows = {row.arm: row for row in summarise(results)}
    p_values = {name: (row.p_value, row.adjusted_p_value) for name, row in rows.items() if row.pairs}
    assert p_values == {"grpo_paw": (0.25, 0.5), "gigpo_paw": (0.25, 0.5), "grpo_echo": (0.25, 0.25)}
    text = " ".join(words.notes(results, list(rows.values()), []))
    assert "over the m differences of a table, whatever their bases, and not over other tables" in text
    assert "A: 3 seeds give no adjusted p value below 0.500, so no difference can count as a result; 7 seeds" in text
    assert "B: 3 seeds give no adjusted p value below 0.250, so no difference can count as a result; 6 seeds" in text
    assert "a report of 2 tables holds one in up to 10 %" in text


def test_enough_seeds_are_not_called_too_few() -> None:
    """Six equal steps have 2/64 = 3 %: one difference can be a result, two cannot with 6.2 %."""
    curves = {seed: {1: 0.5} for seed in range(1, 7)}
    for arms, reached in ({"a": curves, "b": curves}, True), ({"a": curves, "b": curves, "c": curves}, False):
        results = results_of(**arms)
        assert (
            "no adjusted p value below 0.062" in " ".join(words.notes(results, summarise(results), []))
        ) is not reached


def further_results() -> Results:
    """paw against echo, by seeds: 0.4, 0.2, -0.1. Against ce: 0.1, 0.1, 0.1."""
    ends = {"grpo": [0.1, 0.1, 0.1], "paw": [0.6, 0.5, 0.4], "echo": [0.2, 0.3, 0.5], "ce": [0.5, 0.4, 0.3]}
    results = results_of(**{name: {seed: {1: end} for seed, end in enumerate(e)} for name, e in ends.items()})
    results.further_pairs = [("paw", "echo"), ("paw", "ce")]
    return results


def test_further_differences_are_paired_and_adjusted_over_their_list() -> None:
    first, second = further_differences(further_results())
    assert (first.arm, first.base, first.pairs, first.difference) == ("paw", "echo", 3, pytest.approx(0.5 / 3))
    # 0.4, 0.2, -0.1: standard deviation 0.2517, half width 4.3027 * 0.2517 / sqrt(3) = 0.6252
    assert first.difference_interval == pytest.approx((-0.4585, 0.7918), abs=1e-4)
    # |sum| of the signed 0.4, 0.2, 0.1 is 0.7, 0.5 (twice each), 0.3, 0.1: four of eight reach the 0.5 that came.
    assert (first.p_value, second.p_value) == (0.5, 0.25)
    assert (first.adjusted_p_value, second.adjusted_p_value) == (0.5, 0.5), "twice the smaller, and the larger itself"
    assert summarise(further_results())[1].adjusted_p_value == 0.75, "the table is not adjusted for them: 3 x 0.25"


def test_further_differences_are_in_every_report(tmp_path: Path) -> None:
    text = report.write(further_results(), tmp_path)
    table, rest = text.split("## Further differences")
    assert "| paw | echo | 3 | +0.167 [-0.458, +0.792] | 0.83 | 0.500 | 0.500 |" in rest, "3 + 2.5 + 2 of 9"
    assert (
        "- paw: no difference from ce established (+0.100, 95 % interval +0.100 to +0.100, 3 seeds, adjusted p 0.500)"
        in rest
    )
    assert "whether this list was made before the runs were seen" in rest and "echo | 3 |" not in table
    content = json.loads((tmp_path / "report.json").read_text())
    assert [(pair["arm"], pair["base"], pair["pairs"]) for pair in content["further_pairs"]] == [
        ("paw", "echo", 3),
        ("paw", "ce", 3),
    ]
    assert any("paw: no difference from echo established" in sentence for sentence in content["verdicts"])
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Further differences</h2>" in page and "<td>+0.167 [-0.458, +0.792]</td>" in page


def test_without_further_pairs_the_report_does_not_speak_of_them(tmp_path: Path) -> None:
    text = report.write(grouped_results(), tmp_path)
    assert "urther differences" not in text + (tmp_path / "report.html").read_text()


def test_json_and_page_hold_every_table(tmp_path: Path) -> None:
    report.write(grouped_results(), tmp_path)
    content = json.loads((tmp_path / "report.json").read_text())
    by_name = {row["arm"]: row for row in content["arms"]}
    assert (by_name["gigpo-paw"]["base"], by_name["gigpo-paw"]["group"]) == ("gigpo-off", "GiGPO")
    assert by_name["grpo-paw"]["also"] == {"val/observation_nll": 2.5}
    for key in ("interval", "difference_interval", "probability_of_improvement", "area"):
        assert by_name["grpo-paw"][key] is not None
    page = (tmp_path / "report.html").read_text()
    assert page.count("<table class='summary'>") == 2 and "<h2>GiGPO</h2>" in page


def test_last_value_of_further_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scalars = {"epoch": [(1, 0.0), (3, 1.0)], "rollout/return": [(1, 0.1), (3, 0.2)], "wm/loss": [(1, 0.9), (3, 0.8)]}
    monkeypatch.setattr(compare_results, "read_scalars", lambda _: scalars)
    results = Results("rollout/return", "grpo", also=["wm/loss", "wm/typo"])
    results.add_arm("grpo", "")
    results.add_run("grpo", 1, tmp_path, {"state": "done", "codes": []}, tmp_path / "log.txt")
    assert results.arms["grpo"][1].also == {"wm/loss": 0.8}, "a curve that a run lacks is no failure"
    assert summarise(results)[0].also == {"wm/loss": 0.8, "wm/typo": None}


def test_report_warns_of_what_cannot_be_compared() -> None:
    results = results_of(grpo={1: {4: 0.1}}, paw={1: {2: 0.1}})
    results.codes, results.changes = {"a", "b"}, ["arms.paw.arguments.0: 'a' there, 'b' now"]
    results.add_run("paw", 2, Path(), {"state": "interrupted"}, Path("log.txt"))
    rows = summarise(results)
    text = report.markdown(results, words.sections(results, rows, []), words.notes(results, rows, []))
    assert "do not end at the same iteration: 2 (paw, seed 1); 4 (grpo, seed 1)" in text
    assert "code was changed between runs" in text
    assert "made with other settings than these: arms.paw.arguments.0: 'a' there, 'b' now." in text
    assert "Not finished, and not counted: paw, seed 2 (interrupted)." in text
    assert "| paw | 1 (not finished: 2) |" in text


def test_run_that_was_never_validated_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        compare_results, "read_scalars", lambda _: {"val/success_rate": [(0, 0.1)], "epoch": [(1, 0.0)]}
    )
    results = results_of(grpo={})
    results.add_run("grpo", 1, tmp_path, {"state": "done", "codes": []}, tmp_path / "log.txt")
    assert (
        "has no val/success_rate of a trained policy; its curves are epoch, val/success" in results.failures[0].reason
    )


def test_runs_that_ended_equal_are_drawn(tmp_path: Path) -> None:
    """An interval has 12 decimals: that of three 2/3 lies 3e-13 above their mean, and no bar is that short."""
    results = results_of(grpo={seed: {1: 2 / 3} for seed in (1, 2, 3)})
    assert summarise(results)[0].interval[0] > 2 / 3
    assert "0.667 [0.667, 0.667]" in report.write(results, tmp_path)


def drawn(monkeypatch: pytest.MonkeyPatch, results: Results, path: Path) -> list[Axes]:
    """The panels of the picture."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, _: figures.append(figure))
    plot(results, summarise(results), path)
    return figures[0].axes


def test_without_a_point_on_the_way_the_ends_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured before and after alone: a line between the two would say nothing about the way."""
    results = results_of(grpo={1: {0: 0.1, 9: 0.5}, 2: {0: 0.2, 9: 0.7}}, paw={1: {9: 0.6}}, failed={})
    [axes] = drawn(monkeypatch, results, tmp_path)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["grpo", "paw", "failed"]
    places = {x for line in axes.lines for x in line.get_xdata()}
    assert {0.5, 0.7, 0.6} <= places, "every run's end"
    assert 0.15000000000000002 in places and not {0.1, 0.2} & places, "before training, as its mean"
    results.arms["paw"][1].points[4] = 0.3
    [axes] = drawn(monkeypatch, results, tmp_path)
    assert [text.get_text() for text in axes.get_legend().texts] == ["grpo (mean of 2)", "paw"]


def test_page_needs_nothing_else_and_escapes_logs(tmp_path: Path) -> None:
    results = results_of(grpo={1: {1: 0.5}, 2: {1: 0.7}})
    results.failures.append(Failure("grpo", 3, "ended with exit code 1", "<script>alert(1)</script>"))
    report.write(results, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "0.600 [-0.671, 1.871]" in page, "0.6 -+ 12.706 * 0.1"
    assert "1, 2 (failed: 3)" in page
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "http" not in page and "src=" not in page and "@import" not in page and "url(" not in page


EVIL = "<b>\"'&</b></script><script>alert(1)</script>"


def test_nothing_from_a_file_becomes_part_of_the_page(tmp_path: Path) -> None:
    """Arms, groups, metric, options and reasons are read from files; the page has two scripts of data and its own."""
    results = Results(EVIL, EVIL, also=[EVIL + "2"], further_pairs=[(EVIL, EVIL)])
    results.tags = {EVIL + "2"}
    results.add_arm(EVIL, EVIL, group=EVIL)
    results.add_arm("paw", "", group="plain")
    for name in (EVIL, "paw"):
        results.arms[name] = {1: Curve({0: 0.1, 1: 0.2, 2: 0.5}, 1.0), 2: Curve({0: 0.1, 1: 0.3, 2: 0.6}, 1.0)}
    results.failures.append(Failure(EVIL, 3, EVIL, EVIL))
    results.unfinished.append(Failure(EVIL, 4, EVIL, EVIL))
    report.write(results, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<b>" not in page and "alert(1)</script>" not in page.lower()
    assert page.count("<script") == page.count("</script>") == 3
    assert "&lt;b&gt;&quot;&#x27;&amp;" in page and "\\u003cb\\u003e" in page, "it is there, as text"
    [first, _] = [json.loads(text) for text in re.findall(r"application/json'>(.*?)</script>", page)]
    assert first["series"][0]["label"] == f"{EVIL}, seed 1", "and the script reads what was written"


def test_the_page_holds_every_point(tmp_path: Path) -> None:
    """Two runs and their mean: (0.2 + 0.3) / 2 and (0.5 + 0.6) / 2. One arm's only run is its own mean."""
    curves = {1: {0: 0.1, 1: 0.2, 2: 0.5}, 2: {0: 0.1, 1: 0.3, 2: 0.6}}
    report.write(results_of(grpo=curves, paw={1: {1: 0.4, 2: 0.9}}), tmp_path)
    page = (tmp_path / "report.html").read_text()
    [record] = [json.loads(text) for text in re.findall(r"application/json'>(.*?)</script>", page)]
    lines = {line["label"]: line["points"] for line in record["series"]}
    assert list(lines) == ["grpo, seed 1", "grpo, seed 2", "grpo, mean of 2", "paw, seed 1"]
    assert lines["grpo, seed 2"] == [[0, 0.1], [1, 0.3], [2, 0.6]]
    assert lines["grpo, mean of 2"] == [[0, 0.1], [1, 0.25], [2, 0.55]]
    assert (record["x"], record["y"]) == ([0, 2], [0, 1])
    # 0.5 of 0 to 1 and of 0 to 2 lies half way up the square of 1000, at its right edge
    assert "500.0 800.0L1000.0 500.0" in page, "seed 1 of grpo, without a script"
    assert "data-tip='paw, seed 1: 0.900'" in page and "data-tip='grpo, before training: 0.100'" in page


def test_axes_have_round_numbers() -> None:
    assert axis([0.12, 0.71]).ticks == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert axis([0.0, 80.0], whole=True).ticks == (0, 20, 40, 60, 80)
    assert axis([1.0, 3.0], whole=True).ticks == (1, 2, 3)
    assert axis([0.5]).low <= 0.5 < axis([0.5]).high
    assert axis([-0.3, 0.3]).share(0.0) == pytest.approx(50)


def test_a_further_curve_that_no_run_has_is_named_and_has_no_column(tmp_path: Path) -> None:
    results = grouped_results()
    results.also.append("wm/effective_wieght")
    results.tags = {"val/observation_nll", "wm/effective_weight", "epoch"}
    text = report.write(results, tmp_path)
    assert "also has wm/effective_wieght, which no run has; the nearest curve is wm/effective_weight." in text
    assert text.count("wieght") == 1 and "| training | val/observation_nll |" in text
    results.tags = set()
    assert "Warning" not in report.write(results, tmp_path), "before the first run there is nothing to tell by"


def test_an_interim_report_says_what_it_is_adjusted_for() -> None:
    """Three arms against grpo, two with two seeds and one with one, which has no chance: 2 differences of 3."""
    two, one = {1: {1: 0.5}, 2: {1: 0.6}}, {1: {1: 0.5}}
    results = results_of(grpo=two, paw=two, echo=two, ce=one)
    text = " ".join(words.notes(results, summarise(results), []))
    assert "adjusted for the 2 differences that have runs so far, not for all 3: this is an interim report" in text
    results = results_of(grpo=two, paw=two, echo=two)
    assert "interim" not in " ".join(words.notes(results, summarise(results), []))


def test_page_explains_its_columns_and_links_every_run(tmp_path: Path) -> None:
    results = results_of(grpo={1: {0: 0.1, 1: 0.5}, 2: {0: 0.1, 1: 0.7}}, paw={2: {0: 0.1, 1: 0.6}})
    results.failures.append(Failure("paw", 1, "ended with exit code 1", ""))
    for run in ("grpo/seed_1", "grpo/seed_2", "paw/seed_1", "paw/seed_2"):
        (tmp_path / run).mkdir(parents=True)
    report.write(results, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "P(arm &gt; base) is the share of all pairs" in page and "Before is val/success_rate of the policy" in page
    assert ">grpo</th><td><a href='grpo/seed_1/'>0.500</a></td><td><a href='grpo/seed_2/'>0.700</a></td>" in page
    cells = "<td><a href='paw/seed_1/'>failed</a></td><td><a href='paw/seed_2/'>0.600</a><small>-0.100</small></td>"
    assert f">paw</th>{cells}" in page, "0.6 - 0.7 with the same seed"
    assert "<abbr title='Mean height of the curve over iterations" in page and "<dt>area</dt>" in page


def test_a_run_with_a_page_of_its_episodes_has_a_link_to_it(tmp_path: Path) -> None:
    (tmp_path / "grpo" / "seed_2").mkdir(parents=True)
    (tmp_path / "grpo" / "seed_2" / "view.html").touch()
    report.write(results_of(grpo={1: {1: 0.5}, 2: {1: 0.7}}), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.count(">episodes</a>") == 1 and "<a href='grpo/seed_2/view.html'>episodes</a>" in page
