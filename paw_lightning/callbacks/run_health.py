"""RunHealth: says once what keeps a run from learning."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from paw_lightning.callbacks.base import RolloutCallback
from paw_lightning.errors import SettingsError
from paw_lightning.types import Rollout, RolloutGroup, alike

UNREADABLE = 0.05
"""Share of well-formed actions below which the policy does not write what is asked for."""


class RunHealth(RolloutCallback):
    """Watches the rollouts for what curves show and nobody looks for; each warning comes once in a run.

    It looks at all that was played, as the curves do: also at what dynamic sampling has left out.

    Args:
        no_reward_iterations: warn after so many iterations in a row in which all episodes returned the same and none
            was won, so that no reward teaches anything; 0 never warns.
        no_success_iterations: warn after so many iterations in a row without a success; 0 never warns.
    """

    def __init__(self, no_reward_iterations: int = 5, no_success_iterations: int = 20) -> None:
        for name, value in {"no_reward": no_reward_iterations, "no_success": no_success_iterations}.items():
            if value < 0:
                raise SettingsError(f"run_health.{name}_iterations is {value}; wanted at least 0 (0 never warns)")
        self.limits = {"no_reward": no_reward_iterations, "no_success": no_success_iterations}
        self.in_a_row = dict.fromkeys(self.limits, 0)
        self.ever_won = False
        self.said: set[str] = set()

    def on_rollout_end(self, trainer: L.Trainer, pl_module: L.LightningModule, rollout: Rollout) -> None:
        """Look at an iteration."""
        groups = rollout.played
        episodes = [episode for group in groups for episode in group.episodes]
        won = any(e.won for e in episodes)
        self.ever_won = self.ever_won or won
        silent = not won and alike([e.episode_return for e in episodes])
        self._check_actions(groups)
        self._check_won(groups)
        self._count("no_reward", silent)
        self._count("no_success", not won)
        if self._due("no_reward"):
            self._say(
                "no_reward",
                f"no reward seen in {self.limits['no_reward']} iterations: every episode returned "
                f"{episodes[0].episode_return:g} and none was won, so there is nothing to learn from. Read the "
                "episodes (rollout_samples); then try easier tasks, a model that already plays a little (model.path), "
                "more turns (rollout.max_steps) or larger groups (data.group_size)",
            )
        elif self._due("no_success"):
            self._say(
                "no_success",
                f"success has been 0 for {self.limits['no_success']} iterations, though returns differ. Read the "
                "episodes (rollout_samples): is the task within reach in rollout.max_steps turns, does the prompt show "
                "what is asked for, does the environment set info['won']?",
            )

    def _check_actions(self, groups: list[RolloutGroup]) -> None:
        """The policy does not write the form that actions are read in."""
        forms = [t.well_formed for group in groups for t in group.transitions]
        if forms and sum(forms) / len(forms) < UNREADABLE:
            self._say(
                "actions",
                f"{sum(forms)} of {len(forms)} actions are well-formed: the policy does not write the form that "
                "rollout.prompt.action_format asks for. Let the prompt show it (rollout.prompt.template), "
                "start from a model that knows it (model.path), or choose action_format: plain",
            )

    def _check_won(self, groups: list[RolloutGroup]) -> None:
        """The environment forgot to say that an episode was won."""
        perfect = [
            group.max_return
            for group in groups
            for value in group.returns
            if group.max_return is not None and 0 < group.max_return <= value
        ]
        episodes = sum(len(group.episodes) for group in groups)
        if perfect and not self.ever_won:
            self._say(
                "won",
                f"{len(perfect)} of {episodes} episodes returned max_reward ({perfect[0]:g}) and none was "
                "ever won; wanted info['won'] = True in the last step of a solved task (rollout.environment): without "
                "it success stays 0 and best.ckpt means nothing",
            )

    def _count(self, name: str, bad: bool) -> None:
        self.in_a_row[name] = self.in_a_row[name] + 1 if bad else 0

    def _due(self, name: str) -> bool:
        return 0 < self.limits[name] <= self.in_a_row[name]

    def _say(self, name: str, message: str) -> None:
        if name not in self.said:
            self.said.add(name)
            rank_zero_warn(message)

    def state_dict(self) -> dict[str, Any]:
        """A resumed run counts on, and does not repeat itself."""
        return {"in_a_row": self.in_a_row, "ever_won": self.ever_won, "said": sorted(self.said)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the count."""
        self.in_a_row, self.ever_won = dict(state_dict["in_a_row"]), state_dict["ever_won"]
        self.said = set(state_dict["said"])
