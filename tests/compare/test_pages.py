"""The pages of comparisons hold the numbers of docs/comparisons.json, as the report would write them today."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

import pytest

from paw_lightning.compare.command import gather, report
from paw_lightning.compare.elsewhere import read_reports
from paw_lightning.compare.statistics import holm, sign_flip_p_value, t_interval
from paw_lightning.compare.study import read_comparison
from paw_lightning.rollout_files.run import spans
from tests.conftest import ROOT

SAVED = json.loads((ROOT / "docs" / "comparisons.json").read_text())
"""{comparison: tasks that were played for a rate, tasks won at the end of every run, differences paired by seed}."""
PAGES = {
    "study": "study",
    "household": "household_comparison",
    "methods": "methods",
    "shop": "worlds",
    "search": "worlds",
    "alfworld": "alfworld_small",
}
LINES = {name: (ROOT / "docs" / f"{page}.md").read_text().splitlines() for name, page in PAGES.items()}
PAIRS = [(name, *pair) for name, saved in SAVED.items() for pair in saved["differences"]]


REPORTS = {"states": "algorithms", "sampling": "dynamic_sampling", "weight": "weight", "credit": "algorithms"}
"""{comparison whose report is in docs/reports: its page}."""


def cell(rates: list[float], sign: str = "") -> str:
    low, high = t_interval(rates)
    return f"{mean(rates):{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


@pytest.mark.parametrize("name", PAGES)
def test_every_arm_has_its_mean_and_interval(name: str) -> None:
    saved = SAVED[name]
    for arm, won in saved["ends"].items():
        expected = cell([count / saved["tasks"] for count in won])
        rows = [line for line in LINES[name] if line.startswith(f"| {arm} | {saved.get('seeds', '1-')}")]
        assert sum(f"| {expected} |" in row for row in rows) == 1, expected


@pytest.mark.parametrize(
    ("name", "arm", "base", "won"), PAIRS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_difference_has_its_mean_interval_and_sentence(name: str, arm: str, base: str, won: list[int]) -> None:
    ends, tasks = SAVED[name]["ends"], SAVED[name]["tasks"]
    assert sum(won) == sum(ends[arm]) - sum(ends[base]), "whatever was paired with what"
    rates = [count / tasks for count in won]
    rows = [line for line in LINES[name] if line.startswith(f"| {arm} |") and f"| {cell(rates, '+')}" in line]
    assert len(rows) == 1, cell(rates, "+")
    low, high = t_interval(rates)
    [sentence] = [line for line in LINES[name] if line.startswith(f"- {arm}: ") and f" {base} " in line]
    assert f"95 % interval {low:+.3f} to {high:+.3f}" in sentence
    if "established" not in sentence:
        assert not low <= 0 <= high and max(won) < 0 and "adjusted p 0.03" in sentence, "all of one sign"


def test_what_alfworld_gains_is_said_with_its_interval() -> None:
    """Each run's end against the games that it won before its training."""
    saved = SAVED["alfworld"]
    for arm, won in saved["ends"].items():
        gained = [(after - before) / saved["tasks"] for after, before in zip(won, saved["before"], strict=True)]
        [row] = [line for line in LINES["alfworld"] if line.startswith(f"| {arm} | {saved['seeds']} |")]
        assert row.split(" | ")[4] == cell(gained, "+")


def test_three_seeds_have_their_adjusted_p_values() -> None:
    for name in ("household", "methods", "shop", "search"):
        pairs = SAVED[name]["differences"]
        for (arm, _, _), p_value in zip(pairs, holm([sign_flip_p_value(won) for *_, won in pairs]), strict=True):
            [sentence] = [line for line in LINES[name] if line.startswith(f"- {arm}: ")]
            assert f"3 seeds, adjusted p {p_value:.3f})." in sentence


@pytest.mark.parametrize("name", REPORTS)
def test_a_page_says_what_its_saved_report_says(name: str, tmp_path: Path) -> None:
    """Each arm's end with its interval, its difference from its base, and those of the further pairs."""
    comparison = read_comparison(ROOT / "configs" / "compare" / f"{name}.yaml")
    saved = read_reports([ROOT / "docs" / "reports" / f"{name}.json"], comparison, comparison.seeds)
    assert saved.changes == [], "its runs had the settings of today"
    report(gather(comparison, tmp_path, [], saved), tmp_path, "")
    found = json.loads((tmp_path / "report.json").read_text())
    lines = (ROOT / "docs" / f"{REPORTS[name]}.md").read_text().replace("**", "").splitlines()
    for row in found["arms"]:
        [line] = [line for line in lines if line.startswith(f"| `{row['arm']}` | {spans(row['seeds'])} |")]
        assert f"| {interval(row['last'], row['interval'])} |" in line
        assert line.endswith(f"| {100 * row['also']['rollout/all_fail_groups']:.0f} % |")
        if row["arm"] != row["base"]:
            difference = interval(row["difference"], row["difference_interval"], "+")
            assert f"| {difference} | {row['adjusted_p_value']:.3f} |" in line
    for pair in found["further_pairs"]:
        [line] = [line for line in lines if line.startswith(f"| `{pair['arm']}` - `{pair['base']}` |")]
        assert (
            f"{interval(pair['difference'], pair['difference_interval'], '+')} | {pair['adjusted_p_value']:.3f} |"
            in line
        )


def interval(middle: float, ends: list[float], sign: str = "") -> str:
    return f"{middle:{sign}.3f} [{ends[0]:{sign}.3f}, {ends[1]:{sign}.3f}]"
