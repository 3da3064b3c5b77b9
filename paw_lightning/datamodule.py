"""RolloutDataModule: which tasks are played, and how what was played becomes a stream of mini-batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from paw_lightning import ranks
from paw_lightning.seeding import generator
from paw_lightning.tokenization import Row, collate
from paw_lightning.types import Episode, Minibatch, Rollout
from paw_lightning.weighting import wm_token_weights

Split = Literal["train", "val", "test"]


class RolloutSource(Protocol):
    """Plays episodes with the current policy; EnvironmentLoop is one."""

    def num_tasks(self, split: Split) -> int | None: ...

    def collect(self, iteration: int, task_seeds: list[int], group_size: int) -> Rollout: ...

    def evaluate(self, split: Split, task_seeds: list[int]) -> list[Episode]: ...


class RolloutDataModule(L.LightningDataModule):
    """Streams the current policy's rollouts: one epoch of the Trainer is one iteration of play and update.

    Args:
        groups: tasks per iteration.
        group_size: k, episodes of each task.
        minibatches: optimizer steps per iteration; their rows are a random partition of the update.
        normalization: of the policy loss over one optimizer step. `token_mean`: every action token counts alike;
            `sequence_mean`: every action does; `group_mean`: every group does.
        validation_tasks: unseen tasks played by `validate`, once each.
        test_tasks: unseen tasks played by `test`, once each.
        evaluation_batch: episodes played side by side in validation and test.
        seed: of everything random in the run; the command line takes it from `seed_everything`.
    """

    def __init__(
        self,
        groups: int = 8,
        group_size: int = 8,
        minibatches: int = 2,
        normalization: Literal["token_mean", "sequence_mean", "group_mean"] = "token_mean",
        validation_tasks: int = 128,
        test_tasks: int = 200,
        evaluation_batch: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__()
        counts = {
            "groups": groups,
            "group_size": group_size,
            "minibatches": minibatches,
            "validation_tasks": validation_tasks,
            "test_tasks": test_tasks,
            "evaluation_batch": evaluation_batch,
        }
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"data.{name} is {value}; wanted at least 1")
        self.groups, self.group_size, self.minibatches = groups, group_size, minibatches
        self.normalization = normalization
        self.evaluation_tasks = {"val": validation_tasks, "test": test_tasks}
        self.evaluation_batch = evaluation_batch
        self.seed = seed
        self.source: RolloutSource | None = None
        """Who plays; EnvironmentLoop writes it."""

    def state_dict(self) -> dict[str, int]:
        """What the order of tasks and rows hangs on."""
        return {
            "seed": self.seed,
            "groups": self.groups,
            "group_size": self.group_size,
            "minibatches": self.minibatches,
        }

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Warn when a resumed run is set up to go on otherwise than it began."""
        for name, value in self.state_dict().items():
            if state_dict.get(name, value) != value:
                rank_zero_warn(
                    f"data.{name} is {value}, and was {state_dict[name]} in the checkpoint: the resumed run is not the "
                    "one that was stopped"
                )

    def train_dataloader(self) -> RolloutStream:
        """A sized stream that plays when its first mini-batch is asked for."""
        return RolloutStream(self)

    def val_dataloader(self) -> EvaluationStream:
        """A sized stream of finished validation episodes."""
        return EvaluationStream(self, "val")

    def test_dataloader(self) -> EvaluationStream:
        """A sized stream of finished test episodes."""
        return EvaluationStream(self, "test")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a mini-batch's tensors; episodes stay where they are."""
        if not isinstance(batch, Minibatch):
            return batch
        tensors = {name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in tensors.items()}
        return dataclasses.replace(batch, **moved)

    def train_tasks(self, iteration: int) -> list[int]:
        """Task seeds of one iteration: the next ones, or the next of a shuffled pass when the split is finite."""
        count = self._source().num_tasks("train")
        first = iteration * self.groups
        if count is None:
            return list(range(first, first + self.groups))
        orders: dict[int, list[int]] = {}
        tasks = []
        for position in range(first, first + self.groups):
            epoch, index = divmod(position, count)
            if epoch not in orders:
                orders[epoch] = torch.randperm(count, generator=generator(self.seed, "tasks", epoch)).tolist()
            tasks.append(orders[epoch][index])
        return tasks

    def evaluation_seeds(self, split: Literal["val", "test"]) -> list[int]:
        """Task seeds of a whole evaluation; a finite split gives each task at most once."""
        wanted, count = self.evaluation_tasks[split], self._source().num_tasks(split)
        return list(range(wanted if count is None else min(wanted, count)))

    def minibatch_rows(self, rollout: Rollout) -> list[list[Row]]:
        """Cut an update into `minibatches` random parts, one per optimizer step, and weigh every token.

        World-model weights carry the number of parts, so that the mean over the steps is eq. 11 of the whole update.
        """
        group_of = [g for g, group in enumerate(rollout.groups) for _ in group.transitions]
        transitions = rollout.transitions
        coefficients = [group.wm_coefficient for group in rollout.groups]
        wm_weights = wm_token_weights(
            group_of,
            [t.wm_selected for t in transitions],
            [len(t.target_ids) for t in transitions],
            coefficients,
        )
        order = torch.randperm(len(transitions), generator=generator(self.seed, "rows", rollout.iteration)).tolist()
        if len(transitions) < self.minibatches:
            raise ValueError(
                f"the rollout has {len(transitions)} transitions for {self.minibatches} optimizer steps; wanted at "
                "least one each: lower data.minibatches or raise data.groups"
            )
        parts = []
        for part in range(self.minibatches):
            indices = order[part :: self.minibatches]
            weights = self._policy_weights([(group_of[i], len(transitions[i].action_ids)) for i in indices])
            parts.append(
                [
                    Row(transitions[i], weight, wm_weights[i] * self.minibatches, coefficients[group_of[i]])
                    for i, weight in zip(indices, weights, strict=True)
                ]
            )
        return parts

    def _policy_weights(self, rows: list[tuple[int, int]]) -> list[float]:
        """Weight of each action token of rows given as (group, action tokens); over all tokens they sum to 1."""
        if self.normalization == "token_mean":
            total = sum(length for _, length in rows)
            return [1 / total for _ in rows]
        if self.normalization == "sequence_mean":
            return [1 / (len(rows) * length) for _, length in rows]
        tokens: dict[int, int] = {}
        for group, length in rows:
            tokens[group] = tokens.get(group, 0) + length
        return [1 / (len(tokens) * tokens[group]) for group, _ in rows]

    def _source(self) -> RolloutSource:
        if self.source is None:
            raise RuntimeError("nobody plays: add the EnvironmentLoop callback (config key `rollout`)")
        return self.source

    def collect(self) -> Rollout:
        """Play the current iteration."""
        assert self.trainer is not None
        iteration = self.trainer.current_epoch
        return self._source().collect(iteration, self.train_tasks(iteration), self.group_size)

    def evaluate(self, split: Literal["val", "test"], task_seeds: list[int]) -> list[Episode]:
        """Play evaluation tasks once each."""
        return self._source().evaluate(split, task_seeds)


