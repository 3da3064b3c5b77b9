"""A stopped and resumed run is the unbroken run, bit for bit."""

from __future__ import annotations

import functools
import os
import re
import signal
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from paw_lightning.callbacks import GracefulStop, PolicyExport
from paw_lightning.cli import main
from paw_lightning.models.identity import check_identity
from tests.helpers import runs
from tests.helpers.runs import assert_same_curves, assert_same_end


@pytest.mark.parametrize("layout", ["step", "episode"])
def test_resume_equals_unbroken_run(layout: str, tiny_model_dir: str, tmp_path: Path) -> None:
    fit = functools.partial(runs.fit, rollout__layout=layout)
    unbroken = fit(tmp_path / "unbroken", tiny_model_dir, trainer__max_epochs=4)
    stopped = fit(tmp_path / "stopped", tiny_model_dir, trainer__max_epochs=1)
    checkpoint = runs.log_dir(stopped) / "checkpoints" / "last.ckpt"
    again = fit(tmp_path / "again", tiny_model_dir, trainer__max_epochs=2, ckpt_path=checkpoint)
    checkpoint = runs.log_dir(again) / "checkpoints" / "last.ckpt"
    resumed = fit(tmp_path / "resumed", tiny_model_dir, trainer__max_epochs=4, ckpt_path=checkpoint)
    assert_same_end(unbroken, resumed)
    assert_same_curves(unbroken, resumed)


class SignalDuringRollout(L.Callback):
    """Sends this process a signal in the middle of the given iteration."""

    def __init__(self, number: int, iteration: int) -> None:
        self.number, self.iteration = number, iteration

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.current_epoch == self.iteration and batch_idx == 0:
            os.kill(os.getpid(), self.number)


