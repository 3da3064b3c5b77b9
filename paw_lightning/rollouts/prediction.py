"""How well the model predicts what was observed: a no-grad pass over finished episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from paw_lightning.models import PolicyWorldModel
from paw_lightning.types import Transition


@dataclass(frozen=True)
class Prediction:
    """One true observation under the model; both tensors [|o|], on the CPU."""

    transition: Transition
    logprobs: Tensor
    """float, nats."""
    hits: Tensor
    """bool: the token is the most likely one."""


@torch.no_grad()
def predict_observations(
    model: PolicyWorldModel,
    transitions: Iterable[Transition],
    batch_tokens: int,
    wanted: Callable[[Transition], bool] = lambda t: True,
) -> list[Prediction]:
    """Predict the observation of every wanted transition, each in a row of its own after all that came before it.

    Selection and controls play no part.

    Args:
        transitions: of whole episodes, in time order.
        batch_tokens: padded tokens per batch; one row always fits.
    """
    rows = [(t, context) for t, context in _contexts(transitions) if t.observation_ids and wanted(t)]
    rows.sort(key=lambda row: len(row[1]) + len(row[0].observation_ids))
    return [prediction for batch in _batches(rows, batch_tokens) for prediction in _predict(model, batch)]


Rows = list[tuple[Transition, list[int]]]


def _contexts(transitions: Iterable[Transition]) -> Iterator[tuple[Transition, list[int]]]:
    """Each transition with the token ids before its observation; one without a prompt of its own carries on."""
    row: list[int] = []
    for t in transitions:
        row = [*(t.prompt_ids or row + t.turn_ids), *t.action_ids, *t.bridge_ids]
        yield t, row
        row = row + t.observation_ids


def _batches(rows: Rows, batch_tokens: int) -> Iterator[Rows]:
    """Cut rows of ascending length."""
    batch: Rows = []
    for t, context in rows:
        if batch and (len(batch) + 1) * (len(context) + len(t.observation_ids)) > batch_tokens:
            yield batch
            batch = []
        batch.append((t, context))
    if batch:
        yield batch


def _predict(model: PolicyWorldModel, batch: Rows) -> Iterator[Prediction]:
    width = max(len(context) + len(t.observation_ids) for t, context in batch)
    input_ids = torch.zeros((len(batch), width), dtype=torch.long)
    mask = torch.zeros_like(input_ids, dtype=torch.bool)
    for i, (t, context) in enumerate(batch):
        end = len(context) + len(t.observation_ids)
        input_ids[i, :end] = torch.tensor(context + t.observation_ids)
        mask[i, len(context) : end] = True
    device = next(model.parameters()).device
    input_ids, mask = input_ids.to(device), mask.to(device)
    hidden = model.language_model.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state
    lm_head = model.language_model.get_output_embeddings()
    lengths = [len(t.observation_ids) for t, _ in batch]
    logprobs = model.world_model_head(hidden, lm_head, input_ids, mask).cpu().split(lengths)
    hits = model.world_model_head.hits(hidden, lm_head, input_ids, mask).cpu().split(lengths)
    for (t, _), own_logprobs, own_hits in zip(batch, logprobs, hits, strict=True):
        yield Prediction(t, own_logprobs, own_hits)
