"""RewardBalance: PaW's third part, how much the world model counts in each group."""

from __future__ import annotations

from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from paw_lightning import ranks
from paw_lightning.callbacks.base import RolloutCallback, environment_loop
from paw_lightning.callbacks.entropy_selection import EntropySelection
from paw_lightning.policy.advantages.no_reward import NoReward
from paw_lightning.training.datamodule import RolloutDataModule
from paw_lightning.training.module import PaWModule
from paw_lightning.types import Rollout, RolloutGroup
from paw_lightning.world_model.coefficient import (
    checked_max_return,
    linear_coefficient,
    matching_scale,
    reward_adaptive_coefficient,
)
from paw_lightning.world_model.loss import READERS, Kind, WorldModelLoss


class RewardBalance(RolloutCallback):
    """Gives every group its lambda_g.

    Logs ``wm/coefficient`` (mean lambda over the groups), ``wm/coefficient_max``, and ``wm/matching_scale``.

    Args:
        coefficient: `reward_adaptive` is `value` times eq. 10, 1 - mean return / R_max (under the advantage NoReward
            returns count as 0); `constant` is `value` everywhere; `linear` goes from `value` to `final_value` in
            `anneal_iterations` iterations and stays there.
        value: at least 0; the paper's is 1.
        final_value: at least 0; for `linear` alone.
        anneal_iterations: at least 1; required by `linear`, and for it alone.
        max_return: R_max; null takes what the environment states as ``info["max_reward"]``.
        match_weight_of: scale every lambda by one factor per update, so that the mean of lambda w(p) over the update's
            targets is what this kind of loss would have at the policy that sampled: then two kinds differ in shape
            alone. It costs one forward pass without gradient over the update, none for a kind that is its own match.
            choice: a factor of the whole update, from the policy before its first step, depends neither on how the
            update is cut nor on earlier iterations, so that a resumed run needs no memory of it. null: no scaling.
    """

    def __init__(
        self,
        coefficient: Literal["reward_adaptive", "constant", "linear"] = "reward_adaptive",
        value: float = 1.0,
        final_value: float = 0.0,
        anneal_iterations: int | None = None,
        max_return: float | None = None,
        match_weight_of: Kind | None = None,
    ) -> None:
        for name, number in (("value", value), ("final_value", final_value)):
            if not number >= 0:
                raise ValueError(f"reward_balance.{name} is {number}; wanted at least 0")
        if coefficient == "linear" and (anneal_iterations is None or anneal_iterations < 1):
            raise ValueError(
                f"reward_balance.anneal_iterations is {anneal_iterations}; wanted at least 1 iteration for `linear`"
            )
        for name, given, unset in (("final_value", final_value, 0.0), ("anneal_iterations", anneal_iterations, None)):
            if coefficient != "linear" and given != unset:
                raise ValueError(
                    f"reward_balance.{name} is {given} and reward_balance.coefficient is {coefficient!r}, which does "
                    f"not read it; wanted {'null' if unset is None else unset}, or coefficient linear"
                )
        if max_return is not None and not max_return > 0:
            raise ValueError(f"reward_balance.max_return is {max_return}; wanted above 0, or null")
        self.coefficient, self.value, self.final_value = coefficient, value, final_value
        self.anneal_iterations, self.max_return = anneal_iterations, max_return
        self.match_weight_of = match_weight_of
        self.rewarded = True

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Say which setting of the loss neither its kind reads nor the one whose weight it is given.

        Not refused: an ablation changes the kind of a run and keeps the rest.
        """
        assert isinstance(pl_module, PaWModule)
        loss = pl_module.world_model_loss
        for name, kind in READERS.items():
            value = getattr(loss, name)
            if value != getattr(WorldModelLoss, name) and kind not in (loss.kind, self.match_weight_of):
                rank_zero_warn(
                    f"model.world_model_loss.{name} is {value} and model.world_model_loss.kind is {loss.kind!r}, which "
                    f"does not read it: it changes nothing in training (only kind {kind} reads it)"
                )

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse an environment without R_max before anything is played, as far as its first task tells.

        Without a reward, returns count as 0: eq. 10 gives 1, whatever the environment says.
        """
        loop = environment_loop(trainer)
        self.rewarded = not isinstance(loop.advantage, NoReward)
        if self._reads_max_return and _anything_selected(trainer):
            ranks.together(lambda: _check_max_return(loop.first_info()))

    @property
    def _reads_max_return(self) -> bool:
        """Whether R_max has to come from the environment."""
        return self.coefficient == "reward_adaptive" and self.rewarded and self.max_return is None

    def on_rollout_end(self, trainer: L.Trainer, pl_module: L.LightningModule, rollout: Rollout) -> None:
        """Write wm_coefficient of every group (EntropySelection and TargetControl have run)."""
        if not any(t.wm_selected for t in rollout.transitions):
            return  # nothing is predicted: plain policy optimisation needs no R_max
        for group in rollout.groups:
            group.wm_coefficient = self._coefficient(group, rollout.iteration)
        if self.match_weight_of is not None:
            scale = self._scale(trainer, pl_module, rollout, self.match_weight_of)
            rollout.metrics["wm/matching_scale"] = scale
            for group in rollout.groups:
                group.wm_coefficient *= scale
        coefficients = [group.wm_coefficient for group in rollout.groups]
        rollout.metrics["wm/coefficient"] = sum(coefficients) / len(coefficients)
        rollout.metrics["wm/coefficient_max"] = max(coefficients)

    def _coefficient(self, group: RolloutGroup, iteration: int) -> float:
        if self.coefficient == "reward_adaptive" and not self.rewarded:
            return self.value
        if self.coefficient == "reward_adaptive":
            max_return = group.max_return if self.max_return is None else self.max_return
            source = f"the environment of task {group.group_key}"
            return self.value * reward_adaptive_coefficient(group.returns, max_return, source)
        if self.coefficient == "linear":
            assert self.anneal_iterations is not None
            return linear_coefficient(iteration, self.value, self.final_value, self.anneal_iterations)
        return self.value

    @torch.no_grad()
    def _scale(self, trainer: L.Trainer, pl_module: L.LightningModule, rollout: Rollout, kind: Kind) -> float:
        """One pass over the update's own micro-batches: the very tokens, contexts and lambdas that will train.

        Every rank reads its own, with the whole model that played; what they read is pooled.
        """
        assert isinstance(pl_module, PaWModule)
        if kind == pl_module.world_model_loss.kind:
            return 1.0
        data: RolloutDataModule = trainer.datamodule  # type: ignore[attr-defined]
        model, parts = pl_module.replica.model, [(torch.empty(0), torch.empty(0))]
        for batch in data.micro_batches(rollout):
            if not batch.observation_mask.any():
                continue
            batch = data.transfer_batch_to_device(batch, pl_module.device, 0)
            with trainer.precision_plugin.forward_context():
                out = pl_module.read(model, batch)
            parts.append((out.observation_logprobs.cpu(), batch.wm_coefficients.cpu()))
        logprobs, coefficients = (torch.cat(column) for column in zip(*ranks.pooled(parts), strict=True))
        return matching_scale(pl_module.world_model_loss, kind, logprobs, coefficients)


def _check_max_return(info: dict[str, Any] | None) -> None:
    if info is not None:
        checked_max_return(info.get("max_reward"), "the environment (rollout.environment)")


def _anything_selected(trainer: L.Trainer) -> bool:
    """Whether EntropySelection will select anything; plain policy optimisation needs no R_max."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return any(isinstance(callback, EntropySelection) and callback.alpha > 0 for callback in callbacks)
