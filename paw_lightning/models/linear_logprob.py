"""Log-probs and entropies of chosen tokens from hidden states, without a tokens x vocabulary tensor."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 2**27  # smaller chunks pass over the weight gradient more often than they save memory


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Tensor, Tensor]:
    """Log-probs of `targets` and entropies of p = softmax(cap(hidden @ weight.T + bias) / temperature).

    cap(z) = softcap * tanh(z / softcap), or z without a softcap. Both results carry gradients to hidden, weight
    and bias: d log p_y / dz = onehot(y) - p and dH / dz = -p (log p + H). The logits are made chunk by chunk,
    once forward and, for tokens with a gradient, once again backward: memory does not grow with N x V.

    Args:
        hidden: float [N, H]; N may be 0.
        weight: float [V, H]; multiplied in autocast's dtype, else in that of `hidden`. Its gradient is summed in
            float32 and returned in its own dtype.
        targets: long [N], token ids.
        bias: float [V].
        temperature: that of the sampler, > 0.
        softcap: > 0.
        chunk_bytes: size of one chunk's float32 logits; about twice as much is in use at a time.

    Returns:
        Log-probs [N] and entropies [N] in nats, float32 (float64 for float64 input).

    Raises:
        ValueError: `temperature` or `softcap` is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; wanted a number above 0")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap is {softcap}; wanted a number above 0, or None for no cap")
    chunk_rows = max(1, chunk_bytes // (4 * len(weight)))
    return _LinearLogprob.apply(hidden, weight, bias, targets, temperature, softcap, chunk_rows)


class _LinearLogprob(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, temperature, softcap, chunk_rows):
        ctx.set_materialize_grads(False)
        ctx.temperature, ctx.softcap, ctx.chunk_rows = temperature, softcap, chunk_rows
        ctx.matmul_dtype = _matmul_dtype(hidden)
        projection = weight.to(ctx.matmul_dtype)  # not saved: a sharded weight may be freed until backward
        chunks = [
            _statistics(_logits(ctx, h, projection, bias), t)
            for h, t in zip(hidden.split(chunk_rows), targets.split(chunk_rows), strict=True)
        ]
        logprobs, entropies, normalizers = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        ctx.save_for_backward(hidden, weight, bias, targets, normalizers, entropies)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_logprobs, grad_entropies):
        hidden, weight, bias, targets, normalizers, entropies = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        if grad_logprobs is None:
            grad_logprobs = torch.zeros_like(normalizers)
        trained = grad_logprobs != 0  # the clipped loss leaves most tokens without a gradient: skip them
        if grad_entropies is not None:
            trained |= grad_entropies != 0
        projection = weight.to(ctx.matmul_dtype)
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=normalizers.dtype) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=normalizers.dtype) if needs_bias else None
        for rows in trained.nonzero().squeeze(1).split(ctx.chunk_rows):
            h = hidden[rows].to(ctx.matmul_dtype)
            dz = _logit_gradient(
                ctx,
                _logits(ctx, h, projection, bias),
                targets[rows],
                normalizers[rows],
                entropies[rows],
                grad_logprobs[rows],
                None if grad_entropies is None else grad_entropies[rows],
            )
            if needs_bias:
                grad_bias += dz.sum(0)
            dz = dz.to(ctx.matmul_dtype)
            if needs_hidden:
                grad_hidden[rows] = (dz @ projection).to(hidden.dtype)
            if needs_weight:
                _add_product(grad_weight, dz.T, h)
            del dz  # before the next chunk's
        grad_weight = grad_weight.to(weight.dtype) if needs_weight else None
        grad_bias = grad_bias.to(bias.dtype) if needs_bias else None
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def _logits(ctx, hidden: Tensor, projection: Tensor, bias: Tensor | None) -> Tensor:
    """Capped logits over temperature, at least float32 [n, V]; fresh, so the caller may overwrite them."""
    z = hidden.to(projection.dtype) @ projection.T
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    if bias is not None:
        z += bias
    if ctx.softcap is not None:
        z.div_(ctx.softcap).tanh_().mul_(ctx.softcap)
    return z.div_(ctx.temperature) if ctx.temperature != 1 else z


def _statistics(z: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(Log-probs, entropies, logsumexp) of logits [n, V], which are overwritten."""
    peak = z.amax(1)
    p = z.sub_(peak[:, None]).exp()
    total = p.sum(1)
    log_total = total.log()
    logprobs = z.gather(1, targets[:, None]).squeeze(1) - log_total  # never above 0, and no large terms cancel
    entropies = log_total - p.mul_(z).sum(1) / total
    return logprobs, entropies, peak + log_total


def _logit_gradient(
    ctx,
    z: Tensor,
    targets: Tensor,
    normalizers: Tensor,
    entropies: Tensor,
    grad_logprobs: Tensor,
    grad_entropies: Tensor | None,
) -> Tensor:
    """g (onehot - p) - g_H p (log p + H), through temperature and softcap, of logits [n, V]: overwritten."""
    slope = None if ctx.softcap is None else 1 - (z * (ctx.temperature / ctx.softcap)).square_()
    logp = z.sub_(normalizers[:, None])
    if grad_entropies is None:
        dz = logp.exp_().mul_(-grad_logprobs[:, None])
    else:
        p = logp.exp()
        dz = logp.add_(entropies[:, None]).mul_(-grad_entropies[:, None]).sub_(grad_logprobs[:, None]).mul_(p)
    dz.scatter_add_(1, targets[:, None], grad_logprobs[:, None])
    if slope is not None:
        dz *= slope
    return dz.div_(ctx.temperature) if ctx.temperature != 1 else dz


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, summed in the precision of `total` whatever the factors'."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)  # without a temporary of the weight's size
    else:
        total += left @ right


def _matmul_dtype(hidden: Tensor) -> torch.dtype:
    """What a linear layer would compute in: autocast's dtype where that is on, else the input's."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
