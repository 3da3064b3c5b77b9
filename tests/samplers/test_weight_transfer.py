"""Weights by a vLLM server's own interface: every request as vLLM 0.32 wants it, with stand-ins for what CUDA does."""

from __future__ import annotations

import base64
import pickle
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, Qwen3MoeConfig

from paw_lightning import ranks
from paw_lightning.errors import SamplerFailedError, SettingsError
from paw_lightning.samplers import weight_transfer
from paw_lightning.samplers.weight_transfer import CudaIPC, checkpoint_tensors, described
from tests.helpers.fake_nccl import FakeNCCL
from tests.helpers.fake_vllm import FakeVLLM, serving
from tests.helpers.served import SYNC, gap, make, make_synced, move, sample

UPDATE = ["/start_weight_update", "/update_weights", "/finish_weight_update"]


def around(update: list[str]) -> list[str]:
    """A sync whose weights come by these requests."""
    return [*SYNC[:2], *update, *SYNC[3:]]


pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.fixture
def model(moved_model: Any) -> Any:
    return moved_model


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handle holds the tensor itself, and NCCL is a queue."""
    monkeypatch.setattr(weight_transfer, "check_cuda", lambda transfer: None)
    monkeypatch.setattr("paw_lightning.samplers.vllm.check_cuda", lambda transfer: None)
    monkeypatch.setattr(weight_transfer, "_card", lambda tensor: "GPU-of-this-server")
    monkeypatch.setattr(weight_transfer, "reduce_tensor", lambda tensor: (None, (tensor.clone(),)))
    monkeypatch.setattr(weight_transfer, "nccl", FakeNCCL)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


# Names and shapes


def test_tensors_are_those_of_the_checkpoint(tiny_model_dir: str, tmp_path: Path) -> None:
    """A tied head once; experts one by one, as the file has them and the model in memory has not; what no file has."""
    sizes = dict(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2)
    experts = Qwen3MoeConfig(**sizes, head_dim=8, num_experts=4, moe_intermediate_size=8, num_experts_per_tok=2)
    models = [AutoModelForCausalLM.from_config(config) for config in (experts, GPT2Config(vocab_size=40, n_embd=12))]
    for number, model in enumerate([AutoModelForCausalLM.from_pretrained(tiny_model_dir), *models]):
        model._keys_to_ignore_on_save = ["model.norm.weight"]
        model.save_pretrained(tmp_path / str(number))
        written, tensors = load_file(tmp_path / str(number) / "model.safetensors"), checkpoint_tensors(model)
        assert {*tensors} == {*written}
        assert all(torch.equal(tensors[name], tensor) for name, tensor in written.items())
    assert "model.layers.1.mlp.experts.3.up_proj.weight" in checkpoint_tensors(models[0])


def test_what_a_server_is_told_of_tensors() -> None:
    tensors = {"a": torch.zeros(2, 3, dtype=torch.bfloat16), "b": torch.zeros(4)}
    told = {"names": ["a", "b"], "dtype_names": ["bfloat16", "float32"], "shapes": [[2, 3], [4]]}
    assert described(tensors) == told


# On one card


def test_the_server_reads_the_trainers_memory(cuda: None, model: Any, tiny_model_dir: str, tmp_path: Path) -> None:
    """The weights are proved as after any sync; no folder is written."""
    fake = FakeVLLM(tiny_model_dir, backend="ipc")
    with serving(fake) as url:
        sampler = make_synced(model, url, tmp_path, transfer="ipc")
        sync = around(["/init_weight_transfer_engine", *UPDATE])
        assert fake.paths == ["/v1/models", "/server_info?config_format=json", *sync]
        assert gap(model, sample(sampler)) < 1e-5
        assert sampler.transfer.tensors, "kept until the server has read them"
        sampler.release()
        assert not sampler.transfer.tensors
        move(model)
        sampler.update_weights()
        assert gap(model, sample(sampler)) < 1e-5
    assert not (tmp_path / "weights").exists()


def test_a_server_that_sleeps_reads_it_too(cuda: None, model: Any, tiny_model_dir: str, tmp_path: Path) -> None:
    fake = FakeVLLM(tiny_model_dir, backend="ipc", sleep_mode=True)
    with serving(fake) as url:
        sampler = make_synced(model, url, tmp_path, transfer="ipc", sleep=True)
        sampler.release()
        sampler.update_weights()
        assert gap(model, sample(sampler)) < 1e-5


def test_each_card_has_its_own_handles(cuda: None, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks: of each tensor both handles are told, and a worker takes its own card's."""
    transfer = CudaIPC(model)
    monkeypatch.setattr(ranks, "together", lambda work: [work(), [{"GPU-2": (i,)} for i in range(len(work()))]])
    transfer.prepare(1)
    handles = pickle.loads(base64.b64decode(transfer.update["ipc_handles_pickled"]))
    assert len(handles) == len(transfer.update["names"]) > 10
    assert all({*handle} == {"GPU-of-this-server", "GPU-2"} for handle in handles)
    assert [handle["GPU-2"] for handle in handles] == [(i,) for i in range(len(handles))]


# From card to card


