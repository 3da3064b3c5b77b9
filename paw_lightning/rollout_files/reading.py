"""Reads a run's rollout files."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from array import array
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from paw_lightning.errors import SettingsError
from paw_lightning.rollout_files.records import (
    DEFAULTS,
    FLOAT_LISTS,
    FORMAT,
    SAME,
    VERSION,
    Header,
    RecordedEpisode,
    RecordedTurn,
    RolloutFile,
    expected_texts,
)

FOLDER = "rollouts"
"""Within a run's folder."""
ENDING = ".jsonl.gz"
NAME = re.compile(r"(train|val|test)-(\d+)(?:-t[\d.e+-]+)?\.jsonl\.gz")


def rollout_files(run: str | Path) -> list[Path]:
    """The rollout files of a run's folder, or of its `rollouts` folder: train, val and test, each by iteration."""
    folder = Path(run) / FOLDER if (Path(run) / FOLDER).is_dir() else Path(run)
    return sorted((path for path in folder.glob(f"*{ENDING}") if NAME.fullmatch(path.name)), key=_place)


def _place(path: Path) -> tuple[int, int, str]:
    return ("train", "val", "test").index(path.name.partition("-")[0]), number_of(path), path.name


def train_files(run: str | Path) -> dict[int, Path]:
    """The training files by their iteration, which counts from 1."""
    return {number_of(path): path for path in rollout_files(run) if path.name.startswith("train-")}


def number_of(path: Path) -> int:
    """The iteration in a file's name."""
    match = NAME.fullmatch(path.name)
    assert match is not None, f"{path} is no rollout file"
    return int(match[2])


def read(path: str | Path) -> RolloutFile:
    """All of a file.

    Raises:
        SettingsError: it is no rollout file, is cut off, or has another version.
    """
    return _file(_rows(Path(path)), Path(path))


def unpack(packed: bytes, where: str) -> RolloutFile:
    """The same of a file's content; `where` it comes from is for errors."""
    return _file(_rows(BytesIO(packed), where), where)


def _file(rows: Iterator[Any], where: object) -> RolloutFile:
    header = _header(next(rows, None), where)
    return RolloutFile(header, [_episode(row, header) for row in rows])


def read_header(path: str | Path) -> Header:
    """What holds for the whole file, without reading its episodes."""
    return _header(next(_rows(Path(path)), None), Path(path))


def _rows(source: Path | BytesIO, where: str = "") -> Iterator[Any]:
    try:
        with gzip.open(source, "rt", encoding="utf-8") as file:
            yield from map(json.loads, file)
    except (EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        raise SettingsError(
            f"{where or source} cannot be read as a rollout file ({error}); wanted a whole one"
        ) from error


def _header(row: Any, where: object) -> Header:
    if not isinstance(row, dict) or row.get("format") != FORMAT:
        raise SettingsError(f"{where} is no rollout file; wanted one that paw_lightning has written")
    if row.get("version") != VERSION:
        raise SettingsError(
            f"{where} is a rollout file of version {row.get('version')}, written by paw_lightning "
            f"{row.get('package')}; wanted version {VERSION}, or the package that wrote it"
        )
    header = Header(**_known(row, Header))
    header.texts = {int(token): text for token, text in header.texts.items()}
    return header


def _episode(row: dict[str, Any], header: Header) -> RecordedEpisode:
    episode = RecordedEpisode(**_known(row, RecordedEpisode))
    turns: list[RecordedTurn] = []
    for own in row.get("turns", []):
        turns.append(_turn(own, turns[-1] if turns else None, header))
    episode.turns = turns
    return episode


def _turn(row: dict[str, Any], before: RecordedTurn | None, header: Header) -> RecordedTurn:
    """Put back what the file leaves to other fields, or to the turn before."""
    if prompt := row.get("prompt"):
        shared = before.prompt_ids[: prompt["shared"]] if before is not None else []
        row["prompt_ids"] = shared + prompt["ids"]
    row = expected_texts(row.get("action_text", ""), before) | row
    for name in FLOAT_LISTS:
        values = row.get(name)
        if isinstance(values, list) and name not in header.float64:
            row[name] = array("f", values).tolist()
    for name in SAME:
        if isinstance(row.get(name), str):
            row[name] = row[row[name]]
    return RecordedTurn(**_known(row, RecordedTurn))


def _known(row: dict[str, Any], kind: type) -> dict[str, Any]:
    """The fields of a record; a later package may have written more under the same version."""
    return {name: value for name, value in row.items() if name in DEFAULTS[kind]}
