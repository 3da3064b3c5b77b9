"""Relay: work that waits on others, in threads; what comes of it, back in the thread that owns everything else."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any


@dataclass
class Work:
    """One piece, and who is given its result."""

    kind: str
    do: Callable[[], Any]
    then: Callable[[Any], None]
    result: Any = None
    error: BaseException | None = None


class Relay:
    """Runs work of several kinds side by side, each kind in threads of its own.

    What follows on a piece of work is called in the thread of :meth:`run`, one after the other, as results arrive: it
    may use what threads cannot share (a tokenizer, the records), and submit more. The threads are daemons: a process
    that is told to end does not wait for an answer that never comes, as it would for those of an executor.

    Args:
        threads: kind of work -> how much of it runs at a time.
        seconds: gets the wall clock of waiting, counted for the first kind in `threads` that is under way.
    """

    def __init__(self, threads: Mapping[str, int], seconds: dict[str, float]) -> None:
        self.threads, self.seconds = threads, seconds
        self.waiting: dict[str, SimpleQueue[Work | None]] = {kind: SimpleQueue() for kind in threads}
        self.finished: SimpleQueue[Work] = SimpleQueue()
        self.under_way, self.started = Counter[str](), Counter[str]()
        self.over = False

    def submit(self, kind: str, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Have `work` done in a thread and its result given to `then`."""
        self.under_way[kind] += 1
        self.waiting[kind].put(Work(kind, work, then))
        if self.started[kind] < min(self.under_way[kind], self.threads[kind]):
            self.started[kind] += 1
            name = f"{kind} {self.started[kind]}"
            threading.Thread(target=self._serve, args=[self.waiting[kind]], name=name, daemon=True).start()

    def run(self) -> None:
        """Until nothing is under way any more; an error of any work ends it, and what has not begun is given up."""
        try:
            while self.under_way.total():
                started = time.perf_counter()
                waited_for = next(kind for kind in self.threads if self.under_way[kind])
                work = self.finished.get()
                self.seconds[waited_for] = self.seconds.get(waited_for, 0.0) + time.perf_counter() - started
                self.under_way[work.kind] -= 1
                if work.error is not None:
                    raise work.error
                work.then(work.result)
        finally:
            self.over = True
            for kind, count in self.started.items():
                for _ in range(count):
                    self.waiting[kind].put(None)

    def _serve(self, waiting: SimpleQueue[Work | None]) -> None:
        """What one thread does."""
        while (work := waiting.get()) is not None:
            if self.over:
                continue
            try:
                work.result = work.do()
            except BaseException as error:
                work.error = error
            self.finished.put(work)
