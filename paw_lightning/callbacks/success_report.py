"""SuccessReport: what a run achieved, in one line."""

from __future__ import annotations

import math

import lightning as L
from lightning.pytorch.utilities.rank_zero import rank_zero_info

METRIC = "val/success_rate"


class SuccessReport(L.Callback):
    """Prints success on unseen tasks before and after training, where the curves are, and a command to try next.

    "Before" is Lightning's sanity check, which therefore has to see every validation task
    (``trainer.num_sanity_val_steps: -1``).

    Args:
        next_command: printed at the end; null prints none.
    """

    def __init__(self, next_command: str | None = None) -> None:
        self.next_command = next_command
        self.before: float | None = None

    def on_sanity_check_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the value before training, and give the curve its first point."""
        value = trainer.callback_metrics.get(METRIC)
        if value is None or self.before is not None:
            return  # a resumed run has its first point
        self.before = float(value)
        if trainer.logger is not None and not math.isnan(self.before):
            trainer.logger.log_metrics({METRIC: self.before}, step=trainer.global_step)

    def state_dict(self) -> dict[str, float | None]:
        """The value before training survives a resume."""
        return {"before": self.before}

    def load_state_dict(self, state_dict: dict[str, float | None]) -> None:
        """Take the value of the run that is resumed."""
        self.before = state_dict["before"]

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the lines."""
        after = trainer.callback_metrics.get(METRIC)
        if after is None:
            return
        directory = trainer.log_dir  # asks all ranks
        values = [float(value) for value in (self.before, after) if value is not None]
        shown = " -> ".join("unknown" if math.isnan(value) else f"{value:.1%}" for value in values)
        lost = "; unknown: every validation task was lost to its environment" if any(map(math.isnan, values)) else ""
        rank_zero_info(f"success on unseen tasks: {shown}{lost}")
        rank_zero_info(f"curves:  tensorboard --logdir {directory}")
        if self.next_command:
            rank_zero_info(f"next:    {self.next_command}")
