"""The ways of weights to a vLLM server: a folder, memory that both processes map, NCCL; of LoRA the adapter alone.

The requests are those of vLLM 0.32. `CudaIPC` and `NCCL` are not yet run on hardware: their tests check every request,
and stand in for what CUDA does.
"""

from __future__ import annotations

import base64
import contextlib
import os
import pickle
import shutil
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.cuda import nccl
from torch.multiprocessing.reductions import reduce_tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from paw_lightning import ranks
from paw_lightning.errors import SamplerFailedError, SettingsError
from paw_lightning.models.lora import save_adapter
from paw_lightning.samplers.server import RefusedRequestError, Server
from paw_lightning.whole_files import writing

T = TypeVar("T")


class Transfer(ABC):
    """One way; the server is awake, and where all weights are sent paused, while `send` is called."""

    @abstractmethod
    def prepare(self, number: int) -> None:
        """Have the weights ready for sync `number`; called on every rank, before any server is asked."""

    @abstractmethod
    def send(self, server: Server) -> None:
        """Let a server take them; called on rank 0."""

    def finish(self) -> None:  # noqa: B027 - most keep nothing
        """A rollout is over: let go of what was kept for the servers; called on every rank."""


# Through a folder


class RunFolder:
    """A run's own folder: of each sync a folder in it, readable by servers of other users; nothing once it is over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.latest = path
        if ranks.world()[0] == 0:
            weakref.finalize(self, _clear, path)

    def write(self, number: int, save: Callable[[Path], object]) -> None:
        """Write a sync's files and take those of the one before away; rank 0 does it."""
        folder = self.path / str(number)
        if ranks.world()[0] == 0:
            with writing(folder, folder):
                save(folder)
            _let_read(self.path, folder)
            shutil.rmtree(self.path / str(number - 1), ignore_errors=True)
        self.latest = folder


class Disk(Transfer):
    """The whole model, through a folder that both machines see."""

    def __init__(self, model: PreTrainedModel, folder: RunFolder) -> None:
        self.model, self.folder = model, folder

    def prepare(self, number: int) -> None:
        """Write the model once, for all servers."""
        self.folder.write(number, self.model.save_pretrained)

    def send(self, server: Server) -> None:
        """Let it read the folder in place of the weights it has."""
        load = {"method": "reload_weights", "kwargs": {"weights_path": str(self.folder.latest)}}
        try:
            server.post_once("/collective_rpc", load)
        except RefusedRequestError as error:
            if error.code == 404:
                raise
            raise SamplerFailedError(
                f"the vLLM server at {server.url} could not read the weights in {self.folder.latest}: {error}; wanted "
                "the same path there, readable, and the server started with the model that is trained "
                "(rollout.sampler.weights). It may hold no weights now: start it again if its next answers fail"
            ) from error


class Adapter(Transfer):
    """Of LoRA the adapter alone, through a folder; needs no developer mode.

    Args:
        base: the server's name of the model below it.
        name: its own on the servers.
    """

    def __init__(self, model: PreTrainedModel, folder: RunFolder, base: str, name: str) -> None:
        self.model, self.folder, self.base, self.name = model, folder, base, name

    def prepare(self, number: int) -> None:
        """Write the adapter once, for all servers."""
        self.folder.write(number, lambda folder: save_adapter(self.model, self.base, folder))

    def send(self, server: Server) -> None:
        """Let it read the adapter in place of the one of this name."""
        folder = str(self.folder.latest)
        try:
            server.tell("/v1/load_lora_adapter", {"lora_name": self.name, "lora_path": folder, "load_inplace": True})
        except RefusedRequestError as error:
            raise SamplerFailedError(
                f"the vLLM server at {server.url} did not take the adapter in {folder}: {error}; wanted the same path "
                "there, readable, and a server that was started with --enable-lora --max-lora-rank of at least "
                "model.lora.rank, and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment (rollout.sampler.weights)"
            ) from error


