"""Actions while they are being written: a batch of rows, of which everything lies on the device."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from paw_lightning.samplers.base import Generation


class Writing:
    """What a batch of prompts has been answered so far, and the token that each row reads next.

    `record` changes tensors in place and never asks the device for a number, so that a CUDA graph can replay it; the
    host looks where it wants to, with `left`.

    Args:
        prompts: token ids; their contexts end at column `width` of the cache, padded on the left.
        width: columns of the cache that are taken.
        temperature: of the softmax; 0 is greedy.
        uniforms: float [B, steps], the numbers that are drawn with.
        stop_token_ids: they end a row.
        pad_token_id: stands where nothing is written yet.
        dtype: of log-probs and entropies.
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        width: int,
        temperature: float,
        uniforms: Tensor,
        stop_token_ids: Collection[int],
        pad_token_id: int,
        dtype: torch.dtype,
    ) -> None:
        (count, steps), device = uniforms.shape, uniforms.device
        self.temperature, self.uniforms, self.stop_token_ids = temperature, uniforms, frozenset(stop_token_ids)
        # Where each row's next token goes, and what it sees
        self.positions = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
        self.starts = width - self.positions
        """[rows]: the column of each row's first token."""
        self.columns = torch.arange(width + steps, device=device)
        self.padded = any(len(prompt) - 1 != width for prompt in prompts)
        # What has been written
        self.stop_tokens = torch.tensor(sorted(self.stop_token_ids), dtype=torch.long, device=device)
        self.current = torch.tensor([prompt[-1] for prompt in prompts], device=device)
        self.tokens = torch.full((count, steps), pad_token_id, device=device)
        self.logprobs, self.entropies = torch.zeros(2, count, steps, device=device, dtype=dtype)
        # Who is still writing
        self.rows = torch.arange(count, device=device)
        self.finished = torch.zeros(count, dtype=torch.bool, device=device)
        self.step = torch.zeros(1, dtype=torch.long, device=device)

    def record(self, logits: Tensor) -> None:
        """Draw each row's next token from logits [rows, V]."""
        noise = self.uniforms.index_select(1, self.step)[:, 0]
        token, logprob, entropy = draw(logits, self.temperature, noise)
        place = self.rows, self.step
        self.tokens.index_put_(place, token)
        self.logprobs.index_put_(place, logprob)
        self.entropies.index_put_(place, entropy)
        self.finished |= (token[:, None] == self.stop_tokens).any(-1)
        self.current.copy_(token)
        self.positions += 1
        self.step += 1

    def left(self) -> int:
        """Rows that have not ended; the host waits for the device."""
        return len(self.rows) - int(self.finished.sum())

    def drop_finished(self) -> Tensor:
        """Go on without the rows that have ended; returns which ones stay, long."""
        keep = (~self.finished).nonzero().flatten()
        self.rows, self.current, self.uniforms = self.rows[keep], self.current[keep], self.uniforms[keep]
        self.positions, self.starts, self.finished = self.positions[keep], self.starts[keep], self.finished[keep]
        return keep

    def generations(self) -> list[Generation]:
        """What every row has written.

        Raises:
            FloatingPointError: logits were not finite.
        """
        if not self.logprobs.isfinite().all():
            raise FloatingPointError("the model's logits are not finite: its weights have diverged")
        table = zip(self.tokens.tolist(), self.logprobs.tolist(), self.entropies.tolist(), strict=True)
        return [self._cut(*row) for row in table]

    def _cut(self, tokens: list[int], logprobs: list[float], entropies: list[float]) -> Generation:
        """Drop what a row drew after its stop token, while it waited for the others."""
        end = next((place for place, token in enumerate(tokens, 1) if token in self.stop_token_ids), None)
        return Generation(tokens[:end], logprobs[:end], entropies[:end], stopped=end is not None)


def draw(logits: Tensor, temperature: float, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inverse-CDF draw: the first token whose cumulative probability exceeds its uniform number.

    logits [B, V], uniforms [B] -> token ids [B], their log-probs [B] and the entropies [B], in nats, in float32
    (float64 for float64 logits).
    """
    logprobs = torch.log_softmax(logits.to(at_least_float32(logits.dtype)) / (temperature or 1.0), dim=-1)
    probabilities = logprobs.exp()
    if temperature == 0:
        tokens = logprobs.argmax(-1, keepdim=True)
    else:
        cumulative = probabilities.double().cumsum(-1)  # in float32 the rarest tokens would add nothing
        target = uniforms[:, None] * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, target, right=True).clamp_max(logits.shape[-1] - 1)  # for NaN only
    return tokens[:, 0], logprobs.gather(-1, tokens)[:, 0], torch.special.entr(probabilities).sum(-1)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype that log-probs of such logits are computed and recorded in."""
    return torch.promote_types(dtype, torch.float32)
