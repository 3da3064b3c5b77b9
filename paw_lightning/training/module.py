"""PaWModule: one forward through the shared language model, two heads, two losses (three with PPO's critic)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from transformers import PreTrainedModel

from paw_lightning import ranks
from paw_lightning.models import loading
from paw_lightning.models import lora as adapters
from paw_lightning.models.heads import build_critic
from paw_lightning.models.identity import check_identity, model_identity
from paw_lightning.models.lora import LoRA
from paw_lightning.models.policy_world_model import HeadOutputs, PolicyWorldModel, check_heads, frozen_copy
from paw_lightning.policy.losses import PolicyLoss, ValueLoss, kl_estimate
from paw_lightning.training import strategies
from paw_lightning.types import Episode, Minibatch, Terms
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


class PaWModule(L.LightningModule):
    """Trains one language model as policy and as world model.

    L = mean over groups of [L_RL(g) + lambda_g L_WM(S_alpha within P_g)] (eqs. 3 and 11). All normalisation sits in the
    mini-batch's weights, so the loss of a step is a plain sum over tokens, however the step is cut into micro-batches.

    Args:
        path: Hugging Face model directory or hub name, or the name of a policy shipped with the package.
        weights: `random` builds the architecture without loading weights.
        policy_loss: the clipped surrogate and its regularisers.
        world_model_loss: the loss of an observation token; `entropy_selection.alpha: 0` switches the term off.
        world_model_head: `separate` gives the world model a projection of its own (an ablation; the paper shares).
        lora: train adapters instead of the model's own weights; `rank: 0` trains the whole model.
        critic: of PPO (`rollout.advantage: GAE`): `shared` is a value head on the policy's backbone, `separate` a copy
            of the backbone with a value head; neither is part of the exported policy.
        value_loss: the critic's loss.
        critic_learning_rate: of the critic's own parameters; null is the optimizer's.
        optimizer: any torch optimizer; `lr_scheduler` is stepped once per iteration.
        dtype: of the weights; mixed precision is `trainer.precision`. Below float32 an optimizer step smaller than
            the distance to the next number is lost: meant for the frozen weights beside `lora`, which is float32.
        attention: the implementation in Transformers' words; null is the model's own choice, mostly `sdpa`.
            `flash_attention_2` wants its package, a GPU and half precision, and reads no row with branches
            (`target_control`).
        activation_checkpointing: recompute activations in the backward pass.
    """

    def __init__(
        self,
        path: str,
        weights: Literal["pretrained", "random"] = "pretrained",
        policy_loss: PolicyLoss = PolicyLoss(),  # noqa: B008 - frozen
        world_model_loss: WorldModelLoss = WorldModelLoss(),  # noqa: B008 - frozen
        world_model_head: Literal["shared", "separate"] = "shared",
        lora: LoRA = LoRA(),  # noqa: B008 - frozen
        critic: Literal["none", "shared", "separate"] = "none",
        value_loss: ValueLoss = ValueLoss(),  # noqa: B008 - frozen
        critic_learning_rate: float | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        attention: Literal["sdpa", "eager", "flash_attention_2"] | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if critic_learning_rate is not None and (critic == "none" or not critic_learning_rate > 0):
            raise ValueError(
                f"model.critic_learning_rate is {critic_learning_rate} and model.critic is {critic!r}; wanted a rate "
                "above 0 and a critic, or null"
            )
        self.path, self.weights, self.dtype_name = path, weights, dtype
        self.policy_loss, self.world_model_loss = policy_loss, world_model_loss
        self.separate_head = world_model_head == "separate"
        self.lora = lora
        self.critic, self.value_loss, self.critic_learning_rate = critic, value_loss, critic_learning_rate
        self.optimizer_factory, self.scheduler_factory = optimizer, lr_scheduler
        self.attention, self.activation_checkpointing = attention, activation_checkpointing
        self.temperature = 1.0
        """That of the sampler; EnvironmentLoop writes it, so that both see one distribution."""
        self.tokenizer = loading.load_tokenizer(path)
        self.model: PolicyWorldModel | None = None
        # Kept out of the module tree: the reference is neither trained, nor sharded, nor saved; nor is the replica.
        self.__dict__["reference"] = None
        self.__dict__["replica"] = None
        self.strict_loading = not lora.rank  # a checkpoint of adapters holds nothing else
        self.sums: dict[str, tuple[Any, float]] = {}
        self.taught = False
        """Whether the optimizer step under way had a token to learn from, on this rank."""
        self.terms: Terms = "joint"
        """The losses of the optimizer step under way."""

    def configure_model(self) -> None:
        """Load the language model once; Lightning calls this for every entry point."""
        if self.model is not None:
            return
        language_model = loading.load_language_model(
            self.path,
            weights=self.weights,
            dtype=self.dtype_name,
            activation_checkpointing=self.activation_checkpointing,
            attention=self.attention,
        )
        self.model = PolicyWorldModel(language_model, self.separate_head)
        check_heads(self.model)
        if self.policy_loss.kl_coefficient and not self.lora.rank:
            self.__dict__["reference"] = frozen_copy(self.model)
        self.model.critic = build_critic(language_model, self.critic)  # after the copy, which needs none
        self.identity = model_identity(
            language_model,
            self.tokenizer,
            self.separate_head,
            critic=self.critic,
            with_weights=bool(self.policy_loss.kl_coefficient or self.lora.rank),
        )
        self._adapt_and_shard()

    def _adapt_and_shard(self) -> None:
        """The last steps of building the model: adapters, the whole model that plays, and shards."""
        assert self.model is not None
        if self.lora.rank:
            adapters.add_adapters(self.model.language_model, self.lora)
            self.identity["lora"] = repr(self.lora)
        elif self.dtype_name != "float32":
            rank_zero_warn(
                f"model.dtype is {self.dtype_name}: optimizer steps below its precision are lost; wanted float32 and "
                "trainer.precision: bf16-mixed, unless model.lora keeps these weights frozen"
            )
        strategy = None if self._trainer is None else self.trainer.strategy
        sharded = strategy is not None and strategies.is_sharded(strategy)
        self.__dict__["replica"] = strategies.Replica(self.model, sharded)
        if self.device_mesh is not None:
            strategies.shard(self.model, self.device_mesh["data_parallel"])

    @property
    def language_model(self) -> PreTrainedModel:
        """The trained Hugging Face model."""
        assert self.model is not None, "configure_model comes first"
        return self.model.language_model

    @property
    def replica(self) -> strategies.Replica:
        """What plays and scores: the trained model itself, or a whole copy of it where it is sharded."""
        return self.__dict__["replica"]

    @contextmanager
    def reference_model(self) -> Iterator[PolicyWorldModel | None]:
        """The frozen reference policy on this module's device; None when no KL is asked for."""
        if not self.policy_loss.kl_coefficient:
            yield None
        elif self.lora.rank:
            with adapters.adapters_off(self.replica.model):
                yield self.replica.model
        else:
            yield self.__dict__["reference"].to(self.device)

    def configure_optimizers(self) -> Any:
        """One optimizer over everything trainable; a critic's own parameters are its second group."""
        assert self.model is not None
        own = [] if self.model.critic is None else [p for p in self.model.critic.parameters() if p.requires_grad]
        others = {id(p) for p in own}
        parameters: list[Any] = [p for p in self.parameters() if p.requires_grad and id(p) not in others]
        if own:
            rate = {} if self.critic_learning_rate is None else {"lr": self.critic_learning_rate}
            parameters = [{"params": parameters}, {"params": own, **rate}]
        optimizer = self.optimizer_factory(parameters)
        if self.scheduler_factory is None:
            return optimizer
        schedule = {"scheduler": self.scheduler_factory(optimizer), "interval": "epoch"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def losses(self, batch: Minibatch) -> StepLosses:
        """All losses of one micro-batch, from one forward pass."""
        assert self.model is not None
        out = self.read(self.model, batch)
        # Until the first step the policy IS the one that sampled, so the ratio is 1 by definition; taking the
        # sampler's log-probs instead would put its rounding into the gradient.
        old_logprobs = out.action_logprobs.detach() if batch.on_policy else batch.old_logprobs
        policy_tokens = self.policy_loss(
            out.action_logprobs, out.action_entropies, old_logprobs, batch.advantages, batch.reference_logprobs
        )
        policy = (batch.policy_weights * policy_tokens).sum()
        world_model = (batch.wm_weights * self.world_model_loss(out.observation_logprobs)).sum()
        return StepLosses(policy, world_model, self._value_loss(batch, out.values), out, old_logprobs)

    def read(self, model: PolicyWorldModel, batch: Minibatch) -> HeadOutputs:
        """One forward pass of a micro-batch through this module's model, or through another like it."""
        masks = batch.action_mask, batch.observation_mask
        return model(batch.input_ids, *masks, self.temperature, batch.position_ids, batch.visible)

    def _value_loss(self, batch: Minibatch, values: Tensor | None) -> Tensor:
        """The critic's loss, normalised as the policy's."""
        if values is None:
            return torch.zeros((), device=self.device)
        assert batch.old_values is not None and batch.value_targets is not None, "EnvironmentLoop writes the targets"
        return (batch.policy_weights * self.value_loss(values, batch.old_values, batch.value_targets)).sum()

    def training_step(self, batch: Minibatch, batch_idx: int) -> Tensor:
        """Policy loss plus world-model loss (eq. 3), plus PPO's value loss."""
        losses = self.losses(batch)
        self._log_step(batch, losses)
        self.terms = batch.terms
        self.taught |= bool(len(losses.out.action_logprobs) or len(losses.out.observation_logprobs))
        total = losses.policy + losses.world_model + self.value_loss.coefficient * losses.value
        # Lightning divides by the number of micro-batches and of ranks; the weights have already done so.
        return total * self._parts

    @property
    def _parts(self) -> int:
        """Into how many micro-batches, on all ranks together, an optimizer step is cut."""
        return self.trainer.accumulate_grad_batches * ranks.world()[1]

    def _log_step(self, batch: Minibatch, losses: StepLosses) -> None:
        out = losses.out
        if batch.terms != "world_model":
            self._log_mean("train/policy_loss", losses.policy.detach() * self._parts, 1)
            if out.values is not None:
                self._log_mean("train/value_loss", losses.value.detach() * self._parts, 1)
            self._log_actions(batch, out, losses.old_logprobs)
        if batch.terms != "policy":
            self._log_mean("train/wm_loss", losses.world_model.detach() * self._parts, 1)
        observed = out.observation_logprobs.detach()
        targets = len(observed)
        if targets:
            weights = self.world_model_loss.token_weights(observed)
            self._log_mean("wm/effective_weight", (batch.wm_coefficients * weights).mean(), targets)
            self._log_mean("wm/observation_nll", -observed.mean(), targets)
            active = (weights > 0).float().mean()
            self._log_mean("wm/active_token_fraction", active, targets)

    def _log_actions(self, batch: Minibatch, out: HeadOutputs, old_logprobs: Tensor) -> None:
        logprobs = out.action_logprobs.detach()
        actions = len(logprobs)
        if not actions:
            return  # a mean over nothing would make the whole iteration's nan
        clipped = self.policy_loss.clipped(logprobs, old_logprobs, batch.advantages)
        self._log_mean("train/clip_fraction", clipped.float().mean(), actions)
        self._log_mean("train/approx_kl", kl_estimate(old_logprobs, logprobs).mean(), actions)
        self._log_mean("train/entropy", out.action_entropies.detach().mean(), actions)
        if batch.reference_logprobs is not None:
            self._log_mean("train/reference_kl", kl_estimate(logprobs, batch.reference_logprobs).mean(), actions)
        if batch.on_policy:
            self._log_mean("rollout/logprob_gap", (logprobs - batch.old_logprobs).abs().mean(), actions)

    def _log_mean(self, name: str, value: Tensor, count: int) -> None:
        """Log the mean over an iteration and all ranks, every micro-batch weighted by its count.

        Summed here and not by Lightning, which waits for a rank that had nothing to log under a name.
        """
        if count:
            total, number = self.sums.get(name, (0.0, 0.0))
            self.sums[name] = (total + value.detach().float() * count, number + count)

    def on_train_epoch_end(self) -> None:
        """Log the means of the iteration."""
        sums = {name: (float(total), count) for name, (total, count) in self.sums.items()}
        self.sums = {}
        for name, mean in ranks.pooled_means(sums).items():
            self.log(name, mean, sync_dist=True)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the gradient's norm before clipping, and make a step for which no rank had a row a step of nothing."""
        norm = strategies.gradient_norm(self.trainer.strategy, self.parameters())
        scales_itself = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if not torch.isfinite(norm) and not scales_itself:  # a loss scaler finds its scale by such overflows
            raise FloatingPointError(
                f"the gradient norm is {norm.item()}; wanted a finite number: lower the learning rate "
                "(model.optimizer) or set trainer.gradient_clip_val"
            )
        self._log_mean("train/grad_norm", norm, 1)
        if not norm and not any(ranks.gathered(self.taught)):
            # Momentum and weight decay move a parameter whose gradient is 0, and pass over one that has none.
            optimizer.zero_grad(set_to_none=True)
        self.taught = False
        self._leave_out_what_is_not_taught()

    def _leave_out_what_is_not_taught(self) -> None:
        """Where losses take turns, a step of one leaves the other's own parameters as they are, momentum included."""
        assert self.model is not None
        parts = {"world_model": self.model.critic, "policy": self.model.world_model_head}
        idle = parts.get(self.terms)
        for p in [] if idle is None else idle.parameters():
            p.grad = None

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip a critic's gradient apart from the policy's: a wrong value must not shrink the policy's step."""
        if self.critic == "none" or not gradient_clip_val or gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        for group in optimizer.param_groups:
            strategies.clip_gradients(self.trainer.strategy, group["params"], gradient_clip_val)

    def validation_step(self, batch: list[Episode], batch_idx: int) -> None:
        """Log the outcome of finished validation episodes."""
        self._log_episodes("val", batch)

    def test_step(self, batch: list[Episode], batch_idx: int) -> None:
        """Log the outcome of finished test episodes."""
        self._log_episodes("test", batch)

    def _log_episodes(self, prefix: str, episodes: list[Episode]) -> None:
        if not episodes:
            return  # every task of the batch was lost to its environment; EnvironmentLoop counts them
        columns: dict[str, Callable[[Episode], float]] = {
            "success_rate": lambda e: float(e.won),
            "return": lambda e: e.episode_return,
            "episode_length": lambda e: float(len(e.transitions)),
        }
        for name, read in columns.items():
            mean = sum(map(read, episodes)) / len(episodes)
            self.log(f"{prefix}/{name}", mean, on_epoch=True, batch_size=len(episodes), sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what model and tokenizer the weights belong to; leave out what never changes."""
        checkpoint["identity"] = self.identity
        if self.lora.rank and not isinstance(self.trainer.strategy, strategies.FSDP1):
            trained = {name for name, p in self.named_parameters() if p.requires_grad}
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {name: value for name, value in state.items() if name in trained}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights of another model or tokenizer, naming the difference."""
        self.configure_model()
        # An evaluation reads the reference only where adapters stand on it.
        trains = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        check_identity(checkpoint.get("identity", {}), self.identity, same_reference=trains or bool(self.lora.rank))
