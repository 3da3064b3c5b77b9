"""Folders of their own, what a run's folder says of its starts, and a disk that is full."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from transformers import PreTrainedModel

from paw_lightning import whole_files
from paw_lightning.cli import main
from paw_lightning.training.run_folder import claim_folders
from tests.helpers import runs

LOGGERS = {"TensorBoardLogger": TensorBoardLogger, "CSVLogger": CSVLogger}


def claim(barrier, kind: str, folder: Path, results) -> None:
    """Five folders, each at the same moment as the other processes."""
    for _ in range(5):
        logger = LOGGERS[kind](folder, name="run")
        logger._get_next_version = lambda: 0  # what all that start together see
        barrier.wait()
        results.put([str(path) for path in claim_folders([logger])] + [logger.log_dir])


@pytest.mark.parametrize("kind", LOGGERS)
def test_simultaneous_starts_get_folders_of_their_own(kind: str, tmp_path: Path) -> None:
    """Four processes, five folders each; by listing alone they would share."""
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=claim, args=(barrier, kind, tmp_path, results)) for _ in range(4)]
    for process in processes:
        process.start()
    pairs = [results.get(timeout=60) for _ in range(20)]
    for process in processes:
        process.join()
    assert sorted(path for path, _ in pairs) == sorted(str(tmp_path / "run" / f"version_{n}") for n in range(20))
    assert all(path == log_dir for path, log_dir in pairs)


def test_only_loggers_that_number_their_runs_are_given_a_folder(tmp_path: Path) -> None:
    """One that was told its version keeps it, one whose version comes from a server (here: no such method) does too;
    two of one place share a number."""

    class Served:
        version, root_dir = "x7f", str(tmp_path)

    (tmp_path / "run" / "version_4").mkdir(parents=True)
    told, served = TensorBoardLogger(tmp_path, name="run", version="mine"), Served()
    board, table = TensorBoardLogger(tmp_path, name="run"), CSVLogger(tmp_path, name="run")
    assert claim_folders([told, served, board, table]) == [tmp_path / "run" / "version_5"]
    assert (told.version, served.version, board.version, table.version) == ("mine", "x7f", 5, 5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOGGERS)
def test_four_runs_that_start_together(kind: str, tiny_model_dir: str, tmp_path: Path) -> None:
    """The whole command line, four times at once."""
    options = runs.arguments(
        {**runs.TOY, "trainer.max_epochs": 1, "trainer.limit_val_batches": 0, "model.path": tiny_model_dir}
    )
    logger = [f"--trainer.logger={kind}", f"--trainer.logger.save_dir={tmp_path}", "--trainer.logger.name=run"]
    words = [sys.executable, "-m", "paw_lightning", "fit", *options, *logger]
    processes = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    errors = [process.communicate(timeout=280)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors
    for number in range(4):
        names = {path.name for path in (tmp_path / "run" / f"version_{number}").iterdir()}
        assert names >= {"config.yaml", "starts.jsonl", "checkpoints", "policy"}
    assert len(list((tmp_path / "run").iterdir())) == 4


def starts(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "starts.jsonl").read_text().splitlines()]


def test_the_folder_says_from_where_each_start_went_on(tiny_model_dir: str, tmp_path: Path) -> None:
    """Two iterations, two more at another rate; config.yaml is of a run that begins at its beginning."""
    first = runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=2)
    folder = runs.log_dir(first)
    checkpoint, rate = folder / "checkpoints" / "last.ckpt", "model__optimizer__init_args__lr"
    runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=4, ckpt_path=checkpoint, **{rate: 0.02})
    begun, resumed = starts(folder)
    assert (begun["checkpoint"], begun["iterations"], begun["changed"]) == (None, 0, [])
    assert (resumed["checkpoint"], resumed["iterations"]) == (str(checkpoint), 2)
    assert resumed["changed"] == ["model.optimizer.init_args.lr: 0.01 -> 0.02"]
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert saved["ckpt_path"] is None and saved["trainer"]["logger"]["init_args"]["version"] is None
    again = runs.fit(tmp_path, tiny_model_dir, (folder / "config.yaml",), trainer__max_epochs=1)
    assert runs.log_dir(again) != folder and starts(runs.log_dir(again))[0]["iterations"] == 0


def test_a_run_with_a_version_of_its_own_can_be_repeated_too(tiny_model_dir: str, tmp_path: Path) -> None:
    few = {"trainer__max_epochs": 1, "trainer__limit_val_batches": 0}
    first = runs.fit(tmp_path, tiny_model_dir, trainer__logger__init_args__version="mine", **few)
    again = runs.fit(tmp_path, tiny_model_dir, (runs.log_dir(first) / "config.yaml",), **few)
    assert runs.log_dir(first).name == "mine" and runs.log_dir(again).name == "version_0"


def error_line(directory: Path, model: str, monkeypatch, capsys, **settings) -> str:
    """What the console script says when it fails: one line, exit status 1."""
    options = {**runs.TOY, "trainer.logger.init_args.save_dir": directory, "model.path": model, **settings}
    monkeypatch.setattr(sys, "argv", ["paw-lightning", "fit", *runs.arguments(options)])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr().err
    assert end.value.code == 1 and "Traceback" not in said
    return next(line for line in said.splitlines() if line.startswith("error: "))


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_one_line_and_the_last_checkpoint_is_whole(
    tiny_model_dir: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    """The disk takes the first iteration's checkpoint, and 1000 bytes of the second's."""
    save, saved = torch.save, []

    def half(checkpoint, file) -> None:
        saved.append(checkpoint["epoch"])
        if saved[-1] == 0:
            save(checkpoint, file)
        else:
            file.write(b"0" * 1000)
            full()

    monkeypatch.setattr(torch, "save", half)
    line = error_line(tmp_path, tiny_model_dir, monkeypatch, capsys, **{"trainer.limit_val_batches": 0})
    [checkpoint] = tmp_path.rglob("*.ckpt*")
    assert line.startswith(f"error: {checkpoint} could not be written: No space left on device (")
    assert " MB needed, " in line and f"; {checkpoint} is whole, make room and go on with: " in line
    assert line.endswith(", or write elsewhere (trainer.logger.init_args.save_dir)")
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 0


@pytest.mark.parametrize("what", ["config", "events", "policy"])
def test_whatever_cannot_be_written(what: str, tiny_model_dir: str, tmp_path: Path, monkeypatch, capsys) -> None:
    """The configuration before anything is played, the curves after an iteration, the policy at the end."""
    if what == "config":
        monkeypatch.setattr(whole_files.os, "fsync", full)
    if what == "events":
        monkeypatch.setattr(TensorBoardLogger, "save", full)
    if what == "policy":
        monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    line = error_line(tmp_path, tiny_model_dir, monkeypatch, capsys, **{"trainer.limit_val_batches": 0})
    run = tmp_path / "paw_lightning" / "version_0"
    place = {"config": run / "config.yaml", "events": run, "policy": run / "policy"}[what]
    assert line.startswith(f"error: {place} could not be written: No space left on device (")
    assert (run / "checkpoints" / "last.ckpt").exists() == (what == "policy")
    assert not (run / "policy").exists() and not list(tmp_path.rglob("*.part"))


@pytest.fixture
def small_disk(tmp_path: Path):
    """A disk of 8 MB in memory, which only root may have; skips otherwise."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("NO SMALL DISK: only root may mount one")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


