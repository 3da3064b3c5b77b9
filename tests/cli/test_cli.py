"""The command line: what it shows, and that bad input is named before anything is lost."""

from __future__ import annotations

import logging
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from paw_lightning.callbacks import EntropySelection, EnvironmentLoop
from paw_lightning.cli import check_checkpoint, main
from paw_lightning.envs.search.env import SearchEnv
from paw_lightning.policy.advantages import GRPO
from paw_lightning.rollouts.collector import Collector
from tests.helpers import runs
from tests.helpers.runs import PPO
from tests.helpers.toy_env import ToyEnv

NO_REWARD = {"rollout__advantage": "paw_lightning.policy.advantages.NoReward"}
PPO_CHANGES = [
    {"model__critic": "separate"},
    {"model__critic_learning_rate": 0.1},
    {"model__value_loss__coefficient": 5.0},
    {"model__value_loss__clip": 0.0001},
    {"rollout__advantage__whiten": "false"},
    {"rollout__advantage__gamma": 0.5},
    {"rollout__advantage__gae_lambda": 0.5},
]
TAGS = [
    "rollout/return",
    "rollout/success_rate",
    "rollout/episode_length",
    "rollout/valid_action_rate",
    "rollout/all_fail_groups",
    "rollout/all_success_groups",
    "train/policy_loss",
    "train/wm_loss",
    "train/approx_kl",
    "train/clip_fraction",
    "train/entropy",
    "train/grad_norm",
    "wm/selected_fraction",
    "wm/entropy_threshold",
    "wm/coefficient",
    "wm/effective_weight",
    "wm/observation_nll",
    "wm/active_token_fraction",
    "time/rollout_s",
    "time/update_s",
    "val/success_rate",
]


def test_every_promised_curve_has_a_point_per_iteration(tiny_model_dir: str, tmp_path: Path) -> None:
    cli = runs.fit(tmp_path, tiny_model_dir)
    curves = runs.curves(cli)
    assert [tag for tag in TAGS if len(curves.get(tag, {})) != 2] == []
    assert 0 <= curves["rollout/logprob_gap"][1] < 1e-5, "sampler and trainer agree"


@pytest.mark.parametrize("targets", ["observation", "shuffled"])
def test_the_episode_layout_runs(targets: str, tiny_model_dir: str, tmp_path: Path) -> None:
    """Six episodes are six rows, and rows of controls besides; the session's log-probs are the trainer's."""
    settings = {"rollout__layout": "episode", "target_control__targets": targets, "entropy_selection__alpha": 1}
    cli = runs.fit(tmp_path, tiny_model_dir, model__policy_loss__kl_coefficient=0.1, **settings)
    curves = runs.curves(cli)
    assert [tag for tag in TAGS if tag != "wm/entropy_threshold" and len(curves.get(tag, {})) != 2] == []
    assert 0 <= curves["rollout/logprob_gap"][1] < 1e-5, "sampler and trainer agree"
    assert curves["rollout/context_overflows"][1] == curves["rollout/history_truncations"][1] == 0


def test_a_learning_run_moves_the_weights_from_the_first_iteration(tiny_model_dir: str, tmp_path: Path) -> None:
    cli = runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=1)
    assert cli.trainer.global_step == 2, "two optimizer steps in the first iteration"


def test_alpha_zero_switches_every_world_model_setting_off(tiny_model_dir: str, tmp_path: Path) -> None:
    """With nothing selected the run is plain GRPO, bit for bit, whatever PaW's other keys say."""
    plain = runs.fit(tmp_path / "a", tiny_model_dir, entropy_selection__alpha=0)
    other = runs.fit(
        tmp_path / "b",
        tiny_model_dir,
        entropy_selection__alpha=0,
        model__world_model_loss__kind="cross_entropy",
        reward_balance__coefficient="constant",
    )
    paw = runs.fit(tmp_path / "c", tiny_model_dir)
    for name, tensor in runs.weights(plain).items():
        assert torch.equal(tensor, runs.weights(other)[name]), name
    assert any(not torch.equal(t, runs.weights(paw)[n]) for n, t in runs.weights(plain).items()), "PaW does something"


