"""Muon with AdamW: who steps which weight, and that the two together are nothing but torch's own."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim.lr_scheduler import StepLR

from paw_lightning.errors import SettingsError
from paw_lightning.models.lora import LoRA
from paw_lightning.training.module import PaWModule
from paw_lightning.training.muon import MuonWithAdamW, mark_outside_blocks
from paw_lightning.training.optimizers import OptimizerSetup
from tests.helpers import runs

MUON = partial(MuonWithAdamW, lr=0.01)
QWEN_BLOCK = {f"self_attn.{name}_proj" for name in "qkvo"} | {f"mlp.{name}_proj" for name in ("gate", "up", "down")}


def weights(seed: int = 0) -> list[nn.Parameter]:
    """Two matrices and a vector."""
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 3), (3, 5), (6,))]


def steps(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], first: int = 0, last: int = 3) -> None:
    """Gradients that are the same at the same step, whoever takes it."""
    for number in range(first, last):
        for p, gradient in zip(parameters, weights(seed=number + 1), strict=True):
            p.grad = gradient.detach().clone()
        optimizer.step()


def names_of_muon(module: PaWModule) -> set[str]:
    """Names of the weights that a module's optimizer leaves to Muon."""
    [muon] = [part for parts in optimizer_of(module).parts for part, _ in parts if isinstance(part, torch.optim.Muon)]
    theirs = {id(p) for group in muon.param_groups for p in group["params"]}
    return {name for name, p in module.named_parameters() if id(p) in theirs}


def optimizer_of(module: PaWModule) -> MuonWithAdamW:
    module.configure_model()
    built: Any = module.configure_optimizers()
    return built


def test_the_matrices_of_the_blocks_are_muons(tiny_model_dir: str) -> None:
    """Two layers of seven matrices each; no embedding, norm, bias, value head or second LM head."""
    module = PaWModule(tiny_model_dir, optimizer=MUON, world_model_head="separate", critic="shared")
    names = names_of_muon(module)
    assert {name.partition("layers.")[2] for name in names} == {
        f"{i}.{name}.weight" for i in range(2) for name in QWEN_BLOCK
    }
    assert len(optimizer_of(module).param_groups) == 2, "the critic's group stays the second"


def test_the_adapters_matrices_are_muons(tiny_model_dir: str) -> None:
    module = PaWModule(tiny_model_dir, optimizer=MUON, lora=LoRA(rank=2))
    names = names_of_muon(module)
    assert names == {name for name, p in module.named_parameters() if p.requires_grad}
    assert len(names) == 2 * 7 * 2 and all(".lora_A." in name or ".lora_B." in name for name in names)


def test_a_separate_critics_backbone_has_matrices_too(tiny_model_dir: str) -> None:
    module = PaWModule(tiny_model_dir, optimizer=MUON, critic="separate", critic_learning_rate=0.5)
    policy, critic = optimizer_of(module).parts
    assert [len(part.param_groups[0]["params"]) for part, _ in (policy[0], critic[0])] == [14, 14]
    assert [group["lr"] for group in optimizer_of(module).param_groups] == [0.01, 0.5]


def test_an_embedding_within_a_block_and_a_first_level_list_are_told_apart() -> None:
    model = nn.ModuleList([nn.Embedding(5, 4), nn.Linear(4, 4)])
    mark_outside_blocks(model)
    assert [p.outside_blocks for p in model.parameters()] == [True, False, False]


def test_both_steps_by_hand() -> None:
    """A matrix goes to Muon; one outside of the blocks and a vector to AdamW, whose first step moves by the rate."""
    matrix, embedding, vector = (nn.Parameter(torch.ones(shape)) for shape in ((4, 3), (7, 3), (3,)))
    embedding.outside_blocks = True  # type: ignore[attr-defined]
    optimizer = MuonWithAdamW([matrix, embedding, vector], lr=0.5, weight_decay=0.1)
    optimizer.param_groups[0]["lr"] = 0.01  # as a schedule does
    for weight in (matrix, embedding, vector):
        weight.grad = torch.full_like(weight, 2.0)
    optimizer.step()
    # Decay takes 0.01 x 0.1 of each weight of 1, the step 0.01.
    assert torch.allclose(embedding, torch.tensor(0.989)) and torch.allclose(vector, torch.tensor(0.989))
    # Muon makes the update's singular values about 1 and scales it by 0.2 sqrt(4): of a constant matrix each element is
    # 1 / sqrt(4 * 3) of it, so 0.01 * 0.4 / sqrt(12) = 0.00115, with the factor 0.7 to 1.2 of its approximation.
    assert 0.0007 < (0.999 - matrix).mean() < 0.0015


