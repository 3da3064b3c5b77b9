"""Which tasks are played when: a function of the run's seed and the iteration alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch

from paw_lightning.errors import SettingsError
from paw_lightning.seeding import generator

Split = Literal["train", "val", "test"]
TASKS_PER_SEED = 10**9
"""Distance of two run seeds' tasks where a split has no end."""


@dataclass(frozen=True)
class TaskOrder:
    """The order of tasks; the arguments are those of RolloutDataModule.

    Every iteration owns `dynamic_sampling` + 1 blocks of `groups` tasks, whether they are played or not: which tasks an
    iteration plays does not depend on what happened before it.
    """

    groups: int = 8
    group_size: int = 8
    dynamic_sampling: int = 0
    evaluation_tasks: dict[str, int] = field(default_factory=lambda: {"val": 128, "test": 200})
    seed: int = 0

    def __post_init__(self) -> None:
        counts = {"groups": self.groups, "group_size": self.group_size}
        names = {"val": "validation_tasks", "test": "test_tasks"}
        for name, value in {**counts, **{names[k]: v for k, v in self.evaluation_tasks.items()}}.items():
            if value < 1:
                raise SettingsError(f"data.{name} is {value}; wanted at least 1")
        if self.dynamic_sampling < 0 or (self.dynamic_sampling and self.group_size == 1):
            raise SettingsError(
                f"data.dynamic_sampling is {self.dynamic_sampling} and data.group_size {self.group_size}; wanted 0 or "
                "more extra rounds, and groups of at least 2 to compare"
            )

    def train(self, iteration: int, count: int | None, extra_round: int = 0) -> list[int]:
        """Task seeds of one round of play: the next ones, or the next of a shuffled pass when the split is finite.

        Of a split without end every run seed has a stretch of its own, so that runs differ in tasks as in sampling.

        Args:
            count: tasks of the split; None where they never end.
            extra_round: of dynamic sampling; 0 is the iteration's own block.
        """
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

    def evaluation(self, split: Literal["val", "test"], count: int | None) -> list[int]:
        """Task seeds of a whole evaluation; a finite split gives each task at most once."""
        wanted = self.evaluation_tasks[split]
        return list(range(wanted if count is None else min(wanted, count)))