@pytest.mark.parametrize(
    "change",
    [
        {"entropy_selection__alpha": 1.0},
        {"entropy_selection__entropy": "sampled"},
        {"entropy_selection__rule": "random"},
        {"entropy_selection__rule": "lowest_probability"},
        {"reward_balance__value": 0.5},
        {"reward_balance__coefficient": "linear", "reward_balance__anneal_iterations": 2},
        {"reward_balance__match_weight_of": "cross_entropy"},
        {"reward_balance__coefficient": "constant"},
        {"reward_balance__max_return": 2.0},
        {"model__world_model_loss__kind": "cross_entropy"},
        {"model__world_model_loss__rho": 0.001},
        {"model__world_model_head": "separate"},
        {"model__policy_loss__entropy_coefficient": 0.1},
        {"model__policy_loss__kl_coefficient": 1.0},
        {"model__policy_loss__clip_high": 0.0, "model__policy_loss__clip_low": 0.0},
        {"data__normalization": "group_mean"},
        {"data__minibatches": 1},
        {"rollout__advantage": "paw_lightning.policy.advantages.RLOO"},
        {"rollout__temperature": 0.5},
        {"rollout__prompt__history_length": 0},
        {"rollout__max_observation_tokens": 5},
        NO_REWARD,
        PPO,
        {"data__world_model_interval": 1},
        {"target_control__targets": "shuffled"},
        {"target_control__targets": "random_tokens"},
        {"seed_everything": 3},
        {"data__world_model_horizon": 2},
        {"rollout__layout": "episode"},
    ],
    ids=lambda change: ",".join(f"{k}={v}" for k, v in change.items()),
)
def test_no_dead_option(change: dict, tiny_model_dir: str, tmp_path: Path, baseline: dict) -> None:
    """Every key changes the trained weights."""
    changed = runs.weights(runs.fit(tmp_path, tiny_model_dir, trainer__limit_val_batches=0, **change))
    assert any(not torch.equal(tensor, changed[name]) for name, tensor in baseline.items())


@pytest.mark.parametrize(
    ("common", "change"),
    [
        # A random policy gives every token about 1/259, so that nothing is clipped at rho 0.2.
        ({"model__world_model_loss__rho": 0.0038}, {"model__world_model_loss__kind": "mae"}),
        # Six random tokens hardly ever contain the end token; of 60 some do, and lengths differ.
        # Nobody writes the one admissible command by chance.
        ({"rollout__environment__commands": True}, {"rollout__inadmissible_action_penalty": 0.5}),
        ({"rollout__max_action_tokens": 60}, {"data__normalization": "sequence_mean"}),
        ({"model__lora__rank": 2, "reward_balance__coefficient": "constant"}, {"model__lora__alpha": 1.0}),
        # Two episodes of a random policy often end alike.
        ({"data__group_size": 2}, {"data__dynamic_sampling": 2}),
        *((PPO, change) for change in PPO_CHANGES),
        # A reward at the end and no discount: every token is worth the whole return, turn by turn or not.
        (PPO | {"rollout__advantage__gamma": 0.5}, {"rollout__advantage__level": "row"}),
        ({"data__world_model_horizon": 2}, {"data__world_model_discount": 0.5}),
        # A random policy gives every token about 1/259: none is below the second rho.
        (
            {"model__world_model_loss__kind": "mae", "reward_balance__match_weight_of": "clipped_mae"},
            {"model__world_model_loss__rho": 0.001},
        ),
        (
            {"reward_balance__coefficient": "linear", "reward_balance__anneal_iterations": 2},
            {"reward_balance__final_value": 0.5},
        ),
        ({"model__world_model_loss__kind": "focal"}, {"model__world_model_loss__focal_gamma": 3}),
        ({"rollout__layout": "episode"}, {"rollout__prompt__turn_template": "{observation}"}),
        ({"rollout__layout": "episode"}, {"rollout__prompt__max_tokens": 80}),
    ],
)
def test_no_dead_option_where_it_matters(common: dict, change: dict, tiny_model_dir: str, tmp_path: Path) -> None:
    first, second = (
        runs.weights(runs.fit(tmp_path, tiny_model_dir, trainer__limit_val_batches=0, **settings))
        for settings in (common, common | change)
    )
    assert any(not torch.equal(tensor, second[name]) for name, tensor in first.items())


