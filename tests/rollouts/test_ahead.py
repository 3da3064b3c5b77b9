"""Playing ahead: the rollout is of the weights before the last update, however and whenever it was played."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback

from paw_lightning.callbacks import EnvironmentLoop, GracefulStop
from paw_lightning.errors import EnvironmentFailedError, SamplerFailedError, SettingsError
from paw_lightning.models.fingerprint import fingerprint
from paw_lightning.rollout_files import read, train_files
from paw_lightning.rollouts.ahead import STATE, Ahead, Aside, GivenUp
from paw_lightning.rollouts.recording import pack, unpack
from tests.helpers import runs
from tests.helpers.copied_sampler import Copied
from tests.helpers.fake_vllm import FakeVLLM, serving
from tests.helpers.toy_env import ToyEnv
from tests.helpers.updates import make_rollout
from tests.rollouts.test_replay import IMITATION

AHEAD = {"rollout__ahead": 1}
HELPERS = "tests.helpers.copied_sampler"
COPIED, BEFORE, TOGETHER = (AHEAD | {"rollout__sampler": f"{HELPERS}.{n}"} for n in ("Copied", "Before", "Together"))
EVERYTHING = runs.PPO | {"model__policy_loss__kl_coefficient": 0.1, "data__minibatches": 1}
"""A critic, a reference, and an update of one step, whose ratio is 1 for who has played it."""


class Fingerprints(Callback):
    """What the weights are when an iteration begins."""

    taken: ClassVar[list[str]] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.taken.append(fingerprint(pl_module.language_model.parameters()))


@pytest.fixture(scope="module")
def fit(tiny_model_dir: str, tmp_path_factory):
    """`fit(...)` of three iterations without validation, into a folder of its own."""
    quick = {
        "trainer__limit_val_batches": 0,
        "trainer__max_epochs": 3,
        "policy_export__folder": None,
        "reward_balance__coefficient": "constant",
    }

    def run(folder: Path | None = None, **settings: Any):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*could not find the monitored key.*")
            return runs.fit(folder or tmp_path_factory.mktemp("run"), tiny_model_dir, **quick | settings)

    return run


@pytest.fixture(scope="module")
def unbroken(fit):
    """Three iterations with everything, played in a thread."""
    Fingerprints.taken.clear(), Copied.asked.clear()
    return fit(**COPIED | EVERYTHING, **{"trainer__callbacks+": "tests.rollouts.test_ahead.Fingerprints"})


@pytest.fixture(autouse=True)
def nobody_is_left():
    yield
    left = [thread for thread in threading.enumerate() if thread.name.startswith(("playing", "generation"))]
    for thread in left:
        thread.join(5)
    assert not [thread.name for thread in left if thread.is_alive()]


def points(cli: Any, tag: str) -> list[float]:
    return [value for _, value in sorted(runs.curves(cli)[tag].items())]


def files(cli: Any) -> list[Any]:
    return [read(path) for path in train_files(runs.log_dir(cli)).values()]


def turns(file: Any) -> list[Any]:
    return [turn for episode in file.episodes for turn in episode.turns]


def stop_after_the_first(fit, monkeypatch, **settings: Any) -> Path:
    """A run that is told to stop in its first iteration; its checkpoint, with the second one's rollout."""
    with monkeypatch.context() as patch:
        patch.setattr(GracefulStop, "_stopping", lambda self: self.phase == "saving")
        patch.setattr(GracefulStop, "on_train_end", lambda *_: None)
        return runs.log_dir(fit(**settings)) / "checkpoints" / "last.ckpt"


# Semantics


def test_the_weights_that_play_are_those_before_the_last_update(unbroken) -> None:
    """Iterations 1, 2, 3 begin with weights a, b, c; their rollouts are of a, a, b."""
    first, second, third = Fingerprints.taken
    assert len({first, second, third}) == 3
    headers = [file.header for file in files(unbroken)]
    assert [header.weights for header in headers] == [first, first, second]
    assert [header.off_policy for header in headers] == [False, True, True]
    assert points(unbroken, "rollout/staleness") == [0.0, 1.0, 1.0]
    here, there = "MainThread", "playing ahead"
    asked = [name for name, _ in itertools.groupby(Copied.asked)]
    assert asked == [here, there, here, there], "the first rollout here; the others there, after a last look here"


