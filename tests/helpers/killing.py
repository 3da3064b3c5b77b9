"""Kills real runs of the command line with SIGKILL, at random moments and in the midst of writing, and resumes them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from paw_lightning.event_files import read_scalars

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
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

    def start(self) -> subprocess.Popen[bytes]:
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
                env=os.environ | ENVIRONMENT,
                start_new_session=True,
            )

    def finish(self) -> None:
        """Let it run to its end."""
        assert self.start().wait(4 * PATIENCE) == 0, self.log.read_text()[-3000:]

    def kill(self, moment: Callable[[Runs], bool]) -> bool:
        """Start it, and kill it as soon as `moment` has come; False where it ended before."""
        process = self.start()
        deadline = time.monotonic() + PATIENCE
        try:
            while process.poll() is None and not moment(self):
                assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            return process.poll() is None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
            assert code in (0, -signal.SIGKILL), self.log.read_text()[-3000:]


def at_random(chance: random.Random, longest: float) -> Callable[[Runs], bool]:
    """A moment within so many seconds of the beginning of training."""
    wait, begun = chance.uniform(0, longest), list[float]()
    starts = list[int]()

    def moment(runs: Runs) -> bool:
        record = None if runs.run is None else runs.run / "starts.jsonl"
        lines = record.read_text().count("\n") if record is not None and record.exists() else 0
        starts[:] = starts or [lines]
        if not begun and lines > starts[0]:
            begun.append(time.monotonic())
        time.sleep(0.001)
        return bool(begun) and time.monotonic() - begun[0] > wait

    return moment


def in_writing(pattern: str, chance: random.Random, longest: float) -> Callable[[Runs], bool]:
    """A moment within so many seconds after something appears in the run's folder that is just being written."""
    wait, since = chance.uniform(0, longest), list[float]()
    there = list[set[Path]]()  # what an earlier kill has left does not count

    def moment(runs: Runs) -> bool:
        time.sleep(0.001)
        found = set() if runs.run is None else set(runs.run.glob(pattern))
        there[:] = there or [found]
        if not since and found - there[0]:
            since.append(time.monotonic())
        there[0] &= found
        return bool(since) and time.monotonic() - since[0] >= wait

    return moment


def checkpoint_of(runs: Runs) -> dict[str, Any] | None:
    """The last checkpoint; None where there is none. One that cannot be read is an error."""
    return None if runs.last is None else torch.load(runs.last, weights_only=True)


def curves_of(run: Path) -> dict[str, dict[int, float]]:
    """Every scalar, the last one written of each step."""
    return {tag: dict(points) for tag, points in read_scalars(run).items() if not tag.startswith("time/")}
