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
        read = work.read(turn)
        seen = context - (read if turn else context) / 2
        for begin in range(0, len(lengths), fitting):
            batch = lengths[begin : begin + fitting]
            played.reading += model.read(read * len(batch), seen, len(batch))
            _write(played, batch, context, model)
        played.environment += worlds.turn(dice, len(lengths))
    return played


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

    From event to event, an event being the end of an action or of an environment's step. All running rows get a token
    in a step, so a row that joins when `written` tokens have been written ends when that many more have.
    `connections` is the most rows at a time; the other arguments are those of :func:`in_lock_step`.
    """
    played, dice, now, written, offset = Played(), random.Random(seed), 0.0, 0.0, 0.0
    waiting = deque((number, 0) for number in range(len(episodes)))
    running: list[tuple[float, int, int, float]] = []  # ends when so much is written, episode, turn, its offset
    outside: list[tuple[float, int, int]] = []  # ready at, episode, turn
    while waiting or running or outside:
        # Rows that have a prompt join
        while waiting and len(running) < connections:
            number, turn = waiting[0]
            context = work.context(turn)
            held = offset + (len(running) + 1) * (written + work.action) + context - written
            if running and room is not None and held > room:
                break
            waiting.popleft()
            read = work.read(turn)
            seconds = model.join(read, context - (read if turn else context) / 2)
            played.reading, now = played.reading + seconds, now + seconds
            heapq.heappush(running, (written + episodes[number][turn], number, turn, context - written))
            offset += context - written
        # The next event
        step = model.write(len(running), offset + len(running) * written) if running else 0.0
        ended = now + (running[0][0] - written) * step if running else float("inf")
        back = outside[0][0] if outside else float("inf")
        if running and ended <= back:
            steps = running[0][0] - written
        else:
            steps = max(0.0, back - now) / step if running else 0.0
            played.environment += 0.0 if running else max(0.0, back - now)
        played.writing += steps * step
        played.places += steps * len(running)
        written, now = written + steps, min(ended, max(back, now))
        # What it brings
        if running and ended <= back:
            _, number, turn, own = heapq.heappop(running)
            offset -= own
            played.tokens += episodes[number][turn]
            heapq.heappush(outside, (now + worlds.step(dice) + REQUEST_SECONDS, number, turn + 1))
        else:
            _, number, turn = heapq.heappop(outside)
            if turn < len(episodes[number]):
                waiting.append((number, turn))
    return played
