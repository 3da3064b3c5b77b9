"""The comparison tool: its statistics by hand, its processes with stand-ins, and all of it on the toy world."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.runs import TOY, arguments

sys.path.insert(0, str(ROOT / "tools"))  # tools are scripts: each finds its neighbours in its own folder

import compare
import compare_report as report
import compare_runs
import compare_statistics as statistics

# ---- statistics


def test_final_value_is_the_mean_of_the_last_points() -> None:
    curve = {4: 0.5, 0: 0.1, 2: 0.3}
    assert statistics.final_value(curve) == 0.5
    assert statistics.final_value(curve, 2) == pytest.approx(0.4)


def test_area_is_the_mean_height() -> None:
    # 0 to 2: mean height 0.5, area 1; 2 to 6: height 1, area 4; together 5 over a width of 6
    assert statistics.area_under_curve({0: 0.0, 6: 1.0, 2: 1.0}) == pytest.approx(5 / 6)
    assert statistics.area_under_curve({3: 0.7}) == 0.7


def test_bootstrap_interval_by_hand() -> None:
    # Means of two draws from {0, 1} are 0, 1/2, 1 with 1/4, 1/2, 1/4: the outer 2.5 % are 0 and 1.
    assert statistics.bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)
    # Six draws hit the single 1 k times, k ~ B(6, 1/6): P(0) = 0.33; P(k <= 2) = 0.938 and P(k <= 3) = 0.991.
    assert statistics.bootstrap_interval([0.0, 0.0, 1.0, 0.0, 0.0, 0.0]) == (0.0, pytest.approx(0.5))
    # Three draws are all the smallest in 1/27 > 2.5 % of cases.
    assert statistics.bootstrap_interval([0.2, 0.9, 0.4]) == pytest.approx((0.2, 0.9))
    assert statistics.bootstrap_interval([0.4]) is None


def test_bootstrap_interval_is_reproducible() -> None:
    values = [0.31, 0.57, 0.12, 0.44, 0.73, 0.29, 0.66]
    assert statistics.bootstrap_interval(values) == statistics.bootstrap_interval(values)


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


def test_chance_of_difference_by_hand() -> None:
    # Of the 8 signs of three differences only +++ and --- sum to 0.6 or more; of 64, two.
    assert statistics.chance_of_difference([0.3, 0.1, 0.2]) == 0.25
    assert statistics.chance_of_difference([-0.3] * 6) == 1 / 32
    # |+-3 +-1| is 4, 2, 2, 4 and every one reaches the observed 2.
    assert statistics.chance_of_difference([3.0, -1.0]) == 1
    assert statistics.chance_of_difference([0.0, 0.0]) == 1
    assert statistics.chance_of_difference([0.3]) is None
    # 20 pairs are sampled: a sum of at least 16 of 20 equal steps is 18 or more agreeing signs on either side,
    # 2 (1 + 20 + 190) / 2^20 = 0.0004.
    assert statistics.chance_of_difference([1.0] * 18 + [-1.0] * 2) == pytest.approx(0.0004, abs=0.0006)


# ---- curves


def test_points_are_counted_in_iterations() -> None:
    """Two optimizer steps per iteration, validation after every second one, "before" at step 0."""
    scalars = {
        "epoch": [(1, 0.0), (3, 1.0), (3, 1.0), (5, 2.0), (7, 3.0), (7, 3.0)],
        "val/success_rate": [(0, 0.1), (3, 0.5), (7, 0.9)],
        "val/return": [(3, 0.5), (7, 0.9)],
        "val/dropped_tasks": [(3, 0.0), (7, 0.0)],
        "rollout/return": [(1, 0.2), (3, 0.3), (5, 0.4), (7, 0.5)],
    }
    assert report.metric_points(scalars, "val/success_rate") == {0: 0.1, 2: 0.5, 4: 0.9}
    assert report.metric_points(scalars, "val/return") == {2: 0.5, 4: 0.9}
    assert report.metric_points(scalars, "rollout/return") == {1: 0.2, 2: 0.3, 3: 0.4, 4: 0.5}
    assert report.metric_points(scalars, "val/typo") == {}


def test_before_and_first_iteration_may_share_step_0() -> None:
    epochs = [(0, 0.0), (1, 1.0)]
    both = {"epoch": epochs, "val/success_rate": [(0, 0.1), (0, 0.4), (1, 0.5)], "val/dropped_tasks": [(0, 0), (1, 0)]}
    assert report.metric_points(both, "val/success_rate") == {0: 0.1, 1: 0.4, 2: 0.5}
    no_sanity_check = {**both, "val/success_rate": [(0, 0.4), (1, 0.5)]}
    assert report.metric_points(no_sanity_check, "val/success_rate") == {1: 0.4, 2: 0.5}
    rarely_validated = {**both, "val/success_rate": [(0, 0.1), (1, 0.5)], "val/dropped_tasks": [(1, 0)]}
    assert report.metric_points(rarely_validated, "val/success_rate") == {0: 0.1, 2: 0.5}


def test_resumed_run_writes_over_its_old_points() -> None:
    """Killed after iteration 2 with the checkpoint of iteration 1: the sanity check at step 2 is no point."""
    scalars = {
        "epoch": [(1, 0.0), (3, 1.0), (3, 1.0), (5, 2.0)],
        "val/success_rate": [(0, 0.1), (1, 0.2), (3, 0.6), (2, 0.2), (3, 0.3), (5, 0.4)],
        "val/dropped_tasks": [(1, 0.0), (3, 0.0), (3, 0.0), (5, 0.0)],
        "time/rollout_s": [(1, 5.0), (3, 6.0), (3, 7.0), (5, 8.0)],
        "time/update_s": [(1, 1.0), (3, 1.0), (3, 1.0), (5, 1.0)],
    }
    assert report.metric_points(scalars, "val/success_rate") == {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4}
    assert report.training_seconds(scalars) == 5 + 7 + 8 + 3


def lost_validation(at: int) -> report.Scalars:
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
    monkeypatch.setattr(report, "read_scalars", lambda _: lost_validation(at))
    results = report.Results(metric, "grpo", last_points, also=["val/return"])
    results.add_arm("grpo", "")
    results.add_run("grpo", 1, tmp_path, {"state": "done", "codes": []}, tmp_path / "log.txt")
    assert [f"has no {metric} at its end" in f.reason for f in results.failures] == [True] * missing
    if not missing:
        assert list(results.arms["grpo"][1].points) == [i for i in range(1, 5) if i != at]
        assert results.arms["grpo"][1].also == {"val/return": pytest.approx(0.8)}


def test_a_further_curve_that_lost_its_end_has_no_last_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scalars = lost_validation(4) | {"rollout/return": [(step, 0.5) for step in range(4)]}
    monkeypatch.setattr(report, "read_scalars", lambda _: scalars)
    results = report.Results("rollout/return", "grpo", also=["val/return", "val/success_rate"])
    results.add_arm("grpo", "")
    results.add_run("grpo", 1, tmp_path, {"state": "done", "codes": []}, tmp_path / "log.txt")
    assert results.arms["grpo"][1].also == {}


# ---- report


def results_of(**arms: dict[int, dict[int, float]]) -> report.Results:
    results = report.Results("val/success_rate", next(iter(arms)))
    for name, curves in arms.items():
        results.add_arm(name, f"--config={name}.yaml")
        results.arms[name] = {seed: report.Curve(points, 60.0 + seed) for seed, points in curves.items()}
    return results


def test_row_of_an_arm() -> None:
    base = {1: {0: 0.1, 2: 0.4}, 2: {0: 0.1, 2: 0.6}, 3: {0: 0.1, 2: 0.2}}
    paw = {1: {0: 0.1, 2: 0.5}, 2: {0: 0.1, 2: 0.9}}
    first, row = report.summarise(results_of(grpo=base, paw=paw))
    assert (first.arm, first.difference, first.probability_of_improvement) == ("grpo", None, None)
    assert (row.seeds, row.before, row.last, row.pairs) == ([1, 2], 0.1, pytest.approx(0.7), 2)
    assert row.difference == pytest.approx(0.2), "0.1 and 0.3"
    assert row.difference_interval == pytest.approx((0.1, 0.3))
    assert row.probability_of_improvement == pytest.approx(5 / 6), "of six pairs, only 0.5 against 0.6 is none"
    assert row.area == pytest.approx(0.4), "(0.3 + 0.5) / 2"
    assert row.training_seconds == 61.5


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([], "has no seed in common with grpo"),
        ([0.3], "one seed has no interval, so nothing is claimed"),
        ([0.3, -0.1, 0.2], "no difference from grpo detectable (+0.133, 95 % interval -0.100 to +0.300, 3 seeds)."),
        ([0.0, 0.0], "no difference from grpo detectable"),
        ([0.3, 0.1, 0.2], "ends 0.200 above grpo (95 % interval +0.100 to +0.300, 3 seeds). A hint, not a result"),
        ([0.3, 0.1, 0.2], "equal arms differ as much in 25 % of such tables"),
        ([-0.3] * 6, "ends 0.300 below grpo (95 % interval -0.300 to -0.300, 6 seeds)."),
    ],
)
def test_verdict_claims_what_the_interval_supports(differences: list[float], expected: str) -> None:
    base = {seed: {1: 0.5} for seed in range(1, 7)}
    arm = {seed: {1: 0.5 + difference} for seed, difference in enumerate(differences, start=1)}
    [sentence] = report.verdicts(results := results_of(grpo=base, paw=arm), report.summarise(results))
    assert expected in sentence
    assert ("A hint" in sentence) == (len(differences) == 3 and "above" in sentence)


def grouped_results() -> report.Results:
    """GRPO's and GiGPO's arms, each against its own base; one arm against another group's base."""
    results = report.Results("val/return", "grpo-off", also=["val/observation_nll"])
    for name, base, group, value in [
        ("grpo-paw", None, "GRPO", 0.5),
        ("grpo-off", None, "GRPO", 0.4),
        ("gigpo-off", "gigpo-off", "GiGPO", 0.8),
        ("gigpo-paw", "gigpo-off", "GiGPO", 0.7),
        ("gigpo-echo", "grpo-off", "GiGPO", 0.9),
    ]:
        results.add_arm(name, f"--config={name}.yaml", base, group)
        also = {} if "off" in name else {"val/observation_nll": 2.5}
        results.arms[name] = {seed: report.Curve({0: 0.0, 1: value}, 60.0, also) for seed in (1, 2)}
    return results


