"""Estimates the memory and the time of a run before it is paid for.

    python tools/estimate_memory.py --config configs/alfworld/paper.yaml --gpus 1 --gpu_gib 80

Several --config files are merged, as `paw-lightning` merges them; --set KEY=VALUE changes single keys. Lengths default
to the config's upper limits; --turns, --prompt, --action and --observation give what a run typically has. Nothing is
allocated: parameters and optimizer state are counted, and a micro-batch's activations measured, on fake tensors. What
one layer needs for a moment (recomputing, gathering shards) is not in it.

Times are arithmetic over an assumed speed (--tflops reached per device, --bandwidth in GB/s), good to a factor of two.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from paw_lightning.models.linear_logprob import CHUNK_BYTES
from paw_lightning.models.loading import resolve_model_path, without_dropout
from paw_lightning.models.lora import LoRA, add_adapters
from paw_lightning.samplers.kv_cache import CACHE_BYTES, token_bytes

GIB = 2**30
STATES = {"AdamW": 2, "Adam": 2, "SGD": 0, "RMSprop": 1, "Adagrad": 1, "Muon": 1}
"""Numbers that an optimizer keeps for each trained parameter (SGD without momentum)."""


@dataclass(frozen=True)
class Lengths:
    """Of a typical turn, in tokens, and of an episode, in turns."""

    turns: int
    prompt: int
    action: int
    observation: int

    @property
    def row(self) -> int:
        return self.prompt + self.action + self.observation


def merge(base: dict, other: dict) -> dict:
    """`other` over `base`, section by section."""
    both = {
        key: merge(base[key], other[key]) for key in other if all(isinstance(d.get(key), dict) for d in (base, other))
    }
    return base | other | both


def get(config: dict, key: str, default: Any) -> Any:
    """The value at a dotted key."""
    for part in key.split("."):
        config = (config or {}).get(part, {})
    return default if config == {} or config is None else config


def build(config: dict) -> PreTrainedModel:
    """The configured language model, adapters included, as shapes alone."""
    shape = without_dropout(AutoConfig.from_pretrained(resolve_model_path(config["model"]["path"])))
    lora = LoRA(**get(config, "model.lora", {"rank": 0}))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape, dtype=getattr(torch, get(config, "model.dtype", "float32")))
        if lora.rank:
            add_adapters(model, lora)
    if get(config, "model.activation_checkpointing", False):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def activation_bytes(model: PreTrainedModel, rows: int, length: int, precision: str) -> int:
    """What a forward pass of the backbone keeps for the backward pass, parameters apart; the model becomes a fake."""
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

    arithmetic = torch.autocast("cpu", torch.bfloat16) if precision == "bf16-mixed" else nullcontext()
    with arithmetic, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.get_decoder()(input_ids=torch.zeros(rows, length, dtype=torch.long), use_cache=False)
        keep(hidden.last_hidden_state)
    return sum(storage.nbytes() for storage in kept.values())


def count(model: PreTrainedModel, config: dict) -> dict[str, float]:
    """Bytes of weights, gradients, optimizer state and the reference policy, before any sharding."""
    size = {"weights": 0.0, "gradients": 0.0, "optimizer": 0.0}
    name = str(get(config, "model.optimizer.class_path", "torch.optim.AdamW")).rpartition(".")[2]
    if name not in STATES:
        raise SystemExit(f"model.optimizer is {name}; wanted one of {sorted(STATES)}: add what it keeps to STATES")
    states = STATES[name] + (name == "SGD" and bool(get(config, "model.optimizer.init_args.momentum", 0)))
    for p in model.parameters():
        size["weights"] += p.nbytes
        size["gradients"] += p.nbytes * p.requires_grad
        size["optimizer"] += p.nbytes * p.requires_grad * states
    kl = get(config, "model.policy_loss.kl_coefficient", 0.0)
    copies = bool(kl) and not get(config, "model.lora.rank", 0)
    reference = size["weights"] * copies
    critic = critic_bytes(model, get(config, "model.critic", "none"))
    size = {
        "weights": size["weights"] + critic,
        "gradients": size["gradients"] + critic,
        "optimizer": size["optimizer"] + critic * states,
    }
    return size | {"reference": reference}


def critic_bytes(model: PreTrainedModel, kind: str) -> int:
    """Weights of the critic, all of them trained: a projection in float32, and a backbone where it has its own."""
    head = 4 * (model.config.get_text_config().hidden_size + 1)
    backbone = sum(p.nbytes for name, p in model.get_decoder().named_parameters() if "lora_" not in name)
    return {"none": 0, "shared": head, "separate": head + backbone}[kind]


def rows_of_an_update(config: dict, lengths: Lengths) -> int:
    """Every transition is one in the step layout, every episode in the episode layout, its last prompt and turn."""
    episodes = get(config, "data.groups", 8) * get(config, "data.group_size", 8)
    return episodes if get(config, "rollout.layout", "step") == "episode" else episodes * lengths.turns


def estimate(config: dict, lengths: Lengths, gpus: int = 1) -> dict[str, float]:
    """Bytes on each device by purpose, and the shape of a micro-batch."""
    strategy = str(get(config, "trainer.strategy", "auto"))
    sharded = gpus > 1 and "fsdp" in strategy.lower()
    precision = str(get(config, "trainer.precision", "32-true"))
    episodes = get(config, "data.groups", 8) * get(config, "data.group_size", 8)
    parts = get(config, "data.minibatches", 2) * get(config, "trainer.accumulate_grad_batches", 1) * gpus
    rows = max(1, -(-rows_of_an_update(config, lengths) // parts))
    model = build(config)
    size, parameters = count(model, config), sum(p.numel() for p in model.parameters())
    head = model.get_output_embeddings().weight
    trained_head = head.nbytes * head.requires_grad
    copied_head = head.numel() * 2 if precision == "bf16-mixed" else 0
    backbones = 2 if get(config, "model.critic", "none") == "separate" else 1
    activations = backbones * activation_bytes(model, rows, lengths.row, precision)
    whole = size["weights"]
    for name in ("weights", "gradients", "optimizer"):
        size[name] /= gpus if sharded else 1
    element = 2 if "bf16" in precision or get(config, "model.dtype", "float32") != "float32" else 4
    token = token_bytes(model.config, element)
    copies = 2 if get(config, "rollout.layout", "step") == "episode" else 1  # the last turn's, and this one's
    limit = get(config, "rollout.sampler.init_args.max_batch_tokens", None)
    cache = min(
        limit * token if limit else CACHE_BYTES,
        copies * -(-episodes // gpus) * (lengths.prompt + lengths.action) * token,
    )
    held = sum(size.values())
    return size | {
        "activations": activations,
        "head": 2 * CHUNK_BYTES + trained_head + copied_head,
        "rollout copy": whole if sharded else 0,
        "rollout cache": cache,
        "peak of the update": held + activations + 2 * CHUNK_BYTES + trained_head + copied_head,
        "peak of the rollout": held - size["gradients"] + cache + (whole if sharded else 0),
        "rows": rows,
        "parameters": parameters,
        "critic parameters": parameters - head.numel() if backbones == 2 else 0,
        "cached token": token,
    }


def seconds(
    config: dict, lengths: Lengths, figures: dict[str, float], gpus: int, tflops: float, bandwidth: float
) -> dict[str, float]:
    """Of one iteration: the update at 6 (recomputing: 8) operations per parameter and token, the rollout at 2 to read
    each row's prompt, and one pass over the weights for each token that a batch writes."""
    episodes = get(config, "data.groups", 8) * get(config, "data.group_size", 8) / gpus
    rows = rows_of_an_update(config, lengths) / gpus
    work = 8 if get(config, "model.activation_checkpointing", False) else 6
    update = work * (figures["parameters"] + figures["critic parameters"]) * rows * lengths.row / (tflops * 1e12)
    read = 2 * figures["parameters"] * rows * lengths.prompt / (tflops * 1e12)
    cached = episodes * lengths.row * figures["cached token"]
    passes = lengths.turns * lengths.action * max(1.0, cached / CACHE_BYTES)
    write = passes * max(figures["weights"], figures["rollout copy"]) / (bandwidth * 1e9)
    return {"update": update, "rollout: reading": read, "rollout: writing": write}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, action="append", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--gpu_gib", type=float, default=80.0)
    parser.add_argument("--tflops", type=float, default=300.0)
    parser.add_argument("--bandwidth", type=float, default=2000.0)
    for name in Lengths.__dataclass_fields__:
        parser.add_argument(f"--{name}", type=int)
    options = parser.parse_args(arguments)
    config: dict = {}
    for path in options.config:
        config = merge(config, yaml.safe_load(path.read_text()))
    for setting in options.set:
        key, _, value = setting.partition("=")
        for part in reversed(key.split(".")):
            value = {part: yaml.safe_load(value) if isinstance(value, str) else value}
        config = merge(config, value)
    lengths = Lengths(
        turns=options.turns or get(config, "rollout.max_steps", 50),
        prompt=options.prompt or get(config, "rollout.prompt.max_tokens", 2048),
        action=options.action or get(config, "rollout.max_action_tokens", 512),
        observation=options.observation or get(config, "rollout.max_observation_tokens", 512),
    )
    figures = estimate(config, lengths, options.gpus)
    rows, parameters = figures.pop("rows"), figures["parameters"]
    print(
        f"{parameters / 1e6:,.1f} M parameters; a micro-batch is {rows:.0f} rows of {lengths.row} tokens; per device:"
    )
    for name, value in figures.items():
        if name not in ("parameters", "critic parameters", "cached token"):
            print(f"  {name:20} {value / GIB:9.2f} GiB")
    peak = max(figures["peak of the update"], figures["peak of the rollout"]) / GIB
    fits = "fits" if peak < 0.9 * options.gpu_gib else "does NOT fit"
    print(f"{peak:.1f} GiB {fits} {options.gpu_gib:g} GiB (a tenth is left to the allocator and kernels)")
    for name, value in seconds(config, lengths, figures, options.gpus, options.tflops, options.bandwidth).items():
        print(f"  {name:20} {value:9.1f} s per iteration")


if __name__ == "__main__":
    main()
