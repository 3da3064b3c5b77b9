"""A replay is the recorded run, bit for bit; with other settings it is an ablation that says where it is off-policy."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from paw_lightning.errors import SettingsError
from paw_lightning.rollout_files import read, train_files
from paw_lightning.samplers.base import Sampler
from paw_lightning.update.batches import UpdateCutter
from tests.helpers import runs
from tests.helpers.toy_env import ToyEnv
from tests.helpers.updates import make_rollout

TOY = {"class_path": "tests.helpers.toy_env.ToyEnv"}
IMITATION = {
    "rollout__environment": "tests.rollouts.test_demonstrated.Shown",
    "rollout__advantage": "paw_lightning.policy.advantages.Imitation",
    "rollout__max_action_tokens": 60,
    "model__policy_loss__kl_coefficient": 0.1,
}
LORA = {"model__lora__rank": 2, "model__lora__target_modules": "all-linear"}
KINDS: dict[str, dict[str, Any]] = {
    "step": {"rollout__layout": "step"},
    "episode": {"rollout__layout": "episode"},
    "kl": {"model__policy_loss__kl_coefficient": 0.1},
    "ppo": runs.PPO,
    "separate critic": runs.PPO | {"model__critic": "separate", "rollout__layout": "episode"},
    "lora": LORA | {"model__policy_loss__kl_coefficient": 0.1},
    "placebo": {"rollout__layout": "episode", "target_control__targets": "shuffled"},
    "gigpo": {"rollout__advantage": "paw_lightning.policy.advantages.GiGPO"},
    "dynamic sampling": {"data__dynamic_sampling": 2},
    "horizon": {"data__world_model_horizon": 2},
    "turns of losses": {"data__world_model_interval": 1},
    "trainer's log-probs": {"rollout__old_logprobs": "trainer", "rollout__importance_cap": 2.0},
    "matched weight": {
        "model__world_model_loss__kind": "cross_entropy",
        "reward_balance__match_weight_of": "clipped_mae",
    },
    "imitation": IMITATION,
    "mixture": {
        "rollout__environment": "paw_lightning.envs.MixtureEnv",
        "rollout__environment__init_args__environments": {"a": TOY | {"weight": 1.0}, "b": TOY | {"weight": 2.0}},
    },
    "float64": {"trainer__precision": "64-true", "model__policy_loss__kl_coefficient": 0.1},
    "bfloat16": {"trainer__precision": "bf16-true", "model__policy_loss__kl_coefficient": 0.1},
    "mixed": {"trainer__precision": "bf16-mixed", "rollout__layout": "episode"},
    "uneven": {"rollout__environment__init_args__uneven": True, "rollout__environment__init_args__nuisance": True},
}

FAST = {"episode", "ppo"}


def no_environment(self: ToyEnv, split: str = "train", **arguments: Any) -> None:
    raise AssertionError("a replay built an environment")


@pytest.fixture
def fit(tiny_model_dir: str, tmp_path: Path):
    """`fit(name, ...)` without validation, into a folder of its own."""
    quick = {
        "trainer__limit_val_batches": 0,
        "trainer__max_epochs": 3,
        "policy_export__folder": None,
        "reward_balance__coefficient": "constant",  # so that the world model learns where every episode is won, too
    }

    def run(name: str, **settings: Any):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*could not find the monitored key.*")
            return runs.fit(tmp_path / name, tiny_model_dir, **quick | settings)

    return run


def off_policy(cli: Any) -> list[float]:
    return [value for _, value in sorted(runs.curves(cli)["rollout/off_policy"].items())]


def assert_same_run(recorded: Any, replayed: Any) -> None:
    """Weights, optimizer, and all curves but the clocks and the one that only a replay has."""
    runs.assert_same_end(recorded, replayed)
    old, new = (
        {tag: points for tag, points in runs.curves(cli).items() if not runs.CLOCKS.match(tag)}
        for cli in (recorded, replayed)
    )
    assert set(new.pop("rollout/off_policy").values()) == {0.0}
    assert old == new
    assert len(old) > 20


@pytest.mark.parametrize(
    "kind", [kind if kind in FAST else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_a_replay_is_the_recorded_run_without_its_environment(kind: str, fit, monkeypatch) -> None:
    recorded = fit("recorded", **KINDS[kind])
    monkeypatch.setattr(ToyEnv, "__init__", no_environment)
    replayed = fit("replayed", **KINDS[kind], data__replay=runs.log_dir(recorded))
    assert_same_run(recorded, replayed)


def test_a_replay_resumes_where_it_was_stopped_and_needs_no_earlier_file(fit) -> None:
    recorded = fit("recorded")
    folder = runs.log_dir(recorded)
    stopped = fit("stopped", data__replay=folder, trainer__max_epochs=2)
    for number in (1, 2):
        train_files(folder)[number].unlink()
    checkpoint = runs.log_dir(stopped) / "checkpoints" / "last.ckpt"
    resumed = fit("resumed", data__replay=folder / "rollouts", ckpt_path=checkpoint)
    runs.assert_same_end(recorded, resumed)
    assert off_policy(resumed) == [0.0]


@pytest.mark.slow
def test_a_replay_is_a_recording_too(fit) -> None:
    """Its own files name the weights that played, not those that were trained: off-policy stays off-policy."""
    recorded = fit("recorded")
    ablation = functools.partial(fit, entropy_selection__alpha=0.5)
    first = ablation("first", data__replay=runs.log_dir(recorded))
    second = ablation("second", data__replay=runs.log_dir(first))
    assert off_policy(first) == off_policy(second) == [0.0, 1.0, 1.0]
    runs.assert_same_end(first, second)
    headers = [[read(path).header for path in train_files(runs.log_dir(run)).values()] for run in (first, second)]
    assert [h.weights for h in headers[0]] == [h.weights for h in headers[1]]
    assert [h.off_policy for h in headers[0]] == [False, True, True]


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "another loss": ({}, {"model__world_model_loss__kind": "cross_entropy"}),
    "another selection": ({}, {"entropy_selection__rule": "random"}),
    "another advantage": ({}, {"rollout__advantage": "paw_lightning.policy.advantages.RLOO"}),
    "a reference that was not there": ({}, {"model__policy_loss__kl_coefficient": 0.1}),
    "no reference any more": ({"model__policy_loss__kl_coefficient": 0.1}, {}),
    "a critic that was not there": ({}, runs.PPO),
    "no critic any more": (runs.PPO, {"rollout__advantage": "paw_lightning.policy.advantages.GRPO"}),
    "other steps": ({}, {"data__minibatches": 3}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_first_iteration_of_an_ablation_is_that_of_a_run_of_its_own(change: str, fit) -> None:
    """The weights at the start are those that played: nothing is off-policy, and what was not recorded is scored."""
    old, new = CHANGES[change]
    recorded = fit("recorded", trainer__max_epochs=1, **old)
    own = fit("own", trainer__max_epochs=1, **new)
    replayed = fit("replayed", trainer__max_epochs=1, data__replay=runs.log_dir(recorded), **new)
    assert_same_run(own, replayed)


def test_later_iterations_of_an_ablation_are_off_policy_and_one_warning_says_so(fit) -> None:
    recorded = fit("recorded")
    with pytest.warns(UserWarning, match="rollouts of iteration 2 were played by other weights") as caught:
        replayed = fit("replayed", data__replay=runs.log_dir(recorded), model__optimizer__init_args__lr=0.02)
    assert sum("played by other weights" in str(w.message) for w in caught) == 1
    assert off_policy(replayed) == [0.0, 1.0, 1.0]
    curves = runs.curves(replayed)
    assert len(curves["rollout/logprob_gap"]) == 1, "where the ratio is not 1 by definition there is nothing to compare"
    assert len(curves["train/approx_kl"]) == 3
    assert list(curves["train/approx_kl"].values())[1] > 0


def test_off_policy_ratios_are_taken_against_what_was_recorded() -> None:
    """From the first optimizer step on; an expert is still not compared with."""
    cutter = UpdateCutter(minibatches=3)
    flags = {
        (off, shown): [(b.on_policy, b.unit_ratio) for b in cutter.micro_batches(rollout, 1)]
        for off in (False, True)
        for shown in (False, True)
        for rollout in [dataclasses.replace(make_rollout(), off_policy=off, demonstrated=shown)]
    }
    assert flags[False, False] == [(True, True), (False, False), (False, False)]
    assert flags[True, False] == [(False, False)] * 3
    assert flags[False, True] == flags[True, True] == [(False, True)] * 3


@pytest.mark.slow
def test_imitation_by_other_weights_is_the_run_itself(fit) -> None:
    """An expert's actions depend on no weights: scored anew, every iteration is what a run of its own would see."""
    changed = IMITATION | {"model__optimizer__init_args__lr": 0.02}
    recorded, own = fit("recorded", **IMITATION), fit("own", **changed)
    assert_same_run(own, fit("replayed", **changed, data__replay=runs.log_dir(recorded)))


