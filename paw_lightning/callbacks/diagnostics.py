"""What the world-model term does to a policy, measured: role leaks, nuisance, disagreeing gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor

from paw_lightning.text.actions import ActionFormat
from paw_lightning.types import Transition
from paw_lightning.world_model.loss import Kind, WorldModelLoss

Gradients = list[Tensor | None]
"""One per parameter; None where the loss does not reach it."""


def leaks(transition: Transition, written: str, control_ids: set[int], form: ActionFormat) -> bool:
    """Whether an action runs on: the sign of a policy that has begun to write its own observations.

    It reached the length limit; or it holds a control or role token before the one that ends it; or text follows where
    the action should be over, which the action format knows.
    choice: the paper does not say; a long thought that is cut off counts too.

    Args:
        written: the policy's text.
        control_ids: token ids that only a chat template may write.
    """
    if transition.truncated or control_ids & set(transition.action_ids[:-1]):
        return True
    return form.runs_on(written)


def nuisance_mask(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> Tensor:
    """Which tokens touch a span, as bool [number of tokens]; both are given as (first, last + 1) characters."""
    touched = [any(first < end and start < last for start, end in spans) for first, last in offsets]
    return torch.tensor(touched, dtype=torch.bool)


def nuisance_shares(logprobs: Tensor, nuisance: Tensor, loss: WorldModelLoss) -> dict[str, float]:
    """How much of the targets, and of the gradient under each kind of loss, the unpredictable tokens take (Fig. 2c).

    A token's gradient is measured at its own logit, w(p) (1 - p): 1 - p for cross-entropy, p (1 - p) for MAE.

    Args:
        logprobs: float [M], nats.
        nuisance: bool [M].
        loss: whose rho and gamma the kinds are given.

    Returns:
        Shares in [0, 1] by "tokens" and kind; a kind that trains no token has none.
    """
    shares = {"tokens": nuisance.double().mean().item()}
    miss = -torch.expm1(logprobs.double())
    for kind in get_args(Kind):
        magnitudes = replace(loss, kind=kind).token_weights(logprobs.double()) * miss
        total = magnitudes.sum().item()
        if total > 0:
            shares[kind] = magnitudes[nuisance].sum().item() / total
    return shares


def add_gradients(left: Gradients | None, right: Gradients) -> Gradients:
    """The sum, parameter by parameter; None is zero."""
    if left is None:
        return right
    return [b if a is None else a if b is None else a + b for a, b in zip(left, right, strict=True)]


def compare_gradients(policy: Gradients, world_model: Gradients) -> dict[str, Tensor]:
    """Cosine between two gradients and |world model's| / |policy's|; nothing where either is zero."""
    dot = _sum(a * b for a, b in zip(policy, world_model, strict=True) if a is not None and b is not None)
    squares = [_sum(g * g for g in gradient if g is not None) for gradient in (policy, world_model)]
    norms = [square.sqrt() for square in squares]
    if not norms[0] or not norms[1]:
        return {}
    return {"cosine": dot / (norms[0] * norms[1]), "norm_ratio": norms[1] / norms[0]}


def _sum(products: object) -> Tensor:
    """float64 sum of all elements of all products: float32 would lose small gradients of large models."""
    return sum((product.double().sum() for product in products), torch.zeros((), dtype=torch.float64))  # type: ignore[attr-defined]
