"""Kills real runs of the command line with SIGKILL, at random moments and in the midst of writing, and resumes them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from paw_lightning.event_files import read_scalars

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
KILLER = Path(__file__).parent / "killer"
PATIENCE = 240.0
"""Seconds that a run may take to come to the moment at which it is killed."""


class Runs:
    """Every start of one and the same run, in one folder."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.home, self.options = folder / "runs", [*options, f"--trainer.logger.init_args.save_dir={folder / 'runs'}"]
        self.log = folder / "log.txt"
        folder.mkdir(parents=True)

    @property
    def run(self) -> Path | None:
        """The folder of the newest start that was not resumed."""
        found = self.home.glob("*/version_*")
        return max(found, key=lambda path: int(path.name.rpartition("_")[2]), default=None)

    @property
    def last(self) -> Path | None:
        """Its last checkpoint, if there is one."""
        path = None if self.run is None else self.run / "checkpoints" / "last.ckpt"
        return path if path is not None and path.exists() else None

    def start(self, environment: Mapping[str, str] = MappingProxyType({})) -> subprocess.Popen[bytes]:
        """Begin, or go on with the documented command."""
        words = ["fit", *self.options]
        if self.last is not None:
            words = ["fit", "--config", str(self.last.parent.parent / "config.yaml"), "--ckpt_path", str(self.last)]
        with self.log.open("a") as log:
            log.write(f"$ {' '.join(words)}\n")
            log.flush()
            return subprocess.Popen(
                [sys.executable, "-m", "paw_lightning", *words],
                stdout=log,
                stderr=log,
                env={**os.environ, **ENVIRONMENT, **environment},
                start_new_session=True,
            )

    def finish(self) -> None:
        """Let it run to its end."""
        assert self.start().wait(4 * PATIENCE) == 0, self.log.read_text()[-3000:]

    def kill(self, moment: AtRandom | InWriting) -> bool:
        """Start it, and have it killed when its moment comes; False where it ended before."""
        process = self.start({} if isinstance(moment, AtRandom) else moment.environment())
        try:
            if isinstance(moment, AtRandom):
                self._wait_for_training(process)
                time.sleep(moment.seconds)
            else:
                process.wait(4 * PATIENCE)
            return process.poll() in (None, -signal.SIGKILL)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
            assert code in (0, -signal.SIGKILL), self.log.read_text()[-3000:]

    def _wait_for_training(self, process: subprocess.Popen[bytes]) -> None:
        before, deadline = self._starts(), time.monotonic() + PATIENCE
        while process.poll() is None and self._starts() == before:
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.02)

    def _starts(self) -> int:
        return sum(path.read_text().count("\n") for path in self.home.glob("*/*/starts.jsonl"))


@dataclass(frozen=True)
class AtRandom:
    """So many seconds after training has begun."""

    seconds: float


@dataclass(frozen=True)
class InWriting:
    """When something is written for the `count`-th time, so many seconds after it began."""

    event: str
    """As `sys.addaudithook` sees it: "open", or "os.rename" just before what was written takes its place."""
    path: str
    """A part of its path."""
    count: int = 1
    delay: float = 0.0

    def environment(self) -> dict[str, str]:
        """What makes tests/helpers/killer do it."""
        paths = [str(KILLER), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"PAW_KILL": json.dumps(asdict(self)), "PYTHONPATH": os.pathsep.join(paths)}


def checkpoint_of(runs: Runs) -> dict[str, Any] | None:
    """The last checkpoint; None where there is none. One that cannot be read is an error."""
    return None if runs.last is None else torch.load(runs.last, weights_only=True)


def curves_of(run: Path) -> dict[str, dict[int, float]]:
    """Every scalar, the last one written of each step."""
    return {tag: dict(points) for tag, points in read_scalars(run).items() if not tag.startswith("time/")}
