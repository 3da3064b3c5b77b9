"""TargetControl: is it knowledge of the world that helps, or the update itself?"""

from __future__ import annotations

from typing import Literal

import lightning as L
import torch

from paw_lightning.callbacks.base import RolloutCallback
from paw_lightning.module import PaWModule
from paw_lightning.seeding import generator
from paw_lightning.types import Rollout


class TargetControl(RolloutCallback):
    """Replaces what the world model predicts, leaving number, selection and coefficient as they are.

    Args:
        targets: `observation`, the true next one; `shuffled`, the observations of the selected transitions dealt out
            among them anew, so that the tokens of an update stay the same and only their causes are wrong;
            `random_tokens`, as many ordinary tokens as the observation has, drawn uniformly.
    """

    def __init__(self, targets: Literal["observation", "shuffled", "random_tokens"] = "observation") -> None:
        self.targets = targets

    def on_rollout_end(self, trainer: L.Trainer, pl_module: L.LightningModule, rollout: Rollout) -> None:
        """Write control_ids of the selected transitions (EntropySelection has run)."""
        if self.targets == "observation":
            return
        assert isinstance(pl_module, PaWModule)
        chosen = [t for t in rollout.transitions if t.wm_selected and t.observation_ids]
        dice = generator(trainer.datamodule.seed, "targets", rollout.iteration)  # type: ignore[attr-defined]
        if self.targets == "shuffled":
            for t, i in zip(chosen, torch.randperm(len(chosen), generator=dice).tolist(), strict=True):
                t.control_ids = chosen[i].observation_ids
            return
        special = set(pl_module.tokenizer.all_special_ids)
        ordinary = torch.tensor([i for i in range(len(pl_module.tokenizer)) if i not in special])
        for t in chosen:
            draws = torch.randint(len(ordinary), (len(t.observation_ids),), generator=dice)
            t.control_ids = ordinary[draws].tolist()
