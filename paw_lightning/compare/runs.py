"""Runs of a comparison: processes of one thread each, several at a time; a stopped one can be continued."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from paw_lightning import config_files
from paw_lightning.errors import SettingsError
from paw_lightning.whole_files import write_whole

LAUNCHER = [sys.executable, "-m", "paw_lightning", "fit"]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
POLL_SECONDS = 0.2
LOG_INTERVAL = 10.0
"""Seconds between two lines of progress where it is not on a terminal."""
INTERRUPTED = {code for number in (signal.SIGINT, signal.SIGTERM) for code in (128 + number, -number)}
"""Exit codes of a run that a signal stopped, after its iteration or before the first one."""
OF_FILES = ("TensorBoardLogger", "CSVLogger")
"""Loggers that write the curves into the folder that they are given."""
NAME_KEYS = {"WandbLogger": "name", "MLFlowLogger": "run_name"}
"""{logger: the argument that names a run for people}."""
NOT_TRAINED = {"compare", "commands"}
"""Parts of the package that no training goes through."""
KEEP_FEW = "--rollout_files.keep_every=10"
"""A study has many runs: every tenth iteration's rollouts are enough to look at. What a study says itself wins."""
LOG_TAIL = 4096
"""Bytes at the end of a log in which its newest progress is looked for."""


@dataclass(frozen=True)
class Run:
    """One arm with one seed."""

    output: Path
    """Absolute: Lightning continues to write `last.ckpt` itself only while its folder's name stays the same."""
    arm: str
    seed: int
    configs: tuple[Path, ...]
    arguments: tuple[str, ...]

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from the others of its comparison."""
        return self.arm, self.seed

    @property
    def folder(self) -> Path:
        """Curves, checkpoints, log and outcome of the run."""
        return self.output / self.arm / f"seed_{self.seed}"

    @property
    def log(self) -> Path:
        """What the run printed, over all its starts."""
        return self.folder / "log.txt"

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that the run continues from."""
        return self.folder / "checkpoints" / "last.ckpt"

    def command(self) -> list[str]:
        """The command line; it continues from the last checkpoint where there is one."""
        return [
            *LAUNCHER,
            *(f"--config={path}" for path in self.configs),
            KEEP_FEW,
            *self.arguments,
            f"--seed_everything={self.seed}",
            *self._loggers(),
            *([f"--ckpt_path={self.checkpoint}"] if self.checkpoint.exists() else []),
        ]

    def _loggers(self) -> list[str]:
        """The run's folder as that of its logger; before other loggers than those of files stands one of files.

        What the run is called there is its arm and seed, where the configuration does not say.
        """
        place = {"save_dir": str(self.output), "name": self.arm, "version": self.folder.name}
        settings: Any = {}
        for path in self.configs:
            settings = config_files.lay_over(settings, config_files.own_settings(path))
        given = settings.get("trainer", {}).get("logger")
        loggers = [logger for logger in (given if isinstance(given, list) else [given]) if isinstance(logger, dict)]
        others = [logger for logger in loggers if class_name(logger) not in OF_FILES]
        if not others and not isinstance(given, list):
            return [f"--trainer.logger.init_args.{key}={value}" for key, value in place.items()]
        for logger in others:
            if (key := NAME_KEYS.get(class_name(logger))) is not None:
                logger["init_args"] = {key: f"{self.arm}, seed {self.seed}", **(logger.get("init_args") or {})}
        own = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": place}
        return [f"--trainer.logger={json.dumps([own, *others])}"]

    def outcome(self) -> dict[str, Any]:
        """How the run ended; its state is "done", "failed", "interrupted", "running", or "not started"."""
        path = self.folder / "outcome.json"
        return json.loads(path.read_text()) if path.exists() else {"state": "not started"}

    def write_outcome(self, state: str, **details: Any) -> None:
        """Replace the outcome, at once or not at all."""
        text = json.dumps({"state": state, **details})
        write_whole(self.folder / "outcome.json", lambda file: file.write(text.encode()))

    def progress(self) -> float:
        """Finished share, read off the progress bar in the log."""
        with self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL))
            shown = re.findall(rb"fit: +(\d+)%", file.read())
        return int(shown[-1]) / 100 if shown else 0.0


def class_name(logger: dict[str, Any]) -> str:
    """The last word of a configured logger's class path."""
    return str(logger.get("class_path", "TensorBoardLogger")).rpartition(".")[2]


