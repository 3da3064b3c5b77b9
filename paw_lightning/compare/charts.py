"""The page's charts: curves over iterations and the runs' ends, as SVG and HTML that need no script to be read.

Lines are stretched with the page, texts are not: so they are HTML beside the SVG, placed in per cent.
"""

from __future__ import annotations

import html
import json
import math
from dataclasses import dataclass

from paw_lightning.compare.plots import mean_curve
from paw_lightning.compare.results import ArmSummary, Results, final_values

COLOURS = 7
"""How many colours the page's style has; further arms have them again, with dashed lines."""
MANY = 24
"""More lines than these hide each other, so that those of runs are drawn fainter."""
SIZE = 1000
"""Of the square that an SVG's coordinates lie in."""


@dataclass(frozen=True)
class Axis:
    """From the lowest to the highest number that is shown, and the numbers that are written."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """How far along the axis a value lies, in per cent."""
        return 100 * (value - self.low) / (self.high - self.low)


def axis(values: list[float], *, whole: bool = False, ticks: int = 5) -> Axis:
    """An axis with about so many round numbers (steps of 1, 2 or 5) around all values; `whole` ones for iterations.

    Example: 0.12 to 0.71 is 0 to 0.8 in steps of 0.2.
    """
    low, high = min(values), max(values)
    room = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(room / ticks))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * ticks >= room * 0.999)
    step = max(step, 1.0) if whole else step
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return Axis(first * step, last * step, tuple(number * step for number in range(first, last + 1)))


def curves(results: Results, names: list[str]) -> str:
    """Every run as a thin line, the mean of an arm's seeds as a thick one; empty where there are only ends."""
    points = [point for name in names for curve in results.arms[name].values() for point in curve.points.items()]
    if len({iteration for iteration, _ in points} - {0}) < 2:
        return ""
    across, up = axis([float(x) for x, _ in points], whole=True), axis([y for _, y in points])
    series = [line for place, name in enumerate(names) for line in _series(results, name, place)]
    drawn = "".join(_line(line, across, up) for line in series)
    dense = " dense" * (len(series) > MANY)
    record = {"x": [across.low, across.high], "y": [up.low, up.high], "series": series}
    grid = "".join(f"<path class='grid' d='M0 {_y(up, tick)}H{SIZE}'/>" for tick in up.ticks)
    ups = "".join(f"<span style='bottom:{up.share(tick):.2f}%'>{_short(tick)}</span>" for tick in up.ticks)
    rights = "".join(f"<span style='left:{across.share(tick):.2f}%'>{_short(tick)}</span>" for tick in across.ticks)
    metric = html.escape(results.metric)
    return (
        f"<figure class='curves{dense}'><figcaption>{metric} over iterations: thin lines are runs, "
        "thick ones means over seeds</figcaption>"
        f"{_legend(names)}<div class='frame'><div class='up' aria-hidden='true'>{ups}</div>"
        f"<div class='plot' tabindex='0' role='group' aria-label='Curves of {metric}. The arrow keys go from point to "
        f"point; the table of every run has the ends.'><svg viewBox='0 0 {SIZE} {SIZE}' preserveAspectRatio='none' "
        f"aria-hidden='true'>{grid}{drawn}</svg></div>"
        f"<div class='right' aria-hidden='true'>{rights}</div><div class='unit'>iteration</div></div>"
        f"<script type='application/json'>{embedded(record)}</script></figure>"
    )


def ends(results: Results, rows: list[ArmSummary]) -> str:
    """Each arm's runs at their end as small dots, their mean as a large one with its interval."""
    values = [value for row in rows for value in final_values(results, row.arm).values()]
    values += [bound for row in rows for bound in row.interval or ()]
    values += [row.before for row in rows if row.before is not None]
    if not values:
        return ""
    along = axis(values)
    lines = "".join(_end_row(results, row, place, along) for place, row in enumerate(rows))
    marks = "".join(f"<span style='left:{along.share(tick):.2f}%'>{_short(tick)}</span>" for tick in along.ticks)
    before = ", the ring before training" if any(row.before is not None for row in rows) else ""
    return (
        f"<figure class='ends'><figcaption>{html.escape(results.metric)} at the end: small dots are runs, the large "
        f"one is their mean with its 95 % interval{before}</figcaption>{lines}"
        f"<div class='row scale' aria-hidden='true'><span></span><div class='track'>{marks}</div></div></figure>"
    )


def embedded(record: object) -> str:
    """JSON that no text in it can end: it stands within a script element."""
    return json.dumps(record).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def look(place: int) -> str:
    """The classes of an arm's colour and line."""
    return f"arm-{place % COLOURS}" + " dashed" * (place // COLOURS % 2)


def _series(results: Results, name: str, place: int) -> list[dict[str, object]]:
    """An arm's runs, then their mean."""
    runs = sorted(results.arms[name].items())
    lines: list[dict[str, object]] = [
        {"arm": place, "label": f"{name}, seed {seed}", "points": list(curve.points.items())} for seed, curve in runs
    ]
    mean = mean_curve([curve.points for _, curve in runs])
    if len(runs) > 1 and mean:
        lines.append(
            {"arm": place, "label": f"{name}, mean of {len(runs)}", "points": list(mean.items()), "mean": True}
        )
    return lines


def _line(line: dict[str, object], across: Axis, up: Axis) -> str:
    points: list[tuple[int, float]] = line["points"]  # type: ignore[assignment]
    places = [f"{across.share(x) * SIZE / 100:.1f} {_y(up, y)}" for x, y in points]
    dots = "".join(f"M{place}h0" for place in places)  # without length, its round end is a dot of any page's width
    kind, arm = "mean" if "mean" in line else "run", int(line["arm"])  # type: ignore[call-overload]
    paths = f"<path d='M{'L'.join(places)}'/><path class='dots' d='{dots}'/>"
    return f"<g class='{kind} {look(arm)}' data-arm='{arm}'>{paths}</g>"


def _y(up: Axis, value: float) -> str:
    return f"{SIZE - up.share(value) * SIZE / 100:.1f}"


def _legend(names: list[str]) -> str:
    buttons = "".join(
        f"<button type='button' aria-pressed='true' data-arm='{place}' title='show or hide'>"
        f"<i class='{look(place)}'></i>{html.escape(name)}</button>"
        for place, name in enumerate(names)
    )
    return f"<div class='legend' role='group' aria-label='Arms shown'>{buttons}</div>"


def _end_row(results: Results, row: ArmSummary, place: int, along: Axis) -> str:
    name = html.escape(row.arm)
    found = sorted(final_values(results, row.arm).items())
    marks = [_mark("dot", along.share(value), f"{name}, seed {seed}: {value:.3f}") for seed, value in found]
    if row.before is not None:
        marks.append(_mark("before", along.share(row.before), f"{name}, before training: {row.before:.3f}"))
    if row.last is not None:
        low, high = row.interval or (row.last, row.last)
        start, end = along.share(low), along.share(high)
        said = f"{name}, mean of {len(found)}: {row.last:.3f}"
        said += f" [{low:.3f}, {high:.3f}]" if row.interval else ""
        marks.append(f"<i class='interval' style='left:{start:.2f}%;width:{max(end - start, 0):.2f}%'></i>")
        marks.append(_mark("middle", along.share(row.last), said))
    return f"<div class='row {look(place)}'><span>{name}</span><div class='track'>{''.join(marks)}</div></div>"


def _mark(kind: str, share: float, said: str) -> str:
    return f"<i class='{kind}' style='left:{share:.2f}%' data-tip='{said}'></i>"


def _short(number: float) -> str:
    return f"{number:.6g}"