# Through the servers' own interface


class CudaIPC(Transfer):
    """A server on the trainer's own cards reads the very memory that the trainer has the weights in: no copy is sent.

    Each rank says where on its card the weights are; of all ranks' words a server's worker takes that of its own card.
    Not yet run on hardware.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.tensors: dict[str, Tensor] = {}
        """Kept until every server has read them."""
        self.update: dict[str, Any] = {}

    def prepare(self, number: int) -> None:
        """Ask CUDA for handles of all tensors; rank 0 gets those of all ranks."""
        parts = ranks.together(self._handles)
        if ranks.world()[0] == 0:
            handles = [
                {card: handle for part in row for card, handle in part.items()} for row in zip(*parts, strict=True)
            ]
            pickled = base64.b64encode(pickle.dumps(handles)).decode()
            self.update = described(self.tensors) | {"ipc_handles_pickled": pickled}

    def _handles(self) -> list[dict[str, tuple[Any, ...]]]:
        """Of each tensor: this rank's card -> what another process needs to map it."""
        self.tensors = checkpoint_tensors(self.model)
        return [{_card(tensor): reduce_tensor(tensor)[1]} for tensor in self.tensors.values()]

    def send(self, server: Server) -> None:
        """Let its workers map them, and copy what they find."""
        with _words_for_failures(server):
            server.post_once("/init_weight_transfer_engine", {"init_info": {"packed": False}})
            _start_update(server)
            server.post_once("/update_weights", {"update_info": self.update})
            server.post_once("/finish_weight_update", {})

    def finish(self) -> None:
        """Let go of the tensors, and of what the servers have done with."""
        self.tensors, self.update = {}, {}
        if torch.cuda.is_available():
            torch.cuda.ipc_collect()


class NCCL(Transfer):
    """From rank 0's card to those of the servers, one tensor at a time: each server makes a group with rank 0.

    vLLM is told the group's id itself: through a rendezvous it would send an object of a class of its own. The versions
    of NCCL on both sides have to be those that talk to each other. Not yet run on hardware.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.tensors: dict[str, Tensor] = {}
        self.groups: dict[str, Any] = {}
        """Server's address -> communicator."""

    def prepare(self, number: int) -> None:
        """Have the tensors in one piece each, on rank 0."""
        if ranks.world()[0] == 0:
            self.tensors = {name: t.contiguous() for name, t in checkpoint_tensors(self.model).items()}
            for tensor in self.tensors.values():
                _card(tensor)

    def send(self, server: Server) -> None:
        """Send them while the server receives; a group is made the first time."""
        with _words_for_failures(server):
            if server.url not in self.groups:
                self.groups[server.url] = self._meet(server)
            _start_update(server)
            told = {"update_info": described(self.tensors)}
            self._beside(server, ("/update_weights", told), partial(self._broadcast, self.groups[server.url]))
            server.post_once("/finish_weight_update", {})

    def finish(self) -> None:
        """Let go of the tensors."""
        self.tensors = {}

    def _meet(self, server: Server) -> Any:
        """A group of rank 0 and a server's workers, which come behind it."""
        size, name = 1 + server.get("/get_world_size")["world_size"], nccl.unique_id()
        told = {"nccl_unique_id_b64": base64.b64encode(name).decode(), "rank_offset": 1, "world_size": size}

        def enter() -> Any:
            group = nccl.init_rank(size, name, 0)
            nccl.all_reduce([torch.zeros(1, device=self.model.device)], comms=[group])  # vLLM tries it by this sum
            torch.cuda.synchronize()
            return group

        return self._beside(server, ("/init_weight_transfer_engine", {"init_info": told}), enter)

    def _broadcast(self, group: Any) -> None:
        for tensor in self.tensors.values():
            nccl.broadcast([tensor], root=0, comms=[group])
        torch.cuda.synchronize()

    def _beside(self, server: Server, request: tuple[str, dict[str, Any]], collective: Callable[[], T]) -> T:
        """Do both at once: NCCL waits for the server in a thread that nobody has to wait for if the server refuses."""
        outcome: Future[T] = Future()

        def work() -> None:
            try:
                with torch.cuda.device(self.model.device):
                    outcome.set_result(collective())
            except BaseException as error:
                outcome.set_exception(error)

        torch.cuda.synchronize()  # the last step's weights are there
        Thread(target=work, daemon=True).start()
        server.post_once(*request)
        try:
            return outcome.result(timeout=server.timeout)
        except (TimeoutError, RuntimeError) as error:
            raise SamplerFailedError(
                f"NCCL did not reach the vLLM server at {server.url}: {str(error) or 'it waits'}; wanted another "
                "card there, the same NCCL, and a network between them (NCCL_DEBUG=INFO says more), or "
                "rollout.sampler.transfer: disk"
            ) from error


