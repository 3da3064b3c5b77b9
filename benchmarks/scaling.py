"""How rollout and update grow: curves over batch, turns, vocabulary and ranks, one of them varied at a time.

    python benchmarks/scaling.py [--png scaling.png] [--curve batch turns vocabulary ranks]

Each point is a run of household/paw with that one setting changed: two iterations, of which the second
counts. `vocabulary` plays random models of the bundled policy's width: what they write is noise, all episodes last to
the end. `ranks` are processes with one thread each under DDP (gloo on CPUs), which share the same 8 groups.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import measuring
from building import QWEN_VOCABULARY, random_qwen

CONFIG = "household/paw"
CURVES: dict[str, list[int]] = {
    "batch": [2, 4, 8, 16],
    "turns": [2, 4, 8, 16],
    "vocabulary": [600, 8_000, 32_000, QWEN_VOCABULARY],
    "ranks": [1, 2],
}
QUICK = {"batch": [1, 2], "turns": [1, 2], "vocabulary": [600, 2_000], "ranks": [1, 2]}
Point = dict[str, Any]


def settings(curve: str, value: int, folder: str, quick: bool) -> dict[str, Any]:
    """What a point changes in the config."""
    small = {"data.groups": 2, "data.group_size": 2, "rollout.max_steps": 2, "data.minibatches": 1} if quick else {}
    if curve == "batch":
        return small | {"data.groups": value}
    if curve == "turns":
        return small | {"rollout.max_steps": value, "rollout.prompt.max_tokens": 2_048}
    if curve == "ranks":
        return small | {"trainer.devices": value, "trainer.strategy": "ddp" if value > 1 else "auto"}
    model = random_qwen(str(Path(folder, f"v{value}")), 96, 3, value)
    return {**small, "model.path": model, "model.weights": "random", "data.groups": 2, "rollout.max_steps": 4}


def in_processes(changed: dict[str, Any], folder: str, options: Namespace) -> list[dict[str, float]]:
    """Curves of a run on several ranks, one thread each; Lightning starts the others itself."""
    named = {
        **changed,
        "trainer.logger": measuring.QUIET["trainer.logger"],
        "trainer.logger.init_args.save_dir": folder,
        "trainer.max_epochs": 2,
        # The step's micro-batches are shared out among the ranks.
        "trainer.accumulate_grad_batches": max(1, 6 // changed["trainer.devices"]),
    }
    command = [sys.executable, "-m", "paw_lightning", "fit", *measuring.arguments([CONFIG], named, options)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, stdout=sys.stderr, env=environment, cwd=measuring.ROOT)
    return measuring.curves(Path(folder))


def measure(curve: str, value: int, options: Namespace) -> Point:
    """The second iteration of a run."""
    with tempfile.TemporaryDirectory() as folder:
        changed = settings(curve, value, folder, options.quick)
        if curve == "ranks":
            *_, last = in_processes(changed, folder, options)
        else:
            *_, last = measuring.fit([CONFIG], changed, options, 2)
    groups, size = changed.get("data.groups", 8), changed.get("data.group_size", 8)
    steps = last["rollout/episode_length"] * groups * size
    return {
        "varied": f"{curve} {value:,}",
        "episodes": groups * size,
        "environment steps": steps,
        "rollout, s": last["time/rollout_s"],
        "update, s": last["time/update_s"],
        "steps/s, rollout": steps / last["time/rollout_s"],
        "steps/s, update": steps / last["time/update_s"],
    }


def draw(points: dict[str, list[Point]], values: dict[str, list[int]], path: Path) -> None:
    """One panel per curve: seconds of rollout and update, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    figure, panels = pyplot.subplots(1, len(points), figsize=(3.2 * len(points), 3), squeeze=False)
    for panel, (curve, part) in zip(panels[0], points.items(), strict=True):
        for phase in ("rollout, s", "update, s"):
            panel.plot(values[curve], [point[phase] for point in part], marker="o", label=phase)
        panel.set(xscale="log", yscale="log", xlabel={"batch": "groups of 8"}.get(curve, curve))
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # less than a decade has no power of ten to label
        panel.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.set_xticks(values[curve], [f"{value:,}" for value in values[curve]])
        panel.xaxis.set_minor_locator(NullLocator())
    panels[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = measuring.parser(__doc__, repeats=1)
    parser.add_argument("--curve", nargs="+", choices=CURVES, default=list(CURVES))
    parser.add_argument("--png", type=Path, help="draw the curves (matplotlib)")
    options = parser.parse_args()
    measuring.prepare(options)
    values = QUICK if options.quick else CURVES
    points = {curve: [measure(curve, value, options) for value in values[curve]] for curve in options.curve}
    measuring.table([point for part in points.values() for point in part])
    if options.png:
        draw(points, values, options.png)
    measuring.report(options, points)


if __name__ == "__main__":
    main()