class MoreMicroBatches(GradientAccumulationScheduler):
    """Cuts the second iteration's steps into twice as many micro-batches, of which Lightning would take half."""

    def __init__(self) -> None:
        super().__init__({0: 2, 1: 4})


@pytest.fixture(scope="module")
def baseline(tiny_model_dir: str, tmp_path_factory) -> dict:
    return runs.weights(runs.fit(tmp_path_factory.mktemp("base"), tiny_model_dir, trainer__limit_val_batches=0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"entropy_selection__alpha": 1.5}, "entropy_selection.alpha is 1.5; wanted a share in"),
        ({"model__world_model_loss__rho": 0}, "model.world_model_loss.rho is 0.0"),
        ({"entropy_selection__rule": "all"}, "entropy_selection.rule is all; wanted one of 'entropy', 'random'"),
        ({"reward_balance__coefficient": "linear"}, "reward_balance.anneal_iterations is None"),
        ({"world_model_health__every": -1}, "world_model_health.every is -1"),
        ({"rollout__temperature": 0}, "rollout.temperature is 0.0"),
        ({"data__groups": 0}, "data.groups is 0"),
        ({"rollout__max_steps": 0}, "rollout.max_steps is 0"),
        ({"reward_balance__max_return": -1}, "reward_balance.max_return is -1.0"),
        ({"rollout__prompt__template": "{smell}"}, "rollout.prompt.template uses unknown fields"),
        ({"rollout__prompt__max_tokens": 9000}, "do not fit the model's 8192 positions"),
        ({"reward_balance__max_return": 0.5}, "gave a return of 1.0, above its largest, 0.5"),
        ({"rollout__prompt__template": "{observation"}, "rollout.prompt.template is not a format string"),
        ({"rollout__max_observation_tokens": 0}, "rollout.max_observation_tokens is 0"),
        ({"rollout__advantage": "paw_lightning.policy.advantages.GAE"}, "GAE and model.critic is 'none'"),
        ({"model__critic": "shared"}, "model.critic is 'shared' and rollout.advantage is GRPO"),
        ({"model__critic_learning_rate": 0.1}, "model.critic_learning_rate is 0.1 and model.critic is 'none'"),
        ({"model__critic": "shared", "model__critic_learning_rate": 0}, "model.critic_learning_rate is 0.0"),
        ({"model__value_loss__clip": 0}, "model.value_loss.clip is 0.0"),
        ({"data__dynamic_sampling": 1, "data__group_size": 1}, "data.dynamic_sampling is 1 and data.group_size 1"),
        ({"data__dynamic_sampling": 1} | NO_REWARD, "data.dynamic_sampling is 1 and rollout.advantage is NoReward"),
        ({"rollout__inadmissible_action_penalty": 1} | NO_REWARD, "wanted 0: a penalty is a reward"),
        ({"entropy_selection__alpha": 0} | NO_REWARD, "alpha is 0 and rollout.advantage is NoReward"),
        ({"data__world_model_interval": -1}, "data.world_model_interval is -1"),
        (
            {"data__world_model_interval": 1, "entropy_selection__alpha": 0},
            "alpha is 0 and data.world_model_interval is 1",
        ),
        ({"data__world_model_interval": 4} | NO_REWARD, "interval is 4 and rollout.advantage is NoReward"),
        ({"data__world_model_horizon": 0}, "data.world_model_horizon is 0"),
        ({"data__world_model_discount": 0}, "data.world_model_discount is 0.0"),
        ({"data__world_model_discount": 0.5}, "data.world_model_discount is 0.5 and data.world_model_horizon is 1"),
        (
            {"reward_balance__final_value": 0.1},
            "final_value is 0.1 and reward_balance.coefficient is 'reward_adaptive'",
        ),
        (
            {"reward_balance__anneal_iterations": 5, "reward_balance__coefficient": "constant"},
            "anneal_iterations is 5 and reward_balance.coefficient is 'constant', which does not read it; wanted null",
        ),
        ({"data__world_model_horizon": 99}, "data.world_model_horizon 99 x (rollout.max_action_tokens 6"),
        ({"rollout__prompt__turn_template": "{history}{observation}"}, "rollout.prompt.turn_template uses unknown"),
        # 2048 + 6 + 6000 + 512 + 16 > 8192, as the tokenizer spends a token on every byte
        (
            {"rollout__layout": "episode", "rollout__prompt__turn_template": "x" * 6000 + "{observation}"},
            "(rollout.max_action_tokens 6 + 6000 of rollout.prompt.turn_template + rollout.max_observation_tokens 256",
        ),
        ({"trainer__max_steps": 3}, "trainer.max_steps is 3; wanted a multiple of data.minibatches (2)"),
        (
            {"trainer__min_steps": 3},
            "trainer.min_steps is 3; wanted a multiple of data.minibatches (2), or trainer.min_ep",
        ),
        ({"trainer__limit_train_batches": 1}, "trainer.limit_train_batches is 1; wanted 1.0"),
        ({"trainer__limit_train_batches": 0.5}, "trainer.limit_train_batches is 0.5; wanted 1.0"),
        ({"trainer__val_check_interval": 0.5}, "trainer.val_check_interval is 0.5; wanted 1.0"),
        ({"trainer__val_check_interval": 1}, "trainer.val_check_interval is 1; wanted 1.0"),
        ({"trainer__val_check_interval": "00:00:01:00"}, "trainer.val_check_interval is a time; wanted 1.0"),
        ({"trainer__overfit_batches": 2}, "trainer.overfit_batches is 2; wanted 0"),
        ({"last_checkpoint__every_n_train_steps": 1}, "every_n_train_steps of a ModelCheckpoint is 1"),
        ({"best_checkpoint__train_time_interval": "0:01:00"}, "train_time_interval of a ModelCheckpoint is 0:01:00"),
        ({"last_checkpoint__save_on_exception": "true"}, "save_on_exception of a ModelCheckpoint is True"),
        (
            {
                "trainer__callbacks+": "lightning.pytorch.callbacks.OnExceptionCheckpoint",
                "trainer__callbacks__dirpath": ".",
            },
            "OnExceptionCheckpoint, which saves in mid-iteration; wanted last_checkpoint",
        ),
        ({"trainer__callbacks+": "tests.cli.test_cli.MoreMicroBatches"}, "wanted trainer.accumulate_grad_batches"),
        ({"trainer__max_time": "00:01:00:00"}, "trainer.max_time is set and stops in mid-iteration"),
        ({"rollout__environment__max_reward": None}, "does not state its largest return"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_values_are_named(
    change: dict, message: str, tiny_model_dir: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, SystemExit)) as error:
        runs.fit(tmp_path, tiny_model_dir, **change)
    assert message in str(error.value) + capsys.readouterr().err


