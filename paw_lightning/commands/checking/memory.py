"""Memory, by the arithmetic of ``paw-lightning estimate``."""

from __future__ import annotations

import os

import torch

from paw_lightning.commands.checking.findings import Finding, ok, warning
from paw_lightning.commands.memory import GIB, build, memory, parameters
from paw_lightning.commands.run_settings import RunSettings
from paw_lightning.commands.sizes import read_sizes
from paw_lightning.commands.terminal import headline
from paw_lightning.errors import SettingsError

SHARE = 0.9
"""Of a device's memory that a run may plan with; the rest is the allocator's and the kernels'."""


def show_memory(settings: RunSettings) -> Finding:
    """Print the largest demands of a run on one device at its upper limits, and judge them by this machine's."""
    have, device = device_memory(settings)
    try:
        sizes = read_sizes(settings.namespace)
        model = build(sizes)
        needed, counts = memory(model, sizes, have * GIB if device == "GPU" else None), parameters(model, sizes)
    except SettingsError as error:
        return warning("memory", f"not estimated: {error}")
    update, rollout = needed.update / GIB, needed.rollout / GIB
    headline(f"memory on one device, computed; this {device} has {have:.1f} GiB")
    print(f"  {counts.policy / 1e6:,.1f} M parameters; a micro-batch is {sizes.micro_batch} rows")
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