@pytest.mark.parametrize("other", [BEFORE | EVERYTHING, pytest.param(TOGETHER, marks=pytest.mark.slow)])
def test_beside_the_update_is_before_it(other: dict, unbroken, fit) -> None:
    """With threads or without: the same weights, optimizer and curves, bit for bit; in lock step, too."""
    if "data__minibatches" in other:
        beside, before = unbroken, fit(**other)
    else:
        beside, before = fit(**other), fit(**other | {"rollout__sampler": f"{HELPERS}.TogetherBefore"})
    runs.assert_same_end(beside, before)
    runs.assert_same_curves(beside, before)
    waited = [points(cli, "time/rollout_waiting_s") for cli in (beside, before)]
    assert [len(seconds) for seconds in waited] == [2, 2], "the last iteration waits for nobody"


@pytest.mark.slow
def test_the_native_sampler_plays_before_the_update(fit) -> None:
    with pytest.warns(UserWarning, match=r"rollout\.ahead is 1 and NativeSampler samples from the trained weights"):
        native = fit(**AHEAD)
    assert points(native, "rollout/staleness") == [0.0, 1.0, 1.0]


# Ratios, caps, and what else is scored


def test_the_ratio_is_against_the_weights_that_played(unbroken) -> None:
    """In every step: in an update of one step the ratio is 1 otherwise, and the KL to whoever played has no curve."""
    assert all(turn.old_logprobs == turn.sampled_logprobs for file in files(unbroken) for turn in turns(file))
    curve = runs.curves(unbroken)["train/approx_kl"]
    assert set(curve) == {2, 3} and min(curve.values()) > 1e-6
    assert set(runs.curves(unbroken)["rollout/logprob_gap"]) == {1}, "sampler and trainer are of one policy there alone"


def test_critic_and_reference_are_those_of_the_iteration(unbroken) -> None:
    """Values are said by the critic that is trained next, not by the one whose weights played."""
    headers = [file.header for file in files(unbroken)]
    assert len({header.critic for header in headers}) == 3
    assert len({header.weights for header in headers}) == 2
    assert len({header.reference for header in headers}) == 1


def test_a_cap_corrects_for_the_update_in_between(fit) -> None:
    """Iteration 1: trainer and sampler agree, importance 1. Iteration 2: the trainer, which has moved on, over the
    sampler, at most 1.01; the ratio itself is against the trainer, 1 in an update of one step."""
    cli = fit(**COPIED, data__minibatches=1, rollout__importance_cap=1.01, trainer__max_epochs=2)
    first, second = (turns(file) for file in files(cli))
    assert max(abs(i - 1) for turn in first for i in turn.importance) < 1e-4
    for turn in second:
        gap = torch.tensor(turn.old_logprobs) - torch.tensor(turn.sampled_logprobs)
        torch.testing.assert_close(torch.tensor(turn.importance), gap.exp().clamp(max=1.01), rtol=1e-6, atol=0)
    values = [i for turn in second for i in turn.importance]
    assert min(values) < 0.99 and max(values) == pytest.approx(1.01)
    gaps = points(cli, "rollout/sampler_gap")
    assert gaps[1] > 1e-3 > gaps[0], "it holds the update as well"
    assert points(cli, "train/approx_kl") == [pytest.approx(0, abs=1e-9)]


class Peeking(ToyEnv):
    """Answers what was not done."""

    def __init__(self, split: str = "train") -> None:
        super().__init__(split)
        self.commands = {"admissible_commands": ["one", "three", "two"]}

    def peek(self, action: str) -> str:
        return f"instead {action}"


SCORED: dict[str, dict[str, Any]] = {
    "everything": EVERYTHING,
    "wrong action": {
        "rollout__environment": "tests.rollouts.test_ahead.Peeking",
        "target_control__targets": "wrong_action",
    },
    "matched weight": {
        "model__world_model_loss__kind": "cross_entropy",
        "reward_balance__match_weight_of": "clipped_mae",
        "rollout__layout": "episode",
        "data__dynamic_sampling": 2,
    },
    "cap": {"rollout__importance_cap": 2.0},
}


