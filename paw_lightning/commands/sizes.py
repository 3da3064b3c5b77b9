"""What a run's settings say about its size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jsonargparse import Namespace

from paw_lightning.errors import SettingsError
from paw_lightning.models.lora import LoRA
from paw_lightning.training.strategies import MIXED, TRUE, full_name

STATES = {"AdamW": 2, "Adam": 2, "SGD": 0, "RMSprop": 1, "Adagrad": 1, "Muon": 1, "MuonWithAdamW": 2}
"""Numbers that an optimizer keeps for each trained parameter (SGD without momentum)."""
MATRIX_STATES = {"MuonWithAdamW": 1}
"""Those for each parameter of the blocks' matrices, where they are others."""
ORTHOGONAL = ("Muon", "MuonWithAdamW")
"""Optimizers that make the step of a matrix orthogonal."""


@dataclass(frozen=True)
class Lengths:
    """Of a turn, in tokens, and of an episode, in turns."""

    turns: int
    prompt: int
    action: int
    observation: int

    @property
    def row(self) -> int:
        """Tokens of a training row."""
        return self.prompt + self.action + self.observation


@dataclass(frozen=True)
class Sizes:
    """The settings that decide memory and time."""

    path: str
    dtype: str
    precision: str
    lora: LoRA
    critic: str
    activation_checkpointing: bool
    kl: bool
    """Whether the KL term wants a reference policy."""
    optimizer_states: int
    """Numbers kept for each trained parameter."""
    matrix_states: int
    """The same for each trained parameter of the blocks' matrices."""
    orthogonal: bool
    """Whether the optimizer makes the steps of the blocks' matrices orthogonal."""
    episodes: int
    """Of one iteration, on all devices."""
    steps: int
    """Micro-batches of one iteration, on each device."""
    growing: bool
    """Whether an episode is one row that grows (`rollout.layout: episode`), rather than a row for each turn."""
    sampler: str
    sampler_tokens: int | None
    """The most tokens that the sampler's cache holds; None is its own default."""
    sharded: bool
    gpus: int
    lengths: Lengths

    @property
    def rows(self) -> int:
        """Training rows of one iteration, on all devices."""
        return self.episodes if self.growing else self.episodes * self.lengths.turns

    @property
    def micro_batch(self) -> int:
        """Training rows that a device reads at once."""
        return max(1, -(-self.rows // (self.steps * self.gpus)))

    @property
    def element(self) -> int:
        """Bytes of one number in the sampler's cache."""
        weights = TRUE.get(self.precision) or getattr(torch, self.dtype)
        return MIXED.get(self.precision, weights).itemsize

    @property
    def turn_tokens(self) -> int:
        """Tokens, on each device, that one turn of all episodes at once puts into the sampler's cache."""
        return -(-self.episodes // self.gpus) * (self.lengths.prompt + self.lengths.action)


def read_sizes(config: Namespace, gpus: int = 1, **lengths: int | None) -> Sizes:
    """Read them off a run's settings; a length that is not given is the settings' upper limit.

    Raises:
        SettingsError: it is not known what the optimizer keeps.
    """
    model, data, rollout, trainer = config.model, config.data, config.rollout, config.trainer
    limits = {
        "turns": rollout.max_steps,
        "prompt": rollout.prompt.max_tokens,
        "action": rollout.max_action_tokens,
        "observation": rollout.max_observation_tokens,
    }
    sampler, sampler_tokens = _sampler(rollout.sampler)
    states = _optimizer_states(model.optimizer)
    return Sizes(
        path=model.path,
        dtype=model.dtype,
        precision=full_name(trainer.precision),
        lora=LoRA(**model.lora.as_dict()),
        critic=model.critic,
        activation_checkpointing=model.activation_checkpointing,
        kl=bool(model.policy_loss.kl_coefficient),
        optimizer_states=states,
        matrix_states=MATRIX_STATES.get(_name(model.optimizer), states),
        orthogonal=_name(model.optimizer) in ORTHOGONAL,
        episodes=data.groups * data.group_size,
        steps=data.minibatches * trainer.accumulate_grad_batches,
        growing=rollout.layout == "episode",
        sampler=sampler,
        sampler_tokens=sampler_tokens,
        sharded=gpus > 1 and "fsdp" in str(trainer.strategy).lower(),
        gpus=gpus,
        lengths=Lengths(**{name: lengths.get(name) or limit for name, limit in limits.items()}),
    )


def _optimizer_states(optimizer: Namespace) -> int:
    name = _name(optimizer)
    if name not in STATES:
        raise SettingsError(f"model.optimizer is {name}; wanted one whose memory is known: {', '.join(sorted(STATES))}")
    return STATES[name] + (name == "SGD" and bool(optimizer.init_args.momentum))


def _name(optimizer: Namespace) -> str:
    name: str = optimizer.class_path.rpartition(".")[2]
    return name


def _sampler(setting: Any) -> tuple[str, int | None]:
    """Name of the sampler, and the tokens that its settings let it keep."""
    if isinstance(setting, str):
        return setting, None
    name, options = setting.class_path.rpartition(".")[2].removesuffix("Sampler").lower(), setting.get("init_args")
    if name == "paged":
        blocks = options.get("num_blocks") if options else None
        return name, blocks * options.page_size if blocks else None
    return name, options.get("max_batch_tokens") if options else None
