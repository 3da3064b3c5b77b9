"""NCCL between two threads of one process: the trainer's and the fake server's."""

from __future__ import annotations

from queue import Queue
from threading import Barrier
from typing import Any, ClassVar

import torch


class FakeNCCL:
    """What `torch.cuda.nccl` does of a group, between the trainer's thread and the server's: both sides wait.

    A group is the list of what has been sent; its own name is its key in GROUPS.
    """

    GROUPS: ClassVar[dict[bytes, FakeNCCL]] = {}

    def __init__(self) -> None:
        self.size, self.together = 0, Barrier(2)
        self.sent: Queue[torch.Tensor] = Queue()

    @classmethod
    def unique_id(cls) -> bytes:
        name = len(cls.GROUPS).to_bytes(128, "big")
        cls.GROUPS[name] = cls()
        return name

    @classmethod
    def init_rank(cls, size: int, name: bytes, rank: int) -> FakeNCCL:
        assert rank == 0
        group = cls.GROUPS[name]
        group.size = size
        group.together.wait(10)
        return group

    @staticmethod
    def broadcast(tensors: list[torch.Tensor], root: int = 0, comms: Any = None) -> None:
        assert root == 0 and len(tensors) == len(comms) == 1 and tensors[0].is_contiguous()
        comms[0].sent.put(tensors[0].clone())

    @classmethod
    def all_reduce(cls, tensors: list[torch.Tensor], comms: Any = None) -> None:
        cls.broadcast(tensors, 0, comms)

    def take(self, dtype: torch.dtype, shape: list[int]) -> torch.Tensor:
        tensor = self.sent.get(timeout=10)
        assert (tensor.dtype, list(tensor.shape)) == (dtype, shape), "else both sides wait for ever"
        return tensor
