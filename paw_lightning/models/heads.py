"""What reads the shared model's hidden states: a policy head, a world-model head, and PPO's value head."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from paw_lightning.models.linear_logprob import CHUNK_BYTES, linear_logprob


@dataclass(frozen=True)
class LogitForm:
    """What a model makes of its LM head's output z: logits = cap(scale z), cap(x) = softcap tanh(x / softcap).

    Cohere multiplies, Granite divides, Gemma caps; the config says by how much.
    """

    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, config: Any) -> LogitForm:
        """Read the form off a model's config."""
        text = config.get_text_config()
        scale = getattr(text, "logit_scale", None) or 1 / (getattr(text, "logits_scaling", None) or 1.0)
        return cls(scale, getattr(text, "final_logit_softcapping", None))

    def read(
        self, states: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Log-probs [N] and entropies [N] of softmax(logits / temperature) from states [N, H].

        cap(scale z) / T = cap'(z) / T' with both softcap and T divided by scale: the scale costs no arithmetic.
        """
        softcap = None if self.softcap is None else self.softcap / self.scale
        temperature = temperature / self.scale
        return linear_logprob(states, weight, targets, bias=bias, temperature=temperature, softcap=softcap)


class PolicyHead(nn.Module):
    """Reads the hidden states that predict action tokens: log-probs and entropies of the sampling distribution."""

    def __init__(self, form: LogitForm) -> None:
        super().__init__()
        self.form = form

    def forward(
        self, hidden: Tensor, lm_head: nn.Linear, input_ids: Tensor, mask: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """hidden [B, T, H], input_ids and mask [B, T] -> log-probs [N] and entropies [N] in nats, N = mask.sum()."""
        states, targets = predicting_states(hidden, input_ids, mask)
        return self.form.read(states, lm_head.weight, targets, getattr(lm_head, "bias", None), temperature)


class WorldModelHead(nn.Module):
    """Reads the hidden states that predict observation tokens, through the shared LM head or one of its own."""

    def __init__(self, form: LogitForm, own_projection: Tensor | None = None) -> None:
        super().__init__()
        self.form = form
        self.projection = None if own_projection is None else nn.Parameter(own_projection.detach().clone())

    def forward(self, hidden: Tensor, lm_head: nn.Linear, input_ids: Tensor, mask: Tensor) -> Tensor:
        """hidden [B, T, H], input_ids and mask [B, T] -> log p of each target [M], M = mask.sum()."""
        states, targets = predicting_states(hidden, input_ids, mask)
        weight = lm_head.weight if self.projection is None else self.projection
        logprobs, _ = self.form.read(states, weight, targets, getattr(lm_head, "bias", None))
        return logprobs

    @torch.no_grad()
    def hits(self, hidden: Tensor, lm_head: nn.Linear, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Arguments as in ``forward`` -> bool [M]: the target is the most likely token."""
        states, targets = predicting_states(hidden, input_ids, mask)
        weight = lm_head.weight if self.projection is None else self.projection
        rows = max(1, CHUNK_BYTES // (4 * len(weight)))
        chunks = [nn.functional.linear(h, weight, getattr(lm_head, "bias", None)).argmax(1) for h in states.split(rows)]
        return torch.cat(chunks) == targets


class ValueHead(nn.Module):
    """Reads the hidden states that predict action tokens: the value of the state before each token.

    It starts at 0, so that the first values are 0 and the first gradient does not reach the backbone.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.projection = nn.Linear(hidden_size, 1)  # float32 whatever the backbone: returns need the digits
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, hidden: Tensor, input_ids: Tensor, mask: Tensor, view: Mapping[str, Any]) -> Tensor:
        """hidden [B, T, H], input_ids and mask [B, T] -> values float32 [N], N = mask.sum().

        `hidden` was read under `view`, which a critic with a backbone needs for its own.
        """
        states, _ = predicting_states(hidden, input_ids, mask)
        # A product and a sum: autocast would make a matrix product bfloat16.
        return (states.float() * self.projection.weight[0]).sum(-1) + self.projection.bias


class SeparateCritic(nn.Module):
    """A value head on a backbone of its own, a copy of the policy's as it starts."""

    def __init__(self, language_model: PreTrainedModel) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(language_model.get_decoder())
        self.value_head = ValueHead(language_model.config.get_text_config().hidden_size)

    def forward(self, hidden: Tensor, input_ids: Tensor, mask: Tensor, view: Mapping[str, Any]) -> Tensor:
        """Arguments and result as in `ValueHead.forward`; the policy's hidden states are not read."""
        own = self.backbone(input_ids=input_ids, use_cache=False, **view).last_hidden_state
        return self.value_head(own, input_ids, mask, view)


def build_critic(language_model: PreTrainedModel, kind: Literal["none", "shared", "separate"]) -> nn.Module | None:
    """The critic of a policy that has not been trained yet; None for none."""
    if kind == "separate":
        return SeparateCritic(language_model)
    return ValueHead(language_model.config.get_text_config().hidden_size) if kind == "shared" else None


def predicting_states(hidden: Tensor, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the hidden states one position before each masked token, and those tokens."""
    return hidden[:, :-1][mask[:, 1:]], input_ids[:, 1:][mask[:, 1:]]
