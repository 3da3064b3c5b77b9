"""The results of a comparison: the runs' curves, and a summary of their last values for each arm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isnan, nan
from pathlib import Path
from statistics import mean, median
from typing import Any, TypeVar

from paw_lightning.compare import statistics
from paw_lightning.compare.curves import Curve, Scalars, known, metric_points, read_scalars, training_seconds

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
    further_pairs: list[tuple[str, str]] = field(default_factory=list)
    """Arms whose difference is reported besides that of each arm from its base."""
    bases: dict[str, str] = field(default_factory=dict)
    """{arm: the arm it is compared with}; a base is compared with itself."""
    groups: dict[str, str] = field(default_factory=dict)
    """{arm: name of its table}."""
    commands: dict[str, str] = field(default_factory=dict)
    arms: dict[str, dict[int, Curve]] = field(default_factory=dict)
    """{arm: {seed: curve}}: finished runs alone."""
    failures: list[Failure] = field(default_factory=list)
    unfinished: list[Failure] = field(default_factory=list)
    """Runs that the same command would continue."""
    comparison: dict[str, Any] = field(default_factory=dict)
    """What the runs of this folder were trained with, as `Comparison.resolved` tells it."""
    codes: set[str] = field(default_factory=set)
    """The states of the package's code that the runs were made with."""
    changes: list[str] = field(default_factory=list)
    """Settings that are others now than when the runs were made."""
    inherited_changes: list[str] = field(default_factory=list)
    """Those of them that other reports say of their runs."""
    left_out_seeds: list[int] = field(default_factory=list)
    """Seeds of the comparison that this report does not count."""
    tags: set[str] = field(default_factory=set)
    """All curves that some finished run has."""

    def add_arm(self, name: str, command: str, base: str | None = None, group: str = "") -> None:
        """Add an arm; it has a row in its table even if all its runs fail."""
        self.commands[name], self.arms[name] = command, {}
        self.bases[name], self.groups[name] = base or self.base, group

    def tables(self) -> dict[str, list[str]]:
        """{group: its arms, those that are bases first}."""
        names = sorted(self.arms, key=lambda name: self.bases[name] != name)
        return {group: [n for n in names if self.groups[n] == group] for group in dict.fromkeys(self.groups.values())}

    def unknown_tags(self) -> list[str]:
        """The further curves that no finished run has; none while there is no run to tell by."""
        return [tag for tag in self.also if self.tags and tag not in self.tags]

    def add_run(self, arm: str, seed: int, folder: Path, outcome: Mapping[str, Any], log: Path) -> None:
        """Add a run to the finished, the failed, or the unfinished ones."""
        state = outcome["state"]
        if state == "failed":
            self.failures.append(Failure(arm, seed, f"ended with exit code {outcome['exit_code']}", tail(log)))
        elif state != "done":
            self.unfinished.append(Failure(arm, seed, f"({state})", tail(log)))
        else:
            scalars = read_scalars(folder)
            self.tags |= scalars.keys()
            points = metric_points(scalars, self.metric)
            if reason := self._no_result(points, scalars):
                self.failures.append(Failure(arm, seed, reason, tail(log)))
                return
            last = {tag: [nan, *metric_points(scalars, tag).values()][-1] for tag in self.also}
            also = {tag: value for tag, value in last.items() if not isnan(value)}
            self.arms[arm][seed] = Curve(known(points), training_seconds(scalars), also)
            self.codes |= set(outcome["codes"])

    def _no_result(self, points: dict[int, float], scalars: Scalars) -> str:
        """Why a run has no last value of the metric; empty where it has one."""
        if not any(known(points)):  # iteration 0 is before training
            return f"has no {self.metric} of a trained policy; its curves are {', '.join(sorted(scalars))}"
        lost = [i for i in list(points)[-self.last_points :] if i and isnan(points[i])]
        if not lost:
            return ""
        # An older value is that of a policy with less training.
        return f"has no {self.metric} at its end: the validation after iteration {', '.join(map(str, lost))} was lost"


