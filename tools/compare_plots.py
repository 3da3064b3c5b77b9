"""The pictures of a comparison: learning curves, or where the runs ended when nothing was measured on the way."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compare_results import ArmSummary, Results

COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
"""Okabe and Ito's: told apart by every eye."""
LINES = ["-", "--", ":"]
"""The eighth arm of a panel has the first one's colour again."""


def plot(results: Results, rows: list[ArmSummary], path: Path) -> None:
    """A panel for each table."""
    from matplotlib.figure import Figure  # slow to import, and not needed to train

    groups = results.tables()
    curves = [curve for seeds in results.arms.values() for curve in seeds.values()]
    ends_only = bool(curves) and all(len(curve.points) == 1 for curve in curves)
    height = 0.8 + 0.3 * len(rows) + 0.6 * len(groups) if ends_only else 0.8 + 3.7 * len(groups)
    figure = Figure(figsize=(9.5, height), dpi=150, layout="constrained")
    heights = [len(names) for names in groups.values()] if ends_only else None
    shared = {"sharex": True, "sharey": not ends_only, "squeeze": False, "height_ratios": heights}
    panels = figure.subplots(len(groups), **shared)[:, 0]
    for axes, (group, names) in zip(panels, groups.items(), strict=True):
        if ends_only:
            _plot_ends(axes, results, {row.arm: row for row in rows}, names)
        else:
            _plot_curves(axes, results, names)
        axes.set(title=group, **({} if ends_only else {"ylabel": results.metric}))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    panels[-1].set_xlabel(f"{results.metric} at the end" if ends_only else "iteration")
    figure.savefig(path)


def _plot_ends(axes: Any, results: Results, rows: dict[str, ArmSummary], names: list[str]) -> None:
    """Every run as a faint dot, the mean of an arm's seeds as a thick one with its interval."""
    for place, name in enumerate(names):
        row, colour = rows[name], COLOURS[place % len(COLOURS)]
        ends = [value for curve in results.arms[name].values() for value in curve.points.values()]
        axes.plot(ends, [place] * len(ends), "o", color=colour, alpha=0.3, markersize=5, markeredgewidth=0)
        if row.last is not None:
            low, high = row.interval or (row.last, row.last)
            # Where all ended equal, rounding may put the mean outside of its interval.
            error = [[max(0.0, row.last - low)], [max(0.0, high - row.last)]]
            axes.errorbar(row.last, place, xerr=error, fmt="o", color=colour, markersize=8, elinewidth=2.5)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _plot_curves(axes: Any, results: Results, names: list[str]) -> None:
    """Every run as a thin line, the mean of an arm's seeds as a thick one."""
    from matplotlib.ticker import MaxNLocator

    for number, name in enumerate(names):
        curves, colour = results.arms[name], COLOURS[number % len(COLOURS)]
        style = LINES[number // len(COLOURS) % len(LINES)]
        for curve in curves.values():
            axes.plot(list(curve.points), list(curve.points.values()), color=colour, alpha=0.35, linewidth=1)
        points = mean_curve([curve.points for curve in curves.values()])
        if points:
            label = f"{name} (mean of {len(curves)})" if len(curves) > 1 else name
            look = {"color": colour, "linestyle": style, "linewidth": 2.5, "marker": "o"}
            axes.plot(list(points), list(points.values()), label=label, **look)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.lines:
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def mean_curve(curves: list[dict[int, float]]) -> dict[int, float]:
    """Mean over the iterations that all curves have."""
    common = set(curves[0]).intersection(*curves[1:]) if curves else set()
    return {iteration: mean(curve[iteration] for curve in curves) for iteration in sorted(common)}
