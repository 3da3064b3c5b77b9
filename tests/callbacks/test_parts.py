"""PaW's parts among a trainer's callbacks: any order trains the same, and what would be without effect is refused."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import lightning as L
import pytest
import torch

from paw_lightning import EntropySelection, EnvironmentLoop, PaWModule, RewardBalance, RolloutDataModule, TargetControl
from paw_lightning.callbacks.parts import world_model_parts
from paw_lightning.errors import SettingsError
from paw_lightning.world_model.filters import without_numbers
from paw_lightning.world_model.loss import WorldModelLoss
from tests.helpers.toy_env import ToyEnv


def trained(callbacks: list[L.Callback], model: str, folder: Path) -> tuple[dict[str, torch.Tensor], float]:
    """Weights and world-model loss after one iteration of a plain script."""
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=callbacks,
        logger=False,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        inference_mode=False,
    )
    module = PaWModule(
        model, world_model_loss=WorldModelLoss("cross_entropy"), optimizer=lambda p: torch.optim.AdamW(p, lr=0.01)
    )
    trainer.fit(module, RolloutDataModule(groups=2, group_size=2, minibatches=1))
    weights = {name: p.detach().clone() for name, p in module.language_model.named_parameters()}
    return weights, float(trainer.callback_metrics["train/wm_loss"])


def parts() -> list[L.Callback]:
    return [
        EnvironmentLoop(environment=ToyEnv, max_steps=2, max_action_tokens=6),
        EntropySelection(alpha=0.75),
        TargetControl("shuffled"),
        RewardBalance(coefficient="constant"),
    ]


def test_every_order_of_the_parts_trains_the_same(tiny_model_dir: str, tmp_path: Path) -> None:
    """Of the 24 orders the first, the reverse and the one in which the world model once trained with weight 0."""
    orders = list(permutations(range(4)))
    expected, loss = trained(parts(), tiny_model_dir, tmp_path)
    assert loss > 0, "the world model has a weight"
    for order in (orders[-1], (0, 3, 2, 1)):
        weights, other = trained([parts()[i] for i in order], tiny_model_dir, tmp_path)
        assert other == loss
        assert all(torch.equal(weights[name], expected[name]) for name in expected), order


def test_a_part_without_effect_is_refused() -> None:
    with pytest.raises(SettingsError, match="EntropySelection and no RewardBalance"):
        world_model_parts([EntropySelection()])
    with pytest.raises(SettingsError, match="RewardBalance and no EntropySelection"):
        world_model_parts([RewardBalance()])
    for control in (TargetControl("shuffled"), TargetControl("noise_sign"), TargetControl(filter=without_numbers)):
        with pytest.raises(SettingsError, match="TargetControl and no EntropySelection"):
            world_model_parts([control])
    with pytest.raises(SettingsError, match="hold 2 EntropySelection; wanted one"):
        world_model_parts([EntropySelection(), RewardBalance(), EntropySelection()])


def test_no_part_is_plain_policy_optimisation() -> None:
    for callbacks in ([], [EntropySelection(alpha=0)], [TargetControl()]):
        selection, control, _ = world_model_parts(callbacks)
        assert selection.alpha == 0 and control.targets == "observation"
