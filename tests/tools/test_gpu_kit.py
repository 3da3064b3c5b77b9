"""The kit for a bare CUDA machine: parts that travel apart, steps with time limits, results that add up, pages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
sys.path.insert(0, str(ROOT / "tools" / "gpu"))

import checking
import packing
import record
import rendering
import speeds
import study_summary

NOT_YET = rendering.NOT_YET


# Parts


def packed(folder: Path) -> tuple[list[Path], Path]:
    """Files of 10, 25 and 7 bytes in parts with room for 20 bytes beside the list of them."""
    folder.mkdir()
    files = [folder / name for name in ("a", "b", "c")]
    for file, size in zip(files, (10, 25, 7), strict=True):
        file.write_bytes(os.urandom(size))
    packing.split(files, folder / "parts", 20 + packing._listing_bytes(files))
    return files, folder / "parts"


def test_files_are_cut_where_a_part_is_full_and_joined_again(tmp_path: Path) -> None:
    """10 + 10 of 25 | 15 + 5 of 7 | 2."""
    files, parts = packed(tmp_path / "one")
    held = {
        part.name: {piece.name: piece.stat().st_size for piece in part.iterdir() if piece.suffix != ".json"}
        for part in parts.iterdir()
    }
    assert held == {"part1": {"a.0": 10, "b.0": 10}, "part2": {"b.1": 15, "c.0": 5}, "part3": {"c.1": 2}}
    largest = 20 + packing._listing_bytes(files)
    assert all(sum(file.stat().st_size for file in part.iterdir()) <= largest for part in parts.iterdir())
    joined, missing = packing.join(parts, tmp_path / "out")
    assert [file.name for file in joined] == ["a", "b", "c"] and missing == []
    assert [file.read_bytes() for file in joined] == [file.read_bytes() for file in files]


def test_what_is_there_whole_is_joined_without_the_rest(tmp_path: Path) -> None:
    """Without the second part there is a alone: b and c lack a piece."""
    _, parts = packed(tmp_path / "one")
    (parts / "part2").rename(tmp_path / "away")
    joined, missing = packing.join(parts, tmp_path / "out")
    assert [file.name for file in joined] == ["a"] and missing == ["b", "c"]


def test_broken_and_mixed_parts_are_refused(tmp_path: Path) -> None:
    _, parts = packed(tmp_path / "one")
    with pytest.raises(packing.PackingError, match="no part"):
        packing.join(tmp_path / "nowhere", tmp_path / "out")
    (parts / "part3" / "c.1").write_bytes(b"xx")
    with pytest.raises(packing.PackingError, match="c has another digest"):
        packing.join(parts, tmp_path / "out")
    _, other = packed(tmp_path / "two")
    (other / "part3").rename(parts / "part4")
    with pytest.raises(packing.PackingError, match="parts of different packings"):
        packing.join(parts, tmp_path / "out")


def test_wheels_have_the_versions_that_were_tested_together() -> None:
    text = (ROOT / "constraints.txt").read_text()
    wheels = packing.pinned(packing.WHEELS, text)
    assert len(wheels) == len(packing.WHEELS) and not any(wheel.startswith(("torch==", "nvidia")) for wheel in wheels)
    assert packing.pinned(["Docstring-Parser"], text)[0].startswith("Docstring-Parser==")
    with pytest.raises(packing.PackingError, match="no version of nonesuch"):
        packing.pinned(["nonesuch"], text)


def test_smollm2_is_packed_in_the_version_that_is_read() -> None:
    from paw_lightning.models import smollm2

    assert f"{smollm2.PACKAGE}=={smollm2.VERSION}" == packing.SMOLLM2


# Steps


def test_time_that_is_left_is_shared_by_those_to_come() -> None:
    names = list(checking.STEPS)
    assert sum(step.share for step in checking.STEPS.values()) == 530, "of 540, 5 are the pages', the rest is slack"
    assert checking.limit("core", names, 530) == pytest.approx(105)
    assert checking.limit("trl", ["trl", "study"], 420) == pytest.approx(140), "60 : 120 of 420"
    assert checking.limit("study", ["study"], 77) == 77
    assert all((ROOT / "tools/gpu" / step.program[0]).is_file() for step in checking.STEPS.values())


STEP = """
import subprocess, sys, time
sys.path.insert(0, {here!r})
import record
record.add(record.Path({results!r}), "entries", "first", {{"value": 1}})
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
record.add(record.Path({results!r}), "entries", "child", {{"pid": child.pid}})
time.sleep(60)
"""


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet collected does not."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="processes are read from /proc")
def test_a_step_that_is_out_of_time_ends_with_its_children_and_keeps_what_it_found(tmp_path: Path) -> None:
    results = tmp_path / "gpu.json"
    program = STEP.format(here=str(ROOT / "tools/gpu"), results=str(results))
    for seconds in (2, 6, 20):  # on a busy machine it takes longer until it has found something
        began = time.monotonic()
        ended = checking.run([sys.executable, "-c", program], seconds, tmp_path / "log", dict(os.environ))
        assert ended == ("out of time", f"stopped after its {seconds} s") and time.monotonic() - began < seconds + 15
        found = record.read(results)["entries"]
        if "child" in found:
            break
    assert found["first"] == {"value": 1}
    for _ in range(50):
        if not alive(found["child"]["pid"]):
            return
        time.sleep(0.1)
    raise AssertionError("the step's child outlived it")


def test_a_failed_step_says_why(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("of another step\n")
    assert checking.run([sys.executable, "-c", "print('fine')"], 60, log, dict(os.environ)) == ("done", "")
    failing = [sys.executable, "-c", "raise SystemExit('no such card')"]
    assert checking.run(failing, 60, log, dict(os.environ)) == ("failed", "no such card")
    assert checking.run([sys.executable, "-c", "raise SystemExit(3)"], 60, log, dict(os.environ))[1] == "exit code 3"
    assert log.read_text() == "of another step\nfine\nno such card\n"


def test_without_smollm2_the_study_is_skipped(tmp_path: Path) -> None:
    options = {"parts": tmp_path / "none", "out": tmp_path / "out", "only": ["study"], "rehearse": False}
    checking.check(checking.argparse.Namespace(**options), time.monotonic() + 60)
    [step] = record.read(tmp_path / "out" / "gpu.json")["steps"].values()
    assert step["status"] == "skipped" and "SmolLM2" in step["reason"]


# Results and pages


def entry(**values: Any) -> dict[str, Any]:
    return {"device": "Some Card", "date": "2026-01-02", "seconds": 1.0, **values}


def test_later_results_take_the_place_of_earlier_ones_failures_too() -> None:
    first: record.Record = {"steps": {"core": {"status": "done"}}, "entries": {"a": entry(x=1), "b": entry(x=1)}}
    second: record.Record = {"steps": {"study": {"status": "done"}}, "entries": {"b": entry(failed="no")}}
    whole = record.merged([first, second])
    assert whole["steps"].keys() == {"core", "study"}
    assert whole["entries"] == {"a": entry(x=1), "b": entry(failed="no")}
    assert first["entries"]["b"] == entry(x=1), "what was read is as it was"


def test_pages_are_what_the_results_say() -> None:
    """Nobody has written into the tables by hand."""
    results = record.read(rendering.DOCUMENTS / "gpu.json")
    for name, make in (("gpu.md", rendering.page), ("support.md", rendering.supported)):
        text = (rendering.DOCUMENTS / name).read_text()
        assert make(text, results if name == "gpu.md" else results["entries"]) == text


def test_what_has_not_run_says_so() -> None:
    nothing = record.merged([])
    page = rendering.page((rendering.DOCUMENTS / "gpu.md").read_text(), nothing)
    lines = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line]
    heads = {
        "check",
        "step",
        "tokens/s",
        "arm",
        "",
        "an iteration of the paper's shape, estimated from the 1.5B column",
        "an iteration of",
    }
    bare = [line for line in lines if NOT_YET not in line and line.strip("| ").split(" | ")[0] not in heads]
    assert bare == ["|  | 0.5B | 1.5B |", "|  | play, s | scoring, s | update, s | environment steps/s |"]
    assert page.count(NOT_YET) > len(rendering.CORE) + len(rendering.SPEEDS)


def test_results_reach_their_tables() -> None:
    entries = {
        "core/kernel, float32": entry(logprobs_error=1.5e-7),
        "core/run, LoRA": entry(failed="RuntimeError: a | b"),
        "core/resume": entry(same_bits=True),
        "speed/0.5B": entry(trained_tokens_per_s=12345.6, update_mfu=0.412, rounds=3, warm=True),
        "speed/1.5B": entry(turn_s=2.0, failed="out of memory"),
        "samplers/0.5B, nothing shared": entry(native_tokens_per_s=5000.0),
        "replay/SmolLM2": entry(run_s=4.0, replay_s=1.25, times_as_fast=3.2),
        "trl/GRPO": entry(play_s=1.25, scoring_s=0.5, update_s=2.0, steps_per_s=136.0),
    }
    core, rates = rendering.core(entries), rendering.speeds(entries)
    assert "float64, float32 | passed | logprobs error 1.5e-07 |" in core
    assert "| LoRA | failed: RuntimeError: a / b |  |" in core and "| passed | same bits true |" in core
    assert "| trained, tokens/s | 12,346 | failed: out of memory |" in rates
    assert "| MFU of the update | 0.412 |" in rates and "| a turn of 128 episodes, s | not reached | 2 |" in rates
    assert "| 0.5B, nothing shared | 5,000 | not reached | not reached |" in rendering.samplers(entries)
    assert "| paw_lightning, GRPO | 1.25 | 0.5 | 2 | 136 |" in rendering.trl(entries)
    assert f"| TRL, GRPO | {NOT_YET} |" in rendering.trl(entries)
    assert "| SmolLM2, replay with `wm/ce` | 4 | 1.25 | 3.2 |" in rendering.replay(entries)


def support_cells(entries: dict[str, dict[str, Any]]) -> dict[str, str]:
    """First cell -> last cell of the table of docs/support.md with these results."""
    text = rendering.supported((rendering.DOCUMENTS / "support.md").read_text(), entries)
    rows = text.split("<!-- gpu -->")[1].split("<!-- end of gpu -->")[0].strip().splitlines()[2:]
    return {row.split("|")[1].strip(): row.split("|")[-2].strip() for row in rows}


def test_the_support_table_is_filled_from_the_checks() -> None:
    before = support_cells({})
    assert len(before) > 9 and all(cell.startswith(NOT_YET) for cell in before.values())
    passed = {key: entry() for _, (keys, _) in rendering.SUPPORT.items() for key in keys}
    after = support_cells(passed)
    filled = {name for name in after if after[name] != before[name]}
    assert len(filled) == len(rendering.SUPPORT), "every line of SUPPORT finds its row, and one alone"
    assert after["DDP, FSDP2 (`ModelParallelStrategy`)"] == "yes: Some Card, one rank"
    assert after["several machines"] == NOT_YET
    del passed["core/run, DDP of one rank"]
    assert support_cells(passed)["DDP, FSDP2 (`ModelParallelStrategy`)"] == NOT_YET, "half of a row is not the row"
    passed["core/run, LoRA"] = entry(failed="it broke")
    assert support_cells(passed)["single device, full model or LoRA"] == "failed: it broke"


def test_a_rehearsal_never_reaches_the_pages(tmp_path: Path) -> None:
    results = tmp_path / "gpu.json"
    record.add(results, "entries", "core/resume", {**entry(), "device": "cpu"})
    before = (rendering.DOCUMENTS / "gpu.json").read_bytes()
    command = [sys.executable, str(ROOT / "tools/gpu/rendering.py"), str(results)]
    ran = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert ran.returncode == 1 and "rehearsal" in ran.stderr
    assert (rendering.DOCUMENTS / "gpu.json").read_bytes() == before


def test_results_that_were_carried_home_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two calls, one after the other: the pages hold both."""
    for name in checking.DOCUMENTS:
        (tmp_path / name).write_bytes((rendering.DOCUMENTS / name).read_bytes())
    monkeypatch.setattr(rendering, "DOCUMENTS", tmp_path)
    for key in rendering.SUPPORT["bfloat16"][0]:
        carried = tmp_path / "carried" / "gpu.json"
        record.write(carried, {"steps": {}, "entries": {key: entry()}})
        monkeypatch.setattr(sys, "argv", ["rendering.py", str(carried)])
        rendering.main()
    assert record.read(tmp_path / "gpu.json")["entries"].keys() == {*rendering.SUPPORT["bfloat16"][0]}
    assert "| the same, bfloat16 | passed |" in (tmp_path / "gpu.md").read_text()
    assert "| yes: Some Card |" in (tmp_path / "support.md").read_text()


