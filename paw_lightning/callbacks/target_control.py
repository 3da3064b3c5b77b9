"""TargetControl: is it knowledge of the world that helps, or the update itself?"""

from __future__ import annotations

from itertools import takewhile
from typing import Literal

import lightning as L
import torch
from torch import Tensor

from paw_lightning.callbacks import canary_checks as checks
from paw_lightning.callbacks.base import RolloutCallback, environment_loop
from paw_lightning.callbacks.canaries import passive
from paw_lightning.seeding import generator
from paw_lightning.training.datamodule import RolloutDataModule
from paw_lightning.training.module import PaWModule
from paw_lightning.types import Rollout, Transition
from paw_lightning.update.collate import collate
from paw_lightning.update.rows import Branch, Row, Segment
from paw_lightning.world_model.targets import shuffled_places


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

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse a model that would read a branch (a control before a later action) together with what follows it."""
        assert isinstance(pl_module, PaWModule)
        data: RolloutDataModule = trainer.datamodule  # type: ignore[attr-defined]
        loop = environment_loop(trainer)
        if self.targets == "observation" or (loop.layout == "step" and data.wm_horizon == 1):
            return  # nothing stands before a later action
        pl_module.replica.refresh(trainer.strategy)
        with passive(trainer, pl_module):
            # What a row holds beyond the last prompt: the actions and observations that a target reaches.
            turn = loop.max_action_tokens + loop.max_observation_tokens
            check_branches(pl_module, loop.prompt.max_tokens + data.wm_horizon * turn)
        pl_module.replica.release()

    def on_rollout_end(self, trainer: L.Trainer, pl_module: L.LightningModule, rollout: Rollout) -> None:
        """Write control_ids of the selected transitions (EntropySelection has run)."""
        data: RolloutDataModule = trainer.datamodule  # type: ignore[attr-defined]
        chosen = _taught(rollout, data.wm_horizon)
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


def check_branches(module: PaWModule, length: int) -> None:
    """Compare targets read as branches of a row of `length` tokens with the same read in rows that end with them.

    One begins early and one in the middle, and a branch as long as the row stands before them: models that take
    positions from elsewhere than their caller (ALiBi, recurrence, a window counted in the row) or ignore its mask would
    be trained on something else, in silence. Raises ValueError naming ``model.path`` and ``target_control.targets``.
    """
    advice = (
        "wanted a model.path whose attention takes positions and a mask, or target_control.targets: observation, or "
        "rollout.layout: step with data.wm_horizon 1, where nothing has to be read so"
    )
    dice = generator(0, "branches")
    tokens = torch.randint(len(module.tokenizer), (length + 8,), generator=dice).tolist()
    other = Branch(1, Segment(tokens[1:length], "target"))
    first, second = Branch(4, Segment(tokens[-8:-4], "target")), Branch(length // 2, Segment(tokens[-4:], "target"))
    alone = [Row([Segment(tokens[: branch.start]), branch.target]) for branch in (first, second)]
    try:
        branched = _read_targets(module, Row([Segment(tokens[:-8])], branches=[other, first, second]))[-8:]
    except Exception as error:
        raise ValueError(f"the model cannot read a row with branches; {advice}: {error}") from error
    gap = (branched - torch.cat([_read_targets(module, row) for row in alone])).abs().mean().item()
    # Random tokens are unlikely, and unlikely tokens are rounded coarsely: more is allowed than for sampled ones.
    if not gap <= 4 * checks.TOLERANCE[checks.arithmetic(module)]:
        raise ValueError(f"the model reads a branch of a row otherwise than by itself, by {gap:.2g} nats; {advice}")


def _read_targets(module: PaWModule, row: Row) -> Tensor:
    """Log-probs of the row's targets, by the whole model that plays."""
    data: RolloutDataModule = module.trainer.datamodule  # type: ignore[attr-defined]
    batch = data.transfer_batch_to_device(collate([row], 0, on_policy=True), module.device, 0)
    return module.read(module.replica.model, batch).observation_logprobs


def _taught(rollout: Rollout, horizon: int) -> list[Transition]:
    """The transitions whose observation some selected transition predicts: up to the first that has none."""
    taught = []
    for episode in rollout.episodes:
        reached = 0
        for i, t in enumerate(episode.transitions):
            if t.wm_selected:
                ahead = takewhile(lambda t: t.observation_ids, episode.transitions[i : i + horizon])
                reached = max(reached, i + len(list(ahead)))
            if i < reached:
                taught.append(t)
    return taught


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
