"""Task order and the cutting of updates."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paw_lightning.rollouts.tasks import TaskOrder
from paw_lightning.training.datamodule import RolloutDataModule
from paw_lightning.update.batches import UpdateCutter, action_weights, split_evenly, without_targets
from paw_lightning.update.rows import Row, policy_rows
from tests.helpers.updates import make_rollout, transition


def test_endless_tasks_are_never_repeated() -> None:
    tasks = TaskOrder(groups=3)
    assert [tasks.train(i, None) for i in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_finite_tasks_come_in_shuffled_passes() -> None:
    """5 tasks, 2 at a time: iterations 0..4 are two passes, each holding every task once."""
    order = TaskOrder(groups=2)
    tasks = [task for i in range(5) for task in order.train(i, 5)]
    assert sorted(tasks[:5]) == sorted(tasks[5:]) == [0, 1, 2, 3, 4]
    assert tasks[:5] != tasks[5:] or tasks[:5] != sorted(tasks[:5])
    assert order.train(3, 5) == TaskOrder(groups=2).train(3, 5), "a resumed run goes on in the same order"
    assert tasks != [task for i in range(5) for task in TaskOrder(groups=2, seed=1).train(i, 5)]


def test_every_iteration_owns_the_tasks_of_its_extra_rounds() -> None:
    """3 groups and 2 extra rounds: blocks of 9, of which each round takes 3, whether the others were played or not."""
    order = TaskOrder(groups=3, dynamic_sampling=2)
    assert [order.train(0, None, r) for r in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert order.train(1, None) == [9, 10, 11]
    tasks = [task for i in range(2) for r in range(3) for task in order.train(i, 20, r)]
    assert len(set(tasks)) == 18, "18 of one pass of 20"


def test_world_model_takes_its_turn_after_every_fourth_policy_step() -> None:
    """I = 4, 3 steps per iteration: of steps 0..14 in iterations 0..4, exactly 4, 9 and 14 are the world model's."""
    module = UpdateCutter(minibatches=3, world_model_interval=4)
    turns = [terms for i in range(5) for terms, _ in module.steps(replace(make_rollout(), iteration=i))]
    assert [i for i, terms in enumerate(turns) if terms == "world_model"] == [4, 9, 14]
    assert turns.count("policy") == 12


def test_each_loss_divides_the_whole_rollout_among_its_steps() -> None:
    """Iteration 1 of the above is P W P: the policy's two halves hold every action, the world model's part all."""
    rollout = replace(make_rollout(), iteration=1)
    steps = UpdateCutter(minibatches=3, world_model_interval=4).steps(rollout)
    policy_steps = [row for terms, rows in steps if terms == "policy" for row in rows]
    policy = [segment.ids[0] for row in policy_steps for segment in row.having("action")]
    assert sorted(policy) == sorted(t.action_ids[0] for t in rollout.transitions)
    assert not any(row.having("target") for row in policy_steps)
    [world] = [rows for terms, rows in steps if terms == "world_model"]
    # (0.5 + 1 + 0) / 3 groups, the whole of eq. 11 in one step
    targets = [segment for row in world for segment in row.having("target")]
    assert sum(segment.weight * len(segment.ids) for segment in targets) == pytest.approx(0.5)


def test_a_turn_without_anything_to_predict_learns_nothing() -> None:
    """Steps 0 to 2 of I = 2: the third is the world model's, and has rows but no target."""
    steps = UpdateCutter(minibatches=3, world_model_interval=2).steps(without_targets(make_rollout()))
    assert [terms for terms, _ in steps] == ["policy", "policy", "world_model"]
    assert steps[2][1] and not any(row.having("target") for row in steps[2][1])


def test_evaluation_plays_each_task_once() -> None:
    assert TaskOrder(evaluation_tasks={"val": 4}).evaluation("val", None) == [0, 1, 2, 3]
    assert TaskOrder(evaluation_tasks={"test": 10}).evaluation("test", 3) == [0, 1, 2]
    data = RolloutDataModule(validation_tasks=10, test_tasks=3, test_samples=2, evaluation_batch=4)
    asked = []
    data.stream_from(
        SimpleNamespace(
            evaluation_tasks=lambda split: data.tasks.evaluation(split, None),
            temperatures=lambda split: [1.0, 0.0] if split == "test" else [0.5],
            evaluate=lambda *question: asked.append(question),
        )
    )
    assert len(data.val_dataloader()) == 3
    assert [list(part.content or []) for part in data.val_dataloader()] == [[], [], []]
    assert asked == [("val", [0, 1, 2, 3], 1, 0.5), ("val", [4, 5, 6, 7], 1, 0.5), ("val", [8, 9], 1, 0.5)]
    # Two samples of each test task, at two temperatures: two tasks side by side make four episodes.
    asked.clear()
    assert len(data.test_dataloader()) == len(list(data.test_dataloader())) == 4
    assert asked == [("test", tasks, 2, temperature) for temperature in (1.0, 0.0) for tasks in ([0, 1], [2])]


