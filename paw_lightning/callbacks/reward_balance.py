"""RewardBalance: PaW's third part, how much the world model counts in each group."""

from __future__ import annotations

from typing import Literal

import lightning as L

from paw_lightning.callbacks.base import RolloutCallback
from paw_lightning.types import Rollout
from paw_lightning.weighting import reward_adaptive_coefficient


class RewardBalance(RolloutCallback):
    """Gives every group its lambda_g.

    Args:
        coefficient: `reward_adaptive` is eq. 10, 1 - mean return / R_max; `constant` is `value` everywhere.
        value: the constant, at least 0.
        max_return: R_max; null takes what the environment states as ``info["max_reward"]``.
    """

    def __init__(
        self,
        coefficient: Literal["reward_adaptive", "constant"] = "reward_adaptive",
        value: float = 1.0,
        max_return: float | None = None,
    ) -> None:
        if not value >= 0:
            raise ValueError(f"reward_balance.value is {value}; wanted at least 0")
        if max_return is not None and not max_return > 0:
            raise ValueError(f"reward_balance.max_return is {max_return}; wanted above 0, or null")
        self.coefficient, self.value, self.max_return = coefficient, value, max_return

    def on_rollout_end(self, trainer: L.Trainer, pl_module: L.LightningModule, rollout: Rollout) -> None:
        """Write wm_coefficient of every group."""
        if not any(t.wm_selected for t in rollout.transitions):
            return  # nothing is predicted: plain policy optimisation needs no R_max
        for group in rollout.groups:
            group.wm_coefficient = self.value
            if self.coefficient == "reward_adaptive":
                max_return = group.max_return if self.max_return is None else self.max_return
                source = f"the environment of task {group.group_key}"
                group.wm_coefficient = reward_adaptive_coefficient(group.returns, max_return, source)
        coefficients = [group.wm_coefficient for group in rollout.groups]
        rollout.metrics["wm/coefficient"] = sum(coefficients) / len(coefficients)
        rollout.metrics["wm/coefficient_max"] = max(coefficients)
