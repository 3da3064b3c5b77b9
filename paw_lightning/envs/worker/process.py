"""What runs in a worker: one environment, served over a socket. WorkerEnv starts this file as a script.

Standard input and output are left to the environment, since some print, and some replace them. One request and one
answer is one line of JSON: what a broken environment may write between them cannot be run by the other side.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import select
import signal
import socket
import sys
import sysconfig
import threading
import traceback
from pathlib import Path
from typing import Any

WATCH_INTERVAL_MS = 2000
GRACE_SECONDS = 5.0
"""Seconds after the parent's own limit at which the kernel ends a call that cannot be interrupted."""


def main() -> None:
    """Serve until the parent hangs up. The one argument holds the settings that WorkerEnv wrote, as JSON."""
    settings = json.loads(sys.argv[1])
    sys.argv = sys.argv[:1]
    sys.path[:] = settings["path"]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    faulthandler.enable()
    if settings["memory_limit_mb"] is not None:
        size = int(settings["memory_limit_mb"] * 2**20)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    channel = socket.socket(fileno=settings["socket"])
    channel.set_inheritable(False)
    threading.Thread(target=die_with_parent, args=(channel, os.getppid()), daemon=True).start()
    try:
        serve(channel, settings)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        end_group()


def end_group() -> None:
    """End this process and whatever the environment started, a Java machine for instance."""
    os.killpg(0, signal.SIGKILL)


def die_with_parent(channel: socket.socket, parent: int) -> None:
    """End this process as soon as its parent has ended, for whatever reason."""
    poller = select.poll()
    poller.register(channel, 0)  # hanging up is always reported
    while not poller.poll(WATCH_INTERVAL_MS) and os.getppid() == parent:
        pass
    end_group()


def serve(channel: socket.socket, settings: dict[str, Any]) -> None:
    """Answer requests ``[number, method, positional, named, seconds]`` with ``[number, result, error]``."""
    from paw_lightning.envs.base import FAILURES
    from paw_lightning.envs.loading import ENVIRONMENT, build_environment

    env: Any = None

    def call(method: str, positional: list[Any], named: dict[str, Any]) -> Any:
        nonlocal env
        if method == "build":
            env = build_environment(settings["environment"], settings["split"], f"{ENVIRONMENT}.init_args.environment")
            return env.num_tasks
        if method in ("peek", "demonstrate"):
            return [getattr(env, method)(*positional)]
        observation, *rest = getattr(env, method)(*positional, **named)
        if not isinstance(observation, str):
            raise TypeError(f"observation of type {type(observation).__name__}; wanted a str")
        return [observation, *rest]

    for line in channel.makefile("rb"):
        number, method, positional, named, seconds = json.loads(line)
        # The parent kills a call that takes too long. Should it be gone and the watching thread be kept from running
        # by code that never lets go of the interpreter, the kernel does.
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE_SECONDS)
        try:
            answer = json.dumps([number, call(method, positional, named), None], default=plain)
        except FAILURES as error:
            answer = json.dumps([number, None, f"{type(error).__name__}: {error}{raised_at(error)}"])
        signal.setitimer(signal.ITIMER_REAL, 0)
        channel.sendall(answer.encode() + b"\n")
    if env is not None:
        env.close()


def raised_at(error: BaseException) -> str:
    """Return the last line of the environment's own code that led to an error, as " (file.py:28)".

    Empty where only this package or a library is to blame.
    """
    others = (str(Path(__file__).parents[2]), *(sysconfig.get_paths()[name] for name in ("stdlib", "purelib")))
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(others)]
    return f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""


def plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's, sets as sorted lists, anything else as its description."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    return value.tolist() if hasattr(value, "tolist") else repr(value)


if __name__ == "__main__":
    main()
