"""Policy and value losses per action token; the caller weights and sums them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from paw_lightning.errors import SettingsError

Estimator = Literal["k1", "k2", "k3"]
MAX_LOG_RATIO = 20.0  # exp of more than 88 is infinite in float32, and infinite x zero advantage is nan


@dataclass(frozen=True)
class PolicyLoss:
    """Clipped surrogate + beta KL(policy || reference) - c_H H, per action token.

    Args:
        clip_low: the ratio is clipped at 1 - clip_low; in [0, 1].
        clip_high: the ratio is clipped at 1 + clip_high; >= 0 (0.28: "clip-higher").
        dual_clip: upper bound c of the loss per unit of negative advantage; > 1, or None for no bound.
        kl_coefficient: beta; >= 0. Above 0 the reference's log-probs are needed.
        kl_estimator: k2 or k3. k1 is refused: as a loss its gradient is zero on average, and taken off the advantage
            of its token it has exactly the gradient that k2 has as a loss.
        entropy_coefficient: c_H, per nat.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    kl_coefficient: float = 0.0
    kl_estimator: Literal["k2", "k3"] = "k3"
    entropy_coefficient: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.clip_low <= 1:
            raise SettingsError(f"model.policy_loss.clip_low is {self.clip_low}; wanted a number in [0, 1]")
        if not self.clip_high >= 0:
            raise SettingsError(f"model.policy_loss.clip_high is {self.clip_high}; wanted at least 0")
        if self.dual_clip is not None and not self.dual_clip > 1:
            raise SettingsError(f"model.policy_loss.dual_clip is {self.dual_clip}; wanted above 1, or null")
        if not self.kl_coefficient >= 0:
            raise SettingsError(f"model.policy_loss.kl_coefficient is {self.kl_coefficient}; wanted at least 0")
        if self.kl_estimator not in ("k2", "k3"):
            raise SettingsError(
                f"model.policy_loss.kl_estimator is {self.kl_estimator!r}; wanted k2 or k3 (k1 as a penalty of the "
                "token's advantage is k2 as a loss)"
            )

    def __call__(
        self,
        logprobs: Tensor,
        entropies: Tensor,
        old_logprobs: Tensor,
        advantages: Tensor,
        reference_logprobs: Tensor | None = None,
    ) -> Tensor:
        """Loss [N] of N action tokens; every argument is float [N], log-probs and entropies in nats."""
        loss = clipped_surrogate(
            logprobs,
            old_logprobs,
            advantages,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            dual_clip=self.dual_clip,
        )
        if self.kl_coefficient:
            if reference_logprobs is None:
                raise SettingsError(
                    f"model.policy_loss.kl_coefficient is {self.kl_coefficient} but the batch has no "
                    "reference log-probs; score a reference policy, or set the coefficient to 0"
                )
            loss = loss + self.kl_coefficient * kl_estimate(logprobs, reference_logprobs, self.kl_estimator)
        if self.entropy_coefficient:
            loss = loss - self.entropy_coefficient * entropies
        return loss

    def clipped(self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor) -> Tensor:
        """bool [N]: the clip took the token's gradient away; the mean is the clip fraction."""
        ratio = _ratio(logprobs.detach(), old_logprobs)
        above = (advantages > 0) & (ratio > 1 + self.clip_high)
        below = (advantages < 0) & (ratio < 1 - self.clip_low)
        return above | below


def clipped_surrogate(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> Tensor:
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) with r = pi / pi_old, float [N].

    With `dual_clip` = c, tokens of negative advantage lose at most -c A.
    """
    ratio = _ratio(logprobs, old_logprobs)
    clipped_ratio = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = -torch.minimum(ratio * advantages, clipped_ratio * advantages)
    if dual_clip is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)


def kl_estimate(logprobs: Tensor, reference_logprobs: Tensor, kind: Estimator = "k3") -> Tensor:
    """KL(policy || reference) from tokens the policy sampled, float [N], nats.

    With s = reference / policy: k1 = -log s, k2 = (log s)^2 / 2, k3 = (s - 1) - log s >= 0.
    `kl_estimate(old_logprobs, logprobs)` is the usual `approx_kl` of a PPO step.
    """
    log_ratio = (reference_logprobs - logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if kind == "k1":
        return -log_ratio
    if kind == "k2":
        return log_ratio.square() / 2
    if kind == "k3":
        return torch.expm1(log_ratio) - log_ratio
    raise SettingsError(f"KL estimator is {kind!r}; wanted one of {get_args(Estimator)}")


@dataclass(frozen=True)
class ValueLoss:
    """The critic's loss per action token, see :func:`value_loss`; read only where there is a critic.

    Args:
        clip: how far a value may move from the rollout's before its gradient ends, in units of return; > 0, or None
            for no bound.
        coefficient: weight beside the policy's loss; > 0. It matters where both share a backbone.
    """

    clip: float | None = 0.5
    coefficient: float = 0.5

    def __post_init__(self) -> None:
        if self.clip is not None and not self.clip > 0:
            raise SettingsError(f"model.value_loss.clip is {self.clip}; wanted above 0, or null")
        if not self.coefficient > 0:
            raise SettingsError(f"model.value_loss.coefficient is {self.coefficient}; wanted above 0")

    def __call__(self, values: Tensor, old_values: Tensor, targets: Tensor) -> Tensor:
        """Loss [N] of N action tokens, before the coefficient; every argument is float [N]."""
        return value_loss(values, old_values, targets, clip=self.clip)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float | None = 0.5) -> Tensor:
    """max((V - R)^2, (V_c - R)^2) / 2, float [N], with V_c the value held within `clip` of the rollout's.

    Without `clip` it is (V - R)^2 / 2.
    """
    if clip is None:
        return (values - returns).square() / 2
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum((values - returns).square(), (clipped - returns).square()) / 2


def _ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    return (logprobs - old_logprobs).clamp(max=MAX_LOG_RATIO).exp()
