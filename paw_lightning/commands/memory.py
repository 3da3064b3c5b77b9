"""The memory of a run on each device: counted and measured on tensors that hold no data."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from paw_lightning.commands.sizes import Sizes
from paw_lightning.models.linear_logprob import CHUNK_BYTES
from paw_lightning.models.loading import resolve_model_path, without_dropout
from paw_lightning.models.lora import add_adapters
from paw_lightning.samplers.cache_memory import CACHE_BYTES, passing_bytes, share
from paw_lightning.samplers.kv_cache import token_bytes
from paw_lightning.training.muon import is_hidden_matrix, mark_outside_blocks
from paw_lightning.training.strategies import MIXED, TRUE

GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """Bytes on each device by purpose."""

    weights: float
    gradients: float
    optimizer: float
    reference: float
    """A frozen copy of the policy, for the KL term."""
    activations: float
    """What the backbone keeps of a micro-batch for its backward pass."""
    head: float
    """What the LM head's log-probs take for a moment, and its gradient."""
    rollout_copy: float
    """The whole weights, gathered for a rollout where each device holds a part of them."""
    rollout_cache: float
    """Keys and values of the sampler."""

    @property
    def update(self) -> float:
        """Largest number of bytes that an optimizer step needs."""
        return self.weights + self.gradients + self.optimizer + self.reference + self.activations + self.head

    @property
    def rollout(self) -> float:
        """Largest number of bytes that playing needs; there are no gradients then."""
        return self.weights + self.optimizer + self.reference + self.rollout_cache + self.rollout_copy

    @property
    def peak(self) -> float:
        """Of the whole iteration."""
        return max(self.update, self.rollout)


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters."""

    policy: int
    critic: int
    """Of a critic's own backbone; its head of one output is not worth counting."""


def build(sizes: Sizes, config: PretrainedConfig | None = None) -> PreTrainedModel:
    """The language model, adapters included, as shapes alone; of this config, or of the one at `sizes.path`."""
    shape = without_dropout(config or AutoConfig.from_pretrained(resolve_model_path(sizes.path)))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape, dtype=getattr(torch, sizes.dtype))
        if sizes.lora.rank:
            add_adapters(model, sizes.lora)
        if sizes.precision in TRUE:
            model.to(TRUE[sizes.precision])  # type: ignore[arg-type]  # its wrapper hides the signature
    if sizes.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def parameters(model: PreTrainedModel, sizes: Sizes) -> Parameters:
    """Count the parameters that an update reads."""
    policy = sum(p.numel() for p in model.parameters())
    return Parameters(policy, policy - _head(model).numel() if sizes.critic == "separate" else 0)


def memory(model: PreTrainedModel, sizes: Sizes, gpu_bytes: float | None = None) -> Memory:
    """The memory of a run by purpose, on GPUs of so many bytes or on a CPU; the model's tensors become fake ones."""
    held, head = held_bytes(model, sizes), _head(model)
    trained_head = head.nbytes * head.requires_grad
    copied_head = head.numel() * 2 if sizes.precision in MIXED else 0  # autocast's
    backbones = 2 if sizes.critic == "separate" else 1
    activations = activation_bytes(model, sizes.micro_batch, sizes.lengths.row, sizes.precision)
    parts = sizes.gpus if sizes.sharded else 1
    needed = Memory(
        weights=held["weights"] / parts,
        gradients=held["gradients"] / parts,
        optimizer=held["optimizer"] / parts,
        reference=held["reference"],
        activations=backbones * activations,
        head=2 * CHUNK_BYTES + trained_head + copied_head,
        rollout_copy=held["weights"] if sizes.sharded else 0,
        rollout_cache=0,
    )
    tokens = _cached_tokens(sizes, cache_limit(model, sizes, needed, gpu_bytes))
    return replace(needed, rollout_cache=tokens * token_bytes(model.config, sizes.element))


