"""A signal finishes and saves the iteration under way where the time allows, without the validation after it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from paw_lightning import ranks
from paw_lightning.callbacks import GracefulStop, PolicyExport, graceful_stop, stop_watch
from paw_lightning.callbacks.graceful_stop import Stopped
from paw_lightning.errors import SettingsError
from tests.helpers import runs
from tests.helpers.runs import assert_same_curves, assert_same_end
from tests.helpers.toy_env import ToyEnv


def send(monkeypatch, number: int, iteration: int) -> None:
    """Send this process a signal at the start of an iteration."""

    def kill(self, trainer, *_) -> None:
        if trainer.current_epoch == iteration:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(PolicyExport, "on_train_epoch_start", kill)


@pytest.mark.parametrize("every", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_validation_is_left_out_and_the_resumed_run_is_the_unbroken_one(
    every: int, tiny_model_dir: str, tmp_path: Path, monkeypatch
) -> None:
    """Stopped in iteration 2 of 4, whose validation would be the second."""
    settings = {"trainer__max_epochs": 4, "trainer__check_val_every_n_epoch": every}
    unbroken = runs.fit(tmp_path / "unbroken", tiny_model_dir, **settings)
    with monkeypatch.context() as patch:
        send(patch, signal.SIGTERM, iteration=1)
        with pytest.warns(UserWarning, match="the validation of iteration 2 is left out"):
            stopped = runs.fit(tmp_path / "stopped", tiny_model_dir, **settings)
    assert stopped.trainer.current_epoch == 2 and stopped.trainer.limit_val_batches == 1.0
    points, whole = (runs.curves(cli).get("val/success_rate", {}) for cli in (stopped, unbroken))
    assert sorted(whole) == [number for number in (1, 2, 3, 4) if number % every == 0]
    assert sorted(points) == [number for number in whole if number < 2]
    checkpoint = runs.log_dir(stopped) / "checkpoints" / "last.ckpt"
    resumed = runs.fit(tmp_path / "resumed", tiny_model_dir, **settings, ckpt_path=checkpoint)
    assert_same_end(unbroken, resumed)
    assert_same_curves(unbroken, resumed)
    assert sorted(runs.curves(resumed)["val/success_rate"]) == [number for number in whole if number > 2]


def test_the_checkpoint_is_that_of_an_unbroken_run(tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    """Weights and optimizer are the same; loop counters of validation are not."""
    unbroken = runs.fit(tmp_path / "unbroken", tiny_model_dir, trainer__max_epochs=2)
    with monkeypatch.context() as patch:
        send(patch, signal.SIGINT, iteration=1)
        stopped = runs.fit(tmp_path / "stopped", tiny_model_dir, trainer__max_epochs=4)
    one, other = (
        torch.load(runs.log_dir(cli) / "checkpoints" / "last.ckpt", weights_only=False) for cli in (unbroken, stopped)
    )
    assert one["epoch"] == other["epoch"] and one["global_step"] == other["global_step"]
    for name, tensor in one["state_dict"].items():
        assert torch.equal(tensor, other["state_dict"][name]), name
    assert str(one["optimizer_states"]) == str(other["optimizer_states"])


def test_nothing_is_said_where_no_validation_was_due(tiny_model_dir: str, tmp_path: Path, monkeypatch, recwarn) -> None:
    send(monkeypatch, signal.SIGTERM, iteration=0)
    stopped = runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=3, trainer__check_val_every_n_epoch=2)
    assert stopped.trainer.current_epoch == 1
    messages = [str(warning.message) for warning in recwarn]
    assert any(message.startswith("SIGTERM: stopping after this iteration") for message in messages)
    assert not any("is left out" in message for message in messages)


def stopped_in(directory: Path, model: str, caplog, **settings) -> tuple[float, str]:
    """Run into a signal that drops the iteration; returns the seconds it took, and what the run said last."""
    started = time.monotonic()
    with pytest.raises(SystemExit) as error, caplog.at_level("INFO"):
        runs.fit(directory, model, **settings)
    assert isinstance(error.value.__context__, Stopped) and error.value.__context__.args == (signal.SIGTERM,)
    [line] = [record.getMessage() for record in caplog.records if record.getMessage().startswith("SIGTERM: ")]
    return time.monotonic() - started, line


def test_an_iteration_that_would_take_too_long_is_dropped_at_once(
    tiny_model_dir: str, tmp_path: Path, monkeypatch, caplog
) -> None:
    """No iteration fits into a millisecond; the checkpoint of the one before goes on as if nothing had been begun."""
    settings = {"trainer__max_epochs": 3}
    unbroken = runs.fit(tmp_path / "unbroken", tiny_model_dir, **settings)
    with monkeypatch.context() as patch:
        send(patch, signal.SIGTERM, iteration=1)
        _, line = stopped_in(tmp_path / "stopped", tiny_model_dir, caplog, graceful_stop__seconds=0.001, **settings)
    [checkpoint] = (tmp_path / "stopped").rglob("last.ckpt")
    assert "iteration 2 is dropped (it needs about " in line and "graceful_stop.seconds is 0.001" in line
    assert f"; {checkpoint} holds what was finished before; go on with: " in line
    assert line.endswith(f"--ckpt_path {checkpoint}")
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 0
    resumed = runs.fit(tmp_path / "resumed", tiny_model_dir, **settings, ckpt_path=checkpoint)
    assert_same_end(unbroken, resumed)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_blocked_environment_does_not_block_the_stop(
    split: str, tiny_model_dir: str, tmp_path: Path, monkeypatch, caplog
) -> None:
    """Its step would take a minute. In training the time runs out; a validation is broken off, and the rest saved."""
    step = ToyEnv.step

    def block(self, action: str):
        if self.split == split and self.turn == 1:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
            time.sleep(60)
        return step(self, action)

    monkeypatch.setattr(ToyEnv, "step", block)
    if split == "train":
        seconds, line = stopped_in(tmp_path, tiny_model_dir, caplog, graceful_stop__seconds=0.5)
        assert line == (
            "SIGTERM: iteration 1 is dropped (it did not end within graceful_stop.seconds: 0.5); no iteration was "
            "finished yet, so nothing is saved"
        )
        assert not list(tmp_path.rglob("*.ckpt"))
    else:
        started = time.monotonic()
        with pytest.warns(UserWarning, match="the validation of iteration 1 is broken off"):
            cli = runs.fit(tmp_path, tiny_model_dir)
        seconds = time.monotonic() - started
        assert cli.trainer.current_epoch == 1 and "val/success_rate" not in runs.curves(cli)
        assert (runs.log_dir(cli) / "checkpoints" / "last.ckpt").exists()
        assert not (runs.log_dir(cli) / "checkpoints" / "best.ckpt").exists()
    assert seconds < 30, "a minute would be the environment's"


@pytest.mark.parametrize("every", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_was_stopped_in_a_validation_goes_on_as_the_unbroken_one(
    every: int, tiny_model_dir: str, tmp_path: Path, monkeypatch
) -> None:
    """Iterations 1 and 2 of 4 are trained; the validation behind the second is broken off after one task of four."""
    settings = {"trainer__max_epochs": 4, "trainer__check_val_every_n_epoch": every, "data__evaluation_batch": 1}
    unbroken = runs.fit(tmp_path / "unbroken", tiny_model_dir, **settings)
    reset, played = ToyEnv.reset, []

    def kill(self, **given):
        played.extend([self.split] if self.split == "val" else [])
        if len(played) == (4 if every == 1 else 0) + 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return reset(self, **given)

    with monkeypatch.context() as patch:
        patch.setattr(ToyEnv, "reset", kill)
        stopped = runs.fit(tmp_path / "stopped", tiny_model_dir, **settings)
    assert stopped.trainer.current_epoch == 2
    assert sorted(runs.curves(stopped).get("val/success_rate", {})) == ([1] if every == 1 else [])
    checkpoint = runs.log_dir(stopped) / "checkpoints" / "last.ckpt"
    resumed = runs.fit(tmp_path / "resumed", tiny_model_dir, **settings, ckpt_path=checkpoint)
    assert_same_end(unbroken, resumed)
    assert_same_curves(unbroken, resumed)


def test_a_signal_while_saving_stops_before_the_next_iteration(
    tiny_model_dir: str, tmp_path: Path, monkeypatch, caplog
) -> None:
    save = ModelCheckpoint.on_train_epoch_end

    def kill(self, trainer, module) -> None:
        save(self, trainer, module)
        if self.monitor is None:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ModelCheckpoint, "on_train_epoch_end", kill)
    _, line = stopped_in(tmp_path, tiny_model_dir, caplog, trainer__max_epochs=3)
    [checkpoint] = tmp_path.rglob("last.ckpt")
    assert line.startswith(f"SIGTERM: stopped after iteration 1, which is in {checkpoint}; go on with: ")
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 0


def test_an_evaluation_ends_at_once(tiny_model_dir: str, tmp_path: Path, monkeypatch, caplog) -> None:
    """Lightning would play all tasks to their end."""
    monkeypatch.setattr(ToyEnv, "reset", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(60))
    seconds, line = stopped_in(tmp_path, tiny_model_dir, caplog, command="validate")
    assert line == "SIGTERM: the evaluation is broken off" and seconds < 30


def test_with_several_ranks_each_entry_point_listens_for_its_own_stop(monkeypatch) -> None:
    """`fit`, stopped, and then `test` in one process: the word of the first stop is not the second's."""
    words, called = dict[str, str](), list[int]()
    monkeypatch.setattr(ranks, "world", lambda: (0, 2))
    monkeypatch.setattr(ranks, "post", words.setdefault)
    monkeypatch.setattr(ranks, "posted", words.get)
    monkeypatch.setattr(stop_watch, "POLL", 0.01)
    monkeypatch.setattr(graceful_stop, "call_main_thread", called.append)
    stop, trainer = GracefulStop(seconds=None), SimpleNamespace()

    stop.setup(trainer, None, "fit")
    stop.on_test_start(trainer, None)
    stop.phase = "saving"
    os.kill(os.getpid(), signal.SIGTERM)
    stop.teardown(trainer, None, "fit")
    assert [*words.values()] == ["15 finish"]

    stop.setup(trainer, None, "test")
    stop.on_test_start(trainer, None)
    time.sleep(0.1)  # ten looks
    assert called == [], "nobody has stopped this one"
    assert ranks.post(stop._order, "2 finish") == "2 finish", "the other rank decides anew"
    stop._listener.join(timeout=5)
    stop.teardown(trainer, None, "test")
    assert called == [signal.SIGINT]


