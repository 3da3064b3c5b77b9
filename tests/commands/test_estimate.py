"""The estimate against what a run on the CPU really holds."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from jsonargparse import Namespace
from torch.utils.flop_counter import FlopCounterMode

from paw_lightning.commands import estimate
from paw_lightning.commands.estimating.devices import DEVICES, Device
from paw_lightning.commands.estimating.reading import trainer_of
from paw_lightning.commands.estimating.report import uncounted
from paw_lightning.commands.estimating.shapes import shape_of
from paw_lightning.commands.memory import GIB, activation_bytes, build, cache_limit, held_bytes, memory
from paw_lightning.commands.parsing import parse_settings
from paw_lightning.commands.sizes import Lengths, Sizes, read_sizes
from paw_lightning.errors import SettingsError
from paw_lightning.models.lora import LoRA
from paw_lightning.samplers.cache_memory import passing_bytes
from paw_lightning.samplers.kv_cache import token_bytes
from paw_lightning.training.module import PaWModule
from paw_lightning.training.muon import MuonWithAdamW
from paw_lightning.training.strategies import full_name
from tests.helpers.runs import TOY, arguments


def sizes_of(path: str, **changes: Any) -> Sizes:
    """64 episodes of two turns in two steps."""
    usual: dict[str, Any] = {
        "dtype": "float32",
        "precision": "32-true",
        "lora": LoRA(),
        "critic": "none",
        "activation_checkpointing": False,
        "kl": False,
        "optimizer_states": 2,
        "matrix_states": 2,
        "orthogonal": False,
        "episodes": 64,
        "steps": 2,
        "growing": False,
        "sampler": "native",
        "sampler_tokens": None,
        "sharded": False,
        "gpus": 1,
        "lengths": Lengths(turns=2, prompt=20, action=5, observation=5),
    }
    return Sizes(path=path, **{**usual, **changes})


def saved_bytes(module: PaWModule, rows: int, length: int) -> int:
    """Storages that a real forward of backbone and heads keeps for its backward, each once, parameters apart."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    tokens = torch.ones(rows, length, dtype=torch.long)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    mask[:, length // 2 :] = True
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module.model(tokens, mask, torch.zeros_like(mask), 1.0)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize(
    ("precision", "weight", "cached"),
    [
        ("32-true", 4, 4),
        ("bf16-mixed", 4, 2),
        ("bf16", 4, 2),
        ("64", 8, 8),
        ("16-mixed", 4, 2),
        ("64-true", 8, 8),
        ("bf16-true", 2, 2),
        ("16-true", 2, 2),
    ],
)
def test_bytes_of_a_number_in_each_precision(precision: str, weight: int, cached: int, tiny_model_dir: str) -> None:
    """Adapters are cast with the rest."""
    sizes = sizes_of(tiny_model_dir, precision=full_name(precision), lora=LoRA(rank=2))
    model = build(sizes)
    assert held_bytes(model, sizes)["weights"] == weight * sum(p.numel() for p in model.parameters())
    assert sizes.element == cached


