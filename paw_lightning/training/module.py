"""PaWModule: one forward through the shared language model, two heads, two losses (three with PPO's critic)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from transformers import PreTrainedModel

from paw_lightning import ranks
from paw_lightning.errors import SettingsError, one_of
from paw_lightning.models import loading
from paw_lightning.models import lora as adapters
from paw_lightning.models.heads import build_critic
from paw_lightning.models.identity import check_identity, model_identity
from paw_lightning.models.lora import LoRA
from paw_lightning.models.policy_world_model import HeadOutputs, PolicyWorldModel, check_heads, frozen_copy, read
from paw_lightning.policy.losses import PolicyLoss, ValueLoss
from paw_lightning.rollouts.runner import stop_at_turn_end
from paw_lightning.text.chat import ChatFormat
from paw_lightning.training import strategies
from paw_lightning.training.means import RunningMeans
from paw_lightning.training.muon import mark_outside_blocks
from paw_lightning.training.optimizers import OptimizerSetup
from paw_lightning.training.saved_settings import RunSettings
from paw_lightning.training.step_curves import StepLosses, log_rates, log_step
from paw_lightning.types import Episode, MicroBatch, Terms
from paw_lightning.world_model.loss import WorldModelLoss


class PaWModule(L.LightningModule):
    """Trains one language model as policy and as world model.

    L = mean over groups of [L_RL(g) + lambda_g L_WM(S_alpha within P_g)] (eqs. 3 and 11). All normalisation sits in the
    mini-batch's weights, so the loss of a step is a plain sum over tokens, however the step is cut into micro-batches.

    Args:
        path: Hugging Face model directory or hub name, or the name of a policy shipped with the package.
        weights: `random` builds the architecture without loading weights.
        chat_template: a file in Jinja in place of the model's own, or `tools`, the package's, which knows tools.
        policy_loss: the surrogate and its regularisers.
        world_model_loss: the loss of an observation token; `entropy_selection.alpha: 0` switches the term off.
        world_model_head: `separate` gives the world model a projection of its own (an ablation; the paper shares).
        lora: train adapters instead of the model's own weights; `rank: 0` trains the whole model.
        critic: of PPO (`rollout.advantage: GAE`): `shared` is a value head on the policy's backbone, `separate` a copy
            of the backbone with a value head; neither is part of the exported policy.
        value_loss: the critic's.
        critic_learning_rate: of the critic's own parameters; null is the optimizer's.
        optimizer: any torch optimizer; the default is AdamW with a rate for language models of 0.5B and more.
        lr_scheduler: of the optimizer's rate, stepped once per iteration; null keeps the rate.
        dtype: of the weights; mixed precision is `trainer.precision`. Below float32 an optimizer step smaller than
            the distance to the next number is lost: meant for the frozen weights beside `lora`, which is float32.
        attention: the implementation, as Transformers names it; null is the model's own choice, mostly `sdpa`.
            `flash_attention_2` wants its package, a GPU, half precision, and rows without branches (`target_control`).
        activation_checkpointing: recompute activations in the backward pass.
    """

    def __init__(
        self,
        path: str,
        weights: Literal["pretrained", "random"] = "pretrained",
        chat_template: str | None = None,
        policy_loss: PolicyLoss = PolicyLoss(),  # noqa: B008 - frozen
        world_model_loss: WorldModelLoss = WorldModelLoss(),  # noqa: B008 - frozen
        world_model_head: Literal["shared", "separate"] = "shared",
        lora: LoRA = LoRA(),  # noqa: B008 - frozen
        critic: Literal["none", "shared", "separate"] = "none",
        value_loss: ValueLoss = ValueLoss(),  # noqa: B008 - frozen
        critic_learning_rate: float | None = None,
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=1e-6),
        lr_scheduler: LRSchedulerCallable | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        attention: Literal["sdpa", "eager", "flash_attention_2"] | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if critic_learning_rate is not None and (critic == "none" or not critic_learning_rate > 0):
            raise SettingsError(
                f"model.critic_learning_rate is {critic_learning_rate} and model.critic is {critic!r}; wanted a rate "
                "above 0 and a critic, or null"
            )
        one_of("model.world_model_head", world_model_head, ("shared", "separate"))
        one_of("model.critic", critic, ("none", "shared", "separate"))
        self.path, self.weights, self.dtype_name = path, weights, dtype
        self.policy_loss, self.world_model_loss = policy_loss, world_model_loss
        self.separate_head, self.lora = world_model_head == "separate", lora
        self.critic, self.value_loss, self.critic_learning_rate = critic, value_loss, critic_learning_rate
        self.optimization = OptimizerSetup(optimizer, lr_scheduler)
        self.attention, self.activation_checkpointing = attention, activation_checkpointing
        self.chat = ChatFormat(loading.load_tokenizer(path, chat_template))
        self.tokenizer = self.chat.tokenizer
        self.model: PolicyWorldModel | None = None
        # In a tuple the reference is no part of the module: it is neither trained, nor sharded, nor saved.
        self._reference: tuple[PolicyWorldModel, ...] = ()
        self.replica: strategies.Replica | None = None
        """What plays and scores: the trained model itself, or a whole copy of it where it is sharded."""
        self.strict_loading = not lora.rank  # a checkpoint of adapters holds nothing else
        self.configuration: dict[str, Any] | None = None
        """All settings of the run by key, for its checkpoints; only the command line knows them, and writes them."""
        self._saved: tuple[RunSettings, dict[str, Any]] | None = None
        """Settings and optimizers' states of the checkpoint that is resumed, until they are looked at."""
        self.means = RunningMeans()
        self._step_terms: Terms = "joint"
        self._step_has_tokens = False

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
        loading.check_vocabulary(language_model, self.chat.encoder, self.path)
        self.model = PolicyWorldModel(language_model, self.separate_head)
        check_heads(self.model)
        if self.policy_loss.kl_coefficient and not self.lora.rank:
            self._reference = (frozen_copy(self.model),)
        self.model.critic = build_critic(language_model, self.critic)  # after the copy, which needs none
        self.identity = model_identity(
            language_model,
            self.chat,
            self.separate_head,
            critic=self.critic,
            with_weights=bool(self.policy_loss.kl_coefficient or self.lora.rank),
        )
        self.identity["tokens that end an action"] = stop_at_turn_end(self.chat, language_model)
        self._adapt_and_shard()

    def _adapt_and_shard(self) -> None:
        """The last steps of building the model: adapters, the whole model that plays, and shards."""
        assert self.model is not None
        if self.lora.rank:
            adapters.add_adapters(self.model.language_model, self.lora)
            self.identity["lora"] = repr(self.lora)
        key, name = "model.dtype", str(self.dtype_name)
        if self._trainer is not None and strategies.cast(self.trainer.precision_plugin, self.model, *self._reference):
            key, name = "trainer.precision", self.trainer.precision
        if any(p.requires_grad and p.element_size() < 4 for p in self.model.parameters()):
            rank_zero_warn(
                f"{key} is {name}: optimizer steps below its precision are lost; wanted trained weights in float32, "
                "with trainer.precision: bf16-mixed, or model.lora beside a model.dtype of bfloat16"
            )
        strategy = None if self._trainer is None else self.trainer.strategy
        sharded = strategy is not None and strategies.is_sharded(strategy)
        self.replica = strategies.Replica(self.model, sharded)
        if self.device_mesh is not None:
            strategies.shard(self.model, self.device_mesh["data_parallel"])

    @property
    def language_model(self) -> PreTrainedModel:
        """The trained Hugging Face model."""
        assert self.model is not None, "configure_model comes first"
        return self.model.language_model

    # The policy that plays (rollouts.runner.Policy)

    @property
    def played_model(self) -> PolicyWorldModel:
        """The whole model on this device, between `gather` and `free`."""
        assert self.replica is not None, "configure_model comes first"
        return self.replica.model

    @property
    def is_sharded(self) -> bool:
        """No rank holds the whole model but the copy that plays."""
        return self.replica is not None and self.replica.sharded

    def gather(self) -> None:
        """Take over the weights as they are now; every rank has to call it, outside of any forward pass."""
        assert self.replica is not None, "configure_model comes first"
        self.replica.refresh(self.trainer.strategy)

    def free(self) -> None:
        """Give back the memory of a sharded model's whole copy."""
        assert self.replica is not None, "configure_model comes first"
        self.replica.release()

    def arithmetic(self) -> AbstractContextManager[None]:
        """The precision of the training forward."""
        return self.trainer.precision_plugin.forward_context()

    def read_as_played(self, batch: MicroBatch) -> HeadOutputs:
        """One forward pass of the weights that have played."""
        with self.arithmetic():
            return read(self.played_model, batch.to(self.device))

    @contextmanager
    def reference_model(self) -> Iterator[PolicyWorldModel | None]:
        """The frozen reference policy on this module's device; None when no KL is asked for."""
        if not self.policy_loss.kl_coefficient:
            yield None
        elif self.lora.rank:
            with adapters.adapters_off(self.played_model):
                yield self.played_model
        else:
            yield self._reference[0].to(self.device)

    # Training

    def configure_optimizers(self) -> Any:
        """One optimizer over everything trainable; a critic's own parameters are its second group."""
        assert self.model is not None
        own = [] if self.model.critic is None else [p for p in self.model.critic.parameters() if p.requires_grad]
        others = {id(p) for p in own}
        parameters: list[Any] = [p for p in self.parameters() if p.requires_grad and id(p) not in others]
        if own:
            rate = {} if self.critic_learning_rate is None else {"lr": self.critic_learning_rate}
            parameters = [{"params": parameters}, {"params": own, **rate}]
        mark_outside_blocks(self.model)  # MuonWithAdamW asks
        built = self.optimization.build(parameters, strategies.flattens(self._trainer))
        self._compare()
        return built

    def losses(self, batch: MicroBatch) -> StepLosses:
        """All losses of one micro-batch, from one forward pass."""
        out = self(batch)
        # Until the first step the policy IS the one that sampled, so the ratio is 1 by definition; taking the recorded
        # log-probs instead would put their rounding into the gradient. Those of a sampler that computes otherwise are
        # another policy's: the ratio is then taken against them in every step.
        old_logprobs = out.action_logprobs.detach() if batch.unit_ratio else batch.old_logprobs
        tokens = out.action_logprobs, out.action_entropies, old_logprobs, batch.advantages
        policy_tokens = self.policy_loss(*tokens, batch.reference_logprobs, batch.action_index)
        policy = (batch.policy_weights * policy_tokens).sum()
        world_model = (batch.target_weights * self.world_model_loss(out.target_logprobs)).sum()
        return StepLosses(policy, world_model, self._value_loss(batch, out.values), out, old_logprobs)

    def forward(self, batch: MicroBatch) -> HeadOutputs:
        """One forward pass of a micro-batch."""
        assert self.model is not None
        return read(self.model, batch)

    def _value_loss(self, batch: MicroBatch, values: Tensor | None) -> Tensor:
        """The critic's loss, normalised as the policy's."""
        if values is None:
            return torch.zeros((), device=self.device)
        assert batch.old_values is not None and batch.value_targets is not None, "scoring and the advantage write them"
        return (batch.policy_weights * self.value_loss(values, batch.old_values, batch.value_targets)).sum()

    def training_step(self, batch: MicroBatch, batch_idx: int) -> dict[str, Tensor]:
        """Policy loss plus world-model loss (eq. 3), plus PPO's value loss; and what was read of the targets [M]."""
        losses = self.losses(batch)
        log_step(self.means, batch, losses, self.policy_loss, self.world_model_loss, self._parts)
        self._step_terms = batch.terms
        self._step_has_tokens |= bool(len(losses.out.action_logprobs) or len(losses.out.target_logprobs))
        total = losses.policy + losses.world_model + self.value_loss.coefficient * losses.value
        # Lightning divides by the number of micro-batches and of ranks; the weights have already done so.
        return {"loss": total * self._parts, "target_logprobs": losses.out.target_logprobs.detach()}

    @property
    def _parts(self) -> int:
        """Into how many micro-batches, on all ranks together, an optimizer step is cut."""
        return self.trainer.accumulate_grad_batches * ranks.world()[1]

    def on_train_start(self) -> None:
        """Lightning has restored the optimizer: what is configured otherwise now wins."""
        self.optimization.carry_over(self.trainer)

    def on_train_epoch_end(self) -> None:
        """Log the means of the iteration."""
        for name, mean in self.means.take().items():
            self.log(name, mean, sync_dist=True)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the gradient's norm before clipping; where no rank had a token to learn from, leave all weights alone."""
        norm = strategies.gradient_norm(self.trainer.strategy, self.parameters())
        scales_itself = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if not torch.isfinite(norm) and not scales_itself:  # a loss scaler finds its scale by such overflows
            raise FloatingPointError(
                f"the gradient norm is {norm.item()}; wanted a finite number: lower the learning rate "
                "(model.optimizer) or set trainer.gradient_clip_val"
            )
        self.means.add("train/grad_norm", norm, 1)
        log_rates(self.means, optimizer)
        # Momentum and weight decay move a parameter whose gradient is 0, and pass over one that has none.
        if not norm and not any(ranks.gathered(self._step_has_tokens)):
            optimizer.zero_grad(set_to_none=True)
        self._step_has_tokens = False
        for p in self._idle_parameters():
            p.grad = None

    def _idle_parameters(self) -> Iterator[nn.Parameter]:
        """Where losses take turns: the other loss's own parameters, which this step leaves as they are."""
        assert self.model is not None
        idle = {"world_model": self.model.critic, "policy": self.model.world_model_head}.get(self._step_terms)
        return iter(()) if idle is None else idle.parameters()

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
        """Nothing to compute: the episodes are played already, and EnvironmentLoop logs how they went."""

    def test_step(self, batch: list[Episode], batch_idx: int) -> None:
        """Nothing to compute, as in validation."""

    # Checkpoints

    @property
    def _run_settings(self) -> RunSettings:
        losses = {"policy_loss": self.policy_loss, "world_model_loss": self.world_model_loss}
        own = {f"model.{name}.{key}": repr(value) for name, loss in losses.items() for key, value in vars(loss).items()}
        data = getattr(getattr(self.trainer, "datamodule", None), "settings", {})
        return RunSettings(own | data | self.optimization.settings, self.configuration)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what model, tokenizer and settings the weights belong to; leave out what never changes."""
        checkpoint["identity"] = self.identity
        checkpoint["settings"] = vars(self._run_settings)
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
        if trains and "settings" in checkpoint:
            self._saved = RunSettings(**checkpoint["settings"]), checkpoint
            self._compare()

    def _compare(self) -> None:
        """Look at what a resumed run has otherwise, once checkpoint and optimizer are both there."""
        if self._saved is not None and self.optimization.settings:
            (saved, checkpoint), self._saved = self._saved, None
            self.optimization.resume(saved.known, checkpoint)
            self._run_settings.say_changes(saved)
