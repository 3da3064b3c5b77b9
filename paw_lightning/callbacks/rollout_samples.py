"""RolloutSamples: a few whole episodes as text, every iteration."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger

from paw_lightning.callbacks.base import RolloutCallback
from paw_lightning.errors import SettingsError
from paw_lightning.text.chat import valid_text
from paw_lightning.types import Episode, Rollout, RolloutGroup


class RolloutSamples(RolloutCallback):
    """Writes episodes to TensorBoard's text tab: what the numbers are made of.

    Args:
        episodes: how many per iteration, taken from the first groups, a solved one first where there is one.
    """

    def __init__(self, episodes: int = 2) -> None:
        if episodes < 0:
            raise SettingsError(f"rollout_samples.episodes is {episodes}; wanted at least 0")
        self.episodes = episodes

    def on_rollout_end(self, trainer: L.Trainer, pl_module: L.LightningModule, rollout: Rollout) -> None:
        """Log the first episodes of the iteration."""
        logger = trainer.logger
        if not isinstance(logger, TensorBoardLogger):
            return
        for i, group in enumerate(rollout.groups[: self.episodes]):
            episode = max(group.episodes, key=lambda e: e.won)
            logger.experiment.add_text(f"episodes/{i}", render(group, episode), rollout.iteration)


def render(group: RolloutGroup, episode: Episode) -> str:
    """One episode as Markdown, every line indented so that no observation can break the page."""
    outcome = "won" if episode.won else "lost"
    head = (
        f"task {episode.task_seed}, member {episode.member}: {episode.task} -> {outcome}, "
        f"return {episode.episode_return:g}, {len(episode.transitions)} turns, lambda {group.wm_coefficient:.2f}"
    )
    lines = [head, ""]
    for i, t in enumerate(episode.transitions, start=1):
        lines += [f"[{i}] {t.anchor}"] if i == 1 else []
        marks = [
            f"H {t.action_entropy:.2f}",
            f"A {t.advantage:+.2f}",
            "predicted" if t.target_ids else "not predicted",
            *([] if t.admissible else ["not admissible"]),
            *([] if t.well_formed else ["malformed"]),
        ]
        lines += [f"    > {t.action_text}    ({', '.join(marks)})", f"[{i + 1}] {t.observation_text}"]
    text = "\n".join("    " + part for line in lines for part in line.split("\n"))
    return valid_text(text)