@pytest.mark.parametrize("kind", ["everything", *(pytest.param(k, marks=pytest.mark.slow) for k in [*SCORED][1:])])
def test_a_replay_is_the_run_that_played_ahead(kind: str, unbroken, fit, monkeypatch) -> None:
    """All that is said of a rollout is on its file, or is said again by the same weights."""
    settings = COPIED | SCORED[kind]
    recorded = unbroken if kind == "everything" else fit(**settings)
    monkeypatch.setattr(Copied, "ask", None)
    replayed = fit(**settings, data__replay=runs.log_dir(recorded))
    runs.assert_same_end(recorded, replayed)
    assert points(replayed, "rollout/off_policy") == points(replayed, "rollout/staleness") == [0.0, 1.0, 1.0]


@pytest.mark.slow
def test_an_experts_rollouts_are_the_same_ahead(fit) -> None:
    """They depend on no weights: the run is that without, whatever the sampler is."""
    plain, ahead = fit(**IMITATION), fit(**IMITATION | AHEAD)
    runs.assert_same_end(plain, ahead)
    assert points(ahead, "rollout/staleness") == [0.0, 0.0, 0.0]


def test_a_replay_with_the_other_setting_is_refused(unbroken, fit) -> None:
    with pytest.raises(SettingsError, match=r"rollout\.ahead is 0, and iteration 1 of data\.replay was played with 1"):
        fit(**COPIED | EVERYTHING | {"rollout__ahead": 0}, data__replay=runs.log_dir(unbroken))


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"rollout\.ahead is 1 and rollout\.old_logprobs is 'trainer'.*sampler"):
        EnvironmentLoop(environment=ToyEnv, ahead=1, old_logprobs="trainer")
    with pytest.raises(SettingsError, match=r"rollout\.ahead is 2; wanted one of 0, 1"):
        EnvironmentLoop(environment=ToyEnv, ahead=2)  # type: ignore[arg-type]
    EnvironmentLoop(environment=ToyEnv, ahead=1, old_logprobs="trainer", importance_cap=2.0)


def test_a_server_that_sleeps_in_the_update_cannot_play_beside_it() -> None:
    runner = Ahead(SimpleNamespace(demonstrated=False), None, None)  # type: ignore[arg-type]
    runner._sampler = SimpleNamespace(sleep=True, holds_weights=True)  # type: ignore[assignment]
    with pytest.raises(SettingsError, match=r"rollout\.ahead is 1 and rollout\.sampler\.init_args\.sleep is true"):
        runner.begin(3, None)


# A server


