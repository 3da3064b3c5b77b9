"""From rows to one padded rectangle of token ids, with what belongs to each token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from paw_lightning.types import MicroBatch, Transition
from paw_lightning.update.rows import Role, Row, Segment

CODES: dict[Role, int] = {"context": 0, "action": 1, "target": 2}


def rectangle(rows: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor]:
    """Right-pad rows: token ids, action mask and target mask, each [B, T].

    Right padding needs no attention mask under causal attention: no real token can see the padding after it, so any
    token will do. Branches stand behind their row, in order, and need the mask of `branch_view`.
    """
    width = max(row.length for row in rows)
    input_ids = torch.zeros((len(rows), width), dtype=torch.long)
    roles = torch.zeros((len(rows), width), dtype=torch.uint8)
    for i, row in enumerate(rows):
        tokens = row.trunk
        codes = [CODES[role] for segment in row.segments for role in segment.roles]
        for branch in row.branches:
            tokens += [tokens[branch.start - 1], *branch.target.ids]
            codes += [CODES["context"], *(CODES[role] for role in branch.target.roles)]
        input_ids[i, : len(tokens)] = torch.tensor(tokens)
        roles[i, : len(codes)] = torch.tensor(codes, dtype=torch.uint8)
    return input_ids, roles == CODES["action"], roles == CODES["target"]


def branch_view(rows: Sequence[Row]) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Position ids long [B, T] and visibility bool [B, 1, T, T] of rows with branches; nothing where there are none.

    A branch sees the row up to where it begins, and itself: the model reads it as if nothing else came after.
    Padding is at position 0, so that no position is beyond those of the texts: a row with its branches may be wider
    than the model's window, and some models scale positions by the largest.
    """
    if not any(row.branches for row in rows):
        return None, None
    width = max(row.length for row in rows)
    positions = torch.zeros(len(rows), width, dtype=torch.long)
    visible = torch.ones(width, width, dtype=torch.bool).tril().repeat(len(rows), 1, 1, 1)
    for i, row in enumerate(rows):
        begin = row.trunk_length
        positions[i, :begin] = torch.arange(begin)
        for branch in row.branches:
            end = begin + 1 + len(branch.target.ids)
            positions[i, begin:end] = torch.arange(branch.start - 1, branch.start - 1 + end - begin)
            visible[i, 0, begin:end, branch.start - 1 : begin] = False
            begin = end
    return positions, visible


def collate(
    rows: Sequence[Row],
    *,
    on_policy: bool,
    temperature: float = 1.0,
    foreign_logprobs: bool = False,
    demonstrated: bool = False,
    idle: bool = False,
) -> MicroBatch:
    """Right-pad rows to one rectangle and gather what belongs to their tokens."""
    input_ids, action_mask, target_mask = rectangle(rows)
    actions = [segment for row in rows for segment in row.having("action")]
    targets = [(row, segment) for row in rows for segment in row.having("target")]
    old, reference = _scores(actions, lambda t: t.old_logprobs), _scores(actions, lambda t: t.reference_logprobs)
    assert old is not None, "scoring writes old_logprobs before collate"
    position_ids, visible = branch_view(rows)
    return MicroBatch(
        input_ids=input_ids,
        action_mask=action_mask,
        target_mask=target_mask,
        advantages=torch.cat([torch.empty(0), *(_advantages(s.transition) for s in actions if s.transition)]),
        old_logprobs=old,
        reference_logprobs=reference,
        action_index=_action_index([len(s.ids) for s in actions]),
        policy_weights=torch.tensor([s.weight for s in actions for _ in s.ids]),
        target_weights=torch.tensor([s.weight for _, s in targets for _ in range(s.count)]),
        target_coefficients=torch.tensor([row.coefficient for row, s in targets for _ in range(s.count)]),
        on_policy=on_policy and not demonstrated,
        old_values=_scores(actions, lambda t: t.old_values),
        value_targets=_scores(actions, lambda t: t.value_targets),
        position_ids=position_ids,
        visible=visible,
        temperature=temperature,
        idle=idle,
        tokens=sum(row.length for row in rows),
        predicted=[s.transition for _, s in targets if s.transition is not None],
        unit_ratio=demonstrated or (on_policy and not foreign_logprobs),
    )


def _action_index(lengths: Sequence[int]) -> Tensor:
    """0, 0, 1, ...: the number of each token's action. An action without a token has none, so that all are below N."""
    lengths = [length for length in lengths if length]
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths, dtype=torch.long))


def _advantages(t: Transition) -> Tensor:
    each = torch.full((len(t.action_ids),), t.advantage) if t.token_advantages is None else t.token_advantages
    return each if t.importance is None else each * t.importance  # the surrogate is linear in the advantage


def _scores(actions: Sequence[Segment], read: Callable[[Transition], Tensor | None]) -> Tensor | None:
    """One number per action token; None where the first action has none (a micro-batch may have no action at all)."""
    scores = [read(segment.transition) for segment in actions if segment.transition is not None]
    if any(score is None for score in scores):
        return None
    return torch.cat([torch.empty(0), *(score for score in scores if score is not None)])
