"""The estimate as text."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import Namespace

from paw_lightning.commands.estimating.devices import Device
from paw_lightning.commands.estimating.iteration import Plan, Seconds
from paw_lightning.commands.estimating.reading import FREE
from paw_lightning.commands.memory import GIB, Memory

NAME, COLUMN = 20, 8
PHASES = {
    "reading": "reading prompts",
    "writing": "writing actions",
    "environment": "environments",
    "idle": "idle, for slowest",
    "scoring": "scoring",
    "update": "update",
    "sync": "sync",
    "total": "iteration, s",
}


def memory_lines(needed: Memory) -> list[str]:
    """Bytes on each device by purpose, and the two peaks."""
    purposes = {name.replace("_", " "): value for name, value in vars(needed).items()}
    purposes |= {"peak of the update": needed.update, "peak of the rollout": needed.rollout}
    return [f"  {name:{NAME}} {value / GIB:9.2f} GiB" for name, value in purposes.items()]


def verdict(needed: Memory, device: Device) -> str:
    """Whether it fits."""
    fits = "fits" if needed.peak <= (1 - FREE) * device.memory * GIB else "does NOT fit"
    return f"{needed.peak / GIB:.1f} GiB {fits} {device.memory:g} GiB (a tenth is left to the allocator and kernels)"


def figure(value: float) -> str:
    """Three digits, as many as are meant."""
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"


def _line(name: str, cells: Sequence[str]) -> str:
    return f"  {name:{NAME}}" + "".join(f"{cell:>{COLUMN}}" for cell in cells)


def table(plans: Sequence[Plan], found: Sequence[Seconds], peaks: Sequence[float]) -> list[str]:
    """A column for each number of devices: seconds by phase, tokens per second, and memory.

    `peaks` in GiB; one that does not fit is marked.
    """
    lines = [_line("GPUs that train", [str(plan.trainer.gpus) for plan in plans])]
    if plans[0].servers is not None:
        lines.append(_line("GPUs that serve", [str(_serving(plan)) for plan in plans]))
    lines += [_line(title, [figure(getattr(s, name)) for s in found]) for name, title in PHASES.items()]
    pairs = list(zip(plans, found, strict=True))
    trained = [p.work.rows * p.work.trained_row / s.total for p, s in pairs]
    lines.append(_line("trained tokens/s", [figure(value) for value in trained]))
    lines.append(_line("written tokens/s", [figure(p.work.generated / s.total) for p, s in pairs]))
    lines.append(_line("players compute, %", [f"{100 * s.player_busy:.0f}" for s in found]))
    lines.append(_line("trainer computes, %", [f"{100 * s.trainer_busy:.0f}" for s in found]))
    memory = plans[0].trainer.device.memory
    marks = ["!" if peak > (1 - FREE) * memory else "" for peak in peaks]
    lines.append(_line("memory, GiB", [mark + figure(peak) for peak, mark in zip(peaks, marks, strict=True)]))
    if any(marks):
        lines.append(f"! does NOT fit {memory:g} GiB (a tenth is left to the allocator and kernels)")
    return lines


def _serving(plan: Plan) -> int:
    assert plan.servers is not None and plan.server is not None
    return plan.servers.count * plan.server.gpus


def assumptions(name: str, plan: Plan, used: float) -> list[str]:
    """What the seconds stand on, each with the flag that changes it; `used` is :attr:`Seconds.rows_used`."""
    d, work, worlds = plan.trainer.device, plan.work, plan.worlds
    together = ", a turn's side by side (--env_together)" if worlds.side_by_side else ""
    return [
        f"{name}: --tflops {d.tflops:g}, --tflops_fp32 {d.tflops_fp32:g}, --bandwidth {d.bandwidth:g} GB/s, --memory "
        f"{d.memory:g} GiB, --link {d.link:g} GB/s, --node_link {d.node_link:g} GB/s from one machine of --per_node "
        f"{d.per_node} to the next, --pcie {d.pcie:g} GB/s, --disk {d.disk:g} GB/s",
        f"reached of that (assumed): --train_share {d.train_share:g}, --read_share {d.read_share:g}, "
        f"--bandwidth_share {d.bandwidth_share:g}, --link_share {d.link_share:g}; a layer's call takes at least "
        f"--call_us {d.call_us:g}, in a server --server_call_us {d.server_call_us:g}",
        f"lengths, mean (limit): --turns {work.turns:g} ({work.most_turns}), --action {work.action:g} "
        f"({work.most_action}), --prompt {work.prompt:g}, --observation {work.observation:g}; --padding "
        f"{work.padding:g}; --env_seconds {worlds.seconds:g} a step{together}; {used:.0%} of the rows of a writing "
        f"step still write, drawn with --seed {plan.seed}",
    ]


def uncounted(config: Namespace) -> list[str]:
    """What a run's settings may add to the figures, as nobody knows beforehand how often."""
    rounds = config.data.dynamic_sampling
    if not rounds:
        return []
    teach = ", and trains on as many (data.left_out_teach): memory and update too" if config.data.left_out_teach else ""
    return [
        f"without groups that are played anew: data.dynamic_sampling {rounds} plays up to {rounds + 1} times as many"
        f"{teach}"
    ]