def test_it_is_torchs_own_two_bit_for_bit() -> None:
    mine, theirs = weights(), weights()
    settings = {"lr": 0.1, "weight_decay": 0.2}
    steps(MuonWithAdamW(mine, momentum=0.8, betas=(0.7, 0.95), eps=1e-6, **settings), mine)
    muon = torch.optim.Muon(theirs[:2], momentum=0.8, adjust_lr_fn="match_rms_adamw", **settings)
    adamw = torch.optim.AdamW(theirs[2:], betas=(0.7, 0.95), eps=1e-6, **settings)
    for number in range(3):
        for p, gradient in zip(theirs, weights(seed=number + 1), strict=True):
            p.grad = gradient.detach().clone()
        muon.step()
        adamw.step()
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_a_saved_state_goes_on_bit_for_bit() -> None:
    unbroken, stopped = weights(), weights()
    steps(MUON(unbroken), unbroken)
    first = MUON(stopped)
    steps(first, stopped, last=2)
    resumed = [nn.Parameter(p.detach().clone()) for p in stopped]
    second = MuonWithAdamW(resumed, lr=0.7)  # the checkpoint's rate wins
    second.load_state_dict(first.state_dict())
    steps(second, resumed, first=2)
    assert all(torch.equal(a, b) for a, b in zip(unbroken, resumed, strict=True))


def test_a_changed_rate_and_a_schedule_reach_both() -> None:
    """Resumed at another rate: momenta stay; after a step of the schedule both parts have a tenth of it."""
    schedule = partial(StepLR, step_size=1, gamma=0.1)
    first, second = (OptimizerSetup(partial(MuonWithAdamW, lr=lr), schedule) for lr in (0.1, 0.2))
    old = weights()
    built = first.build(old)
    steps(built["optimizer"], old)
    rebuilt = second.build(weights())
    second.resume(first.settings, {"optimizer_states": [built["optimizer"].state_dict()]})
    assert second.saved == first.settings, "what either keeps of a weight is enough for the other"
    optimizer = rebuilt["optimizer"]
    [parameters] = [group["params"] for group in optimizer.param_groups]
    steps(optimizer, parameters, last=1)
    rebuilt["lr_scheduler"]["scheduler"].step()
    steps(optimizer, parameters, first=1)
    assert [part.param_groups[0]["lr"] for part, _ in optimizer.parts[0]] == pytest.approx([0.02, 0.02])


def test_the_loss_is_computed_with_gradients() -> None:
    parameters = weights()
    before = [p.detach().clone() for p in parameters]
    optimizer = MUON(parameters)

    def closure() -> float:
        loss = torch.stack([(p**2).sum() for p in parameters]).sum()
        loss.backward()
        return loss.item()

    with torch.no_grad():
        assert optimizer.step(closure) == pytest.approx(sum((p**2).sum().item() for p in before))
    assert not any(torch.equal(a, b) for a, b in zip(parameters, before, strict=True))


def test_weights_cut_into_vectors_are_refused() -> None:
    message = r"model\.optimizer is MuonWithAdamW and trainer\.strategy is paw_fsdp, .* wanted .*paw_fsdp2"
    with pytest.raises(SettingsError, match=message):
        OptimizerSetup(MUON, None).build(weights(), flattened=True)
    OptimizerSetup(partial(torch.optim.AdamW, lr=0.1), None).build(weights(), flattened=True)


class Residual(nn.Module):
    """An embedding that is its own LM head, and two layers between."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(2)])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(tokens)
        for layer in self.layers:
            hidden = hidden + torch.tanh(layer(hidden))
        return hidden @ self.embed.weight.T


def built(mesh: DeviceMesh | None) -> tuple[Residual, MuonWithAdamW]:
    torch.manual_seed(0)
    model = Residual()
    for part in [*model.layers, model] if mesh is not None else []:
        fully_shard(part, mesh=mesh)
    mark_outside_blocks(model)
    return model, MuonWithAdamW(model.parameters(), lr=0.05)


def learn(model: Residual, optimizer: MuonWithAdamW, count: int) -> None:
    tokens = torch.arange(11)
    for _ in range(count):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens), tokens * 3 % 11).backward()
        optimizer.step()


def on_rank(rank: int, port: int) -> None:
    """Shards against the whole model, and shards that are saved after two steps against three without a break."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    whole, unbroken, stopped, resumed = built(None), built(mesh), built(mesh), built(mesh)
    for pair, count in ((whole, 3), (unbroken, 3), (stopped, 2)):
        learn(*pair, count)
    for shard, p in zip(unbroken[0].parameters(), whole[0].parameters(), strict=True):
        assert (shard.full_tensor() - p).abs().max() < 0.01, "three steps of 0.05, to the rounding of bfloat16"
    model, state = get_model_state_dict(stopped[0]), get_optimizer_state_dict(*stopped)
    set_model_state_dict(resumed[0], model)
    set_optimizer_state_dict(*resumed, state)
    learn(*resumed, 1)
    for shard, p in zip(unbroken[0].parameters(), resumed[0].parameters(), strict=True):
        assert torch.equal(shard.to_local(), p.to_local())
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_shards_are_one_model_and_go_on_bit_for_bit() -> None:
    torch.multiprocessing.spawn(on_rank, (runs.free_port(),), nprocs=2)
