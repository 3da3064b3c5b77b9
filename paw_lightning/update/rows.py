"""From finished episodes to training rows: what is read, what trains the policy, what is predicted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from typing import Literal

from paw_lightning.types import Rollout, Transition
from paw_lightning.world_model.loss import target_token_weights

Role = Literal["context", "action", "target"]


@dataclass
class Segment:
    """A stretch of a row whose tokens have one role: read only, trained as policy, or predicted as world model."""

    ids: list[int]
    role: Role = "context"
    transition: Transition | None = None
    """Whose action it is, or whose observation is predicted; None of context."""
    weight: float = 0.0
    """What each token's loss is multiplied by. Of targets build_rows writes it; of actions UpdateCutter, as it
    depends on the mini-batch."""
    mask: list[bool] | None = None
    """Which of the tokens have the role, the others being context; None: all have it."""

    @property
    def roles(self) -> list[Role]:
        """Each token's role."""
        if self.mask is None:
            return [self.role] * len(self.ids)
        return [self.role if own else "context" for own in self.mask]

    @property
    def count(self) -> int:
        """Tokens that have the role."""
        return len(self.ids) if self.mask is None else sum(self.mask)


@dataclass
class Branch:
    """A target that a row predicts without reading it: what comes later in the row sees the true text instead."""

    start: int
    """Tokens of the row that come before it."""
    target: Segment


@dataclass
class Row:
    """One training sequence: segments in the order in which the model reads them, all of one group."""

    segments: list[Segment]
    group: int = 0
    """Index g of the group."""
    coefficient: float = 0.0
    """lambda_g."""
    branches: list[Branch] = field(default_factory=list)

    @property
    def trunk(self) -> list[int]:
        """Token ids of the segments."""
        return [token for segment in self.segments for token in segment.ids]

    @property
    def trunk_length(self) -> int:
        """Tokens of the segments."""
        return sum(len(segment.ids) for segment in self.segments)

    @property
    def length(self) -> int:
        """Tokens of the row without padding; a branch repeats the token before it, from which it is predicted."""
        return self.trunk_length + sum(1 + len(branch.target.ids) for branch in self.branches)

    def having(self, role: Role) -> list[Segment]:
        """The segments of one role, in the order of their tokens in the rectangle."""
        branches = [branch.target for branch in self.branches]
        return [segment for segment in [*self.segments, *branches] if segment.role == role]

    def weightless(self) -> Row:
        """The row's first token as context: it is read, and counts in no loss and no metric."""
        return Row([Segment(self.segments[0].ids[:1])], self.group)


def build_rows(rollout: Rollout, *, horizon: int = 1, discount: float = 1.0, scale: float = 1.0) -> list[Row]:
    """Cut an update into rows: a new one begins at every transition that has a prompt of its own.

    So in the step layout every transition is a row, in the episode layout every episode is. Target weights are those
    of eqs. (9) and (11), lambda_g / (G |S_g| |o|), times `scale`; action weights are left at 0.

    Groups that were left out of the policy's update and still teach have rows without actions, each up to its last
    target. G counts them too: the world model's term is that of all that was played, as if none had been left out
    (choice: the paper does not say).

    With `horizon` n a selected transition teaches o_{t+1} to o_{t+n}, the later actions being given: step j has the
    share discount^(j-1) / sum of these over the steps that exist, so that the horizon changes what is predicted and
    not how much it weighs (choice: the paper predicts one step and names that a limit). The steps end with the
    episode, or before an observation that is not predicted.
    """
    transitions = rollout.teaching_transitions
    weights = target_token_weights(
        [g for g, group in enumerate(rollout.teaching) for _ in group.transitions],
        [t.selected for t in transitions],
        [len(t.target_ids) for t in transitions],
        [group.coefficient for group in rollout.teaching],
    )
    left = iter(weights)
    rows: list[Row] = []
    for g, group in enumerate(rollout.teaching):
        for episode in group.episodes:
            taught = [
                _target_weights(episode.transitions[i : i + horizon], next(left) * t.target_sign * scale, discount)
                for i, t in enumerate(episode.transitions)
            ]
            for row in _episode_rows(episode.transitions, taught, acts=g < len(rollout.groups)):
                row.group, row.coefficient = g, group.coefficient
                rows.append(row)
    return rows


def policy_rows(transitions: Sequence[Transition]) -> list[Row]:
    """Rows of whole episodes' transitions without any target: what scoring reads."""
    return list(_episode_rows(transitions, [[] for _ in transitions]))


def observation_rows(transitions: Sequence[Transition], wanted: Callable[[Transition], bool]) -> list[Row]:
    """Rows of whole episodes in which the wanted true observations are targets and all else is context.

    Selection, controls and weights play no part.
    """
    rows: list[Row] = []
    open_row: list[Segment] = []  # segments up to the latest observation, which may turn out to be the last
    for t in transitions:
        open_row = [Segment(t.prompt_ids)] if t.begins_row else [*open_row, Segment(t.turn_ids)]
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
    lengths = list(takewhile(bool, (t.predicted_count for t in steps)))
    shares = [discount**j for j in range(len(lengths))]
    return [
        weight * (lengths[0] / length) * (share / sum(shares)) for length, share in zip(lengths, shares, strict=True)
    ]


def _episode_rows(
    transitions: Sequence[Transition], taught: Sequence[Sequence[float]], *, acts: bool = True
) -> Iterator[Row]:
    """Cut one or several whole episodes into rows.

    taught[i][j] is the weight with which transition i teaches step j + 1; these add up on the observation. Where no
    action trains the policy, a row that teaches nothing is not needed.
    """
    starts = [i for i, t in enumerate(transitions) if t.begins_row]
    for start, stop in pairwise([*starts, len(transitions)]):
        weights: dict[int, float] = {}
        for i in range(start, stop):
            for place, weight in enumerate(taught[i], start=i):
                weights[place] = weights.get(place, 0.0) + weight
        if not acts:
            weights = {place: weight for place, weight in weights.items() if weight}
            if not weights:
                continue
        end = max([stop if acts else 0, *(place + 1 for place in weights)])
        yield _row(transitions[start:end], {i - start: w for i, w in weights.items()}, (stop - start) * acts)


def _row(transitions: Sequence[Transition], weights: dict[int, float], acting: int) -> Row:
    """Transitions as one row; the first `acting` train the policy, those in `weights` are predicted.

    A control that takes an observation's place cannot stand before a later action, which saw the truth: it is a
    branch. So the rows of an update, its actions and what they see are the same under every control.
    """
    row = Row([])
    for i, t in enumerate(transitions):
        last = i == len(transitions) - 1
        # What was read, and the action
        row.segments.append(Segment(t.prompt_ids if i == 0 else t.turn_ids))
        row.segments.append(Segment(t.action_ids, "action", t) if i < acting else Segment(t.action_ids))
        if last and i not in weights:
            break  # nothing reads what follows the last action
        # The turn boundary, and the observation: a target, context, or context beside a branch
        row.segments.append(Segment(t.bridge_ids))
        if i in weights:
            target = Segment(t.predicted_ids, "target", t, weights[i], t.predicted_mask)
            if last or t.control_ids is None:
                row.segments.append(target)
                continue
            row.branches.append(Branch(row.trunk_length, target))
        row.segments.append(Segment(t.observation_ids))
    return row