@pytest.mark.parametrize("optimizer_of", [torch.optim.AdamW, MuonWithAdamW])
@pytest.mark.parametrize("critic", ["none", "shared", "separate"])
@pytest.mark.parametrize("rank", [0, 4])
def test_counts_are_exact(rank: int, critic: str, optimizer_of: Any, tiny_model_dir: str) -> None:
    """Weights, gradients and what the optimizer keeps of a module after a step: AdamW's two moments, or Muon's one of
    the blocks' matrices; step counters, 4 bytes each, apart."""
    module = PaWModule(tiny_model_dir, lora=LoRA(rank=rank), critic=critic, optimizer=partial(optimizer_of, lr=1e-3))
    module.configure_model()
    optimizer = module.configure_optimizers()
    tokens = torch.arange(10, 30)[None]
    mask = torch.ones_like(tokens, dtype=torch.bool)
    out = module.model(tokens, mask, mask, 1.0)
    # A critic starts at 0 and would hand its own backbone no gradient.
    (out.action_logprobs.sum() + (0 if out.values is None else out.values.sum())).backward()
    optimizer.step()
    moments = [v for state in optimizer.state.values() for v in state.values() if v.numel() > 1 or v.ndim]
    states = {"optimizer_states": 2, "matrix_states": 2 if optimizer_of is torch.optim.AdamW else 1}
    sizes = sizes_of(tiny_model_dir, lora=LoRA(rank=rank), kl=True, critic=critic, **states)
    figures = held_bytes(build(sizes), sizes)
    assert figures["weights"] == sum(p.nbytes for p in module.parameters())
    assert figures["gradients"] == sum(p.grad.nbytes for p in module.parameters() if p.grad is not None)
    assert figures["optimizer"] == sum(moment.nbytes for moment in moments)
    assert figures["reference"] == (0 if rank else sum(p.nbytes for p in module.language_model.parameters()))


@pytest.mark.parametrize("critic", ["none", "separate"])
@pytest.mark.parametrize("rank", [0, 4])
def test_what_muon_multiplies_is_counted(rank: int, critic: str, tiny_model_dir: str) -> None:
    """As torch counts it in a step: of the blocks' matrices alone, which are the adapters' where there are any. A
    critic's own backbone has none."""
    settings = {"lora": LoRA(rank=rank), "critic": critic}
    module = PaWModule(tiny_model_dir, **settings, optimizer=partial(MuonWithAdamW, lr=1e-3))
    module.configure_model()
    optimizer = module.configure_optimizers()
    for p in module.parameters():
        p.grad = torch.ones_like(p) if p.requires_grad else None
    with FlopCounterMode(display=False) as counted:
        optimizer.step()
    sizes = sizes_of(tiny_model_dir, **settings, orthogonal=True)
    model = build(sizes)
    trainer = trainer_of(sizes, model, DEVICES["cpu"], shape_of(model))
    assert trainer.orthogonalizing == counted.get_total_flops() > 0
    plain = trainer_of(replace(sizes, orthogonal=False), model, DEVICES["cpu"], shape_of(model))
    assert plain.orthogonalizing == 0


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("shape", [(3, 40), (2, 200)])
def test_activations_are_close(checkpointing: bool, shape: tuple[int, int], tiny_model_dir: str) -> None:
    """Within 15 % of what is really kept; the rest is the heads' own, a few numbers per token."""
    module = PaWModule(tiny_model_dir, activation_checkpointing=checkpointing)
    module.configure_model()
    sizes = sizes_of(tiny_model_dir, activation_checkpointing=checkpointing)
    estimated = activation_bytes(build(sizes), *shape, "32-true")
    assert estimated == pytest.approx(saved_bytes(module, *shape), rel=0.15)


def test_sharding_divides_what_is_sharded(tiny_model_dir: str) -> None:
    plans = [sizes_of(tiny_model_dir, gpus=gpus, sharded=gpus > 1) for gpus in (1, 4)]
    one, four = (memory(build(sizes), sizes) for sizes in plans)
    for name in ("weights", "gradients", "optimizer"):
        assert getattr(four, name) == getattr(one, name) / 4
    assert four.rollout_copy == one.weights and one.rollout_copy == 0
    assert [sizes.micro_batch for sizes in plans] == [64, 16], "64 episodes of two turns in two steps"


def test_peaks_are_sums(tiny_model_dir: str) -> None:
    """No gradients while a rollout is played, no cache while an update is made."""
    sizes = sizes_of(tiny_model_dir, kl=True)
    needed = memory(build(sizes), sizes)
    held = needed.weights + needed.optimizer + needed.reference
    assert needed.update == held + needed.gradients + needed.activations + needed.head
    assert needed.rollout == held + needed.rollout_cache


