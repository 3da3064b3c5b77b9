"""The policy's losses, against numbers worked out by hand and a float64 reference."""

import math

import pytest
import torch

from paw_lightning.policy.losses import PolicyLoss, ValueLoss, clipped_surrogate, kl_estimate, value_loss

LN2 = math.log(2)


def surrogate(ratio, advantage, **settings):
    """Loss of one token, and its gradient by the log-prob."""
    logprob = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    loss = clipped_surrogate(logprob, torch.zeros(1, dtype=torch.float64), torch.tensor([advantage]), **settings)
    loss.backward()
    return loss.item(), logprob.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 2.0, -2.4, 0.0),  # clipped at 1.2: no more to gain
        (0.5, 2.0, -1.0, -1.0),  # moved the wrong way: not clipped
        (0.5, -2.0, 1.6, 0.0),  # clipped at 0.8
        (1.5, -2.0, 3.0, 3.0),
        (1.5, 0.0, 0.0, 0.0),
    ],
)
def test_clipped_surrogate_by_hand(ratio, advantage, loss, gradient):
    assert surrogate(ratio, advantage) == pytest.approx((loss, gradient))
    clipped = PolicyLoss().clipped(torch.tensor([math.log(ratio)]), torch.zeros(1), torch.tensor([advantage]))
    assert clipped.item() == (gradient == 0 and advantage != 0)


def test_clip_bounds_are_separate():
    assert surrogate(1.5, 1.0, clip_high=0.28)[0] == pytest.approx(-1.28)
    assert surrogate(0.5, -1.0, clip_low=0.1)[0] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [(5.0, -2.0, 6.0, 0.0), (2.0, -2.0, 4.0, 4.0), (5.0, 2.0, -2.4, 0.0)],  # bounded at -3 A for A < 0 only
)
def test_dual_clip_by_hand(ratio, advantage, loss, gradient):
    assert surrogate(ratio, advantage, dual_clip=3.0) == pytest.approx((loss, gradient))
    tensors = torch.tensor([math.log(ratio)]), torch.zeros(1), torch.tensor([advantage])
    assert PolicyLoss(dual_clip=3.0).clipped(*tensors).item() == (gradient == 0), "its gradient is gone"


def test_gradient_at_the_old_policy_is_that_of_policy_gradient():
    logprobs = torch.randn(20, requires_grad=True)
    advantages = torch.randn(20)
    clipped_surrogate(logprobs, logprobs.detach(), advantages).sum().backward()
    torch.testing.assert_close(logprobs.grad, -advantages)


def test_surrogate_agrees_with_float64():
    generator = torch.Generator().manual_seed(0)
    logprobs, old, advantages = torch.randn(3, 500, generator=generator).unbind()
    logprobs = logprobs.mul(0.5).requires_grad_()
    loss = clipped_surrogate(logprobs, old * 0.5, advantages, clip_low=0.1, clip_high=0.3, dual_clip=3.0)
    (gradient,) = torch.autograd.grad(loss.mean(), logprobs)
    exact = logprobs.detach().double().requires_grad_()
    ratio = (exact - old.double() * 0.5).exp()
    a = advantages.double()
    first = torch.max(-ratio * a, -ratio.clamp(0.9, 1.3) * a)
    expected = torch.where(a < 0, torch.min(first, -3 * a), first)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient.double(), torch.autograd.grad(expected.mean(), exact)[0], rtol=1e-6, atol=1e-6)


def test_a_ratio_beyond_float_range_stays_finite():
    logprobs = torch.tensor([0.0, 0.0], requires_grad=True)
    loss = clipped_surrogate(logprobs, torch.tensor([-200.0, -200.0]), torch.tensor([0.0, -1.0]))
    loss.sum().backward()
    assert loss.isfinite().all() and logprobs.grad.isfinite().all()
    assert all(kl_estimate(torch.tensor([-200.0]), torch.zeros(1), kind).isfinite() for kind in ("k1", "k2", "k3"))


def test_kl_estimates_by_hand():
    # policy 1/4, reference 1/2: s = 2, log s = ln 2
    policy, reference = torch.tensor([-2 * LN2]), torch.tensor([-LN2])
    estimates = [kl_estimate(policy, reference, kind).item() for kind in ("k1", "k2", "k3")]
    assert estimates == pytest.approx([-LN2, LN2**2 / 2, 1 - LN2])
    assert all(kl_estimate(policy, policy, kind).item() == 0 for kind in ("k1", "k2", "k3"))
    with pytest.raises(ValueError, match="'k4'"):
        kl_estimate(policy, reference, "k4")


def test_k1_and_k3_estimate_the_same_divergence():
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.randn(2, 5, generator=generator, dtype=torch.float64).log_softmax(1).unbind()
    divergence = (policy.exp() * (policy - reference)).sum()
    for kind in ("k1", "k3"):
        torch.testing.assert_close((policy.exp() * kl_estimate(policy, reference, kind)).sum(), divergence)


