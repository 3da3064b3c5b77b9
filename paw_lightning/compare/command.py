"""Compares arms: trains each with every seed, several processes at a time, and writes one report.

    paw-lightning compare study --output runs/compare/study

The file, of one's own or shipped (configs/compare/household.yaml explains its keys), names the metric, the base arm,
the seeds and the arms. Each run is `paw-lightning fit` in a process with one thread. It writes to
OUTPUT/ARM/seed_SEED; what it prints goes to log.txt there. Ctrl-C lets every run finish its iteration; the same command
continues where it stopped, skips what is done, and tries again what failed. When all have ended, report.md,
report.html, report.json and curves.png are written.

An output folder belongs to one comparison. Seeds and arms may be added to it; whatever else has changed since it was
made is named and refused, or, where --report-only trains nothing with it, named in the report. Decide on the number of
seeds beforehand: if you add seeds until a difference shows, you will find one.

On several machines: `--seeds 1 2 3 4` on one, `--seeds 5 6 7 8` on another, each with a folder of its own; then
`--report-only --reports A/report.json B/report.json --output BOTH`, in a new folder, writes the report of all. Logs and
episodes stay where they are.

The exit code is 0 when every run of these seeds is done and has the metric, 1 when one failed or is not finished
(somebody stopped it alone), 2 when the file or the folder is refused, and 130 after an interrupt.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paw_lightning import config_files
from paw_lightning.cli.command_arguments import NO_MATPLOTLIB, Arguments
from paw_lightning.compare.elsewhere import Elsewhere, check_apart, read_reports
from paw_lightning.compare.folder import (
    RECORD,
    check_folder,
    check_report,
    claim_folder,
    config_copies,
    trained_with,
)
from paw_lightning.compare.runs import Run, execute, locked
from paw_lightning.compare.study import Comparison, read_comparison
from paw_lightning.errors import SettingsError

if TYPE_CHECKING:
    from paw_lightning.compare.results import Results


def command(args: list[str]) -> int:
    """Train what is missing, then report; returns the exit status."""
    options = parse(args)
    comparison, output = read_comparison(options.comparison), options.output.resolve()
    seeds = options.seeds or comparison.seeds
    elsewhere = read_reports(options.reports, comparison, seeds)
    here = all_runs(comparison, output, seeds)
    check_apart(elsewhere, [run.key for run in here if run.outcome()["state"] == "done"], output)
    missing = [run for run in here if run.key not in elsewhere.runs]
    changes: list[str] = []
    if options.report_only:
        changes = check_report(output, comparison)
        output.mkdir(parents=True, exist_ok=True)
    elif train(comparison, output, missing, options.jobs):
        print("interrupted; the same command goes on, --report-only reports what there is", file=sys.stderr)
        return 130
    results = gather(comparison, output, missing, elsewhere)
    results.changes += [change for change in changes if change not in results.changes]
    results.left_out_seeds = sorted({*comparison.seeds} - {*seeds})
    going_on = "without --report-only it" if options.report_only else "the same command"
    return 0 if report(results, output, going_on) else 1


def parse(args: list[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = Arguments("compare", __doc__)
    parser.add_argument("comparison", help="YAML file that names metric, base, seeds and arms; or a shipped one's name")
    parser.add_argument("--output", type=Path, help="folder of the runs and the report (default: runs/compare/NAME)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time (default: all cores)")
    parser.add_argument("--seeds", type=int, nargs="+", help="these of the file's seeds alone (after the comparison)")
    parser.add_argument(
        "--reports",
        type=Path,
        nargs="+",
        default=[],
        help="report.json files of the same comparison from other machines (after the comparison): their runs are "
        "counted, and not trained",
    )
    parser.add_argument("--report-only", action="store_true", help="train nothing, report what there is")
    options = parser.parse_args(args)
    if options.jobs < 1:
        raise SettingsError(f"--jobs is {options.jobs}; wanted at least 1")
    file = find_study(options.comparison)
    options.comparison, options.output = file, options.output or Path("runs", "compare", file.stem)
    if options.report_only and not options.reports and not (options.output / RECORD).exists():
        raise SettingsError(
            f"--output is {options.output}, which holds no comparison; wanted the folder of one that has been trained"
        )
    if importlib.util.find_spec("matplotlib") is None:  # the report of a night of runs must not fail for it
        raise SettingsError(NO_MATPLOTLIB)
    return options


def find_study(name: str) -> Path:
    """A file of one's own, or a shipped one: `compare/study`, and `study` for short."""
    try:
        return config_files.find(name)
    except SettingsError:
        return config_files.find(f"compare/{name}")


def all_runs(comparison: Comparison, output: Path, seeds: Sequence[int]) -> list[Run]:
    """Every arm with the first seed, then every arm with the second: early results can be compared."""
    if unknown := {*seeds} - {*comparison.seeds}:
        raise SettingsError(f"--seeds has {min(unknown)}; wanted some of the file's: {comparison.seeds}")
    return [
        Run(output, name, seed, tuple(config_copies(output, name, arm)), (*comparison.common, *arm.arguments))
        for seed in comparison.seeds
        for name, arm in comparison.arms.items()
        if seed in seeds
    ]


def train(comparison: Comparison, output: Path, runs: list[Run], jobs: int) -> bool:
    """Bring every run that is not done to its end; returns whether that was interrupted."""
    with locked(output) as lock:
        check_folder(output, comparison)
        claim_folder(output, comparison)
        return execute([run for run in runs if run.outcome()["state"] != "done"], jobs, lock)


def gather(comparison: Comparison, output: Path, runs: list[Run], elsewhere: Elsewhere) -> Results:
    """What exists: these runs in the folder, and those in other reports."""
    from paw_lightning.compare.results import Results  # numbers and pictures are slow to import

    results = Results(
        comparison.metric,
        comparison.base,
        comparison.last_points,
        also=list(comparison.also),
        further_pairs=list(comparison.further_pairs),
        changes=list(elsewhere.changes),
        inherited_changes=list(elsewhere.changes),
        comparison=trained_with(output) if (output / RECORD).exists() else comparison.resolved(),
        codes=set(elsewhere.codes),
    )
    for name, arm in comparison.arms.items():
        arguments = [*(f"--config={config}" for config in arm.configs), *comparison.common, *arm.arguments]
        results.add_arm(name, " ".join(arguments), arm.base, arm.group)
    for (name, seed), curve in elsewhere.runs.items():
        results.arms[name][seed] = curve
        results.tags |= curve.also.keys()
    for run in runs:
        outcome = run.outcome()
        if outcome["state"] == "not started" and run.key in elsewhere.failures:
            results.failures.append(elsewhere.failures[run.key])
        else:
            results.add_run(run.arm, run.seed, run.folder, outcome, run.log)
    return results


def report(results: Results, output: Path, going_on: str) -> bool:
    """Write the report; returns whether every run is done and has the metric."""
    from paw_lightning.compare.report import write

    print(write(results, output))
    print(f"the page: {output / 'report.html'}")
    if results.unfinished:
        named = "; ".join(map(str, results.unfinished))
        print(f"not finished: {named}; {going_on} goes on", file=sys.stderr)
    return not results.failures and not results.unfinished