def test_a_dry_run_may_stop_anywhere(tiny_model_dir: str, tmp_path: Path) -> None:
    cli = runs.fit(tmp_path, tiny_model_dir, trainer__fast_dev_run=1, trainer__num_sanity_val_steps=2)
    assert cli.trainer.current_epoch == 1 and not list(tmp_path.rglob("*.ckpt"))


def test_turn_text_of_unknown_length_is_warned_of(tiny_model_dir: str, tmp_path: Path) -> None:
    settings = {"rollout__layout": "episode", "rollout__prompt__turn_template": "{task}: {observation}"}
    with pytest.warns(UserWarning, match=r"turn_template has \{task\} or .* before \{observation\}"):
        runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=0, **settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rho": 0.3, "kind": "mae"}, r"loss\.rho is 0\.3 and .*kind is 'mae', which does not read it"),
        ({"focal_gamma": 3}, r"loss\.focal_gamma is 3\.0 and .*kind is 'clipped_mae'.*only kind focal reads it"),
        ({"rho": 0.3}, None),
        ({"rho": 0.2, "focal_gamma": 2, "kind": "mae"}, None),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("matched", [None, "clipped_mae"])
def test_a_setting_that_a_kind_of_loss_does_not_read_is_warned_of(
    matched: str | None, change: dict, message: str | None, tiny_model_dir: str, tmp_path: Path, recwarn
) -> None:
    """The kind whose weight is matched reads it too."""
    settings = {f"model__world_model_loss__{name}": value for name, value in change.items()}
    runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=0, reward_balance__match_weight_of=matched, **settings)
    said = [str(warning.message) for warning in recwarn if "does not read it" in str(warning.message)]
    expected = message is not None and not (matched and "rho" in change)
    assert len(said) == expected and all(re.search(str(message), text) for text in said)


