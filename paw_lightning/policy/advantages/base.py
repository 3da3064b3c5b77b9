"""What an advantage is, and what its algorithms share."""

from __future__ import annotations

from typing import Literal

from paw_lightning.types import RolloutGroup

Level = Literal["trajectory", "row"]


EPSILON = 1e-6


KEY = "rollout.advantage.init_args"  # where the configuration holds these settings


def _check(level: str, invalid_action_penalty: float) -> None:
    if level not in ("trajectory", "row"):
        raise ValueError(f"{KEY}.level is {level!r}; wanted 'trajectory' or 'row'")
    if not invalid_action_penalty >= 0:
        raise ValueError(
            f"{KEY}.invalid_action_penalty is {invalid_action_penalty}; wanted at least 0, as it is subtracted"
        )


def _penalties(group: RolloutGroup, penalty: float, in_score: bool) -> tuple[list[float], list[float]]:
    """(What lowers each turn's score, what lowers its advantage)."""
    penalties = [0.0 if t.well_formed else penalty for t in group.transitions]
    none = [0.0] * len(penalties)
    return (penalties, none) if in_score else (none, penalties)
