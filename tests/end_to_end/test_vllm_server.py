"""The vLLM sampler against a real server: `make test-vllm`, on CPUs, in about 10 minutes."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from paw_lightning.errors import SamplerFailedError, SettingsError
from paw_lightning.models.lora import LoRA, add_adapters
from paw_lightning.samplers import vllm, weight_transfer
from paw_lightning.samplers.server import Server
from paw_lightning.samplers.vllm import VLLMSampler
from tests.conftest import ROOT
from tests.helpers import runs
from tests.helpers.vllm_server import RealServer, save_model

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

PROMPTS = [list(range(20, 60)), list(range(30, 80)), list(range(20, 60))]
UNIFORMS = torch.rand(3, 12, generator=torch.Generator().manual_seed(0))
CLOSE = 1e-5
"""Nats: what float32 leaves between two arithmetics."""


@contextmanager
def serving(model: str, folder: Path, *flags: str, developer: bool = True) -> Iterator[RealServer]:
    if "VLLM_SERVER" not in os.environ:
        pytest.skip("NO VLLM: `make test-vllm` builds it and names it in VLLM_SERVER")
    server = RealServer(os.environ["VLLM_SERVER"], model, folder / "server.log", *flags, developer=developer)
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def server(directory: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    transfer = ("--weight-transfer-config", '{"backend": "ipc"}')
    with serving(directory, tmp_path_factory.mktemp("server"), *transfer) as running:
        yield running


def move(parameters: Any, seed: int) -> None:
    with torch.no_grad():
        for p in parameters:
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)) * 0.05)


def sample(sampler: VLLMSampler, temperature: float = 0.7) -> list:
    return sampler.generate(PROMPTS, temperature=temperature, max_new_tokens=12, uniforms=UNIFORMS)


def gap(model: Any, actions: list, temperature: float = 0.7) -> float:
    """Mean difference of the server's log-probs from the trainer's, nats."""
    gaps = []
    for prompt, action in zip(PROMPTS, actions, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + action.token_ids])).logits[0, len(prompt) - 1 : -1] / temperature
        own = torch.log_softmax(logits, -1).gather(1, torch.tensor(action.token_ids)[:, None])[:, 0]
        gaps.append((own - torch.tensor(action.logprobs)).abs())
    return torch.cat(gaps).mean().item()


def test_three_syncs(server: RealServer, directory: str, tmp_path: Path) -> None:
    """After each the server plays with the new weights, whatever its prefix cache held; equal prompts differ."""
    model = AutoModelForCausalLM.from_pretrained(directory)
    sampler = VLLMSampler(model, [1], 0, urls=[server.url], weights=str(tmp_path / "weights"))
    before: list = []
    for number in range(3):
        move(model.parameters(), number)
        sampler.update_weights()
        actions = sample(sampler)
        assert gap(model, actions) < CLOSE
        if before:
            assert gap(model, before) > 100 * CLOSE, "the weights have moved, and the server with them"
        assert actions == sample(sampler) and actions[0].token_ids != actions[2].token_ids
        sampler.release()
        before = actions
    assert sampler.context_length == 2048


def test_states_around_a_sync(
    server: RealServer, directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On CPUs a server keeps its memory, and what it says of itself and waits for is as on a card."""
    model = AutoModelForCausalLM.from_pretrained(directory)
    settings = {"urls": [server.url], "weights": str(tmp_path / "weights"), "sleep": True}
    with pytest.raises(SettingsError, match="without --enable-sleep-mode"):
        VLLMSampler(model, [1], 0, **settings).update_weights()
    monkeypatch.setattr(vllm, "check_flags", lambda *_: None)
    sampler = VLLMSampler(model, [1], 0, **settings)
    for number in range(2):
        move(model.parameters(), number)
        sampler.update_weights()
        assert gap(model, sample(sampler)) < CLOSE
        sampler.release()
        assert Server(server.url, 60).get("/is_sleeping") == {"is_sleeping": True}
    sampler = VLLMSampler(model, [1], 0, **{**settings, "sleep": False})  # of the next run
    sampler.update_weights()
    assert gap(model, sample(sampler)) < CLOSE