def held_bytes(model: PreTrainedModel, sizes: Sizes) -> dict[str, int]:
    """Bytes of weights, gradients, optimizer state and the reference policy, before any sharding."""
    policy, trained = list(model.parameters()), [p for p in model.parameters() if p.requires_grad]
    backbone = _critics_own(model) if sizes.critic == "separate" else []
    # A projection in float32.
    head = 0 if sizes.critic == "none" else 4 * (model.config.get_text_config().hidden_size + 1)
    matrices = _bytes(updated_matrices(model, sizes.critic))
    updated = _bytes(trained + backbone) + head
    return {
        "weights": _bytes(policy + backbone) + head,
        "gradients": updated,
        "optimizer": matrices * sizes.matrix_states + (updated - matrices) * sizes.optimizer_states,
        # With LoRA the reference is the model without its adapters.
        "reference": _bytes(policy) if sizes.kl and not sizes.lora.rank else 0,
    }


def updated_matrices(model: PreTrainedModel, critic: str) -> list[torch.Tensor]:
    """The blocks' matrices that an update steps, a critic's own among them."""
    mark_outside_blocks(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    return [p for p in trained + (_critics_own(model) if critic == "separate" else []) if is_hidden_matrix(p)]


def _critics_own(model: PreTrainedModel) -> list[torch.Tensor]:
    """Weights of a critic's own backbone, all of them trained; of the policy's shapes, without adapters."""
    return [p for name, p in model.get_decoder().named_parameters() if "lora_" not in name]


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def cache_limit(model: PreTrainedModel, sizes: Sizes, needed: Memory, gpu_bytes: float | None = None) -> int | None:
    """Most tokens that the sampler keeps on each device; None: no limit is known.

    Args:
        model: the language model.
        sizes: of the run.
        needed: its memory, of which what is held while playing counts.
        gpu_bytes: memory of the GPU; None is a CPU.
    """
    if sizes.sampler_tokens or sizes.sampler not in ("native", "paged"):
        return sizes.sampler_tokens
    token, room = token_bytes(model.config, sizes.element), CACHE_BYTES
    if gpu_bytes is not None:
        free = gpu_bytes - (needed.rollout - needed.rollout_cache)
        room = share(free, passing_bytes(model.config, -(-sizes.episodes // sizes.gpus), sizes.element))
    return max(1, room // token)


def _cached_tokens(sizes: Sizes, limit: int | None) -> int:
    if sizes.sampler == "vllm":
        return 0  # a server has them
    # Growing transcripts are remembered from the turn before.
    wanted = sizes.turn_tokens * (2 if sizes.growing and sizes.sampler == "native" else 1)
    return min(wanted, limit) if limit else wanted


def activation_bytes(model: PreTrainedModel, rows: int, length: int, precision: str) -> int:
    """Bytes that the backbone's forward pass keeps for the backward pass, without the parameters.

    The model's tensors are replaced by fake ones.
    """
    # Whether rows are packed cannot be read off fake positions; ours never are, and then no mask is made.
    packed = mock.patch("transformers.masking_utils.find_packed_sequence_indices", lambda *_: None)
    with FakeTensorMode(allow_non_fake_inputs=True), packed:
        model.to_empty(device="cpu").tie_weights()
        return _kept_bytes(model, rows, length, precision)


def _kept_bytes(model: PreTrainedModel, rows: int, length: int, precision: str) -> int:
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that its number is not used again
        return tensor

    arithmetic = torch.autocast("cpu", MIXED[precision]) if precision in MIXED else nullcontext()
    with arithmetic, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.get_decoder()(input_ids=torch.zeros(rows, length, dtype=torch.long), use_cache=False)
        keep(hidden.last_hidden_state)
    return sum(storage.nbytes() for storage in kept.values())


def _head(model: PreTrainedModel) -> torch.Tensor:
    return model.get_output_embeddings().weight
