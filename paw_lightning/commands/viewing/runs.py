"""The files of a run that the page is made of: its rollouts and its curves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from paw_lightning.commands.viewing.parts import packed, part
from paw_lightning.errors import SettingsError
from paw_lightning.event_files import EVENTS, METRICS, read_scalars
from paw_lightning.rollout_files import read, rollout_files
from paw_lightning.rollout_files.reading import ENDING

Stamp = tuple[int, int]
"""(modified, in nanoseconds; bytes)."""


@dataclass
class Run:
    """One run that is shown; keeps what it has read until the file changes."""

    folder: Path
    name: str
    _parts: dict[Path, tuple[Stamp | None, str]] = field(default_factory=dict)
    _curves: tuple[list[Stamp | None], str] | None = None

    def files(self) -> dict[str, Path]:
        """Name without ending -> file; a file is there only when it is whole."""
        return {path.name.removesuffix(ENDING): path for path in rollout_files(self.folder)}

    def stamps(self) -> dict[str, Stamp]:
        """Name -> what changes when the file does."""
        return {name: stamp for name, path in self.files().items() if (stamp := _stamp(path))}

    def part(self, name: str) -> str:
        """One rollout file as the page holds it (:func:`parts.part`).

        Raises:
            SettingsError: the file cannot be read.
        """
        path = self.files()[name]
        stamp, (known, text) = _stamp(path), self._parts.get(path, (None, ""))
        if stamp is None or stamp != known:
            try:
                text = part(name, read(path))
            except OSError as error:
                raise SettingsError(f"{path} cannot be read ({error.strerror}); wanted a rollout file") from None
            self._parts[path] = stamp, text
        return text

    def curves(self) -> str:
        """The curves of the run's event files and of its `metrics.csv`, packed: {tag: [[step, value], ...]}."""
        files = [path for name in (EVENTS, METRICS) for path in sorted(self.folder.glob(name))]
        stamps = [_stamp(path) for path in files]
        if self._curves is None or self._curves[0] != stamps:
            self._curves = stamps, packed(_scalars(self.folder))
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
    depth = 2
    while len(paths) > 1 and paths[0].parts[-depth:] == paths[1].parts[-depth:] and depth < len(paths[0].parts):
        depth += 1
    names = [_short(path.parts[-depth:]) for path in paths]
    return [Run(folder, name) for folder, name in zip(folders, names, strict=True)]


def _short(parts: tuple[str, ...]) -> str:
    """The two ends of a path, which is where two paths of runs differ and where each is known by."""
    return "/".join(parts if len(parts) < 3 else (parts[0], "…", parts[-1]))


def _scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve; what a resumed run wrote again replaces what it had written before."""
    return {tag: sorted(dict(points).items()) for tag, points in read_scalars(folder).items()}


def _stamp(path: Path) -> Stamp | None:
    """None for a file that has just gone: a run makes room for its newer ones."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size
