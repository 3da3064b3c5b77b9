"""Whether a model reads a target that is a branch of its row as it reads the same target by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from paw_lightning.callbacks import canary_checks as checks
from paw_lightning.errors import SettingsError
from paw_lightning.seeding import generator
from paw_lightning.training.module import PaWModule
from paw_lightning.update.collate import collate
from paw_lightning.update.rows import Branch, Row, Segment


def check_branches(module: PaWModule, length: int) -> None:
    """Compare targets read as branches of a row of `length` tokens with the same read in rows that end with them.

    One begins early and one in the middle, and a branch as long as the row stands before them: models that take
    positions from elsewhere than their caller (ALiBi, recurrence, a window counted in the row) or ignore its mask would
    be trained on something else, in silence.

    Raises:
        SettingsError: the two differ; the message names ``model.path`` and ``target_control.targets``.
    """
    module.gather()
    with checks.passive(module):
        _compare(module, length)
    module.free()


def _compare(module: PaWModule, length: int) -> None:
    advice = (
        "wanted a model.path whose attention takes positions and a mask, or target_control.targets: observation, or "
        "rollout.layout: step with data.world_model_horizon 1, where nothing has to be read so"
    )
    # A row of random tokens with three branches, and the same targets alone
    randomness = generator(0, "branches")
    tokens = torch.randint(len(module.tokenizer), (length + 8,), generator=randomness).tolist()
    other = Branch(1, Segment(tokens[1:length], "target"))
    first, second = Branch(4, Segment(tokens[-8:-4], "target")), Branch(length // 2, Segment(tokens[-4:], "target"))
    alone = [Row([Segment(tokens[: branch.start]), branch.target]) for branch in (first, second)]
    # Both readings
    try:
        branched = _read_targets(module, Row([Segment(tokens[:-8])], branches=[other, first, second]))[-8:]
    except Exception as error:
        said = f"model.path is {module.path!r}, which cannot read a row with branches"
        raise SettingsError(f"{said}; {advice}: {error}") from error
    gap = (branched - torch.cat([_read_targets(module, row) for row in alone])).abs().mean().item()
    # Random tokens are unlikely, and unlikely tokens are rounded coarsely: more is allowed than for sampled ones.
    if not gap <= 4 * checks.TOLERANCE[checks.arithmetic(module)]:
        said = f"model.path is {module.path!r}, which gives a target another log-prob as a branch than alone"
        raise SettingsError(f"{said}, by {gap:.2g} nats; {advice}")


def _read_targets(module: PaWModule, row: Row) -> Tensor:
    """Log-probs of the row's targets, by the whole model that plays."""
    return module.read_as_played(collate([row], on_policy=True)).target_logprobs
