"""Draws the curves of a run: `python tools/plot_run.py runs/paw_lightning/version_0 curves.png`."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PANELS = {
    "success rate": ["rollout/success_rate", "val/success_rate"],
    "valid actions": ["rollout/valid_action_rate"],
    "groups that teach nothing": ["rollout/all_fail_groups", "rollout/all_success_groups"],
    "policy loss": ["train/policy_loss"],
    "world-model loss": ["train/wm_loss"],
    "observation NLL, nats per token": ["wm/observation_nll"],
    "lambda and effective weight": ["wm/coefficient", "wm/effective_weight"],
    "active target tokens": ["wm/active_token_fraction"],
    "entropy and KL": ["train/entropy", "train/reference_kl"],
    "clip fraction": ["train/clip_fraction"],
    "gradient norm": ["train/grad_norm"],
    "seconds": ["time/rollout_s", "time/update_s"],
}


def main() -> None:
    """Read the run, draw every panel that has data, write the picture."""
    run, picture = Path(sys.argv[1]), Path(sys.argv[2])
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    known = set(events.Tags()["scalars"])
    figure, axes = plt.subplots(4, 3, figsize=(13, 12), layout="constrained")
    for axis, (title, tags) in zip(axes.flat, PANELS.items(), strict=True):
        for tag in known.intersection(tags):
            points = {event.step: event.value for event in events.Scalars(tag)}
            axis.plot(list(points), list(points.values()), marker=".", label=tag)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("optimizer steps", fontsize=8)
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    figure.savefig(picture, dpi=80)


if __name__ == "__main__":
    main()
