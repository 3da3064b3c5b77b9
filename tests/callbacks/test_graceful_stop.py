"""A signal finishes and saves the iteration under way, without the validation after it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from paw_lightning.callbacks import PolicyExport
from tests.helpers import runs
from tests.helpers.runs import assert_same_curves, assert_same_end


def send(monkeypatch, number: int, iteration: int) -> None:
    """Send this process a signal at the start of an iteration."""

    def kill(self, trainer, *_) -> None:
        if trainer.current_epoch == iteration:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(PolicyExport, "on_train_epoch_start", kill)


@pytest.mark.parametrize("every", [1, 2])
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
