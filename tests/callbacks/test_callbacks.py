"""PaW's two selecting callbacks and what a person sees of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from paw_lightning.callbacks import EntropySelection, RewardBalance, TargetControl
from paw_lightning.callbacks.rollout_curves import rollout_metrics
from paw_lightning.callbacks.rollout_samples import render
from paw_lightning.training.module import PaWModule
from paw_lightning.types import Rollout
from tests.helpers import runs
from tests.helpers.updates import make_rollout, weigh


def selected(rollout: Rollout) -> list[bool]:
    return [t.selected for t in rollout.transitions]


def test_selection_is_over_the_whole_update() -> None:
    """Six transitions in three groups, mean entropies 1..6: alpha 0.5 keeps ceil(3) = 3, the last ones."""
    rollout = make_rollout()
    for entropy, t in enumerate(rollout.transitions, start=1):
        t.token_entropies = [entropy - 0.5, entropy + 0.5]
    EntropySelection(alpha=0.5).select(rollout, seed=1)
    assert selected(rollout) == [False, False, False, True, True, True]
    assert rollout.metrics["wm/selected_fraction"] == 0.5
    assert rollout.metrics["wm/entropy_threshold"] == 4.0
    assert rollout.metrics["rollout/action_entropy"] == 3.5


@pytest.mark.parametrize(("alpha", "count"), [(0.0, 0), (0.1, 1), (0.75, 5), (1.0, 6)])
def test_selection_keeps_the_ceiling(alpha: float, count: int) -> None:
    """ceil(0.1 * 6) = 1, ceil(0.75 * 6) = ceil(4.5) = 5."""
    rollout = make_rollout()
    EntropySelection(alpha=alpha).select(rollout, seed=1)
    assert sum(selected(rollout)) == count


def test_reward_balance_is_per_group() -> None:
    """R_max 2; group returns 0, 1 and 2 in single episodes: lambda 1, 0.5 and 0; their mean is 0.5."""
    rollout = make_rollout()
    for reward, group in enumerate(rollout.groups):
        group.transitions[0].reward = float(reward)
    weigh(RewardBalance(max_return=2.0), rollout)
    assert [group.coefficient for group in rollout.groups] == [1.0, 0.5, 0.0]
    assert rollout.metrics["wm/coefficient"] == 0.5


def test_constant_balance() -> None:
    rollout = make_rollout()
    weigh(RewardBalance(coefficient="constant", value=0.05), rollout)
    assert [group.coefficient for group in rollout.groups] == [0.05] * 3


def test_nothing_selected_needs_no_largest_return() -> None:
    rollout = make_rollout()
    for group in rollout.groups:
        group.max_return = None
    for t in rollout.transitions:
        t.selected = False
    weigh(RewardBalance(), rollout)


def controlled(rollout: Rollout, targets: str, module) -> list[list[int]]:
    """The update's targets under a control."""
    TargetControl(targets).replace(rollout, module.tokenizer, horizon=1, seed=1)
    return [t.target_ids for t in rollout.transitions]


def test_shuffled_targets_are_the_same_observations_elsewhere(tiny_model_dir: str) -> None:
    module, rollout = PaWModule(tiny_model_dir), make_rollout()
    true = [t.target_ids for t in rollout.transitions]
    shuffled = controlled(rollout, "shuffled", module)
    assert shuffled != true and sorted(shuffled) == sorted(true)
    assert [bool(ids) for ids in shuffled] == [t.selected for t in rollout.transitions]
    assert controlled(make_rollout(), "shuffled", module) == shuffled, "a resumed run shuffles alike"


def test_random_targets_have_the_same_lengths_and_no_control_tokens(tiny_model_dir: str) -> None:
    module, rollout = PaWModule(tiny_model_dir), make_rollout()
    true = [t.target_ids for t in rollout.transitions]
    drawn = controlled(rollout, "random_tokens", module)
    assert drawn != true and list(map(len, drawn)) == list(map(len, true))
    assert not set(module.tokenizer.all_special_ids) & {i for ids in drawn for i in ids}


def test_true_targets_are_left_alone(tiny_model_dir: str) -> None:
    rollout = make_rollout()
    true = [t.target_ids for t in rollout.transitions]
    assert controlled(rollout, "observation", PaWModule(tiny_model_dir)) == true


def test_rollout_metrics_by_hand() -> None:
    """Three one-episode groups of 3, 2 and 1 turns; only the second is won, with return 4."""
    rollout = make_rollout()
    rollout.groups[1].episodes[0].won = True
    rollout.groups[1].transitions[-1].reward = 4.0
    rollout.groups[0].transitions[0].admissible = False
    metrics = rollout_metrics(rollout)
    assert metrics["rollout/return"] == pytest.approx(4 / 3)
    assert metrics["rollout/success_rate"] == pytest.approx(1 / 3)
    assert metrics["rollout/episode_length"] == 2.0
    assert metrics["rollout/valid_action_rate"] == pytest.approx(5 / 6)
    assert metrics["rollout/all_fail_groups"] == pytest.approx(2 / 3)
    assert metrics["rollout/all_success_groups"] == pytest.approx(1 / 3)
    assert metrics["rollout/zero_variance_groups"] == 1.0, "a share: groups of one have no variance"


def test_rendered_episode_cannot_break_out_of_its_block() -> None:
    rollout = make_rollout()
    group = rollout.groups[0]
    group.transitions[0].observation_text = "# headline\n<script>"
    text = render(group, group.episodes[0])
    assert all(line.startswith("    ") for line in text.split("\n"))
    assert "# headline" in text and "not admissible" not in text


def test_episodes_and_report_of_a_run(tiny_model_dir: str, tmp_path: Path, caplog) -> None:
    with caplog.at_level("INFO"):
        cli = runs.fit(
            tmp_path,
            tiny_model_dir,
            trainer__num_sanity_val_steps=-1,
            success_report__next_command="try this",
        )
    events = EventAccumulator(str(runs.log_dir(cli)), size_guidance={"tensors": 0})
    events.Reload()
    texts = [tag for tag in events.Tags()["tensors"] if tag.startswith("episodes/")]
    assert 2 <= len(texts) <= 4 and len(events.Tensors(texts[0])) == 2, "one or two of each group, each iteration"
    values = list(runs.curves(cli)["val/success_rate"].values())
    assert len(values) == 3, "before training, and after each iteration"
    report = f"success on unseen tasks: {values[0]:.1%} -> {values[-1]:.1%}"
    assert report in caplog.text
    assert str(runs.log_dir(cli)) in caplog.text and "try this" in caplog.text


def test_unpaired_surrogates_can_be_written() -> None:
    rollout = make_rollout()
    rollout.groups[0].transitions[0].observation_text = "half \ud800 a pair"
    assert "half ? a pair" in render(rollout.groups[0], rollout.groups[0].episodes[0])
