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

The exit code is 0 when every run is done and has the metric, 1 when one failed or is not finished (somebody stopped it
alone), 2 when the file or the folder is refused, and 130 after an interrupt.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path

from paw_lightning import config_files
from paw_lightning.cli.command_arguments import NO_MATPLOTLIB, Arguments
from paw_lightning.compare.folder import check_folder, check_report, claim_folder, config_copies
from paw_lightning.compare.runs import Run, execute, locked
from paw_lightning.compare.study import Comparison, read_comparison
from paw_lightning.errors import SettingsError


def command(args: list[str]) -> int:
    """Train what is missing, then report; returns the exit status."""
    options = parse(args)
    comparison, output = read_comparison(options.comparison), options.output.resolve()
    changes: list[str] = []
    if options.report_only:
        changes = check_report(output, comparison)
    elif train(comparison, output, options.jobs):
        print("interrupted; the same command goes on, --report-only reports what there is", file=sys.stderr)
        return 130
    return 0 if report(comparison, output, changes) else 1


def parse(args: list[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = Arguments("compare", __doc__)
    parser.add_argument("comparison", help="YAML file that names metric, base, seeds and arms; or a shipped one's name")
    parser.add_argument("--output", type=Path, help="folder of the runs and the report (default: runs/compare/NAME)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time (default: all cores)")
    parser.add_argument("--report-only", action="store_true", help="train nothing, report what there is")
    options = parser.parse_args(args)
    if options.jobs < 1:
        raise SettingsError(f"--jobs is {options.jobs}; wanted at least 1")
    file = find_study(options.comparison)
    options.comparison, options.output = file, options.output or Path("runs", "compare", file.stem)
    if options.report_only and not (options.output / "comparison.json").exists():
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


def all_runs(comparison: Comparison, output: Path) -> list[Run]:
    """Every arm with the first seed, then every arm with the second: early results can be compared."""
    return [
        Run(output, name, seed, tuple(config_copies(output, name, arm)), (*comparison.common, *arm.arguments))
        for seed in comparison.seeds
        for name, arm in comparison.arms.items()
    ]


def train(comparison: Comparison, output: Path, jobs: int) -> bool:
    """Bring every run that is not done to its end; returns whether that was interrupted."""
    with locked(output) as lock:
        check_folder(output, comparison)
        claim_folder(output, comparison)
        missing = [run for run in all_runs(comparison, output) if run.outcome()["state"] != "done"]
        return execute(missing, jobs, lock)


def report(comparison: Comparison, output: Path, changes: list[str]) -> bool:
    """Write the report from what exists; returns whether every run is done and has the metric.

    ``changes`` are the settings that are others now than when the runs were made.
    """
    from paw_lightning.compare.report import write  # the numbers and the pictures are slow to import
    from paw_lightning.compare.results import Results

    results = Results(
        comparison.metric,
        comparison.base,
        comparison.last_points,
        also=list(comparison.also),
        further_pairs=list(comparison.further_pairs),
        changes=changes,
    )
    for name, arm in comparison.arms.items():
        arguments = [*(f"--config={config}" for config in arm.configs), *comparison.common, *arm.arguments]
        results.add_arm(name, " ".join(arguments), arm.base, arm.group)
    for run in all_runs(comparison, output):
        results.add_run(run.arm, run.seed, run.folder, run.outcome(), run.log)
    print(write(results, output))
    print(f"the page: {output / 'report.html'}")
    if results.unfinished:
        named = "; ".join(map(str, results.unfinished))
        print(f"not finished: {named}; the same command goes on", file=sys.stderr)
    return not results.failures and not results.unfinished