class Silent(Sampler):
    """A sampler that may not be asked."""

    trainers_arithmetic = True

    def __init__(self, model: Any, stops: list[int], pad: int) -> None:
        pass

    def generate(self, *args: Any, **settings: Any) -> Any:
        raise AssertionError("a replay sampled")

    def update_weights(self) -> None:
        raise AssertionError("a replay sent weights to its sampler")


def test_a_replay_asks_no_sampler(fit) -> None:
    recorded = fit("recorded")
    silent = {"rollout__sampler": "tests.rollouts.test_replay.Silent", "data__replay": runs.log_dir(recorded)}
    assert_same_run(recorded, fit("replayed", **silent))


def test_validation_plays_as_ever(fit) -> None:
    played = {"trainer__limit_val_batches": 1.0, "trainer__num_sanity_val_steps": -1}
    recorded = fit("recorded", **played)
    replayed = fit("replayed", **played, data__replay=runs.log_dir(recorded))
    assert_same_run(recorded, replayed)
    assert len(runs.curves(replayed)["val/success_rate"]) == 4
    again = runs.fit(
        runs.log_dir(replayed).parent.parent / "test",
        replayed.model.path,
        command="test",
        data__replay=runs.log_dir(recorded),
        data__test_tasks=4,
    )
    assert runs.log_dir(again).joinpath("rollouts", "test-000000.jsonl.gz").exists(), "a test plays"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "longer": (
        {"trainer__max_epochs": 4},
        "trainer.max_epochs 4 asks for 4 iterations, and data.replay holds 2; wanted trainer.max_epochs of at most 2",
    ),
    "endless": (
        {"trainer__max_epochs": -1},
        "trainer.max_epochs -1 asks for no end, and data.replay holds 2; wanted",
    ),
    "steps": (
        {"trainer__max_epochs": -1, "trainer__max_steps": 6},
        "trainer.max_steps 6 asks for 3 iterations, and data",
    ),
    "layout": ({"rollout__layout": "episode"}, "rollout.layout is 'EpisodeLayout', and iteration 1 of data.replay was"),
    "prompt": (
        {"rollout__prompt__history_length": 1},
        "rollout.prompt.history_length is 1, .* was played with 2; wanted",
    ),
    "temperature": ({"rollout__temperature": 0.5}, "rollout.temperature is 0.5, .* was played with 1.0"),
    "environment": (
        {"rollout__environment__init_args__uneven": True},
        "rollout.environment.init_args.uneven is True, .* was played with False",
    ),
    "class": (
        {"rollout__environment": "tests.rollouts.test_demonstrated.Shown"},
        "rollout.environment is 'tests.rollouts.test_demonstrated.Shown', .* was played with 'tests.helpers.toy_env",
    ),
    "groups": ({"data__groups": 4}, "data.groups is 4, .* was played with 2"),
    "imitation": (
        IMITATION,
        "rollout.advantage is Imitation, and the actions of data.replay are the policy's; wanted another",
    ),
    "counterfactuals": (
        {"target_control__targets": "wrong_action"},
        "target_control.targets is 'wrong_action', and data.replay was recorded without answers to other actions",
    ),
}