def test_value_loss_by_hand():
    values, old, returns = torch.tensor([1.0, 3.0, 3.0, 0.2]), torch.zeros(4), torch.tensor([1.0, 4.0, -1.0, 1.0])
    # clipped values 0.5, 0.5, 0.5, 0.2: squares (0, 0.25), (1, 12.25), (16, 2.25), (0.64, 0.64)
    assert value_loss(values, old, returns).tolist() == pytest.approx([0.125, 6.125, 8.0, 0.32])
    assert value_loss(values, old, returns, clip=10.0).tolist() == pytest.approx([0.0, 0.5, 8.0, 0.32])


def test_value_loss_without_a_clip():
    # (3 - 4)^2 / 2, whatever the rollout's value was
    loss = ValueLoss(clip=None)(torch.tensor([3.0]), torch.zeros(1), torch.tensor([4.0]))
    assert loss.item() == 0.5
    assert ValueLoss()(torch.tensor([3.0]), torch.zeros(1), torch.tensor([4.0])).item() == 6.125


def test_value_clip_ends_the_gradient():
    # V_c = 0.5 is further from 4 than V = 3, and does not move with V; towards -1 the unclipped square rules.
    for target, gradient in ((4.0, 0.0), (-1.0, 4.0)):
        value = torch.tensor([3.0], requires_grad=True)
        ValueLoss()(value, torch.zeros(1), torch.tensor([target])).sum().backward()
        assert value.grad.item() == gradient


def test_k1_off_the_advantage_is_k2_as_a_loss():
    """Why k1 is no option: at ratio 1 both have the gradient beta (log pi - log ref) d log pi."""
    generator = torch.Generator().manual_seed(0)
    old, reference, advantages = torch.randn(3, 50, generator=generator).unbind()
    logprobs = old.clone().requires_grad_()
    penalised = advantages - 0.1 * kl_estimate(old, reference, "k1")
    (first,) = torch.autograd.grad(PolicyLoss()(logprobs, old, old, penalised).sum(), logprobs)
    loss = PolicyLoss(kl_coefficient=0.1, kl_estimator="k2")
    (second,) = torch.autograd.grad(loss(logprobs, old, old, advantages, reference).sum(), logprobs)
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize(("settings", "key"), [({"clip": 0.0}, "clip"), ({"coefficient": 0.0}, "coefficient")])
def test_bad_value_loss_names_its_key(settings, key):
    with pytest.raises(ValueError, match=f"model.value_loss.{key} is 0.0"):
        ValueLoss(**settings)


def test_policy_loss_adds_its_terms():
    # ratio 1, A 2: -2. Reference twice as likely: k3 = 1 - ln 2, k2 = ln^2 2 / 2. Entropy 0.5.
    tensors = [torch.tensor([x]) for x in (-1.0, 0.5, -1.0, 2.0)]
    reference = torch.tensor([-1.0 + LN2])
    assert PolicyLoss()(*tensors).item() == -2
    assert PolicyLoss()(*tensors, reference).item() == -2
    assert PolicyLoss(kl_coefficient=0.1)(*tensors, reference).item() == pytest.approx(-2 + 0.1 * (1 - LN2))
    squared = PolicyLoss(kl_coefficient=0.1, kl_estimator="k2")
    assert squared(*tensors, reference).item() == pytest.approx(-2 + 0.05 * LN2**2)
    assert PolicyLoss(entropy_coefficient=0.1)(*tensors).item() == pytest.approx(-2.05)


def test_settings_reach_the_surrogate():
    tensors = [torch.tensor([x]) for x in (math.log(5), 0.0, 0.0)]
    gain, loss = torch.tensor([1.0]), torch.tensor([-1.0])
    assert PolicyLoss(clip_high=0.28)(*tensors, gain).item() == pytest.approx(-1.28)
    assert PolicyLoss(dual_clip=3.0)(*tensors, loss).item() == pytest.approx(3.0)
    falling = [torch.tensor([x]) for x in (-LN2, 0.0, 0.0)]
    assert PolicyLoss(clip_low=0.3)(*falling, loss).item() == pytest.approx(0.7)


def test_no_tokens():
    empty = torch.empty(0, requires_grad=True)
    loss = PolicyLoss(kl_coefficient=0.1, entropy_coefficient=0.1)(empty, *[torch.empty(0)] * 4)
    loss.sum().backward()
    assert loss.shape == empty.grad.shape == (0,)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"clip_low": -0.1}, "clip_low"),
        ({"clip_low": 1.1}, "clip_low"),
        ({"clip_high": -0.1}, "clip_high"),
        ({"dual_clip": 1.0}, "dual_clip"),
        ({"kl_coefficient": -1.0}, "kl_coefficient"),
        ({"kl_estimator": "k1"}, "kl_estimator"),
    ],
)
def test_bad_settings_name_their_key(settings, key):
    with pytest.raises(ValueError, match=f"model.policy_loss.{key} is {settings[key]!r}"):
        PolicyLoss(**settings)


def test_kl_without_a_reference_names_its_key():
    with pytest.raises(ValueError, match=r"model.policy_loss.kl_coefficient is 0.1 .* no reference"):
        PolicyLoss(kl_coefficient=0.1)(*[torch.zeros(1)] * 4)
