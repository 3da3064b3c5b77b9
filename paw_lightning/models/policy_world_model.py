"""One language model as policy and as world model: one forward pass, two heads, and a critic for PPO."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from paw_lightning.errors import SettingsError
from paw_lightning.models.attention import branch_arguments
from paw_lightning.models.heads import LogitForm, PolicyHead, WorldModelHead
from paw_lightning.models.playable import readable
from paw_lightning.types import MicroBatch


@dataclass
class HeadOutputs:
    """What the heads read from one forward pass; flat vectors in the row-major order of their mask, in nats."""

    action_logprobs: Tensor
    action_entropies: Tensor
    target_logprobs: Tensor
    values: Tensor | None
    """In units of return, one per action token; None without a critic."""


class PolicyWorldModel(nn.Module):
    """One language model, one forward pass, two heads, and a critic where PPO asks for one.

    Everything happens inside one ``forward``, so that sharding strategies see a single root module.
    """

    def __init__(self, language_model: PreTrainedModel, separate_world_model_head: bool = False) -> None:
        super().__init__()
        self.language_model = language_model
        form = LogitForm.of(language_model.config)
        self.policy_head = PolicyHead(form)
        own = language_model.get_output_embeddings().weight if separate_world_model_head else None
        self.world_model_head = WorldModelHead(form, own)
        self.critic: nn.Module | None = None

    def forward(
        self,
        input_ids: Tensor,
        action_mask: Tensor,
        target_mask: Tensor,
        temperature: float,
        position_ids: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> HeadOutputs:
        """input_ids, masks and position_ids [B, T], right-padded, visible bool [B, 1, T, T] (rows with branches).

        Action log-probs are those of logits / temperature.
        """
        backbone = self.language_model.get_decoder()
        view: dict[str, Any] = {}
        if position_ids is not None and visible is not None:
            view = branch_arguments(self.language_model, position_ids, visible)
        hidden = backbone(input_ids=input_ids, use_cache=False, **view).last_hidden_state
        lm_head = self.language_model.get_output_embeddings()
        logprobs, entropies = self.policy_head(hidden, lm_head, input_ids, action_mask, temperature)
        observed = self.world_model_head(hidden, lm_head, input_ids, target_mask)
        values = None if self.critic is None else self.critic(hidden, input_ids, action_mask, view)
        return HeadOutputs(logprobs, entropies, observed, values)


def read(model: PolicyWorldModel, batch: MicroBatch) -> HeadOutputs:
    """One forward pass of a micro-batch."""
    masks = batch.action_mask, batch.target_mask
    return model(batch.input_ids, *masks, batch.temperature, batch.position_ids, batch.visible)


@torch.no_grad()
def check_heads(model: PolicyWorldModel) -> None:
    """Refuse a model that makes its logits from the last hidden state in another way than `LogitForm` knows.

    The heads read the hidden states themselves; such a model would be trained on another distribution than it samples
    from. Raises SettingsError naming ``model.path``.
    """
    device = next(model.parameters()).device
    input_ids = torch.arange(8, device=device)[None]
    mask = torch.ones_like(input_ids, dtype=torch.bool)
    try:
        with readable(model.language_model):
            read = model(input_ids, mask, torch.zeros_like(mask), 1.0).action_logprobs
            logits = model.language_model(input_ids=input_ids, use_cache=False).logits
    except Exception as error:
        said = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise SettingsError(
            f"model.path is {model.language_model.name_or_path!r}, whose hidden states cannot be read ({said}); wanted "
            "a causal language model whose get_decoder() gives the states that its LM head reads"
        ) from error
    logprobs = torch.log_softmax(logits[0, :-1].float(), -1)
    gap = (read - logprobs.gather(1, input_ids[0, 1:, None]).squeeze(1)).abs().max().item()
    if gap > (1e-3 if read.dtype == next(model.parameters()).dtype else 0.1):
        raise SettingsError(
            f"model.path is {model.language_model.name_or_path!r}, whose own log-probs differ by {gap:.2g} nats from "
            "those read off its hidden states; wanted logits that are its LM head's output, scaled or capped as its "
            "config says"
        )


def frozen_copy(model: PolicyWorldModel) -> PolicyWorldModel:
    """Return a copy that is never trained: the reference policy of the KL term."""
    return copy.deepcopy(model).requires_grad_(False).eval()
