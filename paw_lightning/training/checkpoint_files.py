"""How checkpoints are written, whole or not at all, and read, as plain data that can run no code."""

from __future__ import annotations

import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.strategies import Strategy
from torch.distributed.checkpoint.api import CheckpointException
from torch.utils._pytree import tree_leaves

from paw_lightning import ranks
from paw_lightning.errors import SettingsError
from paw_lightning.whole_files import PART, clear_parts, replace_folder, write_whole, writing

SHARDS = {
    *((f"torch.distributed.checkpoint.metadata.{name}") for name in ("ChunkStorageMetadata", "TensorProperties")),
    *((f"torch.distributed.checkpoint.metadata.{name}") for name in ("TensorStorageMetadata", "BytesStorageMetadata")),
    *((f"torch.distributed.checkpoint.metadata.{name}") for name in ("Metadata", "MetadataIndex", "StorageMeta")),
    "torch.distributed.checkpoint.metadata._MEM_FORMAT_ENCODING",
    "torch.distributed.checkpoint.filesystem._StorageInfo",
    "torch.serialization._get_layout",
    "torch.Size",
    "collections.OrderedDict",
    "pathlib.PosixPath",
    "pathlib._local.PosixPath",
}
"""All that the list of a sharded checkpoint's parts is made of, beside the names of number types."""
FORCE, FORBID = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoint files, put in place in one moment, and read with ``weights_only``.

    Lightning's own writer fills a file in the system's temporary folder and moves it: where that folder is another
    disk, the move is a copy over the previous checkpoint, and a kill in it leaves neither.
    """

    def __init__(self) -> None:
        self.newest: Path | None = None
        """What was saved last, by its real path."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a file; addresses of object stores, which are whole by nature, are left to Lightning.

        Raises:
            NotWrittenError: the disk is full or may not be written to; the previous checkpoint is as it was.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        file = Path(path)
        write_whole(file, lambda stream: torch.save(checkpoint, stream), needed=size_of(checkpoint))
        self.newest = file.resolve()

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint as plain data, on the CPU unless told otherwise."""
        with plain_data(path):
            return super().load_checkpoint(path, map_location or (lambda storage, place: storage), True)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint, but never the newest under another of its names.

        A resumed run may know its `last.ckpt` by a relative path and write it by an absolute one: to Lightning these
        are two files, and it would remove what it has just saved as the predecessor.
        """
        if "://" in str(path) or Path(path).resolve() != self.newest:
            super().remove_checkpoint(path)


def protect(strategy: Strategy) -> None:
    """Have a strategy's checkpoint files written and read so, unless the trainer was given a plugin that does both."""
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = WholeCheckpoints()


def size_of(checkpoint: dict[str, Any]) -> int:
    """Bytes of its tensors, which are nearly all of a checkpoint."""
    tensors = [leaf for leaf in tree_leaves(checkpoint) if isinstance(leaf, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@contextmanager
def plain_data(path: Any) -> Iterator[None]:
    """Inside, torch reads tensors and plain Python values of a checkpoint only, whatever its callers ask for.

    Raises:
        SettingsError: the checkpoint holds something else, which reading would have to run code for.
    """
    if isinstance(path, str | Path) and Path(path).is_dir():
        _check_parts(Path(path))
    before = {name: os.environ.pop(name, None) for name in (FORCE, FORBID)}
    os.environ[FORCE] = "1"
    try:
        yield
    except pickle.UnpicklingError as error:
        raise _refused(path, _culprit(path, error)) from error
    except CheckpointException as error:  # of a part, on whichever rank
        unread = [cause for cause, _ in error.failures.values() if isinstance(cause, pickle.UnpicklingError)]
        if not unread:
            raise
        raise _refused(path, _culprit(path, unread[0])) from error
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def check_plain(path: Path) -> None:
    """Refuse a file before something reads it that cannot be told to read plain data.

    Raises:
        SettingsError: the file holds something else.
    """
    with plain_data(path):
        torch.load(path, map_location="cpu", mmap=True, weights_only=True)


def _check_parts(folder: Path) -> None:
    """The list of a sharded checkpoint's parts is a pickle that torch itself reads without a second look."""
    listing = folder / ".metadata"
    if not listing.exists():
        return
    with listing.open("rb") as file:
        try:
            _ListReader(file).load()
        except pickle.UnpicklingError as error:
            raise _refused(folder, str(error)) from error


class _ListReader(pickle.Unpickler):
    """Builds nothing but what is in SHARDS, and number types."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" in SHARDS or (
            module == "torch" and isinstance(getattr(torch, name, None), torch.dtype | torch.layout)
        ):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


def _culprit(path: Any, error: Exception) -> str:
    """What the checkpoint holds that is no plain data."""
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # one part of several: the reader's words have to do
        found = re.findall(r"GLOBAL ([\w.]+)", str(error))
    return ", ".join(found) or str(error).partition("\n")[0]


def _refused(path: Any, what: str) -> SettingsError:
    return SettingsError(
        f"ckpt_path is {str(path)!r}, which holds more than tensors and plain data ({what}): to read it would run its "
        "code; wanted a checkpoint as this package writes it (of a callback of yours that saves other objects: let its "
        "state_dict hold numbers, texts, lists, dictionaries and tensors)"
    )


def save_parts(save: Callable[[Path], None], path: Path, files: CheckpointIO) -> None:
    """Write a sharded checkpoint beside its place, then put it there; every rank has to call it.

    `save` writes a rank's part into the folder that it is given. Where one rank cannot, all fail, and the previous
    checkpoint is as it was.
    """
    part = path.with_name(path.name + PART)

    def write() -> None:
        with writing(path, part):
            save(part)

    if ranks.world()[0] == 0 and part.exists():
        shutil.rmtree(part)  # of a killed run
    ranks.together(write)
    ranks.together(lambda: replace_folder(part, path) if ranks.world()[0] == 0 else None)
    if isinstance(files, WholeCheckpoints):
        files.newest = path.resolve()


def clear_leftovers(checkpoints: Path) -> None:
    """Before a resumed run writes: delete what the killed one had half written in its folder and its checkpoints'."""
    for folder in (checkpoints, checkpoints.parent):
        clear_parts(folder)
