"""World-model losses per observation token (eqs. 6-9): the family with the gradient of -stop_grad(w(p)) log p."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor


def wm_token_weights(
    groups: Sequence[int],
    selected: Sequence[bool],
    observation_lengths: Sequence[int],
    coefficients: Sequence[float],
) -> list[float]:
    """Weight of each observation token of each transition: lambda_g / (G |S_g| |o|) (eqs. 9 and 11).

    G counts every group, also those without a selected transition. A selected transition without observation
    tokens has no loss to average and is not in S_g (choice: the paper does not say).

    Args:
        groups: index g of each transition's group.
        selected: whether each transition is in S_alpha.
        observation_lengths: |o| of each transition, target tokens.
        coefficients: lambda_g of all G groups.

    Returns:
        One weight per transition; 0 where there is nothing to learn. Times |o| they sum to the mean of lambda_g
        over all groups, those with an empty S_g counted as 0.
    """
    taught = [bool(chosen) and length > 0 for chosen, length in zip(selected, observation_lengths, strict=True)]
    sizes = Counter(group for group, learns in zip(groups, taught, strict=True) if learns)
    return [
        coefficients[group] / (len(coefficients) * sizes[group] * length) if learns else 0.0
        for group, learns, length in zip(groups, taught, observation_lengths, strict=True)
    ]


ROUNDING = 1e-6  # nats: p = rho must not fall on the wrong side for float32's last digit


Kind = Literal["clipped_mae", "mae", "cross_entropy", "focal"]


READERS: dict[str, Kind] = {"rho": "clipped_mae", "focal_gamma": "focal"}
"""The one kind that reads a setting of the loss."""


@dataclass(frozen=True)
class WorldModelLoss:
    """The loss of an observation token predicted with probability p, and its weight w(p) as a cross-entropy.

    ============= ========================== =================================================
    kind          loss                       w(p)
    ============= ========================== =================================================
    clipped_mae   m (1 - p), eqs. (6)-(8)    m p, with m = 1[p <= rho] and no gradient through m
    mae           1 - p                      p
    cross_entropy -log p                     1
    focal         -(1 - p)^gamma log p       (1 - p)^gamma - gamma p (1 - p)^(gamma - 1) log p
    ============= ========================== =================================================

    Division by |o| and the group's coefficient are weights that the caller multiplies in (eqs. 9 and 11).

    Args:
        rho: in (0, 1]; a token with p above it no longer trains, p = rho still does. `clipped_mae` only.
        focal_gamma: >= 1; how fast the loss fades with p. `focal` only.
    """

    kind: Kind = "clipped_mae"
    rho: float = 0.2
    focal_gamma: float = 2.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"model.world_model_loss.kind is {self.kind!r}; wanted one of {get_args(Kind)}")
        if not 0 < self.rho <= 1:
            raise ValueError(f"model.world_model_loss.rho is {self.rho}; wanted a probability in (0, 1]")
        if not self.focal_gamma >= 1:  # below 1 the slope at p = 1 is infinite
            raise ValueError(f"model.world_model_loss.focal_gamma is {self.focal_gamma}; wanted at least 1")

    def __call__(self, logprobs: Tensor) -> Tensor:
        """Per-token losses [M] of the targets' log-probs [M], nats."""
        if self.kind == "cross_entropy":
            return -logprobs
        if self.kind == "focal":
            return -(_complement(logprobs) ** self.focal_gamma) * logprobs
        loss = -torch.expm1(logprobs)
        return loss * self.active(logprobs) if self.kind == "clipped_mae" else loss

    def token_weights(self, logprobs: Tensor) -> Tensor:
        """w(p) [M], without gradient."""
        logprobs = logprobs.detach()
        p = logprobs.exp()
        if self.kind == "cross_entropy":
            return torch.ones_like(p)
        if self.kind == "focal":
            miss, gamma = _complement(logprobs), self.focal_gamma
            return miss**gamma - gamma * p * miss ** (gamma - 1) * logprobs
        return p * self.active(logprobs) if self.kind == "clipped_mae" else p

    def active(self, logprobs: Tensor) -> Tensor:
        """m = 1[p <= rho], bool [M] (eq. 7); all True for the kinds that do not clip."""
        if self.kind != "clipped_mae":
            return torch.ones_like(logprobs, dtype=torch.bool)
        return logprobs <= math.log(self.rho) + ROUNDING


def _complement(logprobs: Tensor) -> Tensor:
    """1 - p, never below 0: a log-prob can be rounded above 0."""
    return -torch.expm1(logprobs.clamp(max=0))
