"""Seconds of a pass over a model: the slower of its multiplications and of its bytes, and each call's own time."""

from __future__ import annotations

from dataclasses import dataclass

from paw_lightning.commands.estimating.devices import GIGA, Device
from paw_lightning.commands.estimating.shapes import Shape
from paw_lightning.commands.estimating.work import Work

RECORD_BYTES, RECORD_SPEED = 40, 1e8
"""Bytes of a token's record that ranks exchange, and how many of them are packed and unpacked in a second (choice)."""
DRAW_BYTES = 64
"""Bytes that the native sampler moves for each word of the vocabulary when it draws a token: log-softmax,
probabilities, their sums in double precision, the entropy (counted in `samplers/decoding.draw`)."""
HEAD_TRAINED, HEAD_FROZEN = 4, 3
"""Products of the log-prob kernel with the head's matrix: forward, its recomputation, and the gradients."""
TENSOR_PARALLEL_US = 15.0
"""Microseconds of one of the two sums over devices that a layer needs when it is split over several (choice)."""


def forward_operations(shape: Shape, tokens: float, seen: float, predicted: float) -> float:
    """Operations of a forward pass: 2 for each parameter and token, and 4 for each query number and token seen.

    Args:
        shape: of the model.
        tokens: that are read.
        seen: tokens that one of them sees, on average; half a row where rows are read from their start.
        predicted: tokens whose predictions are wanted.
    """
    weights = 2.0 * (shape.backbone * tokens + shape.head * predicted)
    return weights + 4.0 * shape.layers * shape.attention * seen * tokens


