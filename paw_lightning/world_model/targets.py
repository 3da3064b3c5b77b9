"""What the world model predicts: the true next observation, or a control in its place.

A control gives each transition token ids, and a mask of those that may be targets (None: all), which a user's filter
has made of the texts that they come from.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import takewhile
from typing import Any

import torch

from paw_lightning.types import Rollout, Transition

Control = tuple[list[int], list[bool] | None]
"""Token ids, and which of them may be targets."""


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
    for episode in (episode for group in rollout.teaching for episode in group.episodes):
        reached = 0
        for i, t in enumerate(episode.transitions):
            if t.selected:
                ahead = takewhile(lambda t: t.teachable, episode.transitions[i : i + horizon])
                reached = max(reached, i + len(list(ahead)))
            if i < reached:
                result.append(t)
    return result


def shuffled(transitions: Sequence[Transition], generator: torch.Generator) -> list[Control]:
    """The transitions' own observations, given to others among them: same tokens, wrong causes."""
    places = shuffled_places([tuple(t.observation_ids) for t in transitions], generator)
    return [(transitions[i].observation_ids, transitions[i].target_mask) for i in places]


def half_gold(transitions: Sequence[Transition], generator: torch.Generator) -> list[Control]:
    """Half of each observation's tokens true, in places drawn uniformly; the others are those of a shuffled one.

    Of an odd number the larger half is true. A place gets the token that stands there in the observation that
    `shuffled` would have given, which begins anew where it is too short; the length stays the transition's own.

    Example: [1 2 3 4] and [8 9], true in the places 1 and 3: [1 9 3 9].
    """
    given = shuffled(transitions, generator)
    return [_mixed(t, *other, generator) for t, other in zip(transitions, given, strict=True)]


def _mixed(t: Transition, ids: list[int], mask: list[bool] | None, generator: torch.Generator) -> Control:
    count = len(t.observation_ids)
    true = set(torch.randperm(count, generator=generator)[: (count + 1) // 2].tolist())

    def mix(own: list[Any], other: list[Any]) -> list[Any]:
        return [token if i in true else other[i % len(other)] for i, token in enumerate(own)]

    if t.target_mask is None and mask is None:
        return mix(t.observation_ids, ids), None
    return mix(t.observation_ids, ids), mix(t.target_mask or [True] * count, mask or [True] * len(ids))


def random_tokens(transitions: Sequence[Transition], tokenizer: Any, generator: torch.Generator) -> list[Control]:
    """As many ordinary tokens as each observation has, drawn uniformly; in the same places they are targets."""
    # Added tokens need not be special: tags of a chat template, for example.
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ordinary = torch.tensor([i for i in range(len(tokenizer)) if i not in special])
    drawn = [torch.randint(len(ordinary), (len(t.observation_ids),), generator=generator) for t in transitions]
    return [(ordinary[places].tolist(), t.target_mask) for t, places in zip(transitions, drawn, strict=True)]


def wrong_action(transitions: Sequence[Transition]) -> list[Control]:
    """The world's true answers to another action in the same state; nothing where there is none."""
    return [(t.counterfactual_ids or [], t.counterfactual_mask) for t in transitions]


def signs(count: int, generator: torch.Generator) -> list[int]:
    """1 or -1, each with probability 1/2."""
    return (2 * torch.randint(2, (count,), generator=generator) - 1).tolist()
