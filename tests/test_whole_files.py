"""A file or folder is the old one or the new one, whatever happens in between."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from paw_lightning import whole_files
from paw_lightning.errors import NotWrittenError
from paw_lightning.whole_files import clear_parts, recovered, replace_folder, write_whole


def files(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): f.read_text() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_a_file_is_replaced_in_one_moment(tmp_path: Path, monkeypatch) -> None:
    """While the new one is written the old one can be read, and the new bytes are on the disk before they take over."""
    path, synced = tmp_path / "folder" / "file", []
    write_whole(path, lambda file: file.write(b"old"))
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: synced.append("sync") or sync(number))
    monkeypatch.setattr(Path, "replace", lambda self, place: synced.append("replace") or replace(self, place))
    write_whole(path, lambda file: file.write(path.read_bytes() + b" and new"))
    assert files(tmp_path) == {"folder/file": "old and new"}
    assert synced == ["sync", "replace", "sync"], "the file, its new name, the folder that has the name"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_disk_that_takes_no_more_leaves_the_old_file(number: int, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "file"
    write_whole(path, lambda file: file.write(b"old"))

    def fail(file) -> None:
        file.write(b"half of the ne")
        raise OSError(number, os.strerror(number))

    room = {tmp_path: SimpleNamespace(free=3_333_333)}
    monkeypatch.setattr(shutil, "disk_usage", room.__getitem__)
    with pytest.raises(NotWrittenError) as error:
        write_whole(path, fail, needed=1_500_000)
    refusal = f"{path} could not be written: {os.strerror(number)} (1.5 MB needed, 3.3 MB free)"
    assert str(error.value) == refusal
    assert files(tmp_path) == {"file": "old"}


def test_an_error_of_the_writer_is_its_own(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_whole(tmp_path / "file", lambda file: 1 / 0)
    assert files(tmp_path) == {}


def test_safetensors_says_it_in_words(tmp_path: Path) -> None:
    """Its library is no Python: the disk's answer is a number in a text. 28 is ENOSPC."""

    def fail(file) -> None:
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(NotWrittenError, match="could not be written: No space left on device"):
        write_whole(tmp_path / "file", fail)


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced_as_a_whole(exchange: bool, tmp_path: Path, monkeypatch) -> None:
    if not exchange:  # some network file systems
        monkeypatch.setattr(whole_files, "_exchange", lambda one, other: False)
    for name, text in (("new", "2"), ("old", "1")):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / name).write_text(text)
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert files(tmp_path) == {"old/deep/new": "2"}
    (tmp_path / "new").mkdir()
    replace_folder(tmp_path / "new", tmp_path / "other")
    assert (tmp_path / "other").is_dir() and not (tmp_path / "new").exists()


def test_two_folders_change_places_here(tmp_path: Path) -> None:
    """Linux' own file systems can; on another system the test above has the other way."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not whole_files._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange two folders")
    assert list(files(tmp_path)) == ["a/b", "b/a"]


def test_a_folder_that_had_been_moved_aside_comes_back(tmp_path: Path) -> None:
    """A kill between the two moves; and what was half written goes, unless nothing else is there."""
    for name in ("policy.replaced", "last.ckpt.replaced", "last.ckpt", "next.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    assert recovered(tmp_path / "policy") and recovered(tmp_path / "last.ckpt") and not recovered(tmp_path / "none")
    clear_parts(tmp_path)
    assert files(tmp_path) == {"policy/file": "policy.replaced", "last.ckpt/file": "last.ckpt"}