@pytest.fixture(scope="module")
def recording(tiny_model_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recording")
    return runs.log_dir(runs.fit(folder, tiny_model_dir, trainer__limit_val_batches=0))


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_recording_cannot_give_is_refused_before_the_first_step(case: str, recording: Path, fit) -> None:
    settings, cause = REFUSED[case]
    with pytest.raises(SettingsError, match=cause):
        fit("replayed", data__replay=recording, **{"trainer__max_epochs": 2} | settings)


def test_another_tokenizer_is_refused(recording: Path, tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"model.path \(its tokenizer\) is '\w+', and iteration 1 of data.replay was"
    ):
        runs.fit(tmp_path, "tiny-household", data__replay=recording, trainer__limit_val_batches=0)


def test_missing_files_are_named(recording: Path, fit, tmp_path: Path) -> None:
    part = tmp_path / "part"
    shutil.copytree(recording / "rollouts", part)
    (part / "train-000001.jsonl.gz").unlink()
    with pytest.raises(SettingsError, match=r"data.replay is '.*part', which lacks the rollouts of iteration 1 \(rem"):
        fit("replayed", data__replay=part, trainer__max_epochs=2)
    with pytest.raises(SettingsError, match=r"data.replay is '.*nowhere', which is no folder"):
        fit("replayed", data__replay=tmp_path / "nowhere")
