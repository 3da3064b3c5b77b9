"""Which phase of an iteration is the longest, and the key that moves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from paw_lightning.callbacks.run_cost import advice
from paw_lightning.commands.estimating.iteration import Plan, Seconds


@dataclass(frozen=True)
class Bottleneck:
    """The longest phase, its share of the iteration, and what would shorten it."""

    phase: str
    share: float
    advice: str


def bottleneck(plan: Plan, found: Seconds) -> Bottleneck:
    """The longest phase of an iteration.

    With `rollout.ahead` the shorter of playing and training costs nothing, so its phases do not count.
    """
    phases = {"sync": found.sync}
    if not found.ahead or found.play >= found.train:
        phases |= {
            "generation": found.reading + found.writing,
            "environment": found.environment,
            "idle": found.idle,
        }
    if not found.ahead or found.train > found.play:
        phases |= {"scoring": found.scoring, "update": found.update}
    longest = max(phases, key=lambda name: phases[name])
    return Bottleneck(longest, phases[longest] / found.total, _moves(longest, plan))


def sentences(numbers: Sequence[int], found: Sequence[Bottleneck]) -> list[str]:
    """A sentence for each number of devices; neighbours of whom the same is true share one."""
    told = []
    pairs = zip(numbers, found, strict=True)
    for (phase, advice_), group in groupby(pairs, key=lambda pair: (pair[1].phase, pair[1].advice)):
        same = list(group)
        shares = sorted({round(100 * each.share) for _, each in same})
        share = f"{shares[0]} %" if len(shares) == 1 else f"{shares[0]} to {shares[-1]} %"
        gpus = ", ".join(str(number) for number, _ in same)
        told.append(f"on {gpus}: {phase} takes {share} of the iteration; {advice_}")
    return told


def _moves(phase: str, plan: Plan) -> str:
    """The key that shortens a phase: of several ranks and of servers here, the rest as a run itself says it."""
    ranks, servers, work = plan.trainer.gpus, plan.servers, plan.work
    if phase == "idle":
        if ranks > work.groups and servers is None:
            return f"data.groups is {work.groups}, and ranks beyond that play nothing: more groups, or fewer ranks"
        return "ranks wait for the one with the longest episodes: more data.groups, smaller rollout.max_steps"
    if phase == "sync":
        if servers is None:
            return "weights are gathered and episodes exchanged: strategy/ddp where the model fits, or fewer ranks"
        if servers.way != "disk":
            return (
                "weights go to one server after the other: fewer rollout.sampler.urls, or model.lora.rank, which sends "
                "adapters alone"
            )
        return (
            "weights go through a file, one server after the other: rollout.sampler.weights in a folder in memory "
            "(/dev/shm) or on a faster disk, or model.lora.rank, which sends adapters alone"
        )
    if phase == "update" and plan.trainer.exchanging(work) > plan.trainer.computing(work):
        return (
            "links carry more than devices compute: fewer, larger micro-batches (trainer.accumulate_grad_batches), "
            "or strategy/ddp where the model fits"
        )
    if phase == "generation" and servers is not None:
        if servers.count < ranks:
            return "more rollout.sampler.urls: up to one server for each rank is asked"
        return "servers are as many as ranks: smaller rollout.max_action_tokens or rollout.max_steps"
    facts = {
        "padded": False,
        "cpu": plan.on_cpu,
        "full precision": plan.trainer.bits == 32,
        "reference": plan.reference,
        "grows": work.growing,
        "native": servers is None,
    }
    return advice(phase, facts)