def test_every_arm_is_compared_with_its_base_in_its_table() -> None:
    results = grouped_results()
    rows = {row.arm: row for row in report.summarise(results)}
    assert list(rows) == ["grpo-off", "grpo-paw", "gigpo-off", "gigpo-paw", "gigpo-echo"], "bases first, by table"
    differences = {name: row.difference for name, row in rows.items() if row.difference is not None}
    # 0.5 - 0.4, 0.7 - 0.8, and 0.9 - 0.4 across the tables
    assert differences == pytest.approx({"grpo-paw": 0.1, "gigpo-paw": -0.1, "gigpo-echo": 0.5})
    text = report.markdown(results, list(rows.values()))
    first, second = text.split("## GiGPO")
    assert "## GRPO" in first and "difference from grpo-off" in first and "gigpo" not in first
    assert "difference from its base" in second and "-0.100 [-0.100, -0.100] (gigpo-off)" in second
    assert "gigpo-paw: val/return ends 0.100 below gigpo-off" in second
    assert "| 60 s | 2.500 |" in first and "| 60 s | - |" in first, "the further column"


def test_seeds_in_a_row_are_a_range() -> None:
    assert report.ranges([1, 2, 3, 5, 7, 8]) == "1-3, 5, 7, 8"
    assert report.ranges([]) == ""