@pytest.mark.parametrize("validated", [False, True])
def test_waiting_for_who_plays_ahead_is_a_part_of_the_iteration(validated: bool, monkeypatch) -> None:
    """EnvironmentLoop waits in `on_train_batch_end`, perhaps after this callback: 10 s of learning and 30 of waiting
    are 40, and a stop that comes when 5 s of the wait have passed has 25 + 2 of saving before it."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(graceful_stop.time, "perf_counter", lambda: clock.now)
    trainer = SimpleNamespace(
        is_last_batch=True, enable_validation=False, sanity_checking=False, state=SimpleNamespace(fn="fit")
    )
    stop = GracefulStop(seconds=20)
    monkeypatch.setattr(stop, "_take", lambda trainer: None)

    def learn() -> None:
        stop.on_train_epoch_start(trainer, None)
        clock.now += 10
        stop.on_train_batch_end(trainer, None, None, None, 0)

    learn()
    clock.now += 30
    if validated:
        stop.on_validation_start(trainer, None)
        clock.now += 100
        trainer.datamodule = SimpleNamespace(cut=False)
        stop.on_validation_end(trainer, None)
    stop.on_train_epoch_end(trainer, None)
    clock.now += 2
    learn()
    assert [*stop.trained] == [40.0] and [*stop.saved] == [2.0]
    clock.now += 5
    assert stop._seconds_left() == 27.0
    # Where the time is up all the same, it is dropped from here, not ended from outside.
    stop.received, stop._watch = signal.SIGTERM, SimpleNamespace(due=True)
    monkeypatch.setattr(stop, "_drop", lambda why: pytest.fail(f"dropped: {why}") if "20" not in why else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stop._handle(signal.SIGTERM, None)


def test_seconds_below_zero_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"graceful_stop.seconds is -1; wanted at least 0, or null"):
        GracefulStop(seconds=-1)


@pytest.mark.slow
def test_a_process_whose_main_thread_never_comes_is_ended() -> None:
    """It computes for a minute in C, where Python calls no handler; 143 is what shells say of a SIGTERM."""
    code = (
        "import hashlib, signal; from paw_lightning.callbacks import stop_watch; stop_watch.GRACE = 0.2;"
        "signal.signal(signal.SIGTERM, lambda *_: 1 / 0);"
        "stop_watch.StopWatch(signal.SIGTERM, 0.1, 'nothing is lost');"
        "hashlib.pbkdf2_hmac('sha512', b'a', b'b', 10**9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 143 and done.stderr == "\nnothing is lost\n"
