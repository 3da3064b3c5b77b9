"""Losses per token: pure functions of log-probs, and the kernel that makes log-probs from hidden states."""

from paw_lightning.losses.linear_logprob import linear_logprob
from paw_lightning.losses.policy import PolicyLoss, ValueLoss, clipped_surrogate, kl_estimate, value_loss
from paw_lightning.losses.world_model import WorldModelLoss, matching_scale

__all__ = [
    "PolicyLoss",
    "ValueLoss",
    "WorldModelLoss",
    "clipped_surrogate",
    "kl_estimate",
    "linear_logprob",
    "matching_scale",
    "value_loss",
]