def tail(log: Path) -> str:
    """The last lines of a log, without those of a progress bar."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join([line for line in text.replace("\r", "\n").split("\n") if line.strip()][-LOG_LINES:])


@dataclass(frozen=True)
class Difference:
    """One arm against another, paired by seed; None where there is nothing to say."""

    arm: str
    base: str
    """The arm it is compared with."""
    pairs: int
    difference: float | None
    difference_interval: tuple[float, float] | None
    p_value: float | None
    """How often equal arms would differ at least as much."""
    adjusted_p_value: float | None
    """The same, Holm-adjusted for all differences of its table or list."""
    probability_of_improvement: float | None

    @property
    def is_result(self) -> bool:
        """Whether it may be claimed: its interval excludes 0, and its adjusted p value is at most 5 %."""
        if self.difference_interval is None or self.adjusted_p_value is None:
            return False
        low, high = self.difference_interval
        return (low > 0 or high < 0) and self.adjusted_p_value <= statistics.LARGEST_P_VALUE


@dataclass(frozen=True)
class ArmSummary(Difference):
    """One row of a table; a base is compared with itself, so without a difference."""

    group: str
    seeds: list[int]
    before: float | None
    last: float | None
    interval: tuple[float, float] | None
    area: float | None
    training_seconds: float | None
    also: dict[str, float | None]
    """Mean over seeds of the further curves' last values."""


Compared = TypeVar("Compared", bound=Difference)


def summarise(results: Results) -> list[ArmSummary]:
    """The tables' rows, table by table; p values are Holm-adjusted for the number of differences of a table."""
    return [row for names in results.tables().values() for row in _adjusted([_summary(results, n) for n in names])]


def further_differences(results: Results) -> list[Difference]:
    """The differences of `further_pairs`; p values are Holm-adjusted for their number."""
    return _adjusted([_difference(results, arm, other) for arm, other in results.further_pairs])


def _adjusted(rows: list[Compared]) -> list[Compared]:
    adjusted = iter(statistics.holm([row.p_value for row in rows if row.p_value is not None]))
    return [replace(row, adjusted_p_value=None if row.p_value is None else next(adjusted)) for row in rows]


def _difference(results: Results, arm: str, base: str) -> Difference:
    values, base_values = final_values(results, arm), final_values(results, base)
    differences = statistics.paired_differences(values, base_values) if arm != base else []
    probability = statistics.probability_of_improvement(list(values.values()), list(base_values.values()))
    p_value = statistics.sign_flip_p_value(differences)
    return Difference(
        arm=arm,
        base=base,
        pairs=len(differences),
        difference=_mean(differences),
        difference_interval=statistics.t_interval(differences),
        p_value=p_value,
        adjusted_p_value=p_value,
        probability_of_improvement=probability if arm != base else None,
    )


def _summary(results: Results, name: str) -> ArmSummary:
    curves, values = results.arms[name], list(final_values(results, name).values())
    return ArmSummary(
        **vars(_difference(results, name, results.bases[name])),
        group=results.groups[name],
        seeds=sorted(curves),
        before=_mean([c.points[0] for c in curves.values() if 0 in c.points]),
        last=_mean(values),
        interval=statistics.t_interval(values),
        area=_mean([statistics.area_under_curve(c.points) for c in curves.values()]),
        training_seconds=median([c.training_seconds for c in curves.values()]) if curves else None,
        also={tag: _mean([c.also[tag] for c in curves.values() if tag in c.also]) for tag in results.also},
    )


def final_values(results: Results, arm: str) -> dict[int, float]:
    """What counts of each run; {seed: value}."""
    return {seed: statistics.final_value(c.points, results.last_points) for seed, c in results.arms[arm].items()}


def _mean(values: list[float]) -> float | None:
    return mean(values) if values else None
