"""Groups that dynamic sampling leaves out of the policy's update and that still teach the world model."""

from __future__ import annotations

import pytest

from paw_lightning.callbacks import EntropySelection, RewardBalance
from paw_lightning.errors import SettingsError
from paw_lightning.rollout_files import read, rollout_files
from paw_lightning.training.datamodule import RolloutDataModule
from paw_lightning.types import Rollout
from paw_lightning.update.batches import UpdateCutter, without_targets
from paw_lightning.update.collate import collate
from paw_lightning.update.rows import build_rows
from tests.helpers import runs
from tests.helpers.factories import make_group
from tests.helpers.updates import FIRST, SECOND, rollout_of, transcript, weigh


def split(teach: bool = True) -> Rollout:
    """Two groups that train the policy, one that was left out; each of one episode, all selected."""
    rollout = rollout_of(transcript(*FIRST), transcript(*SECOND), transcript(*SECOND))
    rollout.left_out = [rollout.groups.pop()]
    rollout.left_out_teach = teach
    return rollout


def test_rows_and_weights_by_hand() -> None:
    """lambda is 1/2, 1, 3/2; G is 3: 0.5 / (3*3*|o|), 1 / (3*2*|o|), 1.5 / (3*2*|o|) for |o| = 2 1 3, 3 2, 3 2."""
    rows = build_rows(split())
    assert [row.group for row in rows] == [0, 1, 2]
    weights = [[s.weight for s in row.having("target")] for row in rows]
    assert weights == [
        pytest.approx([1 / 36, 1 / 18, 1 / 54]),
        pytest.approx([1 / 18, 1 / 12]),
        pytest.approx([1 / 12, 1 / 8]),
    ]
    assert [len(row.having("action")) for row in rows] == [3, 2, 0], "its actions train nothing"
    assert rows[2].trunk == rows[1].trunk, "and are read all the same"
    [left_out] = rows[2:]
    batch = collate([left_out], on_policy=True)
    assert not batch.action_mask.any() and len(batch.policy_weights) == len(batch.old_logprobs) == 0
    assert batch.target_coefficients.tolist() == [1.5] * 5


def test_without_the_key_they_are_not_there() -> None:
    """G is 2 again: 0.5 / (2*3*2) for the first token."""
    rows = build_rows(split(teach=False))
    assert len(rows) == 2 and rows[0].having("target")[0].weight == pytest.approx(1 / 24)


def test_a_row_ends_with_its_last_target_and_none_is_built_for_nothing() -> None:
    rollout = split()
    rollout.left_out[0].transitions[1].selected = False
    row = build_rows(rollout)[2]
    assert row.trunk == [16, 17, 64, 2, 1, 50, 76, 77, 78], "what comes after the target is not read"
    rollout.left_out[0].coefficient = 0.0  # a group that always won: eq. 10 gives it nothing
    assert [row.group for row in build_rows(rollout)] == [0, 1]


def test_selection_and_balance_are_those_of_all_that_was_played() -> None:
    """Two episodes of two turns each, one of each kind, alpha 0.5: ceil(0.5 * 8) = 4 of the highest entropies.

    Those are the left-out group's, whose mean return 0 gives it lambda 1; the other's, of 1 and 0, is 1 - 0.5.
    """
    trained, failed = make_group([1.0, 0.0], [2, 2], max_return=1.0), make_group([0.0, 0.0], [2, 2], max_return=1.0)
    for t in failed.transitions:
        t.token_entropies = [2.0]
    rollout = Rollout(0, [trained], left_out=[failed], left_out_teach=True)
    EntropySelection(alpha=0.5).select(rollout, seed=0)
    assert [t.selected for t in trained.transitions] == [False] * 4 and all(t.selected for t in failed.transitions)
    weigh(RewardBalance(), rollout)
    assert (trained.coefficient, failed.coefficient) == (0.5, 1.0)
    assert rollout.metrics["wm/coefficient"] == 0.75 and rollout.metrics["wm/selected_fraction"] == 0.5


def test_each_step_has_its_share_of_the_actions() -> None:
    """Twelve rows that act and twelve that do not, in four steps: three of each in every one."""
    steps = [transcript(*SECOND) for _ in range(24)]
    rollout = rollout_of(*steps)
    rollout.left_out, rollout.groups, rollout.left_out_teach = rollout.groups[12:], rollout.groups[:12], True
    parts = UpdateCutter(minibatches=4).minibatch_rows(rollout)
    assert [sum(bool(row.having("action")) for row in part) for part in parts] == [3] * 4
    assert [len(part) for part in parts] == [6] * 4
    for part in parts:
        total = sum(s.weight * len(s.ids) for row in part for s in row.having("action"))
        assert total == pytest.approx(1.0), "the policy's weights are those of its own actions"


def test_steps_of_the_policy_alone_leave_them_out() -> None:
    assert len(build_rows(without_targets(split()))) == 2


def test_the_key_needs_dynamic_sampling() -> None:
    with pytest.raises(SettingsError, match=r"data\.left_out_teach is true and data\.dynamic_sampling is 0"):
        RolloutDataModule(left_out_teach=True)


@pytest.fixture(scope="module")
def taught(tiny_model_dir: str, tmp_path_factory: pytest.TempPathFactory):
    return runs.fit(tmp_path_factory.mktemp("taught"), tiny_model_dir, **SAMPLED, data__left_out_teach=True)


SAMPLED = {
    "trainer__limit_val_batches": 0,
    "trainer__max_epochs": 2,
    "policy_export__folder": None,
    "data__groups": 3,
    "data__dynamic_sampling": 2,
    "target_control__targets": "noise_sign",
    "target_control__filter": "paw_lightning.world_model.filters.without_numbers",
    "reward_balance__coefficient": "constant",
    "rollout__layout": "episode",
    "seed_everything": 3,
}


def test_a_run_records_what_they_have_taught(taught) -> None:
    """Of a left-out turn the file has selection, lambda and log-probs of its targets, and no policy score."""
    for path in rollout_files(runs.log_dir(taught)):
        file = read(path)
        turns = [(e, t) for e in file.episodes for t in e.turns if e.left_out and t.selected]
        assert turns
        for episode, t in turns:
            assert episode.coefficient == 1.0 and t.old_logprobs is None
            assert t.target_logprobs is not None and len(t.target_logprobs) == sum(t.target_mask)
            assert t.target_weight != 0 and (t.target_weight > 0) == (t.target_sign > 0)
            # "turn 1: 5 letters": its digits are no targets
            out = [i for i, allowed in zip(t.observation_ids, t.target_mask, strict=True) if not allowed]
            assert out and all(file.header.texts[i].isdigit() for i in out)


def test_a_replay_of_it_is_the_run_itself(taught, tiny_model_dir: str, tmp_path) -> None:
    replay = {"data__left_out_teach": True, "data__replay": runs.log_dir(taught)}
    runs.assert_same_end(taught, runs.fit(tmp_path, tiny_model_dir, **SAMPLED, **replay))
