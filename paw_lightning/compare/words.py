"""The sentences and tables of a comparison's report, as text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from paw_lightning.compare import statistics
from paw_lightning.compare.changes import listed
from paw_lightning.compare.results import ArmSummary, Difference, Results
from paw_lightning.rollout_files.run import spans

FURTHER = "Further differences"
# Of 4,000 tables each by tools/comparison_rates.py; normal values, and success on 200 tasks around 0.5 and 0.1.
COVERAGE = "94.8 to 95.5 % in simulations of 3, 5 and 8 seeds"
RESULTS = "simulated with 8 seeds: up to 4.2 % with one or three differences, 3.6 % with five, none with seven"
EXCLUDING = "tables of 1, 3, 5 and 7 equal arms hold one in about 5, 13, 20 and 26 % of cases"


@dataclass(frozen=True)
class Section:
    """A table and what it supports."""

    heading: str
    table: list[list[str]]
    """Header and rows, as text."""
    sentences: list[str]
    further: bool = False
    """The table of the further differences, not of arms."""


def sections(results: Results, rows: list[ArmSummary], further: list[Difference]) -> list[Section]:
    """One for each table, and one for the further differences."""
    tables = {group: [row for row in rows if row.group == group] for group in results.tables()}
    parts = [Section(group, table(results, members), verdicts(results, members)) for group, members in tables.items()]
    if further:
        sentences = [verdict(difference, results.metric) for difference in further]
        parts.append(Section(FURTHER, _further_table(further), sentences, further=True))
    return parts


def verdicts(results: Results, rows: list[ArmSummary]) -> list[str]:
    """One sentence for each arm but the bases."""
    return [verdict(row, results.metric) for row in rows if row.arm != row.base]


def verdict(row: Difference, metric: str) -> str:
    """A claim where the difference is a result, and none where it is not."""
    base = row.base
    if not row.pairs:
        return f"{row.arm}: has no seed in common with {base}, so nothing can be said."
    if row.difference_interval is None or row.difference is None:
        return f"{row.arm}: one seed has no interval, so nothing is claimed about a difference from {base}."
    low, high = row.difference_interval
    evidence = f"95 % interval {low:+.3f} to {high:+.3f}, {row.pairs} seeds, adjusted p {_p(row.adjusted_p_value)}"
    if not row.is_result:
        return f"{row.arm}: no difference from {base} established ({row.difference:+.3f}, {evidence})."
    direction = "above" if row.difference > 0 else "below"
    return f"{row.arm}: {metric} ends {abs(row.difference):.3f} {direction} {base} ({evidence})."


def notes(results: Results, rows: list[ArmSummary], further: list[Difference]) -> list[str]:
    """How to read the tables, and what is missing from them."""
    lines = _meanings(results, any(row.before is not None for row in rows))
    if any(len(row.seeds) < 2 for row in rows):
        lines.append('"-" stands for what is undefined; one seed has no interval.')
    families: dict[str, list[Difference]] = {
        group: [row for row in rows if row.group == group and row.arm != row.base] for group in results.tables()
    }
    families = {place: family for place, family in {**families, FURTHER: further}.items() if family}
    lines += [*_how_rare(families), *_out_of_reach(families), *_interim(families)]
    if results.left_out_seeds:
        seeds = spans(results.left_out_seeds)
        lines.append(f"Seeds of the comparison that are left out: {seeds}. This is an interim report.")
    if results.unfinished:
        lines.append(f"Not finished, and not counted: {'; '.join(map(str, results.unfinished))}.")
    return lines + _unknown_tags(results) + _partly_known(results) + _warnings(results)


def _meanings(results: Results, before: bool) -> list[str]:
    end = "the last point" if results.last_points == 1 else f"the mean of the last {results.last_points} points"
    lines = [
        f"{results.metric} counts at its end: {end} of a run's curve. Square brackets hold 95 % t intervals over seeds "
        "(differences are paired by seed). Each covers what very many seeds would give in 95 % of cases where seeds "
        f"differ normally: {COVERAGE}. With few seeds it is wide.",
        "A difference counts as a result when its interval excludes 0 and its adjusted p value is at most "
        f"{statistics.LARGEST_P_VALUE}. The p value is how often equal arms would differ at least as much (sign-flip "
        "test over seeds). Holm's adjustment is over the m differences of a table, whatever their bases, and not over "
        "other tables: the smallest p value times m, the next times m - 1, and so on, none below one before it.",
        "P(arm > base) is the share of all pairs of a run of the arm and a run of its base in which the arm ends "
        "higher, ties counting half: 0.5 is no difference, 1 is every run above every other.",
        "The area is the curve's mean height over iterations. Training is the median over seeds of the wall time of "
        "rollouts and updates, while other runs may have shared the machine.",
    ]
    if before:
        lines.append(f"Before is {results.metric} of the policy that training starts from, mean over seeds.")
    if results.further_pairs:
        lines.append(
            f"{FURTHER} are adjusted over their own list. Nothing in the folder says whether this list was made "
            "before the runs were seen; whoever cites it has to."
        )
    if shown := further_columns(results):
        lines.append(f"{', '.join(shown)}: the last value of the curve, mean over seeds.")
    return lines


def _how_rare(families: dict[str, list[Difference]]) -> list[str]:
    """How often chance alone makes a result, in a table and in the whole report."""
    if not families:
        return []
    tables = len(families)
    report = f"; a report of {tables} tables holds one in up to {5 * tables} %" if tables > 1 else ""
    return [
        f"Where all arms are equal, at most 5 % of tables hold a result ({RESULTS}){report}. An interval that excludes "
        f"0 without being a result is no hint: {EXCLUDING}."
    ]


def _out_of_reach(families: dict[str, list[Difference]]) -> list[str]:
    """Where even the clearest difference comes out with too large a p value."""
    lines = []
    for place, family in families.items():
        pairs = [row.pairs for row in family if row.p_value is not None]
        least = statistics.least_p_value(max(pairs, default=0), len(pairs))
        if pairs and least > statistics.LARGEST_P_VALUE:
            wanted = statistics.seeds_for_a_result(len(pairs))
            lines.append(
                f"{_where(place)}{max(pairs)} seeds give no adjusted p value below {_p(least)}, so no difference can "
                f"count as a result; {wanted} seeds could. The intervals say how large a difference may still be."
            )
    return lines


def _interim(families: dict[str, list[Difference]]) -> list[str]:
    """Where p values are adjusted for fewer differences than the whole comparison will have."""
    lines = []
    for place, family in families.items():
        there = sum(row.p_value is not None for row in family)
        if 0 < there < len(family):
            lines.append(
                f"{_where(place)}the p values are adjusted for the {there} differences that have runs so far, not for "
                f"all {len(family)}: this is an interim report, and they rise when the rest is there."
            )
    return lines


def _where(place: str) -> str:
    return f"{place}: " if place else ""


def further_columns(results: Results) -> list[str]:
    """The further curves that some run has."""
    unknown = results.unknown_tags()
    return [tag for tag in results.also if tag not in unknown]


def _unknown_tags(results: Results) -> list[str]:
    return [
        f"Warning: also has {tag}, which no run has{_nearest(tag, results.tags)}." for tag in results.unknown_tags()
    ]


def _partly_known(results: Results) -> list[str]:
    """Further curves that some counted runs of an arm have and others not."""
    counts = {
        (tag, arm): (sum(tag in curve.also for curve in curves.values()), len(curves))
        for tag in further_columns(results)
        for arm, curves in results.arms.items()
    }
    return [
        f"Warning: {tag} is known of {count} of the {runs} runs of {arm}; its column is the mean of these."
        for (tag, arm), (count, runs) in counts.items()
        if 0 < count < runs
    ]


def _nearest(tag: str, tags: Iterable[str]) -> str:
    found = get_close_matches(tag, sorted(tags), 1)
    return f"; the nearest curve is {found[0]}" if found else ""


def _warnings(results: Results) -> list[str]:
    ends: dict[int, list[str]] = {}
    for name, curves in results.arms.items():
        for seed, curve in curves.items():
            ends.setdefault(max(curve.points), []).append(f"{name}, seed {seed}")
    lines = []
    if len(ends) > 1:
        lasts = "; ".join(f"{iteration} ({', '.join(runs)})" for iteration, runs in sorted(ends.items()))
        lines.append(f"Warning: the curves do not end at the same iteration: {lasts}.")
    if results.changes:
        lines.append(f"Warning: the runs were made with other settings than these: {listed(results.changes)}.")
    if len(results.codes) > 1:
        lines.append("Warning: the package's code was changed between runs; they may not be comparable.")
    return lines


def table(results: Results, rows: list[ArmSummary]) -> list[list[str]]:
    """Header and rows, as text."""
    bases = {row.base for row in rows if row.base != row.arm} or {row.base for row in rows}
    base = next(iter(bases)) if len(bases) == 1 else "its base"
    header = ["arm", "seeds", "before", f"{results.metric} at the end", f"difference from {base}"]
    header += ["P(arm > base)", "area", "training", *further_columns(results)]
    return [header, *(_cells(results, row, several_bases=len(bases) > 1) for row in rows)]


def _cells(results: Results, row: ArmSummary, several_bases: bool) -> list[str]:
    missing = {"failed": results.failures, "not finished": results.unfinished}
    seeds_of = {why: spans(sorted(run.seed for run in runs if run.arm == row.arm)) for why, runs in missing.items()}
    without = "; ".join(f"{why}: {seeds}" for why, seeds in seeds_of.items() if seeds)
    difference = _with_interval(_number(row.difference, "+"), row.difference_interval, "+")
    return [
        row.arm,
        (spans(row.seeds) or "none") + (f" ({without})" if without else ""),
        _number(row.before),
        _with_interval(_number(row.last), row.interval),
        "base" if row.arm == row.base else difference + (f" ({row.base})" if several_bases else ""),
        _number(row.probability_of_improvement, digits=2),
        _number(row.area),
        "-" if row.training_seconds is None else f"{row.training_seconds:.0f} s",
        *(_number(row.also[tag]) for tag in further_columns(results)),
    ]


def _further_table(differences: list[Difference]) -> list[list[str]]:
    header = ["arm", "compared with", "seeds", "difference", "P(arm > other)", "p", "adjusted p"]
    return [
        header,
        *(
            [
                row.arm,
                row.base,
                str(row.pairs),
                _with_interval(_number(row.difference, "+"), row.difference_interval, "+"),
                _number(row.probability_of_improvement, digits=2),
                _p(row.p_value),
                _p(row.adjusted_p_value),
            ]
            for row in differences
        ),
    ]


MEANINGS = {
    "arm": "The configuration that was trained; its settings are at the end of the page.",
    "seeds": "Seeds of the runs that count.",
    "before": "The metric of the policy that training starts from, mean over seeds.",
    "P(arm > base)": "How often a run of the arm ends above a run of its base, over all pairs; 0.5 is no difference.",
    "area": "Mean height of the curve over iterations, mean over seeds.",
    "training": "Wall time of rollouts and updates, median over seeds.",
    "compared with": "The arm that is subtracted.",
    "difference": "Mean difference of the ends, paired by seed, with its 95 % interval.",
    "P(arm > other)": "How often a run of the arm ends above a run of the other, over all pairs.",
    "p": "How often equal arms would differ at least as much (sign-flip test over seeds).",
    "adjusted p": "The same, Holm-adjusted for the length of this list.",
}
"""What a column holds."""


def meaning(header: str, metric: str) -> str:
    """What a column of a table holds, in one sentence."""
    if header == f"{metric} at the end":
        return "What counts of a run's curve, mean over seeds, with its 95 % interval."
    if header.startswith("difference from"):
        return f"{MEANINGS['difference']} It is a result only where the sentence above says so."
    return MEANINGS.get(header, "The last value of this curve, mean over seeds.")


def _number(value: float | None, sign: str = "", digits: int = 3) -> str:
    return "-" if value is None else f"{value:{sign}.{digits}f}"


def _p(value: float | None) -> str:
    return _number(value, digits=3)


def _with_interval(value: str, interval: tuple[float, float] | None, sign: str = "") -> str:
    if interval is None:
        return value if value == "-" else f"{value} [-]"
    return f"{value} [{_number(interval[0], sign)}, {_number(interval[1], sign)}]"
