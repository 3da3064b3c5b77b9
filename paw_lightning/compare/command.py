"""Compares arms: trains each with every seed, several processes at a time, and writes one report.

    python tools/compare.py configs/compare/household.yaml --output runs/compare/household

The file names the metric, the base arm, the seeds and the arms (`configs/compare/household.yaml` explains its keys).
Each run is `paw-lightning fit` in a process with one thread. It writes to OUTPUT/ARM/seed_SEED; what it prints goes to
log.txt there. Ctrl-C lets every run finish its iteration; the same command goes on where it stopped, skips what is
done, and tries again what failed. When all have ended, report.md, report.html, report.json and curves.png are written.

An output folder belongs to one comparison. Seeds and arms may be added to it; whatever else has changed since it was
made is named and refused. Decide on the number of seeds beforehand: who adds seeds until a difference shows will find
one.

The exit code is 0 when every run is done and has the metric, 1 when one failed or is not finished (somebody stopped it
alone), 2 when the file or the folder is refused, and 130 after an interrupt.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paw_lightning.compare import report as reporting
import yaml
from paw_lightning.compare.results import Results
from paw_lightning.compare.runs import Run, execute, locked

SHOWN_CHANGES = 8


@dataclass(frozen=True)
class Arm:
    """One configuration under comparison."""

    configs: tuple[Path, ...]
    arguments: tuple[str, ...]
    base: str | None = None
    """The arm that it is compared with; None for the comparison's own. An arm that names itself is a base."""
    group: str = ""
    """Name of the table that it stands in."""


@dataclass(frozen=True)
class Comparison:
    """What is compared, and by what."""

    metric: str
    base: str
    seeds: tuple[int, ...]
    arms: dict[str, Arm]
    common: tuple[str, ...]
    last_points: int
    also: tuple[str, ...] = ()
    """Further curves whose last values are shown."""
    further_pairs: tuple[tuple[str, str], ...] = ()
    """Arms whose difference is reported besides that of each arm from its base."""

    def resolved(self) -> dict[str, Any]:
        """All that decides the result, the configuration files' contents included, as it comes back from JSON.

        Groups, further columns and further pairs are not in it: they change what is shown of the runs, and no run.
        """
        arms = {
            name: {
                "configs": [yaml.safe_load(path.read_text()) for path in arm.configs],
                "arguments": arm.arguments,
                **({"base": arm.base} if arm.base else {}),
            }
            for name, arm in self.arms.items()
        }
        keys = ("metric", "base", "seeds", "common", "last_points")
        return json.loads(json.dumps({**{key: vars(self)[key] for key in keys}, "arms": arms}, default=str))


def read_comparison(path: Path) -> Comparison:
    """Read and check a comparison's file; ValueError names what is wrong in it."""
    content = yaml.safe_load(path.read_text())
    _check_keys(
        content, {"metric", "base", "seeds", "arms"}, {"common", "last_points", "also", "further_pairs"}, f"{path}:"
    )
    arms = {name: _read_arm(name, arm, f"{path}: arms") for name, arm in _mapping(content["arms"], path).items()}
    bases = {"base": content["base"], **{f"arms.{name}.base": arm.base for name, arm in arms.items() if arm.base}}
    for key, base in bases.items():
        if base not in arms:
            raise ValueError(f"{path}: {key} is {base!r}; wanted one of the arms: {', '.join(arms)}")
    seeds = content["seeds"]
    if not isinstance(seeds, list) or not seeds or len({s for s in seeds if isinstance(s, int)}) < len(seeds):
        raise ValueError(f"{path}: seeds is {seeds!r}; wanted a list of different integers")
    last_points = content.get("last_points", 1)
    if not isinstance(last_points, int) or last_points < 1:
        raise ValueError(f"{path}: last_points is {last_points!r}; wanted an integer of at least 1")
    return Comparison(
        metric=content["metric"],
        base=content["base"],
        seeds=tuple(seeds),
        arms=arms,
        common=_arguments(content.get("common", []), f"{path}: common"),
        last_points=last_points,
        also=_strings(content.get("also", []), f"{path}: also", "curves' tags"),
        further_pairs=_pairs(content.get("further_pairs", []), arms, f"{path}: further_pairs"),
    )


