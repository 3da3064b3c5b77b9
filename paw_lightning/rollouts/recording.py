"""A rollout as plain records, and back: what files hold of it, every number as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from itertools import groupby
from typing import Any

import torch

from paw_lightning.rollout_files import Header, RecordedEpisode, RecordedTurn, RolloutFile
from paw_lightning.rollout_files.reading import unpack as unpack_file
from paw_lightning.rollout_files.records import DEFAULTS
from paw_lightning.rollout_files.writing import pack as pack_file
from paw_lightning.types import Episode, Rollout, RolloutGroup, Transition

TRANSITION = [f.name for f in fields(Transition) if f.name in DEFAULTS[RecordedTurn]]
EPISODE = [f.name for f in fields(Episode) if f.name in DEFAULTS[RecordedEpisode]]
GROUP = [f.name for f in fields(RolloutGroup) if f.name in DEFAULTS[RecordedEpisode]]
"""The fields that a record has from the rollout, under the same name."""
SCORES = ("old_logprobs", "reference_logprobs", "old_values", "importance")
TENSORS = (*SCORES, "token_advantages", "value_targets")
"""Those that are tensors; what the advantage makes of the scores is made anew when they are read."""
LATER = {
    *("advantage", "token_advantages", "value_targets", "action_entropy", "selected"),
    *("target_mask", "counterfactual_mask", "control_ids", "control_mask", "target_sign"),
}
"""What an iteration writes after scoring."""
PLAYED = (
    "rollout/overlong_observations",
    "rollout/retried_episodes",
    "rollout/resampled_groups",
    "rollout/sampler_gap",
    "rollout/staleness",
)
"""Curves that playing and scoring write: nothing in the episodes would give them back."""


def record(groups: Sequence[RolloutGroup], left_out: Sequence[RolloutGroup] = ()) -> list[RecordedEpisode]:
    """Every episode, with what holds for its group."""
    return list(_episodes(groups, left_out))


def restore(file: RolloutFile) -> Rollout:
    """The rollout as it was when it had been scored: advantages, selection and coefficients are still to be written."""
    header = file.header
    groups = {left_out: list(_groups(file.episodes, left_out, header.float64)) for left_out in (False, True)}
    prints = {"policy": header.weights, "critic": header.critic, "reference": header.reference}
    return Rollout(
        header.iteration - 1,
        groups[False],
        temperature=header.temperature,
        demonstrated=header.demonstrated,
        left_out=groups[True],
        failures=header.failures,
        fingerprints={name: value for name, value in prints.items() if value},
        replayed=True,
        foreign_logprobs=header.foreign_logprobs,
        metrics={tag: header.metrics[tag] for tag in PLAYED if tag in header.metrics},
    )


def pack(rollout: Rollout, settings: dict[str, Any], seed: int) -> bytes:
    """A rollout that was played ahead, as a rollout file's content: nothing of it is scored yet.

    Args:
        settings: what it was played with.
        seed: of the run.
    """
    header = Header(
        iteration=rollout.iteration + 1,
        temperature=rollout.temperature,
        seed=seed,
        weights=rollout.fingerprints["policy"],
        settings=settings,
        demonstrated=rollout.demonstrated,
        failures=rollout.failures,
        metrics=rollout.metrics,
        seconds=rollout.seconds,
    )
    return pack_file(RolloutFile(header, record(rollout.groups, rollout.left_out)))


def unpack(packed: bytes) -> tuple[Rollout, Header]:
    """What `pack` was given, and its header; every number as it was."""
    file = unpack_file(packed, "the checkpoint's rollout")
    rollout = restore(file)
    rollout.replayed, rollout.ahead, rollout.seconds = False, True, file.header.seconds
    return rollout, file.header


def _episodes(groups: Sequence[RolloutGroup], left_out: Sequence[RolloutGroup]) -> Iterator[RecordedEpisode]:
    for number, group in enumerate([*groups, *left_out]):
        own = {name: getattr(group, name) for name in GROUP}
        for episode in group.episodes:
            values = own | {name: getattr(episode, name) for name in EPISODE}
            turns = [_turn(t) for t in episode.transitions]
            yield RecordedEpisode(group=number, left_out=number >= len(groups), turns=turns, **values)


def _turn(transition: Transition) -> RecordedTurn:
    own = vars(transition)
    values: dict[str, Any] = {name: own[name] for name in TRANSITION}
    for name in TENSORS:
        if values[name] is not None:
            values[name] = values[name].tolist()
    return RecordedTurn(**values)


def _groups(episodes: Sequence[RecordedEpisode], left_out: bool, doubles: Sequence[str]) -> Iterator[RolloutGroup]:
    kept = (episode for episode in episodes if episode.left_out is left_out)
    number: Callable[[RecordedEpisode], int] = lambda episode: episode.group  # noqa: E731
    for _, members in groupby(kept, number):
        played = list(members)
        first = played[0]
        yield RolloutGroup(
            first.group_key,
            first.max_return,
            [_episode(episode, doubles) for episode in played],
            environment=first.environment,
        )


def _episode(recorded: RecordedEpisode, doubles: Sequence[str]) -> Episode:
    values = {name: getattr(recorded, name) for name in EPISODE}
    return Episode(**values, transitions=[_transition(turn, doubles) for turn in recorded.turns])


def _transition(turn: RecordedTurn, doubles: Sequence[str]) -> Transition:
    values = {name: getattr(turn, name) for name in TRANSITION if name not in LATER}
    for name in SCORES:
        if values[name] is not None:
            dtype = torch.float64 if name in doubles else torch.float32
            values[name] = torch.tensor(values[name], dtype=dtype)
    values["nuisance_spans"] = [(start, stop) for start, stop in turn.nuisance_spans]
    return Transition(**values)