def test_json_and_page_hold_every_table(tmp_path: Path) -> None:
    report.write(grouped_results(), tmp_path)
    content = json.loads((tmp_path / "report.json").read_text())
    by_name = {row["arm"]: row for row in content["arms"]}
    assert (by_name["gigpo-paw"]["base"], by_name["gigpo-paw"]["group"]) == ("gigpo-off", "GiGPO")
    assert by_name["grpo-paw"]["also"] == {"val/observation_nll": 2.5}
    for key in ("interval", "difference_interval", "probability_of_improvement", "area"):
        assert by_name["grpo-paw"][key] is not None
    page = (tmp_path / "report.html").read_text()
    assert page.count("<table>") == 2 and "<h2>GiGPO</h2>" in page


def test_last_value_of_further_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scalars = {"epoch": [(1, 0.0), (3, 1.0)], "rollout/return": [(1, 0.1), (3, 0.2)], "wm/loss": [(1, 0.9), (3, 0.8)]}
    monkeypatch.setattr(report, "read_scalars", lambda _: scalars)
    results = report.Results("rollout/return", "grpo", also=["wm/loss", "wm/typo"])
    results.add_arm("grpo", "")
    results.add_run("grpo", 1, tmp_path, {"state": "done", "codes": []}, tmp_path / "log.txt")
    assert results.arms["grpo"][1].also == {"wm/loss": 0.8}, "a curve that a run lacks is no failure"
    assert report.summarise(results)[0].also == {"wm/loss": 0.8, "wm/typo": None}