class Child:
    """A run's process."""

    def __init__(self, run: Run, lock: int) -> None:
        self.run, self.signals_sent, self.started = run, 0, time.monotonic()
        earlier = run.outcome().get("codes", []) if run.checkpoint.exists() else []
        self.codes = sorted({*earlier, code_digest()})
        command = run.command()
        run.folder.mkdir(parents=True, exist_ok=True)
        with run.log.open("a") as log:
            log.write(f"$ {' '.join(command)}\n")
            log.flush()
            # A session of its own: the terminal's Ctrl-C reaches it once, through us, and not a second time as
            # "stop at once". It holds the folder's lock as well, should this process be killed.
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **ONE_THREAD},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[lock],
            )
        run.write_outcome("running", process=self.process.pid, codes=self.codes)

    def interrupt(self, signals: int) -> None:
        """Send the run those signals that it has not got yet."""
        for _ in range(signals - self.signals_sent):
            self.process.send_signal(signal.SIGINT)
        self.signals_sent = signals

    def ended(self) -> bool:
        """Whether it has ended; writes the outcome."""
        exit_code = self.process.poll()
        if exit_code is None:
            return False
        interrupted = self.signals_sent or exit_code in INTERRUPTED
        state = "done" if exit_code == 0 else "interrupted" if interrupted else "failed"
        seconds = round(time.monotonic() - self.started, 1)
        self.run.write_outcome(state, exit_code=exit_code, seconds=seconds, codes=self.codes)
        return True


def code_digest() -> str:
    """Names the state of the package's code that a run starts with."""
    spec = importlib.util.find_spec("paw_lightning")
    assert spec is not None and spec.submodule_search_locations
    package = Path(spec.submodule_search_locations[0])
    files = [path for path in sorted(package.rglob("*.py")) if path.relative_to(package).parts[0] not in NOT_TRAINED]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


class Signals:
    """Counts SIGINT and SIGTERM, which do not end the process inside."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Signals:
        self.previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def execute(runs: Sequence[Run], jobs: int, lock: int) -> bool:
    """Bring every run to its end, `jobs` at a time; returns whether that was interrupted."""
    waiting, active, finished = deque(runs), list[Child](), 0
    bar = Bar(len(runs))
    with Signals() as signals:
        try:
            while active or (waiting and not signals.count):
                while waiting and len(active) < jobs and not signals.count:
                    active.append(Child(waiting.popleft(), lock))
                for child in active:
                    child.interrupt(signals.count)
                for child in [child for child in active if child.ended()]:
                    active.remove(child)
                    state = child.run.outcome()["state"]
                    finished += state != "interrupted"
                    bar.say(f"{child.run.arm}, seed {child.run.seed}: {state}")
                bar.show(finished, active, signals.count)
                time.sleep(POLL_SECONDS if active else 0)
        finally:
            for child in active:  # there are some only when something went wrong here
                child.interrupt(1)
            bar.close()
    return bool(signals.count)


class Bar:
    """Progress over all runs, with the time left: one line redrawn on a terminal, now and then a line elsewhere."""

    def __init__(self, total: int) -> None:
        layout = "{desc}: {percentage:3.0f}%|{bar:20}| {n:.1f}/{total} runs, {elapsed}<{remaining}{postfix}"
        self.terminal = sys.stderr.isatty()
        drawing = sys.stderr if self.terminal else io.StringIO()
        self.bar = tqdm(total=total, desc="compare", bar_format=layout, smoothing=0, file=drawing, disable=not total)
        self.drawn = time.monotonic()

    def show(self, finished: int, active: Sequence[Child], signals: int) -> None:
        """Redraw; a run that is not finished counts with its finished share."""
        if self.bar.disable:
            return
        self.bar.n = finished + sum(child.run.progress() for child in active)
        phase = "stopping after this iteration, Ctrl-C again stops at once" if signals else f"{len(active)} at work"
        self.bar.set_postfix_str(phase, refresh=False)
        if self.terminal:
            self.bar.refresh()
        elif time.monotonic() - self.drawn > LOG_INTERVAL or not active:
            self.drawn = time.monotonic()
            print(self.bar, file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self.terminal:
            self.bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()


@contextmanager
def locked(output: Path) -> Iterator[int]:
    """Lock the folder against other comparisons; child processes that inherit the yielded file keep the lock."""
    output.mkdir(parents=True, exist_ok=True)
    with (output / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            outcomes = [json.loads(path.read_text()) for path in output.glob("*/seed_*/outcome.json")]
            processes = ", ".join(str(o["process"]) for o in outcomes if o["state"] == "running")
            raise SettingsError(
                f"--output is {output}, which is at work: another `paw-lightning compare` has it, or runs go on that "
                f"one left behind when it was killed; wait for them or interrupt them (runs: {processes or 'none yet'})"
            ) from None
        yield file.fileno()
