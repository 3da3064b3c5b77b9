"""Muon for the matrices of a model's blocks, AdamW for all else, as one optimizer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import ParamsT

MUON_READS = ("lr", "weight_decay", "momentum")
ADAMW_READS = ("lr", "weight_decay", "betas", "eps")
NUMBERED = re.compile(r"(^|\.)\d+\.")


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for the matrices of a model's blocks, AdamW for all else: embeddings, LM head, norms, biases, value head.

    ``torch.optim.Muon`` (Jordan, "Muon", 2024) steps along the nearest matrix with orthogonal rows or columns instead
    of the momentum itself. Its step is scaled by 0.2 sqrt(max(rows, columns)) ("Muon is Scalable for LLM Training",
    arXiv 2502.16982, eq. 4; torch's `match_rms_adamw`), so that one rate and one weight decay serve both.

    In a run it finds the matrices by itself, in any model and also among LoRA's adapters (:func:`mark_outside_blocks`).
    In a loop of your own call that function first, else embeddings count as matrices too. Weights of three dimensions
    (experts in one tensor) are AdamW's.

    Its state is one number per element of a matrix, two of all else. `trainer.strategy: paw_fsdp` is refused, which
    cuts weights into vectors.

    Example::

        model:
          optimizer:
            class_path: paw_lightning.training.muon.MuonWithAdamW
            init_args: {lr: 3.0e-4, weight_decay: 0.0}

    Args:
        params: weights, or groups of them with settings of their own.
        lr: of both.
        weight_decay: of both, decoupled.
        momentum: of Muon, with Nesterov's look-ahead; its other settings are torch's.
        betas: of AdamW.
        eps: of AdamW.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        # A group stays one, whichever of its weights are whose: the rest of a run knows groups by their place.
        self.parts: list[list[tuple[torch.optim.Optimizer, tuple[str, ...]]]] = []
        """For each group, what steps its weights, and which of the group's settings it reads."""
        settings = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": tuple(betas), "eps": eps}
        super().__init__(params, settings)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group and deal its weights to Muon and AdamW."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        matrices = [p for p in group["params"] if is_hidden_matrix(p)]
        others = [p for p in group["params"] if not is_hidden_matrix(p)]
        parts: list[tuple[torch.optim.Optimizer, tuple[str, ...]]] = []
        if matrices:
            muon = torch.optim.Muon(matrices, **_read(group, MUON_READS), adjust_lr_fn="match_rms_adamw")
            parts.append((muon, MUON_READS))
        if others:
            parts.append((torch.optim.AdamW(others, **_read(group, ADAMW_READS)), ADAMW_READS))
        self.parts.append(parts)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of each, with the settings and the state that stand here: a schedule or a checkpoint wrote them."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group, parts in zip(self.param_groups, self.parts, strict=True):
            for part, names in parts:
                part.state = self.state
                part.param_groups[0].update(_read(group, names))
                part.step()
        return loss


def mark_outside_blocks(model: nn.Module) -> None:
    """Tell MuonWithAdamW which of a model's matrices are in no block: what reads and writes tokens, and values.

    A block is one of a numbered list (``layers.3.self_attn.q_proj.weight``, adapters within it too), as every decoder
    of Transformers has them.
    """
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for name, p in model.named_parameters():
        p.outside_blocks = id(p) in embeddings or not NUMBERED.search(name)  # type: ignore[attr-defined]


def step_operations(p: torch.Tensor) -> float:
    """Operations in which Muon's step makes a matrix orthogonal, m its shorter and n its longer side.

    Five iterations of Newton and Schulz with three products each: 5 (4 m^2 n + 2 m^3), in bfloat16.
    """
    short, long = sorted(p.shape)
    return 5.0 * (4 * short**2 * long + 2 * short**3)


def is_hidden_matrix(p: torch.Tensor) -> bool:
    """Whether a weight is Muon's, once those outside of the blocks are marked."""
    return p.ndim == 2 and not getattr(p, "outside_blocks", False)


def _read(group: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: group[name] for name in names}