def test_arms_are_compared_where_all_of_a_seed_still_ran() -> None:
    """Seeds 1 and 2 reach 8 with all arms, seed 2's placebo no more; seed 3 has no ECHO. At 8: PaW +0.10 and +0.30.

    Their mean is 0.2, their standard deviation 0.1414, the t quantile of one degree of freedom 12.706:
    0.2 -+ 12.706 * 0.1414 / sqrt(2) = 0.2 -+ 1.2706.
    """
    curves = {
        "GRPO": {"1": {"4": 0.1, "8": 0.2}, "2": {"4": 0.1, "8": 0.3, "12": 0.9}, "3": {"8": 0.9}},
        "GRPO + PaW": {"1": {"8": 0.3}, "2": {"8": 0.6, "12": 0.9}, "3": {"8": 0.9}},
        "placebo": {"1": {"4": 0.1, "8": 0.2}, "2": {"8": 0.1}, "3": {"8": 0.9}},
        "ECHO": {"1": {"8": 0.5}, "2": {"8": 0.5, "12": 0.9}},
    }
    told = study_summary.summary(curves)
    assert (told.iteration, told.seeds) == (8, ("1", "2"))
    assert told.arms["GRPO"] == study_summary.Line(0.25, None, None)
    paw = told.arms["GRPO + PaW"]
    assert (paw.mean, paw.difference) == (pytest.approx(0.45), pytest.approx(0.2))
    assert paw.interval == pytest.approx((0.2 - 1.2706, 0.2 + 1.2706), abs=1e-3)
    page = rendering.study({"study/runs": entry(runs=curves, iterations=16, failures={})})
    assert "| GRPO + PaW | 0.45 | +0.200 [-1.071, +1.471] | 2 |" in page
    assert "After 8 iterations. The time ended runs of 16." in page
    assert study_summary.summary({"GRPO": {"1": {"4": 0.1}}}) == study_summary.Summary()


