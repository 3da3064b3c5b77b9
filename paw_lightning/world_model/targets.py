"""What the world model predicts: the true next observation, or a control in its place."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import takewhile
from typing import Any

import torch

from paw_lightning.types import Rollout, Transition


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


def predicted(rollout: Rollout, horizon: int) -> list[Transition]:
    """The transitions whose observation some selected transition predicts.

    A selected transition predicts its own observation and, with a horizon n, up to n - 1 later ones of its episode, up
    to the first that is not to be predicted.
    """
    result = []
    for episode in rollout.episodes:
        reached = 0
        for i, t in enumerate(episode.transitions):
            if t.selected:
                ahead = takewhile(lambda t: t.observation_ids, episode.transitions[i : i + horizon])
                reached = max(reached, i + len(list(ahead)))
            if i < reached:
                result.append(t)
    return result


def shuffled(transitions: Sequence[Transition], generator: torch.Generator) -> list[list[int]]:
    """The transitions' own observations, given to others among them: same tokens, wrong causes."""
    places = shuffled_places([tuple(t.observation_ids) for t in transitions], generator)
    return [transitions[i].observation_ids for i in places]


def random_tokens(transitions: Sequence[Transition], tokenizer: Any, generator: torch.Generator) -> list[list[int]]:
    """As many ordinary tokens as each observation has, drawn uniformly."""
    # Added tokens need not be special: tags of a chat template, for example.
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ordinary = torch.tensor([i for i in range(len(tokenizer)) if i not in special])
    drawn = [torch.randint(len(ordinary), (len(t.observation_ids),), generator=generator) for t in transitions]
    return [ordinary[places].tolist() for places in drawn]


def wrong_action(transitions: Sequence[Transition]) -> list[list[int]]:
    """The world's true answers to another action in the same state; nothing where there is none."""
    return [t.counterfactual_ids or [] for t in transitions]
