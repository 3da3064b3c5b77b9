"""Episodes at their own pace, for samplers that answer each prompt by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from paw_lightning.rollouts.episodes import EpisodeError, FirstLook, Player, Seat
from paw_lightning.rollouts.layouts import Context
from paw_lightning.rollouts.relay import Relay
from paw_lightning.rollouts.timing import timed
from paw_lightning.rollouts.turns import Turn
from paw_lightning.samplers.base import Generation, Sampler
from paw_lightning.types import RolloutGroup

MOST_STEPS = 256
"""Environments that reset or step at a time."""


@dataclass
class Play:
    """What all turns of one call of `Collector.play` share."""

    groups: list[RolloutGroup]
    sampler: Sampler
    temperature: float
    seed: Sequence[int | str]
    failed: dict[int, str]
    """Group -> why it is lost."""
    seconds: dict[str, float]


class Table(Protocol):
    """What is done with one seat, its player and its turns; the Collector does it."""

    max_steps: int
    max_action_tokens: int
    counterfactuals: bool

    def open(self, seat: Seat, seed: Sequence[int | str]) -> EpisodeError | None: ...
    def reset(self, seat: Seat, seed: Sequence[int | str]) -> FirstLook | EpisodeError: ...
    def seat(self, seat: Seat, group: RolloutGroup, observation: str, info: dict[str, Any]) -> Player: ...
    def context(self, p: Player) -> Context | None: ...
    def read(self, p: Player, context: Context, generation: Generation) -> Turn: ...
    def noise(self, p: Player, seed: Sequence[int | str]) -> Tensor: ...
    def encode(self, text: str) -> list[int]: ...
    def fail(self, seat: Seat, error: EpisodeError, failed: dict[int, str]) -> None: ...


class Apart:
    """Plays every episode on as soon as its own answer is there; environments step beside generation.

    Answers and environments are waited for in threads. All else happens in the thread of :meth:`run`, as in lock step:
    with a sampler whose answer depends on the prompt and its random numbers alone, the episodes are the same.
    """

    def __init__(self, table: Table, play: Play, tell: Callable[[], None]) -> None:
        self.table, self.play, self.tell = table, play, tell

    def run(self, seats: Sequence[Seat]) -> None:
        """Play all seats' episodes to their ends."""
        threads = {"generation": self.play.sampler.connections, "environment": min(max(1, len(seats)), MOST_STEPS)}
        self.relay = Relay(threads, self.play.seconds)
        for seat in seats:
            self._open(seat)
        self.relay.run()

    # One episode: open, begin, then ask, act, record, turn by turn

    def _open(self, seat: Seat) -> None:
        if error := self.table.open(seat, self.play.seed):
            self._fail(seat, error)
        else:
            self.relay.submit(
                "environment", partial(self.table.reset, seat, self.play.seed), partial(self._begin, seat)
            )

    def _begin(self, seat: Seat, came: FirstLook | EpisodeError) -> None:
        if isinstance(came, EpisodeError):
            self._fail(seat, came)
        elif self._in_play(seat):
            with timed(self.play.seconds, "tokenization"):
                seat.player = self.table.seat(seat, self.play.groups[seat.group], *came)
            self._ask(seat, seat.player)

    def _ask(self, seat: Seat, p: Player) -> None:
        with timed(self.play.seconds, "tokenization"):
            context = self.table.context(p)
        if context is None:
            self._go_on(seat, p)
            return
        self.play.sampler.prepare(context.ids)
        ask = partial(
            self.play.sampler.ask,
            context.ids,
            temperature=self.play.temperature,
            max_new_tokens=self.table.max_action_tokens,
            uniforms=self.table.noise(p, self.play.seed),
        )
        self.relay.submit("generation", ask, partial(self._act, seat, p, context))

    def _act(self, seat: Seat, p: Player, context: Context, answer: Generation) -> None:
        if self._in_play(seat):
            with timed(self.play.seconds, "tokenization"):
                turn = self.table.read(p, context, answer)
            otherwise = self.play.seed if self.table.counterfactuals else None
            self.relay.submit("environment", partial(turn.play, otherwise), partial(self._record, seat, p, turn))

    def _record(self, seat: Seat, p: Player, turn: Turn, _: None) -> None:
        with timed(self.play.seconds, "tokenization"):
            turn.record(self.table.encode, self.table.max_steps)
        self._go_on(seat, p)

    def _go_on(self, seat: Seat, p: Player) -> None:
        if p.failure is not None:
            self._fail(seat, p.failure)
        elif not p.done and self._in_play(seat):
            self._ask(seat, p)
        self.tell()

    def _fail(self, seat: Seat, error: EpisodeError) -> None:
        self.table.fail(seat, error, self.play.failed)
        if self._in_play(seat):
            self._open(seat)

    def _in_play(self, seat: Seat) -> bool:
        return seat.group not in self.play.failed
