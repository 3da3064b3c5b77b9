"""Relay: work that waits on others, in threads; what comes of it, back in the thread that owns everything else."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any


class Relay:
    """Runs work of several kinds side by side, each kind in a pool of threads of its own.

    What follows on a piece of work is called in the thread of :meth:`run`, one after the other, as results arrive: it
    may use what threads cannot share (a tokenizer, the records), and submit more.

    Args:
        threads: kind of work -> how much of it runs at a time.
        seconds: gets the wall clock of waiting, counted for the first kind in `threads` that is under way.
    """

    def __init__(self, threads: Mapping[str, int], seconds: dict[str, float]) -> None:
        self.pools = {kind: ThreadPoolExecutor(count, thread_name_prefix=kind) for kind, count in threads.items()}
        self.seconds = seconds
        self.under_way = Counter[str]()
        self.finished: SimpleQueue[tuple[str, Future[Any], Callable[[Any], None]]] = SimpleQueue()

    def submit(self, kind: str, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Have `work` done in a thread and its result given to `then`."""
        self.under_way[kind] += 1
        future = self.pools[kind].submit(work)
        future.add_done_callback(lambda done: self.finished.put((kind, done, then)))

    def run(self) -> None:
        """Until nothing is under way any more; an error of any work ends it, and what has not begun is given up."""
        try:
            while self.under_way.total():
                started = time.perf_counter()
                waited_for = next(kind for kind in self.pools if self.under_way[kind])
                kind, done, then = self.finished.get()
                self.seconds[waited_for] = self.seconds.get(waited_for, 0.0) + time.perf_counter() - started
                self.under_way[kind] -= 1
                then(done.result())
        finally:
            for pool in self.pools.values():
                pool.shutdown(wait=False, cancel_futures=True)
