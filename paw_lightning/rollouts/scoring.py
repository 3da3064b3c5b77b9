"""No-grad passes over finished rollouts: behaviour and reference log-probs, and the critic's values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from paw_lightning.models import PolicyWorldModel
from paw_lightning.rows import Row, policy_rows, rectangle
from paw_lightning.types import Transition


def copy_sampled_logprobs(transitions: Sequence[Transition]) -> None:
    """Write old_logprobs from what the sampler recorded: no extra pass."""
    for t in transitions:
        t.old_logprobs = torch.tensor(t.sampled_logprobs, dtype=torch.float32)


def write_old_logprobs(
    model: PolicyWorldModel, transitions: Sequence[Transition], temperature: float, batch_tokens: int
) -> None:
    """Write old_logprobs with the training forward: for samplers whose arithmetic differs from the trainer's."""
    for t, logprobs in _score(model, transitions, temperature, batch_tokens):
        t.old_logprobs = logprobs


def write_reference_logprobs(
    model: PolicyWorldModel, transitions: Sequence[Transition], temperature: float, batch_tokens: int
) -> None:
    """Write reference_logprobs: those of the frozen reference policy, at the sampling temperature."""
    for t, logprobs in _score(model, transitions, temperature, batch_tokens):
        t.reference_logprobs = logprobs


def write_entropies(
    model: PolicyWorldModel, transitions: Sequence[Transition], temperature: float, batch_tokens: int
) -> None:
    """Write token_entropies where the sampler gave none."""
    missing = {id(t) for t in transitions if t.action_ids and not t.token_entropies}
    # All are scored: a row of the episode layout is made of a whole episode.
    for t, entropies in _score(model, transitions if missing else [], temperature, batch_tokens, "action_entropies"):
        if id(t) in missing:
            t.token_entropies = entropies.tolist()


def write_importance(transitions: Sequence[Transition], cap: float) -> None:
    """Write importance = min(trainer's p / sampler's q, cap) of each action token: truncated importance sampling."""
    for t in transitions:
        assert t.old_logprobs is not None, "write_old_logprobs comes first"
        t.importance = (t.old_logprobs - torch.tensor(t.sampled_logprobs)).exp().clamp(max=cap)


def write_old_values(
    model: PolicyWorldModel, transitions: Sequence[Transition], temperature: float, batch_tokens: int
) -> None:
    """Write old_values: those of the critic as it is before the update."""
    for t, values in _score(model, transitions, temperature, batch_tokens, output="values"):
        t.old_values = values


@torch.no_grad()
def _score(
    model: PolicyWorldModel,
    transitions: Sequence[Transition],
    temperature: float,
    batch_tokens: int,
    output: str = "action_logprobs",
) -> Iterator[tuple[Transition, Tensor]]:
    """Yield each transition with one output [A] of its action tokens on the CPU; rows of like length share a batch."""
    device = next(model.parameters()).device
    for rows in batches(policy_rows(transitions), batch_tokens):
        input_ids, actions, targets = (tensor.to(device) for tensor in rectangle(rows, 0))
        outputs = model(input_ids, actions, targets, temperature)
        scored = [s.transition for row in rows for s in row.having("action") if s.transition is not None]
        pieces = getattr(outputs, output).cpu().split([len(t.action_ids) for t in scored])
        # Clones: a view would keep the whole batch's vector alive and alias its neighbours.
        yield from ((t, piece.clone()) for t, piece in zip(scored, pieces, strict=True))


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
