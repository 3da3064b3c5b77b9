"""The end of a run: what was achieved, where it is, how to go on."""

from __future__ import annotations

import logging
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from paw_lightning.callbacks import PolicyExport
from paw_lightning.callbacks.rollout_curves import evaluation_metrics
from paw_lightning.callbacks.success_report import Success
from paw_lightning.errors import SettingsError
from paw_lightning.training.run_folder import program
from paw_lightning.types import Episode, RolloutGroup
from tests.helpers import runs


class OtherLogger(Logger):
    """Keeps its runs as W&B and MLflow do: `save_dir` is shared, `name` and `version` are the run's."""

    runs = 0

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        OtherLogger.runs += 1
        self._save_dir, self._version = save_dir, f"id{OtherLogger.runs}"

    save_dir = property(lambda self: self._save_dir)
    name = property(lambda self: "project")
    version = property(lambda self: self._version)

    @rank_zero_only
    def log_hyperparams(self, *args, **kwargs) -> None: ...

    @rank_zero_only
    def log_metrics(self, metrics, step=None) -> None: ...


def lines(caplog) -> dict[str, str]:
    """What was printed at the end: label -> rest of the line."""
    pairs = [message.partition(":") for message in caplog.messages]
    return {label: rest.strip() for label, _, rest in pairs}


def report(caplog, *args, **settings) -> tuple[dict[str, str], object]:
    caplog.clear()
    with caplog.at_level(logging.INFO):
        cli = runs.fit(*args, **settings)
    return lines(caplog), cli


def test_standard_error() -> None:
    """sqrt(0.125 * 0.875 / 200) = 0.02339, sqrt(0.725 * 0.275 / 200) = 0.03157."""
    assert Success(0.125, 200, 0).standard_error == pytest.approx(2.339, abs=1e-3)
    assert Success(0.725, 200, 0).standard_error == pytest.approx(3.157, abs=1e-3)


def test_the_standard_error_is_logged_beside_the_rate() -> None:
    """One of four won: sqrt(0.25 * 0.75 / 4) = 0.2165."""
    groups = [RolloutGroup("key", 1.0, [Episode(i, 0, "task", won=i == 0)]) for i in range(4)]
    metrics = evaluation_metrics("test", groups, 1)
    assert metrics["test/success_rate"] == 0.25
    assert metrics["test/success_rate_stderr"] == pytest.approx(0.21651, abs=1e-5)
    assert "test/success_rate_stderr" not in evaluation_metrics("test", [], 1)


def test_a_whole_run(tiny_model_dir: str, tmp_path: Path, caplog) -> None:
    """Four validation tasks, before training and after it; the printed command trains on when it is typed."""
    settings = {"trainer__num_sanity_val_steps": -1, "rollout__validation_temperature": 0}
    said, cli = report(caplog, tmp_path, tiny_model_dir, **settings)
    values = list(runs.curves(cli)["val/success_rate"].values())
    errors = [100 * (v * (1 - v) / 4) ** 0.5 for v in (values[0], values[-1])]
    shown = f"{values[0]:.1%} -> {values[-1]:.1%} (standard error {errors[0]:.1f}, {errors[1]:.1f}; 4 tasks)"
    assert said["success on unseen tasks"] == shown
    logged = list(runs.curves(cli)["val/success_rate_stderr"].values())
    assert len(logged) == len(values) and [100 * logged[0], 100 * logged[-1]] == pytest.approx(errors, abs=1e-4)
    folder = runs.log_dir(cli)
    assert said["run"] == str(folder) and said["policy"] == f"{folder}/policy (read back: same ids, equal log-probs)"
    assert said["curves"] == f"{program('tensorboard')} --logdir {folder}"
    assert "next" not in said
    program_and_rest = said["go on"].split(" fit ")
    assert program_and_rest[0] == program("paw-lightning")
    assert program_and_rest[1] == (
        f"--config {folder}/config.yaml --ckpt_path {folder}/checkpoints/last.ckpt --trainer.max_epochs 4"
    )
    again = runs.run(["fit", *shlex.split(program_and_rest[1])])
    assert again.trainer.current_epoch == 4 and runs.log_dir(again) == folder


def test_without_validation_training_success_is_said_as_such(tiny_model_dir: str, tmp_path: Path, caplog) -> None:
    said, cli = report(caplog, tmp_path, tiny_model_dir, trainer__limit_val_batches=0)
    value = list(runs.curves(cli)["rollout/success_rate"].values())[-1]
    assert "success on unseen tasks" not in said
    assert said["success in training"] == f"{value:.1%} in the last iteration (no validation in this run)"


def test_the_iteration_of_the_last_validation_is_said(tiny_model_dir: str, tmp_path: Path, caplog) -> None:
    report(caplog, tmp_path, tiny_model_dir, trainer__max_epochs=3, trainer__check_val_every_n_epoch=2)
    assert "         last validated after iteration 2 of 3" in caplog.messages


