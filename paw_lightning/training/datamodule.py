"""RolloutDataModule: streams the current policy's rollouts as micro-batches, and unseen tasks' episodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import lightning as L
import torch

from paw_lightning.errors import EvaluationCut, SettingsError
from paw_lightning.rollouts.tasks import Split, TaskOrder
from paw_lightning.types import Episode, MicroBatch
from paw_lightning.update.batches import Normalization, UpdateCutter


class RolloutSource(Protocol):
    """Plays with the current policy; EnvironmentLoop is one."""

    def micro_batches(self, iteration: int) -> Iterator[MicroBatch]:
        """Play an iteration when its first micro-batch is asked for, then give its micro-batches."""

    def evaluation_tasks(self, split: Split) -> list[int]:
        """Task seeds of a whole evaluation."""

    def temperatures(self, split: Split) -> Sequence[float]:
        """At which an evaluation samples, one after the other."""

    def evaluate(self, split: Split, task_seeds: list[int], samples: int, temperature: float) -> list[Episode]:
        """Play unseen tasks, each so many times."""


class RolloutDataModule(L.LightningDataModule):
    """Streams the current policy's rollouts: one epoch of the Trainer is one iteration of play and update.

    Args:
        groups: tasks per iteration.
        group_size: k, episodes of each task.
        minibatches: optimizer steps per iteration; their rows are a random partition of the update.
        normalization: of the policy loss over one optimizer step. `token_mean`: every action token counts alike;
            `sequence_mean`: every action does; `group_mean`: every group does.
        dynamic_sampling: extra rounds in which new tasks are played in place of groups whose returns are all equal
            (DAPO), until `groups` useful ones are there; 0 keeps every group. Where none is useful, the first `groups`
            are kept. With PaW it also takes away the groups
            in which every episode fails, those that eq. 10 gives lambda = 1: the world model then learns least where
            the policy is weakest. Every iteration owns `dynamic_sampling` + 1 blocks of `groups` tasks, whether played
            or not, so that the tasks of an iteration depend on nothing that happened before it.
        left_out_teach: the groups that dynamic sampling leaves out of the policy's update still teach the world model:
            they are selected from, and weighed with eq. 10, as if nothing had been left out. Their rows cost time and
            memory of the update: up to `dynamic_sampling` + 1 times as many as without dynamic sampling.
        world_model_interval: 0 trains both losses in every optimizer step. I > 0 lets them take turns (TAPO): after I
            steps of the policy loss alone comes one of the world-model loss alone, over the rollout's selected
            transitions, counted through the whole run. There are still `minibatches` steps per iteration; each loss
            divides the rollout among those of its own.
        validation_tasks: unseen tasks played by `validate`, once each.
        test_tasks: unseen tasks played by `test`, at each of `rollout.test_temperatures`.
        test_samples: episodes of each task in `test`; its report then says what the best of several attempts wins.
        evaluation_batch: episodes played side by side in validation and test; all samples of a task at the least.
        world_model_horizon: observations ahead that a selected transition teaches, the actions in between being given.
        world_model_discount: d in (0, 1]; step j weighs d^(j-1) over the sum of these; 1 at a horizon of 1.
        replay: folder of a recorded run (`rollout_files`), whose rollouts `fit` trains on in place of playing its own;
            null plays.
        seed: of everything random in the run; the command line takes it from `seed_everything`.
    """

    def __init__(
        self,
        groups: int = 8,
        group_size: int = 8,
        minibatches: int = 2,
        normalization: Normalization = "token_mean",
        dynamic_sampling: int = 0,
        world_model_interval: int = 0,
        validation_tasks: int = 128,
        test_tasks: int = 200,
        test_samples: int = 1,
        evaluation_batch: int = 128,
        world_model_horizon: int = 1,
        world_model_discount: float = 1.0,
        replay: str | None = None,
        seed: int = 0,
        left_out_teach: bool = False,
    ) -> None:
        super().__init__()
        for name, value in {"evaluation_batch": evaluation_batch, "test_samples": test_samples}.items():
            if value < 1:
                raise SettingsError(f"data.{name} is {value}; wanted at least 1")
        if left_out_teach and not dynamic_sampling:
            raise SettingsError(
                "data.left_out_teach is true and data.dynamic_sampling is 0, which leaves no group out; wanted "
                "left_out_teach false, or dynamic_sampling of at least 1"
            )
        evaluation = {"val": validation_tasks, "test": test_tasks}
        self.tasks = TaskOrder(groups, group_size, dynamic_sampling, evaluation, seed)
        """Which tasks are played when."""
        self.cutter = UpdateCutter(
            minibatches,
            normalization,
            world_model_interval,
            world_model_horizon,
            world_model_discount,
            seed,
            left_out_teach,
        )
        """How what was played is cut into mini-batches."""
        self.replay = replay
        self.evaluation_batch = evaluation_batch
        self.samples = {"val": 1, "test": test_samples}
        """Episodes of each task in an evaluation."""
        self._source: RolloutSource | None = None
        self.evaluating = self.cut_asked = self.cut = False
        """Episodes of an evaluation are being played; GracefulStop wants it broken off; it was broken off."""

    def stream_from(self, source: RolloutSource) -> None:
        """Name who plays: EnvironmentLoop calls this when it is set up."""
        self._source = source

    @property
    def source(self) -> RolloutSource:
        """Who plays."""
        if self._source is None:
            raise SettingsError("nobody plays; wanted an EnvironmentLoop among the trainer's callbacks (rollout)")
        return self._source

    @property
    def settings(self) -> dict[str, Any]:
        """What the order of tasks and rows, and their weights, depend on, by the keys of a configuration."""
        tasks, cutter = self.tasks, self.cutter
        return {
            "seed_everything": tasks.seed,
            "data.groups": tasks.groups,
            "data.group_size": tasks.group_size,
            "data.minibatches": cutter.minibatches,
            "data.dynamic_sampling": tasks.dynamic_sampling,
            "data.world_model_interval": cutter.world_model_interval,
            "data.normalization": cutter.normalization,
            "data.world_model_horizon": cutter.world_model_horizon,
            "data.world_model_discount": cutter.world_model_discount,
            "data.left_out_teach": cutter.left_out_teach,
            "data.replay": self.replay,
        }

    def train_dataloader(self) -> RolloutStream:
        """A sized stream that plays when its first micro-batch is asked for."""
        return RolloutStream(self)

    def val_dataloader(self) -> EvaluationStream:
        """A sized stream of finished validation episodes."""
        return EvaluationStream(self, "val")

    def test_dataloader(self) -> EvaluationStream:
        """A sized stream of finished test episodes."""
        return EvaluationStream(self, "test")

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Open what was sealed, now that Lightning has had its way with the batch's tensors."""
        return batch.content if isinstance(batch, Sealed) else batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a mini-batch's tensors; episodes stay where they are."""
        return batch.to(device) if isinstance(batch, MicroBatch) else batch


