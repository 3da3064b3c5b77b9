"""The chunked head, against log_softmax under autograd."""

import pytest
import torch
from torch.autograd import gradcheck

from paw_lightning.models.linear_logprob import linear_logprob

VOCABULARY, WIDTH = 11, 5
CHUNK_OF_THREE = 3 * 4 * VOCABULARY


def naive(hidden, weight, targets, *, bias=None, temperature=1.0, softcap=None):
    logits = hidden @ weight.T
    if bias is not None:
        logits = logits + bias
    if softcap is not None:
        logits = softcap * (logits / softcap).tanh()
    logp = (logits / temperature).log_softmax(1)
    return logp.gather(1, targets[:, None]).squeeze(1), -(logp.exp() * logp).sum(1)


def example(tokens=7, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((tokens, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,))
    )
    return hidden, weight, bias, torch.randint(VOCABULARY, (tokens,), generator=generator)


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.6}, {"temperature": 1.4, "softcap": 2.0}], ids=str)
@pytest.mark.parametrize("used", ["log-probs", "entropies", "both"])
@pytest.mark.parametrize("chunk_bytes", [1, CHUNK_OF_THREE, 2**20])  # one row at a time, 3 + 3 + 1, all at once
def test_values_and_gradients(settings, used, chunk_bytes):
    hidden, weight, bias, targets = example()
    upstream = torch.randn(2, len(hidden), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    upstream *= torch.tensor([[used != "entropies"], [used != "log-probs"]])
    results = []
    for function, extra in ((naive, {}), (linear_logprob, {"chunk_bytes": chunk_bytes})):
        outputs = function(hidden, weight, targets, bias=bias, **settings, **extra)
        loss = sum((output * g).sum() for output, g in zip(outputs, upstream, strict=True) if g.any())
        results.append([*outputs, *torch.autograd.grad(loss, (hidden, weight, bias))])
    for got, expected in zip(*reversed(results), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.6}, {"temperature": 1.4, "softcap": 2.0}], ids=str)
def test_gradcheck(settings):
    hidden, weight, bias, targets = example(4)
    assert gradcheck(
        lambda h, w, b: linear_logprob(h, w, targets, bias=b, chunk_bytes=CHUNK_OF_THREE, **settings),
        (hidden, weight, bias),
    )


