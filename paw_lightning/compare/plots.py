"""The pictures of a comparison: learning curves, or only the last values where there are no others."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from paw_lightning.compare.results import ArmSummary, Results, final_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
"""Okabe and Ito's palette, which colour-blind readers can tell apart as well."""
LINES = ["-", "--", ":"]
"""The eighth arm of a panel has the first one's colour again."""


def plot(results: Results, rows: list[ArmSummary], path: Path) -> None:
    """A panel for each table."""
    curves = [curve for seeds in results.arms.values() for curve in seeds.values()]
    on_the_way = any(len(curve.points.keys() - {0}) > 1 for curve in curves)
    figure = _curves(results) if on_the_way else _ends(results, {row.arm: row for row in rows})
    figure.savefig(path)


def _curves(results: Results) -> Figure:
    """Every arm over iterations."""
    groups = results.tables()
    figure, panels = _panels(list(groups), 0.8 + 3.7 * len(groups), sharey=True)
    for axes, names in zip(panels, groups.values(), strict=True):
        _plot_curves(axes, results, names)
        axes.set_ylabel(results.metric)
    panels[-1].set_xlabel("iteration")
    return figure


def _ends(results: Results, rows: dict[str, ArmSummary]) -> Figure:
    """Every arm at its end."""
    groups = results.tables()
    heights = [len(names) for names in groups.values()]
    figure, panels = _panels(list(groups), 0.8 + 0.3 * len(rows) + 0.6 * len(groups), height_ratios=heights)
    for axes, names in zip(panels, groups.values(), strict=True):
        _plot_ends(axes, results, [rows[name] for name in names])
    before = " (hollow: before training)" if any(row.before is not None for row in rows.values()) else ""
    panels[-1].set_xlabel(f"{results.metric} at the end{before}")
    return figure


def _panels(titles: list[str], height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """An empty figure, its panels one below the other."""
    from matplotlib.figure import Figure  # slow to import, and not needed to train

    figure = Figure(figsize=(9.5, height), dpi=150, layout="constrained")
    panels = list(figure.subplots(len(titles), sharex=True, squeeze=False, **options)[:, 0])
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure, panels


def _plot_ends(axes: Axes, results: Results, rows: list[ArmSummary]) -> None:
    """Every run as a small dot, above them the mean of an arm's seeds as a large one with its interval."""
    for place, row in enumerate(rows):
        look: dict[str, Any] = {"color": COLOURS[place % len(COLOURS)], "linestyle": "none", "marker": "o"}
        ends = list(final_values(results, row.arm).values())
        axes.plot(ends, [place + 0.25] * len(ends), alpha=0.45, markersize=5, markeredgewidth=0, **look)
        if row.before is not None:
            axes.plot([row.before], [place], fillstyle="none", markersize=7, **look)
        if row.last is not None:
            low, high = row.interval or (row.last, row.last)
            # Where all ended equal, rounding may put the mean beside its interval.
            error = [[max(0.0, row.last - low)], [max(0.0, high - row.last)]]
            axes.errorbar(row.last, place - 0.1, xerr=error, markersize=8, elinewidth=2.5, **look)
    axes.set_yticks(range(len(rows)), [row.arm for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)


def _plot_curves(axes: Axes, results: Results, names: list[str]) -> None:
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
            look: dict[str, Any] = {"color": colour, "linestyle": style, "linewidth": 2.5, "marker": "o"}
            axes.plot(list(points), list(points.values()), label=label, **look)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.lines:
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def mean_curve(curves: list[dict[int, float]]) -> dict[int, float]:
    """Mean over the iterations that all curves have."""
    common = set(curves[0]).intersection(*curves[1:]) if curves else set()
    return {iteration: mean(curve[iteration] for curve in curves) for iteration in sorted(common)}
