"""How long the episodes of one rank, or of one server, take: played out turn by turn, with drawn lengths."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from paw_lightning.commands.estimating.work import Work

REQUEST_SECONDS = 0.01
"""From an answer to the next question of the same episode over HTTP, beside the environment (measured on a CPU)."""


class Model(Protocol):
    """What plays; :class:`Reader` is one."""

    def read(self, tokens: float, seen: float, predicted: float) -> float: ...
    def join(self, tokens: float, seen: float) -> float: ...
    def write(self, rows: float, remembered: float) -> float: ...


@dataclass
class Played:
    """Seconds of a rollout by what the device does; `environment` is what it waits for environments alone."""

    reading: float = 0.0
    writing: float = 0.0
    environment: float = 0.0
    places: float = 0.0
    """Rows x steps that were computed."""
    tokens: float = 0.0
    """Of them, those in which a row still wrote."""

    @property
    def total(self) -> float:
        return self.reading + self.writing + self.environment


@dataclass(frozen=True)
class Worlds:
    """Environments: mean seconds of a step, exponentially distributed."""

    seconds: float = 0.0
    side_by_side: bool = False
    """Whether the steps of one turn overlap (worker processes), or come one after the other."""

    def step(self, dice: random.Random) -> float:
        return dice.expovariate(1 / self.seconds) if self.seconds else 0.0

    def turn(self, dice: random.Random, count: int) -> float:
        """Seconds until all of a turn's steps are over."""
        steps = [self.step(dice) for _ in range(count)]
        return max(steps, default=0.0) if self.side_by_side else sum(steps)


def in_lock_step(
    episodes: Sequence[Sequence[int]], work: Work, model: Model, worlds: Worlds, room: float | None, seed: int = 0
) -> Played:
    """The native sampler: all episodes' next actions together, then all environments' steps.

    Args:
        episodes: tokens of each action, for each episode.
        work: says how long prompts are.
        model: that plays.
        worlds: environments.
        room: tokens that the cache holds; what does not fit is written in further batches.
        seed: of the environments' steps.
    """
    played, dice = Played(), random.Random(seed)
    for turn in range(max(map(len, episodes), default=0)):
        lengths = sorted(episode[turn] for episode in episodes if len(episode) > turn)
        context = work.context(turn)
        fitting = len(lengths) if room is None else max(1, int(room // (context + work.most_action)))
        read, seen = work.read(turn), _seen(work, turn)
        for begin in range(0, len(lengths), fitting):
            batch = lengths[begin : begin + fitting]
            played.reading += model.read(read * len(batch), seen, len(batch))
            _write(played, batch, context, model)
        played.environment += worlds.turn(dice, len(lengths))
    return played


def _seen(work: Work, turn: int) -> float:
    """Tokens that one of those read at this turn sees, on average; the first prompt is read from its start."""
    return work.context(turn) - (work.read(turn) if turn else work.context(0)) / 2


def _write(played: Played, lengths: Sequence[int], context: float, model: Model) -> None:
    """Steps of one batch; ended rows leave when they are half of it. `lengths` ascend."""
    rows, done = len(lengths), 0
    while rows:
        end = lengths[len(lengths) - 1 - rows // 2]  # of the row with whose end no more than half are left
        steps = end - done
        played.writing += steps * model.write(rows, rows * (context + done + steps / 2))
        played.places += rows * steps
        left = sum(length > end for length in lengths)
        done, rows = end, left
    played.tokens += sum(lengths)


def at_their_own_pace(
    episodes: Sequence[Sequence[int]],
    work: Work,
    model: Model,
    worlds: Worlds,
    room: float | None,
    connections: int,
    seed: int = 0,
) -> Played:
    """A server: whoever has a prompt joins the running batch at once, environments step beside it.

    `connections` is the most rows at a time; the other arguments are those of :func:`in_lock_step`.
    """
    server = _Server(episodes, work, model, worlds, room, connections, random.Random(seed))
    while server.waiting or server.running or server.outside:
        server.let_in()
        server.go_on()
    return server.played


class _Server:
    """From event to event, an event being the end of an action or of an environment's step.

    All running rows get a token in a step, so a row that joins when `written` steps have been made ends when as many
    more have been as its action has tokens.
    """

    def __init__(
        self,
        episodes: Sequence[Sequence[int]],
        work: Work,
        model: Model,
        worlds: Worlds,
        room: float | None,
        connections: int,
        dice: random.Random,
    ) -> None:
        self.episodes, self.work, self.model, self.worlds, self.dice = episodes, work, model, worlds, dice
        self.room, self.connections = room, connections
        self.played, self.now, self.written = Played(), 0.0, 0.0
        self.offset = 0.0
        """Sum over running rows of their context less `written` when they joined; with `written` each, their tokens."""
        self.waiting = deque((number, 0) for number in range(len(episodes)))
        """Episode and turn, of prompts that nobody reads yet."""
        self.running: list[tuple[float, int, int, float]] = []
        """Ends when so much is written, episode, turn, its part of `offset`."""
        self.outside: list[tuple[float, int, int]] = []
        """Comes back at, episode, turn."""

    def let_in(self) -> None:
        """Rows that have a prompt join, as far as there is room."""
        while self.waiting and len(self.running) < self.connections:
            number, turn = self.waiting[0]
            own = self.work.context(turn) - self.written
            held = self.offset + own + (len(self.running) + 1) * (self.written + self.work.action)
            if self.running and self.room is not None and held > self.room:
                break
            self.waiting.popleft()
            read = self.work.read(turn)
            seconds = self.model.join(read, _seen(self.work, turn))
            self.played.reading, self.now = self.played.reading + seconds, self.now + seconds
            heapq.heappush(self.running, (self.written + self.episodes[number][turn], number, turn, own))
            self.offset += own

    def go_on(self) -> None:
        """Write, or wait, up to the next event, and do what it brings."""
        rows = len(self.running)
        step = self.model.write(rows, self.offset + rows * self.written) if rows else 0.0
        ended = self.now + (self.running[0][0] - self.written) * step if rows else float("inf")
        back = max(self.now, self.outside[0][0]) if self.outside else float("inf")
        if rows:
            steps = self.running[0][0] - self.written if ended <= back else (back - self.now) / step
            self.played.writing += steps * step
            self.played.places += steps * rows
            self.written += steps
        else:
            self.played.environment += back - self.now
        self.now = min(ended, back)
        if ended <= back:
            _, number, turn, own = heapq.heappop(self.running)
            self.offset -= own
            self.played.tokens += self.episodes[number][turn]
            returns = self.now + self.worlds.step(self.dice) + REQUEST_SECONDS
            heapq.heappush(self.outside, (returns, number, turn + 1))
        else:
            _, number, turn = heapq.heappop(self.outside)
            if turn < len(self.episodes[number]):
                self.waiting.append((number, turn))