@dataclass(frozen=True)
class Reader:
    """A model that reads and writes without training, on one device or split over several."""

    device: Device
    shape: Shape
    element: int
    """Bytes of a number, in the weights and in the cache."""
    most: int
    """Tokens that one call reads."""
    server: bool = False
    gpus: int = 1
    """Devices that one copy of the model is split over."""

    @property
    def _call(self) -> float:
        """Least seconds of a call."""
        device = self.device
        alone = device.server_call_us if self.server else device.call_us
        return self.shape.layers * 1e-6 * (alone + 2 * TENSOR_PARALLEL_US * (self.gpus > 1))

    @property
    def weights_seconds(self) -> float:
        """Seconds to read all weights once."""
        return self.shape.read_in_a_step * self.element / (self.device.memory_speed * self.gpus)

    def _multiplying(self, operations: float) -> float:
        return operations / (self.device.speed(8 * self.element) * self.device.read_share * self.gpus)

    def read(self, tokens: float, seen: float, predicted: float) -> float:
        """Seconds to read so many tokens, each of which sees `seen` others."""
        if tokens <= 0:
            return 0.0
        calls = -(-tokens // self.most)
        multiplied = self._multiplying(forward_operations(self.shape, tokens, seen, predicted))
        return calls * self._call + max(multiplied, calls * self.weights_seconds)

    def join(self, tokens: float, seen: float) -> float:
        """Seconds that a running batch's next step takes longer when it reads a prompt beside (chunked prefill)."""
        return self._multiplying(forward_operations(self.shape, tokens, seen, 1))

    def write(self, rows: float, remembered: float) -> float:
        """Seconds of one step, in which each row gets a token and all `remembered` tokens' keys and values are read."""
        multiplied = self._multiplying(2.0 * rows * self.shape.read_in_a_step)
        cache = remembered * self.shape.remembered * self.element / (self.device.memory_speed * self.gpus)
        drawn = 0.0 if self.server else rows * self.shape.vocabulary * DRAW_BYTES / self.device.memory_speed
        return self._call + max(multiplied, self.weights_seconds) + cache + drawn


@dataclass(frozen=True)
class Trainer:
    """What the update of one rank hangs on, beside the work itself."""

    device: Device
    shape: Shape
    gpus: int
    sharded: bool
    bits: int
    """Of a number in forward and backward passes."""
    weights: float
    """Bytes of all weights."""
    gradients: float
    optimizer: float
    checkpointing: bool
    backbones: int = 1
    """2 where a critic has one of its own."""
    orthogonalizing: float = 0.0
    """Operations of Muon in one step; every rank does all of them."""

    def operations(self, work: Work, rows: float) -> float:
        """Of all passes over so many rows: forward 1, backward 2 (LoRA: 1), recomputed activations 1 more."""
        times = (2 if self.shape.adapters else 3) + self.checkpointing
        tokens, row = rows * work.trained_row / (1 - work.padding), work.trained_row
        backbone = self.backbones * times * forward_operations(self.shape, tokens, row / 2, 0)
        head = HEAD_FROZEN if self.shape.adapters else HEAD_TRAINED
        return backbone + head * 2.0 * self.shape.head * work.predicted * rows

    def computing(self, work: Work) -> float:
        """Seconds of forward and backward passes; a rank without rows left still reads one row per micro-batch."""
        rows = work.micro_batches * max(1.0, work.rows / (work.micro_batches * self.gpus))
        passes = 3 + self.checkpointing
        calls = work.micro_batches * passes * self.backbones * self.shape.layers * self.device.call_us * 1e-6
        reached = self.device.speed(self.bits) * self.device.train_share
        return calls + self.operations(work, rows) / reached

    def exchanging(self, work: Work) -> float:
        """Seconds on the links: gradients once an optimizer step, or, sharded, weights twice and gradients once a
        micro-batch (Lightning holds no gradients back there)."""
        if self.gpus == 1:
            return 0.0
        each = (self.gpus - 1) / self.gpus / self.device.link_speed(self.gpus)
        if not self.sharded:
            return work.optimizer_steps * 2 * self.gradients * each
        return work.micro_batches * (2 * self.weights + self.gradients) * each

    def optimizing(self, work: Work) -> float:
        """Seconds of the optimizer: weights and state read and written, gradients read, each rank its shard; and what
        Muon multiplies."""
        share = self.gpus if self.sharded else 1
        moved = 3 * self.gradients + 2 * self.optimizer  # the trained weights are as large as their gradients
        multiplied = self.orthogonalizing / (self.device.speed(16) * self.device.train_share)
        return work.optimizer_steps * (moved / share / self.device.memory_speed + multiplied)

    def update(self, work: Work) -> float:
        """Seconds; communication hides behind computing as far as it can (choice)."""
        return max(self.computing(work), self.exchanging(work)) + self.optimizing(work)

    def gathering(self) -> float:
        """Seconds to make the whole model on every rank, for a rollout."""
        if not self.sharded or self.gpus == 1:
            return 0.0
        return self.weights * (self.gpus - 1) / self.gpus / self.device.link_speed(self.gpus)


def scoring(work: Work, reader: Reader, gpus: int) -> float:
    """Seconds of the forward passes over the rollout; 0 where the sampler has told all."""
    rows = work.rows / gpus
    actions = work.action * (work.turns if work.growing else 1.0)
    tokens = rows * work.scored_row / (1 - work.padding)
    return work.passes * reader.read(tokens, work.scored_row / 2, rows * actions)


def exchange_of_episodes(work: Work, gpus: int) -> float:
    """Seconds in which every rank gets the other ranks' episodes as Python objects."""
    tokens = work.rows * work.trained_row
    return tokens * RECORD_BYTES / RECORD_SPEED if gpus > 1 else 0.0


def sending(device: Device, sent: float, held: float, servers: int, way: str = "disk") -> float:
    """Seconds until all servers have new weights, one server after the other.

    Through the folder they are written once, and read by each; by IPC each copies them within its card's memory; by
    NCCL they go over the link to each.

    Args:
        device: whose folder, PCIe, memory and link they go through.
        sent: bytes of the file, or of what goes over the link.
        held: bytes that a server copies into its device.
        servers: their number; 0 plays with the trained model itself.
        way: `rollout.sampler.transfer`.
    """
    if not servers:
        return 0.0
    if way == "ipc":
        return servers * (sent + held) / device.memory_speed
    if way == "nccl":
        return servers * sent / device.link_speed(2)
    disk = device.disk * GIGA
    return sent / disk + servers * (sent / disk + held / (device.pcie * GIGA))
