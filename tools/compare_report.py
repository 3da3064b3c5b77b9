"""The report of a comparison: what the runs' curves say, as Markdown, JSON, PNG, and one HTML page with all of it."""

from __future__ import annotations

import base64
import html
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import isnan, nan
from pathlib import Path
from statistics import mean, median
from typing import Any

import compare_statistics as statistics
from compare_plots import plot
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

FEW_SEEDS = 10
LOG_LINES = 12
NAMED_ARMS = 4
VALIDATION_WITNESS = "val/dropped_tasks"
"""Logged by every validation between iterations, lost ones too, but not by the one before training."""
TRAINING_SECONDS = ("time/rollout_s", "time/update_s")


@dataclass(frozen=True)
class Curve:
    """The metric of one finished run."""

    points: dict[int, float]
    """{finished iterations: value}; 0 is before training."""
    training_seconds: float
    also: dict[str, float] = field(default_factory=dict)
    """Last values of the further curves that the run has."""


@dataclass(frozen=True)
class Failure:
    """A run without a result."""

    arm: str
    seed: int
    reason: str
    log: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.arm}, seed {self.seed} {self.reason}"


@dataclass
class Results:
    """Everything that the report is made from."""

    metric: str
    base: str
    last_points: int = 1
    also: list[str] = field(default_factory=list)
    """Further curves whose last values are shown."""
    bases: dict[str, str] = field(default_factory=dict)
    """{arm: the arm it is compared with}; a base is compared with itself."""
    groups: dict[str, str] = field(default_factory=dict)
    """{arm: name of its table}."""
    commands: dict[str, str] = field(default_factory=dict)
    arms: dict[str, dict[int, Curve]] = field(default_factory=dict)
    """{arm: {seed: curve}}: finished runs alone."""
    failures: list[Failure] = field(default_factory=list)
    unfinished: list[Failure] = field(default_factory=list)
    """Runs that may still be gone on with."""
    codes: set[str] = field(default_factory=set)
    """The states of the package's code that the runs were made with."""

    def add_arm(self, name: str, command: str, base: str | None = None, group: str = "") -> None:
        """Make a row for the arm, whatever becomes of its runs."""
        self.commands[name], self.arms[name] = command, {}
        self.bases[name], self.groups[name] = base or self.base, group

    def tables(self) -> dict[str, list[str]]:
        """{group: its arms, those that are bases first}."""
        names = sorted(self.arms, key=lambda name: self.bases[name] != name)
        return {group: [n for n in names if self.groups[n] == group] for group in dict.fromkeys(self.groups.values())}

    def add_run(self, arm: str, seed: int, folder: Path, outcome: Mapping[str, Any], log: Path) -> None:
        """Sort one run in."""
        state = outcome["state"]
        if state == "failed":
            self.failures.append(Failure(arm, seed, f"ended with exit code {outcome['exit_code']}", tail(log)))
        elif state != "done":
            self.unfinished.append(Failure(arm, seed, f"({state})", tail(log)))
        else:
            scalars = read_scalars(folder)
            points = metric_points(scalars, self.metric)
            if reason := self._no_result(points, scalars):
                self.failures.append(Failure(arm, seed, reason, tail(log)))
                return
            last = {tag: [nan, *metric_points(scalars, tag).values()][-1] for tag in self.also}
            also = {tag: value for tag, value in last.items() if not isnan(value)}
            self.arms[arm][seed] = Curve(known(points), training_seconds(scalars), also)
            self.codes |= set(outcome["codes"])

    def _no_result(self, points: dict[int, float], scalars: Scalars) -> str:
        """Why a run's curve has no end; empty where it has one."""
        if not any(known(points)):  # iteration 0 is before training
            return f"has no {self.metric} of a trained policy; its curves are {', '.join(sorted(scalars))}"
        lost = [i for i in list(points)[-self.last_points :] if i and isnan(points[i])]
        if not lost:
            return ""
        # An older value is that of a policy with less training.
        return f"has no {self.metric} at its end: the validation after iteration {', '.join(map(str, lost))} was lost"


Scalars = dict[str, list[tuple[int, float]]]


