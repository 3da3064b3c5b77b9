"""A resumed run with other settings: which win, which are refused, and that all are said once."""

from __future__ import annotations

import warnings
from pathlib import Path

import lightning as L
import pytest
import torch

from paw_lightning.callbacks import EntropySelection, EnvironmentLoop, RewardBalance
from paw_lightning.rollouts.collector import Collector
from paw_lightning.training.datamodule import RolloutDataModule
from paw_lightning.training.module import PaWModule
from paw_lightning.training.saved_settings import differences, flat
from tests.helpers import runs
from tests.helpers.toy_env import ToyEnv

FAST = {"trainer__limit_val_batches": 0, "policy_export__folder": None, "canaries__enabled": False}


@pytest.fixture(scope="module")
def checkpoint(tiny_model_dir: str, tmp_path_factory) -> Path:
    """Of the command line's run, after one iteration of two optimizer steps."""
    first = runs.fit(tmp_path_factory.mktemp("stopped"), tiny_model_dir, trainer__max_epochs=1, **FAST)
    return runs.log_dir(first) / "checkpoints" / "last.ckpt"


def resume(checkpoint: Path, model: str, directory: Path, **settings):
    """The resumed run, and the one block that says what it has otherwise."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cli = runs.fit(directory, model, trainer__max_epochs=2, ckpt_path=checkpoint, **FAST, **settings)
    return cli, [str(w.message) for w in caught if "resumed run" in str(w.message)]


def test_a_rate_of_the_command_line_wins(checkpoint: Path, tiny_model_dir: str, tmp_path: Path) -> None:
    """Two steps were made before; at a rate of 0 the next two change nothing, and momenta count on to 4."""
    cli, said = resume(checkpoint, tiny_model_dir, tmp_path, model__optimizer__init_args__lr=0.0)
    assert [group["lr"] for group in cli.trainer.optimizers[0].param_groups] == [0.0]
    assert {int(state["step"]) for state in cli.trainer.optimizers[0].state.values()} == {4}
    before = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in cli.model.state_dict().items())
    [block] = said
    assert block.splitlines()[1:] == ["  model.optimizer.init_args.lr: 0.01 -> 0.0"]


def test_every_change_is_said_once_in_one_block(checkpoint: Path, tiny_model_dir: str, tmp_path: Path) -> None:
    """How far to train and where to write to are no settings of this kind."""
    changes = {
        "data__groups": 3,
        "rollout__temperature": 0.5,
        "rollout__advantage": "RLOO",
        "rollout__environment__uneven": "true",
        "model__policy_loss__clip_high": 0.3,
        "seed_everything": 5,
        "trainer__enable_model_summary": "true",
    }
    _, [block] = resume(checkpoint, tiny_model_dir, tmp_path, **changes)
    title, *lines = block.splitlines()
    assert title == "the resumed run has other settings than the one that was stopped:"
    assert [line for line in lines if ".advantage.init_args." not in line] == [
        "  seed_everything: 0 -> 5",
        "  model.policy_loss.clip_high: 0.2 -> 0.3",
        "  data.groups: 2 -> 3",
        "  rollout.environment.init_args.uneven: false -> true",
        "  rollout.advantage: null -> paw_lightning.RLOO",
        "  rollout.temperature: 1.0 -> 0.5",
    ]


def test_nothing_is_said_of_a_run_that_goes_on_as_it_was(checkpoint: Path, tiny_model_dir: str, tmp_path: Path) -> None:
    _, said = resume(checkpoint, tiny_model_dir, tmp_path)
    assert not said


def test_another_optimizer_is_refused_before_anything_is_played(
    checkpoint: Path, tiny_model_dir: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(Collector, "play", lambda *_, **__: pytest.fail("played"))
    with pytest.raises(ValueError, match=r"model\.optimizer is SGD .* is AdamW"):
        resume(checkpoint, tiny_model_dir, tmp_path, model__optimizer="torch.optim.SGD")


def test_without_the_command_line_what_is_known_is_said(checkpoint: Path, tiny_model_dir: str, tmp_path: Path) -> None:
    """A script's module, datamodule and optimizer know their own settings, by the same keys."""
    parts = [EnvironmentLoop(ToyEnv, max_steps=3, max_action_tokens=6), EntropySelection(), RewardBalance()]
    module = PaWModule(tiny_model_dir, optimizer=lambda p: torch.optim.AdamW(p, lr=0.02))
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        accumulate_grad_batches=2,
        callbacks=parts,
        logger=False,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
    )
    data = RolloutDataModule(groups=2, group_size=2)
    with pytest.warns(UserWarning, match="resumed run") as caught:
        trainer.fit(module, data, ckpt_path=checkpoint)
    [block] = [str(w.message) for w in caught if "resumed run" in str(w.message)]
    assert block.splitlines()[1:] == [
        "  data.group_size: 3 -> 2",
        "  model.optimizer.init_args.lr: 0.01 -> 0.02",
    ]
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.02


def test_settings_are_compared_by_key() -> None:
    spec = {"class_path": "A", "init_args": {"b": [1, 2]}}
    nested = {"a": spec, "c": None, "d": [{"class_path": "E"}], "f": {}}
    assert flat(nested) == {"a": "A", "a.init_args.b": [1, 2], "c": None, "d.0": "E", "f": {}}
    long = "x" * 100
    saved = {"a": 1, "b": f"{long}old", "ckpt_path": "x", "d": "", "e": "two\nlines"}
    lines = differences(saved, {"a": 1.5, "b": f"{long}new", "c": None, "d": "x", "e": "one"})
    assert lines == [
        "a: 1 -> 1.5",
        f"b: ...{long[:30]}old -> ...{long[:30]}new",
        "c: not set -> null",
        'd: "" -> x',
        "e: two\\nlines -> one",
    ]
