"""Files and folders that are there whole or not at all, whenever the process is killed or the disk is full."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from paw_lightning.errors import NotWrittenError

PART = ".part"
"""Ends the name of what is being written; a killed run leaves such files, which nothing reads."""
ASIDE = ".replaced"
"""Ends the name of a whole folder that is making room for its successor, where two cannot change places at once."""
_HERE, _EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of Linux' renameat2."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
"""What only a disk answers that is full, over its quota, or not to be written to."""
REFUSED = FULL | {errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE}
"""What writing may be answered besides: not allowed, broken, gone."""


def write_whole(path: Path, write: Callable[[IO[bytes]], object], needed: int | None = None) -> None:
    """Replace a file by what `write` writes, in one moment: whoever reads the path gets the old bytes or the new ones.

    Args:
        needed: bytes that the file will take, for the error message; None where nobody knows.

    Raises:
        NotWrittenError: the disk did not take it; the old file is as it was.
    """
    part = path.with_name(path.name + PART)
    with writing(path, part, needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    _sync(path.parent)


@contextmanager
def writing(path: Path, part: Path, needed: int | None = None) -> Iterator[None]:
    """Around the writing of `part`, to become `path`: a failure clears it away, a disk's refusal is put in words."""
    try:
        yield
    except BaseException as error:
        refusal = refused(error)
        if refusal is not None:
            message = not_written(path, refusal, needed)  # while the part still fills the disk
        _remove(part)
        if refusal is None:
            raise
        raise NotWrittenError(message) from error


def replace_folder(new: Path, place: Path) -> None:
    """Put a finished folder in the place of another one, which is then deleted, or of none.

    On Linux' own file systems the two change places in one moment. Elsewhere (some network file systems) the old one is
    moved aside first: after a kill in between, :func:`clear_parts` and :func:`recovered` put it back.
    """
    for file in new.rglob("*"):
        if file.is_file():
            _sync(file)
    _sync(new)
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        new.rename(place)
    elif _exchange(new, place):
        _remove(new)
    else:
        aside = place.with_name(place.name + ASIDE)
        _remove(aside)
        place.rename(aside)
        new.rename(place)
        _remove(aside)
    _sync(place.parent)


def clear_parts(folder: Path) -> None:
    """Delete what a killed run left half written in a folder, and put back what it had moved aside."""
    for aside in folder.glob(f"*{ASIDE}"):
        if recovered(aside.with_name(aside.name.removesuffix(ASIDE))):
            _remove(aside)
    for part in folder.glob(f"*{PART}"):
        _remove(part)


def recovered(place: Path) -> bool:
    """Whether a file or folder is there, where need be put back from where :func:`replace_folder` had moved it."""
    aside = Path(f"{place}{ASIDE}")
    if not place.exists() and aside.exists():
        aside.rename(place)
    return place.exists()


def not_written(path: Path, refusal: OSError, needed: int | None = None) -> str:
    """One line: what could not be written, why, and how much room there is.

    Example: ``runs/last.ckpt could not be written: No space left on device (35.1 MB needed, 2.0 MB free)``
    """
    folder = next(parent for parent in (path, *path.absolute().parents) if parent.is_dir())
    room = [] if needed is None else [f"{_megabytes(needed)} needed"]
    with suppress(OSError):
        room.append(f"{_megabytes(shutil.disk_usage(folder).free)} free")
    return f"{path} could not be written: {refusal.strerror} ({', '.join(room)})"


def refused(error: BaseException) -> OSError | None:
    """What the disk answered, where that led to an error; safetensors has it in its text only."""
    for one in chain(error):
        said = re.search(r"os error (\d+)", str(one)) if not isinstance(one, OSError) else None
        found = OSError(int(said[1]), os.strerror(int(said[1]))) if said else one
        if isinstance(found, OSError) and found.errno in REFUSED:
            return found
    return None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it, the newest first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one moment; False where the system or the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0)


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk: a power cut after a rename must not leave it empty."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems cannot sync a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
