"""What a device can do, by its maker, and what share of that a run is assumed to reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from paw_lightning.callbacks.run_cost import PEAK_FLOPS
from paw_lightning.errors import SettingsError

TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True)
class Device:
    """One GPU, or one core of a processor. The first eight are its maker's, the rest is assumed.

    Speeds in 10^12 operations and 10^9 bytes per second, memory in GiB.
    """

    tflops: float
    """Dense bfloat16 operations."""
    tflops_fp32: float
    """float32 operations, without TF32."""
    bandwidth: float
    """Of its memory."""
    memory: float
    link: float
    """To the other devices of a machine, in one direction."""
    node_link: float
    """Of a whole machine to the next, in one direction."""
    per_node: int
    """Devices of one machine."""
    pcie: float
    """To main memory."""
    disk: float = 1.0
    """Of the folder that weights are sent through (choice)."""
    train_share: float = 0.3
    """Of the operations, reached by forward and backward passes (choice)."""
    read_share: float = 0.4
    """Of the operations, reached by forward passes over many tokens (choice)."""
    bandwidth_share: float = 0.7
    """Of the memory's bandwidth (choice)."""
    link_share: float = 0.7
    """Of the links (choice)."""
    call_us: float = 800.0
    """Microseconds that a layer takes at least when the trainer calls it from Python (choice)."""
    server_call_us: float = 50.0
    """The same in a server, which replays recorded calls (choice)."""

    def speed(self, bits: int) -> float:
        """Operations per second in this precision, before any share."""
        return TERA * (self.tflops if bits <= 16 else self.tflops_fp32)

    @property
    def memory_speed(self) -> float:
        """Bytes per second that are reached."""
        return GIGA * self.bandwidth * self.bandwidth_share

    def link_speed(self, gpus: int) -> float:
        """Bytes per second that a collective of so many devices reaches: the slowest link of its ring."""
        slowest = self.link if gpus <= self.per_node else min(self.link, self.node_link)
        return GIGA * slowest * self.link_share


def _bf16(name: str) -> float:
    return PEAK_FLOPS[name] / TERA


DEVICES = {
    # SXM boards: NVLink 900 and 600 GB/s in both directions together; machines with a 400 or 200 Gb/s card per GPU.
    "H100": Device(_bf16("H100"), 67.0, 3350.0, 80.0, 450.0, 400.0, 8, 64.0),
    "H200": Device(_bf16("H200"), 67.0, 4800.0, 141.0, 450.0, 400.0, 8, 64.0),
    "A100": Device(_bf16("A100"), 19.5, 2039.0, 80.0, 300.0, 200.0, 8, 32.0),
    # No NVLink: devices meet over PCIe 4.0; one 200 Gb/s (L40S) or 10 Gb/s (RTX 4090) card per machine is assumed.
    "L40S": Device(_bf16("L40S"), 91.6, 864.0, 48.0, 32.0, 25.0, 8, 32.0),
    "RTX 4090": Device(_bf16("RTX 4090"), 82.6, 1008.0, 24.0, 32.0, 1.25, 4, 32.0),
    # One core of the processor of docs/benchmarks.md, as measured there; bfloat16 is twice as fast with AVX512-BF16.
    "cpu": Device(
        0.22, 0.11, 10.0, 8.0, 5.0, 1.25, 2, 10.0, 0.3, 0.6, 0.6, 1.0, 1.0, call_us=250.0, server_call_us=250.0
    ),
}
"""Source: the makers' data sheets of the boards (H100 SXM, H200 SXM, A100 80GB SXM, L40S, GeForce RTX 4090)."""


def device(name: str, changes: Mapping[str, float | None]) -> Device:
    """The device of this name, with what is known better put in the place of its figures.

    Raises:
        SettingsError: there is no figure for that name.
    """
    if name not in DEVICES:
        raise SettingsError(
            f"--device is {name!r}; wanted one of {', '.join(DEVICES)}, or the nearest with --tflops, --bandwidth, "
            "--memory and --link of yours"
        )
    return replace(DEVICES[name], **{key: value for key, value in changes.items() if value is not None})  # type: ignore[arg-type]
