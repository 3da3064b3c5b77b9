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
from paw_lightning.types import Episode, Minibatch, Rollout, Terms
from paw_lightning.update.collate import collate
from paw_lightning.update.rows import Row, build_rows

Split = Literal["train", "val", "test"]
TASKS_PER_SEED = 10**9
"""Distance of two run seeds' tasks where a split has no end."""


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
        dynamic_sampling: extra rounds in which new tasks are played in place of groups whose returns are all equal
            (DAPO), until `groups` useful ones are there; 0 keeps every group. With PaW it also takes away the groups
            in which every episode fails, those that eq. 10 gives lambda = 1: the world model then learns least where
            the policy is weakest. Every iteration owns `dynamic_sampling` + 1 blocks of `groups` tasks, whether played
            or not, so that the tasks of an iteration hang on nothing that happened before it.
        world_model_interval: 0 trains both losses in every optimizer step. I > 0 lets them take turns (TAPO): after I
            steps of the policy loss alone comes one of the world-model loss alone, over the rollout's selected
            transitions, counted through the whole run. There are still `minibatches` steps per iteration; each loss
            divides the rollout among those of its own.
        validation_tasks: unseen tasks played by `validate`, once each.
        test_tasks: unseen tasks played by `test`, once each.
        evaluation_batch: episodes played side by side in validation and test.
        wm_horizon: observations ahead that a selected transition teaches, the actions in between being given.
        wm_discount: in (0, 1]; step j weighs wm_discount^(j-1) over the sum of these; 1 at a horizon of 1.
        seed: of everything random in the run; the command line takes it from `seed_everything`.
    """

    def __init__(
        self,
        groups: int = 8,
        group_size: int = 8,
        minibatches: int = 2,
        normalization: Literal["token_mean", "sequence_mean", "group_mean"] = "token_mean",
        dynamic_sampling: int = 0,
        world_model_interval: int = 0,
        validation_tasks: int = 128,
        test_tasks: int = 200,
        evaluation_batch: int = 128,
        wm_horizon: int = 1,
        wm_discount: float = 1.0,
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
            "wm_horizon": wm_horizon,
        }
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"data.{name} is {value}; wanted at least 1")
        if dynamic_sampling < 0 or (dynamic_sampling and group_size == 1):
            raise ValueError(
                f"data.dynamic_sampling is {dynamic_sampling} and data.group_size {group_size}; wanted 0 or more extra "
                "rounds, and groups of at least 2 to compare"
            )
        if world_model_interval < 0:
            raise ValueError(f"data.world_model_interval is {world_model_interval}; wanted at least 0")
        if not 0 < wm_discount <= 1:
            raise ValueError(f"data.wm_discount is {wm_discount}; wanted above 0 and at most 1")
        if wm_horizon == 1 and wm_discount != 1:
            raise ValueError(
                f"data.wm_discount is {wm_discount} and data.wm_horizon is 1, which leaves nothing to discount; wanted "
                "wm_discount 1, or a longer horizon"
            )
        self.groups, self.group_size, self.minibatches = groups, group_size, minibatches
        self.dynamic_sampling, self.world_model_interval = dynamic_sampling, world_model_interval
        self.normalization = normalization
        self.evaluation_tasks = {"val": validation_tasks, "test": test_tasks}
        self.evaluation_batch = evaluation_batch
        self.wm_horizon, self.wm_discount = wm_horizon, wm_discount
        self.seed = seed
        self.source: RolloutSource | None = None
        """Who plays; EnvironmentLoop writes it."""

    def state_dict(self) -> dict[str, Any]:
        """What the order of tasks and rows, and their weights, hang on."""
        return {
            "seed": self.seed,
            "groups": self.groups,
            "group_size": self.group_size,
            "minibatches": self.minibatches,
            "dynamic_sampling": self.dynamic_sampling,
            "world_model_interval": self.world_model_interval,
            "normalization": self.normalization,
            "wm_horizon": self.wm_horizon,
            "wm_discount": self.wm_discount,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
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

    def train_tasks(self, iteration: int, extra_round: int = 0) -> list[int]:
        """Task seeds of one round of play: the next ones, or the next of a shuffled pass when the split is finite.

        Of a split without end every run seed has a stretch of its own, so that runs differ in tasks as in sampling.
        """
        count = self._source().num_tasks("train")
        first = (iteration * (1 + self.dynamic_sampling) + extra_round) * self.groups
        if count is None:
            first += self.seed * TASKS_PER_SEED
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

    def steps(self, rollout: Rollout) -> list[tuple[Terms, list[Row]]]:
        """What each optimizer step of an iteration trains, and on which rows."""
        if not self.world_model_interval:
            return [("joint", rows) for rows in self.minibatch_rows(rollout)]
        first, cycle = rollout.iteration * self.minibatches, self.world_model_interval + 1
        turns: list[Terms] = [
            "world_model" if step % cycle == self.world_model_interval else "policy"
            for step in range(first, first + self.minibatches)
        ]
        rows = {
            "policy": iter(self.minibatch_rows(without_targets(rollout), turns.count("policy"))),
            "world_model": iter(self.minibatch_rows(rollout, turns.count("world_model"))),
        }
        return [(terms, next(rows[terms])) for terms in turns]

    def minibatch_rows(self, rollout: Rollout, parts: int | None = None) -> list[list[Row]]:
        """Cut an update into `parts` (None: `minibatches`) random parts, one per optimizer step, and weigh every token.

        World-model weights carry the number of parts, so that the mean over the steps is eq. 11 of the whole update.
        With fewer rows than parts (groups were lost) the last parts have a row of which nothing is learnt: PaWModule
        leaves the weights alone there.
        """
        count = self.minibatches if parts is None else parts
        rows = build_rows(rollout, horizon=self.wm_horizon, discount=self.wm_discount, scale=count)
        if len(rows) < count:
            rank_zero_warn(
                f"iteration {rollout.iteration} has {len(rows)} rows for {count} optimizer steps: {count - len(rows)} "
                "of them learn nothing and leave the weights alone (data.minibatches, data.groups)"
            )
        order = torch.randperm(len(rows), generator=generator(self.seed, "rows", rollout.iteration)).tolist()
        dealt = [[rows[i] for i in order[part::count]] for part in range(count)]
        minibatches = [part or [rows[0].weightless()] for part in dealt]
        for minibatch in minibatches:
            actions = [(row.group, segment) for row in minibatch for segment in row.having("action")]
            weights = self._policy_weights([(group, len(segment.ids)) for group, segment in actions])
            for (_, segment), weight in zip(actions, weights, strict=True):
                segment.weight = weight
        return minibatches

    def micro_batches(self, rollout: Rollout) -> Iterator[Minibatch]:
        """An update as it is trained on: the micro-batches of its first optimizer step, of its second, and so on.

        All ranks hold the whole update, and each gets its own part of every step.
        """
        assert self.trainer is not None
        module: Any = self.trainer.lightning_module
        rank, size = ranks.world()
        parts = self.trainer.accumulate_grad_batches * size
        for step, (terms, rows) in enumerate(self.steps(rollout)):
            # Neighbours are of like length, so ranks finish together.
            for micro_rows in split_evenly(rows, parts, lambda row: row.length)[rank::size]:
                yield restrict(collate(micro_rows, module.tokenizer.pad_token_id, on_policy=step == 0), terms)

    def _policy_weights(self, actions: list[tuple[int, int]]) -> list[float]:
        """Weight of each token of actions given as (group, tokens); over all tokens they sum to 1."""
        if self.normalization == "token_mean":
            total = sum(length for _, length in actions)
            return [1 / total for _ in actions]
        if self.normalization == "sequence_mean":
            return [1 / (len(actions) * length) for _, length in actions]
        tokens: dict[int, int] = {}
        for group, length in actions:
            tokens[group] = tokens.get(group, 0) + length
        return [1 / (len(tokens) * tokens[group]) for group, _ in actions]

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
        yield from self.data.micro_batches(self.data.collect())


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


def without_targets(rollout: Rollout) -> Rollout:
    """The same rollout with nothing selected: its rows carry the policy loss alone and append no observation."""

    def unselected(episode: Episode) -> Episode:
        return dataclasses.replace(
            episode, transitions=[dataclasses.replace(t, wm_selected=False) for t in episode.transitions]
        )

    groups = [dataclasses.replace(g, episodes=list(map(unselected, g.episodes))) for g in rollout.groups]
    return dataclasses.replace(rollout, groups=groups)


def restrict(batch: Minibatch, terms: Terms) -> Minibatch:
    """Name the losses that a micro-batch carries; for the world model alone, no token is an action token any more."""
    if terms != "world_model":
        return dataclasses.replace(batch, terms=terms)
    per_action = ("advantages", "old_logprobs", "reference_logprobs", "policy_weights", "old_values", "value_targets")
    vectors = {name: getattr(batch, name) for name in per_action}
    empty: dict[str, Any] = {name: None if vector is None else vector[:0] for name, vector in vectors.items()}
    return dataclasses.replace(batch, terms=terms, action_mask=torch.zeros_like(batch.action_mask), **empty)


def split_evenly(rows: list[Row], parts: int, cost: Callable[[Row], int]) -> list[list[Row]]:
    """Cut rows into exactly `parts` lists of like cost, rows of like length together so that little is padded.

    With fewer rows than parts the rest are one token of context each, without anything to learn: the number of
    micro-batches must not vary, since Lightning mis-scales a short accumulation and ranks would wait for each other.
    """
    ordered = sorted(rows, key=cost)
    while len(ordered) < parts:
        ordered.insert(0, ordered[-1].weightless())
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
