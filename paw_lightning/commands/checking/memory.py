"""Memory, by the arithmetic of ``paw-lightning estimate``."""

from __future__ import annotations

import os
from typing import Any

import torch

from paw_lightning.commands.checking.findings import Finding, ok, warning
from paw_lightning.commands.estimate import Lengths, estimate
from paw_lightning.commands.run_settings import RunSettings
from paw_lightning.commands.terminal import headline

GIB = 2**30
SHARE = 0.9
"""Of a device's memory that a run may plan with; the rest is the allocator's and the kernels'."""


def show_memory(settings: RunSettings) -> Finding:
    """Print the largest demands of a run on one device at its upper limits, and judge them by this machine's."""
    rollout = settings.rollout
    lengths = Lengths(
        rollout.max_steps, rollout.prompt.max_tokens, rollout.max_action_tokens, rollout.max_observation_tokens
    )
    try:
        figures = estimate(_sections_alone(settings.config), lengths)
    except SystemExit as error:
        return warning("memory", f"not estimated: {error}")
    update, rollout = (figures[f"peak of the {phase}"] / GIB for phase in ("update", "rollout"))
    have, device = device_memory(settings)
    headline(f"memory on one device, computed; this {device} has {have:.1f} GiB")
    print(f"  {figures['parameters'] / 1e6:,.1f} M parameters; a micro-batch is {figures['rows']:.0f} rows")
    print(f"  update {update:.2f} GiB, rollout {rollout:.2f} GiB, with all texts as long as the limits allow")
    peak = max(update, rollout)
    if peak > SHARE * have:
        text = f"up to {peak:.1f} GiB, and this {device} has {have:.1f}; raise trainer.accumulate_grad_batches, lower "
        return warning("memory", f"{text}rollout.prompt.max_tokens, or see `paw-lightning estimate`")
    return ok("memory", f"up to {peak:.2f} GiB of {have:.1f} on this {device}")


def device_memory(settings: RunSettings) -> tuple[float, str]:
    """GiB that the device of the run has, and what it is."""
    if settings.device.type == "cuda":
        return torch.cuda.get_device_properties(settings.device).total_memory / GIB, "GPU"
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, "machine"


def _sections_alone(config: dict[str, Any]) -> dict[str, Any]:
    """The settings without names that stand for themselves (`sampler: native`): the estimate looks into sections."""
    parts = {section: config[section] for section in ("trainer", "model", "data", "rollout")}
    named = ("sampler", "optimizer")
    return {
        section: {k: v for k, v in values.items() if not (k in named and isinstance(v, str))}
        for section, values in parts.items()
    }
