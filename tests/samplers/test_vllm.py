"""The vLLM sampler against a small server that answers as a real one was seen to."""

from __future__ import annotations

import gc
import math
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from paw_lightning.errors import SamplerFailedError, SettingsError
from paw_lightning.models.lora import LoRA, add_adapters, merged
from paw_lightning.rollouts.scoring import write_importance
from paw_lightning.samplers.vllm import VLLMSampler
from paw_lightning.update.collate import collate
from paw_lightning.update.rows import policy_rows
from tests.helpers import runs
from tests.helpers.factories import make_transition
from tests.helpers.fake_vllm import FakeVLLM, serving
from tests.helpers.served import SYNC, gap, make, make_synced, move, sample

pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.fixture
def model(moved_model: Any) -> Any:
    return moved_model


# Weights


def test_the_server_plays_with_the_trainers_weights(model: Any, tiny_model_dir: str, tmp_path: Path) -> None:
    fake = FakeVLLM(tiny_model_dir)
    with serving(fake) as url:
        sampler = make(model, url, tmp_path)
        sampler.update_weights()
        assert fake.paths == ["/v1/models", *SYNC]
        actions = sample(sampler)
        sampler.release()
    assert gap(model, actions) < 1e-5 < 0.1 < gap(AutoModelForCausalLM.from_pretrained(tiny_model_dir), actions)
    assert fake.paths[7:] == ["/weight_info", "/weight_info"], "before and after the rollout"
    requests = [payload for path, payload in fake.calls if path == "/v1/completions"]
    assert "prompt_logprobs" in requests[0] and len(requests) == 1 + 3, "proved once, then asked"
    assert len({payload["seed"] for payload in requests[1:]}) == 3, "equal prompts of a group are drawn independently"
    assert actions[0].token_ids != actions[2].token_ids


def test_every_sync_is_proved_and_has_keys_of_its_own(model: Any, tiny_model_dir: str, tmp_path: Path) -> None:
    """Another salt keeps the prefix caches of two syncs apart, whatever a server has kept."""
    fake = FakeVLLM(tiny_model_dir)
    with serving(fake) as url:
        sampler = make(model, url, tmp_path)
        for _ in range(2):
            sampler.update_weights()
            sample(sampler), sample(sampler)
            move(model)
    requests = [payload for path, payload in fake.calls if path == "/v1/completions"]
    assert [("prompt_logprobs" in payload) for payload in requests] == [True, *[False] * 6] * 2
    salts = [payload["cache_salt"] for payload in requests]
    assert salts == [salts[0]] * 7 + [salts[7]] * 7 and salts[0] != salts[7]
    assert fake.version == salts[7], "and it is the version that the server names"


def test_weights_that_do_not_arrive(model: Any, tiny_model_dir: str, tmp_path: Path) -> None:
    """As a server did that kept a packed copy of a tied head: it answers 200 and plays on with the old weights."""
    fake = FakeVLLM(tiny_model_dir, fault="keeps its weights")
    with serving(fake) as url:
        sampler = make(model, url, tmp_path)
        sampler.update_weights()
        with pytest.raises(SamplerFailedError, match=r"differs from the trainer by \S+ nats.*at most 0\.001.*--dtype"):
            sample(sampler)
        assert sampler.release() is None
        sample(make_synced(model, url, tmp_path, tolerance=100.0))


def test_an_adapter_is_sent_alone(tiny_model_dir: str, tmp_path: Path) -> None:
    """Needs no developer mode; the served base model stays as it is."""
    fake, model = (
        FakeVLLM(tiny_model_dir, fault="no developer mode"),
        AutoModelForCausalLM.from_pretrained(tiny_model_dir),
    )
    add_adapters(model, LoRA(rank=2))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    with serving(fake) as url:
        sampler = make_synced(model, url, tmp_path)
        actions = sample(sampler)
        sampler.release()
    assert gap(merged(model), actions) < 1e-5
    assert fake.paths == ["/v1/models", "/is_sleeping", "/v1/load_lora_adapter"]
    [name] = {payload["model"] for path, payload in fake.calls if path == "/v1/completions"}
    assert name == f"policy-{sampler.run}", "no other run's adapter takes its place"


def test_each_run_has_a_folder_of_its_own(model: Any, tiny_model_dir: str, tmp_path: Path) -> None:
    """Readable by servers of other users; of each run the latest weights, and nothing once it is over."""
    with serving(FakeVLLM(tiny_model_dir)) as url:
        first, second = (make_synced(model, url, tmp_path) for _ in range(2))
        first.update_weights()
        folders = sorted(path.relative_to(tmp_path / "weights") for path in (tmp_path / "weights").glob("*/*"))
        assert folders == sorted([Path(first.run, "2"), Path(second.run, "1")])
        files = list((tmp_path / "weights" / first.run / "2").iterdir())
        assert all(file.stat().st_mode & stat.S_IROTH for file in files)
        del first, second
        gc.collect()
    assert not (tmp_path / "weights").exists()


