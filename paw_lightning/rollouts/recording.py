"""A rollout as plain records, and back: what files hold of it, every number as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor

from paw_lightning.rollout_files import RecordedEpisode, RecordedTurn
from paw_lightning.rollout_files.records import DEFAULTS
from paw_lightning.types import Episode, RolloutGroup, Transition

TRANSITION = [f.name for f in fields(Transition) if f.name in DEFAULTS[RecordedTurn]]
EPISODE = [f.name for f in fields(Episode) if f.name in DEFAULTS[RecordedEpisode]]
GROUP = [f.name for f in fields(RolloutGroup) if f.name in DEFAULTS[RecordedEpisode]]
"""The fields that a record has from the rollout, under the same name."""


def record(groups: Sequence[RolloutGroup], left_out: Sequence[RolloutGroup] = ()) -> list[RecordedEpisode]:
    """Every episode, with what holds for its group."""
    return list(_episodes(groups, left_out))


def _episodes(groups: Sequence[RolloutGroup], left_out: Sequence[RolloutGroup]) -> Iterator[RecordedEpisode]:
    for number, group in enumerate([*groups, *left_out]):
        own = {name: getattr(group, name) for name in GROUP}
        for episode in group.episodes:
            values = own | {name: getattr(episode, name) for name in EPISODE}
            turns = [_turn(t) for t in episode.transitions]
            yield RecordedEpisode(group=number, left_out=number >= len(groups), turns=turns, **values)


def _turn(transition: Transition) -> RecordedTurn:
    values: dict[str, Any] = {name: getattr(transition, name) for name in TRANSITION}
    return RecordedTurn(**{n: v.tolist() if isinstance(v, Tensor) else v for n, v in values.items()})
