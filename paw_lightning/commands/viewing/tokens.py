"""Which observation tokens still teach the world model, summed over a file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import compress

from paw_lightning.rollout_files import RecordedEpisode

SHOWN = 60
"""Tokens kept of each file: those with the most weight."""


@dataclass
class Taught:
    """What one token was as a target."""

    targets: int = 0
    teaching: int = 0
    """Of them with w(p) above 0."""
    weight: float = 0.0
    """Sum of w(p)."""
    logprob: float = 0.0
    """Sum of log p, in nats."""


def taught_tokens(episodes: Iterable[RecordedEpisode]) -> list[list[float]]:
    """[token id, targets, of them with a loss, sum of w(p), sum of log p] of the tokens with the most weight, falling.

    Example: a token that was a target twice, with w 0.5 and 0 and p 1/e each: ``[[7, 2, 1, 0.5, -2.0]]``.
    """
    sums: dict[int, Taught] = {}
    for token, weight, logprob in targets(episodes):
        own = sums.setdefault(token, Taught())
        own.targets += 1
        own.teaching += weight > 0
        own.weight += weight
        own.logprob += logprob
    most = sorted(sums.items(), key=lambda item: (-item[1].weight, item[0]))[:SHOWN]
    return [[token, own.targets, own.teaching, own.weight, own.logprob] for token, own in most]


def targets(episodes: Iterable[RecordedEpisode]) -> Iterator[tuple[int, float, float]]:
    """(id, w(p), log p) of every target token whose weight was written, and is a number; where lambda is 0, w is."""
    for episode in episodes:
        for turn in episode.turns:
            ids, mask = turn.observation_ids, turn.target_mask
            if turn.control_ids is not None:
                ids, mask = turn.control_ids, turn.control_mask
            ids = ids if mask is None else list(compress(ids, mask))
            for token, weight, logprob in zip(ids, turn.loss_weights or [], turn.target_logprobs or [], strict=False):
                if math.isfinite(weight) and math.isfinite(logprob):
                    yield token, 0.0 if turn.target_weight == 0 else weight, logprob
