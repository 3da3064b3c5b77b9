"""What an optimizer step has to log."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from paw_lightning.models.policy_world_model import HeadOutputs
from paw_lightning.policy.losses import PolicyLoss, kl_estimate
from paw_lightning.training.means import RunningMeans
from paw_lightning.types import MicroBatch
from paw_lightning.world_model.loss import WorldModelLoss


@dataclass
class StepLosses:
    """The losses of a micro-batch (scalars) and what they were made from."""

    policy: Tensor
    world_model: Tensor
    value: Tensor
    """Before its coefficient; 0 without a critic."""
    out: HeadOutputs
    old_logprobs: Tensor
    """float [N]: the log-probs the ratio was taken against."""


def log_step(
    means: RunningMeans,
    batch: MicroBatch,
    losses: StepLosses,
    policy_loss: PolicyLoss,
    world_model_loss: WorldModelLoss,
    parts: int,
) -> None:
    """Add a micro-batch to the iteration's means; `parts` micro-batches, on all ranks together, make a step.

    What is 0 because the part that it measures is off has no curve: the policy loss where only the world model trains,
    the world model's where nothing is predicted, distances from the policy that played where no step moves it away.
    """
    # The losses of the step
    out = losses.out
    if batch.terms != "world_model":
        penalised = policy_loss.kl_coefficient or policy_loss.entropy_coefficient
        if penalised or not batch.idle:
            means.add("train/policy_loss", losses.policy.detach() * parts, 1)
        else:
            means.add_zeros("train/policy_loss", 1)
        if out.values is not None:
            means.add("train/value_loss", losses.value.detach() * parts, 1)
        _log_actions(means, batch, losses, policy_loss)
    # The world model and its targets
    observed = out.target_logprobs.detach()
    targets = len(observed)
    if batch.terms != "policy" and targets:
        means.add("train/wm_loss", losses.world_model.detach() * parts, 1)
    elif batch.terms != "policy":
        means.add_zeros("train/wm_loss", 1)
    if targets:
        weights = world_model_loss.token_weights(observed)
        means.add("wm/effective_weight", (batch.target_coefficients * weights).mean(), targets)
        means.add("wm/observation_nll", -observed.mean(), targets)
        if world_model_loss.lets_go:
            means.add("wm/active_token_fraction", world_model_loss.active(observed).float().mean(), targets)


def _log_actions(means: RunningMeans, batch: MicroBatch, losses: StepLosses, policy_loss: PolicyLoss) -> None:
    """How far the policy has moved from the one that played, and from the reference."""
    out, old_logprobs = losses.out, losses.old_logprobs
    logprobs = out.action_logprobs.detach()
    actions = len(logprobs)
    if not actions:
        return  # a mean over nothing would make the whole iteration's nan
    if batch.unit_ratio:
        means.add_zeros("train/approx_kl", actions)
    else:
        means.add("train/approx_kl", kl_estimate(old_logprobs, logprobs).mean(), actions)
    if batch.unit_ratio or batch.idle:
        means.add_zeros("train/clip_fraction", actions)
    else:
        clipped = policy_loss.clipped(logprobs, old_logprobs, batch.advantages, batch.action_index)
        means.add("train/clip_fraction", clipped.float().mean(), actions)
    means.add("train/entropy", out.action_entropies.detach().mean(), actions)
    if batch.reference_logprobs is not None:
        means.add("train/reference_kl", kl_estimate(logprobs, batch.reference_logprobs).mean(), actions)
    means.add("train/action_nll", -logprobs.mean(), actions)
    if batch.on_policy:
        means.add("rollout/logprob_gap", (logprobs - batch.old_logprobs).abs().mean(), actions)


def log_rates(means: RunningMeans, optimizer: torch.optim.Optimizer) -> None:
    """Add the learning rates that an optimizer step is made with; a critic's own parameters are the second group."""
    for name, group in zip(("learning_rate", "critic_learning_rate"), optimizer.param_groups, strict=False):
        means.add(f"train/{name}", torch.as_tensor(group["lr"]), 1)
