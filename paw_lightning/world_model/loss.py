"""World-model losses per target token (eqs. 6-9): the family with the gradient of -stop_grad(w(p)) log p.

============= ========================== =================================================
kind          loss of a token            its weight w(p) as a cross-entropy
============= ========================== =================================================
clipped_mae   m (1 - p), eqs. 6-8        m p, with m = 1[p <= rho] and no gradient through m
mae           1 - p                      p
cross_entropy -log p                     1
focal         -(1 - p)^gamma log p       (1 - p)^gamma - gamma p (1 - p)^(gamma - 1) log p
============= ========================== =================================================
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from paw_lightning.errors import SettingsError

ROUNDING = 1e-6  # nats: p = rho must not fall on the wrong side for float32's last digit
Kind = Literal["clipped_mae", "mae", "cross_entropy", "focal"]
READERS: dict[str, Kind] = {"rho": "clipped_mae", "focal_gamma": "focal"}
"""Which kind reads a setting of the loss; the others do not."""


class TokenLoss(ABC):
    """The loss of a target token as a function of its log-prob; `model.world_model_loss.kind` can name one of yours."""

    @abstractmethod
    def loss(self, logprobs: Tensor) -> Tensor:
        """Losses [M] of the targets' log-probs [M], nats."""

    @abstractmethod
    def weights(self, logprobs: Tensor) -> Tensor:
        """w(p) [M]: the loss has the gradient of -w(p) log p."""

    def active(self, logprobs: Tensor) -> Tensor:
        """Which tokens still train, bool [M]; all of them unless the loss lets go of some."""
        return torch.ones_like(logprobs, dtype=torch.bool)


@dataclass(frozen=True)
class ClippedMAE(TokenLoss):
    """MAE 1 - p (eq. 6), masked by m (eq. 7): m (1 - p) (eq. 8), bounded, and 0 for tokens that are already likely."""

    rho: float

    def loss(self, logprobs: Tensor) -> Tensor:
        return -torch.expm1(logprobs) * self.active(logprobs)

    def weights(self, logprobs: Tensor) -> Tensor:
        return logprobs.exp() * self.active(logprobs)

    def active(self, logprobs: Tensor) -> Tensor:
        """m = 1[p <= rho] (eq. 7)."""
        return logprobs <= math.log(self.rho) + ROUNDING


class MAE(TokenLoss):
    """1 - p: a bounded loss that never lets go of a token."""

    def loss(self, logprobs: Tensor) -> Tensor:
        return -torch.expm1(logprobs)

    def weights(self, logprobs: Tensor) -> Tensor:
        return logprobs.exp()


class CrossEntropy(TokenLoss):
    """-log p."""

    def loss(self, logprobs: Tensor) -> Tensor:
        return -logprobs

    def weights(self, logprobs: Tensor) -> Tensor:
        return torch.ones_like(logprobs)


@dataclass(frozen=True)
class Focal(TokenLoss):
    """-(1 - p)^gamma log p: cross-entropy that fades as p grows."""

    gamma: float

    def loss(self, logprobs: Tensor) -> Tensor:
        return -(_complement(logprobs) ** self.gamma) * logprobs

    def weights(self, logprobs: Tensor) -> Tensor:
        miss, gamma = _complement(logprobs), self.gamma
        return miss**gamma - gamma * logprobs.exp() * miss ** (gamma - 1) * logprobs


@dataclass(frozen=True)
class WorldModelLoss:
    """The loss of a target token, and its weight w(p) as a cross-entropy.

    Division by |o| and the group's coefficient are weights that the caller multiplies in, see
    :func:`target_token_weights`.

    Args:
        kind: clipped_mae is the paper's; mae, cross_entropy and focal are what it is compared with. Or a TokenLoss of
            yours, by class path.
        rho: in (0, 1]; a token with p above it no longer trains, p = rho still does. `clipped_mae` only.
        focal_gamma: >= 1; how fast the loss fades with p. `focal` only.
    """

    kind: Kind | TokenLoss = "clipped_mae"
    rho: float = 0.2
    focal_gamma: float = 2.0

    def __post_init__(self) -> None:
        if not isinstance(self.kind, TokenLoss) and self.kind not in get_args(Kind):
            raise SettingsError(f"model.world_model_loss.kind is {self.kind!r}; wanted one of {get_args(Kind)}")
        if not 0 < self.rho <= 1:
            raise SettingsError(f"model.world_model_loss.rho is {self.rho}; wanted a probability in (0, 1]")
        if not self.focal_gamma >= 1:  # below 1 the slope at p = 1 is infinite
            raise SettingsError(f"model.world_model_loss.focal_gamma is {self.focal_gamma}; wanted at least 1")

    @property
    def token_loss(self) -> TokenLoss:
        """The loss of this kind with its settings."""
        if isinstance(self.kind, TokenLoss):
            return self.kind
        if self.kind == "clipped_mae":
            return ClippedMAE(self.rho)
        if self.kind == "focal":
            return Focal(self.focal_gamma)
        return MAE() if self.kind == "mae" else CrossEntropy()

    def __call__(self, logprobs: Tensor) -> Tensor:
        """Per-token losses [M] of the targets' log-probs [M], nats."""
        return self.token_loss.loss(logprobs)

    def token_weights(self, logprobs: Tensor) -> Tensor:
        """w(p) [M], without gradient."""
        return self.token_loss.weights(logprobs.detach())

    @property
    def lets_go(self) -> bool:
        """Whether there can be tokens that no longer train."""
        return type(self.token_loss).active is not TokenLoss.active

    def active(self, logprobs: Tensor) -> Tensor:
        """Which tokens still train, bool [M] (eq. 7); all True for the kinds that do not clip."""
        return self.token_loss.active(logprobs)


def target_token_weights(
    groups: Sequence[int],
    selected: Sequence[bool],
    observation_lengths: Sequence[int],
    coefficients: Sequence[float],
) -> list[float]:
    """Weight of each target token of each transition: lambda_g / (G |S_g| |o|).

    1 / |o| makes an observation's loss the mean of its tokens (eq. 9); lambda_g / |S_g| and the mean over the G groups
    make the update's (eq. 11).

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


def _complement(logprobs: Tensor) -> Tensor:
    """1 - p, never below 0: a log-prob can be rounded above 0."""
    return -torch.expm1(logprobs.clamp(max=0))
