"""A run's settings as the plan of an iteration."""

from __future__ import annotations

from argparse import Namespace as Options
from typing import Any

from jsonargparse import Namespace
from transformers import PreTrainedModel

from paw_lightning.commands.estimating.costs import Reader, Trainer
from paw_lightning.commands.estimating.devices import Device
from paw_lightning.commands.estimating.iteration import Plan, Servers
from paw_lightning.commands.estimating.playing import Worlds
from paw_lightning.commands.estimating.shapes import Shape, shape_of
from paw_lightning.commands.estimating.work import Work
from paw_lightning.commands.memory import GIB, held_bytes, updated_matrices
from paw_lightning.commands.sizes import Sizes
from paw_lightning.errors import SettingsError
from paw_lightning.samplers.kv_cache import READ_TOKENS
from paw_lightning.training.muon import step_operations

FREE = 0.1
"""Share of a device's memory that is left to the allocator and to kernels."""
SERVED_SHARE = 0.6
"""Share of its devices' memory that a server's weights may take; the rest is for keys and values (choice)."""
SERVER_ELEMENT = 2
"""Bytes of a number in a server (`--dtype bfloat16`)."""


def plan_of(
    config: Namespace,
    sizes: Sizes,
    model: PreTrainedModel,
    limit: int | None,
    device: Device,
    servers: int | None,
    options: Options,
) -> Plan:
    """The plan of these settings.

    Args:
        config: the settings.
        sizes: read from them.
        model: the language model.
        limit: most tokens that the sampler keeps on each device; None: no limit is known.
        device: of the trainer and of the servers.
        servers: None is as many as the settings name.
        options: those of the command.
    """
    shape, work = shape_of(model), work_of(config, sizes, options)
    trainer, server = trainer_of(sizes, model, device, shape), None
    most = READ_TOKENS["cpu" if options.device == "cpu" else "accelerator"]
    reader = Reader(device, shape, sizes.element, most)
    room: float | None = limit / 2 if limit and sizes.growing and sizes.sampler == "native" else limit
    asked = _servers(config, servers, shape, trainer) if sizes.sampler == "vllm" else None
    if asked is not None:
        element = sizes.element if options.device == "cpu" else SERVER_ELEMENT
        server = Reader(device, shape, element, most, server=True, gpus=gpus_of_a_server(shape, device))
        room = cache_of_a_server(server)
    return Plan(
        work=work,
        trainer=trainer,
        reader=reader,
        worlds=Worlds(options.env_seconds, options.env_together),
        room=room,
        servers=asked,
        server=server,
        ahead=_ahead(config, options) and asked is not None,
        seed=options.seed,
        on_cpu=options.device == "cpu",
        reference=sizes.kl,
    )


def work_of(config: Namespace, sizes: Sizes, options: Options) -> Work:
    """Means are the options', or the settings' limits."""
    data, rollout, lengths = config.data, config.rollout, sizes.lengths
    told = sizes.sampler == "native" if rollout.old_logprobs is None else rollout.old_logprobs == "sampler"
    told = told and rollout.importance_cap is None
    # Samplers other than the native one give no entropies; a critic's values come from the same pass.
    own = not told or sizes.sampler != "native" or sizes.critic != "none"
    return Work(
        groups=data.groups,
        group_size=data.group_size,
        turns=options.turns or lengths.turns,
        most_turns=max(rollout.max_steps, round(options.turns or 0)),
        action=options.action or lengths.action,
        most_action=max(rollout.max_action_tokens, round(options.action or 0)),
        prompt=options.prompt or lengths.prompt,
        observation=options.observation or lengths.observation,
        growing=sizes.growing,
        passes=own + sizes.kl,
        micro_batches=sizes.steps,
        optimizer_steps=data.minibatches,
        padding=options.padding,
    )


def trainer_of(sizes: Sizes, model: PreTrainedModel, device: Device, shape: Shape) -> Trainer:
    """Bytes are those that :mod:`paw_lightning.commands.memory` counts, before sharding."""
    held = held_bytes(model, sizes)
    matrices = updated_matrices(model, sizes.critic)
    return Trainer(
        device=device,
        shape=shape,
        gpus=sizes.gpus,
        sharded=sizes.sharded,
        bits=8 * sizes.element,
        weights=held["weights"],
        gradients=held["gradients"],
        optimizer=held["optimizer"],
        checkpointing=sizes.activation_checkpointing,
        backbones=2 if sizes.critic == "separate" else 1,
        orthogonalizing=sum(map(step_operations, matrices)) if sizes.orthogonal else 0.0,
    )


def gpus_of_a_server(shape: Shape, device: Device) -> int:
    """Devices that one copy of the model is split over: the least power of two that holds it and its cache."""
    gpus, bytes_of_weights = 1, shape.read_in_a_step * SERVER_ELEMENT
    while bytes_of_weights > SERVED_SHARE * gpus * device.memory * GIB:
        gpus *= 2
    return gpus


def cache_of_a_server(server: Reader) -> float:
    """Tokens whose keys and values a server has room for."""
    weights = server.shape.read_in_a_step * server.element
    free = (1 - FREE) * server.device.memory * GIB * server.gpus - weights
    return free / (server.shape.remembered * server.element)


def _servers(config: Namespace, servers: int | None, shape: Shape, trainer: Trainer) -> Servers:
    setting: Any = config.rollout.sampler
    given = {} if isinstance(setting, str) else dict(setting.get("init_args") or {})
    count = servers or len(given.get("urls") or [""])
    # With LoRA the adapter alone is sent; else the weights as they are trained.
    sent = trainer.gradients if shape.adapters else trainer.weights
    held = sent if shape.adapters else shape.read_in_a_step * SERVER_ELEMENT
    way = "disk" if shape.adapters else str(given.get("transfer") or "disk")
    return Servers(count, int(given.get("connections") or 64), sent, held, way)


def _ahead(config: Namespace, options: Options) -> bool:
    """`--ahead`, or `rollout.ahead` where the settings have it."""
    ahead = options.ahead if options.ahead is not None else int(config.rollout.get("ahead") or 0)
    if ahead not in (0, 1):
        raise SettingsError(f"--ahead is {ahead}; wanted 0 or 1, as rollout.ahead")
    return bool(ahead)
