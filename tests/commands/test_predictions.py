"""The estimate against every run whose time is known: within the factor that docs/scaling.md states."""

from __future__ import annotations

import sys

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import predictions
import run_all

ROWS = predictions.rows()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.run}: {row.phase}")
def test_a_prediction_is_within_its_factor(row: predictions.Row) -> None:
    assert 1 / row.within <= row.ratio <= row.within


def test_our_own_runs_are_met_on_the_whole() -> None:
    """Half of the rows of the benchmarks' processor within a third, and neither all above nor all below."""
    ratios = sorted(row.ratio for row in ROWS if row.within == predictions.OURS)
    assert len(ratios) > 60
    assert ratios[0] < 1 < ratios[-1]
    assert ratios[len(ratios) // 4] > 2 / 3 and ratios[3 * len(ratios) // 4] < 1.5


def test_every_benchmark_of_a_model_is_checked() -> None:
    """All results that hold seconds of playing or training; the kernel's and the engines' do not."""
    used = {"end_to_end", "scaling", "layouts", "model_step", "paw_overhead", "sampler"}
    assert used == set(run_all.COMMON)
    turns = {row.run.split(", ")[-1] for row in ROWS if row.run.startswith("quickstart, GRPO")}
    assert turns == {f"{turns} turns" for turns in predictions.NUMBERS["end_to_end"]["results"]}


def test_the_document_shows_what_is_predicted_today() -> None:
    """After a change: python benchmarks/predictions.py --write."""
    assert predictions.table(ROWS) in predictions.DOCUMENT.read_text()


def test_the_sweep_over_gpus_is_todays_too() -> None:
    """A cell of its first line; the whole takes minutes."""
    [_, _, line, _] = predictions.sweep(["0.5B"], [32]).splitlines()
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    document = predictions.DOCUMENT.read_text().splitlines()
    shown = next(line for line in document if line.startswith(f"| {cells[0]} | {cells[1]} |"))
    shown_cells = [cell.strip() for cell in shown.split("|")[1:-1]]
    assert cells[2:] == [shown_cells[2 + predictions.GPUS.index(gpus)] for gpus in (32,)]
