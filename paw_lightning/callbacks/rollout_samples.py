"""RolloutSamples: a few whole episodes as text, every iteration."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import lightning as L

from paw_lightning.callbacks.base import RolloutCallback
from paw_lightning.errors import SettingsError
from paw_lightning.text.chat import valid_text
from paw_lightning.training.loggers import write_texts
from paw_lightning.types import Episode, Rollout, RolloutGroup


class RolloutSamples(RolloutCallback):
    """Writes episodes as texts, wherever the run logs to: what the numbers are made of.

    Args:
        episodes: how many per iteration: one won and one lost of each group where it has both, the worst groups first.
    """

    def __init__(self, episodes: int = 4) -> None:
        if episodes < 0:
            raise SettingsError(f"rollout_samples.episodes is {episodes}; wanted at least 0")
        self.episodes = episodes

    def on_rollout_end(self, trainer: L.Trainer, pl_module: L.LightningModule, rollout: Rollout) -> None:
        """Log the episodes of the iteration."""
        chosen = islice(telling(rollout.groups), self.episodes)
        write_texts(trainer, "episodes", [render(*pair) for pair in chosen], rollout.iteration + 1)


def telling(groups: list[RolloutGroup]) -> Iterator[tuple[RolloutGroup, Episode]]:
    """Episodes in the order in which they are worth reading: of each group the first won and the first lost.

    The worst groups come first. The worst of those that hold both is second, lest it take long to meet a success
    where most groups fail.
    """
    worst_first = sorted(groups, key=success_rate)
    mixed = next((group for group in worst_first if 0 < success_rate(group) < 1), None)
    if mixed is not None and mixed is not worst_first[0]:
        worst_first.remove(mixed)
        worst_first.insert(1, mixed)
    for group in worst_first:
        for outcome in (True, False):
            yield from [(group, episode) for episode in group.episodes if episode.won is outcome][:1]


def success_rate(group: RolloutGroup) -> float:
    """Part of a group's episodes that were won."""
    return sum(e.won for e in group.episodes) / len(group.episodes)


def render(group: RolloutGroup, episode: Episode) -> str:
    """One episode as Markdown, every line indented so that no observation can break the page."""
    largest = "" if group.max_return is None else f" of at most {group.max_return:g}"
    lines = [
        f"{'WON' if episode.won else 'LOST'}: {episode.task}",
        f"task {episode.task_seed}, member {episode.member} of a group that won {sum(e.won for e in group.episodes)} "
        f"of {len(group.episodes)}; return {episode.episode_return:g}{largest} in {len(episode.transitions)} turns; "
        f"weight of the world-model loss (lambda) {group.coefficient:.2f}",
        "after each action: its entropy in nats, its advantage, and whether the world model learns the answer",
        "",
    ]
    for i, t in enumerate(episode.transitions, start=1):
        lines += [f"[{i}] {t.anchor}"] if i == 1 else []
        marks = [
            f"entropy {t.action_entropy:.2f}",
            f"advantage {t.advantage:+.2f}",
            "answer predicted" if t.target_ids else "answer not predicted",
            *([] if t.admissible else ["not admissible"]),
            *([] if t.well_formed else ["malformed"]),
        ]
        lines += [f"    > {t.action_text}    ({', '.join(marks)})", f"[{i + 1}] {t.observation_text}"]
    text = "\n".join("    " + part for line in lines for part in line.split("\n"))
    return valid_text(text)
