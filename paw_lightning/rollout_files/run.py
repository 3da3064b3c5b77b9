"""The training rollouts of a recorded run, by iteration, and whether they are what another run asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from paw_lightning.errors import SettingsError
from paw_lightning.rollout_files.reading import read, read_header, train_files
from paw_lightning.rollout_files.records import Header, RolloutFile

KEY = "data.replay"
KEY_OF = {"tokenizer": "model.path"}
"""What sets a part of what episodes are played with, where that is no key itself."""


class RecordedRun:
    """A run's folder, or its `rollouts` folder, as `data.replay` names it.

    Raises:
        SettingsError: it holds no training rollout.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        self.files = train_files(self.folder)
        if not self.files:
            what = "holds no training rollouts" if self.folder.is_dir() else "is no folder"
            raise SettingsError(
                f"{KEY} is {str(folder)!r}, which {what}; wanted the folder of a run that wrote rollout_files"
            )

    @property
    def length(self) -> int:
        """The last iteration."""
        return max(self.files)

    @property
    def place(self) -> Path:
        """The folder that its files lie in."""
        return self.files[self.length].parent

    def read(self, iteration: int) -> RolloutFile:
        """The rollout of an iteration, which counts from 1.

        Raises:
            SettingsError: there is none.
        """
        self.check_files([iteration])
        return read(self.files[iteration])

    def first_header(self) -> Header:
        """That of the earliest file."""
        return read_header(self.files[min(self.files)])

    def check_files(self, iterations: Iterable[int]) -> None:
        """Refuse iterations of which no file is there, naming them."""
        missing = [number for number in iterations if number not in self.files]
        if missing:
            raise SettingsError(
                f"{KEY} is {str(self.folder)!r}, which lacks the rollouts of iteration {spans(missing)} (removed to "
                "save room, or never written); wanted all of them: record with a larger rollout_files.max_megabytes "
                "and with rollout_files.keep_every 1"
            )

    def check_settings(self, now: Mapping[str, Any], iterations: Iterable[int]) -> None:
        """Refuse to have played otherwise than what was recorded, naming the key."""
        for number in iterations:
            recorded = read_header(self.files[number]).settings
            for key in now:
                if key in recorded and not _same(key, recorded[key], now[key]):
                    name = KEY_OF.get(key, key)
                    of = "" if key == name else f" (its {key})"
                    raise SettingsError(
                        f"{name}{of} is {now[key]!r}, and iteration {number} of {KEY} was played with "
                        f"{recorded[key]!r}; wanted the same, as what was played stays as it is"
                    )


def _same(key: str, recorded: Any, now: Any) -> bool:
    if key == "rollout.environment":  # a class may be found by several paths
        return str(recorded).rpartition(".")[2] == str(now).rpartition(".")[2]
    return bool(recorded == now)


def spans(numbers: Iterable[int]) -> str:
    """Ascending numbers with neighbours joined; two in a row stay two. Example: 3, 5-8, 10, 11."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 2 else ", ".join(map(str, part)) for part in parts)
