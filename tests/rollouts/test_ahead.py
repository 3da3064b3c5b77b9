"""Playing ahead: the rollout is of the weights before the last update, however and whenever it was played."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from paw_lightning.callbacks import EnvironmentLoop, GracefulStop
from paw_lightning.errors import EnvironmentFailedError, SamplerFailedError, SettingsError
from paw_lightning.models.fingerprint import fingerprint
from paw_lightning.rollout_files import read, train_files
from paw_lightning.rollouts.recording import pack, unpack
from paw_lightning.types import Rollout
from tests.helpers import runs
from tests.helpers.copied_sampler import Copied
from tests.helpers.fake_vllm import FakeVLLM, serving
from tests.helpers.toy_env import ToyEnv
from tests.helpers.updates import make_rollout
from tests.rollouts.test_replay import IMITATION

AHEAD = {"rollout__ahead": 1}
HELPERS = "tests.helpers.copied_sampler"
COPIED, BEFORE, TOGETHER = (AHEAD | {"rollout__sampler": f"{HELPERS}.{n}"} for n in ("Copied", "Before", "Together"))


@pytest.fixture
def fit(tiny_model_dir: str, tmp_path: Path):
    """`fit(name, ...)` of three iterations without validation, into a folder of its own."""
    quick = {
        "trainer__limit_val_batches": 0,
        "trainer__max_epochs": 3,
        "policy_export__folder": None,
        "reward_balance__coefficient": "constant",
    }

    def run(name: str, **settings: Any):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*could not find the monitored key.*")
            return runs.fit(tmp_path / name, tiny_model_dir, **quick | settings)

    return run


@pytest.fixture(autouse=True)
def nobody_is_left():
    yield
    left = [thread for thread in threading.enumerate() if thread.name.startswith(("playing", "generation"))]
    for thread in left:
        thread.join(5)
    assert not [thread.name for thread in left if thread.is_alive()]


def points(cli: Any, tag: str) -> list[float]:
    return [value for _, value in sorted(runs.curves(cli)[tag].items())]


def turns(cli: Any, iteration: int) -> list[Any]:
    file = read(train_files(runs.log_dir(cli))[iteration])
    return [turn for episode in file.episodes for turn in episode.turns]


# Semantics


def test_beside_the_update_is_before_it(fit) -> None:
    """Threads, lock step in a thread, or no thread at all: the same weights, optimizer and curves, bit for bit."""
    Copied.asked.clear()
    beside = fit("beside", **COPIED)
    asked = set(Copied.asked)
    assert asked == {"MainThread", "playing ahead"}, "the first rollout here, the others there"
    before, together = fit("before", **BEFORE), fit("together", **TOGETHER)
    on_policy = fit("on policy", **COPIED | {"rollout__ahead": 0})
    for other in (before, together):
        runs.assert_same_end(beside, other)
        runs.assert_same_curves(beside, other)
    assert points(beside, "rollout/staleness") == [0.0, 1.0, 1.0]
    assert set(points(beside, "time/rollout_waiting_s")) != {0.0}
    assert "rollout/staleness" not in runs.curves(on_policy)
    assert any(not torch.equal(w, runs.weights(on_policy)[name]) for name, w in runs.weights(beside).items())


def test_the_native_sampler_plays_ahead_of_the_update(fit, recwarn) -> None:
    """The copy samples what the model itself does: so does the run, which says that nothing is gained."""
    with pytest.warns(UserWarning, match=r"rollout\.ahead is 1 and NativeSampler samples from the trained weights"):
        runs.fit  # noqa: B018 - the warning is of the next line
        native = fit("native", **AHEAD)
    assert points(native, "rollout/staleness") == [0.0, 1.0, 1.0]


class Fingerprints(Callback):
    """What the weights are when an iteration begins."""

    taken: list[str]

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.taken.append(fingerprint(pl_module.language_model.parameters()))


@pytest.mark.parametrize("sampler", [COPIED, BEFORE])
def test_the_weights_that_play_are_those_before_the_last_update(sampler: dict, fit, monkeypatch) -> None:
    """Iterations 1, 2, 3 begin with weights a, b, c; their rollouts are of a, a, b."""
    monkeypatch.setattr(Fingerprints, "taken", [], raising=False)
    cli = fit("run", **sampler, **{"trainer__callbacks+": "tests.rollouts.test_ahead.Fingerprints"})
    first, second, third = Fingerprints.taken
    assert len({first, second, third}) == 3
    headers = [read(path).header for path in train_files(runs.log_dir(cli)).values()]
    assert [header.weights for header in headers] == [first, first, second]
    assert [header.off_policy for header in headers] == [False, True, True]


# Ratios, caps, and what else is scored


def test_the_ratio_is_against_the_weights_that_played(fit) -> None:
    """In every step: an update of one step, whose ratio is 1 otherwise, has a KL to whoever played."""
    cli = fit("run", **COPIED, data__minibatches=1)
    assert all(turn.old_logprobs == turn.sampled_logprobs for number in (1, 2, 3) for turn in turns(cli, number))
    first, second, third = points(cli, "train/approx_kl")
    assert first == 0 and min(second, third) > 1e-6


def test_a_cap_corrects_for_the_update_in_between(fit) -> None:
    """Iteration 1: trainer and sampler agree, importance 1. Iteration 2: the trainer, which has moved on, over the
    sampler, at most 1.01; the ratio itself is against the trainer, 1 in an update of one step."""
    cli = fit("run", **COPIED, data__minibatches=1, rollout__importance_cap=1.01, trainer__max_epochs=2)
    first, second = turns(cli, 1), turns(cli, 2)
    assert max(abs(i - 1) for turn in first for i in turn.importance) < 1e-4
    for turn in second:
        gap = torch.tensor(turn.old_logprobs) - torch.tensor(turn.sampled_logprobs)
        torch.testing.assert_close(torch.tensor(turn.importance), gap.exp().clamp(max=1.01), rtol=1e-6, atol=0)
    values = [i for turn in second for i in turn.importance]
    assert min(values) < 0.99 and max(values) == pytest.approx(1.01)
    assert points(cli, "rollout/sampler_gap")[1] > 1e-3 > points(cli, "rollout/sampler_gap")[0]
    assert points(cli, "train/approx_kl")[1] < 1e-9


SCORED: dict[str, dict[str, Any]] = {
    "ppo and kl": runs.PPO | {"model__policy_loss__kl_coefficient": 0.1},
    "wrong action": {
        "rollout__environment": "tests.end_to_end.test_controls.Peeking",
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


@pytest.mark.parametrize("kind", ["ppo and kl", *(pytest.param(k, marks=pytest.mark.slow) for k in [*SCORED][1:])])
def test_a_replay_is_the_run_that_played_ahead(kind: str, fit, monkeypatch) -> None:
    """All that is said of a rollout is on its file, or is said again by the same weights."""
    recorded = fit("recorded", **COPIED | SCORED[kind])
    monkeypatch.setattr(Copied, "ask", None)
    replayed = fit("replayed", **COPIED | SCORED[kind], data__replay=runs.log_dir(recorded))
    runs.assert_same_end(recorded, replayed)
    runs.assert_same_curves(recorded, replayed)
    assert points(replayed, "rollout/off_policy") == points(replayed, "rollout/staleness") == [0.0, 1.0, 1.0]


def test_critic_and_reference_are_those_of_the_iteration(fit, monkeypatch) -> None:
    """Values by the critic that is trained next, not the one whose weights played."""
    monkeypatch.setattr(Fingerprints, "taken", [], raising=False)
    cli = fit("run", **COPIED | SCORED["ppo and kl"])
    headers = [read(path).header for path in train_files(runs.log_dir(cli)).values()]
    assert len({header.critic for header in headers}) == 3
    assert len({header.weights for header in headers}) == 2
    assert len({header.reference for header in headers}) == 1


def test_an_experts_rollouts_are_the_same_ahead(fit) -> None:
    """They depend on no weights: the run is that without, whatever the sampler is."""
    plain = fit("plain", **IMITATION)
    ahead = fit("ahead", **IMITATION | AHEAD)
    runs.assert_same_end(plain, ahead)
    assert points(ahead, "rollout/staleness") == [0.0, 0.0, 0.0]


def test_a_replay_of_other_weights_settings_is_refused(fit) -> None:
    recorded = fit("recorded", trainer__max_epochs=1)
    with pytest.raises(SettingsError, match=r"rollout\.ahead is 1, and iteration 1 of data\.replay was played with 0"):
        fit("replayed", **AHEAD, data__replay=runs.log_dir(recorded), trainer__max_epochs=1)


def test_what_does_not_go_together_is_refused(fit) -> None:
    with pytest.raises(SettingsError, match=r"rollout\.ahead is 1 and rollout\.old_logprobs is 'trainer'.*sampler"):
        fit("run", **AHEAD, rollout__old_logprobs="trainer")
    with pytest.raises(SettingsError, match=r"rollout\.ahead is 2; wanted one of 0, 1"):
        EnvironmentLoop(environment=ToyEnv, ahead=2)  # type: ignore[arg-type]


# A server


@pytest.mark.parametrize("lora", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_server_plays_beside_the_update(lora: int, fit, tiny_model_dir: str, tmp_path: Path) -> None:
    """Each sync is proved before the update; nothing is sent while an episode is played."""
    fake = FakeVLLM(tiny_model_dir)
    with serving(fake) as url:
        server = {"rollout__sampler": "vllm", "rollout__sampler__urls": f"[{url}]"}
        server["rollout__sampler__weights"] = tmp_path / "weights"
        cli = fit("run", **AHEAD | server, model__lora__rank=lora, trainer__limit_val_batches=1.0)
    assert points(cli, "rollout/staleness") == [0.0, 1.0, 1.0]
    assert "rollout/sampler_gap" not in runs.curves(cli), "the ratio is against the server's log-probs"
    assert min(points(cli, "rollout/action_entropy")) > 1, "scoring filled the entropies in"
    completions = [payload for path, payload in fake.calls if path == "/v1/completions"]
    salts = list(dict.fromkeys(payload["cache_salt"] for payload in completions))
    assert len(salts) == 6, "of three iterations and three validations"
    proofs = [[("prompt_logprobs" in p) for p in completions if p["cache_salt"] == salt] for salt in salts]
    assert all(proof[0] and not any(proof[1:]) for proof in proofs)


# Resuming


def test_what_was_played_ahead_is_kept_as_it_was() -> None:
    rollout = make_rollout([[1.0, 0.0], [0.25, 0.5]], [2, 3])
    rollout.left_out = [rollout.groups.pop()]
    rollout.iteration, rollout.ahead, rollout.fingerprints = 4, True, {"policy": "abc"}
    rollout.failures, rollout.seconds = ["task 3: no answer"], {"environment": 0.1}
    rollout.metrics = {"rollout/retried_episodes": 1.0}
    for t in rollout.transitions:
        t.advantage, t.old_logprobs, t.token_entropies = 0.0, None, []
        t.sampled_logprobs = [-1 / 3 for _ in t.action_ids]  # no float32
    again, header = unpack(pack(rollout, {"rollout.ahead": 1}, 17))
    assert again == rollout
    assert (header.settings, header.seed) == ({"rollout.ahead": 1}, 17)


class PowerCut(Exception):
    pass


RESUMED: dict[str, dict[str, Any]] = {
    "beside": COPIED,
    "before": BEFORE | {"data__dynamic_sampling": 1, "rollout__layout": "episode"},
    "validated": COPIED | {"trainer__limit_val_batches": 1.0} | runs.PPO,
}


@pytest.mark.parametrize("kind", ["beside", *(pytest.param(k, marks=pytest.mark.slow) for k in [*RESUMED][1:])])
def test_a_killed_run_goes_on_as_the_unbroken_one(kind: str, fit, tmp_path: Path, monkeypatch) -> None:
    """Killed in the third of four iterations, while the fourth is played."""
    unbroken = fit("unbroken", **RESUMED[kind], trainer__max_epochs=4)

    def cut(self, trainer, *args) -> None:
        if trainer.current_epoch == 2:
            raise PowerCut

    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(GracefulStop, "on_train_batch_start", cut, raising=False)
        fit("dead", **RESUMED[kind], trainer__max_epochs=4)
    [checkpoint] = (tmp_path / "dead").rglob("last.ckpt")
    resumed = fit("resumed", **RESUMED[kind], trainer__max_epochs=4, ckpt_path=checkpoint)
    runs.assert_same_end(unbroken, resumed)
    runs.assert_same_curves(unbroken, resumed)
    assert points(resumed, "rollout/staleness") == [1.0, 1.0]


def test_the_last_iteration_plays_nothing_ahead(fit) -> None:
    """So that a finished run which is extended goes on with a rollout of its own weights."""
    Copied.asked.clear()
    finished = fit("finished", **COPIED, trainer__max_epochs=1)
    assert "playing ahead" not in Copied.asked
    checkpoint = runs.log_dir(finished) / "checkpoints" / "last.ckpt"
    assert "EnvironmentLoop" not in torch.load(checkpoint, weights_only=True)["callbacks"]
    extended = fit("extended", **COPIED, ckpt_path=checkpoint)
    assert points(extended, "rollout/staleness") == [0.0, 1.0]


@pytest.mark.parametrize("changed", [{"rollout__temperature": 0.5}, {"seed_everything": 7}])
def test_a_rollout_of_other_settings_is_left_out(changed: dict, fit, monkeypatch) -> None:
    """Stopped after the first of three iterations: what it had played of the second is of another temperature."""
    monkeypatch.setattr(GracefulStop, "_stopping", lambda self: self.phase == "saving")
    monkeypatch.setattr(GracefulStop, "on_train_end", lambda *_: None)
    stopped = fit("stopped", **COPIED)
    monkeypatch.undo()
    checkpoint = runs.log_dir(stopped) / "checkpoints" / "last.ckpt"
    with pytest.warns(UserWarning, match="rollout of iteration 2 was played with other settings and is left out"):
        resumed = fit("resumed", **COPIED | changed, ckpt_path=checkpoint)
    assert points(resumed, "rollout/staleness") == [0.0, 1.0]


# Failures and stops


def test_a_failing_sampler_is_the_error_it_is_in_the_main_thread(fit, tmp_path: Path) -> None:
    """While the second update runs; the first iteration's checkpoint goes on."""
    with pytest.raises(SamplerFailedError, match="^the server is on fire; wanted another"):
        fit("run", **AHEAD, rollout__sampler=f"{HELPERS}.Failing")
    [checkpoint] = (tmp_path / "run").rglob("last.ckpt")
    resumed = fit("resumed", **COPIED, ckpt_path=checkpoint)
    runs.assert_same_end(fit("unbroken", **COPIED), resumed)


