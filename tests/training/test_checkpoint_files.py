"""Checkpoints are whole, or the previous one; and reading one runs no code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from paw_lightning.commands import export, play
from paw_lightning.errors import NotWrittenError, SettingsError
from paw_lightning.training import checkpoint_files
from paw_lightning.training.checkpoint_files import WholeCheckpoints, plain_data, save_parts, size_of
from paw_lightning.training.strategies import FSDP1
from tests.helpers import runs
from tests.helpers.hostile import Hostile

SAID = r"ckpt_path is .*, which holds more than tensors and plain data \((posix\.mkdir|.*posix.*mkdir.*)\): to read it"


def test_the_size_is_that_of_its_tensors() -> None:
    """3 float32 and, in a list, 2 int64: 12 + 16 bytes."""
    assert size_of({"a": torch.zeros(3), "b": [torch.zeros(2, dtype=torch.long), "text"]}) == 28


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch) -> None:
    """The disk takes half a megabyte of the two that the second checkpoint needs."""
    files, path = WholeCheckpoints(), tmp_path / "checkpoints" / "last.ckpt"
    files.save_checkpoint({"number": 1, "weights": torch.zeros(10)}, path)
    save = torch.save

    class Full:
        """A file on a disk that is soon full."""

        def __init__(self, file) -> None:
            self.file = file

        def write(self, data) -> int:
            if self.file.tell() > 500_000:
                raise OSError(28, "No space left on device")
            return self.file.write(data)

        def flush(self) -> None:
            self.file.flush()

    monkeypatch.setattr(torch, "save", lambda what, file: save(what, Full(file)))
    with pytest.raises(NotWrittenError, match=r"last\.ckpt could not be written: No space .* \(2\.0 MB needed,"):
        files.save_checkpoint({"number": 2, "weights": torch.randn(500_000)}, path)
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    assert files.load_checkpoint(path)["number"] == 1


def test_the_newest_is_never_removed_under_another_name(tmp_path: Path, monkeypatch) -> None:
    """A run that began under a relative path and is resumed under an absolute one; Lightning removes what it takes for
    the predecessor, and does remove the one of another name."""
    monkeypatch.chdir(tmp_path)
    files = WholeCheckpoints()
    for name in ("other.ckpt", "last.ckpt"):
        files.save_checkpoint({}, tmp_path / name)
    files.remove_checkpoint("last.ckpt")
    files.remove_checkpoint("other.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_run_resumed_from_the_best_under_another_path_keeps_its_last(
    tiny_model_dir: str, tmp_path: Path, monkeypatch
) -> None:
    """Lightning alone would have removed last.ckpt right after it had been saved, until the next iteration."""
    monkeypatch.chdir(tmp_path)
    first = runs.fit(Path("runs"), tiny_model_dir, trainer__max_epochs=1)
    best = runs.log_dir(first).absolute() / "checkpoints" / "best.ckpt"
    torch.save(torch.load(best, weights_only=True), best)
    runs.fit(tmp_path / "runs", tiny_model_dir, trainer__max_epochs=2, ckpt_path=best)
    assert torch.load(best.with_name("last.ckpt"), weights_only=True)["epoch"] == 1


def test_a_sharded_checkpoint_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    place, seen = tmp_path / "last.ckpt", []

    def save(part: Path, *, fail: bool) -> None:
        part.mkdir()
        (part / "shard").write_text("new")
        seen.append(place.exists() and (place / "shard").read_text())
        if fail:
            raise OSError(28, "No space left on device")

    save_parts(lambda part: save(part, fail=False), place, TorchCheckpointIO())
    (tmp_path / "last.ckpt.part").mkdir()  # of a killed run
    (place / "shard").write_text("old")
    with pytest.raises(NotWrittenError, match=r"last\.ckpt could not be written: No space left"):
        save_parts(lambda part: save(part, fail=True), place, TorchCheckpointIO())
    assert (place / "shard").read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    save_parts(lambda part: save(part, fail=False), place, TorchCheckpointIO())
    assert (place / "shard").read_text() == "new" and seen == [False, "old", "old"]


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A run's folder whose checkpoint makes a folder where it is unpickled."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "callbacks": Hostile(tmp_path / "hit")}, path)
    return path


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_a_hostile_checkpoint_is_refused(
    command: str, hostile: Path, tiny_model_dir: str, tmp_path: Path, monkeypatch
) -> None:
    """Whatever the environment asks of torch."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(SettingsError, match=SAID):
        runs.fit(tmp_path / "runs", tiny_model_dir, command=command, ckpt_path=hostile)
    assert not (tmp_path / "hit").exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1" and "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_asking_for_code_is_refused(hostile: Path, tiny_model_dir: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"weights_only is false, .*; wanted true"):
        runs.fit(tmp_path / "runs", tiny_model_dir, ckpt_path=hostile, weights_only="false")


