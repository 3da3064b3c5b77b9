"""Every benchmark runs with its smallest sizes; what they share counts rightly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import measuring
import run_all


def run(name: str, *options: str) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


def test_ratios_are_those_of_neighbours() -> None:
    """2/1, 40/10, 3/1 have the median 3; medians' ratio would be 3/1 only by chance: 3 / 1."""
    assert measuring.median_of_ratios([2, 40, 3], [1, 10, 1]) == 3


def test_calls_take_turns_and_the_first_round_is_not_counted() -> None:
    order: list[str] = []
    calls = [lambda: (order.append("a"), time.sleep(0.02))[0], lambda: order.append("b")]
    first, second = measuring.interleaved(calls, 2)
    assert order == ["a", "b"] * 3 and len(first) == len(second) == 2
    assert min(first) > 0.015 > max(second)


def test_curves_are_one_record_per_iteration(tmp_path: Path) -> None:
    """Lightning writes what is logged at different times in rows of their own."""
    (tmp_path / "metrics.csv").write_text("step,a,b\n1,1.5,\n1,,2\n2,3,\n")
    assert measuring.curves(tmp_path) == [{"step": 1, "a": 1.5, "b": 2}, {"step": 2, "a": 3}]


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_a_peak_is_seen_after_it_is_over() -> None:
    """64 MiB that are written and freed again."""
    base = measuring.reset_peak("cpu")
    block = bytearray(os.urandom(2**20) * 64)
    del block
    assert 60 * 2**20 < measuring.peak("cpu") - base < 200 * 2**20
    assert measuring.reset_peak("cpu") < base + 32 * 2**20, "forgotten"


def test_tables_replace_the_old_ones_and_nothing_else() -> None:
    text = "before\n<!-- a -->\nold\n<!-- end of a -->\nafter"
    assert run_all.inserted(text, "a", "new\n") == "before\n<!-- a -->\n\nnew\n\n<!-- end of a -->\nafter"
    with pytest.raises(ValueError, match="has no place for b"):
        run_all.inserted(text, "b", "new")


def test_the_document_has_a_place_for_every_benchmark() -> None:
    document = run_all.DOCUMENT.read_text()
    for name in (*run_all.COMMON, *run_all.APART):
        run_all.inserted(document, name, "")
        assert (ROOT / "benchmarks" / f"{name}.py").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", run_all.COMMON)
def test_a_benchmark_runs(name: str, tmp_path: Path) -> None:
    table = run(name, "--quick", "--json", str(tmp_path / "numbers.json"))
    assert table.startswith("| ") and "nan" not in table
    assert json.loads((tmp_path / "numbers.json").read_text())["results"]


@pytest.mark.slow
def test_the_kernel_benchmark_runs() -> None:
    table = run("head_kernel", "--tokens", "64", "--vocabulary", "500", "--width", "32")
    assert table.count("| 64 |") == 2