QUICKSTART = ["--config=household/paw", "--trainer.max_epochs=3", "--trainer.num_sanity_val_steps=0"]
QUICKSTART += ["--data.groups=2", "--data.group_size=2", "--trainer.limit_val_batches=0"]


def quickstart(place: Path, *options: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "paw_lightning", "fit", *QUICKSTART, *options]
    return subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=280)


@pytest.mark.slow
def test_the_quickstart_on_a_small_disk(small_disk: Path) -> None:
    """A checkpoint takes 4.7 MB: the first fits, the second, beside it, does not; with more room it goes on."""
    done = quickstart(small_disk)
    [checkpoint] = small_disk.rglob("*.ckpt*")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert re.search(
        r"last\.ckpt could not be written: No space left on device \(4\.\d MB needed, \d\.\d MB free\); ", line
    )
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 0
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert quickstart(small_disk, "--ckpt_path", str(checkpoint)).returncode == 0
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 2


@pytest.mark.slow
def test_the_quickstart_on_a_disk_that_may_not_be_written(small_disk: Path) -> None:
    """It becomes read-only before the run; one line says so, before anything is played."""
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = quickstart(small_disk)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr, done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "may not be written to" in line or "Read-only file system" in line


def test_a_run_without_a_folder_leaves_files_of_the_current_one_alone(
    tiny_model_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mine = ("config.yaml", "thesis.part", "model.replaced")
    for name in mine:
        (tmp_path / name).write_text("mine")
    settings = {**runs.TOY, "model.path": tiny_model_dir, "trainer.logger": "false", "trainer.max_epochs": 1}
    runs.run(["fit", *runs.arguments(settings)])
    assert {path.name for path in tmp_path.iterdir()} == {*mine, "checkpoints"}
    assert all((tmp_path / name).read_text() == "mine" for name in mine)