@pytest.mark.parametrize("command", ["export", "play"])
def test_the_other_commands_refuse_it_too(command: str, hostile: Path, tiny_model_dir: str, tmp_path: Path) -> None:
    """The config.yaml beside is one of a real run, which both read first."""
    cli = runs.fit(tmp_path / "runs", tiny_model_dir, trainer__max_epochs=1, trainer__limit_val_batches=0)
    hostile.parents[1].joinpath("config.yaml").write_text((runs.log_dir(cli) / "config.yaml").read_text())
    with pytest.raises(SettingsError, match=SAID):
        if command == "export":
            export.command([str(hostile)])
        else:
            play.command(["--policy", str(hostile), "--episodes=1"])
    assert not (tmp_path / "hit").exists()


def test_a_hostile_file_is_refused_by_the_older_fsdp(hostile: Path, tmp_path: Path) -> None:
    """Lightning reads whole files with an unpickler of its own there."""
    with pytest.raises(SettingsError, match=SAID):
        FSDP1().load_checkpoint(hostile)
    assert not (tmp_path / "hit").exists()


@pytest.mark.parametrize("where", ["list", "part", "rest"])
def test_hostile_shards_are_refused(where: str, tmp_path: Path) -> None:
    """In the list of the parts, a plain pickle; in a part that holds no tensor; in the rest of a checkpoint."""
    folder, trap = tmp_path / "last.ckpt", Hostile(tmp_path / "hit")
    state = {"state_dict": {"a": torch.ones(2)}} | ({"optimizer_0": trap} if where == "part" else {})
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    torch.save({"epoch": 1} | ({"callbacks": trap} if where == "rest" else {}), folder / "meta.pt")
    if where == "list":
        (folder / ".metadata").write_bytes(pickle.dumps(trap))
    with pytest.raises(SettingsError, match=r"ckpt_path is .* holds more than tensors and plain data \(.*mkdir"):
        export.load_weights(folder)
    assert not (tmp_path / "hit").exists()


def test_good_shards_are_read(tmp_path: Path) -> None:
    dcp.save({"state_dict": {"a": torch.ones(2)}, "o": {"lr": 0.1}}, checkpoint_id=tmp_path / "last.ckpt", no_dist=True)
    torch.save({"epoch": 1}, tmp_path / "last.ckpt" / "meta.pt")
    assert torch.equal(export.load_weights(tmp_path / "last.ckpt")["a"], torch.ones(2))


def test_an_object_of_somebodys_own_is_named(tmp_path: Path) -> None:
    """A callback whose state is a Path, say, which torch does not know as plain."""
    torch.save({"callbacks": {"Mine": SettingsError("x")}}, tmp_path / "last.ckpt")
    with pytest.raises(SettingsError, match=r"\(paw_lightning\.errors\.SettingsError\).*let its state_dict"):
        checkpoint_files.check_plain(tmp_path / "last.ckpt")


def test_nothing_is_forced_outside(tmp_path: Path) -> None:
    with plain_data(None):
        assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