def test_csv_files_are_no_tensorboard(tiny_model_dir: str, tmp_path: Path, caplog) -> None:
    logger = {"trainer__logger": "CSVLogger", "trainer__logger__save_dir": tmp_path}
    said, cli = report(caplog, tmp_path, tiny_model_dir, trainer__max_epochs=1, **logger)
    assert isinstance(cli.trainer.logger, CSVLogger)
    assert said["curves"] == f"{runs.log_dir(cli)}/metrics.csv" and Path(said["curves"]).exists()


def test_a_second_run_of_another_logger_leaves_the_first_ones_policy(
    tiny_model_dir: str, tmp_path: Path, caplog
) -> None:
    """Both log to one `save_dir`, as two runs of W&B do."""
    path = "tests.callbacks.test_success_report.OtherLogger"
    logger = {"trainer__logger": path, "trainer__logger__save_dir": tmp_path, "trainer__max_epochs": 1}
    first, _ = report(caplog, tmp_path, tiny_model_dir, **logger)
    second, _ = report(caplog, tmp_path, tiny_model_dir, **logger)
    assert first["policy"] != second["policy"]
    for said in (first, second):
        folder = Path(said["run"])
        assert folder.parent == tmp_path / "project"
        assert (folder / "policy" / "config.json").exists() and (folder / "checkpoints" / "last.ckpt").exists()
        assert "tensorboard" not in said["curves"] and said["curves"].endswith(f"project/{folder.name}")


def test_without_a_logger_it_is_said_that_no_policy_was_exported(
    tiny_model_dir: str, tmp_path: Path, caplog, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {**runs.TOY, "model.path": tiny_model_dir, "trainer.logger": False, "trainer.max_epochs": 1}
    with caplog.at_level(logging.INFO):
        runs.run(["fit", *runs.arguments(options)])
    said = lines(caplog)
    assert said["policy"].startswith("not exported, as trainer.logger is false")
    assert said["run"].startswith("no folder") and "curves" not in said
    assert "--config checkpoints/config.yaml --ckpt_path checkpoints/last.ckpt" in said["go on"]


def test_a_policy_of_another_run_is_not_written_over(tiny_model_dir: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    settings = {"policy_export__folder": folder, "trainer__max_epochs": 1}
    first = runs.fit(tmp_path / "a", tiny_model_dir, **settings)
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(SettingsError, match=r"policy_export\.folder is .*mine, and .* holds the policy of another run"):
        runs.fit(tmp_path / "b", tiny_model_dir, **settings)
    assert (folder / "model.safetensors").read_bytes() == before
    checkpoint = runs.log_dir(first) / "checkpoints" / "last.ckpt"
    runs.fit(tmp_path / "a", tiny_model_dir, **settings | {"trainer__max_epochs": 2}, ckpt_path=checkpoint)
    assert (folder / "model.safetensors").read_bytes() != before, "its own run may"


def test_a_finished_run_says_that_nothing_is_left(tiny_model_dir: str, tmp_path: Path, caplog) -> None:
    first = runs.fit(tmp_path, tiny_model_dir)
    checkpoint = runs.log_dir(first) / "checkpoints" / "last.ckpt"
    with pytest.warns(UserWarning, match=r"nothing left to do: the checkpoint has 2 of 2 iterations; raise trainer\.m"):
        runs.fit(tmp_path, tiny_model_dir, ckpt_path=checkpoint)


def test_a_stopped_run_says_how_to_resume(tiny_model_dir: str, tmp_path: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(PolicyExport, "on_train_epoch_start", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    said, cli = report(caplog, tmp_path, tiny_model_dir, trainer__max_epochs=3)
    folder = runs.log_dir(cli)
    options = f"--config {folder}/config.yaml --ckpt_path {folder}/checkpoints/last.ckpt"
    assert said["resume"] == f"{program('paw-lightning')} fit {options}"


def test_a_run_that_dies_says_how_to_resume(tiny_model_dir: str, tmp_path: Path, caplog, monkeypatch) -> None:
    def die(self, trainer, *_) -> None:
        if trainer.current_epoch == 1:
            raise OSError("no space left")

    monkeypatch.setattr(PolicyExport, "on_train_batch_end", die)
    with caplog.at_level(logging.INFO), pytest.raises(OSError, match="no space left"):
        runs.fit(tmp_path, tiny_model_dir)
    assert re.search(r"--ckpt_path \S+/checkpoints/last\.ckpt$", lines(caplog)["resume"])


def test_the_printed_program_starts(tmp_path: Path, monkeypatch) -> None:
    """With nothing on PATH it is found beside the Python that runs this."""
    monkeypatch.setenv("PATH", str(tmp_path))
    words = shlex.split(program("paw-lightning"))
    assert words[0] == sys.executable or Path(words[0]).exists()
    assert subprocess.run([*words, "--help"], capture_output=True, check=False).returncode == 0


def test_a_command_to_try_next_is_typed_as_the_others(tiny_model_dir: str, tmp_path: Path, caplog) -> None:
    command = "paw-lightning fit --config other.yaml"
    said, _ = report(caplog, tmp_path, tiny_model_dir, trainer__max_epochs=1, success_report__next_command=command)
    assert said["next"] == f"{program('paw-lightning')} fit --config other.yaml"
