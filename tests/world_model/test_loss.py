"""The world-model losses: values by hand, gradients against their definition as a weighted cross-entropy."""

import math

import pytest
import torch

from paw_lightning.models.linear_logprob import linear_logprob
from paw_lightning.world_model.coefficient import matching_scale
from paw_lightning.world_model.loss import WorldModelLoss, target_token_weights

KINDS = [
    WorldModelLoss(),
    WorldModelLoss(rho=0.7),
    WorldModelLoss("mae"),
    WorldModelLoss("cross_entropy"),
    WorldModelLoss("focal"),
    WorldModelLoss("focal", focal_gamma=1.0),
]
LN2 = math.log(2)


def log(*probabilities, dtype=torch.float32):
    return torch.tensor(probabilities, dtype=torch.float64).log().to(dtype)


@pytest.mark.parametrize(
    ("loss", "values", "weights"),
    [
        # p = 0.1, 0.2 and 0.5; rho = 0.2 keeps the first two
        (WorldModelLoss(), [0.9, 0.8, 0.0], [0.1, 0.2, 0.0]),
        (WorldModelLoss(rho=0.5), [0.9, 0.8, 0.5], [0.1, 0.2, 0.5]),
        (WorldModelLoss("mae"), [0.9, 0.8, 0.5], [0.1, 0.2, 0.5]),
        (WorldModelLoss("cross_entropy"), [math.log(10), math.log(5), LN2], [1, 1, 1]),
        # -(1 - p)^2 log p, and (1 - p)^2 - 2 p (1 - p) log p
        (
            WorldModelLoss("focal"),
            [0.81 * math.log(10), 0.64 * math.log(5), 0.25 * LN2],
            [0.81 + 0.18 * math.log(10), 0.64 + 0.32 * math.log(5), 0.25 + 0.5 * LN2],
        ),
    ],
)
def test_values_and_weights_by_hand(loss, values, weights):
    logprobs = log(0.1, 0.2, 0.5)
    torch.testing.assert_close(loss(logprobs), torch.tensor(values))
    torch.testing.assert_close(loss.token_weights(logprobs), torch.tensor(weights, dtype=torch.float32))


@pytest.mark.parametrize("loss", KINDS, ids=str)
def test_gradient_is_that_of_the_weighted_cross_entropy(loss):
    logits = (
        torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).mul_(2).requires_grad_()
    )
    logprobs = logits.log_softmax(1)[:, 2]
    (gradient,) = torch.autograd.grad(loss(logprobs).sum(), logits, retain_graph=True)
    weights = loss.token_weights(logprobs)
    assert not weights.requires_grad
    (expected,) = torch.autograd.grad(-(weights * logprobs).sum(), logits)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", KINDS, ids=str)
def test_float32_agrees_with_float64_through_the_head(loss):
    generator = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(30, 8, generator=generator), torch.randn(20, 8, generator=generator).mul_(0.7)
    targets = torch.randint(20, (30,), generator=generator)
    hidden.requires_grad_()
    losses = loss(linear_logprob(hidden, weight, targets)[0])
    (gradient,) = torch.autograd.grad(losses.mean(), hidden)
    exact = hidden.detach().double().requires_grad_()
    logp = (exact @ weight.double().T).log_softmax(1).gather(1, targets[:, None]).squeeze(1)
    p = logp.exp()
    written_out = {
        "clipped_mae": (p <= loss.rho) * (1 - p),
        "mae": 1 - p,
        "cross_entropy": -logp,
        "focal": -((1 - p) ** loss.focal_gamma) * logp,
    }[loss.kind]
    torch.testing.assert_close(losses.double(), written_out, rtol=1e-6, atol=1e-6)
    (expected,) = torch.autograd.grad(written_out.mean(), exact)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-6, atol=1e-6)


def test_p_at_rho_still_trains():
    # All logits equal: p is 1 / V for any target, as closely as float32 holds it.
    for vocabulary in [*range(1, 50), 179, 337, 1431]:
        hidden, weight = torch.zeros(1, 2), torch.zeros(vocabulary, 2)
        logprobs, _ = linear_logprob(hidden, weight, torch.tensor([0]))
        assert WorldModelLoss(rho=1 / vocabulary).active(logprobs).all()
        assert not WorldModelLoss(rho=0.999 / vocabulary).active(logprobs).any()


def test_rho_of_one_is_mae():
    logprobs = log(1e-6, 0.3, 1.0)
    assert torch.equal(WorldModelLoss(rho=1.0)(logprobs), WorldModelLoss("mae")(logprobs))


def test_every_token_is_active_without_a_clip():
    assert WorldModelLoss("cross_entropy").active(log(0.1, 0.9)).tolist() == [True, True]
    assert WorldModelLoss().active(log(0.1, 0.9)).tolist() == [True, False]