def test_a_run_that_dies_leaves_its_last_whole_iteration(tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    """Killed in the middle of iteration 2 (of 0..3), without any chance to save."""
    unbroken = runs.fit(tmp_path / "unbroken", tiny_model_dir, trainer__max_epochs=4)

    class PowerCut(Exception):
        pass

    def cut(self, trainer, *args) -> None:
        if trainer.current_epoch == 2:
            raise PowerCut

    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(GracefulStop, "on_train_batch_end", cut)
        runs.fit(tmp_path / "dead", tiny_model_dir, trainer__max_epochs=4)
    [checkpoint] = (tmp_path / "dead").rglob("last.ckpt")
    resumed = runs.fit(tmp_path / "resumed", tiny_model_dir, trainer__max_epochs=4, ckpt_path=checkpoint)
    assert resumed.trainer.current_epoch == 4
    assert min(runs.curves(resumed)["rollout/return"]) == 3, "the third, from which the power was cut, was played again"
    assert_same_end(unbroken, resumed)


def test_resume_in_place_continues_the_run(tiny_model_dir: str, tmp_path: Path) -> None:
    first = runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=1)
    checkpoint = runs.log_dir(first) / "checkpoints" / "last.ckpt"
    second = runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=3, ckpt_path=checkpoint)
    assert runs.log_dir(second) == runs.log_dir(first), "one run, one folder"
    assert len(runs.curves(second)["rollout/return"]) == 3, "one curve with a point per iteration"


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_signal_saves_a_resumable_iteration(number: int, tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    unbroken = runs.fit(tmp_path / "unbroken", tiny_model_dir, trainer__max_epochs=3)
    sender, before = SignalDuringRollout(number, iteration=1), signal.getsignal(number)
    original = GracefulStop.on_train_start

    def start(self, trainer, pl_module):
        original(self, trainer, pl_module)
        trainer.callbacks.append(sender)

    with monkeypatch.context() as patch:
        patch.setattr(GracefulStop, "on_train_start", start)
        stopped = runs.fit(tmp_path / "stopped", tiny_model_dir, trainer__max_epochs=3)
    assert stopped.trainer.current_epoch == 2, "iterations 0 and 1 were finished, 2 was not begun"
    assert signal.getsignal(number) == before, "the handler was given back"
    checkpoint = runs.log_dir(stopped) / "checkpoints" / "last.ckpt"
    resumed = runs.fit(tmp_path / "resumed", tiny_model_dir, trainer__max_epochs=3, ckpt_path=checkpoint)
    assert_same_end(unbroken, resumed)
    assert_same_curves(unbroken, resumed)


@pytest.mark.parametrize("minimum", [{"trainer__min_epochs": 3}, {"trainer__min_steps": 6}])
def test_a_signal_overrules_a_minimum(minimum: dict, tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(PolicyExport, "on_train_epoch_start", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    stopped = runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=3, **minimum)
    assert stopped.trainer.current_epoch == 1


def exit_status(directory: Path, model: str, monkeypatch, **settings) -> int | str | None:
    """What the console script leaves its caller with; Lightning leaves Ctrl-C ignored, for a process that ends."""
    handlers = {number: signal.getsignal(number) for number in GracefulStop.SIGNALS}
    options = {**runs.TOY, "trainer.logger.init_args.save_dir": directory, "model.path": model, **settings}
    monkeypatch.setattr(sys, "argv", ["paw-lightning", "fit", *runs.arguments(options)])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born with it ignored
    with pytest.raises(SystemExit) as error:
        main()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return error.value.code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_so_in_its_exit_status(
    number: int, tiny_model_dir: str, tmp_path: Path, monkeypatch
) -> None:
    """Whoever started it would take a 0 for a finished run; 130 and 143 are what shells say."""
    monkeypatch.setattr(PolicyExport, "on_train_epoch_start", lambda *_: os.kill(os.getpid(), number))
    assert exit_status(tmp_path, tiny_model_dir, monkeypatch) == 128 + number
    assert len(list(tmp_path.rglob("last.ckpt"))) == 1


def test_sigterm_before_the_first_iteration_is_no_success(tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    """Lightning ends after the batch, of four in the sanity check, with an exit status of 0."""
    monkeypatch.setattr(PolicyExport, "on_sanity_check_start", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    rest = {"trainer.num_sanity_val_steps": -1, "data.evaluation_batch": 1}
    assert exit_status(tmp_path, tiny_model_dir, monkeypatch, **rest) == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_at_once(number: int, tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    """The first comes before the iteration, the second in its midst: nothing is saved, and the status says which."""
    kill = lambda *_: os.kill(os.getpid(), number)  # noqa: E731
    monkeypatch.setattr(PolicyExport, "on_train_epoch_start", kill)
    monkeypatch.setattr(PolicyExport, "on_train_batch_end", kill)
    assert exit_status(tmp_path, tiny_model_dir, monkeypatch) == 128 + number
    assert not list(tmp_path.rglob("*.ckpt"))


def test_ctrl_c_before_the_first_iteration_says_so_too(tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    """Lightning would exit with 1, as for an error."""
    monkeypatch.setattr(PolicyExport, "on_sanity_check_start", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    rest = {"trainer.num_sanity_val_steps": -1}
    assert exit_status(tmp_path, tiny_model_dir, monkeypatch, **rest) == 128 + signal.SIGINT


def test_any_other_exit_keeps_its_status(tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    def leave(*_: object) -> None:
        sys.exit(7)

    monkeypatch.setattr(PolicyExport, "on_train_epoch_start", leave)
    assert exit_status(tmp_path, tiny_model_dir, monkeypatch) == 7


def test_checkpoint_of_another_model_is_refused(tiny_model_dir: str, tmp_path: Path) -> None:
    first = runs.fit(tmp_path / "a", tiny_model_dir, trainer__max_epochs=1)
    checkpoint = runs.log_dir(first) / "checkpoints" / "last.ckpt"
    other = tmp_path / "other"
    config = first.model.language_model.config.to_dict() | {"num_hidden_layers": 3, "layer_types": None}
    AutoModelForCausalLM.from_config(Qwen2Config(**config)).save_pretrained(other)
    first.model.tokenizer.save_pretrained(other)
    with pytest.raises(ValueError, match=r"num_hidden_layers: checkpoint 2, configured 3"):
        runs.fit(tmp_path / "b", str(other), trainer__max_epochs=2, ckpt_path=checkpoint)


def test_checkpoint_of_another_tokenizer_is_refused(tiny_model_dir: str, tmp_path: Path) -> None:
    first = runs.fit(tmp_path / "a", tiny_model_dir, trainer__max_epochs=1)
    checkpoint = runs.log_dir(first) / "checkpoints" / "last.ckpt"
    other = tmp_path / "other"
    first.model.language_model.save_pretrained(other)
    tokenizer = first.model.tokenizer
    tokenizer.chat_template = tokenizer.chat_template.replace("<|end|>", "<|end|>\n")
    tokenizer.save_pretrained(other)
    with pytest.raises(ValueError, match="tokenizer: checkpoint"):
        runs.fit(tmp_path / "b", str(other), trainer__max_epochs=2, ckpt_path=checkpoint)


def test_export_is_the_trained_policy(tiny_model_dir: str, tmp_path: Path) -> None:
    cli = runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=1)
    exported = AutoModelForCausalLM.from_pretrained(runs.log_dir(cli) / "policy")
    before = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    for name, tensor in runs.weights(cli).items():
        assert torch.equal(exported.state_dict()[name], tensor), name
    changed = [n for n, t in before.state_dict().items() if not torch.equal(t, exported.state_dict()[n])]
    assert changed, "training changed nothing"


def test_resume_from_the_best_checkpoint(tiny_model_dir: str, tmp_path: Path) -> None:
    """With validation every second iteration the best checkpoint is saved before its epoch is over."""
    first = runs.fit(tmp_path / "a", tiny_model_dir, trainer__max_epochs=2, trainer__check_val_every_n_epoch=2)
    checkpoint = runs.log_dir(first) / "checkpoints" / "best.ckpt"
    resumed = runs.fit(tmp_path / "b", tiny_model_dir, trainer__max_epochs=3, ckpt_path=checkpoint)
    unbroken = runs.fit(tmp_path / "c", tiny_model_dir, trainer__max_epochs=3, trainer__check_val_every_n_epoch=2)
    assert_same_end(unbroken, resumed)


def test_another_reference_policy_is_refused(tiny_model_dir: str, tmp_path: Path) -> None:
    """Same shapes, other weights: the KL term would pull to another policy without a word."""
    kl = {"model__policy_loss__kl_coefficient": 0.1}
    first = runs.fit(tmp_path / "a", tiny_model_dir, trainer__max_epochs=1, **kl)
    folder = runs.log_dir(first)
    with pytest.raises(ValueError, match="reference weights"):
        runs.fit(
            tmp_path / "b",
            str(folder / "policy"),
            trainer__max_epochs=2,
            ckpt_path=folder / "checkpoints" / "last.ckpt",
            **kl,
        )


@pytest.mark.parametrize(("saved", "now"), [(0.1, 0.0), (0.0, 0.1)])
@pytest.mark.parametrize("command", ["test", "fit"])
def test_the_kl_term_may_come_and_go(
    command: str, saved: float, now: float, tiny_model_dir: str, tmp_path: Path
) -> None:
    """Only one of the two has a reference: there is nothing to compare."""
    first = runs.fit(tmp_path / "a", tiny_model_dir, trainer__max_epochs=1, model__policy_loss__kl_coefficient=saved)
    settings = {"ckpt_path": runs.log_dir(first) / "checkpoints" / "last.ckpt", "data__test_tasks": 2}
    cli = runs.fit(tmp_path / "b", tiny_model_dir, command=command, model__policy_loss__kl_coefficient=now, **settings)
    assert cli.trainer.state.finished


IDENTITY = {"hidden_size": 32, "world_model_head": "shared", "tokenizer": "a", "reference weights": "x"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 64}, "hidden_size: checkpoint 32, configured 64); wanted model.path as in the run"),
        ({"tokenizer": "b", "hidden_size": 64}, "configured 'b'); wanted model.path as in the run"),
        ({"critic": "shared"}, "critic: checkpoint None, configured 'shared'); wanted model.critic as in the run"),
        (
            {"world_model_head": "separate", "lora": "LoRA"},
            "wanted model.lora and model.world_model_head as in the run",
        ),
        ({"reference weights": "y"}, "reference weights: checkpoint 'x', configured 'y'); wanted model.path"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_difference_names_the_key_that_sets_it(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_identity(IDENTITY, IDENTITY | change)


def test_an_evaluation_does_not_compare_the_reference() -> None:
    check_identity(IDENTITY, IDENTITY | {"reference weights": "y"}, same_reference=False)