def read_scalars(folder: Path) -> Scalars:
    """All scalars of a run, in the order in which they were written: {tag: [(step, value)]}."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def metric_points(scalars: Scalars, metric: str) -> dict[int, float]:
    """{finished iterations: value}; what a resumed run wrote again replaces what it had written before.

    A validation that lost all its tasks has the value nan, whether that was written or nothing was.
    Steps count optimizer steps from 0, so that "before training" and the end of an iteration of one step share step 0:
    the extra point there is the former. At a later step the extra point is that of a resumed run's sanity check.
    """
    written = scalars.get(metric, [])
    iterations = {step: round(epoch) + 1 for step, epoch in scalars.get("epoch", [])}
    witness = scalars.get(VALIDATION_WITNESS, []) if metric.startswith("val/") else written
    regular = Counter(step for step, _ in witness)
    points = dict.fromkeys((iterations[step] for step in regular if step in iterations), nan) if written else {}
    points |= {iterations[step]: value for step, value in written if regular[step] and step in iterations}
    if written and written[0][0] == 0 and Counter(step for step, _ in written)[0] > regular[0]:
        points[0] = written[0][1]
    return dict(sorted(points.items()))


def known(points: dict[int, float]) -> dict[int, float]:
    """The points that are numbers."""
    return {iteration: value for iteration, value in points.items() if not isnan(value)}


def training_seconds(scalars: Scalars) -> float:
    """Wall seconds of all rollouts and updates; an iteration that was done twice counts once."""
    return sum(sum(dict(scalars.get(tag, [])).values()) for tag in TRAINING_SECONDS)


def tail(log: Path) -> str:
    """The last lines of a log; a redrawn progress bar is not one."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join([line for line in text.replace("\r", "\n").split("\n") if line.strip()][-LOG_LINES:])


@dataclass(frozen=True)
class ArmSummary:
    """One row of a table; None where there is nothing to say."""

    arm: str
    group: str
    base: str
    """The arm it is compared with; itself for a base."""
    seeds: list[int]
    before: float | None
    last: float | None
    interval: tuple[float, float] | None
    pairs: int
    difference: float | None
    difference_interval: tuple[float, float] | None
    chance: float | None
    """How often equal arms differ as much, Holm-corrected for the comparisons of the table."""
    probability_of_improvement: float | None
    area: float | None
    training_seconds: float | None
    also: dict[str, float | None]
    """Mean over seeds of the further curves' last values."""


def summarise(results: Results) -> list[ArmSummary]:
    """The tables' rows, table by table; the more arms a table has, the less chance is allowed each of them."""
    return [
        row for names in results.tables().values() for row in _corrected([_summarise_arm(results, n) for n in names])
    ]


def _corrected(rows: list[ArmSummary]) -> list[ArmSummary]:
    compared = [row.arm for row in rows if row.chance is not None]
    chances = statistics.holm([row.chance for row in rows if row.chance is not None])
    corrected = dict(zip(compared, chances, strict=True))
    return [replace(row, chance=corrected.get(row.arm)) for row in rows]


def _summarise_arm(results: Results, name: str) -> ArmSummary:
    curves, base = results.arms[name], results.bases[name]
    finals, base_finals = (
        {seed: statistics.final_value(c.points, results.last_points) for seed, c in results.arms[arm].items()}
        for arm in (name, base)
    )
    differences = statistics.paired_differences(finals, base_finals) if name != base else []
    values = list(finals.values())
    probability = statistics.probability_of_improvement(values, list(base_finals.values()))
    return ArmSummary(
        arm=name,
        group=results.groups[name],
        base=base,
        seeds=sorted(curves),
        before=_mean([c.points[0] for c in curves.values() if 0 in c.points]),
        last=_mean(values),
        interval=statistics.bootstrap_interval(values),
        pairs=len(differences),
        difference=_mean(differences),
        difference_interval=statistics.bootstrap_interval(differences),
        chance=statistics.chance_of_difference(differences),
        probability_of_improvement=probability if name != base else None,
        area=_mean([statistics.area_under_curve(c.points) for c in curves.values()]),
        training_seconds=median([c.training_seconds for c in curves.values()]) if curves else None,
        also={tag: _mean([c.also[tag] for c in curves.values() if tag in c.also]) for tag in results.also},
    )


def _mean(values: list[float]) -> float | None:
    return mean(values) if values else None


