"""One iteration of training, to be read from top to bottom: from tasks to the micro-batches of an update."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from paw_lightning import ranks
from paw_lightning.models.policy_world_model import HeadOutputs
from paw_lightning.policy.advantages import Advantage
from paw_lightning.rollouts.runner import Policy, Runner
from paw_lightning.types import MicroBatch, Rollout
from paw_lightning.update.batches import UpdateCutter
from paw_lightning.world_model.callbacks import EntropySelection, RewardBalance, TargetControl
from paw_lightning.world_model.loss import WorldModelLoss


class TrainedPolicy(Policy, Protocol):
    """The policy that plays, and what else an iteration asks of it; PaWModule is one."""

    world_model_loss: WorldModelLoss

    def read_as_played(self, batch: MicroBatch) -> HeadOutputs:
        """One forward pass of the weights that have played."""


@dataclass
class Iteration:
    """Who does what in an iteration: every writer of a rollout's fields is called in `run`, and nowhere else."""

    runner: Runner
    policy: TrainedPolicy
    advantage: Advantage
    inadmissible_penalty: float
    selection: EntropySelection
    control: TargetControl
    balance: RewardBalance
    observe: Callable[[Rollout], None]
    """Shows the finished rollout to whoever looks on (canaries, curves, samples); writes nothing but metrics."""
    cutter: UpdateCutter
    accumulate: int
    """Micro-batches of an optimizer step (`trainer.accumulate_grad_batches`)."""

    def run(self, number: int) -> Iterator[MicroBatch]:
        """Play iteration `number`, and yield the micro-batches of its update, each when it is asked for."""
        runner, policy, seed = self.runner, self.policy, self.runner.tasks.seed
        started = time.perf_counter()

        runner.refresh()
        tasks = runner.train_tasks(number)
        rollout = runner.play(number, tasks)
        rollout.left_out_teach = self.cutter.left_out_teach
        runner.score(rollout)
        self.advantage.write(rollout, self.inadmissible_penalty)
        rollout.idle = self.advantage.idle
        self.control.rule_out(rollout, policy.chat)
        self.selection.select(rollout, seed)
        self.control.replace(rollout, policy.chat.tokenizer, self.cutter.world_model_horizon, seed)
        self.balance.weigh(rollout, policy.world_model_loss, self.measure, rewardless=self.advantage.rewardless)
        self.observe(rollout)
        runner.hand_over(rollout)

        rollout.seconds["total"] = time.perf_counter() - started
        yield from self.cutter.micro_batches(rollout, self.accumulate)

    @torch.no_grad()
    def measure(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Log-probs [M] of the update's targets, nats, and lambda [M] of their groups, before the first step.

        One pass over the very micro-batches that will train. Every rank reads its own, with the whole model that
        played; what they read is pooled.
        """
        parts = [(torch.empty(0), torch.empty(0))]
        for batch in self.cutter.micro_batches(rollout, self.accumulate):
            if batch.target_mask.any():
                out = self.policy.read_as_played(batch)
                parts.append((out.target_logprobs.cpu(), batch.target_coefficients))
        logprobs, coefficients = zip(*ranks.pooled(parts), strict=True)
        return torch.cat(logprobs), torch.cat(coefficients)
