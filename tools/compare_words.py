"""What a comparison's report says: sentences and tables of text, whatever they are shown as."""

from __future__ import annotations

import compare_statistics as statistics
from compare_results import ArmSummary, Results

FEW_SEEDS = 10


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
