"""How well the model predicts what was observed: a no-grad pass over finished episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from paw_lightning.models.policy_world_model import PolicyWorldModel
from paw_lightning.rollouts.scoring import batches
from paw_lightning.types import Transition
from paw_lightning.update.collate import rectangle
from paw_lightning.update.rows import Row, observation_rows


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
    """Predict the observation of every wanted transition after all that came before it, one pass per row.

    Args:
        transitions: of whole episodes, in time order.
        batch_tokens: padded tokens per batch; one row always fits.
    """
    rows = observation_rows(list(transitions), wanted)
    return [prediction for batch in batches(rows, batch_tokens) for prediction in _predict(model, batch)]


def _predict(model: PolicyWorldModel, rows: list[Row]) -> Iterator[Prediction]:
    device = next(model.parameters()).device
    input_ids, _, mask = (tensor.to(device) for tensor in rectangle(rows))
    hidden = model.language_model.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state
    lm_head = model.language_model.get_output_embeddings()
    seen = [s.transition for row in rows for s in row.having("target") if s.transition is not None]
    lengths = [len(t.observation_ids) for t in seen]
    logprobs = model.world_model_head(hidden, lm_head, input_ids, mask).cpu().split(lengths)
    hits = model.world_model_head.hits(hidden, lm_head, input_ids, mask).cpu().split(lengths)
    for t, own_logprobs, own_hits in zip(seen, logprobs, hits, strict=True):
        yield Prediction(t, own_logprobs, own_hits)