def test_keys_of_old_weights(model: Any, tiny_model_dir: str, tmp_path: Path) -> None:
    """A busy server keeps them, and says so with HTTP 200."""
    busy = FakeVLLM(tiny_model_dir, fault="busy")
    with serving(busy) as url:
        make_synced(model, url, tmp_path)
    assert busy.paths[4:6] == ["/reset_prefix_cache", "/reset_prefix_cache?reset_running_requests=true"]
    always = FakeVLLM(tiny_model_dir, fault="always busy")
    with serving(always) as url, pytest.raises(SamplerFailedError, match=r"keeps what it has computed.*no other run"):
        make_synced(model, url, tmp_path)
    assert always.paths[-1] == "/resume", "it is not left paused"


# Failures


def test_a_restarted_server_is_refused(model: Any, tiny_model_dir: str, tmp_path: Path) -> None:
    """It has the weights that it was started with: seen at the end of the rollout in which it happened."""
    fake = FakeVLLM(tiny_model_dir)
    with serving(fake) as url:
        sampler = make_synced(model, url, tmp_path)
        sample(sampler)
        fake.start()
        sample(sampler)
        with pytest.raises(SamplerFailedError, match=r"has the weights 'default' and was sent '\w+-1': it was started"):
            sampler.release()
        sampler.update_weights()
        sample(sampler)
        sampler.release()


def test_passing_failures_are_tried_again(model: Any, tiny_model_dir: str, tmp_path: Path) -> None:
    """Three tries; the same request again gives the same action. What is no passing failure is not repeated."""
    fake = FakeVLLM(tiny_model_dir)
    with serving(fake) as url:
        sampler = make_synced(model, url, tmp_path, connections=1)
        actions = sample(sampler)
        fake.failures["/v1/completions"] = [0, 503]
        assert sample(sampler) == actions
        fake.failures["/v1/completions"] = [500, 500, 500]
        with pytest.raises(SamplerFailedError, match=r"answered /v1/completions with 500: told to fail"):
            sample(sampler)
        fake.failures["/v1/completions"] = [400]
        with pytest.raises(SamplerFailedError, match="with 400"):
            sample(sampler)
        fake.failures["/v1/completions"] = [0, 0, 0]
        with pytest.raises(SamplerFailedError, match=r"at http://\S+ went away.*go on from the last checkpoint"):
            sample(sampler)


def test_a_server_that_hangs(model: Any, tiny_model_dir: str, tmp_path: Path) -> None:
    fake = FakeVLLM(tiny_model_dir)
    with serving(fake) as url:
        sampler = make_synced(model, url, tmp_path, timeout=0.3)
        with fake.lock, pytest.raises(SamplerFailedError, match=r"did not answer \S+ within 0\.3 s.*sampler\.timeout"):
            sample(sampler)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no developer mode", r"does not know /pause.*VLLM_SERVER_DEV_MODE=1"),
        ("cannot read", r"could not read the weights in \S+: .*Repo id.*the same path there, readable"),
        ("no JSON", r"answered /v1/models with what is no JSON.*rollout\.sampler\.urls"),
    ],
)
def test_servers_that_take_no_weights(
    fault: str, message: str, model: Any, tiny_model_dir: str, tmp_path: Path
) -> None:
    fake = FakeVLLM(tiny_model_dir, fault=fault)
    with serving(fake) as url, pytest.raises(SamplerFailedError, match=message):
        make_synced(model, url, tmp_path)
    assert fake.paths.count("/collective_rpc") <= 1, "a server that has emptied its model is not asked again"


def test_a_server_that_takes_no_adapters(tiny_model_dir: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    add_adapters(model, LoRA(rank=2))
    fake = FakeVLLM(tiny_model_dir, fault="no adapters")
    with serving(fake) as url, pytest.raises(SamplerFailedError, match=r"--enable-lora.*VLLM_ALLOW_RUNTIME_LORA"):
        make_synced(model, url, tmp_path)


@pytest.mark.parametrize("fault", ["drops the stop token", "aborts", "clips"])
def test_half_an_action_is_none(fault: str, model: Any, tiny_model_dir: str, tmp_path: Path) -> None:
    fake = FakeVLLM(tiny_model_dir, fault=fault)
    stops = list(range(0, 259, 2)) if fault == "drops the stop token" else [258]
    with serving(fake) as url, pytest.raises(SamplerFailedError, match=r"wanted .* whole action.*rollout\.sampler"):
        sample(make_synced(model, url, tmp_path, stops=stops))


def test_a_missing_server_is_named(model: Any, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match=r"no vLLM server at http://127\.0\.0\.1:9: .*rollout\.sampler"):
        make_synced(model, "http://127.0.0.1:9", tmp_path)


def test_settings_are_checked(model: Any) -> None:
    for name, value in (("urls", []), ("urls", ["gpu7"]), ("connections", 0), ("timeout", 0), ("tolerance", 0)):
        with pytest.raises(SettingsError, match=rf"rollout\.sampler\.{name} is .*; wanted"):
            VLLMSampler(model, [2], 0, **{name: value})


def test_sampling_settings_are_all_named(model: Any, tiny_model_dir: str, tmp_path: Path) -> None:
    """What a request leaves out, a server takes from the model's generation_config."""
    fake = FakeVLLM(tiny_model_dir)
    with serving(fake) as url:
        sample(make_synced(model, url, tmp_path))
    request = fake.calls[-1][1]
    neutral = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "temperature": 0.7}
    assert neutral.items() <= request.items()