def test_report_of_a_shipped_config(capsys) -> None:
    """The bundled policy's config; 8 x 8 episodes, a row each, in 4 steps of 6 micro-batches: 64 / 24 is 3 rows. In the
    step layout they are 512 turns: 22 rows."""
    assert estimate.command(["--config", "household/paw", "--memory", "16", "--model.lora.rank", "0"]) == 0
    printed = capsys.readouterr().out
    assert "a micro-batch is 3 rows of 876 tokens" in printed
    assert "fits 16 GiB" in printed
    estimate.command(["--config=household/paw", "--rollout.layout=step", "--rollout.ahead=1"])
    printed = capsys.readouterr().out
    assert "a micro-batch is 22 rows of 876 tokens" in printed
    assert "played meanwhile" not in printed, "the native sampler plays before the update even then"


def test_sizes_come_from_the_settings_and_the_rest_from_their_defaults(tiny_model_dir: str) -> None:
    toy = arguments({**TOY, "model.path": tiny_model_dir, "trainer.strategy": "paw_fsdp2"})
    sizes = read_sizes(parse_settings([*toy, "--model.optimizer=torch.optim.SGD"]), gpus=2, turns=2)
    assert (sizes.episodes, sizes.steps, sizes.sharded, sizes.optimizer_states) == (2 * 3, 2 * 2, True, 0)
    muon = read_sizes(parse_settings([*toy, "--config", "optimizer/muon"]))
    assert (muon.optimizer_states, muon.matrix_states, sizes.matrix_states) == (2, 1, 0)
    assert (muon.orthogonal, sizes.orthogonal) == (True, False)
    assert sizes.dtype == inspect.signature(PaWModule.__init__).parameters["dtype"].default
    assert (sizes.lengths.turns, sizes.lengths.action) == (2, 6), "given, and the toy world's limit"
    paged = "--rollout.sampler={class_path: PagedSampler, init_args: {num_blocks: 3, page_size: 4}}"
    assert read_sizes(parse_settings([*toy, paged])).sampler_tokens == 12
    with pytest.raises(SettingsError, match=r"model.optimizer is LBFGS; wanted one whose memory is known: Adagrad"):
        read_sizes(parse_settings([*toy, "--model.optimizer=torch.optim.LBFGS"]))


def test_bad_numbers_are_named() -> None:
    with pytest.raises(SettingsError, match="--gpus is 0; wanted above 0"):
        estimate.command(["--gpus", "0"])


def test_a_critic_of_its_own_doubles_the_activations(tiny_model_dir: str) -> None:
    plain, own = (sizes_of(tiny_model_dir, critic=critic) for critic in ("none", "separate"))
    needed = [memory(build(sizes), sizes) for sizes in (plain, own)]
    assert needed[1].activations / needed[0].activations == 2


def test_the_samplers_own_limit_counts(tiny_model_dir: str) -> None:
    """100 tokens of keys and values, however many a rollout has; 64 rows of 25 tokens are played in 16 batches."""
    plain, limited = sizes_of(tiny_model_dir), sizes_of(tiny_model_dir, sampler_tokens=100)
    model = build(plain)
    token = token_bytes(model.config, 4)
    needed = [memory(build(sizes), sizes) for sizes in (plain, limited)]
    assert [need.rollout_cache for need in needed] == [64 * 25 * token, 100 * token]
    assert cache_limit(model, limited, needed[1]) == 100


def test_growing_transcripts_are_remembered(tiny_model_dir: str) -> None:
    """Keys and values of this turn and of the one before."""
    growing = sizes_of(tiny_model_dir, growing=True)
    model = build(growing)
    assert memory(model, growing).rollout_cache == 2 * 64 * 25 * token_bytes(model.config, 4)


def test_the_peak_is_that_of_the_hungrier_phase(tiny_model_dir: str) -> None:
    sizes = sizes_of(tiny_model_dir)
    needed = memory(build(sizes), sizes)
    assert needed.peak == max(needed.update, needed.rollout)