@pytest.mark.parametrize("loss", KINDS, ids=str)
def test_edges(loss):
    empty = torch.empty(0, requires_grad=True)
    loss(empty).sum().backward()
    assert loss(empty).shape == loss.token_weights(empty).shape == empty.grad.shape == (0,)
    # A certain token, one rounded above certainty, one that is all but impossible.
    extreme = torch.tensor([0.0, 1e-7, -200.0], requires_grad=True)
    values = loss(extreme)
    values.sum().backward()
    assert values.isfinite().all() and extreme.grad.isfinite().all() and loss.token_weights(extreme).isfinite().all()
    assert loss(log(0.1)).shape == (1,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rho": 0.0}, "model.world_model_loss.rho is 0.0"),
        ({"rho": 1.2}, "model.world_model_loss.rho is 1.2"),
        ({"rho": math.nan}, "model.world_model_loss.rho is nan"),
        ({"kind": "ce"}, "model.world_model_loss.kind is 'ce'"),
        ({"focal_gamma": 0.5}, "model.world_model_loss.focal_gamma is 0.5"),
    ],
)
def test_bad_settings_name_their_key(settings, message):
    with pytest.raises(ValueError, match=message):
        WorldModelLoss(**settings)


@pytest.mark.parametrize(
    ("loss", "kind", "scale"),
    [
        # lambda w(p) of p = 0.1, 0.2, 0.5 with lambda = 1, 1, 0.5: clipped MAE 0.1 + 0.2 + 0 = 0.3, MAE
        # 0.1 + 0.2 + 0.25 = 0.55, cross-entropy 1 + 1 + 0.5 = 2.5
        (WorldModelLoss("cross_entropy"), "clipped_mae", 0.3 / 2.5),
        (WorldModelLoss("mae"), "clipped_mae", 0.3 / 0.55),
        (WorldModelLoss(), "cross_entropy", 2.5 / 0.3),
        (WorldModelLoss(), "clipped_mae", 1.0),
        (WorldModelLoss(rho=0.05), "cross_entropy", 1.0),  # trains no token: nothing to scale
    ],
)
def test_matching_scale_by_hand(loss, kind, scale):
    assert matching_scale(loss, kind, log(0.1, 0.2, 0.5), torch.tensor([1.0, 1.0, 0.5])) == pytest.approx(scale)


def test_matching_scale_of_nothing_is_one():
    assert matching_scale(WorldModelLoss("mae"), "clipped_mae", torch.empty(0), torch.empty(0)) == 1.0


@pytest.mark.parametrize("kind", ["clipped_mae", "mae", "cross_entropy", "focal"])
@pytest.mark.parametrize("selected", [[True, True, True, False], [False] * 4], ids=["some", "none"])
def test_world_model_term_against_float64(kind, selected):
    """Eq. 11's second term written out, value and gradient, within 1e-6.

    Two groups, rho 0.2. Group 0: an observation of three tokens, one of a single token whose five logits are equal, so
    that p = rho exactly. Group 1: a selected transition with nothing to predict, and one that is not selected.
    """
    generator = torch.Generator().manual_seed(2)
    hidden, weight = torch.randn(6, 8, generator=generator), torch.randn(5, 8, generator=generator)
    hidden[3] = 0
    targets, groups, lengths, coefficients = torch.tensor([0, 1, 2, 3, 4, 0]), [0, 0, 1, 1], [3, 1, 0, 2], [0.5, 0.8]
    token_weights = target_token_weights(groups, selected, lengths, coefficients)
    rows = [i for i, length in enumerate(lengths) for _ in range(length)]
    taken = torch.tensor([selected[i] for i in rows])
    loss = WorldModelLoss(kind)

    hidden.requires_grad_()
    logprobs, _ = linear_logprob(hidden[taken], weight, targets[taken])
    term = (torch.tensor([token_weights[i] for i in rows])[taken] * loss(logprobs)).sum()
    (gradient,) = torch.autograd.grad(term, hidden)

    exact = hidden.detach().double().requires_grad_()
    logits = exact @ weight.double().T
    p = logits.exp()[range(6), targets] / logits.exp().sum(1)
    token = {
        "clipped_mae": (p <= 0.2 + 1e-9) * (1 - p),
        "mae": 1 - p,
        "cross_entropy": -p.log(),
        "focal": -((1 - p) ** 2) * p.log(),
    }[kind]
    # Group 0: the mean over its two observations of their means; group 1 teaches nothing and counts in the mean.
    expected = 0.5 * (token[:3].mean() + token[3]) / 2 / 2 if any(selected) else 0 * token.sum()
    (exact_gradient,) = torch.autograd.grad(expected, exact)
    torch.testing.assert_close(term.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=0, atol=1e-6)
    if kind == "clipped_mae" and any(selected):
        assert gradient[3].abs().sum() > 0, "p = rho still trains"
