"""The estimate against what a run on the CPU really holds."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from paw_lightning.commands import estimate
from paw_lightning.commands.memory import activation_bytes, build, cache_limit, held_bytes, memory, parameters
from paw_lightning.commands.parsing import parse_settings
from paw_lightning.commands.sizes import Lengths, Sizes, read_sizes
from paw_lightning.errors import SettingsError
from paw_lightning.models.lora import LoRA
from paw_lightning.samplers.kv_cache import token_bytes
from paw_lightning.training.module import PaWModule
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


@pytest.mark.parametrize("critic", ["none", "shared", "separate"])
@pytest.mark.parametrize("rank", [0, 4])
def test_counts_are_exact(rank: int, critic: str, tiny_model_dir: str) -> None:
    """Weights, gradients and AdamW's two moments of a module after a step; its step counters, 4 bytes each, apart."""
    module = PaWModule(tiny_model_dir, lora=LoRA(rank=rank), critic=critic)
    module.configure_model()
    optimizer = module.configure_optimizers()
    tokens = torch.arange(10, 30)[None]
    mask = torch.ones_like(tokens, dtype=torch.bool)
    out = module.model(tokens, mask, mask, 1.0)
    # A critic starts at 0 and would hand its own backbone no gradient.
    (out.action_logprobs.sum() + (0 if out.values is None else out.values.sum())).backward()
    optimizer.step()
    moments = [v for state in optimizer.state.values() for v in state.values() if v.numel() > 1 or v.ndim]
    sizes = sizes_of(tiny_model_dir, lora=LoRA(rank=rank), kl=True, critic=critic)
    figures = held_bytes(build(sizes), sizes)
    assert figures["weights"] == sum(p.nbytes for p in module.parameters())
    assert figures["gradients"] == sum(p.grad.nbytes for p in module.parameters() if p.grad is not None)
    assert figures["optimizer"] == sum(moment.nbytes for moment in moments)
    assert figures["reference"] == (0 if rank else sum(p.nbytes for p in module.language_model.parameters()))


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
    assert estimate.command(["--config", "household/paw", "--gpu_gib", "16", "--model.lora.rank", "0"]) == 0
    printed = capsys.readouterr().out
    assert "a micro-batch is 3 rows of 876 tokens" in printed
    assert "fits 16 GiB" in printed
    assert "rollout.ahead" not in printed
    estimate.command(["--config=household/paw", "--rollout.layout=step", "--rollout.ahead=1"])
    printed = capsys.readouterr().out
    assert "a micro-batch is 22 rows of 876 tokens" in printed
    assert printed.endswith("rollout.ahead: sampler native plays before the update, and an iteration takes both\n")
    assert "takes the longer of the two" in estimate.of_playing_ahead("vllm")


def test_sizes_come_from_the_settings_and_the_rest_from_their_defaults(tiny_model_dir: str) -> None:
    toy = arguments({**TOY, "model.path": tiny_model_dir, "trainer.strategy": "paw_fsdp2"})
    sizes = read_sizes(parse_settings([*toy, "--model.optimizer=torch.optim.SGD"]), gpus=2, turns=2)
    assert (sizes.episodes, sizes.steps, sizes.sharded, sizes.optimizer_states) == (2 * 3, 2 * 2, True, 0)
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
    times = [
        estimate.seconds(sizes, need, parameters(build(sizes), sizes), None, 1.0, 1.0)["update"]
        for sizes, need in zip((plain, own), needed, strict=True)
    ]
    assert 1.5 < times[1] / times[0] <= 2, "its update costs what the policy's backbone costs"


def test_the_samplers_own_limit_counts(tiny_model_dir: str) -> None:
    """100 tokens of keys and values, however many a rollout has; 64 rows of 25 tokens are played in 16 batches."""
    plain, limited = sizes_of(tiny_model_dir), sizes_of(tiny_model_dir, sampler_tokens=100)
    model = build(plain)
    token = token_bytes(model.config, 4)
    counts = parameters(model, plain)
    needed = [memory(build(sizes), sizes) for sizes in (plain, limited)]
    assert [need.rollout_cache for need in needed] == [64 * 25 * token, 100 * token]
    times = [
        estimate.seconds(sizes, need, counts, cache_limit(model, sizes), 1.0, 1.0)["rollout: writing"]
        for sizes, need in zip((plain, limited), needed, strict=True)
    ]
    assert times[1] / times[0] == 16


def test_growing_transcripts_are_remembered(tiny_model_dir: str) -> None:
    """Keys and values of this turn and of the one before; of a limit of 100 tokens each has the half."""
    growing = sizes_of(tiny_model_dir, growing=True)
    model = build(growing)
    token, counts = token_bytes(model.config, 4), parameters(model, growing)
    assert memory(build(growing), growing).rollout_cache == 2 * 64 * 25 * token
    needed = memory(build(growing), growing)
    times = [estimate.seconds(growing, needed, counts, limit, 1.0, 1.0)["rollout: writing"] for limit in (None, 100)]
    assert times[1] / times[0] == 64 * 25 / 50
