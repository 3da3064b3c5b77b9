"""WorldModelHealth: is a world model learnt, does it get in the policy's way, and where does its gradient go?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from paw_lightning import ranks
from paw_lightning.callbacks.base import RolloutCallback
from paw_lightning.callbacks.diagnostics import (
    Gradients,
    add_gradients,
    compare_gradients,
    leaks,
    nuisance_mask,
    nuisance_shares,
)
from paw_lightning.errors import SettingsError
from paw_lightning.rollouts.prediction import Prediction, predict_observations
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.prompts import PromptBuilder
from paw_lightning.training.loggers import write_histogram
from paw_lightning.training.module import PaWModule
from paw_lightning.types import Episode, MicroBatch, Rollout, Transition


class WorldModelHealth(RolloutCallback):
    """Logs the world model's health; it trains nothing and leaves gradients, weights and random numbers as they are.

    =========================== ====================================================================================
    tag                         what it tells
    =========================== ====================================================================================
    val/observation_nll         nats per token of validation observations; when it rises while wm/observation_nll
                                falls, observations are learnt by heart
    val/observation_top1        share of their tokens that are the most likely one
    val/observation_active      share of their tokens that the loss would still train; for losses that let go of some
    wm/gradient_cosine          between policy and world-model gradient; below 0 they pull apart (no point where one
                                of them is 0)
    wm/gradient_norm_ratio      |world-model gradient| / |policy gradient|
    wm/role_leak_rate           share of actions that run on, see :func:`~paw_lightning.callbacks.diagnostics.leaks`
    wm_nuisance/tokens          share of the targets that the environment labels as unpredictable (`nuisance_spans`)
    wm_nuisance/clipped_mae ... share of the gradient they take under each kind of loss (the paper's Fig. 2c)
    wm/coefficient_by_group     histogram of lambda_g
    =========================== ====================================================================================

    What is validated is every true observation, selected or not, also in runs that predict nothing in training.
    Nuisance is measured on the selected transitions' true observations, whatever the control.
    Of several ranks each predicts its share; where a strategy shards the model, its gradients are not compared.

    Args:
        every: iterations from one look at gradients and nuisance to the next, the first at iteration 0; 0 never looks.
            A look costs a second pass over the iteration's first optimizer step with memory for two gradients, and,
            where nuisance is labelled, a forward pass over the selected transitions.
        validation: predict the observations of validation episodes, at one forward pass over them.
    """

    def __init__(self, every: int = 10, validation: bool = True) -> None:
        if every < 0:
            raise SettingsError(f"world_model_health.every is {every}; wanted at least 0 iterations (0: never)")
        self.every, self.validation = every, validation
        self.looking = False
        self.gradients: tuple[Gradients | None, Gradients | None] = (None, None)
        self.predictions: list[tuple[Tensor, Tensor]] = []
        """(Log-probs, hits) of this rank's share of the validation."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say what will be missing."""
        assert isinstance(pl_module, PaWModule)
        if self.every and pl_module.is_sharded:
            rank_zero_warn(
                "wm/gradient_cosine and wm/gradient_norm_ratio need a model that is not sharded: they are left out "
                "(world_model_health.every)"
            )

    def on_rollout_end(self, trainer: L.Trainer, pl_module: L.LightningModule, rollout: Rollout) -> None:
        """Look at what was played: every field is written, other observers may still add metrics."""
        assert isinstance(pl_module, PaWModule)
        chat = pl_module.chat
        rollout.metrics["wm/role_leak_rate"] = _leak_rate(rollout.transitions, self.runner.prompts)
        selected = [t for t in rollout.teaching_transitions if t.selected]
        self.looking = bool(selected) and self.every > 0 and rollout.iteration % self.every == 0
        if not selected:
            return
        coefficients = torch.tensor([group.coefficient for group in rollout.teaching])
        write_histogram(trainer, "wm/coefficient_by_group", coefficients, rollout.iteration + 1)
        if self.looking and any(t.nuisance_spans for t in selected):
            logprobs, masks = _pooled(self._nuisance(pl_module, rollout, chat))
            for name, share in nuisance_shares(logprobs, masks, pl_module.world_model_loss).items():
                rollout.metrics[f"wm_nuisance/{name}"] = share

    def _nuisance(self, module: PaWModule, rollout: Rollout, chat: ChatFormat) -> list[tuple[Tensor, Tensor]]:
        """(Log-probs, nuisance mask) of this rank's share of the selected transitions."""
        groups = rollout.teaching[ranks.rank_slice(len(rollout.teaching))]
        transitions = [t for group in groups for t in group.transitions]
        pairs = []
        for p in self._predict(module, transitions, lambda t: t.selected):
            offsets = chat.text_offsets(p.transition.observation_text, p.transition.observation_ids)
            mask = nuisance_mask(offsets, p.transition.nuisance_spans)
            allowed = torch.tensor(p.transition.target_mask or [True] * len(mask), dtype=torch.bool)
            pairs.append((p.logprobs[allowed], mask[allowed]))
        return pairs

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Add up both gradients over the iteration's first optimizer step, then compare them."""
        last = trainer.accumulate_grad_batches - 1
        assert isinstance(pl_module, PaWModule) and isinstance(batch, MicroBatch)
        if not self.looking or batch_idx > last or pl_module.is_sharded:
            return
        with pl_module.arithmetic():
            losses = pl_module.losses(batch)
        parameters = [p for p in pl_module.parameters() if p.requires_grad]
        policy = torch.autograd.grad(losses.policy, parameters, retain_graph=True, allow_unused=True)
        world_model = torch.autograd.grad(losses.world_model, parameters, allow_unused=True)
        sums = add_gradients(self.gradients[0], list(policy)), add_gradients(self.gradients[1], list(world_model))
        self.gradients = sums if batch_idx < last else (None, None)
        if batch_idx == last:
            whole = [_over_ranks(trainer, parameters, gradients) for gradients in sums]
            for name, value in compare_gradients(*whole).items():
                pl_module.log(f"wm/gradient_{name}", value, on_step=False, on_epoch=True, batch_size=1)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: list[Episode], *_: Any
    ) -> None:
        """Predict what was observed in unseen tasks."""
        if not self.validation or trainer.sanity_checking:
            return  # Lightning keeps nothing that is logged before training
        assert isinstance(pl_module, PaWModule)
        transitions = [t for episode in batch[ranks.rank_slice(len(batch))] for t in episode.transitions]
        self.predictions += [(p.logprobs, p.hits) for p in self._predict(pl_module, transitions)]

    def _predict(
        self, module: PaWModule, transitions: list[Transition], wanted: Callable[[Transition], bool] = lambda t: True
    ) -> list[Prediction]:
        with module.arithmetic():
            return predict_observations(module.played_model, transitions, self.runner.settings.scoring_tokens, wanted)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the means over all tokens of the validation."""
        assert isinstance(pl_module, PaWModule)
        logprobs, hits = _pooled(self.predictions)
        self.predictions = []
        if not len(logprobs):
            return
        curves = {"nll": -logprobs, "top1": hits.float()}
        if pl_module.world_model_loss.lets_go:
            curves["active"] = pl_module.world_model_loss.active(logprobs).float()
        for name, values in curves.items():
            pl_module.log(f"val/observation_{name}", values.mean(), sync_dist=True)


def _leak_rate(transitions: list[Transition], prompts: PromptBuilder) -> float:
    """Of the text before the end-of-turn token; an action that was cut off leaks without a look at its text."""
    chat, form = prompts.chat, prompts.form
    template = {*chat.before_ids, *chat.after_ids, *chat.bridge_ids, *chat.tokenizer.all_special_ids}
    control_ids = template & chat.encoder.control_ids - {*chat.encode_answer(form.write(prompts.sample_command))}
    written = [chat.read_answer(t.action_ids[:-1]).text for t in transitions]
    pairs = zip(transitions, written, strict=True)
    return sum(leaks(t, text, control_ids, form) for t, text in pairs) / len(transitions)


def _pooled(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """What all ranks have, in two vectors; every rank has to call it."""
    everything = ranks.pooled(pairs) or [(torch.empty(0), torch.empty(0, dtype=torch.bool))]
    first, second = zip(*everything, strict=True)
    return torch.cat(first), torch.cat(second)


def _over_ranks(trainer: L.Trainer, parameters: list[nn.Parameter], gradients: Gradients) -> Gradients:
    """The sum over ranks, each of which has seen a part of the step; what one has not reached counts as 0."""
    if ranks.world()[1] == 1:
        return gradients
    return [
        trainer.strategy.reduce(torch.zeros_like(p) if g is None else g, reduce_op="sum")
        for p, g in zip(parameters, gradients, strict=True)
    ]
