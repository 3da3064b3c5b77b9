"""From finished episodes to training rows, and from rows to padded mini-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Literal

import torch
from torch import Tensor

from paw_lightning.types import Minibatch, Rollout, Transition
from paw_lightning.weighting import wm_token_weights

Role = Literal["context", "action", "target"]
CODES: dict[Role, int] = {"context": 0, "action": 1, "target": 2}


@dataclass
class Segment:
    """A stretch of a row whose tokens have one role: read only, trained as policy, or predicted as world model."""

    ids: list[int]
    role: Role = "context"
    transition: Transition | None = None
    """Whose action it is, or whose true observation (observation_rows); None elsewhere."""
    weight: float = 0.0
    """What each token's loss is multiplied by. Of targets build_rows writes it; of actions the datamodule, as it
    depends on the mini-batch."""


@dataclass
class Row:
    """One training sequence: segments in the order in which the model reads them, all of one group."""

    segments: list[Segment]
    group: int = 0
    """Index g of the group."""
    wm_coefficient: float = 0.0
    """lambda_g."""

    @property
    def length(self) -> int:
        """Tokens of the row without padding."""
        return sum(len(segment.ids) for segment in self.segments)

    def having(self, role: Role) -> list[Segment]:
        """The segments of one role, in order."""
        return [segment for segment in self.segments if segment.role == role]

    def weightless(self) -> Row:
        """The row's first token as context: it is read, and counts in no loss and no metric."""
        return Row([Segment(self.segments[0].ids[:1])], self.group)


def build_rows(rollout: Rollout, *, horizon: int = 1, discount: float = 1.0, scale: float = 1.0) -> list[Row]:
    """Cut an update into rows: a new one begins at every transition that has a prompt of its own.

    So in the step layout every transition is a row, in the episode layout every episode is. Target weights are those
    of eqs. (9) and (11), lambda_g / (G |S_g| |o|), times `scale`; action weights are left at 0.

    With `horizon` n a selected transition teaches o_{t+1} to o_{t+n}, the later actions being given: step j has the
    share discount^(j-1) / sum of these over the steps that exist, so that the horizon changes what is predicted and
    not how much it weighs (choice: the paper predicts one step and names that a limit). The steps end with the
    episode, or before an observation that is not predicted.
    """
    transitions = rollout.transitions
    weights = wm_token_weights(
        [g for g, group in enumerate(rollout.groups) for _ in group.transitions],
        [t.wm_selected for t in transitions],
        [len(t.target_ids) for t in transitions],
        [group.wm_coefficient for group in rollout.groups],
    )
    left = iter(weights)
    rows = []
    for g, group in enumerate(rollout.groups):
        for episode in group.episodes:
            taught = [
                _target_weights(episode.transitions[i : i + horizon], next(left) * scale, discount)
                for i in range(len(episode.transitions))
            ]
            rows += [Row(s, g, group.wm_coefficient) for s in _episode_rows(episode.transitions, taught)]
    return rows


def policy_rows(transitions: Sequence[Transition]) -> list[Row]:
    """Rows of whole episodes' transitions without any target: what scoring reads."""
    return [Row(segments) for segments in _episode_rows(transitions, [[] for _ in transitions])]


def observation_rows(transitions: Sequence[Transition], wanted: Callable[[Transition], bool]) -> list[Row]:
    """Rows of whole episodes in which the wanted true observations are targets and all else is context.

    Selection, controls and weights play no part.
    """
    rows: list[Row] = []
    open_row: list[Segment] = []  # segments up to the latest observation, which may turn out to be the last
    for t in transitions:
        open_row = [Segment(t.prompt_ids)] if t.prompt_ids else [*open_row, Segment(t.turn_ids)]
        open_row += [Segment(t.action_ids), Segment(t.bridge_ids)]
        if t.observation_ids and wanted(t):
            if rows and rows[-1].segments[0] is open_row[0]:
                rows.pop()
            open_row.append(Segment(t.observation_ids, "target", t))
            rows.append(Row(list(open_row)))
        else:
            open_row.append(Segment(t.observation_ids))
    return rows


def _target_weights(steps: Sequence[Transition], weight: float, discount: float) -> list[float]:
    """Weight of each target token of steps 1, 2, ... that the first of these transitions teaches.

    `weight` is that of the first step if it were alone. Empty when the transition teaches nothing.
    """
    if not steps[0].target_ids:
        return []
    steps = list(takewhile(lambda t: t.predicted_ids, steps))
    if len({t.control_ids is None for t in steps}) > 1:
        raise ValueError(
            "within data.wm_horizon some observations are replaced by control targets and others are not; wanted all "
            "or none: set entropy_selection.alpha to 1, data.wm_horizon to 1, or target_control.targets to observation"
        )
    lengths = [len(t.predicted_ids) for t in steps]
    shares = [discount**j for j in range(len(steps))]
    return [
        weight * (lengths[0] / length) * (share / sum(shares)) for length, share in zip(lengths, shares, strict=True)
    ]


