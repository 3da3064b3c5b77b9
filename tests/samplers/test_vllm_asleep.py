"""A vLLM server that sleeps during the update: the order of the requests, and no run that leaves one for dead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from paw_lightning.errors import SamplerFailedError, SettingsError
from paw_lightning.models.lora import LoRA, add_adapters, merged
from paw_lightning.samplers import vllm
from tests.helpers import runs
from tests.helpers.fake_vllm import FakeVLLM, serving
from tests.helpers.served import SYNC, gap, make_synced, move, sample

SLEEP = "/sleep?level=2&mode=wait"
WOKEN = [SYNC[0], "/wake_up?tags=weights", *SYNC[1:-1], "/wake_up?tags=kv_cache", SYNC[-1]]
"""Weights first; keys and values when the weights are there; requests last."""


pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.fixture
def model(moved_model: Any) -> Any:
    return moved_model


def test_the_card_is_the_trainers_between_two_rollouts(
    model: Any, tiny_model_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wakes empty, when the trainer has given back what it can, and plays with the new weights."""
    fake = FakeVLLM(tiny_model_dir, sleep_mode=True)
    given_back: list[int] = []
    monkeypatch.setattr(vllm, "_give_back_cached_memory", lambda: given_back.append(len(fake.paths)))
    with serving(fake) as url:
        sampler = make_synced(model, url, tmp_path, sleep=True)
        assert fake.paths == ["/v1/models", "/server_info?config_format=json", *SYNC]
        sample(sampler)
        sampler.release()
        assert fake.paths[8:] == ["/weight_info", "/weight_info", SLEEP] and fake.asleep == {"weights", "kv_cache"}
        sampler.release()
        assert fake.paths.count(SLEEP) == 1, "it sleeps already"
        move(model)
        asked = len(fake.paths)
        sampler.update_weights()
        assert fake.paths[asked:] == WOKEN and given_back[1:] == [asked]
        assert gap(model, sample(sampler)) < 1e-5
        sampler.release()
        assert fake.paths[-1] == SLEEP


def test_below_an_adapter_the_weights_are_kept(tiny_model_dir: str, tmp_path: Path) -> None:
    """The adapter alone is sent: level 2 would leave nothing below it."""
    fake, model = FakeVLLM(tiny_model_dir, sleep_mode=True), AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    add_adapters(model, LoRA(rank=2))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    with serving(fake) as url:
        sampler = make_synced(model, url, tmp_path, sleep=True)
        sample(sampler)
        sampler.release()
        assert fake.paths[-1] == "/sleep?level=1&mode=wait"
        asked = len(fake.paths)
        sampler.update_weights()
        woken = ["/is_sleeping", "/wake_up?tags=weights", "/v1/load_lora_adapter", "/wake_up?tags=kv_cache"]
        assert fake.paths[asked:] == woken
        assert gap(merged(model), sample(sampler)) < 1e-5


@pytest.mark.parametrize("parts", [{"weights", "kv_cache"}, {"kv_cache"}, set()])
def test_what_a_killed_run_has_left(parts: set[str], model: Any, tiny_model_dir: str, tmp_path: Path) -> None:
    """Asleep, half awake or paused: the next run plays, whether it lets servers sleep or not."""
    fake = FakeVLLM(tiny_model_dir, sleep_mode=True)
    fake.asleep, fake.paused = {*parts}, True
    with serving(fake) as url:
        assert gap(model, sample(make_synced(model, url, tmp_path))) < 1e-5


def test_a_failed_sync_leaves_no_server_asleep(model: Any, tiny_model_dir: str, tmp_path: Path) -> None:
    fake = FakeVLLM(tiny_model_dir, sleep_mode=True)
    with serving(fake) as url:
        sampler = make_synced(model, url, tmp_path, sleep=True)
        sampler.release()
        fake.fault = "cannot read"
        with pytest.raises(SamplerFailedError, match="could not read the weights"):
            sampler.update_weights()
    assert fake.paths[-2:] == WOKEN[-2:] and not (fake.asleep or fake.paused)