def test_report_warns_of_what_cannot_be_compared() -> None:
    results = results_of(grpo={1: {4: 0.1}}, paw={1: {2: 0.1}})
    results.codes = {"a", "b"}
    results.add_run("paw", 2, Path(), {"state": "interrupted"}, Path("log.txt"))
    text = report.markdown(results, report.summarise(results))
    assert "do not end at the same iteration: 2 (paw, seed 1); 4 (grpo, seed 1)" in text
    assert "code was changed between runs" in text
    assert "Not finished, and not counted: paw, seed 2 (interrupted)." in text
    assert "| paw | 1 (not finished: 2) |" in text


def test_run_that_was_never_validated_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "read_scalars", lambda _: {"val/success_rate": [(0, 0.1)], "epoch": [(1, 0.0)]})
    results = results_of(grpo={})
    results.add_run("grpo", 1, tmp_path, {"state": "done", "codes": []}, tmp_path / "log.txt")
    assert (
        "has no val/success_rate of a trained policy; its curves are epoch, val/success" in results.failures[0].reason
    )


def test_runs_that_ended_equal_are_drawn(tmp_path: Path) -> None:
    """The resampled mean of three 0.1 is 0.1 + 1e-17: the interval lies above the mean, and no bar is that short."""
    results = results_of(grpo={seed: {1: 0.1} for seed in (1, 2, 3)})
    assert report.summarise(results)[0].interval[0] > 0.1
    assert "0.100 [0.100, 0.100]" in report.write(results, tmp_path)


