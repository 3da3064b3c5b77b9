"""Dynamic sampling (DAPO): groups whose returns are all equal make room for new ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from paw_lightning.rollouts.collector import PlayedGroups
from paw_lightning.types import RolloutGroup, alike


@dataclass
class UsefulGroups:
    """What is kept of several rounds of play, and what is not."""

    played: PlayedGroups
    """The groups to train on; failures and seconds of all rounds."""
    left_out: list[RolloutGroup] = field(default_factory=list)
    """Groups without variance."""
    resampled: int = 0
    """Groups played after the first round."""


def play_useful(play: Callable[[int, int], PlayedGroups], groups: int, extra_rounds: int) -> UsefulGroups:
    """Play until `groups` groups have variance in their returns, or `extra_rounds` are over.

    A round plays as many groups as are still missing. Fewer than `groups` may come back, and if not one has variance,
    the first `groups` that were played do: an update needs something to be cut from.

    Args:
        play: plays the first `count` tasks of a round, given as (round, count); round 0 comes first.
        groups: wanted, >= 1.
        extra_rounds: bound; 0 keeps what the first round played, as it is.
    """
    result = UsefulGroups(play(0, groups))
    total = result.played
    if not extra_rounds:
        return result
    useful, flat = _sort(total.groups)
    for number in range(1, 1 + extra_rounds):
        if len(useful) >= groups:
            break
        more = play(number, groups - len(useful))
        found, without = _sort(more.groups)
        useful, flat = useful + found, flat + without
        result.resampled += len(more.groups)
        total.failures += more.failures
        total.retried_episodes += more.retried_episodes
        for name, seconds in more.seconds.items():
            total.seconds[name] = total.seconds.get(name, 0.0) + seconds
    total.groups, result.left_out = (useful, flat) if useful else (flat[:groups], flat[groups:])
    return result


def without_variance(group: RolloutGroup) -> bool:
    """All episodes have the same return, so that a comparison among them teaches nothing."""
    return alike(group.returns)


def _sort(groups: list[RolloutGroup]) -> tuple[list[RolloutGroup], list[RolloutGroup]]:
    """(With, without) variance."""
    flat = [without_variance(group) for group in groups]
    return [g for g, f in zip(groups, flat, strict=True) if not f], [g for g, f in zip(groups, flat, strict=True) if f]