def test_a_failing_environment_is_too(fit, monkeypatch) -> None:
    step = ToyEnv.step

    def broken(self: ToyEnv, action: str) -> Any:
        if (self.seed or 0) % runs.TOY["data.groups"] >= 0 and FirstIsOver.over:
            raise ConnectionError("the world fell over")
        return step(self, action)

    monkeypatch.setattr(ToyEnv, "step", broken)
    monkeypatch.setattr(FirstIsOver, "over", False)
    with pytest.raises(EnvironmentFailedError, match="no train group could be played to its end; .*fell over"):
        fit("run", **COPIED, **{"trainer__callbacks+": "tests.rollouts.test_ahead.FirstIsOver"})


class FirstIsOver(Callback):
    """Says that the first rollout is played."""

    over = False

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        type(self).over = True


class Sleepy(ToyEnv):
    """Takes its time, where asked to."""

    pause = 0.0

    def step(self, action: str) -> Any:
        time.sleep(self.pause)
        return super().step(action)


class Signal(Callback):
    """Has environments sleep, and is told to stop while the second rollout is played."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if not Sleepy.pause:
            Sleepy.pause = self.pause
            os.kill(os.getpid(), signal.SIGTERM)

    pause = 0.3


def test_a_stop_finishes_what_is_played(fit, monkeypatch) -> None:
    """The next rollout is part of the iteration's checkpoint: resumed, the run is the unbroken one."""
    settings = COPIED | {"rollout__environment": "tests.rollouts.test_ahead.Sleepy"}
    monkeypatch.setattr(Sleepy, "pause", 0.0)
    unbroken = fit("unbroken", **settings)
    stopped = fit("stopped", **settings, **{"trainer__callbacks+": "tests.rollouts.test_ahead.Signal"})
    assert stopped.trainer.current_epoch == 1
    monkeypatch.setattr(Sleepy, "pause", 0.0)
    checkpoint = runs.log_dir(stopped) / "checkpoints" / "last.ckpt"
    resumed = fit("resumed", **settings, ckpt_path=checkpoint)
    runs.assert_same_end(unbroken, resumed)


def test_a_stop_that_drops_leaves_at_once(fit, monkeypatch) -> None:
    """A step takes 0.3 s, the rest of the rollout 18 of them, one after the other; nobody waits for it."""
    monkeypatch.setattr(Sleepy, "pause", 0.0)
    settings = TOGETHER | {"rollout__environment": "tests.rollouts.test_ahead.Sleepy", "graceful_stop__seconds": 0}
    monkeypatch.setattr(GracefulStop, "_seconds_left", lambda self: 60.0)
    started: list[float] = []
    start = Signal.on_train_batch_start

    def clocked(self, trainer: Any, *_: Any) -> None:
        started.append(time.perf_counter())
        start(self, trainer)

    monkeypatch.setattr(Signal, "on_train_batch_start", clocked)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit("stopped", **settings, **{"trainer__callbacks+": "tests.rollouts.test_ahead.Signal"})
    assert time.perf_counter() - started[0] < 4


def test_rollouts_say_when_they_were_played() -> None:
    assert not Rollout(0, []).ahead