def test_a_sweep_has_a_column_for_each_number_of_gpus(capsys) -> None:
    """A size in place of the config's model, servers, and what is assumed."""
    words = ["--config", "alfworld/paper", "--config", "strategy/fsdp2", "--rollout.sampler", "vllm"]
    typical = ["--turns", "3", "--prompt", "700", "--action", "100", "--observation", "20"]
    assert estimate.command([*words, *typical, "--model_size", "0.5B", "--gpus", "1,4", "--servers", "1,2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    printed = {line[2:22].strip(): line[22:].split() for line in lines if line.startswith("  ")}
    assert lines[0].startswith("494.0 M parameters")
    assert printed["GPUs that train"] == ["1", "4"] and printed["GPUs that serve"] == ["1", "2"]
    parts = ("reading prompts", "writing actions", "environments", "idle, for slowest", "scoring", "update", "sync")
    for column in (0, 1):
        whole = float(printed["iteration, s"][column])
        assert sum(float(printed[name][column]) for name in parts) == pytest.approx(whole, rel=0.02)
    assert any("takes" in line and "% of the iteration" in line for line in lines)
    assert "--train_share 0.3" in " ".join(lines)


def test_groups_that_are_played_anew_are_said_to_be_uncounted() -> None:
    def said(rounds: int, teach: bool) -> list[str]:
        return uncounted(Namespace(data=Namespace(dynamic_sampling=rounds, left_out_teach=teach)))

    assert said(0, False) == []
    [line], [more] = said(3, False), said(3, True)
    assert line.endswith("data.dynamic_sampling 3 plays up to 4 times as many")
    assert more == f"{line}, and trains on as many (data.left_out_teach): memory and update too"


def test_what_does_not_fit_is_marked(capsys) -> None:
    estimate.command(["--config", "household/paw", "--gpus", "1,2", "--memory", "0.01"])
    printed = capsys.readouterr().out
    assert "! does NOT fit 0.01 GiB" in printed and printed.count("  !") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpus", "1,2", "--servers", "1,2,3"], "--servers has 3 numbers and --gpus 2; wanted one, or as many"),
        (["--gpus", "one"], "'one' is not a number, nor several with commas"),
        (["--device", "abacus"], "--device is 'abacus'; wanted one of H100, H200"),
        (["--model_size", "2B"], "--model_size is '2B'; wanted one of 0.5B, 1.5B"),
        (["--ahead", "2"], "--ahead is 2; wanted 0 or 1, as rollout.ahead"),
        (["--padding", "1"], "--padding is 1.0; wanted at least 0 and below 1"),
        (["--env_seconds", "-1"], "--env_seconds is -1.0; wanted at least 0"),
        (["--train_share", "0"], "--train_share is 0.0; wanted above 0"),
    ],
)
def test_wrong_options_are_named(words: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        estimate.command(["--config", "household/paw", *words])


def test_every_figure_of_a_device_has_a_flag() -> None:
    assert estimate.DEVICE_FLAGS.keys() == Device.__dataclass_fields__.keys()


def test_on_a_gpu_the_cache_takes_what_playing_leaves(tiny_model_dir: str) -> None:
    """The run holds `held` bytes while it plays; a tenth of what is free is left alone, reading and drawing 64 rows
    need their bytes for a moment, and the rest has to hold 5/4 of the cache. A large card holds all that is wanted."""
    sizes = sizes_of(tiny_model_dir)
    model = build(sizes)
    plain, token = memory(model, sizes), token_bytes(model.config, 4)
    held = plain.weights + plain.optimizer
    gpu = held + (passing_bytes(model.config, 64, 4) + 1.25 * 100 * token) / 0.9 + 2
    needed = memory(build(sizes), sizes, gpu)
    assert needed.rollout_cache == 100 * token
    assert cache_limit(model, sizes, needed, gpu) == 100
    assert memory(build(sizes), sizes, 80 * GIB).rollout_cache == 64 * 25 * token
    assert cache_limit(model, sizes, plain, 0) == 1, "one token at least, so that times can be divided by it"
    assert cache_limit(model, sizes, plain) == 2**32 // token
