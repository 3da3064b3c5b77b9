"""The files of a run that the page is made of: its rollouts and its curves."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paw_lightning.commands.viewing.parts import packed, part, shortened
from paw_lightning.errors import SettingsError

FORMAT, VERSION = "paw_lightning rollout", 1
ENDING = ".jsonl.gz"
Stamp = tuple[int, int]
"""(modified, in nanoseconds; bytes)."""


@dataclass
class Run:
    """One run that is shown; keeps what it has read until the file changes."""

    folder: Path
    name: str
    _parts: dict[Path, tuple[Stamp, str]] = field(default_factory=dict)
    _curves: tuple[list[Stamp], str] | None = None

    def files(self) -> dict[str, Path]:
        """Name without ending -> file, by name; a file is there only when it is whole."""
        return {path.name.removesuffix(ENDING): path for path in sorted((self.folder / "rollouts").glob(f"*{ENDING}"))}

    def stamps(self) -> dict[str, Stamp]:
        """Name -> what changes when the file does."""
        return {name: _stamp(path) for name, path in self.files().items()}

    def part(self, name: str) -> str:
        """One rollout file as the page holds it (:func:`parts.part`).

        Raises:
            SettingsError: the file cannot be read.
        """
        path = self.files()[name]
        stamp = _stamp(path)
        if path not in self._parts or self._parts[path][0] != stamp:
            self._parts[path] = stamp, part(name, *read(path))
        return self._parts[path][1]

    def curves(self) -> str:
        """The curves of the run's event files, packed: {tag: [[step, value], ...]}."""
        stamps = [_stamp(path) for path in sorted(self.folder.glob("events.out.tfevents.*"))]
        if self._curves is None or self._curves[0] != stamps:
            self._curves = stamps, packed(shortened(_scalars(self.folder) if stamps else {}))
        return self._curves[1]


def open_runs(folders: list[Path]) -> list[Run]:
    """The runs in folders that are there; two of the same name are told apart by the folder above.

    Raises:
        SettingsError: one is no folder.
    """
    for folder in folders:
        if not folder.is_dir():
            raise SettingsError(f"the run is {folder}; wanted a folder such as runs/paw_lightning/version_0")
    paths = [folder.resolve() for folder in folders]
    depth = 1
    while len(paths) > 1 and paths[0].parts[-depth:] == paths[1].parts[-depth:] and depth < len(paths[0].parts):
        depth += 1
    names = ["/".join(path.parts[-depth:]) or str(path) for path in paths]
    return [Run(folder, name) for folder, name in zip(folders, names, strict=True)]


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and episodes of a rollout file.

    Raises:
        SettingsError: it is damaged, is no rollout file, or is of another version.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            header, *episodes = [json.loads(line) for line in lines]
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise SettingsError(f"the rollout file is {path}, which cannot be read ({error}); wanted a whole one") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise SettingsError(f"the rollout file is {path}, which is none; wanted one that a run has written")
    if header.get("version") != VERSION:
        raise SettingsError(
            f"the rollout file is {path}, of version {header.get('version')}; wanted version {VERSION}: the "
            "paw_lightning that wrote it can show it"
        )
    return header, episodes


def _scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve; what a resumed run wrote again replaces what it had written before."""
    from paw_lightning.event_files import read_scalars

    return {tag: sorted(dict(points).items()) for tag, points in read_scalars(folder).items()}


def _stamp(path: Path) -> Stamp:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size
