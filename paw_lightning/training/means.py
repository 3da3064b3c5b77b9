"""Means of what micro-batches have to log, over an iteration and all ranks."""

from __future__ import annotations

from collections import Counter

from torch import Tensor

from paw_lightning import ranks


class RunningMeans:
    """Sums under names; not Lightning's own, which wait for a rank that had nothing to log under a name."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[Tensor, float]] = {}
        self.zeros = Counter[str]()

    def add(self, name: str, value: Tensor, count: int) -> None:
        """Count a mean over `count` items; none changes nothing."""
        if count:
            total, number = self.sums.get(name, (0.0, 0.0))
            self.sums[name] = (total + value.detach().float() * count, number + count)

    def add_zeros(self, name: str, count: int) -> None:
        """Count items that are 0 by definition: they belong into a mean of others, and are none by themselves."""
        self.zeros[name] += count

    def take(self) -> dict[str, float]:
        """The means over all ranks since the last call; every rank has to call it."""
        sums = {name: (float(total), count) for name, (total, count) in self.sums.items()}
        for name, count in self.zeros.items():
            total, others = sums.get(name, (0.0, 0.0))
            sums[name] = (total, others + count)
        known = set().union(*ranks.gathered(set(self.sums)))
        self.sums, self.zeros = {}, Counter()
        return {name: mean for name, mean in ranks.pooled_means(sums).items() if name in known}