def _episode_rows(transitions: Sequence[Transition], taught: Sequence[Sequence[float]]) -> Iterator[list[Segment]]:
    """Cut one or several whole episodes into the segments of their rows.

    taught[i][j] is the weight with which transition i teaches step j + 1; these add up on the observation. A control
    that takes an observation's place cannot stand before a later action of the row: there it gets a row of its own,
    in which the true targets' place, context and weight are the same and actions are context.
    """
    starts = [i for i, t in enumerate(transitions) if t.prompt_ids]
    for start, stop in pairwise([*starts, len(transitions)]):
        weights: dict[int, float] = {}
        apart: list[dict[int, float]] = []
        for i in range(start, stop):
            steps = dict(enumerate(taught[i], start=i))
            if transitions[i].control_ids is not None and i < stop - 1:
                apart += [steps] if steps else []
                continue
            for place, weight in steps.items():
                weights[place] = weights.get(place, 0.0) + weight
        yield _segments(transitions, start, max([stop, *(place + 1 for place in weights)]), weights, stop)
        for steps in apart:
            yield _segments(transitions, start, max(steps) + 1, steps, start)


def _segments(
    transitions: Sequence[Transition], start: int, stop: int, weights: dict[int, float], acting: int
) -> list[Segment]:
    """transitions[start:stop] as one row; those before `acting` train the policy, those in `weights` are predicted."""
    segments = []
    for i in range(start, stop):
        t = transitions[i]
        segments.append(Segment(t.prompt_ids if i == start else t.turn_ids))
        segments.append(Segment(t.action_ids, "action", t) if i < acting else Segment(t.action_ids))
        if i in weights:
            segments += [Segment(t.bridge_ids), Segment(t.predicted_ids, "target", weight=weights[i])]
        elif i < stop - 1:
            segments += [Segment(t.bridge_ids), Segment(t.observation_ids)]
    return segments


def rectangle(rows: Sequence[Row], pad_token_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Right-pad rows: token ids, action mask and target mask, each [B, T].

    Right padding needs no attention mask under causal attention: no real token can see the padding after it.
    """
    width = max(row.length for row in rows)
    input_ids = torch.full((len(rows), width), pad_token_id, dtype=torch.long)
    roles = torch.zeros((len(rows), width), dtype=torch.uint8)
    for i, row in enumerate(rows):
        input_ids[i, : row.length] = torch.tensor([token for segment in row.segments for token in segment.ids])
        codes = [CODES[segment.role] for segment in row.segments for _ in segment.ids]
        roles[i, : row.length] = torch.tensor(codes, dtype=torch.uint8)
    return input_ids, roles == CODES["action"], roles == CODES["target"]


def collate(rows: Sequence[Row], pad_token_id: int, *, on_policy: bool) -> Minibatch:
    """Right-pad rows to one rectangle and gather what belongs to their tokens."""
    input_ids, action_mask, observation_mask = rectangle(rows, pad_token_id)
    actions = [segment for row in rows for segment in row.having("action")]
    targets = [(row, segment) for row in rows for segment in row.having("target")]
    old, reference = _scores(actions, lambda t: t.old_logprobs), _scores(actions, lambda t: t.reference_logprobs)
    assert old is not None, "scoring writes old_logprobs before collate"
    return Minibatch(
        input_ids=input_ids,
        action_mask=action_mask,
        observation_mask=observation_mask,
        advantages=torch.cat([torch.empty(0), *(_advantages(s.transition) for s in actions if s.transition)]),
        old_logprobs=old,
        reference_logprobs=reference,
        policy_weights=torch.tensor([s.weight for s in actions for _ in s.ids]),
        wm_weights=torch.tensor([s.weight for _, s in targets for _ in s.ids]),
        wm_coefficients=torch.tensor([row.wm_coefficient for row, s in targets for _ in s.ids]),
        on_policy=on_policy,
        old_values=_scores(actions, lambda t: t.old_values),
        value_targets=_scores(actions, lambda t: t.value_targets),
    )


def _advantages(t: Transition) -> Tensor:
    each = torch.full((len(t.action_ids),), t.advantage) if t.token_advantages is None else t.token_advantages
    return each if t.importance is None else each * t.importance  # the surrogate is linear in the advantage


def _scores(actions: Sequence[Segment], read: Callable[[Transition], Tensor | None]) -> Tensor | None:
    """One number per action token; None where the first action has none (a micro-batch may have no action at all)."""
    scores = [read(segment.transition) for segment in actions if segment.transition is not None]
    if any(score is None for score in scores):
        return None
    return torch.cat([torch.empty(0), *(score for score in scores if score is not None)])