def test_minibatches_partition_the_update() -> None:
    rollout = make_rollout()
    parts = UpdateCutter(minibatches=2).minibatch_rows(rollout)
    ids = sorted(id(segment.transition) for rows in parts for row in rows for segment in row.having("action"))
    assert ids == sorted(id(t) for t in rollout.transitions)


@pytest.mark.parametrize("control", [False, True])
def test_a_control_leaves_the_policy_steps_alone(control: bool) -> None:
    """Whole episodes as rows, several with controls in their midst: the actions of each step stay what they are."""
    rollout = make_rollout()
    for group in rollout.groups:
        for episode in group.episodes:
            for t in episode.transitions[1:]:
                t.prompt_ids, t.turn_ids = [], [5]

    def actions() -> list[list[tuple[int, float]]]:
        parts = UpdateCutter(minibatches=2).minibatch_rows(rollout)
        return [[(s.ids[0], s.weight) for row in rows for s in row.having("action")] for rows in parts]

    true = actions()
    for t in rollout.transitions:
        t.control_ids = [90] * len(t.observation_ids) if control else None
    assert actions() == true


def test_lost_rows_leave_steps_that_learn_nothing() -> None:
    """Six rows for seven steps: one each, and one token of context for the last."""
    with pytest.warns(UserWarning, match=r"6 rows for 7 optimizer steps: 1 of them.*data\.minibatches"):
        parts = UpdateCutter(minibatches=7).minibatch_rows(make_rollout())
    assert [len(rows) for rows in parts] == [1] * 7
    assert [len(rows[0].having("action")) for rows in parts] == [1] * 6 + [0]
    assert parts[-1][0].length == 1


@pytest.mark.parametrize(
    ("normalization", "weights"),
    [
        ("token_mean", [1 / 5, 1 / 5, 1 / 5]),  # 5 tokens
        ("sequence_mean", [1 / 3, 1 / 9, 1 / 3]),  # 3 actions that have any
        ("group_mean", [1 / 4, 1 / 6, 1 / 4]),  # 2 groups of 2 and 3 tokens
    ],
)
def test_an_action_without_tokens_counts_in_no_mean(normalization, weights: list[float]) -> None:
    """Actions of 1, 0, 3, 1 and 0 tokens, the last alone in its group: over all tokens the weights sum to 1."""
    lengths = [(0, 1), (0, 0), (1, 3), (0, 1), (2, 0)]
    found = action_weights(lengths, normalization)
    assert [w for w, (_, length) in zip(found, lengths, strict=True) if length] == weights
    assert sum(w * length for w, (_, length) in zip(found, lengths, strict=True)) == pytest.approx(1)
    assert action_weights([(0, 0), (1, 0)], normalization) == [0, 0]


def row(length: int) -> Row:
    """A prompt and one action token."""
    [made] = policy_rows([transition(length, [60], [], 0.0)])
    made.segments[1].weight = 1.0
    return made


@given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(1, 10))
def test_split_evenly_keeps_every_row_once_in_exactly_so_many_parts(lengths: list[int], parts: int) -> None:
    rows = [row(length) for length in lengths]
    pieces = split_evenly(rows, parts, lambda row: row.length)
    assert len(pieces) == parts and all(pieces)
    weighted = [id(row) for piece in pieces for row in piece if row.having("action")]
    assert sorted(weighted) == sorted(map(id, rows))
    fillers = [row for piece in pieces for row in piece if not row.having("action")]
    assert [row.length for row in fillers] == [1] * (parts - len(rows)), "a token of context where rows are short"


def test_split_evenly_balances_tokens() -> None:
    """Lengths 2..11 (prompt + 1), 65 tokens in 2 parts: 2..8 are 35, the rest 9+10+11 are 30."""
    rows = [row(length) for length in range(10, 0, -1)]
    first, second = split_evenly(rows, 2, lambda row: row.length)
    assert [row.length for row in first] == [2, 3, 4, 5, 6, 7, 8]
    assert [row.length for row in second] == [9, 10, 11]