def test_page_needs_nothing_else_and_escapes_logs(tmp_path: Path) -> None:
    results = results_of(grpo={1: {1: 0.5}, 2: {1: 0.7}})
    results.failures.append(report.Failure("grpo", 3, "ended with exit code 1", "<script>alert(1)</script>"))
    report.write(results, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "0.600 [0.500, 0.700]" in page
    assert "1, 2 (failed: 3)" in page
    assert "<script" not in page
    assert "http" not in page
    assert "src='data:image/png;base64,iVBOR" in page


# ---- file and folder


def write_comparison(path: Path, **changes: object) -> Path:
    (path.parent / "a.yaml").write_text("data: {groups: 8}\n")
    content = {
        "metric": "val/success_rate",
        "base": "grpo",
        "seeds": [1, 2],
        "arms": {
            "grpo": {"configs": [str(path.parent / "a.yaml")]},
            "paw": {"configs": [str(path.parent / "a.yaml")], "arguments": ["--entropy_selection.alpha=0.75"]},
        },
    }
    path.write_text(yaml.safe_dump({**content, **changes}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": "x"}, "has metrics; wanted also, arms, base"),
        ({"base": "ppo"}, "base is 'ppo'; wanted one of the arms: grpo, paw"),
        ({"arms": {"grpo": {"configs": [], "base": "ppo"}}}, "arms.grpo.base is 'ppo'; wanted one of the arms: grpo"),
        ({"arms": "grpo"}, "arms is 'grpo'; wanted names with configs"),
        ({"also": "val/return"}, "also is 'val/return'; wanted a list of curves' tags"),
        ({"seeds": [1, 1]}, "seeds is [1, 1]; wanted a list of different integers"),
        ({"last_points": 0}, "last_points is 0; wanted an integer of at least 1"),
        ({"common": "--a=1"}, "common is '--a=1'; wanted a list of --key=value"),
        ({"common": ["--a 1"]}, "common has '--a 1'; wanted --key=value"),
        ({"arms": {"grpo": {}}}, "arms.grpo lacks configs"),
        ({"arms": {"grpo": {"configs": ["no.yaml"]}}}, "arms.grpo.configs has no.yaml; wanted a file"),
        ({"arms": {"grpo": {"configs": []}, "../paw": {"configs": []}}}, "arms has '../paw'; wanted a name of letters"),
    ],
)
def test_bad_comparison_is_named(changes: dict, message: str, tmp_path: Path, capsys) -> None:
    path = write_comparison(tmp_path / "c.yaml", **changes)
    assert compare.main([str(path), "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_changed_comparison_is_refused_and_the_change_named(tmp_path: Path, output: Path) -> None:
    path = write_comparison(tmp_path / "c.yaml")
    compare.claim_folder(output, compare.read_comparison(path))
    compare.check_folder(output, compare.read_comparison(path))
    (tmp_path / "a.yaml").write_text("data: {groups: 16}\n")
    with pytest.raises(ValueError, match=r"arms\.grpo\.configs\.0\.data\.groups: 8 there, 16 now"):
        compare.check_folder(output, compare.read_comparison(path))
    assert "groups: 8" in (output / "grpo" / "config_0.yaml").read_text(), "runs read what was compared at first"
    write_comparison(path, metric="val/return")
    with pytest.raises(ValueError, match="metric: 'val/success_rate' there, 'val/return' now"):
        compare.check_folder(output, compare.read_comparison(path))


def test_what_is_shown_may_change_but_not_an_arms_base(tmp_path: Path) -> None:
    path = write_comparison(tmp_path / "c.yaml")
    plain, arms = compare.read_comparison(path).resolved(), yaml.safe_load(path.read_text())["arms"]
    arms["paw"]["group"] = "PaW"
    shown = compare.read_comparison(write_comparison(path, arms=arms, also=["wm/coefficient"]))
    assert shown.arms["paw"].group == "PaW" and compare.differences(plain, shown.resolved()) == []
    arms["paw"]["base"] = "paw"
    changed = compare.read_comparison(write_comparison(path, arms=arms)).resolved()
    assert compare.differences(plain, changed) == ["arms.paw.base: absent there, 'paw' now"]


def test_seeds_and_arms_may_be_added_but_not_dropped(tmp_path: Path) -> None:
    path = write_comparison(tmp_path / "c.yaml")
    small = compare.read_comparison(path).resolved()
    arms = yaml.safe_load(path.read_text())["arms"]
    large = compare.read_comparison(write_comparison(path, seeds=[3, 2, 1], arms={**arms, "new": arms["paw"]}))
    assert compare.differences(small, large.resolved()) == []
    changes = "\n".join(compare.differences(large.resolved(), small))
    assert "arms.new.arguments.0: '--entropy_selection.alpha=0.75' there, absent now" in changes
    assert "seeds.2: 1 there, absent now" in changes


def test_foreign_folder_is_refused(tmp_path: Path, output: Path, capsys) -> None:
    (output / "thesis.tex").touch()
    path = write_comparison(tmp_path / "c.yaml")
    assert compare.main([str(path), "--output", str(output)]) == 2
    assert "holds something else than a comparison" in capsys.readouterr().err
    assert {path.name for path in output.iterdir()} <= {"thesis.tex", ".lock"}


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "compare").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_comparisons_are_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert len(compare.read_comparison(path).resolved()["arms"]) > 1


# ---- processes, with a stand-in for training

STAND_IN = """
import pathlib, signal, sys, time
options = dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[1:])
logger = "trainer.logger.init_args."
folder = pathlib.Path(options[logger + "save_dir"], options[logger + "name"], options[logger + "version"])
def stop(number, _):
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").touch()
    sys.exit(128 + number)
if options["behaviour"] != "unprepared":
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
print("fit:  50%|", flush=True)
with open(folder.parent.parent / "order.txt", "a") as order:
    order.write("start\\n")
if options["behaviour"] in ("wait", "unprepared") and "ckpt_path" not in options:
    time.sleep(60)
with open(folder.parent.parent / "order.txt", "a") as order:
    order.write("end\\n")
sys.exit("no such key" if options["behaviour"] == "crash" else 0)
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setattr(compare_runs, "LAUNCHER", [sys.executable, str(tmp_path / "stand_in.py")])
    monkeypatch.setattr(compare_runs, "POLL_SECONDS", 0.02)


def runs_of(output: Path, *behaviours: str) -> list[compare_runs.Run]:
    return [
        compare_runs.Run(output, f"arm{number}", 1, (), (f"--behaviour={behaviour}",))
        for number, behaviour in enumerate(behaviours)
    ]


def execute(runs: list[compare_runs.Run], jobs: int) -> bool:
    with compare_runs.locked(runs[0].output) as lock:
        return compare_runs.execute(runs, jobs, lock)


def states(runs: list[compare_runs.Run]) -> list[str]:
    return [run.outcome()["state"] for run in runs]


def wait_until(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def count(output: Path, word: str) -> int:
    order = output / "order.txt"
    return order.read_text().split().count(word) if order.exists() else 0


def test_crash_does_not_stop_the_others(output: Path, stand_in: None) -> None:
    runs = runs_of(output, "crash", "work", "work")
    assert not execute(runs, jobs=1)
    assert states(runs) == ["failed", "done", "done"]
    assert "no such key" in report.tail(runs[0].log)
    assert (output / "order.txt").read_text().split() == ["start", "end"] * 3, "one job at a time"


def test_progress_off_a_terminal_is_a_line_now_and_then(output: Path, stand_in: None, capfd) -> None:
    execute(runs_of(output, "work", "work"), jobs=2)
    lines = capfd.readouterr().err.splitlines()
    assert sorted(line for line in lines if line.startswith("arm")) == ["arm0, seed 1: done", "arm1, seed 1: done"]
    assert "compare: 100%" in lines[-1] and "2.0/2 runs" in lines[-1] and "0 at work" in lines[-1]
    assert not any("\r" in line for line in lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_stops_gracefully_and_the_same_command_goes_on(number: int, output: Path, stand_in: None) -> None:
    runs = runs_of(output, "wait", "wait", "work")

    def interrupt() -> None:
        wait_until(lambda: count(output, "start") == 2)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert execute(runs, jobs=2)
    thread.join()
    assert states(runs) == ["interrupted", "interrupted", "not started"]
    assert not execute(runs, jobs=2)
    assert states(runs) == ["done"] * 3
    assert f"--ckpt_path={runs[0].checkpoint}" in runs[0].log.read_text()


@pytest.mark.parametrize("behaviour", ["wait", "unprepared"])
def test_a_run_that_somebody_else_stops_is_not_done(behaviour: str, output: Path, stand_in: None) -> None:
    """After its iteration with 128 + 15, or at once, before it has taken the signal over, with -15."""
    runs = runs_of(output, behaviour, "work")

    def stop() -> None:
        wait_until(lambda: count(output, "start") == 1)
        os.kill(runs[0].outcome()["process"], signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    assert not execute(runs, jobs=1)
    thread.join()
    assert states(runs) == ["interrupted", "done"], "the others go on"


def test_a_comparison_with_a_run_that_was_stopped_is_not_done(
    output: Path, stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(report, "read_scalars", lambda _: {"epoch": [(1, 0.0)], "rollout/return": [(1, 0.5)]})
    config = {"configs": [str(tmp_path / "a.yaml")]}
    arms = {
        "grpo": {**config, "arguments": ["--behaviour=work"]},
        "paw": {**config, "arguments": ["--behaviour=wait"]},
    }
    path = write_comparison(tmp_path / "c.yaml", metric="rollout/return", seeds=[1], arms=arms)
    command = [str(path), "--output", str(output), "--jobs", "1"]

    def stop() -> None:
        wait_until(lambda: count(output, "start") == 2)
        os.kill(json.loads((output / "paw" / "seed_1" / "outcome.json").read_text())["process"], signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    assert compare.main(command) == 1
    thread.join()
    printed = capsys.readouterr()
    assert "not finished: paw, seed 1 (interrupted); the same command goes on" in printed.err
    assert "| paw | none (not finished: 1) |" in printed.out
    assert compare.main([*command, "--report-only"]) == 1
    assert compare.main(command) == 0, "it goes on, and is done"


def test_runs_that_outlive_a_killed_comparison_keep_the_folder(output: Path, stand_in: None) -> None:
    [run] = runs_of(output, "wait")
    with compare_runs.locked(output) as lock:
        child = compare_runs.Child(run, lock)
    wait_until(lambda: count(output, "start") == 1)
    assert run.progress() == 0.5
    with pytest.raises(ValueError, match=rf"is at work.*runs: {child.process.pid}\)"), compare_runs.locked(output):
        pass
    child.interrupt(1)
    wait_until(child.ended)
    with compare_runs.locked(output):
        pass


# ---- all of it


def test_end_to_end(tiny_model_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Three real runs: two arms that work, and one with a key that does not exist."""
    monkeypatch.chdir(ROOT)
    (tmp_path / "a.yaml").write_text("seed_everything: 0\n")
    settings = {**TOY, "model.path": tiny_model_dir, "trainer.num_sanity_val_steps": -1, "policy_export.folder": "null"}
    config = {"configs": [str(tmp_path / "a.yaml")]}
    arms = {
        "paw": {**config, "arguments": ["--entropy_selection.alpha=0.75"]},
        "grpo": {**config, "arguments": ["--entropy_selection.alpha=0"]},
        "broken": {**config, "arguments": ["--entropy_selection.alfa=0.75"]},
    }
    path = write_comparison(tmp_path / "c.yaml", seeds=[1], arms=arms, common=arguments(settings))
    output = tmp_path / "out"
    command = [str(path), "--output", str(output), "--jobs", "2"]

    assert compare.main(command) == 1, "one arm failed"
    content = json.loads((output / "report.json").read_text())
    rows = {row["arm"]: row for row in content["arms"]}
    assert [rows[name]["seeds"] for name in ("grpo", "paw", "broken")] == [[1], [1], []]
    assert list(content["curves"]["paw"]["1"]["points"]) == ["0", "1", "2"], "before, and after both iterations"
    assert rows["paw"]["last"] == content["curves"]["paw"]["1"]["points"]["2"]
    assert rows["paw"]["training_seconds"] > 0
    [failure] = content["failures"]
    assert (failure["arm"], failure["seed"]) == ("broken", 1)
    assert "unrecognized arguments: --entropy_selection.alfa=0.75" in failure["log"]
    text, page = ((output / name).read_text() for name in ("report.md", "report.html"))
    assert f"| paw | 1 | {rows['paw']['before']:.3f} | {rows['paw']['last']:.3f} [-] |" in text
    assert "| broken | none (failed: 1) | - | - | - | - | - | - |" in text
    assert "unrecognized arguments" in page and f"{rows['paw']['last']:.3f} [-]" in page
    assert "one seed has no interval" in text

    capsys.readouterr()
    monkeypatch.setattr(compare_runs, "LAUNCHER", [sys.executable, "-c", "raise SystemExit(3)"])
    assert compare.main(command) == 1
    assert "broken, seed 1 ended with exit code 3" in capsys.readouterr().out, "what failed is tried again"
    assert json.loads((output / "report.json").read_text())["curves"] == content["curves"], "what is done is not"
    assert compare.main([*command, "--report-only"]) == 1
