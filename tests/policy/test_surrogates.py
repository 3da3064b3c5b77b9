"""GSPO's and CISPO's surrogates: by hand, and against autograd of the papers' formulae."""

from __future__ import annotations

import math

import pytest
import torch

from paw_lightning.errors import SettingsError
from paw_lightning.policy.losses import PolicyLoss, clipped_surrogate, sequence_surrogate, weighted_surrogate


def value_and_gradient(surrogate, log_ratios, *arguments, **settings) -> tuple[list[float], list[float]]:
    """Loss of each token, and the gradient of their sum by each log-prob, of log-ratios against log-probs of -2."""
    old = torch.full((len(log_ratios),), -2.0, dtype=torch.float64)
    logprobs = (old + torch.tensor(log_ratios, dtype=torch.float64)).requires_grad_()
    tensors = [torch.tensor(a, dtype=None if isinstance(a[0], int) else torch.float64) for a in arguments]
    loss = surrogate(logprobs, old, *tensors, **settings)
    loss.sum().backward()
    return loss.tolist(), logprobs.grad.tolist()


# Two actions, of two tokens and of one: mean log-ratios (ln 3 + 0) / 2 = ln sqrt 3 and ln 0.5, so s = 1.73205 and 0.5.
LOG_RATIOS, ACTIONS = [math.log(3), 0.0, math.log(0.5)], [0, 0, 1]
S = math.sqrt(3)


@pytest.mark.parametrize(
    ("advantages", "bounds", "losses", "gradients"),
    [
        ([2.0, 2.0, -1.0], (0.6, 0.8), [-2 * S, -2 * S, 0.5], [-2 * S, -2 * S, 0.5]),  # nothing is clipped
        ([2.0, 2.0, -1.0], (0.2, 0.2), [-2.4, -2.4, 0.8], [0, 0, 0]),  # both actions are, with all their tokens
        ([-2.0, -2.0, 1.0], (0.2, 0.2), [2 * S, 2 * S, -0.5], [2 * S, 2 * S, -0.5]),  # the clip is one-sided
        ([2.0, -2.0, 0.0], (0.2, 0.2), [-2.4, 2 * S, 0], [0, 2 * S, 0]),  # an advantage for each token
    ],
)
def test_the_sequence_ratio_by_hand(advantages, bounds, losses, gradients) -> None:
    settings = {"clip_low": bounds[0], "clip_high": bounds[1]}
    found = value_and_gradient(sequence_surrogate, LOG_RATIOS, advantages, ACTIONS, **settings)
    assert found[0] == pytest.approx(losses) and found[1] == pytest.approx(gradients)
    loss = PolicyLoss(surrogate="gspo", **settings)
    tensors = torch.tensor(LOG_RATIOS), torch.zeros(3), torch.tensor(advantages), torch.tensor(ACTIONS)
    lost = [not g and bool(a) for g, a in zip(gradients, advantages, strict=True)]
    assert loss.clipped(*tensors).tolist() == lost


def test_the_gradient_is_that_of_the_papers_objective() -> None:
    """Eq. 5, mean over responses of min(s A, clip(s) A) with s = exp(mean log-ratio), differentiated as it stands.

    Seven actions of one to five tokens, some of them clipped; weights of `sequence_mean`, 1 / (G |y|) per token.
    """
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([3, 1, 5, 2, 4, 1, 2])
    index = torch.arange(7).repeat_interleave(lengths)
    old = -torch.rand(18, generator=generator, dtype=torch.float64)
    logprobs = (old + 0.5 * torch.randn(18, generator=generator, dtype=torch.float64)).requires_grad_()
    advantages = torch.randn(7, generator=generator, dtype=torch.float64)
    s = torch.stack([part.mean().exp() for part in (logprobs - old).split(lengths.tolist())])
    objective = torch.minimum(s * advantages, s.clamp(0.8, 1.2) * advantages).mean()
    (expected,) = torch.autograd.grad(-objective, logprobs)
    tokens = sequence_surrogate(logprobs, old, advantages[index], index, clip_low=0.2, clip_high=0.2)
    loss = (tokens / (7 * lengths[index])).sum()
    (gradient,) = torch.autograd.grad(loss, logprobs)
    torch.testing.assert_close(loss, -objective)
    torch.testing.assert_close(gradient, expected)
    assert 0 < (gradient == 0).sum() < 18, "some are clipped and some are not"


