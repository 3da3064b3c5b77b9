"""What the world model predicts in place of the true observation: the controls."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch


def shuffled_places(keys: Sequence[Hashable], generator: torch.Generator) -> list[int]:
    """A random permutation that gives as few places as possible an item equal to their own.

    A plain shuffle leaves about one item in place, and with repeated items many more; here a place keeps an equal one
    only where a single item fills more than half of all places (then 2 m - N do, with m copies among N).

    Args:
        keys: what makes two items equal.

    Returns:
        For each place the index of the item it gets.
    """
    order = torch.randperm(len(keys), generator=generator).tolist()
    partners = torch.randperm(len(keys), generator=generator).tolist()
    for i, key in enumerate(keys):
        if keys[order[i]] != key:
            continue
        j = next((j for j in partners if keys[j] != key and keys[order[j]] != key), None)
        if j is None:
            break  # every place has or gets this item: no other item is misplaced, and no swap helps
        order[i], order[j] = order[j], order[i]
    return order
