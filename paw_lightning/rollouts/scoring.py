"""No-grad passes over finished rollouts: behaviour and reference log-probs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from paw_lightning.models import PolicyWorldModel
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
    missing = [t for t in transitions if t.action_ids and not t.token_entropies]
    for t, entropies in _score(model, missing, temperature, batch_tokens, output="action_entropies"):
        t.token_entropies = entropies.tolist()


def write_importance(transitions: Sequence[Transition], cap: float) -> None:
    """Write importance = min(trainer's p / sampler's q, cap) of each action token: truncated importance sampling."""
    for t in transitions:
        assert t.old_logprobs is not None, "write_old_logprobs comes first"
        t.importance = (t.old_logprobs - torch.tensor(t.sampled_logprobs)).exp().clamp(max=cap)


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
    for batch in _batches(transitions, batch_tokens):
        lengths = [len(t.prompt_ids) + len(t.action_ids) for t in batch]
        input_ids = torch.zeros((len(batch), max(lengths)), dtype=torch.long)
        mask = torch.zeros_like(input_ids, dtype=torch.bool)
        for i, t in enumerate(batch):
            input_ids[i, : lengths[i]] = torch.tensor(t.prompt_ids + t.action_ids)
            mask[i, len(t.prompt_ids) : lengths[i]] = True
        mask = mask.to(device)
        outputs = model(input_ids.to(device), mask, torch.zeros_like(mask), temperature)
        pieces = getattr(outputs, output).cpu().split([len(t.action_ids) for t in batch])
        # Clones: a view would keep the whole batch's vector alive and alias its neighbours.
        yield from ((t, piece.clone()) for t, piece in zip(batch, pieces, strict=True))


def _batches(transitions: Sequence[Transition], batch_tokens: int) -> Iterator[list[Transition]]:
    """Group rows, sorted by length, so that a padded batch holds at most batch_tokens tokens (one row always fits)."""
    batch: list[Transition] = []
    for t in sorted(transitions, key=lambda t: len(t.prompt_ids) + len(t.action_ids)):
        if batch and (len(batch) + 1) * (len(t.prompt_ids) + len(t.action_ids)) > batch_tokens:
            yield batch
            batch = []
        batch.append(t)
    if batch:
        yield batch
