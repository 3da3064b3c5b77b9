"""Canaries: checks around the first optimizer step that stop a run which would train, but not what it should."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from paw_lightning import ranks
from paw_lightning.callbacks import canary_checks as checks
from paw_lightning.callbacks.base import RolloutCallback
from paw_lightning.errors import SettingsError
from paw_lightning.training.module import PaWModule
from paw_lightning.types import MicroBatch, Rollout
from paw_lightning.update.rows import Row


class Canaries(RolloutCallback):
    """Checks that what is trained is what played (config key ``canaries``).

    After the first rollout, on whole rows, the longest among them: sampler and trainer give the same log-probs; what
    follows an action does not change them; tokens decode to the texts they stand for. In the first mini-batch: the
    masks cover whole actions and whole targets. At the first step that has a gradient: weights move, and LoRA adapters
    have an effect. After the next rollout: the sampler has followed the weights. Nothing of the run is changed, random
    numbers included.

    Of several ranks all check, and one's failure ends them all. Where a strategy shards the model, its stand-in is the
    whole copy that plays, gathered from the shards at each rollout (what the shards themselves say is compared all run
    long by ``rollout/logprob_gap``), and the effect of adapters is not checked.

    Args:
        enabled: false checks nothing.
        logprob_tolerance: largest mean difference of two log-probs that should be equal, nats; null goes by the
            arithmetic, 1e-3 in float32, 0.05 in bfloat16, 0.01 in float16, and is that much for each nat of the tokens'
            mean surprise between 1 and 2 (choice).

    Raises:
        CanaryError: a check failed.
    """

    def __init__(self, enabled: bool = True, logprob_tolerance: float | None = None) -> None:
        if logprob_tolerance is not None and not logprob_tolerance > 0:
            raise SettingsError(f"canaries.logprob_tolerance is {logprob_tolerance}; wanted above 0, or null")
        self.enabled, self.logprob_tolerance = enabled, logprob_tolerance
        self.probe: checks.Probe | None = None
        """Taken after the first rollout, dropped when the sampler has followed."""
        self.known: dict[str, set[tuple[int, ...]]] | None = None
        """Token ids of every action and of every possible target, until the first mini-batch is checked."""
        self.watched: list[tuple[nn.Parameter, Tensor, Tensor]] | None = None
        """During an optimizer step: (parameter, places in it, its values there before the step)."""
        self.has_signal = self.stepped = self.finished = False

    def on_rollout_end(self, trainer: L.Trainer, pl_module: L.LightningModule, rollout: Rollout) -> None:
        """Check the first rollout, and that one after the first step was played by what the step has made."""
        if not self.enabled or self.finished or not (checked := checks.choose(rollout.transitions)):
            return
        assert isinstance(pl_module, PaWModule)
        with checks.passive(pl_module):
            ranks.together(lambda: self._check_rollout(trainer, self._pair(pl_module), rollout, checked))

    def _pair(self, module: PaWModule) -> checks.Pair:
        return checks.Pair(module, self.runner.sampler, self.runner.settings.temperature)

    def _check_rollout(self, trainer: L.Trainer, pair: checks.Pair, rollout: Rollout, checked: list[Row]) -> None:
        if self.probe is None:
            self._check_first(trainer, pair, rollout, checked)
            self.finished = rollout.replayed  # no sampler is to follow
        elif self.stepped:
            exact = self.logprob_tolerance or checks.TOLERANCE[checks.arithmetic(pair.module)]
            checks.check_sampler_follows(pair, self.probe, exact)
            if not (rollout.demonstrated or rollout.off_policy):
                scored = pair.score(checked)
                checks.check_sampler_agrees(pair, checked, scored, self._tolerance(pair, scored))
            self.probe, self.finished = None, True

    def _tolerance(self, pair: checks.Pair, scored: list[Tensor]) -> float:
        return self.logprob_tolerance or checks.rounding(pair.module, scored)

    def _check_first(self, trainer: L.Trainer, pair: checks.Pair, rollout: Rollout, checked: list[Row]) -> None:
        checks.check_texts(pair.module.tokenizer, [t for row in checked for t in checks.turns(row)])
        # Read with what follows: where that changes nothing, these are the log-probs that the sampler should have.
        scored = pair.score([checks.with_last_observation(row) for row in checked])
        tolerance = self._tolerance(pair, scored)
        change = checks.check_appended_observation(pair, checked, scored, tolerance)
        compared = "differ "
        if not (rollout.demonstrated or rollout.off_policy):  # a sampler of this policy has written the actions
            over_all = rollout.metrics.get("rollout/sampler_gap")
            gap = checks.check_sampler_agrees(pair, checked, scored, tolerance, over_all)
            compared = f"of sampler and trainer differ by {gap:.1e} nats, "
        if not rollout.replayed:
            self.probe = checks.Probe.take(pair, [row.segments[0].ids for row in checked])
        self.known = {
            "action": {tuple(t.action_ids) for t in rollout.transitions},
            "target": {run for t in rollout.teaching_transitions for run in checks.target_runs(t)},
        }
        longest = max(row.length for row in checked)
        _say(
            trainer,
            f"canaries: log-probs {compared}with and without what follows by {change:.1e} (longest row {longest} "
            "tokens)",
        )
        if pair.module.is_sharded:
            _say(trainer, "canaries: the model is sharded: checked on its gathered copy, adapters' effect not at all")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: MicroBatch, batch_idx: int
    ) -> None:
        """Check the masks of the first micro-batch with actions, and note whether there is anything to teach."""
        if not self.enabled or self.stepped:
            return
        assert isinstance(pl_module, PaWModule)
        self.has_signal |= (batch.on_policy or batch.unit_ratio) and bool(
            (batch.advantages * batch.policy_weights).any()
        )
        if self.known is not None and any(ranks.gathered(bool(batch.action_mask.any()))):
            known, self.known = self.known, None
            [(action, target), *_] = ranks.together(lambda: checks.check_masks(pl_module.tokenizer, batch, known))
            _say(trainer, f"canaries: the policy trains on {action}, the world model on {target}")

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Keep the weights with the largest gradients, of the first step that has any."""
        if not self.enabled or self.stepped:
            return
        gradients = [(p, checks.local(p.grad)) for p in pl_module.parameters() if p.grad is not None]
        trained = [p for p, gradient in gradients if bool(gradient.any())]
        finite = all(bool(gradient.isfinite().all()) for _, gradient in gradients)  # else a scaler skips the step
        # A rank may hold a part of the gradient and have seen a part of the batch: all go by what all say.
        said = ranks.gathered((bool(trained), self.has_signal, finite))
        has_gradient, has_signal, finite = any(s[0] for s in said), any(s[1] for s in said), all(s[2] for s in said)
        self.has_signal = False
        if not has_gradient and has_signal:
            checks.fail(
                "the gradient is exactly 0 although there are advantages to learn from; wanted trainable weights that "
                "the forward pass uses (frozen parameters, or adapters that are switched off?)"
            )
        if has_gradient and finite and any(group["lr"] > 0 for group in optimizer.param_groups):
            self.watched = [checks.watch(p) for p in trained]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Check that the step moved the weights, and that adapters matter."""
        if self.watched is None:
            return
        assert isinstance(pl_module, PaWModule)
        checks.check_weights_moved(pl_module, self.watched, trainer.optimizers[0])
        self.watched, self.stepped = None, True
        probe = self.probe
        if probe is not None and not pl_module.is_sharded:
            with checks.passive(pl_module):
                ranks.together(lambda: checks.check_adapters(self._pair(pl_module), probe))


def _say(trainer: L.Trainer, line: str) -> None:
    if not trainer.is_global_zero:
        return
    bar = trainer.progress_bar_callback
    (rank_zero_info if bar is None else bar.print)(line)