@pytest.mark.parametrize("lora", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_server_plays_beside_the_update(lora: int, fit, tiny_model_dir: str, tmp_path: Path) -> None:
    """Each sync is proved before the update; nothing is sent while an episode is played."""
    fake = FakeVLLM(tiny_model_dir)
    with serving(fake) as url:
        server = {"rollout__sampler": "vllm", "rollout__sampler__urls": f"[{url}]"}
        server["rollout__sampler__weights"] = tmp_path / "weights"
        cli = fit(**AHEAD | server, model__lora__rank=lora, trainer__limit_val_batches=1.0, data__validation_tasks=1)
    assert points(cli, "rollout/staleness") == [0.0, 1.0, 1.0]
    assert "rollout/sampler_gap" not in runs.curves(cli), "the ratio is against the server's log-probs"
    assert min(points(cli, "rollout/action_entropy")) > 1, "scoring filled the entropies in"
    completions = [payload for path, payload in fake.calls if path == "/v1/completions"]
    salts = list(dict.fromkeys(payload["cache_salt"] for payload in completions))
    proofs = [["prompt_logprobs" in p for p in completions if p["cache_salt"] == salt] for salt in salts]
    assert all(proof[0] and not any(proof[1:]) for proof in proofs)
    assert len(salts) == 5, "two rollouts of the first weights, one of the second, none of the third; three validations"


# Resuming


def test_what_was_played_ahead_is_kept_as_it_was() -> None:
    rollout = make_rollout()
    rollout.left_out = [rollout.groups.pop()]
    rollout.iteration, rollout.ahead, rollout.fingerprints = 4, True, {"policy": "abc"}
    rollout.failures, rollout.seconds = ["task 3: no answer"], {"environment": 0.1}
    rollout.metrics = {"rollout/retried_episodes": 1.0}
    for group in rollout.groups + rollout.left_out:
        group.coefficient = 0.0
        for t in group.transitions:
            t.advantage, t.old_logprobs, t.token_entropies, t.selected = 0.0, None, [], False
            t.sampled_logprobs = [-1 / 3 for _ in t.action_ids]  # no float32
    again, header = unpack(pack(rollout, {"rollout.ahead": 1}, 17))
    assert again == rollout
    assert (header.settings, header.seed) == ({"rollout.ahead": 1}, 17)


def test_the_thread_shows_nothing_and_shares_no_precision() -> None:
    """Some change the default dtype, which is the update's, too."""
    shown: list[Any] = []
    policy = SimpleNamespace(arithmetic=lambda: "the update's")
    runner = Ahead(None, None, policy, lambda *counts: shown.append(counts))  # type: ignore[arg-type]

    def look() -> Any:
        runner._tell(1, 2, "train")
        return runner._precision()

    thread = Aside(look, None)
    thread.start(), thread.join()
    assert isinstance(thread.rollout, nullcontext) and shown == []
    assert look() == "the update's" and shown == [(1, 2, "train")]
    thread = Aside(look, None)
    thread.given_up = True
    thread.start(), thread.join()
    assert isinstance(thread.error, GivenUp)


def test_a_checkpoint_waits_for_what_is_played(monkeypatch) -> None:
    rollout = make_rollout()
    rollout.fingerprints = {"policy": "abc"}
    monkeypatch.setattr(Ahead, "_played_with", {"rollout.ahead": 1})
    runner = Ahead(None, SimpleNamespace(seed=0), None)  # type: ignore[arg-type]
    runner._sampler = SimpleNamespace(release=lambda: None)  # type: ignore[assignment]
    assert runner.state() == {}
    seconds: dict[str, float] = {}
    runner._thread = Aside(lambda: (time.sleep(0.05), rollout)[1], None)
    runner._thread.start()
    state = runner.state()
    for seed, playing, taken in ((0, 1, True), (1, 1, False), (0, 2, False)):
        other = Ahead(None, SimpleNamespace(seed=seed), None)  # type: ignore[arg-type]
        monkeypatch.setattr(Ahead, "_played_with", {"rollout.ahead": playing})
        with nullcontext() if taken else pytest.warns(UserWarning, match="iteration 1 was played with other settings"):
            other.load(state)
        assert (other._next is not None) == taken
    runner.settle(seconds)
    assert seconds == {}, "nobody plays any more"
    runner._thread = Aside(lambda: (time.sleep(0.05), rollout)[1], None)
    runner._thread.start()
    runner.settle(seconds)
    assert 0.03 < seconds["waiting"] < 1


class PowerCut(Exception):
    pass


RESUMED: dict[str, dict[str, Any]] = {
    "everything": COPIED | EVERYTHING,
    "before": BEFORE | {"data__dynamic_sampling": 1, "rollout__layout": "episode"},
    "validated": COPIED | {"trainer__limit_val_batches": 1.0},
}


@pytest.mark.parametrize("kind", ["everything", *(pytest.param(k, marks=pytest.mark.slow) for k in [*RESUMED][1:])])
def test_a_killed_run_goes_on_as_the_unbroken_one(kind: str, unbroken, fit, tmp_path: Path, monkeypatch) -> None:
    """Killed in the second of three iterations, while the third is played."""
    whole = unbroken if kind == "everything" else fit(**RESUMED[kind])

    def cut(self, trainer, *args) -> None:
        if trainer.current_epoch == 1:
            raise PowerCut

    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(GracefulStop, "on_train_batch_start", cut, raising=False)
        fit(tmp_path, **RESUMED[kind])
    [checkpoint] = tmp_path.rglob("last.ckpt")
    resumed = fit(**RESUMED[kind], ckpt_path=checkpoint)
    runs.assert_same_end(whole, resumed)
    runs.assert_same_curves(whole, resumed)
    assert points(resumed, "rollout/staleness") == [1.0, 1.0]


@pytest.mark.slow
def test_the_last_iteration_plays_nothing_ahead(fit) -> None:
    """So that a finished run which is extended goes on with a rollout of its own weights."""
    Copied.asked.clear()
    finished = fit(**COPIED, trainer__max_epochs=1)
    assert "playing ahead" not in Copied.asked
    checkpoint = runs.log_dir(finished) / "checkpoints" / "last.ckpt"
    assert "EnvironmentLoop" not in torch.load(checkpoint, weights_only=True)["callbacks"]
    extended = fit(**COPIED, ckpt_path=checkpoint)
    assert points(extended, "rollout/staleness") == [0.0, 1.0]


@pytest.mark.slow
@pytest.mark.parametrize("changed", [{"rollout__temperature": 0.5}, {"seed_everything": 7}])
def test_a_rollout_of_other_settings_is_left_out(changed: dict, fit, monkeypatch) -> None:
    checkpoint = stop_after_the_first(fit, monkeypatch, **COPIED)
    with pytest.warns(UserWarning, match="rollout of iteration 2 was played with other settings and is left out"):
        resumed = fit(**COPIED | changed, ckpt_path=checkpoint)
    assert points(resumed, "rollout/staleness") == [0.0, 1.0]


# Failures and stops


def test_a_failing_sampler_is_the_error_it_is_in_the_main_thread(fit, tmp_path: Path) -> None:
    """In the third rollout, beside the second update: the first iteration's checkpoint is there, with the second's
    rollout in it."""
    with pytest.raises(SamplerFailedError, match=r"^the server is on fire; wanted another"):
        fit(tmp_path, **AHEAD, rollout__sampler=f"{HELPERS}.Failing")
    [checkpoint] = tmp_path.rglob("last.ckpt")
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["epoch"] == 0
    rollout, _ = unpack(saved["callbacks"]["EnvironmentLoop"][STATE].numpy().tobytes())
    assert (rollout.iteration, rollout.ahead, rollout.replayed, len(rollout.episodes)) == (1, True, False, 6)


class FirstIsOver(Callback):
    """Says that the first rollout is played."""

    over = False

    def on_train_batch_start(self, *_: Any) -> None:
        type(self).over = True


@pytest.mark.slow
def test_a_failing_environment_is_too(fit, monkeypatch) -> None:
    step = ToyEnv.step

    def broken(self: ToyEnv, action: str) -> Any:
        if FirstIsOver.over:
            raise ConnectionError("the world fell over")
        return step(self, action)

    monkeypatch.setattr(ToyEnv, "step", broken)
    monkeypatch.setattr(FirstIsOver, "over", False)
    with pytest.raises(EnvironmentFailedError, match=r"no train group could be played to its end; .*fell over"):
        fit(**COPIED, trainer__max_epochs=4, **{"trainer__callbacks+": "tests.rollouts.test_ahead.FirstIsOver"})


class Sleepy(ToyEnv):
    """Takes its time, where asked to."""

    pause = 0.0

    def step(self, action: str) -> Any:
        time.sleep(self.pause)
        return super().step(action)


class Signal(Callback):
    """Has environments sleep, and is told to stop while the second rollout is played."""

    pause = 0.3
    sent = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        if not Sleepy.pause:
            Sleepy.pause, Signal.sent = self.pause, time.perf_counter()
            os.kill(os.getpid(), signal.SIGTERM)


SLEEPY = {"rollout__environment": "tests.rollouts.test_ahead.Sleepy"}
SIGNAL = {"trainer__callbacks+": "tests.rollouts.test_ahead.Signal"}


@pytest.mark.slow
def test_a_stop_finishes_what_is_played(fit, monkeypatch) -> None:
    """The next rollout is part of the iteration's checkpoint: resumed, the run is the unbroken one."""
    monkeypatch.setattr(Sleepy, "pause", 0.0)
    whole = fit(**COPIED | SLEEPY)
    stopped = fit(**COPIED | SLEEPY, **SIGNAL)
    assert stopped.trainer.current_epoch == 1
    monkeypatch.setattr(Sleepy, "pause", 0.0)
    resumed = fit(**COPIED | SLEEPY, ckpt_path=runs.log_dir(stopped) / "checkpoints" / "last.ckpt")
    runs.assert_same_end(whole, resumed)


@pytest.mark.slow
def test_a_stop_that_drops_waits_for_nobody(fit, monkeypatch) -> None:
    """18 steps of 0.5 s, one after the other, are still to be played: the thread leaves after the turn it is in."""
    monkeypatch.setattr(Sleepy, "pause", 0.0)
    monkeypatch.setattr(Signal, "pause", 0.5)
    monkeypatch.setattr(GracefulStop, "_seconds_left", lambda self: 60.0)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(**TOGETHER | SLEEPY, graceful_stop__seconds=1, **SIGNAL)
    assert time.perf_counter() - Signal.sent < 6