def checkpoint_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """Name -> tensor, both as `save_pretrained` would write them: what is tied once, in the checkpoint's own pieces."""
    left_out = model._keys_to_ignore_on_save or ()
    once: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name not in left_out:
            once.setdefault(id(tensor), (name, tensor.detach()))
    return revert_weight_conversion(model, dict(once.values()))


def described(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a server has to know of tensors before it gets them.

    Example: ``{"names": ["lm_head.weight"], "dtype_names": ["bfloat16"], "shapes": [[32000, 576]]}``.
    """
    return {
        "names": list(tensors),
        "dtype_names": [str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()],
        "shapes": [list(tensor.shape) for tensor in tensors.values()],
    }


def check_cuda(transfer: str) -> None:
    """Raise SettingsError where this process has no card to send from, or torch no NCCL."""
    if transfer not in ("disk", "ipc", "nccl"):
        raise SettingsError(f"rollout.sampler.transfer is {transfer!r}; wanted disk, ipc or nccl")
    if transfer != "disk" and not torch.cuda.is_available():
        raise SettingsError(
            f"rollout.sampler.transfer is {transfer!r}, and this process has no CUDA device; wanted one, or disk"
        )
    if transfer == "nccl" and not hasattr(torch._C, "_nccl_init_rank"):
        raise SettingsError("rollout.sampler.transfer is 'nccl', and torch was built without NCCL; wanted ipc or disk")


def _card(tensor: Tensor) -> str:
    """The name that a card has in every process."""
    if tensor.device.type != "cuda":
        raise SettingsError(
            f"rollout.sampler.transfer sends from a CUDA device, and the model is on {tensor.device}; wanted "
            "trainer.accelerator: gpu, or a transfer of disk"
        )
    return str(torch.cuda.get_device_properties(tensor.device).uuid)


def _start_update(server: Server) -> None:
    try:
        server.post_once("/start_weight_update", {})
    except RefusedRequestError as error:
        if "already active" not in str(error):
            raise
        server.post_once("/finish_weight_update", {})  # a run was killed before it could
        server.post_once("/start_weight_update", {})


@contextlib.contextmanager
def _words_for_failures(server: Server) -> Iterator[None]:
    try:
        yield
    except RefusedRequestError as error:
        if error.code == 404:
            raise
        raise SamplerFailedError(
            f"the vLLM server at {server.url} did not take the weights: {error}; wanted it started with the model that "
            "is trained, where rollout.sampler.transfer can reach it: ipc on the same card, nccl on another. It may "
            "hold some of the new weights only: start it again if its next answers fail"
        ) from error


def _clear(folder: Path) -> None:
    """Take a run's folder away, and the one around it if no other run uses it."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


def _let_read(*folders: Path) -> None:
    """Servers may run under another user: files are written readable for their writer alone."""
    for folder in folders:
        os.chmod(folder, 0o755)
        for file in folder.iterdir():
            if file.is_file():
                os.chmod(file, 0o644)