def test_requests_of_a_transfer(
    server: RealServer, directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads all that it is told, and fails where CUDA would have to map the trainer's memory; then it goes on."""
    model = AutoModelForCausalLM.from_pretrained(directory)
    settings = {"urls": [server.url], "weights": str(tmp_path / "weights")}
    monkeypatch.setattr(vllm, "check_cuda", lambda transfer: None)
    monkeypatch.setattr(weight_transfer, "_card", lambda tensor: "GPU-0")
    monkeypatch.setattr(weight_transfer, "reduce_tensor", lambda tensor: (None, (1, 2, 3)))
    for _ in range(2):  # the second time an update is under way, as after a kill
        with pytest.raises(SamplerFailedError, match=r"did not take the weights: .*not compiled with CUDA"):
            VLLMSampler(model, [1], 0, **settings, transfer="ipc").update_weights()
        Server(server.url, 60).post_once("/start_weight_update", {})
    Server(server.url, 60).post_once("/finish_weight_update", {})
    with pytest.raises(SettingsError, match=r"without --weight-transfer-config .*nccl"):
        VLLMSampler(model, [1], 0, **settings, transfer="nccl").update_weights()
    move(model.parameters(), 3)
    sampler = VLLMSampler(model, [1], 0, **settings)
    sampler.update_weights()
    assert gap(model, sample(sampler)) < CLOSE


def test_the_stop_token_is_the_last(server: RealServer, directory: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(directory)
    stops = list(range(0, len(model.lm_head.weight), 3))
    sampler = VLLMSampler(model, stops, 0, urls=[server.url], weights=str(tmp_path / "weights"))
    sampler.update_weights()
    actions = sample(sampler, temperature=2.0)
    assert any(action.stopped for action in actions)
    for action in actions:
        assert (action.token_ids[-1] in stops) == action.stopped
        assert not {*action.token_ids[:-1]} & {*stops}


def test_a_run_and_one_that_is_cut_off(server: RealServer, directory: str, tmp_path: Path) -> None:
    """Three iterations from the command line; killed with the server in the second, it goes on from its checkpoint."""
    folders = [tmp_path / name for name in ("whole", "cut")]
    whole = fit(folders[0], directory, server)
    curves = runs.curves(whole)
    assert len(curves["rollout/sampler_gap"]) == 3
    assert max(curves["rollout/sampler_gap"].values()) < CLOSE
    fit(folders[1], directory, server, trainer__max_epochs=1)
    server.kill()
    with pytest.raises((SamplerFailedError, ConnectionError), match=r"no vLLM server at|went away"):
        fit(folders[1], directory, server, ckpt_path=checkpoint(folders[1]))
    server.start()
    again = fit(folders[1], directory, server, ckpt_path=checkpoint(folders[1]))
    resumed = runs.curves(again)
    assert [*resumed["rollout/sampler_gap"]] == [*curves["rollout/sampler_gap"]], "each iteration once"
    assert max(resumed["rollout/sampler_gap"].values()) < CLOSE
    for tag in ("rollout/action_entropy", "train/grad_norm"):  # equal but for rounding, which may turn an action
        assert list(resumed[tag].values()) == pytest.approx(list(curves[tag].values()), rel=0.2)


def test_a_restart_is_noticed(server: RealServer, directory: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(directory)
    move(model.parameters(), 7)
    sampler = VLLMSampler(model, [1], 0, urls=[server.url], weights=str(tmp_path / "weights"))
    sampler.update_weights()
    sample(sampler)
    server.kill()
    server.start()
    sample(sampler)
    with pytest.raises(SamplerFailedError, match="has the weights 'default'"):
        sampler.release()


def test_adapters_alone(directory: str, tmp_path: Path) -> None:
    """Three syncs of megabytes, without developer mode."""
    model = AutoModelForCausalLM.from_pretrained(directory)
    add_adapters(model, LoRA(rank=4))
    adapters = [p for name, p in model.named_parameters() if "lora_" in name]
    with serving(directory, tmp_path, "--enable-lora", "--max-lora-rank", "8", developer=False) as server:
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{server.url}/weight_info")
        sampler = VLLMSampler(model, [1], 0, urls=[server.url], weights=str(tmp_path / "weights"))
        for number in range(3):
            move(adapters, number)
            sampler.update_weights()
            assert gap(model, sample(sampler)) < CLOSE
            sampler.release()


def fit(folder: Path, model: str, server: RealServer, **settings: Any) -> Any:
    return runs.fit(
        folder,
        model,
        (ROOT / "configs" / "household" / "grpo.yaml",),
        **{
            "trainer__accelerator": "cpu",
            "trainer__max_epochs": 3,
            "trainer__limit_val_batches": 0,
            "trainer__num_sanity_val_steps": 0,
            "trainer__accumulate_grad_batches": 2,
            "data__groups": 4,
            "data__group_size": 4,
            "data__minibatches": 2,
            "rollout__sampler": "paw_lightning.samplers.vllm.VLLMSampler",
            "rollout__sampler__urls": f"[{server.url}]",
            "rollout__sampler__weights": folder / "weights",
            **settings,
        },
    )


def checkpoint(folder: Path) -> Path:
    return next(folder.rglob("last.ckpt"))
