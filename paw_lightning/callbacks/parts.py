"""PaW's three parts among a trainer's callbacks, in whatever order they stand there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import lightning as L

from paw_lightning.errors import SettingsError
from paw_lightning.world_model.callbacks import EntropySelection, RewardBalance, TargetControl

Part = TypeVar("Part", bound=L.Callback)


def world_model_parts(callbacks: Sequence[L.Callback]) -> tuple[EntropySelection, TargetControl, RewardBalance]:
    """Selection, control and balance; what is missing is one that does nothing, where that makes sense.

    Raises:
        SettingsError: two of a kind, or one that would be without effect for want of another.
    """
    selection = _only(callbacks, EntropySelection)
    control = _only(callbacks, TargetControl)
    balance = _only(callbacks, RewardBalance)
    if selection is not None and selection.alpha and balance is None:
        raise SettingsError(
            "the trainer's callbacks hold an EntropySelection and no RewardBalance, so that what it selects would "
            "weigh nothing; wanted both (or EntropySelection(alpha=0): no world model)"
        )
    if selection is None and (balance is not None or (control is not None and control.does_something)):
        raise SettingsError(
            f"the trainer's callbacks hold a {type(balance or control).__name__} and no EntropySelection, so that "
            "nothing would be predicted; wanted both, or neither for plain policy optimisation"
        )
    return selection or EntropySelection(alpha=0), control or TargetControl(), balance or RewardBalance()


def _only(callbacks: Sequence[L.Callback], kind: type[Part]) -> Part | None:
    """The one callback of a kind, or None."""
    found = [callback for callback in callbacks if isinstance(callback, kind)]
    if len(found) > 1:
        raise SettingsError(f"the trainer's callbacks hold {len(found)} {kind.__name__}; wanted one at most")
    return found[0] if found else None
