"""Rows by hand: which tokens a mini-batch holds, what role they have, and what they weigh."""

from __future__ import annotations

import torch

from paw_lightning.rows import Row, Segment, collate
from tests.test_module import transition


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
            wm_coefficient=0.8,
        ),
        Row([Segment([10, 11]), Segment([61], "action", short, 0.1)], wm_coefficient=0.9),
    ]
    batch = collate(rows, 0, on_policy=False)
    assert batch.input_ids.tolist() == [[10, 11, 12, 60, 2, 1, 50, 70, 71, 72], [10, 11, 61, 0, 0, 0, 0, 0, 0, 0]]
    assert batch.input_ids[batch.action_mask].tolist() == [60, 2, 61]
    assert batch.input_ids[batch.observation_mask].tolist() == [70, 71, 72]
    assert batch.advantages.tolist() == [1.5, 1.5, -1.0]
    assert batch.old_logprobs.tolist() == [-1.0, -2.0, -3.0]
    torch.testing.assert_close(batch.policy_weights, torch.tensor([0.5, 0.5, 0.1]))
    assert batch.wm_weights.tolist() == [0.25] * 3
    torch.testing.assert_close(batch.wm_coefficients, torch.tensor([0.8] * 3))
