"""No-grad passes over finished rollouts: what the policy, its critic and the reference say of the actions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from paw_lightning.models.policy_world_model import PolicyWorldModel
from paw_lightning.types import Transition
from paw_lightning.update.collate import rectangle
from paw_lightning.update.rows import Row, policy_rows


def copy_what_was_sampled(transitions: Sequence[Transition], *, logprobs: bool) -> None:
    """Write token_entropies, and old_logprobs if asked for, from what the sampler recorded: no extra pass."""
    for t in transitions:
        t.token_entropies = t.sampled_entropies
        if logprobs:
            t.old_logprobs = torch.tensor(t.sampled_logprobs, dtype=torch.float32)


def stand_in_for_a_sampler(transitions: Sequence[Transition]) -> None:
    """Write sampled_logprobs of an expert's actions, which no sampler has drawn: what the policy says of them."""
    for t in transitions:
        assert t.old_logprobs is not None, "write_policy_scores comes first"
        t.sampled_logprobs = t.old_logprobs.tolist()


def write_policy_scores(
    model: PolicyWorldModel,
    transitions: Sequence[Transition],
    temperature: float,
    batch_tokens: int,
    *,
    logprobs: bool,
    values: bool,
) -> None:
    """Write what the policy itself, as it is before the update, says of the actions: one pass, or none.

    old_logprobs, if asked for (of samplers whose arithmetic differs from the trainer's); token_entropies where the
    sampler gave none; old_values of the critic, if asked for.
    """
    without_entropies = {id(t) for t in transitions if t.action_ids and not t.token_entropies}
    if not (logprobs or values or without_entropies):
        return
    for t, (log, entropies, value) in _score(model, transitions, temperature, batch_tokens):
        if logprobs:
            t.old_logprobs = log
        if id(t) in without_entropies:
            t.token_entropies = entropies.tolist()
        if values:
            t.old_values = value


def write_reference_logprobs(
    model: PolicyWorldModel, transitions: Sequence[Transition], temperature: float, batch_tokens: int
) -> None:
    """Write reference_logprobs: those of the frozen reference policy, at the sampling temperature."""
    for t, (logprobs, _, _) in _score(model, transitions, temperature, batch_tokens):
        t.reference_logprobs = logprobs


def write_importance(transitions: Sequence[Transition], cap: float) -> None:
    """Write importance = min(trainer's p / sampler's q, cap) of each action token: truncated importance sampling."""
    for t in transitions:
        assert t.old_logprobs is not None, "write_policy_scores comes first"
        t.importance = (t.old_logprobs - torch.tensor(t.sampled_logprobs, dtype=torch.float32)).exp().clamp(max=cap)


def sampler_gap(transitions: Sequence[Transition]) -> float:
    """Mean |log p - log q| over action tokens: how far the sampler's arithmetic is from the trainer's, in nats."""
    gaps = [
        abs(p - q)
        for t in transitions
        if t.old_logprobs is not None
        for p, q in zip(t.old_logprobs.tolist(), t.sampled_logprobs, strict=True)
    ]
    return sum(gaps) / len(gaps) if gaps else 0.0


Scores = tuple[Tensor, Tensor, Tensor | None]
"""Log-probs, entropies and values of an action's tokens, each [A]."""


@torch.no_grad()
def _score(
    model: PolicyWorldModel, transitions: Sequence[Transition], temperature: float, batch_tokens: int
) -> Iterator[tuple[Transition, Scores]]:
    """Yield each transition with its scores on the CPU; rows of like length share a batch."""
    device = next(model.parameters()).device
    for rows in batches(policy_rows(transitions), batch_tokens):
        input_ids, actions, targets = (tensor.to(device) for tensor in rectangle(rows))
        out = model(input_ids, actions, targets, temperature)
        scored = [s.transition for row in rows for s in row.having("action") if s.transition is not None]
        lengths = [len(t.action_ids) for t in scored]
        values = [None] * len(scored) if out.values is None else _pieces(out.values, lengths)
        scores = zip(_pieces(out.action_logprobs, lengths), _pieces(out.action_entropies, lengths), values, strict=True)
        yield from zip(scored, scores, strict=True)


def _pieces(vector: Tensor, lengths: list[int]) -> list[Tensor]:
    """Clones: a view would keep the whole batch's vector alive and alias its neighbours."""
    return [piece.clone() for piece in vector.cpu().split(lengths)]


def batches(rows: Sequence[Row], batch_tokens: int) -> Iterator[list[Row]]:
    """Group rows, sorted by length, so that a padded batch holds at most batch_tokens tokens (one row always fits)."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: row.length):
        if batch and (len(batch) + 1) * row.length > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
