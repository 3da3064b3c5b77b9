"""Optimizer steps for which an iteration has no rows left: nothing is learnt in them, and nothing moves."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from paw_lightning.callbacks import GracefulStop
from tests.helpers import runs

TWO_ROWS = {
    "rollout__layout": "episode",  # an episode is one row
    "data__groups": 1,
    "data__group_size": 2,
    "trainer__max_epochs": 2,
    "trainer__limit_val_batches": 0,
    "trainer__gradient_clip_val": 0.5,
    "model__optimizer__init_args__weight_decay": 0.1,
}


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The language model's weights at the start of a run and after every micro-batch, all in one vector."""
    taken: list[Tensor] = []

    def take(self, trainer, module, *_) -> None:
        taken.append(torch.cat([p.detach().flatten() for p in module.language_model.parameters()]))

    start = GracefulStop.on_train_start
    monkeypatch.setattr(GracefulStop, "on_train_start", lambda *a: (start(*a), take(*a)))
    monkeypatch.setattr(GracefulStop, "on_train_batch_end", take)
    return taken


def moved(states: list[Tensor]) -> list[bool]:
    return [not torch.equal(before, after) for before, after in itertools.pairwise(states)]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_without_rows_leaves_the_weights_alone(
    precision: str, states: list[Tensor], tiny_model_dir: str, tmp_path: Path
) -> None:
    """Two rows for three steps of two micro-batches: the first two steps move the weights, the third does not.

    Adam's momentum of the first two, and weight decay, would.
    """
    settings = {"data__minibatches": 3, "reward_balance__coefficient": "constant", "trainer__precision": precision}
    with pytest.warns(
        UserWarning, match="2 rows for 3 optimizer steps: 1 of them learn nothing and leave the weights alone"
    ):
        cli = runs.fit(tmp_path, tiny_model_dir, **TWO_ROWS, **settings)
    assert moved(states) == [False, True, False, True, False, False] * 2
    assert cli.trainer.global_step == 6, "it counts all the same"


def test_a_step_with_rows_is_the_optimizers(states: list[Tensor], tiny_model_dir: str, tmp_path: Path) -> None:
    """One turn cannot be won, so every advantage is 0: weight decay goes on as under any other trainer."""
    settings = {"data__minibatches": 1, "entropy_selection__alpha": 0, "rollout__max_steps": 1}
    cli = runs.fit(tmp_path, tiny_model_dir, **TWO_ROWS, **settings)
    assert set(runs.curves(cli)["train/grad_norm"].values()) == {0.0}
    assert moved(states) == [False, True] * 2


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param("lightning.pytorch.strategies.DDPStrategy", marks=pytest.mark.slow),
        "paw_lightning.training.strategies.FSDP2",
    ],
)
def test_ranks_agree_on_it(strategy: str, tiny_model_dir: str, tmp_path: Path) -> None:
    """Two ranks and five steps for two rows; a rank without a row of its own takes part in a step that has one."""
    settings = TWO_ROWS | {"data__minibatches": 5, "reward_balance__coefficient": "constant"}
    one = runs.log_dir(runs.fit(tmp_path / "one", tiny_model_dir, **settings))
    several = runs.fit_ranks(tmp_path / "several", tiny_model_dir, strategy, **settings)
    norms, others = (runs.read_curves(folder)["train/grad_norm"] for folder in (one, several))
    assert others == pytest.approx(norms, rel=1e-4)
    expected, exported = (AutoModelForCausalLM.from_pretrained(d / "policy").state_dict() for d in (one, several))
    for name, tensor in expected.items():
        torch.testing.assert_close(exported[name], tensor, rtol=1e-3, atol=2e-4, msg=name)