def verdict(row: ArmSummary, metric: str) -> str:
    """What the interval of one arm supports, and no more."""
    base = row.base
    if not row.pairs:
        return f"{row.arm}: has no seed in common with {base}, so nothing can be said."
    if row.difference_interval is None or row.difference is None or row.chance is None:
        return f"{row.arm}: one seed has no interval, so nothing is claimed about a difference from {base}."
    low, high = row.difference_interval
    evidence = f"95 % interval {low:+.3f} to {high:+.3f}, {row.pairs} seeds"
    if low <= 0 <= high:
        return f"{row.arm}: no difference from {base} detectable ({row.difference:+.3f}, {evidence})."
    direction = "above" if row.difference > 0 else "below"
    claim = f"{row.arm}: {metric} ends {abs(row.difference):.3f} {direction} {base} ({evidence})."
    if row.chance <= 1 - statistics.CONFIDENCE:
        return claim
    return f"{claim} A hint, not a result: equal arms differ as much in {100 * row.chance:.0f} % of such tables."


def notes(results: Results, rows: list[ArmSummary]) -> list[str]:
    """How to read the table, and what is missing from it."""
    end = "the last point" if results.last_points == 1 else f"the mean of the last {results.last_points} points"
    lines = [
        f"{results.metric} counts at its end: {end} of a run's curve. Square brackets hold 95 % percentile bootstrap "
        f"intervals over seeds ({statistics.RESAMPLES} resamples); the difference is paired by seed.",
        f"A difference counts as a result when its interval excludes 0 and equal arms differ as much in at most "
        f"{100 * (1 - statistics.CONFIDENCE):.0f} % of comparisons (sign-flip test over seeds, with Holm's correction "
        "for the number of arms in a table).",
        "The area is the curve's mean height over iterations. Training is the median over seeds of the wall time of "
        "rollouts and updates, while other runs may have shared the machine.",
    ]
    if results.also:
        lines.append(f"{', '.join(results.also)}: the last value of the curve, mean over seeds.")
    if any(len(row.seeds) < 2 for row in rows):
        lines.append('"-" stands for what is undefined; one seed has no interval.')
    if any(1 < len(row.seeds) < FEW_SEEDS for row in rows):
        lines.append("The bootstrap interval of few seeds is too narrow: it knows no values but theirs.")
    if results.unfinished:
        lines.append(f"Not finished, and not counted: {'; '.join(map(str, results.unfinished))}.")
    return lines + _warnings(results)


def _warnings(results: Results) -> list[str]:
    ends: dict[int, list[str]] = {}
    for name, curves in results.arms.items():
        for seed, curve in curves.items():
            ends.setdefault(max(curve.points), []).append(f"{name}, seed {seed}")
    lines = []
    if len(ends) > 1:
        listed = "; ".join(f"{iteration} ({', '.join(runs)})" for iteration, runs in sorted(ends.items()))
        lines.append(f"Warning: the curves do not end at the same iteration: {listed}.")
    if len(results.codes) > 1:
        lines.append("Warning: the package's code was changed between runs; they may not be comparable.")
    return lines


def tables(results: Results, rows: list[ArmSummary]) -> list[tuple[str, list[list[str]]]]:
    """(Group, its header and rows as text) of each table."""
    return [(group, table(results, [row for row in rows if row.group == group])) for group in results.tables()]


def table(results: Results, rows: list[ArmSummary]) -> list[list[str]]:
    """Header and rows, as text."""
    bases = {row.base for row in rows if row.base != row.arm} or {row.base for row in rows}
    base = next(iter(bases)) if len(bases) == 1 else "its base"
    header = ["arm", "seeds", "before", f"{results.metric} at the end", f"difference from {base}"]
    header += ["P(arm > base)", "area", "training", *results.also]
    return [header, *(_cells(results, row, several_bases=len(bases) > 1) for row in rows)]


def _cells(results: Results, row: ArmSummary, several_bases: bool) -> list[str]:
    missing = {"failed": results.failures, "not finished": results.unfinished}
    seeds_of = {why: ranges([run.seed for run in runs if run.arm == row.arm]) for why, runs in missing.items()}
    without = "; ".join(f"{why}: {seeds}" for why, seeds in seeds_of.items() if seeds)
    difference = _with_interval(_number(row.difference, "+"), row.difference_interval, "+")
    return [
        row.arm,
        (ranges(row.seeds) or "none") + (f" ({without})" if without else ""),
        _number(row.before),
        _with_interval(_number(row.last), row.interval),
        "base" if row.arm == row.base else difference + (f" ({row.base})" if several_bases else ""),
        _number(row.probability_of_improvement, digits=2),
        _number(row.area),
        "-" if row.training_seconds is None else f"{row.training_seconds:.0f} s",
        *(_number(row.also[tag]) for tag in results.also),
    ]