def test_unknown_key_is_refused(tiny_model_dir: str, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        runs.fit(tmp_path, tiny_model_dir, entropy_selection__alfa=0.5)
    assert "alfa" in capsys.readouterr().err


class BadQuestions(SearchEnv):
    """The search world, asked for a fact base that is too small."""

    def __init__(self, split: str) -> None:
        super().__init__(split, lands=2)


class BadTrainingQuestions(SearchEnv):
    """The same, in training alone: validation could be played before."""

    def __init__(self, split: str) -> None:
        super().__init__(split, lands=2 if split == "train" else 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.groups": 0}, "data.groups is 0; wanted at least 1"),
        (
            {"model.path": "/nowhere"},
            "model.path is '/nowhere', which does not exist; wanted a Hugging Face model directory",
        ),
        ({"trainer.max_steps": 3}, "trainer.max_steps is 3; wanted a multiple"),
        ({"rollout.environment": "tests.cli.test_cli.BadQuestions"}, "lands is 2; wanted from 3"),
        ({"rollout.environment.max_reward": None}, "does not state its largest return; set reward_balance.max_return"),
        ({"rollout.environment.max_reward": 0}, "(rollout.environment) is 0.0; wanted a positive number"),
        ({"rollout.environment": "tests.cli.test_cli.BadTrainingQuestions"}, "lands is 2; wanted from 3"),
        ({"ckpt_path": "nowhere.ckpt"}, "ckpt_path is 'nowhere.ckpt', which does not exist; wanted"),
        ({"ckpt_path": __file__}, "test_cli.py', which is no checkpoint; wanted"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_refused_settings_are_one_error_and_no_traceback(
    change: dict, message: str, tiny_model_dir: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(Collector, "play", lambda *_, **__: pytest.fail("something was played"))
    rest = {"trainer.num_sanity_val_steps": -1, "trainer.logger.init_args.save_dir": tmp_path}
    settings = {**runs.TOY, **rest, "model.path": tiny_model_dir, **change}
    monkeypatch.setattr(sys, "argv", ["paw-lightning", "fit", *runs.arguments(settings)])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert any("error: " in line for line in lines) and any(message in line for line in lines)


def test_a_checkpoint_is_what_torch_saved_a_folder_of_shards_or_a_word_of_lightnings(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "last.ckpt")
    (tmp_path / "shards").mkdir()
    for name in (".metadata", "meta.pt"):
        (tmp_path / "shards" / name).touch()
    words = ["best", "last", "hpc", "registry:model:version:1", "s3://bucket/last.ckpt"]
    for path in [None, *words, str(tmp_path / "shards"), str(tmp_path / "last.ckpt")]:
        check_checkpoint(path)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("other/text.txt", "")
    for path in ["", str(tmp_path), str(tmp_path / "other.zip")]:
        with pytest.raises(ValueError, match=r"ckpt_path is .*is no checkpoint; wanted RUN/checkpoints/last\.ckpt"):
            check_checkpoint(path)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_an_evaluation_refuses_a_missing_checkpoint(command: str, tiny_model_dir: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ckpt_path is 'nowhere\.ckpt', which does not exist"):
        runs.fit(tmp_path, tiny_model_dir, command=command, ckpt_path="nowhere.ckpt")


def test_the_last_checkpoint_may_be_none_yet(tiny_model_dir: str, tmp_path: Path) -> None:
    """Lightning begins anew then, and says so."""
    assert runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=1, ckpt_path="last").trainer.current_epoch == 1


@pytest.mark.parametrize(
    "change",
    [
        {"entropy_selection__alpha": 0},
        {"reward_balance__coefficient": "constant"},
        {"reward_balance__max_return": 1},
        {"rollout__advantage": "paw_lightning.policy.advantages.NoReward"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_largest_return_is_asked_for_only_where_it_is_read(change: dict, tiny_model_dir: str, tmp_path: Path) -> None:
    settings = {"rollout__environment__max_reward": None, "trainer__limit_val_batches": 0, "trainer__max_epochs": 1}
    assert runs.fit(tmp_path, tiny_model_dir, **settings, **change).trainer.current_epoch == 1


class ExitsAtOnce(ToyEnv):
    """Ends the process when it is built, as argparse does."""

    def __init__(self, split: str) -> None:
        raise SystemExit(2)


def test_an_environment_that_exits_when_it_is_built_is_named(tiny_model_dir: str, tmp_path: Path) -> None:
    message = r"__init__\('train'\) failed with SystemExit: 2, \S*test_cli\.py:\d+ \(rollout\.environment\)"
    with pytest.raises(RuntimeError, match=message):
        runs.fit(tmp_path, tiny_model_dir, rollout__environment="tests.cli.test_cli.ExitsAtOnce")


def test_a_bug_keeps_its_traceback(tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    """A ValueError of the package itself, but after something was played."""

    def broken(*_: object) -> None:
        raise ValueError("rows differ")

    monkeypatch.setattr(GRPO, "write", broken)
    settings = {**runs.TOY, "trainer.logger.init_args.save_dir": tmp_path, "model.path": tiny_model_dir}
    monkeypatch.setattr(sys, "argv", ["paw-lightning", "fit", *runs.arguments(settings)])
    with pytest.raises(ValueError, match="rows differ"):
        main()


def test_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.path is '.*nowhere', which does not exist"):
        runs.fit(tmp_path, str(tmp_path / "nowhere"))


def test_failing_environment_is_counted_and_the_run_goes_on(tiny_model_dir: str, tmp_path: Path, caplog) -> None:
    """Tasks 0 and 1 are played first, then 2 and 3: one group is lost, its three episodes each played twice."""
    with caplog.at_level(logging.WARNING):
        cli = runs.fit(tmp_path, tiny_model_dir, rollout__environment__fail_on=1, trainer__limit_val_batches=0)
    assert runs.curves(cli)["rollout/dropped_groups"] == {1: 1.0, 2: 0.0}
    assert runs.curves(cli)["rollout/retried_episodes"] == {1: 3.0, 2: 0.0}
    assert "ConnectionError" in caplog.text


def test_environment_that_always_fails_stops_the_run_with_its_cause(tiny_model_dir: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ConnectionError: the world fell over"):
        runs.fit(tmp_path, tiny_model_dir, rollout__environment__fail_on=0, data__groups=1)


@pytest.mark.parametrize(("command", "prefix"), [("validate", "val"), ("test", "test")])
def test_evaluation_of_a_checkpoint(command: str, prefix: str, tiny_model_dir: str, tmp_path: Path) -> None:
    trained = runs.fit(tmp_path / "a", tiny_model_dir)
    checkpoint = runs.log_dir(trained) / "checkpoints" / "last.ckpt"
    settings = {"command": command, "data__test_tasks": 4, "ckpt_path": checkpoint}
    cli = runs.fit(tmp_path / "b", tiny_model_dir, **settings)
    measured = float(cli.trainer.callback_metrics[f"{prefix}/success_rate"])
    if command == "validate":
        assert measured == float(trained.trainer.callback_metrics["val/success_rate"]), "same tasks, same weights"
    assert measured in (0.0, 0.25, 0.5, 0.75, 1.0), "four tasks were played"


def test_alpha_of_the_class_is_checked_too() -> None:
    with pytest.raises(ValueError, match="alpha"):
        EntropySelection(alpha=-0.1)


def test_lightnings_own_switches_work(tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"trainer__enable_checkpointing": "false", "trainer__enable_progress_bar": "false"}
    cli = runs.fit(tmp_path / "a", tiny_model_dir, trainer__max_epochs=1, **settings)
    assert not list(tmp_path.rglob("*.ckpt"))
    assert cli.trainer.progress_bar_callback is None


def test_a_failing_validation_task_is_counted(tiny_model_dir: str, tmp_path: Path) -> None:
    cli = runs.fit(tmp_path, tiny_model_dir, rollout__environment__fail_on=3, trainer__max_epochs=1)
    assert runs.curves(cli)["val/dropped_tasks"] == {1: 1.0}


@pytest.mark.parametrize(
    ("settings", "taught"),
    [
        ({}, "no reward teaches anything$"),
        ({"rollout__advantage": "GRPO", "rollout__advantage__level": "row"}, "anything, but in episodes of one turn, "),
        ({"rollout__advantage": "GiGPO"}, r"anything, but in turns that saw the same observation$"),
        ({"rollout__advantage": "GiGPO", "rollout__advantage__omega": 0}, "no reward teaches anything$"),
    ],
    ids=["trajectory", "row", "GiGPO", "GiGPO without steps"],
)
def test_a_single_member_group_is_warned_of(settings: dict, taught: str, tiny_model_dir: str, tmp_path: Path) -> None:
    quick = {"data__group_size": 1, "trainer__fast_dev_run": 1, **settings}
    with pytest.warns(UserWarning, match=rf"data\.group_size is 1: .* {taught}"):
        runs.fit(tmp_path, tiny_model_dir, **quick)


class LostValidation(ToyEnv):
    """A world that falls over wherever it is validated."""

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.split == "val":
            raise ConnectionError("no validation today")
        return super().step(action)


class Surrogates(ToyEnv):
    """A world whose answers are no valid text."""

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, *rest = super().step(action)
        return (f"a \ud800 {observation}", *rest)


def test_training_outlives_a_lost_validation(tiny_model_dir: str, tmp_path: Path, caplog) -> None:
    settings = {"rollout__environment": "tests.cli.test_cli.LostValidation", "trainer__num_sanity_val_steps": -1}
    lost = pytest.warns(UserWarning, match="no val task could be played to its end.*no validation today")
    with lost, caplog.at_level("INFO"):
        cli = runs.fit(tmp_path, tiny_model_dir, **settings)
    assert cli.trainer.current_epoch == 2
    assert set(runs.curves(cli)["val/dropped_tasks"].values()) == {4.0}
    assert len(runs.curves(cli)["val/success_rate"]) == 2, "there was no success before training to begin with"
    assert "success on unseen tasks: unknown -> unknown; unknown: every validation task was lost" in caplog.text


def test_unpaired_surrogates_pass_the_whole_run(tiny_model_dir: str, tmp_path: Path) -> None:
    cli = runs.fit(tmp_path, tiny_model_dir, rollout__environment="tests.cli.test_cli.Surrogates")
    assert set(runs.curves(cli)["rollout/dropped_groups"].values()) == {0.0}


def test_the_native_samplers_memory_can_be_set(tiny_model_dir: str, tmp_path: Path) -> None:
    """And a bound that splits every batch changes nothing that is played."""
    bounded = {
        "rollout__sampler": "paw_lightning.samplers.native.NativeSampler",
        "rollout__sampler__max_batch_tokens": 100,
        "rollout__layout": "episode",
    }
    few = {"trainer__max_epochs": 1, "trainer__limit_val_batches": 0}
    cli = runs.fit(tmp_path / "bounded", tiny_model_dir, **bounded, **few)
    free = runs.fit(tmp_path / "free", tiny_model_dir, rollout__layout="episode", **few)
    [loop] = [callback for callback in cli.trainer.callbacks if isinstance(callback, EnvironmentLoop)]
    assert loop.runner.sampler.max_batch_tokens == 100
    for name in ("rollout/return", "rollout/success_rate", "rollout/episode_length"):
        assert runs.curves(cli)[name] == runs.curves(free)[name], name
