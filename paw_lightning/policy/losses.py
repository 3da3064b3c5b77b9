"""Policy and value losses per action token; the caller weights and sums them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from paw_lightning.errors import SettingsError, one_of

Estimator = Literal["k1", "k2", "k3"]
Surrogate = Literal["clip", "gspo", "cispo"]
MAX_LOG_RATIO = 20.0  # exp of more than 88 is infinite in float32, and infinite x zero advantage is nan


@dataclass(frozen=True)
class PolicyLoss:
    """Surrogate + beta KL(policy || reference) - c_H H, per action token.

    Args:
        surrogate: `clip`: the clipped ratio of each token (PPO, GRPO), see :func:`clipped_surrogate`. `gspo`: one ratio
            for each action, see :func:`sequence_surrogate`. `cispo`: every token keeps its gradient, with a clipped
            weight, see :func:`weighted_surrogate`.
        clip_low: the ratio is clipped at 1 - clip_low; in [0, 1].
        clip_high: the ratio is clipped at 1 + clip_high; >= 0 (0.28: "clip-higher"). What is usual differs by orders of
            magnitude: the mean over an action moves far less than a token (`gspo`: 3e-4 and 4e-4), and `cispo` bounds a
            weight (1 and 4: from 0 to 5).
        dual_clip: upper bound c of the loss per unit of negative advantage; > 1, or None for no bound. Of `clip` alone.
        kl_coefficient: beta; >= 0. Above 0 the reference's log-probs are needed.
        kl_estimator: k2 or k3. k1 is refused: as a loss its gradient is zero on average, and taken off the advantage
            of its token it has exactly the gradient that k2 has as a loss.
        entropy_coefficient: c_H, per nat.
    """

    surrogate: Surrogate = "clip"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    kl_coefficient: float = 0.0
    kl_estimator: Literal["k2", "k3"] = "k3"
    entropy_coefficient: float = 0.0

    def __post_init__(self) -> None:
        one_of("model.policy_loss.surrogate", self.surrogate, get_args(Surrogate))
        if not 0 <= self.clip_low <= 1:
            raise SettingsError(f"model.policy_loss.clip_low is {self.clip_low}; wanted a number in [0, 1]")
        if not self.clip_high >= 0:
            raise SettingsError(f"model.policy_loss.clip_high is {self.clip_high}; wanted at least 0")
        if self.dual_clip is not None and not self.dual_clip > 1:
            raise SettingsError(f"model.policy_loss.dual_clip is {self.dual_clip}; wanted above 1, or null")
        if self.dual_clip is not None and self.surrogate != "clip":
            raise SettingsError(
                f"model.policy_loss.dual_clip is {self.dual_clip} and model.policy_loss.surrogate is "
                f"{self.surrogate!r}, which has no such bound; wanted dual_clip: null, or surrogate: clip"
            )
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
        action_index: Tensor | None = None,
    ) -> Tensor:
        """Loss [N] of N action tokens; every argument is float [N], log-probs and entropies in nats.

        `action_index`, long [N] below N, says which action each token belongs to; `gspo` reads it.
        """
        bounds = {"clip_low": self.clip_low, "clip_high": self.clip_high}
        if self.surrogate == "gspo":
            index = self._index(action_index)
            loss = sequence_surrogate(logprobs, old_logprobs, advantages, index, **bounds)
        elif self.surrogate == "cispo":
            loss = weighted_surrogate(logprobs, old_logprobs, advantages, **bounds)
        else:
            loss = clipped_surrogate(logprobs, old_logprobs, advantages, **bounds, dual_clip=self.dual_clip)
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

    def clipped(
        self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, action_index: Tensor | None = None
    ) -> Tensor:
        """bool [N]: the clip took the token's gradient away, or bounded its weight (`cispo`).

        The mean is the clip fraction.
        """
        logprobs = logprobs.detach()
        if self.surrogate == "gspo":
            ratio = _sequence_log_ratio(logprobs, old_logprobs, self._index(action_index)).exp()
        else:
            ratio = _ratio(logprobs, old_logprobs)
        above, below = ratio > 1 + self.clip_high, ratio < 1 - self.clip_low
        if self.surrogate == "cispo":
            return (advantages != 0) & (above | below)
        bounded = ratio > (self.dual_clip or math.inf)
        return ((advantages > 0) & above) | ((advantages < 0) & (below | bounded))

    def _index(self, action_index: Tensor | None) -> Tensor:
        if action_index is None:
            raise SettingsError(
                f"model.policy_loss.surrogate is {self.surrogate!r}, which reads whole actions; wanted action_index, "
                "which says which action each token belongs to"
            )
        return action_index


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
    loss = _clipped(_ratio(logprobs, old_logprobs), advantages, clip_low, clip_high)
    if dual_clip is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)


def sequence_surrogate(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    action_index: Tensor,
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
) -> Tensor:
    """-min(s A, clip(s, 1 - clip_low, 1 + clip_high) A) with one ratio s for each action, float [N] (GSPO).

    s = exp(mean over the action's tokens of log pi / pi_old) (Zheng et al., arXiv 2507.18071, eq. 7). Its gradient is
    that of the paper's GSPO-token (eq. 14), sg[s] pi / sg[pi] in place of s: for tokens of one advantage and one weight
    it adds up to that of eq. 5, and each token may also have an advantage of its own (PPO). A clipped action loses the
    gradient of all its tokens.

    The paper's mean over responses is `data.normalization: sequence_mean`. Choice: a sequence is an action, one turn's
    answer, as in verl-agent's rows; what a row holds besides it plays no part, so that both layouts give the same.

    Args:
        action_index: long [N] below N: which action each token belongs to; all tokens of an action have to be here.
    """
    value = _sequence_log_ratio(logprobs.detach(), old_logprobs, action_index).exp()
    slope = (logprobs - logprobs.detach()).exp()  # exactly 1, with the gradient of log pi
    return _clipped(value * slope, advantages, clip_low, clip_high)


def weighted_surrogate(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float = 1.0, clip_high: float = 4.0
) -> Tensor:
    """-sg[clip(r, 1 - clip_low, 1 + clip_high)] A log pi with r = pi / pi_old, float [N] (CISPO).

    MiniMax-M1, arXiv 2506.13585, eqs. 4 and 5: the clip bounds a token's weight and never takes its gradient away. The
    paper has no lower bound (`clip_low: 1`) and does not state the upper one; 5 is what is common elsewhere (choice).
    Its mean over all tokens is `data.normalization: token_mean`. The value is no loss to look at: it is not 0 where the
    gradient is.
    """
    weight = _ratio(logprobs.detach(), old_logprobs).clamp(1 - clip_low, 1 + clip_high)
    return -weight * advantages * logprobs


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


def _sequence_log_ratio(logprobs: Tensor, old_logprobs: Tensor, action_index: Tensor) -> Tensor:
    """Mean of log pi / pi_old over each token's action, float [N]."""
    log_ratio = logprobs - old_logprobs
    # As many places as tokens: how many actions there are is not asked of a GPU.
    total = torch.zeros_like(log_ratio).index_add(0, action_index, log_ratio)
    count = torch.zeros_like(log_ratio).index_add(0, action_index, torch.ones_like(log_ratio))
    return (total[action_index] / count[action_index]).clamp(max=MAX_LOG_RATIO)


def _clipped(ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> Tensor:
    clipped_ratio = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio * advantages, clipped_ratio * advantages)
