"""Rows by hand: which tokens a mini-batch holds, what role they have, and what they weigh."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from paw_lightning.models.loading import load_language_model
from paw_lightning.models.policy_world_model import PolicyWorldModel
from paw_lightning.types import Transition
from paw_lightning.update.batches import UpdateCutter, restrict
from paw_lightning.update.collate import branch_view, collate
from paw_lightning.update.rows import Branch, Row, Segment, build_rows
from tests.helpers.updates import FIRST, SECOND, controlled, rollout_of, transcript, transition


def test_collate_masks_name_the_right_tokens() -> None:
    """prompt 3 + action 2 + bridge 2 + observation 3 = 10 tokens beside a row of 2 + 1: padded with 0."""
    long = transition(3, [60, 2], [70, 71, 72], 1.5, old_logprobs=torch.tensor([-1.0, -2.0]))
    short = transition(2, [61], [73], -1.0, old_logprobs=torch.tensor([-3.0]))
    rows = [
        Row(
            [
                Segment([10, 11, 12]),
                Segment([60, 2], "action", long, 0.5),
                Segment([1, 50]),
                Segment([70, 71, 72], "target", weight=0.25),
            ],
            coefficient=0.8,
        ),
        Row([Segment([10, 11]), Segment([61], "action", short, 0.1)], coefficient=0.9),
    ]
    batch = collate(rows, on_policy=False)
    assert batch.input_ids.tolist() == [[10, 11, 12, 60, 2, 1, 50, 70, 71, 72], [10, 11, 61, 0, 0, 0, 0, 0, 0, 0]]
    assert batch.input_ids[batch.action_mask].tolist() == [60, 2, 61]
    assert batch.input_ids[batch.target_mask].tolist() == [70, 71, 72]
    assert batch.advantages.tolist() == [1.5, 1.5, -1.0]
    assert batch.old_logprobs.tolist() == [-1.0, -2.0, -3.0]
    torch.testing.assert_close(batch.policy_weights, torch.tensor([0.5, 0.5, 0.1]))
    assert batch.target_weights.tolist() == [0.25] * 3
    torch.testing.assert_close(batch.target_coefficients, torch.tensor([0.8] * 3))


def in_steps(transitions: list[Transition]) -> list[Transition]:
    """The same episode in the step layout, every prompt being the transcript up to there."""
    steps, prefix = [], []
    for t in transitions:
        prefix = prefix + (t.prompt_ids or t.turn_ids)
        steps.append(replace(t, prompt_ids=prefix))
        prefix = prefix + t.action_ids + t.bridge_ids + t.observation_ids
    return steps


def spell(row: Row) -> list[tuple[str, list[int], float]]:
    """Every segment of a row: role, ids, weight."""
    return [(s.role[0], s.ids, pytest.approx(s.weight)) for s in row.segments]


def test_an_episode_is_one_row() -> None:
    """One group, lambda 1/2, the second transition not selected: weights 0.5/(2*2) and 0.5/(2*3); the bridge is 1, 50.

    The unselected observation is context; the last one is appended because it is selected.
    """
    transitions = transcript(*FIRST)
    transitions[1].selected = False
    [row] = build_rows(rollout_of(transitions))
    assert spell(row) == [
        *[("c", [10, 11, 12], 0), ("a", [60, 2], 0), ("c", [1, 50], 0), ("t", [70, 71], 1 / 8)],
        *[("c", [13, 14], 0), ("a", [61, 62, 2], 0), ("c", [1, 50], 0), ("c", [72], 0)],
        *[("c", [15], 0), ("a", [63, 2], 0), ("c", [1, 50], 0), ("t", [73, 74, 75], 1 / 12)],
    ]
    transitions[2].selected = False
    assert build_rows(rollout_of(transitions))[0].segments[-1].role == "action", "nothing is appended"


def test_unselected_transitions_append_nothing_in_the_step_layout() -> None:
    steps = in_steps(transcript(*FIRST))
    steps[1].selected = False
    rows = build_rows(rollout_of(steps))
    assert [len(row.segments) for row in rows] == [4, 2, 4]
    assert rows[1].length == len(steps[1].prompt_ids) + 3


HORIZON = {"horizon": 2, "discount": 0.5}
TWO_STEPS = {  # group weight 1/2 / 3 transitions = 1/6, shares 2/3 and 1/3 of two steps, 1 of a single one
    "of 1 by 1": 1 / 6 * 2 / 3 / 2,
    "of 2 by 1": 1 / 6 * 1 / 3 / 1,
    "of 2 by 2": 1 / 6 * 2 / 3 / 1,
    "of 3 by 2": 1 / 6 * 1 / 3 / 3,
    "of 3 by 3": 1 / 6 * 1 / 3,
}


def test_two_steps_ahead_in_the_step_layout() -> None:
    """The row goes on with the next turn; its action is context. The last transition has one step only."""
    first, second, third = build_rows(rollout_of(in_steps(transcript(*FIRST))), **HORIZON)
    assert spell(first) == [
        *[("c", [10, 11, 12], 0), ("a", [60, 2], 0), ("c", [1, 50], 0), ("t", [70, 71], TWO_STEPS["of 1 by 1"])],
        *[("c", [13, 14], 0), ("c", [61, 62, 2], 0), ("c", [1, 50], 0), ("t", [72], TWO_STEPS["of 2 by 1"])],
    ]
    assert [s.weight for s in second.having("target")] == pytest.approx(
        [TWO_STEPS["of 2 by 2"], TWO_STEPS["of 3 by 2"]]
    )
    assert [s.weight for s in third.having("target")] == pytest.approx([TWO_STEPS["of 3 by 3"]])


def test_two_steps_ahead_add_up_in_the_episode_layout() -> None:
    [row] = build_rows(rollout_of(transcript(*FIRST)), **HORIZON)
    assert row.length == build_rows(rollout_of(transcript(*FIRST)))[0].length, "no extra token"
    assert [s.weight for s in row.having("target")] == pytest.approx(
        [
            TWO_STEPS["of 1 by 1"],
            TWO_STEPS["of 2 by 1"] + TWO_STEPS["of 2 by 2"],
            TWO_STEPS["of 3 by 2"] + TWO_STEPS["of 3 by 3"],
        ]
    )


@pytest.mark.parametrize("make", [lambda t: t, in_steps], ids=["episode", "step"])
@pytest.mark.parametrize("horizon", [1, 2, 5])
def test_the_horizon_does_not_change_how_much_is_weighed(make, horizon: int) -> None:
    """Over all targets the weights sum to the mean lambda of the groups, (0.5 + 1) / 2."""
    rows = build_rows(rollout_of(make(transcript(*FIRST)), make(transcript(*SECOND))), horizon=horizon, discount=0.3)
    total = math.fsum(s.weight * len(s.ids) for row in rows for s in row.having("target"))
    assert total == pytest.approx(0.75)


def test_an_observation_that_is_not_predicted_ends_the_horizon() -> None:
    """The second observation was overlong: the first transition has one step, the second teaches nothing."""
    steps = in_steps(transcript(*FIRST))
    steps[1].observation_ids = []
    rows = build_rows(rollout_of(steps), horizon=3)
    assert [[s.ids for s in row.having("target")] for row in rows] == [[[70, 71]], [], [[73, 74, 75]]]
    assert rows[0].having("target")[0].weight == pytest.approx(0.5 / (2 * 2))


def test_a_control_before_a_later_action_is_a_branch() -> None:
    """Later actions see the truth; place and weight are the true target's. Nothing follows the last: it stays."""
    true = build_rows(rollout_of(transcript(*FIRST)))[0]
    [row] = build_rows(rollout_of(controlled(transcript(*FIRST))))
    assert row.trunk[:17] == true.trunk[:17]
    assert [(s.role, s.ids) for s in row.having("action")] == [(s.role, s.ids) for s in true.having("action")]
    assert [s.ids for s in row.segments if s.role == "target"] == [[93, 94, 95]]
    assert [(branch.start, branch.target.ids) for branch in row.branches] == [(7, [90, 91]), (16, [92])]
    weights = [s.weight for s in true.having("target")]
    assert [s.weight for s in row.having("target")] == [weights[2], weights[0], weights[1]]
    assert row.length == true.length + (1 + 2) + (1 + 1), "each branch repeats the token that it follows"


