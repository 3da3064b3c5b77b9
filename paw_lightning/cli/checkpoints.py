"""What may stand under ``ckpt_path``."""

from __future__ import annotations

import zipfile
from pathlib import Path

from paw_lightning.errors import SettingsError
from paw_lightning.whole_files import recovered


def check_checkpoint(path: str | None) -> None:
    """Refuse a path that holds no checkpoint; Lightning itself checks addresses and its words `last` and `hpc`.

    Raises:
        SettingsError: neither a file that `torch.save` wrote nor a folder, as sharded checkpoints are.
    """
    if path is None or path in ("best", "last", "hpc") or path.startswith("registry") or "://" in path:
        return
    file = Path(path).expanduser()
    if path:
        recovered(file)
    if not path or not (_is_saved_folder(file) if file.is_dir() else _is_saved_file(file)):
        found = "is no checkpoint" if file.exists() else "does not exist"
        raise SettingsError(f"ckpt_path is {path!r}, which {found}; wanted RUN/checkpoints/last.ckpt, or best.ckpt")


def _is_saved_folder(folder: Path) -> bool:
    """Sharded checkpoints have a part for each rank, a list of what is where, and the rest of a checkpoint."""
    return all((folder / name).exists() for name in (".metadata", "meta.pt"))


def _is_saved_file(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/data.pkl") for name in archive.namelist())
