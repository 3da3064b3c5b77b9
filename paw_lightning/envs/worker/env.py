"""WorkerEnv: an environment in a process of its own; a crash, a hang or a leak costs an episode, not the run."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from contextlib import suppress
from typing import IO, Any

from paw_lightning.envs.base import TextEnv
from paw_lightning.envs.loading import EnvironmentSpec, plain_spec, wrong_argument
from paw_lightning.envs.worker import process as worker_process
from paw_lightning.errors import ServerAwayError, SettingsError

MAX_ANSWER_BYTES = 64 * 2**20
CLOSE_SECONDS = 3.0
LOG_CHARACTERS = 600
"""How much of what a worker last wrote to its standard error goes into an error message."""
_Call = tuple[str, list[Any], dict[str, Any]]
"""Method, positional and named arguments."""


class WorkerError(RuntimeError):
    """A worker failed and was killed; the next reset starts another."""


class WorkerEnv(TextEnv):
    """Runs an environment in a child process of its own.

    The process starts with the first reset and plays all episodes that follow. Where it raises an exception, ends,
    takes too long or gives an unreadable answer, it is killed with all processes that it started, the call raises
    WorkerError, and the next reset starts a fresh process. Steps of several workers
    overlap (:meth:`begin_step`). Workers ignore Ctrl-C, and die when this process does, however that happens.

    Texts and numbers cross as JSON, so in ``info`` tuples come back as lists and foreign objects as descriptions.

    Args:
        split: "train", "val" or "test", handed on.
        environment: ``{class_path: ..., init_args: {...}}`` of the environment that runs in the worker.
        step_timeout: seconds that a step may take.
        reset_timeout: seconds that a reset may take, and building the environment before the first one.
        memory_limit_mb: of every process of the worker, in MiB of private writable memory; None: no limit. A Java
            machine needs a limit of its own (``variables: {JAVA_TOOL_OPTIONS: -Xmx256m}``), since it takes what it
            can get.
        variables: environment variables of the worker. OMP_NUM_THREADS is 1 unless given.

    Raises:
        SettingsError: a value that cannot work; the message names its key.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        environment: EnvironmentSpec,
        step_timeout: float = 60.0,
        reset_timeout: float = 300.0,
        memory_limit_mb: float | None = None,
        variables: dict[str, str] | None = None,
    ) -> None:
        limits = {"step_timeout": step_timeout, "reset_timeout": reset_timeout, "memory_limit_mb": memory_limit_mb}
        for name, value in limits.items():
            if value is not None and not 0 < value < math.inf:
                raise wrong_argument(name, value, "a positive number")
        self.step_timeout, self.reset_timeout = step_timeout, reset_timeout
        self.settings = {"environment": plain_spec(environment), "split": split, "memory_limit_mb": memory_limit_mb}
        self.variables = {"OMP_NUM_THREADS": "1", **(variables or {})}
        self._worker: _Worker | None = None
        self._begun: _Call | None = None

    @property
    def num_tasks(self) -> int | None:  # type: ignore[override]
        """How many tasks the environment's split holds; starts the worker if none runs, to ask it."""
        worker = self._running()
        try:
            return worker.built(self.reset_timeout)
        except (WorkerError, SettingsError):
            self._kill()
            raise

    @property
    def pid(self) -> int | None:
        """The worker's process; None when none runs."""
        return self._worker.process.pid if self._worker else None

    def begin_reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Send the reset, starting a process if none runs."""
        if self._begun is not None:
            self._kill()  # an unfinished call: nobody knows what it will do to the next episode
        self._begin(("reset", [], {"seed": seed, "options": options}), self.reset_timeout)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode in the worker.

        Raises:
            WorkerError: the worker failed and is gone.
        """
        if self._begun != ("reset", [], {"seed": seed, "options": options}):
            self.begin_reset(seed=seed, options=options)
        observation, info = self._finish(2)
        return observation, info

    def begin_step(self, action: str) -> None:
        """Send the action; the clock of `step_timeout` starts."""
        if self._worker is None or self._begun is not None:
            raise RuntimeError("begin_step without a running episode: call reset() first, and step() after each")
        self._begin(("step", [action], {}), self.step_timeout)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one action in the worker.

        Raises:
            WorkerError: the worker failed and is gone.
        """
        if self._begun is None:
            self.begin_step(action)
        if self._begun != ("step", [action], {}):
            raise RuntimeError(f"step({action!r}) after the beginning of {self._begun}: finish that one first")
        observation, reward, terminated, truncated, info = self._finish(5)
        return observation, reward, terminated, truncated, info

    def peek(self, action: str) -> str:
        """Return what the environment in the worker would answer, without playing the action.

        Raises:
            NotImplementedError: the environment cannot peek.
            WorkerError: the worker failed and is gone.
        """
        return self._ask("peek", action)

    def demonstrate(self) -> str:
        """Return what an expert in the worker would do.

        Raises:
            NotImplementedError: the environment has no expert.
            WorkerError: the worker failed and is gone.
        """
        return self._ask("demonstrate")

    def close(self) -> None:
        """Let an idle worker close its environment, then end it and whatever it started."""
        if self._worker is not None and self._begun is None:
            self._worker.hang_up()
        self._kill()

    def _ask(self, method: str, *arguments: str) -> str:
        """A text that an optional method gives without playing anything."""
        if self._worker is None or self._begun is not None:
            raise RuntimeError(
                f"{method} without a running episode, or after begin_step: {method} first, then begin the step"
            )
        self._begin((method, list(arguments), {}), self.step_timeout)
        try:
            [text] = self._finish(1)
        except WorkerError as error:
            if str(error).startswith(NotImplementedError.__name__):
                raise NotImplementedError(str(error)) from error
            raise
        return str(text)

    def _running(self) -> _Worker:
        if self._worker is None:
            self._worker = _Worker(self.settings, self.variables, self.reset_timeout)
        return self._worker

    def _begin(self, call: _Call, seconds: float) -> None:
        self._running().send(call, seconds)
        self._begun = call

    def _finish(self, length: int) -> list[Any]:
        assert self._worker is not None and self._begun is not None
        try:
            self._worker.built(self.reset_timeout)
            answer = self._worker.receive()
            if not isinstance(answer, list) or len(answer) != length:
                raise self._worker.failure(f"{self._begun[0]} returned {answer!r}; wanted {length} values")
        except (WorkerError, SettingsError):
            self._kill()
            raise
        self._begun = None
        return answer

    def _kill(self) -> None:
        if self._worker is not None:
            self._worker.kill()
        self._worker = self._begun = None


class _Worker:
    """One process and the socket to it."""

    def __init__(self, settings: dict[str, Any], variables: dict[str, str], build_seconds: float) -> None:
        self.socket, theirs = socket.socketpair()
        self.log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        path = [os.getcwd() if entry == "" else entry for entry in sys.path]
        argument = json.dumps({**settings, "path": path, "socket": theirs.fileno()})
        # Not multiprocessing: its "fork" copies torch's threads, its "spawn" imports the main program anew, and its
        # pipes break when an environment replaces standard output.
        self.process = subprocess.Popen(
            [sys.executable, "-P", worker_process.__file__, argument],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C does not reach it, and its group can be killed as one
            env={**os.environ, **variables},
        )
        theirs.close()
        self.kill = weakref.finalize(self, _kill_group, self.process, self.socket)
        self.buffer = b""
        self.waiting: list[tuple[int, float, float]] = []
        """Number, deadline and seconds of every request that has no answer yet."""
        self.sent = 0
        self.num_tasks: int | None = None
        self.send(("build", [], {}), build_seconds)

    def send(self, call: _Call, seconds: float) -> None:
        """Send one request. A worker that is gone is noticed when its answer is waited for."""
        self.sent += 1
        self.waiting.append((self.sent, time.monotonic() + seconds, seconds))
        line = json.dumps([self.sent, *call, seconds]).encode() + b"\n"
        if call[0] == "reset":
            self.log.truncate(0)  # so that a talkative environment does not fill the disk
        with suppress(OSError):
            self.socket.settimeout(seconds)
            self.socket.sendall(line)

    def built(self, seconds: float) -> int | None:
        """Wait for the environment to be built, and return its number of tasks.

        What was asked in the meantime gets its full time from then on.

        Raises:
            SettingsError: a package is missing, or the environment refuses its arguments.
            WorkerError: anything else went wrong.
        """
        if self.waiting and self.waiting[0][0] == 1:
            self.num_tasks = self.receive()
            self.waiting = [(number, time.monotonic() + limit, limit) for number, _, limit in self.waiting]
        return self.num_tasks

    def receive(self) -> Any:
        """Return the answer to the oldest request."""
        number, deadline, seconds = self.waiting.pop(0)
        line = self._line(deadline, seconds)
        try:
            answered, result, error = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            raise self.failure(f"the worker answered {line[:80]!r}; wanted a line of JSON") from None
        if answered != number:
            raise self.failure(f"the worker answered request {answered!r}; wanted {number}")
        if error is not None:
            kind, _, message = error.partition(": ")
            refused = {own.__name__: own for own in (SettingsError, ServerAwayError)}
            raise refused[kind](message) if kind in refused else self.failure(error)
        return result

    def _line(self, deadline: float, seconds: float) -> bytes:
        while b"\n" not in self.buffer:
            if len(self.buffer) > MAX_ANSWER_BYTES:
                raise self.failure(f"the worker's answer is longer than {MAX_ANSWER_BYTES} bytes")
            try:
                # What has already arrived counts even after the deadline: the caller may have waited for others.
                self.socket.settimeout(max(deadline - time.monotonic(), 1e-6))
                received = self.socket.recv(2**16)
            except TimeoutError:
                raise self.failure(f"no answer within {seconds:g} s (step_timeout, reset_timeout)") from None
            except OSError:
                received = b""
            if not received:
                raise self.failure(f"the worker ended ({self._status()})")
            self.buffer += received
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line

    def _status(self) -> str:
        self.kill()
        code = self.process.returncode
        return f"exit status {code}" if code is None or code >= 0 else signal.Signals(-code).name

    def failure(self, reason: str) -> WorkerError:
        """Make the error for `reason`, with the last words of the worker."""
        size = self.log.seek(0, os.SEEK_END)
        self.log.seek(max(size - LOG_CHARACTERS, 0))
        words = self.log.read().decode(errors="replace").strip("\0 \n")
        return WorkerError(f"{reason}; it last wrote: {words}" if words else reason)

    def hang_up(self) -> None:
        """Say that no request will follow, and wait up to CLOSE_SECONDS for the environment to close."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
            self.socket.settimeout(CLOSE_SECONDS)
            while self.socket.recv(2**16):
                pass


def _kill_group(process: subprocess.Popen[bytes], channel: socket.socket) -> None:
    """End a worker and everything it started, before `wait` frees its process number for others."""
    channel.close()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(CLOSE_SECONDS)
