"""One iteration put together: who plays what, what follows, and what waits for whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from paw_lightning.commands.estimating import costs
from paw_lightning.commands.estimating.costs import Reader, Trainer
from paw_lightning.commands.estimating.playing import Played, Worlds, at_their_own_pace, in_lock_step
from paw_lightning.commands.estimating.work import Work, dealt, episodes


@dataclass(frozen=True)
class Servers:
    """Those that play in the trainer's place."""

    count: int
    connections: int
    """Of each rank."""
    sent: float
    """Bytes of what a rank writes for them."""
    held: float
    """Bytes of a server's copy of the weights."""
    way: str = "disk"
    """How they get there (`rollout.sampler.transfer`)."""


@dataclass(frozen=True)
class Seconds:
    """Of one iteration. Playing is the mean of the ranks (servers); `idle` is what they wait for the slowest one."""

    reading: float
    writing: float
    environment: float
    idle: float
    scoring: float
    update: float
    sync: float
    """Weights to where they are played with, episodes to all ranks."""
    ahead: bool = False
    """The next rollout is played while this one is trained on."""
    rows_used: float = 1.0
    """Share of the rows of a writing step that still write."""

    @property
    def play(self) -> float:
        return self.reading + self.writing + self.environment + self.idle

    @property
    def train(self) -> float:
        return self.scoring + self.update

    @property
    def total(self) -> float:
        """Play, train, sync; or the longer of the first two, and sync."""
        return (max(self.play, self.train) if self.ahead else self.play + self.train) + self.sync

    @property
    def player_busy(self) -> float:
        """Share of the iteration in which the mean device that plays computes for that."""
        return (self.reading + self.writing) / self.total

    @property
    def trainer_busy(self) -> float:
        """Share of the iteration in which the trainer's devices score and update."""
        return self.train / self.total


@dataclass(frozen=True)
class Plan:
    """Everything that an iteration's time hangs on."""

    work: Work
    trainer: Trainer
    reader: Reader
    """The trainer's model without gradients; it scores, and plays where there are no servers."""
    worlds: Worlds
    room: float | None
    """Tokens that the cache of a rank, or of a server, holds; None: no limit is known."""
    servers: Servers | None = None
    server: Reader | None = None
    ahead: bool = False
    seed: int = 0
    on_cpu: bool = False
    reference: bool = False
    """A frozen reference policy scores too (`model.policy_loss.kl_coefficient`)."""


def play(plan: Plan) -> list[Played]:
    """What every rank, or every server, does in a rollout. Rank r asks server r modulo their number."""
    work = plan.work
    shares = dealt(episodes(work, plan.seed), plan.trainer.gpus)
    if plan.servers is None or plan.server is None:
        return [in_lock_step(share, work, plan.reader, plan.worlds, plan.room, plan.seed) for share in shares]
    count = plan.servers.count
    asked: list[list[list[int]]] = [[e for share in shares[number::count] for e in share] for number in range(count)]
    askers = [len(shares[number::count]) for number in range(count)]
    return [
        at_their_own_pace(
            share, work, plan.server, plan.worlds, plan.room, max(1, ranks) * plan.servers.connections, plan.seed
        )
        for share, ranks in zip(asked, askers, strict=True)
    ]


def seconds(plan: Plan) -> Seconds:
    """Play an iteration out, and add what follows."""
    played, work, gpus = play(plan), plan.work, plan.trainer.gpus
    servers = plan.servers
    sync = plan.trainer.gathering() + costs.exchange_of_episodes(work, gpus)
    if servers is not None:
        sync += costs.sending(plan.trainer.device, servers.sent, servers.held, servers.count, servers.way)
    return Seconds(
        reading=_mean(played, "reading"),
        writing=_mean(played, "writing"),
        environment=_mean(played, "environment"),
        idle=max(p.total for p in played) - mean(p.total for p in played),
        scoring=costs.scoring(work, plan.reader, gpus),
        update=plan.trainer.update(work),
        sync=sync,
        ahead=plan.ahead,
        rows_used=sum(p.tokens for p in played) / max(1.0, sum(p.places for p in played)),
    )


def _mean(played: Sequence[Played], name: str) -> float:
    return mean(getattr(p, name) for p in played)
