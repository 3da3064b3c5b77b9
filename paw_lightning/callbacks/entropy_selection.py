"""EntropySelection: PaW's first part, which transitions teach the world model."""

from __future__ import annotations

import math
from typing import Literal

import lightning as L

from paw_lightning.callbacks.base import RolloutCallback
from paw_lightning.types import Rollout
from paw_lightning.weighting import action_entropy, check_alpha, select_top_entropy


class EntropySelection(RolloutCallback):
    """Keeps the ceil(alpha |P|) transitions of highest action entropy over the whole update (eq. 4).

    Args:
        alpha: share to keep, in [0, 1]; 1 keeps all, 0 switches the world model off: plain policy optimisation.
        entropy: `full` over the vocabulary (default), or `sampled`, the paper's printed formula.
    """

    def __init__(self, alpha: float = 0.75, entropy: Literal["full", "sampled"] = "full") -> None:
        check_alpha(alpha)
        self.alpha, self.entropy = alpha, entropy

    def on_rollout_end(self, trainer: L.Trainer, pl_module: L.LightningModule, rollout: Rollout) -> None:
        """Write action_entropy and wm_selected of every transition."""
        transitions = rollout.transitions
        for t in transitions:
            t.action_entropy = action_entropy(t.token_entropies, t.sampled_logprobs, self.entropy)
        selected = select_top_entropy([t.action_entropy for t in transitions], self.alpha).tolist()
        for t, chosen in zip(transitions, selected, strict=True):
            t.wm_selected = chosen
        kept = [t.action_entropy for t in transitions if t.wm_selected]
        rollout.metrics["wm/selected_fraction"] = len(kept) / len(transitions)
        if kept:
            rollout.metrics["wm/entropy_threshold"] = min(kept)
        rollout.metrics["rollout/action_entropy"] = math.fsum(t.action_entropy for t in transitions) / len(transitions)