def ranges(seeds: list[int]) -> str:
    """1, 2, 3, 5 as "1-3, 5"; two in a row stay two."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def _number(value: float | None, sign: str = "", digits: int = 3) -> str:
    return "-" if value is None else f"{value:{sign}.{digits}f}"


def _with_interval(value: str, interval: tuple[float, float] | None, sign: str = "") -> str:
    if interval is None:
        return value if value == "-" else f"{value} [-]"
    return f"{value} [{_number(interval[0], sign)}, {_number(interval[1], sign)}]"


def verdicts(results: Results, rows: list[ArmSummary]) -> list[str]:
    """One sentence for each arm but the bases."""
    return [verdict(row, results.metric) for row in rows if row.arm != row.base]


def markdown(results: Results, rows: list[ArmSummary]) -> str:
    """Tables, verdicts, notes, failures."""
    parts = []
    for group, (header, *cells) in tables(results, rows):
        lines = [header, ["---"] * len(header), *cells]
        parts += [f"## {group}" if group else "", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    parts.append("\n".join(f"- {line}" for line in verdicts(results, rows)))
    parts += notes(results, rows)
    parts += [f"**{f}**\n\n```\n{f.log}\n```" for f in results.failures]
    return "\n\n".join(part for part in parts if part) + "\n"


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 84rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; min-width: 62rem }
th, td { padding: 0.4rem 0.7rem; text-align: right; border-bottom: 1px solid #d8dee4; vertical-align: top }
td { white-space: nowrap }
th { font-weight: 600; border-bottom: 2px solid #1b1f24; vertical-align: bottom }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
th:nth-child(2), td:nth-child(2) { text-align: left; white-space: normal; min-width: 7rem }
th { white-space: nowrap }
img { width: 100%; max-width: 62rem; display: block; margin: 1.5rem 0 }
ul, p { max-width: 62rem }
.notes { color: #57606a; font-size: 0.9rem }
summary { color: #b3261e; cursor: pointer }
pre, code { font: 0.8rem/1.5 ui-monospace, monospace }
pre { background: #f6f8fa; padding: 0.8rem; overflow-x: auto }
"""


def page(results: Results, rows: list[ArmSummary], png: bytes) -> str:
    """The whole report as one HTML page that needs nothing else."""
    sections = []
    for group, (header, *cells) in tables(results, rows):
        lines = [_table_row(header, "th"), *(_table_row(line, "td") for line in cells)]
        heading = f"<h2>{html.escape(group)}</h2>" if group else ""
        sections.append(f"{heading}<div class='wide'><table>{''.join(lines)}</table></div>")
    arms = ", ".join(results.arms) if len(results.arms) <= NAMED_ARMS else f"{len(results.arms)} arms"
    title = html.escape(f"{results.metric}: {arms}")
    failures = [
        f"<details><summary>{html.escape(str(f))}</summary><pre>{html.escape(f.log)}</pre></details>"
        for f in results.failures
    ]
    commands = [f"<li>{html.escape(n)}: <code>{html.escape(c)}</code></li>" for n, c in results.commands.items()]
    parts = [
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title>",
        "<meta name='viewport' content='width=device-width'><link rel='icon' href='data:,'>",
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>",
        *sections,
        f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in verdicts(results, rows))}</ul>",
        f"<img alt='every run' src='data:image/png;base64,{base64.b64encode(png).decode()}'>",
        *(f"<p class='notes'>{html.escape(line)}</p>" for line in notes(results, rows)),
        *(["<h2>Failed</h2>", *failures] if failures else []),
        f"<section><h2>Arms</h2><ul>{''.join(commands)}</ul></section></body></html>",
    ]
    return "\n".join(parts)


def _table_row(cells: list[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"


def write(results: Results, output: Path) -> str:
    """Write report.md, report.json, curves.png and report.html; returns the Markdown."""
    rows = summarise(results)
    text = markdown(results, rows)
    plot(results, rows, output / "curves.png")
    (output / "report.md").write_text(text)
    (output / "report.html").write_text(page(results, rows, (output / "curves.png").read_bytes()))
    content = {
        "metric": results.metric,
        "base": results.base,
        "last_points": results.last_points,
        "also": results.also,
        "arms": [asdict(row) for row in rows],
        "verdicts": verdicts(results, rows),
        "notes": notes(results, rows),
        "curves": {n: {seed: asdict(c) for seed, c in curves.items()} for n, curves in results.arms.items()},
        "failures": [asdict(failure) for failure in results.failures],
        "unfinished": [str(run) for run in results.unfinished],
    }
    (output / "report.json").write_text(json.dumps(content, indent=1))
    return text