def test_one_token_actions_have_the_token_surrogate() -> None:
    ratios, advantages = [0.3, -0.4, 0.1], [1.0, -2.0, 0.5]
    assert value_and_gradient(sequence_surrogate, ratios, advantages, [0, 1, 2], clip_low=0.2, clip_high=0.2) == (
        value_and_gradient(clipped_surrogate, ratios, advantages)
    )


def test_small_bounds_are_met_in_float32() -> None:
    """Log-probs of -20 have steps of 2e-6; the ratio of an action that has not moved is exactly 1 all the same."""
    logprobs = torch.tensor([-20.1, -0.3, -7.7])
    tokens = sequence_surrogate(logprobs, logprobs.clone(), torch.ones(3), torch.zeros(3, dtype=torch.long))
    assert tokens.tolist() == [-1.0] * 3


@pytest.mark.parametrize(
    ("ratio", "advantage", "weight"),
    [(1.0, 2.0, 1.0), (1.5, 2.0, 1.2), (0.5, 2.0, 0.8), (1.5, -2.0, 1.2), (0.5, -2.0, 0.8), (1.1, -1.0, 1.1)],
)
def test_the_bounded_weight_by_hand(ratio: float, advantage: float, weight: float) -> None:
    """-w A log pi at log pi = -2 + ln r; the gradient is -w A on either side, and is never 0."""
    losses, gradients = value_and_gradient(
        weighted_surrogate, [math.log(ratio)], [advantage], clip_low=0.2, clip_high=0.2
    )
    assert losses == pytest.approx([-weight * advantage * (math.log(ratio) - 2)])
    assert gradients == pytest.approx([-weight * advantage])
    one = torch.tensor([math.log(ratio)]), torch.zeros(1), torch.tensor([advantage])
    assert PolicyLoss(surrogate="cispo").clipped(*one).item() == (abs(ratio - 1) > 0.2)


def test_the_default_weight_is_from_0_to_5() -> None:
    _, gradients = value_and_gradient(weighted_surrogate, [math.log(9), math.log(0.01)], [1.0, 1.0])
    assert gradients == pytest.approx([-5, -0.01])


@pytest.mark.parametrize("surrogate", ["clip", "gspo", "cispo"])
def test_the_first_step_is_the_policy_gradient_with_any(surrogate: str) -> None:
    """Before the policy has moved the ratio is 1: the gradient is -A, with narrow bounds as well."""
    logprobs = torch.randn(6, requires_grad=True)
    advantages, index = torch.randn(6), torch.tensor([0, 0, 0, 1, 2, 2])
    loss = PolicyLoss(surrogate=surrogate, clip_low=3e-4, clip_high=4e-4)
    tokens = loss(logprobs, torch.zeros(6), logprobs.detach(), advantages, action_index=index)
    tokens.sum().backward()
    torch.testing.assert_close(logprobs.grad, -advantages)
    assert not loss.clipped(logprobs, logprobs.detach(), advantages, index).any()


@pytest.mark.parametrize("surrogate", ["clip", "gspo", "cispo"])
def test_penalties_are_added_to_any(surrogate: str) -> None:
    """KL k3 of ratio e: e - 1 - 1 = 0.71828, times 0.1; entropy 2 times 0.01."""
    zero, index = torch.zeros(1), torch.zeros(1, dtype=torch.long)
    loss = PolicyLoss(surrogate=surrogate, kl_coefficient=0.1, entropy_coefficient=0.01)
    tokens = loss(zero, torch.tensor([2.0]), zero, zero, torch.ones(1), index)
    assert tokens.item() == pytest.approx(0.071828 - 0.02, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"surrogate": "ppo"}, r"surrogate is 'ppo'; wanted one of 'clip', 'gspo', 'cispo'"),
        ({"surrogate": "gspo", "dual_clip": 3.0}, r"dual_clip is 3.0 and .*surrogate is 'gspo', which has no such"),
        ({"surrogate": "cispo", "dual_clip": 3.0}, r"dual_clip is 3.0 .* wanted dual_clip: null, or surrogate: clip"),
    ],
)
def test_bad_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=rf"model\.policy_loss\.{message}"):
        PolicyLoss(**settings)


def test_a_sequence_ratio_without_sequences_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"surrogate is 'gspo', which reads whole actions; wanted action_index"):
        PolicyLoss(surrogate="gspo")(*[torch.zeros(1)] * 4)
