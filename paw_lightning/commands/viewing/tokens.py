"""Which observation tokens still teach the world model, summed over a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

SHOWN = 60
"""Tokens kept of each file: those with the most weight."""
Sum = list[float]
"""[how often it was a target, how often it still had a loss, sum of w(p), sum of log p]."""


def taught_tokens(episodes: Iterable[Mapping[str, Any]]) -> list[list[float]]:
    """[token id, targets, of them with a loss, sum of w(p), sum of log p] of the tokens with the most weight, falling.

    Example: a token that was a target twice, with w 0.5 and 0 and p 1/e each: ``[[7, 2, 1, 0.5, -2.0]]``.
    """
    sums: dict[int, Sum] = {}
    for token, weight, logprob in targets(episodes):
        total = sums.setdefault(token, [0, 0, 0.0, 0.0])
        total[0] += 1
        total[1] += weight > 0
        total[2] += weight
        total[3] += logprob
    most = sorted(sums.items(), key=lambda item: (-item[1][2], item[0]))[:SHOWN]
    return [[token, *total] for token, total in most]


def targets(episodes: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, float, float]]:
    """(id, w(p), log p) of every target token whose weight was written."""
    for episode in episodes:
        for turn in episode.get("turns", []):
            control = turn.get("control_ids")
            ids = turn.get("observation_ids") or [] if control is None else control
            weights = turn.get("loss_weights") or []
            logprobs = turn.get("target_logprobs") or []
            for token, weight, logprob in zip(ids, weights, logprobs, strict=False):
                yield token, weight or 0.0, logprob or 0.0