def _pairs(content: Any, arms: dict[str, Arm], where: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(content, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in content):
        raise ValueError(f"{where} is {content!r}; wanted a list of [arm, other arm]")
    seen: list[set[str]] = []
    for arm, other in content:
        if not {str(arm), str(other)} <= arms.keys() or arm == other:
            raise ValueError(f"{where} has {[arm, other]}; wanted two of the arms: {', '.join(arms)}")
        if {arm, other} in seen:
            raise ValueError(f"{where} has {[arm, other]} twice; wanted each pair once: every pair lowers all chances")
        seen.append({arm, other})
    return tuple((arm, other) for arm, other in content)


def _mapping(arms: Any, path: Path) -> dict[str, Any]:
    if not isinstance(arms, dict):
        raise ValueError(f"{path}: arms is {arms!r}; wanted names with configs")
    return arms


def _read_arm(name: str, content: Any, where: str) -> Arm:
    if not re.fullmatch(r"\w[\w-]*", name):
        raise ValueError(f"{where} has {name!r}; wanted a name of letters, digits, _ and -: it will be a folder's")
    _check_keys(content, {"configs"}, {"arguments", "base", "group"}, f"{where}.{name}")
    configs = tuple(Path(path) for path in _strings(content["configs"], f"{where}.{name}.configs", "files"))
    for config in configs:
        if not config.is_file():
            raise ValueError(f"{where}.{name}.configs has {config}; wanted a file (seen from {Path.cwd()})")
    arguments = _arguments(content.get("arguments", []), f"{where}.{name}.arguments")
    return Arm(configs, arguments, content.get("base"), str(content.get("group", "")))


def _arguments(content: Any, where: str) -> tuple[str, ...]:
    arguments = _strings(content, where, "--key=value")
    for argument in arguments:
        if not re.match(r"--[^=\s]+=", argument):
            raise ValueError(f"{where} has {argument!r}; wanted --key=value")
    return arguments


def _strings(content: Any, where: str, wanted: str) -> tuple[str, ...]:
    if not isinstance(content, list) or not all(isinstance(item, str) for item in content):
        raise ValueError(f"{where} is {content!r}; wanted a list of {wanted}")
    return tuple(content)


def _check_keys(content: Any, required: set[str], optional: set[str], where: str) -> None:
    if not isinstance(content, dict):
        raise ValueError(f"{where} is {content!r}; wanted the keys {', '.join(sorted(required))}")
    if missing := required - content.keys():
        raise ValueError(f"{where} lacks {', '.join(sorted(missing))}")
    if unknown := content.keys() - required - optional:
        raise ValueError(f"{where} has {', '.join(map(str, unknown))}; wanted {', '.join(sorted(required | optional))}")


def check_folder(output: Path, comparison: Comparison) -> None:
    """Refuse another comparison's folder with ValueError, naming the difference."""
    record = output / "comparison.json"
    if not record.exists():
        if any(path.name != ".lock" for path in output.iterdir()):
            raise ValueError(f"{output} holds something else than a comparison; wanted a new or empty --output")
        return
    changes = differences(json.loads(record.read_text()), comparison.resolved())
    if changes:
        more = [f"and {len(changes) - SHOWN_CHANGES} more"] if len(changes) > SHOWN_CHANGES else []
        listed = "\n  ".join([*changes[:SHOWN_CHANGES], *more])
        raise ValueError(
            f"{output} was made by another comparison:\n  {listed}\n"
            "wanted the same one, or an --output of its own for this one"
        )


def claim_folder(output: Path, comparison: Comparison) -> None:
    """Record what the folder belongs to, with copies of the arms' configuration files."""
    for name, arm in comparison.arms.items():
        (output / name).mkdir(exist_ok=True)
        for config, copy in zip(arm.configs, config_copies(output, name, arm), strict=True):
            shutil.copyfile(config, copy)
    (output / "comparison.json").write_text(json.dumps(comparison.resolved(), indent=1))


def config_copies(output: Path, name: str, arm: Arm) -> list[Path]:
    """What the runs read: an edit of the originals while they are at work must not reach the later ones."""
    return [output / name / f"config_{number}.yaml" for number in range(len(arm.configs))]


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What has changed between two resolved comparisons, a line for each key; added arms and seeds are no change."""
    kept = {
        "arms": {name: arm for name, arm in new["arms"].items() if name in old["arms"]},
        "seeds": [seed for seed in old["seeds"] if seed in new["seeds"]],
    }
    then, now = _flat(old), _flat({**new, **kept})
    values = {key: (then.get(key, "absent"), now.get(key, "absent")) for key in {**then, **now}}
    return [f"{key}: {before} there, {after} now" for key, (before, after) in values.items() if before != after]


def _flat(tree: Any, prefix: str = "") -> dict[str, str]:
    """{dotted key: leaf as text}; an empty mapping or list is a leaf."""
    if not isinstance(tree, dict | list) or not tree:
        return {prefix: repr(tree)}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    leaves: dict[str, str] = {}
    for key, value in items:
        leaves |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def all_runs(comparison: Comparison, output: Path) -> list[Run]:
    """Every arm with the first seed, then with the second: what is there early can be compared."""
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


def report(comparison: Comparison, output: Path) -> bool:
    """Write the report from what exists; returns whether every run is done and has the metric."""
    results = Results(
        comparison.metric,
        comparison.base,
        comparison.last_points,
        also=list(comparison.also),
        further_pairs=list(comparison.further_pairs),
    )
    for name, arm in comparison.arms.items():
        arguments = [*(f"--config={path}" for path in arm.configs), *comparison.common, *arm.arguments]
        results.add_arm(name, " ".join(arguments), arm.base, arm.group)
    for run in all_runs(comparison, output):
        results.add_run(run.arm, run.seed, run.folder, run.outcome(), run.log)
    print(compare_report.write(results, output))
    print(f"the page: {output / 'report.html'}")
    if results.unfinished:
        named = "; ".join(map(str, results.unfinished))
        print(f"not finished: {named}; the same command goes on", file=sys.stderr)
    return not results.failures and not results.unfinished


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path, help="YAML file that names metric, base, seeds and arms")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs and the report")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time (default: all cores)")
    parser.add_argument("--report-only", action="store_true", help="train nothing, report what there is")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs is {options.jobs}; wanted at least 1")
    if options.report_only and not (options.output / "comparison.json").exists():
        parser.error(f"--output {options.output} holds no comparison yet; train one first, without --report-only")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, then report."""
    options = parse(arguments)
    output = options.output.resolve()
    try:
        comparison = read_comparison(options.comparison)
        if options.report_only:
            check_folder(output, comparison)
        elif train(comparison, output, options.jobs):
            print("interrupted; the same command goes on, --report-only reports what there is", file=sys.stderr)
            return 130
    except (ValueError, FileNotFoundError, yaml.YAMLError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if report(comparison, output) else 1


if __name__ == "__main__":
    sys.exit(main())
