"""TargetControl: is it knowledge of the world that helps, or the update itself?"""

from __future__ import annotations

from typing import Literal

import lightning as L
import torch

from paw_lightning.callbacks.base import RolloutCallback
from paw_lightning.datamodule import RolloutDataModule
from paw_lightning.module import PaWModule
from paw_lightning.seeding import generator
from paw_lightning.types import Rollout, Transition
from paw_lightning.weighting import shuffled_places


class TargetControl(RolloutCallback):
    """Replaces what the world model predicts, leaving selection, coefficient and the weight of a transition alone.

    With `data.wm_horizon` above 1 it replaces all that the selected transitions reach.

    Logs ``wm/true_target_fraction``, the share of a control's targets that are the true observation all the same.

    Args:
        targets: `observation`, the true next one; `shuffled`, the observations of the selected transitions dealt out
            among them anew, so that the tokens of an update stay the same and only their causes are wrong: nobody gets
            an observation equal to its own, unless one observation makes up more than half of all; `random_tokens`, as
            many ordinary tokens as the observation has, drawn uniformly; `wrong_action`, the world's true answer to
            another admissible action in the same state (the environment has to offer `peek`). Such answers have
            lengths of their own; where there is no other action, or its answer is longer than
            `rollout.max_observation_tokens`, nothing is predicted.
    """

    def __init__(
        self, targets: Literal["observation", "shuffled", "random_tokens", "wrong_action"] = "observation"
    ) -> None:
        self.targets = targets
        self.needs_counterfactuals = targets == "wrong_action"

    def on_rollout_end(self, trainer: L.Trainer, pl_module: L.LightningModule, rollout: Rollout) -> None:
        """Write control_ids of the selected transitions (EntropySelection has run)."""
        data: RolloutDataModule = trainer.datamodule  # type: ignore[attr-defined]
        chosen = [t for t in _taught(rollout, data.wm_horizon) if t.observation_ids]
        if self.targets == "observation" or not chosen:
            return
        assert isinstance(pl_module, PaWModule)
        dice = generator(data.seed, "targets", rollout.iteration)
        if self.targets == "shuffled":
            _shuffle(chosen, dice)
        elif self.targets == "random_tokens":
            _draw(chosen, pl_module.tokenizer, dice)
        else:
            for t in chosen:
                t.control_ids = t.counterfactual_ids or []
        true = sum(t.control_ids == t.observation_ids for t in chosen)
        rollout.metrics["wm/true_target_fraction"] = true / len(chosen)


def _taught(rollout: Rollout, horizon: int) -> list[Transition]:
    """The transitions whose observation some selected transition predicts."""
    return [
        t
        for episode in rollout.episodes
        for i, t in enumerate(episode.transitions)
        if any(before.wm_selected for before in episode.transitions[max(0, i - horizon + 1) : i + 1])
    ]


def _shuffle(chosen: list[Transition], dice: torch.Generator) -> None:
    places = shuffled_places([tuple(t.observation_ids) for t in chosen], dice)
    for t, i in zip(chosen, places, strict=True):
        t.control_ids = chosen[i].observation_ids


def _draw(chosen: list[Transition], tokenizer: object, dice: torch.Generator) -> None:
    # Added tokens need not be special: tags of a chat template, for example.
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}  # type: ignore[attr-defined]
    ordinary = torch.tensor([i for i in range(len(tokenizer)) if i not in special])  # type: ignore[arg-type]
    for t in chosen:
        draws = torch.randint(len(ordinary), (len(t.observation_ids),), generator=dice)
        t.control_ids = ordinary[draws].tolist()