@pytest.mark.parametrize("part", ["weights", "kv_cache"])
def test_a_card_without_room(part: str, model: Any, tiny_model_dir: str, tmp_path: Path) -> None:
    """The server is not told to go on: a step without its memory would end it."""
    fake = FakeVLLM(tiny_model_dir, sleep_mode=True)
    with serving(fake) as url:
        sampler = make_synced(model, url, tmp_path, sleep=True)
        sampler.release()
        fake.fault = f"no room for {part}"
        said = rf"no room on its card for its {part}: .*out of memory.*--gpu-memory-utilization"
        with pytest.raises(SamplerFailedError, match=said):
            sampler.update_weights()
        assert fake.paths[-1] == f"/wake_up?tags={part}" and part in fake.asleep
        fake.fault = None
        sampler.update_weights()
        assert gap(model, sample(sampler)) < 1e-5


def test_a_server_without_the_flag(model: Any, tiny_model_dir: str, tmp_path: Path) -> None:
    """It would answer 200, and keep its memory."""
    fake = FakeVLLM(tiny_model_dir)
    with (
        serving(fake) as url,
        pytest.raises(SettingsError, match=r"without --enable-sleep-mode \(rollout\.sampler\.sl"),
    ):
        make_synced(model, url, tmp_path, sleep=True)
    closed = FakeVLLM(tiny_model_dir, sleep_mode=True, fault="no developer mode")
    with serving(closed) as url, pytest.raises(SamplerFailedError, match=r"know /server_info.*VLLM_SERVER_DEV_MODE=1"):
        make_synced(model, url, tmp_path, sleep=True)


def test_a_run_beside_a_server_on_its_card(tiny_model_dir: str, tmp_path: Path) -> None:
    """Two rollouts and a validation: asleep after each, and awake for what canaries ask."""
    fake = FakeVLLM(tiny_model_dir, sleep_mode=True)
    with serving(fake) as url:
        cli = runs.fit(
            tmp_path,
            tiny_model_dir,
            rollout__sampler="paw_lightning.samplers.vllm.VLLMSampler",
            rollout__sampler__urls=f"[{url}]",
            rollout__sampler__weights=tmp_path / "weights",
            rollout__sampler__sleep=True,
            rollout__max_steps=1,
            trainer__check_val_every_n_epoch=2,
        )
    assert max(runs.curves(cli)["rollout/sampler_gap"].values()) < 1e-5
    syncs = fake.paths.count("/collective_rpc")
    assert fake.paths.count(SLEEP) == syncs == 3 and fake.paths[-1] == SLEEP
    assert fake.paths.count("/wake_up?tags=kv_cache") == syncs - 1, "the first found it awake"


@pytest.mark.slow
def test_two_ranks_with_a_server_each(tiny_model_dir: str, tmp_path: Path) -> None:
    """No server is put to sleep while a rank plays, and each plays with the weights that rank 0 has sent."""
    fakes = [FakeVLLM(tiny_model_dir, sleep_mode=True) for _ in range(2)]
    with serving(fakes[0]) as first, serving(fakes[1]) as second:
        folder = runs.fit_ranks(
            tmp_path,
            tiny_model_dir,
            "lightning.pytorch.strategies.DDPStrategy",
            rollout__sampler="paw_lightning.samplers.vllm.VLLMSampler",
            rollout__sampler__urls=f"[{first}, {second}]",
            rollout__sampler__weights=tmp_path / "weights",
            rollout__sampler__sleep=True,
            rollout__max_steps=1,
            trainer__limit_val_batches=0,
        )
    assert max(runs.read_curves(folder)["rollout/sampler_gap"].values()) < 1e-5
    for fake in fakes:
        assert fake.paths.count("/collective_rpc") == fake.paths.count(SLEEP) == 2
        assert [payload for path, payload in fake.calls if path == "/v1/completions"], "each rank asks its own"
