"""What the training forward read of the world model's targets, put beside the observations that they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paw_lightning import ranks
from paw_lightning.rollout_files import RecordedEpisode
from paw_lightning.types import MicroBatch, Rollout
from paw_lightning.world_model.loss import WorldModelLoss


class TargetReadings:
    """Of one iteration; with a horizon above 1 an observation may be read several times, and the first one counts."""

    def __init__(self) -> None:
        self._parts: list[tuple[MicroBatch, Tensor, int]] = []

    def add(self, batch: MicroBatch, logprobs: Tensor, step: int) -> None:
        """Take down the log-probs [M] of a micro-batch's targets, read in this optimizer step."""
        if len(logprobs):
            self._parts.append((batch, logprobs, step))

    def write(self, rollout: Rollout, episodes: Sequence[RecordedEpisode], loss: WorldModelLoss) -> None:
        """Write target_logprobs, target_step, target_weight and loss_weights; every rank has to call it."""
        turns = [turn for episode in episodes for turn in episode.turns]
        place = {id(t): i for i, t in enumerate(rollout.transitions)}
        for i, (step, weight, logprobs, weights) in self._gathered(place, loss):
            turn = turns[i]
            if turn.target_step is None or step < turn.target_step:
                turn.target_step, turn.target_weight = step, weight
                turn.target_logprobs, turn.loss_weights = logprobs, weights

    def _gathered(
        self, place: dict[int, int], loss: WorldModelLoss
    ) -> list[tuple[int, tuple[int, float, list[float], list[float]]]]:
        if not self._parts:
            return ranks.pooled([])
        logprobs = torch.cat([part for _, part, _ in self._parts])
        weights = loss.token_weights(logprobs).tolist()
        read, shares = logprobs.tolist(), torch.cat([batch.target_weights for batch, _, _ in self._parts]).tolist()
        found, start = [], 0
        for batch, _, step in self._parts:
            for t in batch.predicted:
                stop = start + len(t.predicted_ids)
                found.append((place[id(t)], (step, shares[start], read[start:stop], weights[start:stop])))
                start = stop
        return ranks.pooled(found)