@pytest.mark.parametrize("make", [lambda t: t, in_steps], ids=["episode", "step"])
def test_steps_ahead_weigh_controls_as_they_do_the_truth(make: Callable) -> None:
    """What a control stands for, and what it weighs, is the true target's; the text in between is true."""

    def weighed(transitions: list[Transition]) -> list[list[tuple[int, float]]]:
        rows = build_rows(rollout_of(make(transitions)), **HORIZON)
        return [sorted((len(s.ids), s.weight) for s in row.having("target")) for row in rows]

    assert weighed(controlled(transcript(*FIRST))) == weighed(transcript(*FIRST))
    first, *_ = build_rows(rollout_of(make(controlled(transcript(*FIRST)))), **HORIZON)
    assert 90 not in first.trunk, "the later action did not see it"


def test_positions_of_branches_stay_within_their_row() -> None:
    """Context of 2, action of 1, branch of 2 + 1 behind the row: it goes on at the place of the token it repeats."""
    row = Row([Segment([5, 6]), Segment([7]), Segment([8, 9])], branches=[Branch(3, Segment([90, 91], "target"))])
    positions, visible = branch_view([row, Row([Segment([5, 6])])])
    assert positions.tolist() == [[0, 1, 2, 3, 4, 2, 3, 4], [0, 1, 0, 0, 0, 0, 0, 0]]
    sees = [[place for place, seen in enumerate(line) if seen] for line in visible[0, 0].tolist()]
    assert sees[5:] == [[0, 1, 5], [0, 1, 5, 6], [0, 1, 5, 6, 7]]


def test_an_attention_that_cannot_branch_is_named(tiny_model_dir: str) -> None:
    model = PolicyWorldModel(load_language_model(tiny_model_dir))
    model.language_model.config._attn_implementation = "flash_attention_2"
    batch = collate(build_rows(rollout_of(controlled(transcript(*FIRST)))), on_policy=False)
    with pytest.raises(
        ValueError,
        match=r"model\.attention is 'flash_attention_2' \(full_attention\).*wanted sdpa.*target_control\.targets",
    ):
        model(batch.input_ids, batch.action_mask, batch.target_mask, 1.0, batch.position_ids, batch.visible)


def test_every_token_knows_its_action() -> None:
    """Three turns of one transcript, the second without a token, and a row of its own: 2, 0, 2 and 1 tokens."""
    turns = transcript(FIRST[0], ([13, 14], [], [72]), FIRST[2]) + transcript(([16], [64], [76]))
    [rows] = UpdateCutter(minibatches=1).minibatch_rows(rollout_of(turns[:3], turns[3:]))
    ordered = sorted(rows, key=lambda row: -row.length)
    assert collate(ordered, on_policy=False).action_index.tolist() == [0, 0, 1, 1, 2]
    assert restrict(collate(ordered, on_policy=False), "world_model").action_index.tolist() == []


def test_a_micro_batch_without_actions_can_be_collated() -> None:
    [row] = build_rows(rollout_of(transcript(*FIRST)))
    batch = collate([row.weightless()], on_policy=False)
    assert len(batch.old_logprobs) == len(batch.advantages) == len(batch.target_weights) == 0
