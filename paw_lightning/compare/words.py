"""The sentences and tables of a comparison's report, as text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from paw_lightning.compare import statistics
from paw_lightning.compare.results import ArmSummary, Difference, Results

FEW_SEEDS = 10
FURTHER = "Further differences"
LARGEST_CHANCE = 1 - statistics.CONFIDENCE
"""Above it a difference is no result."""


@dataclass(frozen=True)
class Section:
    """A table and what it supports."""

    heading: str
    table: list[list[str]]
    """Header and rows, as text."""
    sentences: list[str]


def sections(results: Results, rows: list[ArmSummary], further: list[Difference]) -> list[Section]:
    """One for each table, and one for the further differences."""
    tables = {group: [row for row in rows if row.group == group] for group in results.tables()}
    parts = [Section(group, table(results, members), verdicts(results, members)) for group, members in tables.items()]
    if further:
        sentences = [verdict(difference, results.metric) for difference in further]
        parts.append(Section(FURTHER, _further_table(further), sentences))
    return parts


def verdicts(results: Results, rows: list[ArmSummary]) -> list[str]:
    """One sentence for each arm but the bases."""
    return [verdict(row, results.metric) for row in rows if row.arm != row.base]


def verdict(row: Difference, metric: str) -> str:
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
    if row.chance <= LARGEST_CHANCE:
        return claim
    return f"{claim} A hint, not a result: its Holm-adjusted sign-flip chance is {_percent(row.chance)}."


def notes(results: Results, rows: list[ArmSummary], further: list[Difference]) -> list[str]:
    """How to read the tables, and what is missing from them."""
    lines = _meanings(results, any(row.before is not None for row in rows))
    if any(len(row.seeds) < 2 for row in rows):
        lines.append('"-" stands for what is undefined; one seed has no interval.')
    if any(1 < len(row.seeds) < FEW_SEEDS for row in rows):
        lines.append("The bootstrap interval of few seeds is too narrow: it knows no values but theirs.")
    families: dict[str, list[Difference]] = {
        group: [row for row in rows if row.group == group] for group in results.tables()
    }
    families[FURTHER] = further
    lines += [*_out_of_reach(families), *_interim(families)]
    if results.unfinished:
        lines.append(f"Not finished, and not counted: {'; '.join(map(str, results.unfinished))}.")
    return lines + _unknown_tags(results) + _warnings(results)


def _meanings(results: Results, before: bool) -> list[str]:
    end = "the last point" if results.last_points == 1 else f"the mean of the last {results.last_points} points"
    lines = [
        f"{results.metric} counts at its end: {end} of a run's curve. Square brackets hold 95 % percentile bootstrap "
        f"intervals over seeds ({statistics.RESAMPLES} resamples); the difference is paired by seed.",
        f"A difference counts as a result when its interval excludes 0 and its chance is at most "
        f"{100 * LARGEST_CHANCE:.0f} %. The chance is how often equal arms would differ at least as much (sign-flip "
        "test over seeds), Holm-adjusted for all the differences of its table, whatever their bases, and not for other "
        "tables.",
        "P(arm > base) is the share of all pairs of a run of the arm and a run of its base in which the arm ends "
        "higher, ties counting half: 0.5 is no difference, 1 is every run above every other.",
        "The area is the curve's mean height over iterations. Training is the median over seeds of the wall time of "
        "rollouts and updates, while other runs may have shared the machine.",
    ]
    if before:
        lines.append(f"Before is {results.metric} of the policy that training starts from, mean over seeds.")
    if results.further_pairs:
        lines.append(
            f"{FURTHER} are Holm-adjusted over their own list. Nothing in the folder says whether this list was made "
            "before the runs were seen; whoever cites it has to."
        )
    if shown := further_columns(results):
        lines.append(f"{', '.join(shown)}: the last value of the curve, mean over seeds.")
    return lines


def _out_of_reach(families: dict[str, list[Difference]]) -> list[str]:
    """Where even the clearest difference comes out with too large a chance: with 2 of 2^n signs, times the number."""
    lines = []
    for place, family in families.items():
        pairs = [row.pairs for row in family if row.chance is not None]
        least = min(1.0, len(pairs) * 2 ** (1 - max(pairs, default=0)))
        if pairs and least > LARGEST_CHANCE:
            seeds = f"{max(pairs)} seeds give no Holm-adjusted chance below {_percent(least)}"
            lines.append(f"{_where(place)}{seeds}, so no difference can count as a result.")
    return lines


def _interim(families: dict[str, list[Difference]]) -> list[str]:
    """Where chances are adjusted for fewer differences than the whole comparison will have."""
    lines = []
    for place, family in families.items():
        wanted = [row for row in family if row.arm != row.base]
        there = sum(row.chance is not None for row in wanted)
        if 0 < there < len(wanted):
            lines.append(
                f"{_where(place)}the chances are Holm-adjusted for the {there} differences that have runs so far, not "
                f"for all {len(wanted)}: this is an interim report, and they rise when the rest is there."
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
        listed = "; ".join(f"{iteration} ({', '.join(runs)})" for iteration, runs in sorted(ends.items()))
        lines.append(f"Warning: the curves do not end at the same iteration: {listed}.")
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
    seeds_of = {why: ranges(sorted(run.seed for run in runs if run.arm == row.arm)) for why, runs in missing.items()}
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
        *(_number(row.also[tag]) for tag in further_columns(results)),
    ]


def _further_table(differences: list[Difference]) -> list[list[str]]:
    header = ["arm", "compared with", "seeds", "difference", "P(arm > other)", "chance", "Holm-adjusted"]
    return [
        header,
        *(
            [
                row.arm,
                row.base,
                str(row.pairs),
                _with_interval(_number(row.difference, "+"), row.difference_interval, "+"),
                _number(row.probability_of_improvement, digits=2),
                _percent(row.uncorrected_chance),
                _percent(row.chance),
            ]
            for row in differences
        ),
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


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _with_interval(value: str, interval: tuple[float, float] | None, sign: str = "") -> str:
    if interval is None:
        return value if value == "-" else f"{value} [-]"
    return f"{value} [{_number(interval[0], sign)}, {_number(interval[1], sign)}]"
