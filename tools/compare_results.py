"""The results of a comparison: which runs have a curve, and what their ends say about each arm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isnan, nan
from pathlib import Path
from statistics import mean, median
from typing import Any

import compare_statistics as statistics
from compare_curves import Curve, Scalars, known, metric_points, read_scalars, training_seconds

LOG_LINES = 12


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