# Runs


def fit(folder: Path, model: str, url: str, **settings: Any) -> Any:
    return runs.fit(
        folder,
        model,
        rollout__sampler="paw_lightning.samplers.vllm.VLLMSampler",
        rollout__sampler__urls=f"[{url}]",
        rollout__sampler__weights=folder / "weights",
        **settings,
    )


@pytest.mark.parametrize("lora", [0, 2])
def test_a_run_with_rollouts_from_a_server(lora: int, tiny_model_dir: str, tmp_path: Path) -> None:
    fake = FakeVLLM(tiny_model_dir)
    with serving(fake) as url:
        cli = fit(tmp_path, tiny_model_dir, url, model__lora__rank=lora)
    curves = runs.curves(cli)
    assert len(curves["rollout/sampler_gap"]) == 2
    assert max(curves["rollout/sampler_gap"].values()) < 1e-5, "refreshed before each rollout"
    assert min(curves["rollout/action_entropy"].values()) > 1, "scoring filled the entropies in"


def test_a_server_that_reads_less_than_the_run_needs(tiny_model_dir: str, tmp_path: Path) -> None:
    """Known before the first prompt is written: 500 + 6 tokens, the server reads 505."""
    fake = FakeVLLM(tiny_model_dir, longest=505)
    said = r"max_tokens 500 \+ rollout\.max_action_tokens 6 are more than the 505 tokens.*--max-model-len"
    with serving(fake) as url, pytest.raises(SettingsError, match=said):
        fit(tmp_path, tiny_model_dir, url, rollout__prompt__max_tokens=500)
    assert "/v1/completions" not in [path for path, _ in fake.calls]


def test_importance_is_truncated_and_scales_the_advantage() -> None:
    """p / q = 2 and 1/2; the first is cut at 1.5. Times the advantage of 4: 6 and 2."""
    t = make_transition(old_logprobs=torch.tensor([-1.0, -2.0]), advantage=4.0)
    t.sampled_logprobs = [-1.0 - math.log(2), -2.0 + math.log(2)]
    write_importance([t], cap=1.5)
    batch = collate(policy_rows([t]), on_policy=False)
    torch.testing.assert_close(batch.advantages, torch.tensor([6.0, 2.0]))
    t.token_advantages = torch.tensor([1.0, 2.0])  # PPO's
    batch = collate(policy_rows([t]), on_policy=False)
    torch.testing.assert_close(batch.advantages, torch.tensor([1.5, 1.0]))


def test_a_server_whose_arithmetic_differs(tiny_model_dir: str, tmp_path: Path) -> None:
    """It reports half of every probability: a gap of log 2, and with a cap the advantages of p / q = 2 are used."""
    trained = []
    for cap in (None, 3.0):
        fake = FakeVLLM(tiny_model_dir, fault="half the probability")
        with serving(fake) as url:
            cli = fit(
                tmp_path / str(cap),
                tiny_model_dir,
                url,
                rollout__importance_cap=cap,
                canaries__logprob_tolerance=1.0,  # they would stop the run
                rollout__environment__commands="true",
                rollout__inadmissible_action_penalty=0.5,  # so that every advantage is negative
                trainer__max_epochs=1,
                trainer__limit_val_batches=0,
            )
        assert list(runs.curves(cli)["rollout/sampler_gap"].values()) == pytest.approx([math.log(2)], abs=1e-4)
        trained.append(runs.weights(cli))
    assert any(not torch.equal(tensor, trained[1][name]) for name, tensor in trained[0].items())


def test_importance_needs_the_trainers_logprobs(tiny_model_dir: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rollout\.importance_cap is 2\.0.*old_logprobs is 'sampler'"):
        runs.fit(tmp_path, tiny_model_dir, rollout__importance_cap=2.0, rollout__old_logprobs="sampler")