def test_the_server_receives_while_the_trainer_sends(
    cuda: None, model: Any, tiny_model_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One group for all syncs; nothing is sent before the last step is over, nor left on its way."""
    fake, events, send = FakeVLLM(tiny_model_dir, backend="nccl"), [], FakeNCCL.broadcast
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: events.append(threading.current_thread().name))
    monkeypatch.setattr(FakeNCCL, "broadcast", lambda *args, **how: (events.append("sent"), send(*args, **how)))
    with serving(fake) as url:
        sampler = make_synced(model, url, tmp_path, transfer="nccl")
        sync = around(["/get_world_size", "/init_weight_transfer_engine", *UPDATE])
        assert fake.paths == ["/v1/models", "/server_info?config_format=json", *sync]
        assert [name == "MainThread" for name in events if name != "sent"] == [True, False, True, False]
        whole = ["sent"] * len(checkpoint_tensors(model))
        assert (events[1], events[4:-1]) == ("sent", whole), "a group's sum, then all tensors"
        assert gap(model, sample(sampler)) < 1e-5
        sampler.release()
        move(model)
        asked = len(fake.paths)
        sampler.update_weights()
        assert fake.paths[asked:] == around(UPDATE)
        assert gap(model, sample(sampler)) < 1e-5


def test_a_server_that_refuses_is_not_waited_for(cuda: None, model: Any, tiny_model_dir: str, tmp_path: Path) -> None:
    """NCCL waits for it in a thread; and it can go on with requests."""
    fake = FakeVLLM(tiny_model_dir, backend="nccl", fault="no group")
    with serving(fake) as url, pytest.raises(SamplerFailedError, match=r"did not take the weights: .*no NCCL"):
        make_synced(model, url, tmp_path, transfer="nccl")
    assert fake.paths[-1] == "/resume"


def test_nccl_itself_fails(
    cuda: None, model: Any, tiny_model_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def synchronize() -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("NCCL error: remote process exited")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    fake = FakeVLLM(tiny_model_dir, backend="nccl")
    said = r"NCCL did not reach the vLLM server at \S+: NCCL error: remote process exited; .*transfer: disk"
    with serving(fake) as url, pytest.raises(SamplerFailedError, match=said):
        make_synced(model, url, tmp_path, transfer="nccl")


# Failures


def test_a_server_that_cannot_reach_the_memory(cuda: None, model: Any, tiny_model_dir: str, tmp_path: Path) -> None:
    fake = FakeVLLM(tiny_model_dir, backend="ipc", fault="another card")
    with (
        serving(fake) as url,
        pytest.raises(SamplerFailedError, match=r"not found for GPU.*ipc on the same card"),
    ):
        make_synced(model, url, tmp_path, transfer="ipc")
    assert fake.paths.count("/update_weights") == 1 and fake.paths[-1] == "/resume"


def test_an_update_that_a_killed_run_began(cuda: None, model: Any, tiny_model_dir: str, tmp_path: Path) -> None:
    fake = FakeVLLM(tiny_model_dir, backend="ipc")
    with serving(fake) as url:
        sampler = make_synced(model, url, tmp_path, transfer="ipc")
        fake.received = checkpoint_tensors(model)
        asked = len(fake.paths)
        sampler.update_weights()
    begun = ["/start_weight_update", "/finish_weight_update"]
    assert fake.paths[asked:] == around(["/init_weight_transfer_engine", *begun, *UPDATE])


@pytest.mark.parametrize(
    ("transfer", "server", "message"),
    [
        ("ipc", {"backend": None}, r"""without --weight-transfer-config '{"backend": "ipc"}' \(rollout"""),
        ("nccl", {"backend": "ipc"}, r"""without --weight-transfer-config '{"backend": "nccl"}' \(rollout"""),
        ("ipc", {"backend": "ipc", "insecure": False}, r"without VLLM_ALLOW_INSECURE_SERIALIZATION=1 in its env"),
    ],
)
def test_servers_without_the_flags(
    transfer: Any, server: Any, message: str, cuda: None, model: Any, tiny_model_dir: str, tmp_path: Path
) -> None:
    with serving(FakeVLLM(tiny_model_dir, **server)) as url, pytest.raises(SettingsError, match=message):
        make_synced(model, url, tmp_path, transfer=transfer)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing")
def test_a_process_without_a_card(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for transfer in ("ipc", "nccl"):
        with pytest.raises(SettingsError, match=rf"transfer is '{transfer}', and this process has no CUDA.*or disk"):
            make(model, "http://127.0.0.1:9", tmp_path, transfer=transfer)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SettingsError, match=r"torch was built without NCCL; wanted ipc or disk"):
        make(model, "http://127.0.0.1:9", tmp_path, transfer="nccl")
    with pytest.raises(SettingsError, match=r"the model is on cpu; wanted trainer\.accelerator: gpu"):
        CudaIPC(model).prepare(1)
    with pytest.raises(SettingsError, match=r"rollout\.sampler\.transfer is 'rdma'; wanted disk, ipc or nccl"):
        make(model, "http://127.0.0.1:9", tmp_path, transfer="rdma")
