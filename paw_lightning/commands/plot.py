"""Draws the curves of a run, up to now or up to its end.

paw-lightning plot runs/paw_lightning/version_0
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from paw_lightning.cli.command_arguments import NO_MATPLOTLIB, Arguments
from paw_lightning.errors import NotWrittenError, SettingsError
from paw_lightning.whole_files import not_written

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from paw_lightning.event_files import Scalars

PANELS = {
    "success rate": ["rollout/success_rate", "val/success_rate"],
    "valid actions": ["rollout/valid_action_rate"],
    "groups that teach nothing": ["rollout/all_fail_groups", "rollout/all_success_groups"],
    "policy loss": ["train/policy_loss"],
    "world-model loss": ["train/wm_loss"],
    "observation NLL, nats per token": ["wm/observation_nll"],
    "coefficient lambda": ["wm/coefficient"],
    "effective weight of the world model": ["wm/effective_weight"],
    "active target tokens": ["wm/active_token_fraction"],
    "entropy": ["train/entropy"],
    "KL to the reference": ["train/reference_kl"],
    "clip fraction": ["train/clip_fraction"],
    "gradient norm": ["train/grad_norm"],
    "learning rate": ["train/learning_rate", "train/critic_learning_rate"],
    "seconds": ["time/rollout_s", "time/update_s"],
}
"""Curves share a panel where they share a scale; a panel without a curve is left out."""
COLUMNS = 3


def command(args: list[str]) -> int:
    """Read the run, draw every panel that has data, write the picture; returns the exit status."""
    parser = Arguments("plot", __doc__)
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--output", type=Path, help="picture to write (default: RUN/curves.png)")
    options = parser.parse_args(args)
    if not options.run.is_dir():
        raise SettingsError(f"the run is {options.run}; wanted a folder such as runs/paw_lightning/version_0")
    if importlib.util.find_spec("matplotlib") is None:
        raise SettingsError(NO_MATPLOTLIB)
    from paw_lightning.event_files import iterations, read_scalars

    scalars = read_scalars(options.run)
    if not scalars.keys() & {tag for tags in PANELS.values() for tag in tags}:
        raise SettingsError(f"the run is {options.run}, which holds no curves; wanted a run's folder")
    iteration_of = iterations(scalars)
    scalars = {tag: [(iteration_of.get(s, s), value) for s, value in points] for tag, points in scalars.items()}
    picture = options.output or options.run / "curves.png"
    try:
        draw(scalars, picture)
    except OSError as error:
        raise NotWrittenError(
            f"{not_written(picture, error)}; wanted a place that can be written (--output)"
        ) from error
    print(f"wrote {picture}")
    return 0


def draw(scalars: Scalars, picture: Path) -> None:
    """A panel for each group of curves that the run has."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    panels = {title: [tag for tag in tags if tag in scalars] for title, tags in PANELS.items()}
    panels = {title: tags for title, tags in panels.items() if tags}
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(4.4 * COLUMNS, 3.0 * rows), dpi=100, layout="constrained")
    places: list[Axes] = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for axes, (title, tags) in zip(places, panels.items(), strict=False):
        for tag in tags:
            points = dict(scalars[tag])  # what a resumed run wrote again replaces what it had written before
            axes.plot(list(points), list(points.values()), marker=".", label=tag)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("iteration", fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    for axes in places[len(panels) :]:
        axes.set_visible(False)
    figure.savefig(picture)
