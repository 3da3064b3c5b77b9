"""What the training forward read of the world model's targets, put beside the observations that they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paw_lightning import ranks
from paw_lightning.rollout_files import RecordedEpisode
from paw_lightning.types import MicroBatch, Rollout, Transition
from paw_lightning.world_model.loss import WorldModelLoss


@dataclass(frozen=True)
class Reading:
    """One target as one row has read it."""

    place: int
    """Of its transition among the rollout's."""
    step: int
    weight: float
    logprobs: list[float]
    loss_weights: list[float]


class TargetReadings:
    """Of the micro-batches of one iteration."""

    def __init__(self) -> None:
        self._targets: list[tuple[Transition, int]] = []
        """Each target's transition, and the optimizer step."""
        self._numbers: list[tuple[Tensor, Tensor]] = []
        """Log-probs and weights of each micro-batch's target tokens; all else of it is let go."""

    def add(self, batch: MicroBatch, logprobs: Tensor, step: int) -> None:
        """Take down the log-probs [M] of a micro-batch's targets, read in this optimizer step."""
        if len(logprobs):
            self._targets += [(t, step) for t in batch.predicted]
            self._numbers.append((logprobs, batch.target_weights))

    def gathered(self, rollout: Rollout, loss: WorldModelLoss) -> list[Reading]:
        """What all ranks have read, in the order of the optimizer steps; every rank has to call it."""
        return sorted(ranks.pooled(self.own(rollout, loss)), key=lambda reading: reading.step)

    def own(self, rollout: Rollout, loss: WorldModelLoss) -> list[Reading]:
        """What this rank has read."""
        if not self._targets:
            return []
        # All at once, as each would be a transfer of its own from a GPU
        logprobs, shares = (torch.cat(parts) for parts in zip(*self._numbers, strict=True))
        numbers = logprobs.tolist(), loss.token_weights(logprobs).tolist()
        weights = shares.tolist()
        played = [t for group in rollout.played for t in group.transitions]
        places = {id(t): place for place, t in enumerate(played)}
        readings, start = [], 0
        for t, step in self._targets:
            stop = start + t.predicted_count
            read, pull = (values[start:stop] for values in numbers)
            readings.append(Reading(places[id(t)], step, weights[start], read, pull))
            start = stop
        return readings


def write_readings(readings: Sequence[Reading], episodes: Sequence[RecordedEpisode]) -> None:
    """Write target_logprobs, target_step, target_weight and loss_weights of the turns.

    With `data.world_model_horizon` above 1 several rows read an observation, and the first reading counts.
    """
    turns = [turn for episode in episodes for turn in episode.turns]
    for reading in reversed(readings):
        turn = turns[reading.place]
        turn.target_step, turn.target_weight = reading.step, reading.weight
        turn.target_logprobs, turn.loss_weights = reading.logprobs, reading.loss_weights