class RolloutStream:
    """The mini-batches of one iteration, each made when it is asked for.

    It has a length, because Lightning prefetches an unsized iterable: the first mini-batch of an iteration would be
    made before the last step of the one before. It is no DataLoader, because Lightning would hand it a
    DistributedSampler that drops most of a rank's own rollouts.
    """

    def __init__(self, data: RolloutDataModule) -> None:
        self.data = data

    def __len__(self) -> int:
        assert self.data.trainer is not None
        return self.data.minibatches * self.data.trainer.accumulate_grad_batches

    def __iter__(self) -> Iterator[Minibatch]:
        data = self.data
        assert data.trainer is not None
        module: Any = data.trainer.lightning_module
        micro_batches = data.trainer.accumulate_grad_batches
        rank, size = ranks.world()
        rollout = data.collect()
        for step, rows in enumerate(data.minibatch_rows(rollout)):
            # All ranks hold the whole update; neighbours are of like length, so ranks finish together.
            for micro_rows in split_evenly(rows, micro_batches * size, lambda row: row.length)[rank::size]:
                yield collate(micro_rows, module.tokenizer.pad_token_id, on_policy=step == 0)


class EvaluationStream:
    """Finished episodes of unseen tasks, played when asked for."""

    def __init__(self, data: RolloutDataModule, split: Literal["val", "test"]) -> None:
        self.data, self.split = data, split

    def __len__(self) -> int:
        return -(-len(self.data.evaluation_seeds(self.split)) // self.data.evaluation_batch)

    def __iter__(self) -> Iterator[list[Episode]]:
        seeds = self.data.evaluation_seeds(self.split)
        for start in range(0, len(seeds), self.data.evaluation_batch):
            yield self.data.evaluate(self.split, seeds[start : start + self.data.evaluation_batch])


def split_evenly(rows: list[Row], parts: int, cost: Callable[[Row], int]) -> list[list[Row]]:
    """Cut rows into exactly `parts` lists of like cost, rows of like length together so that little is padded.

    With fewer rows than parts the rest are one token of context each, without anything to learn: the number of
    micro-batches must not vary, since Lightning mis-scales a short accumulation and ranks would wait for each other.
    """
    ordered = sorted(rows, key=cost)
    while len(ordered) < parts:
        ordered.insert(0, filler(ordered[-1]))
    total = sum(map(cost, ordered))
    pieces: list[list[Row]] = [[]]
    spent = 0
    for i, row in enumerate(ordered):
        left = len(ordered) - i
        missing = parts - len(pieces)
        if pieces[-1] and missing and (spent * parts >= total * len(pieces) or left == missing):
            pieces.append([])
        pieces[-1].append(row)
        spent += cost(row)
    return pieces


def filler(row: Row) -> Row:
    """The first token of a row as context: it is read, and counts in no loss and no metric."""
    t, nothing = row.transition, torch.empty(0)
    bare = dataclasses.replace(
        t,
        prompt_ids=t.prompt_ids[:1],
        action_ids=[],
        wm_selected=False,
        old_logprobs=nothing,
        reference_logprobs=None if t.reference_logprobs is None else nothing,
        importance=None,
    )
    return Row(bare, 0.0, 0.0, 0.0)