def test_float32_is_within_a_millionth_of_float64():
    hidden, weight, bias, targets = example(200, torch.float32)
    outputs = linear_logprob(hidden, weight, targets, bias=bias, chunk_bytes=CHUNK_OF_THREE)
    assert all(output.dtype == torch.float32 for output in outputs)
    gradients = torch.autograd.grad(sum(output.mean() for output in outputs), (hidden, weight, bias))
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight, bias)]
    reference = naive(exact[0], exact[1], targets, bias=exact[2])
    expected = torch.autograd.grad(sum(output.mean() for output in reference), exact)
    for got, wanted in zip([*outputs, *gradients], [*reference, *expected], strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_large_logits_are_harmless(shift):
    # Logits 80, 0, ... + shift: the first token is certain, the others have log-prob -80; entropy 10 * 80 e^-80 = 0.
    weight = torch.zeros(VOCABULARY, 1, requires_grad=True)
    bias = torch.full((VOCABULARY,), shift)
    bias[0] += 80
    logprobs, entropies = linear_logprob(torch.ones(2, 1), weight, torch.tensor([0, 1]), bias=bias)
    assert logprobs.tolist() == [0.0, -80.0]
    assert entropies.tolist() == pytest.approx([0.0, 0.0], abs=1e-30)
    (logprobs + entropies).sum().backward()
    assert weight.grad.isfinite().all()


def test_uniform_distribution():
    logprobs, entropies = linear_logprob(torch.zeros(3, 2), torch.randn(8, 2), torch.tensor([0, 4, 7]), chunk_bytes=1)
    expected = torch.tensor(8.0).log().expand(3)
    torch.testing.assert_close(logprobs, -expected)
    torch.testing.assert_close(entropies, expected)


def test_no_tokens():
    hidden, weight, bias, targets = example(0)
    logprobs, entropies = linear_logprob(hidden, weight, targets, bias=bias)
    assert logprobs.shape == entropies.shape == (0,)
    (logprobs.sum() + entropies.sum()).backward()
    assert hidden.grad.shape == (0, WIDTH)
    assert torch.equal(weight.grad, torch.zeros_like(weight)) and torch.equal(bias.grad, torch.zeros_like(bias))


@pytest.mark.parametrize("trained", range(3))
def test_frozen_inputs_get_no_gradient(trained):
    *inputs, targets = example()
    for i, tensor in enumerate(inputs):
        tensor.requires_grad_(i == trained)
    hidden, weight, bias = inputs
    logprobs, _ = linear_logprob(hidden, weight, targets, bias=bias, chunk_bytes=CHUNK_OF_THREE)
    logprobs.sum().backward()
    assert [tensor.grad is not None for tensor in inputs] == [i == trained for i in range(3)]


def test_tokens_without_a_gradient_are_left_out():
    hidden, weight, _, targets = example(9)
    weights = torch.tensor([0.0, 1.0, 0.0, 0.0, -2.0, 0.0, 0.5, 3.0, 0.0], dtype=torch.float64)
    logprobs, _ = linear_logprob(hidden, weight, targets, chunk_bytes=CHUNK_OF_THREE)
    got = torch.autograd.grad((weights * logprobs).sum(), (hidden, weight), retain_graph=True)
    expected = torch.autograd.grad((weights * naive(hidden, weight, targets)[0]).sum(), (hidden, weight))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    assert not any(grad.any() for grad in torch.autograd.grad((0 * logprobs).sum(), (hidden, weight)))


def test_a_broken_gradient_is_passed_on():
    hidden, weight, _, targets = example(3)
    logprobs, _ = linear_logprob(hidden, weight, targets)
    (logprobs * torch.tensor([0.0, float("nan"), 0.0])).sum().backward()
    assert hidden.grad.isnan().any(1).tolist() == [False, True, False]


def test_without_gradients():
    hidden, weight, _, targets = example()
    with torch.no_grad():
        logprobs, entropies = linear_logprob(hidden, weight, targets)
    assert not logprobs.requires_grad and not entropies.requires_grad


def test_backward_may_be_repeated():
    hidden, weight, _, targets = example()
    loss = sum(output.sum() for output in linear_logprob(hidden, weight, targets, chunk_bytes=CHUNK_OF_THREE))
    first = torch.autograd.grad(loss, weight, retain_graph=True)
    assert torch.equal(*first, *torch.autograd.grad(loss, weight))


def test_half_precision():
    hidden, weight, _, targets = example(200, torch.bfloat16)
    logprobs, entropies = linear_logprob(hidden, weight, targets, chunk_bytes=CHUNK_OF_THREE)
    logprobs.mean().backward()
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    expected = naive(*exact, targets)
    expected[0].mean().backward()
    assert logprobs.dtype == entropies.dtype == torch.float32
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16
    torch.testing.assert_close(logprobs.double(), expected[0], rtol=0, atol=0.05)
    torch.testing.assert_close(entropies.double(), expected[1], rtol=0, atol=0.05)
    torch.testing.assert_close(weight.grad.double(), exact[1].grad, rtol=0.02, atol=2e-4)


def test_half_precision_weight_gradient_is_summed_in_float32():
    # 3,000 equal tokens, one per chunk: each adds -1/2 to the second row. bfloat16 sums would stall near 128.
    hidden = torch.ones(3000, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    logprobs, _ = linear_logprob(hidden, weight, torch.zeros(3000, dtype=torch.long), chunk_bytes=1)
    logprobs.sum().backward()
    assert weight.grad.flatten().tolist() == pytest.approx([1500, -1500], rel=0.01)


def test_autocast_multiplies_in_its_dtype_and_keeps_float32_gradients():
    hidden, weight, _, targets = example(50, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logprobs, _ = linear_logprob(hidden, weight, targets, chunk_bytes=CHUNK_OF_THREE)
    rounded, _ = linear_logprob(hidden.bfloat16(), weight.bfloat16(), targets)
    torch.testing.assert_close(logprobs, rounded)
    logprobs.mean().backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.float32
    exact = [tensor.detach().clone().requires_grad_() for tensor in (hidden, weight)]
    naive(*exact, targets)[0].mean().backward()
    torch.testing.assert_close(weight.grad, exact[1].grad, rtol=0.05, atol=2e-3)


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": -1.0}, {"softcap": 0.0}], ids=str)
def test_bad_settings(settings):
    hidden, weight, _, targets = example()
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is"):
        linear_logprob(hidden, weight, targets, **settings)
