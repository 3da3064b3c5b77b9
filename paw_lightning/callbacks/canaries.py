"""Canaries: checks around the first optimizer step that stop a run which would train, but not what it should."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from paw_lightning.callbacks import canary_checks as checks
from paw_lightning.callbacks.base import RolloutCallback
from paw_lightning.callbacks.environment_loop import EnvironmentLoop
from paw_lightning.module import PaWModule
from paw_lightning.rollouts.sampler import Sampler
from paw_lightning.types import Minibatch, Rollout, Transition


class Canaries(RolloutCallback):
    """Checks that what is trained is what played (config key ``canaries``).

    After the first rollout: sampler and trainer give the same log-probs; the appended observation does not change
    them; tokens decode to the texts they stand for. In the first mini-batch: the masks cover whole actions and whole
    targets. At the first step that has a gradient: weights move, and LoRA adapters have an effect. After the next
    rollout: the sampler has followed the weights. Nothing of the run is changed, random numbers included.

    Args:
        enabled: false checks nothing.
        logprob_tolerance: largest mean difference of two log-probs that should be equal, nats; null goes by the
            arithmetic: 1e-3 in float32, 0.05 in bfloat16, 0.01 in float16 (choice).

    Raises:
        CanaryError: a check failed.
    """

    def __init__(self, enabled: bool = True, logprob_tolerance: float | None = None) -> None:
        if logprob_tolerance is not None and not logprob_tolerance > 0:
            raise ValueError(f"canaries.logprob_tolerance is {logprob_tolerance}; wanted above 0, or null")
        self.enabled, self.logprob_tolerance = enabled, logprob_tolerance
        self.probe: checks.Probe | None = None
        """Taken after the first rollout, dropped when the sampler has followed."""
        self.known: dict[str, set[tuple[int, ...]]] | None = None
        """Token ids of every action and of all that could be a target, until the first mini-batch is checked."""
        self.watched: list[tuple[nn.Parameter, Tensor, Tensor]] | None = None
        """(Parameter, places, values there before the step), of the step that is being made."""
        self.has_signal = self.stepped = self.finished = False

    def on_rollout_end(self, trainer: L.Trainer, pl_module: L.LightningModule, rollout: Rollout) -> None:
        """Check the first rollout, and that one after the first step was played by what the step has made."""
        checked = checks.choose(rollout.transitions)
        if not self.enabled or self.finished or not checked:
            return
        assert isinstance(pl_module, PaWModule)
        sampler = _environment_loop(trainer).collectors["train"].sampler
        with passive(trainer, pl_module):
            tolerance = self.logprob_tolerance or checks.TOLERANCE[checks.arithmetic(pl_module)]
            if self.probe is None:
                self._check_first(trainer, pl_module, sampler, rollout, checked, tolerance)
            elif self.stepped:
                checks.check_sampler_follows(pl_module, sampler, self.probe, tolerance)
                checks.check_sampler_agrees(pl_module, checked, tolerance)
                self.probe, self.finished = None, True

    def _check_first(
        self,
        trainer: L.Trainer,
        module: PaWModule,
        sampler: Sampler,
        rollout: Rollout,
        checked: list[Transition],
        tolerance: float,
    ) -> None:
        checks.check_texts(module.tokenizer, checked)
        gap = checks.check_sampler_agrees(module, checked, tolerance)
        change = checks.check_appended_observation(module, checked, tolerance)
        self.probe = checks.Probe.take(module, sampler, [t.prompt_ids for t in checked])
        self.known = {
            "action": {tuple(t.action_ids) for t in rollout.transitions},
            "target": {tuple(ids) for t in rollout.transitions for ids in (t.observation_ids, t.control_ids or [])},
        }
        _say(
            trainer,
            f"canaries: log-probs of sampler and trainer differ by {gap:.1e} nats, with and without the appended "
            f"observation by {change:.1e}",
        )

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Minibatch, batch_idx: int
    ) -> None:
        """Check the first mini-batch's masks; note whether it has anything to teach the policy."""
        if not self.enabled or self.stepped:
            return
        assert isinstance(pl_module, PaWModule)
        self.has_signal |= batch.on_policy and bool((batch.advantages * batch.policy_weights).any())
        if self.known is not None:
            action, target = checks.check_masks(pl_module.tokenizer, batch, self.known)
            self.known = None
            _say(trainer, f"canaries: the policy trains on {action}, the world model on {target}")

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Keep the weights with the largest gradients, of the first step that has any."""
        if not self.enabled or self.stepped:
            return
        has_signal, self.has_signal = self.has_signal, False
        trained = [p for p in pl_module.parameters() if p.grad is not None and bool(p.grad.any())]
        if not trained and has_signal:
            checks.fail(
                "the gradient is exactly 0 although there are advantages to learn from; wanted trainable weights that "
                "the forward pass uses (frozen parameters, or adapters that are switched off?)"
            )
        finite = all(bool(p.grad.isfinite().all()) for p in trained if p.grad is not None)  # else a scaler skips it
        if finite and any(group["lr"] > 0 for group in optimizer.param_groups):
            self.watched = [checks.watch(p) for p in trained] or None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Check that the step moved the weights, and that adapters matter."""
        if self.watched is None:
            return
        assert isinstance(pl_module, PaWModule)
        checks.check_weights_moved(self.watched, trainer.optimizers[0])
        self.watched, self.stepped = None, True
        if self.probe is not None:
            with passive(trainer, pl_module):
                checks.check_adapters(pl_module, self.probe)


@contextmanager
def passive(trainer: L.Trainer, module: PaWModule) -> Iterator[None]:
    """The training forward's arithmetic inside, without gradients and without a trace in the random state."""
    devices = [module.device] if module.device.type == "cuda" else []
    with torch.no_grad(), trainer.precision_plugin.forward_context(), torch.random.fork_rng(devices=devices):
        yield


def _environment_loop(trainer: L.Trainer) -> EnvironmentLoop:
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next(callback for callback in callbacks if isinstance(callback, EnvironmentLoop))


def _say(trainer: L.Trainer, line: str) -> None:
    bar = trainer.progress_bar_callback
    (rank_zero_info if bar is None else bar.print)(line)
