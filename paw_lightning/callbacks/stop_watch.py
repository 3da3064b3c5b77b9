"""The clock of a stop: it calls the main thread back when the time is up, and ends a process that does not come."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable

from paw_lightning import ranks

GRACE = 10.0
"""Seconds that the main thread has to react: it may be saving, or inside one long operation that is not Python's."""
POLL = 1.0
"""Seconds between two looks at whether another rank was told to stop."""
_ENTRIES = itertools.count(1)


def next_order() -> str:
    """Under this name the rank that gets a signal leaves word for the others; each entry point has another.

    The words outlast a `fit`: those of its stop must not reach the `test` after it. All ranks come to the same number,
    as those of one process group run the same entry points.
    """
    return f"paw_lightning stop {next(_ENTRIES)}"


class StopWatch(threading.Thread):
    """Sends this process `number` again after `seconds`, and ends it GRACE seconds later unless it is cancelled.

    Args:
        seconds: None sends nothing: the main thread is already on its way out.
        last_words: printed where the process has to be ended from here.
    """

    def __init__(self, number: signal.Signals, seconds: float | None, last_words: str) -> None:
        super().__init__(daemon=True, name="stop watch")
        self.number, self.seconds, self.last_words = number, seconds, last_words
        self.due = seconds is None
        self.cancelled = threading.Event()
        self.start()

    def run(self) -> None:
        """Wait, call, wait, end."""
        if self.seconds is not None:
            if self.cancelled.wait(self.seconds):
                return
            self.due = True
            call_main_thread(self.number)
        if not self.cancelled.wait(GRACE):
            end_process(self.number, self.last_words)


class Listener(threading.Thread):
    """On one of several ranks: waits for word from another, and calls the main thread as the signal would have."""

    def __init__(self, order: str, heard: Callable[[str], None]) -> None:
        super().__init__(daemon=True, name="stop listener")
        self.order, self.heard, self.cancelled = order, heard, threading.Event()
        self.start()

    def run(self) -> None:
        """Look, every now and then."""
        while not self.cancelled.wait(POLL):
            try:
                word = ranks.posted(self.order)
            except RuntimeError:  # whoever keeps the words is gone, and soon this process will be
                return
            if word is not None:
                self.heard(word)
                return


def call_main_thread(number: signal.Signals) -> None:
    """Have the main thread run its handler, out of a blocked system call as well."""
    main = threading.main_thread().ident
    if main is not None:
        signal.pthread_kill(main, number)


def end_process(number: signal.Signals, last_words: str) -> None:
    """End this process without any clearing up: what it leaves is what a kill leaves, the last whole iteration."""
    if ranks.world()[0] == 0:
        sys.stderr.flush()
        os.write(2, f"\n{last_words}\n".encode())
    os._exit(128 + number)
