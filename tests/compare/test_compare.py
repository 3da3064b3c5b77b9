"""The comparison tool: its file and folder, its processes with stand-ins, and all of it on the toy world."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from paw_lightning.compare import results as compare_results
from paw_lightning.compare import runs as compare_runs
from paw_lightning.compare.changes import differences
from paw_lightning.compare.command import all_runs, parse
from paw_lightning.compare.command import command as compare
from paw_lightning.compare.folder import check_folder, check_report, claim_folder
from paw_lightning.compare.study import read_comparison
from paw_lightning.errors import SettingsError
from tests.conftest import ROOT
from tests.helpers.runs import TOY, arguments

# ---- file and folder


def logger_options(folder: Path, text: str) -> list[str]:
    (folder / "a.yaml").write_text(text)
    command = compare_runs.Run(folder, "paw", 2, (folder / "a.yaml",), ()).command()
    return [word for word in command if word.startswith("--trainer.logger")]


def test_another_logger_comes_after_one_of_files(tmp_path: Path) -> None:
    """The report reads the curves in OUTPUT/ARM/seed_SEED, whatever else a run logs to."""
    place = {"save_dir": str(tmp_path), "name": "paw", "version": "seed_2"}
    plain = [f"--trainer.logger.init_args.{key}={value}" for key, value in place.items()]
    assert logger_options(tmp_path, "{}") == plain
    assert logger_options(tmp_path, "trainer: {logger: {class_path: CSVLogger}}") == plain
    wandb = "{class_path: lightning.pytorch.loggers.WandbLogger, init_args: {project: p}}"
    for text in (f"trainer: {{logger: {wandb}}}", f"trainer: {{logger: [{{class_path: CSVLogger}}, {wandb}]}}"):
        [option] = logger_options(tmp_path, text)
        own, other = json.loads(option.removeprefix("--trainer.logger="))
        assert own == {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": place}
        assert other["init_args"] == {"name": "paw, seed 2", "project": "p"}


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
        ({"metrics": "x"}, "metrics is no known key; wanted one of also, arms, base"),
        ({"base": "ppo"}, "base is 'ppo'; wanted one of the arms: grpo, paw"),
        ({"arms": {"grpo": {"configs": [], "base": "ppo"}}}, "arms.grpo.base is 'ppo'; wanted one of the arms: grpo"),
        ({"arms": "grpo"}, "arms is 'grpo'; wanted names with configs"),
        ({"also": "val/return"}, "also is 'val/return'; wanted a list of curves' tags"),
        ({"further_pairs": [["paw"]]}, "further_pairs is [['paw']]; wanted a list of [arm, other arm]"),
        ({"further_pairs": "paw"}, "further_pairs is 'paw'; wanted a list of [arm, other arm]"),
        ({"further_pairs": [["paw", "paw"]]}, "further_pairs[0] is ['paw', 'paw']; wanted two of the arms: grpo, paw"),
        ({"further_pairs": [[["paw"], ["grpo"]]]}, "further_pairs[0] is [['paw'], ['grpo']]; wanted two of the arms"),
        ({"further_pairs": [["paw", "grpo"], ["grpo", "paw"]]}, "further_pairs[1] is ['grpo', 'paw'] again; wanted"),
        ({"further_pairs": [["paw", "ppo"]]}, "further_pairs[0] is ['paw', 'ppo']; wanted two of the arms: grpo, paw"),
        (
            {"common": ["--trainer.logger=WandbLogger"]},
            "common[0] is '--trainer.logger=WandbLogger'; wanted loggers in",
        ),
        ({"seeds": [1, 1]}, "seeds is [1, 1]; wanted a list of different integers"),
        ({"last_points": 0}, "last_points is 0; wanted an integer of at least 1"),
        ({"common": "--a=1"}, "common is '--a=1'; wanted a list of --key=value"),
        ({"common": ["--a 1"]}, "common[0] is '--a 1'; wanted --key=value"),
        ({"arms": {"grpo": {}}}, "arms.grpo.configs is not set; wanted configs"),
        (
            {"arms": {"grpo": {"configs": ["no.yaml"]}}},
            "arms.grpo.configs: config is 'no.yaml', which does not exist",
        ),
        ({"arms": {"grpo": {"configs": []}, "../paw": {"configs": []}}}, "arms: a name is '../paw'; wanted letters"),
    ],
)
def test_bad_comparison_is_named(changes: dict, message: str, tmp_path: Path) -> None:
    path = write_comparison(tmp_path / "c.yaml", **changes)
    with pytest.raises(SettingsError, match=re.escape(message)):
        compare([str(path), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_changed_comparison_is_refused_and_the_change_named(tmp_path: Path, output: Path) -> None:
    path = write_comparison(tmp_path / "c.yaml")
    claim_folder(output, read_comparison(path))
    check_folder(output, read_comparison(path))
    (tmp_path / "a.yaml").write_text("data: {groups: 16}\n")
    with pytest.raises(SettingsError, match=r"arms\.grpo\.configs\.0\.data\.groups: 8 there, 16 now"):
        check_folder(output, read_comparison(path))
    assert "groups: 8" in (output / "grpo" / "config_0.yaml").read_text(), "runs read what was compared at first"
    write_comparison(path, metric="val/return")
    with pytest.raises(SettingsError, match="metric: 'val/success_rate' there, 'val/return' now"):
        check_folder(output, read_comparison(path))


def test_runs_of_older_settings_can_be_reported(tmp_path: Path, output: Path, capsys) -> None:
    """A later version of a configuration trains nothing here; what is measured and compared has to be the same."""
    path = write_comparison(tmp_path / "c.yaml")
    claim_folder(output, read_comparison(path))
    write_comparison(path, common=["--trainer.max_epochs=5"])
    (tmp_path / "a.yaml").write_text("data: {groups: 16}\n")
    changes = check_report(output, read_comparison(path))
    assert "arms.paw.configs.0.data.groups: 8 there, 16 now" in changes and "common: [] there, absent now" in changes
    command = [str(path), "--output", str(output), "--report-only"]
    assert compare(command) == 1, "no run is finished"
    assert "the runs were made with other settings than these: " in capsys.readouterr().out
    for change in ({"metric": "val/return"}, {"last_points": 2}, {"seeds": [1]}, {"base": "paw"}):
        write_comparison(path, **change)
        with pytest.raises(SettingsError, match=f"{min(change)}.*there.*now"):
            compare(command)


def test_what_is_shown_may_change_but_not_an_arms_base(tmp_path: Path) -> None:
    path = write_comparison(tmp_path / "c.yaml")
    plain, arms = read_comparison(path).resolved(), yaml.safe_load(path.read_text())["arms"]
    arms["paw"]["group"] = "PaW"
    changes = {"also": ["wm/coefficient"], "further_pairs": [["paw", "grpo"]]}
    shown = read_comparison(write_comparison(path, arms=arms, **changes))
    assert shown.arms["paw"].group == "PaW" and differences(plain, shown.resolved()) == []
    assert shown.further_pairs == (("paw", "grpo"),)
    arms["paw"]["base"] = "paw"
    changed = read_comparison(write_comparison(path, arms=arms)).resolved()
    assert differences(plain, changed) == ["arms.paw.base: absent there, 'paw' now"]


def test_seeds_and_arms_may_be_added_but_not_dropped(tmp_path: Path) -> None:
    path = write_comparison(tmp_path / "c.yaml")
    small = read_comparison(path).resolved()
    arms = yaml.safe_load(path.read_text())["arms"]
    large = read_comparison(write_comparison(path, seeds=[3, 2, 1], arms={**arms, "new": arms["paw"]}))
    assert differences(small, large.resolved()) == []
    changes = "\n".join(differences(large.resolved(), small))
    assert "arms.new.arguments.0: '--entropy_selection.alpha=0.75' there, absent now" in changes
    assert "seeds.2: 1 there, absent now" in changes


def write_report(path: Path, comparison: Path, **curves: dict[int, float]) -> Path:
    """The report of another machine: of each arm, what its seeds ended with."""
    runs = {
        arm: {seed: {"points": {0: 0.0, 9: end}, "training_seconds": 7, "also": {}} for seed, end in ends.items()}
        for arm, ends in curves.items()
    }
    content = {"comparison": read_comparison(comparison).resolved(), "codes": ["c0de"], "curves": runs}
    path.write_text(json.dumps(content))
    return path


def test_a_study_may_be_spread_over_machines(tmp_path: Path, capsys) -> None:
    """Seeds 1 and 2 there, 3 to be run here: a report of all, in which only the runs of seed 3 are missing."""
    path = write_comparison(tmp_path / "c.yaml", seeds=[1, 2, 3])
    one = write_report(tmp_path / "one.json", path, grpo={1: 0.25}, paw={1: 0.75, 9: 0.1}, gone={1: 0.5})
    two = write_report(tmp_path / "two.json", path, grpo={2: 0.5}, paw={2: 0.5})
    both = [str(path), "--report-only", "--reports", str(one), str(two), "--output", str(tmp_path / "both")]
    assert compare(both) == 1, "seed 3 is missing"
    printed = capsys.readouterr()
    assert "| paw | 1, 2 (not finished: 3) | 0.000 | 0.625 [" in printed.out, "no seed 9, which is not asked for"
    # Seed by seed: 0.75 - 0.25 and 0.5 - 0.5.
    assert "| +0.250 [" in printed.out and "| gone |" not in printed.out
    missing = "not finished: grpo, seed 3 (not started); paw, seed 3 (not started); without --report-only it goes on"
    assert missing in printed.err
    page = (tmp_path / "both" / "report.html").read_text()
    assert "<td>0.750<small>+0.500</small></td>" in page, "no link to a folder that is elsewhere"
    assert compare([*both, "--seeds", "2", "1"]) == 0
    assert "Seeds of the comparison that are left out: 3. This is an interim report." in capsys.readouterr().out
    again = str(tmp_path / "both" / "report.json")  # the report of both is a report of this comparison as well
    assert compare([str(path), "--report-only", "--seeds=1", "--reports", again, "--output", str(tmp_path / "b")]) == 0


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, ["--seeds", "4", "1", "--reports", "one.json"], "--seeds has 4; wanted some of the file's: (1, 2)"),
        ({}, ["--reports", "one.json", "one.json"], "one.json and one.json both hold grpo, seed 1; wanted each run on"),
        ({}, ["--reports", "c.yaml"], "--reports: c.yaml cannot be read ("),
        ({}, ["--reports", "no.json"], "--reports: no.json cannot be read ("),
        (
            {},
            ["--reports", "nan.json"],
            "nan.json is not as compare writes it (ValueError: paw, seed 1 has t",
        ),
        (
            {},
            ["--reports", "before.json"],
            "before.json is not as compare writes it (ValueError: paw, seed 1 has",
        ),
        ({}, ["--reports", "list.json"], "--reports: list.json is not as compare writes it (AttributeError: "),
        ({}, ["--reports", "one.json", "--seeds", "2"], "one.json has no finished run of these arms and seeds; wanted"),
        ({}, ["--reports", "one.json", "--output", "one.json"], "one.json, which is a file; wanted a folder"),
        ({}, ["--reports", "one.json", "--output", "."], ", which holds something else than a comparison; wanted"),
        ({}, ["--reports", "old.json"], "--reports: old.json does not say what it compares; wanted a report.json of"),
        ({"metric": "val/return"}, ["--reports", "one.json"], "one.json is another comparison's (metric: 'val/succ"),
        ({"base": "paw"}, ["--reports", "one.json"], "one.json is another comparison's (base: 'grpo' there, 'paw' now"),
    ],
)
def test_a_report_that_cannot_be_counted_is_named(
    changes: dict, options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_comparison(tmp_path / "c.yaml")
    write_report(tmp_path / "one.json", path, grpo={1: 0.25}, paw={1: 0.75})
    write_report(tmp_path / "nan.json", path, paw={1: float("nan")})
    for name, key, value in (("before", "points", {0: 0.1}), ("list", "curves", [])):
        content = json.loads((tmp_path / "one.json").read_text())
        (content if name == "list" else content["curves"]["paw"]["1"])[key] = value
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "old.json").write_text('{"metric": "val/success_rate", "curves": {}}')
    write_comparison(path, **changes)
    with pytest.raises(SettingsError, match=re.escape(message)):
        compare([str(path), "--output", "out", *options, "--report-only"])
    assert not Path("out").exists()


def finished(output: Path, path: Path, arm: str, seed: int) -> compare_runs.Run:
    """A run in the folder that has ended, without a curve."""
    output.mkdir(exist_ok=True)
    claim_folder(output, read_comparison(path))
    [run] = [run for run in all_runs(read_comparison(path), output.resolve(), [seed]) if run.arm == arm]
    run.folder.mkdir(parents=True)
    run.write_outcome("done", codes=["c0de"])
    return run


def test_a_run_that_is_here_and_there_is_refused(tmp_path: Path) -> None:
    path = write_comparison(tmp_path / "c.yaml")
    there = write_report(tmp_path / "there.json", path, grpo={1: 0.25}, paw={1: 0.75})
    finished(tmp_path / "out", path, "paw", 1)
    for mode in ([], ["--report-only"]):
        with pytest.raises(SettingsError, match=r"there.json and --output .*out both hold paw, seed 1"):
            compare([str(path), "--reports", str(there), "--output", str(tmp_path / "out"), *mode])


def test_a_report_says_what_its_runs_were_trained_with(tmp_path: Path, monkeypatch, capsys) -> None:
    """And not what the file says when it is written; a report of reports hands on what they say."""
    monkeypatch.setattr(compare_results, "read_scalars", lambda _: {})
    monkeypatch.setattr(compare_results, "metric_points", lambda *_: {0: 0.0, 9: 0.5})
    monkeypatch.setattr(compare_results, "training_seconds", lambda _: 1.0)
    path = write_comparison(tmp_path / "c.yaml", seeds=[1])
    for arm in ("grpo", "paw"):
        finished(tmp_path / "out", path, arm, 1)
    write_comparison(path, seeds=[1], common=["--trainer.max_epochs=5"])
    assert compare([str(path), "--report-only", "--output", str(tmp_path / "out")]) == 0
    last = tmp_path / "out"
    for name in ("merged", "merged again"):
        capsys.readouterr()
        command = [str(path), "--report-only", "--reports", str(last / "report.json"), "--output"]
        assert compare([*command, str(tmp_path / name)]) == 0
        assert capsys.readouterr().out.count("common: [] there, absent now") == 1
        last = tmp_path / name
    write_comparison(path, seeds=[1])
    report = str(tmp_path / "out" / "report.json")
    assert compare([str(path), "--report-only", "--reports", report, "--output", str(tmp_path / "as it was")]) == 0
    assert "with other settings" not in capsys.readouterr().out


def test_what_failed_elsewhere_is_no_run_that_nobody_began(tmp_path: Path, capsys) -> None:
    path = write_comparison(tmp_path / "c.yaml")
    there = write_report(tmp_path / "there.json", path, grpo={1: 0.25, 2: 0.25}, paw={1: 0.75})
    content = json.loads(there.read_text())
    content["failures"] = [{"arm": "paw", "seed": 2, "reason": "ended with exit code 3", "log": "it diverged"}]
    there.write_text(json.dumps(content))
    assert compare([str(path), "--report-only", "--reports", str(there), "--output", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert "paw | 1 (failed: 2)" in printed.out and "it diverged" in printed.out and "not finished" not in printed.err


def test_a_folder_with_a_report_alone_can_be_trained_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(compare_runs, "LAUNCHER", [sys.executable, "-c", "raise SystemExit(3)"])
    path = write_comparison(tmp_path / "c.yaml")
    there = write_report(tmp_path / "there.json", path, grpo={1: 0.25, 2: 0.25}, paw={1: 0.75})
    command = [str(path), "--reports", str(there), "--output", str(tmp_path / "out")]
    assert compare([*command, "--report-only"]) == 1
    assert compare(command) == 1
    assert "paw, seed 2 ended with exit code 3" in capsys.readouterr().out


def test_a_further_curve_that_some_runs_lack_is_said(tmp_path: Path, capsys) -> None:
    path = write_comparison(tmp_path / "c.yaml", also=["val/return"])
    there = write_report(tmp_path / "there.json", path, grpo={1: 0.25, 2: 0.25}, paw={1: 0.75, 2: 0.5})
    content = json.loads(there.read_text())
    content["curves"]["paw"]["2"]["also"] = {"val/return": 2.0}
    there.write_text(json.dumps(content))
    assert compare([str(path), "--report-only", "--reports", str(there), "--output", str(tmp_path / "out")]) == 0
    assert "Warning: val/return is known of 1 of the 2 runs of paw" in capsys.readouterr().out


def test_what_another_machine_has_made_is_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Other settings there are no reason to refuse its runs: the report names them."""
    monkeypatch.setattr(compare_runs, "LAUNCHER", [sys.executable, "-c", "raise SystemExit(3)"])
    path = write_comparison(tmp_path / "c.yaml")
    there = write_report(tmp_path / "there.json", path, grpo={1: 0.25, 2: 0.25}, paw={1: 0.75})
    write_comparison(path, common=["--trainer.max_epochs=5"])
    assert compare([str(path), "--reports", str(there), "--output", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().out
    assert "paw, seed 2 ended with exit code 3" in printed and "seed 1 ended" not in printed
    assert "the runs were made with other settings than these: common: [] there, absent now" in printed
    assert [folder.name for folder in (tmp_path / "out").glob("*/seed_*")] == ["seed_2"]


def test_foreign_folder_is_refused(tmp_path: Path, output: Path) -> None:
    (output / "thesis.tex").touch()
    path = write_comparison(tmp_path / "c.yaml")
    with pytest.raises(SettingsError, match="holds something else than a comparison"):
        compare([str(path), "--output", str(output)])
    assert {path.name for path in output.iterdir()} <= {"thesis.tex", ".lock"}


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "compare").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_comparisons_are_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert len(read_comparison(path).resolved()["arms"]) > 1


def test_shipped_files_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, as of any other shipped configuration; a file of one's own with that name goes first."""
    monkeypatch.chdir(tmp_path)
    options = parse(["study"])
    assert options.comparison.samefile(ROOT / "configs" / "compare" / "study.yaml")
    assert options.output == Path("runs/compare/study")
    assert parse(["compare/study"]).comparison == parse(["configs/compare/study.yaml"]).comparison == options.comparison
    assert len(read_comparison(options.comparison).arms) > 20
    (tmp_path / "study").write_text("metric: val/return\n")
    assert parse(["study"]).comparison == Path("study")
    with pytest.raises(SettingsError, match=r"'compare/stduy', which does not exist; did you mean 'compare/study'"):
        parse(["stduy"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--jobs", "0"], "--jobs is 0; wanted at least 1"),
        (["--report-only"], "--output is nowhere, which holds no comparison; wanted the folder of one"),
        (["--job", "1"], "unrecognized arguments: --job 1; wanted what paw-lightning compare --help shows"),
    ],
)
def test_bad_option_is_named(options: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        parse(["study", "--output", "nowhere", *options])


def test_the_old_spelling_names_the_new_one() -> None:
    old = subprocess.run(
        [sys.executable, ROOT / "tools" / "compare.py", "configs/compare/study.yaml", "--output", "out"],
        capture_output=True,
        text=True,
    )
    assert old.returncode == 2
    assert "wanted paw-lightning compare configs/compare/study.yaml --output out" in old.stderr


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
    assert "no such key" in compare_results.tail(runs[0].log)
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
    monkeypatch.setattr(compare_results, "read_scalars", lambda _: {"epoch": [(1, 0.0)], "rollout/return": [(1, 0.5)]})
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
    assert compare(command) == 1
    thread.join()
    printed = capsys.readouterr()
    assert "not finished: paw, seed 1 (interrupted); the same command goes on" in printed.err
    assert "| paw | none (not finished: 1) |" in printed.out
    assert compare([*command, "--report-only"]) == 1
    assert compare(command) == 0, "it goes on, and is done"


def test_runs_that_outlive_a_killed_comparison_keep_the_folder(output: Path, stand_in: None) -> None:
    [run] = runs_of(output, "wait")
    with compare_runs.locked(output) as lock:
        child = compare_runs.Child(run, lock)
    wait_until(lambda: count(output, "start") == 1)
    assert run.progress() == 0.5
    with pytest.raises(SettingsError, match=rf"is at work.*runs: {child.process.pid}\)"), compare_runs.locked(output):
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
    path = write_comparison(
        tmp_path / "c.yaml", seeds=[1], arms=arms, common=arguments(settings), further_pairs=[["grpo", "paw"]]
    )
    output = tmp_path / "out"
    command = [str(path), "--output", str(output), "--jobs", "2"]

    assert compare(command) == 1, "one arm failed"
    content = json.loads((output / "report.json").read_text())
    rows = {row["arm"]: row for row in content["arms"]}
    assert [rows[name]["seeds"] for name in ("grpo", "paw", "broken")] == [[1], [1], []]
    assert list(content["curves"]["paw"]["1"]["points"]) == ["0", "1", "2"], "before, and after both iterations"
    assert rows["paw"]["last"] == content["curves"]["paw"]["1"]["points"]["2"]
    assert rows["paw"]["training_seconds"] > 0
    [failure] = content["failures"]
    assert (failure["arm"], failure["seed"]) == ("broken", 1)
    assert "entropy_selection.alfa is no known key; did you mean entropy_selection.alpha?" in failure["log"]
    text, page = ((output / name).read_text() for name in ("report.md", "report.html"))
    assert f"| paw | 1 | {rows['paw']['before']:.3f} | {rows['paw']['last']:.3f} [-] |" in text
    assert "| broken | none (failed: 1) | - | - | - | - | - | - |" in text
    assert "is no known key" in page and f"{rows['paw']['last']:.3f} [-]" in page
    assert "one seed has no interval" in text
    [pair] = content["further_pairs"]
    assert (pair["arm"], pair["base"]) == ("grpo", "paw") and pair["difference"] == -rows["paw"]["difference"]

    capsys.readouterr()
    monkeypatch.setattr(compare_runs, "LAUNCHER", [sys.executable, "-c", "raise SystemExit(3)"])
    assert compare(command) == 1
    assert "broken, seed 1 ended with exit code 3" in capsys.readouterr().out, "what failed is tried again"
    assert json.loads((output / "report.json").read_text())["curves"] == content["curves"], "what is done is not"
    assert compare([*command, "--report-only"]) == 1
    there = [str(path), "--report-only", "--reports", str(output / "report.json"), "--output", str(tmp_path / "there")]
    assert compare(there) == 1, "the one that failed is missing there"
    assert json.loads((tmp_path / "there" / "report.json").read_text())["curves"] == content["curves"]
