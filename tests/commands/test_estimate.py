"""The estimate against what a run on the CPU really holds."""

from __future__ import annotations

import sys

import pytest
import torch

from paw_lightning.models.lora import LoRA
from paw_lightning.training.module import PaWModule
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import estimate_memory


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
    config = {"path": tiny_model_dir, "lora": {"rank": rank}, "policy_loss": {"kl_coefficient": 0.1}, "critic": critic}
    config = {"model": config}
    figures = estimate_memory.count(estimate_memory.build(config), config)
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
    config = {"model": {"path": tiny_model_dir, "activation_checkpointing": checkpointing}}
    estimated = estimate_memory.activation_bytes(estimate_memory.build(config), *shape, "32-true")
    assert estimated == pytest.approx(saved_bytes(module, *shape), rel=0.15)


def test_sharding_divides_what_is_sharded(tiny_model_dir: str) -> None:
    config = {"model": {"path": tiny_model_dir}, "trainer": {"strategy": "paw_fsdp2"}, "data": {"groups": 8}}
    lengths = estimate_memory.Lengths(turns=2, prompt=20, action=5, observation=5)
    one, four = (estimate_memory.estimate(config, lengths, gpus) for gpus in (1, 4))
    for name in ("weights", "gradients", "optimizer"):
        assert four[name] == one[name] / 4
    assert four["rollout copy"] == one["weights"] and one["rollout copy"] == 0
    assert one["rows"] == 64 and four["rows"] == 16  # 64 episodes of two turns in two steps


def test_report_of_a_shipped_config(capsys) -> None:
    """The bundled policy's config; 8 x 8 episodes, a row each, in 4 steps of 6 micro-batches: 64 / 24 is 3 rows. In the
    step layout they are 512 turns: 22 rows."""
    config = str(ROOT / "configs" / "household" / "paw.yaml")
    estimate_memory.main(["--config", config, "--gpu_gib", "16", "--set", "model.lora.rank=0"])
    printed = capsys.readouterr().out
    assert "a micro-batch is 3 rows of 876 tokens" in printed
    assert "fits 16 GiB" in printed
    estimate_memory.main(["--config", config, "--set", "rollout.layout=step"])
    assert "a micro-batch is 22 rows of 876 tokens" in capsys.readouterr().out


def test_a_critic_of_its_own_doubles_the_activations(tiny_model_dir: str) -> None:
    lengths = estimate_memory.Lengths(turns=2, prompt=20, action=5, observation=5)
    plain, own = ({"model": {"path": tiny_model_dir, "critic": critic}} for critic in ("none", "separate"))
    ratio = (
        estimate_memory.estimate(own, lengths)["activations"] / estimate_memory.estimate(plain, lengths)["activations"]
    )
    assert ratio == 2
    times = [
        estimate_memory.seconds(config, lengths, estimate_memory.estimate(config, lengths), 1, 1.0, 1.0)["update"]
        for config in (plain, own)
    ]
    assert 1.5 < times[1] / times[0] <= 2, "its update costs what the policy's backbone costs"


def test_the_samplers_own_limit_counts(tiny_model_dir: str) -> None:
    """100 tokens of keys and values, however many a rollout has."""
    lengths = estimate_memory.Lengths(turns=2, prompt=20, action=5, observation=5)
    limited = {"sampler": {"class_path": "NativeSampler", "init_args": {"max_batch_tokens": 100}}}
    figures = estimate_memory.estimate({"model": {"path": tiny_model_dir}, "rollout": limited}, lengths)
    assert figures["rollout cache"] == 100 * figures["cached token"]
    free = estimate_memory.estimate({"model": {"path": tiny_model_dir}}, lengths)
    assert free["rollout cache"] == 64 * 25 * free["cached token"]