def test_the_papers_iteration_is_made_of_what_was_measured() -> None:
    """50 turns of 2 s; 3,500 * 830 = 2,905,000 tokens at 50,000 and at 10,000 a second: 58.1 and 290.5."""
    measured = {"turn_s": 2.0, "scored_tokens_per_s": 50_000.0, "paw_trained_tokens_per_s": 10_000.0}
    assert speeds.paper_iteration(measured) == pytest.approx(
        {"play_s": 100.0, "scoring_s": 58.1, "update_s": 290.5, "iteration_s": 448.6}
    )


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_everything_runs_on_a_cpu(tmp_path: Path) -> None:
    """All steps with tiny models, in this environment; `make gpu-rehearsal` has the CUDA machine's versions."""
    command = [str(ROOT / "tools/gpu_check.sh"), "--rehearse", "--seconds", "2400"]
    command += ["--parts", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    ran = subprocess.run(command, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    results = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert {name: step["status"] for name, step in results["steps"].items()} == dict.fromkeys(checking.STEPS, "done")
    failed = {key: found for key, found in results["entries"].items() for name in found if name.endswith("failed")}
    assert failed == {}
    page = rendering.page((rendering.DOCUMENTS / "gpu.md").read_text(), results)
    assert [line for line in page.splitlines() if line.startswith("| ") and NOT_YET in line] == []