class Sealed:
    """A micro-batch or episodes on the way through Lightning, which would cast every tensor that it finds.

    With `trainer.precision: bf16-true` old log-probs of -5 nats would be rounded by 0.03, and every ratio with them.
    """

    def __init__(self, content: MicroBatch | list[Episode]) -> None:
        self.content = content


class RolloutStream:
    """The micro-batches of one iteration, each made when it is asked for.

    It has a length, because Lightning prefetches an unsized iterable: the first micro-batch of an iteration would be
    made before the last step of the one before. It is no DataLoader, because Lightning would hand it a
    DistributedSampler that drops most of a rank's own rollouts.
    """

    def __init__(self, data: RolloutDataModule) -> None:
        self.data = data

    def __len__(self) -> int:
        assert self.data.trainer is not None
        return self.data.cutter.minibatches * self.data.trainer.accumulate_grad_batches

    def __iter__(self) -> Iterator[Sealed]:
        # A generator, so that the iteration is looked up late: a resumed run asks for it before it knows its epoch.
        assert self.data.trainer is not None
        yield from map(Sealed, self.data.source.micro_batches(self.data.trainer.current_epoch))


class EvaluationStream:
    """Finished episodes of unseen tasks, played when asked for."""

    def __init__(self, data: RolloutDataModule, split: Literal["val", "test"]) -> None:
        self.data, self.split = data, split

    def __len__(self) -> int:
        return len(self._parts())

    def __iter__(self) -> Iterator[Sealed]:
        data, samples = self.data, self.data.samples[self.split]
        for temperature, seeds in self._parts():
            try:
                data.evaluating = True
                episodes = data.source.evaluate(self.split, seeds, samples, temperature)
                data.evaluating = False
            except EvaluationCut:
                data.evaluating, data.cut = False, True
                return
            yield Sealed(episodes)

    def _parts(self) -> list[tuple[float, list[int]]]:
        """Temperature and tasks of what is played side by side."""
        source, size = self.data.source, max(1, self.data.evaluation_batch // self.data.samples[self.split])
        seeds = source.evaluation_tasks(self.split)
        parts = [seeds[start : start + size] for start in range(0, len(seeds), size)]
        return [(temperature, part) for temperature in source.temperatures(self.split) for part in parts]
