"""What is refused before anything is played, because two sections of the configuration do not go together.

What one value alone may be is checked where the value is held.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint, OnExceptionCheckpoint, Timer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from paw_lightning import ranks
from paw_lightning.callbacks.branch_check import check_branches
from paw_lightning.errors import SettingsError
from paw_lightning.iteration import Iteration
from paw_lightning.models.window import context_window
from paw_lightning.policy.advantages import Advantage
from paw_lightning.rollouts.episodes import FirstLook
from paw_lightning.rollouts.settings import RolloutSettings
from paw_lightning.text.actions import action_format
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.prompts import PromptBuilder
from paw_lightning.training.module import PaWModule
from paw_lightning.world_model.coefficient import checked_max_return
from paw_lightning.world_model.loss import READERS, WorldModelLoss


@dataclass(frozen=True)
class Run:
    """What is about to begin."""

    trainer: L.Trainer
    module: PaWModule
    iteration: Iteration

    @property
    def settings(self) -> RolloutSettings:
        """How episodes are played."""
        return self.iteration.runner.settings


def check_penalty(penalty: float, advantage: Advantage) -> None:
    """Refuse a negative penalty, and one beside an advantage that uses no reward."""
    if not penalty >= 0:
        raise SettingsError(f"rollout.inadmissible_action_penalty is {penalty}; wanted at least 0, as it is subtracted")
    if advantage.rewardless and penalty:
        raise SettingsError(
            f"rollout.inadmissible_action_penalty is {penalty} and rollout.advantage is "
            f"{type(advantage).__name__}; wanted 0: a penalty is a reward"
        )


def check_run(run: Run) -> None:
    """Refuse what does not go together with the model, the data or the trainer; the message names the keys."""
    iteration = run.iteration
    tasks, cutter, advantage = iteration.runner.tasks, iteration.cutter, iteration.advantage
    _check_critic(advantage, run.module.critic)
    if advantage.rewardless:
        _check_rewardless(advantage, tasks.dynamic_sampling, cutter.world_model_interval)
    _check_selection(iteration)
    if tasks.group_size == 1 and advantage.relative:
        _warn_of_lone_episodes(advantage)
    _warn_of_unread_loss_settings(run.module.world_model_loss, iteration.balance.match_weight_of)
    run.module.configure_model()  # its positions are counted next
    model, chat = run.module.language_model, run.module.chat
    check_context_window(run.settings, model.config, chat, cutter.world_model_horizon)
    _check_stops(run.trainer, cutter.minibatches)


def _warn_of_lone_episodes(advantage: Advantage) -> None:
    """Say what a group of one teaches: of most advantages nothing, of some what one episode can be compared with."""
    sources = []
    if getattr(advantage, "level", None) == "row":
        sources.append("episodes of one turn, whose advantage is the return itself (level: row)")
    if advantage.compares_turns:
        sources.append("turns that saw the same observation")
    but = f", but in {' and in '.join(sources)}" if sources else ""
    rank_zero_warn(f"data.group_size is 1: an advantage relative to the group is 0, no reward teaches anything{but}")


def check_largest_return(iteration: Iteration) -> None:
    """Refuse an environment without R_max, as far as its first task tells, where eq. 10 divides by it."""
    if iteration.selection.alpha and iteration.balance.asks_environment(iteration.advantage.rewardless):
        ranks.together(lambda: _check_first(iteration.runner.first_look()))


def check_control(run: Run) -> None:
    """Refuse a model that would read a branch (a control before a later action) together with what follows it."""
    settings, horizon = run.settings, run.iteration.cutter.world_model_horizon
    if not run.iteration.control.replaces or (not settings.layout.grows and horizon == 1):
        return  # nothing stands before a later action
    # What a row holds beyond the last prompt: the actions and observations that a target reaches.
    turn = settings.max_action_tokens + settings.max_observation_tokens
    check_branches(run.module, settings.prompt.max_tokens + horizon * turn)


def _check_first(look: FirstLook | None) -> None:
    if look is not None:
        checked_max_return(look[1].get("max_reward"), "the environment (rollout.environment)")


def _check_critic(advantage: Advantage, critic: str) -> None:
    """A critic and an advantage that reads its values come together or not at all."""
    name = type(advantage).__name__
    if advantage.reads_values and critic == "none":
        raise SettingsError(
            f"rollout.advantage is {name} and model.critic is 'none'; wanted model.critic: shared or separate"
        )
    if critic != "none" and not advantage.reads_values:
        raise SettingsError(
            f"model.critic is {critic!r} and rollout.advantage is {name}, which reads no values; wanted "
            "model.critic: none, or rollout.advantage: GAE"
        )


def _check_rewardless(advantage: Advantage, dynamic_sampling: int, world_model_interval: int) -> None:
    """Refuse what only makes sense where a reward teaches the policy, or where anything does."""
    name = type(advantage).__name__
    if dynamic_sampling:
        raise SettingsError(
            f"data.dynamic_sampling is {dynamic_sampling} and rollout.advantage is {name}; wanted 0: it chooses "
            "groups by their reward"
        )
    if world_model_interval and advantage.idle:
        raise SettingsError(
            f"data.world_model_interval is {world_model_interval} and rollout.advantage is {name}, so that policy "
            "steps teach nothing; wanted data.world_model_interval: 0 (the config method/wm_only sets it: give it "
            "last)"
        )


def _check_selection(iteration: Iteration) -> None:
    """Refuse to select nothing where the world model is all that some optimizer steps teach."""
    interval, idle = iteration.cutter.world_model_interval, iteration.advantage.idle
    if not iteration.selection.alpha and (interval or idle):
        name = type(iteration.advantage).__name__
        why = f"data.world_model_interval is {interval}" if interval else f"rollout.advantage is {name}"
        raise SettingsError(
            f"entropy_selection.alpha is 0 and {why}; wanted alpha above 0, as the world model would have nothing to "
            "learn"
        )


def _warn_of_unread_loss_settings(loss: WorldModelLoss, matched: str | None) -> None:
    """Say which setting of the loss neither its kind reads nor the one whose weight it is given.

    Not refused: an ablation changes the kind of a run and keeps the rest.
    """
    for name, kind in READERS.items():
        value = getattr(loss, name)
        if value != getattr(WorldModelLoss, name) and kind not in (loss.kind, matched):
            rank_zero_warn(
                f"model.world_model_loss.{name} is {value} and model.world_model_loss.kind is {loss.kind!r}, which "
                f"does not read it: it changes nothing in training (only kind {kind} reads it)"
            )


def _check_stops(trainer: Any, minibatches: int) -> None:
    """Refuse what would stop or save in the middle of an iteration: no unbroken run passes through that state."""
    if trainer.fast_dev_run:
        return  # it stops where it likes, and saves nothing
    for name in ("max_steps", "min_steps"):
        steps = getattr(trainer, name) or 0
        if steps > 0 and steps % minibatches:
            raise SettingsError(
                f"trainer.{name} is {steps}; wanted a multiple of data.minibatches ({minibatches}), "
                f"or trainer.{name.replace('steps', 'epochs')}, which counts whole iterations"
            )
    if trainer.overfit_batches:
        raise SettingsError(f"trainer.overfit_batches is {trainer.overfit_batches}; wanted 0: it cuts iterations off")
    interval = getattr(trainer, "val_check_interval", "a time")  # Lightning has none for `DD:HH:MM:SS`
    limits = {
        "limit_train_batches": (trainer.limit_train_batches, "data.groups for a smaller iteration"),
        "val_check_interval": (interval, "trainer.check_val_every_n_epoch to validate rarely"),
    }
    for name, (value, instead) in limits.items():
        if isinstance(value, int) or value != 1.0:  # 1.0 is all of an iteration, 1 is one batch of it
            raise SettingsError(f"trainer.{name} is {value}; wanted 1.0, a whole iteration, and {instead}")
    for callback in trainer.callbacks:
        _check_callback(callback)


def _check_callback(callback: L.Callback) -> None:
    """Refuse a callback of Lightning's that stops, saves or recuts in mid-iteration."""
    if isinstance(callback, Timer) and callback._interval != "epoch":
        raise SettingsError(
            "trainer.max_time is set and stops in mid-iteration; wanted a Timer callback with `interval: epoch`"
        )
    if isinstance(callback, OnExceptionCheckpoint):
        raise SettingsError(
            "trainer.callbacks holds an OnExceptionCheckpoint, which saves in mid-iteration; wanted last_checkpoint, "
            "which needs no end"
        )
    if isinstance(callback, GradientAccumulationScheduler):
        raise SettingsError(
            "trainer.callbacks holds a GradientAccumulationScheduler, which would cut an iteration into other parts "
            "than it began with; wanted trainer.accumulate_grad_batches"
        )
    if isinstance(callback, ModelCheckpoint):
        settings = {
            "every_n_train_steps": callback._every_n_train_steps,
            "train_time_interval": callback._train_time_interval,
            "save_on_exception": callback.save_on_exception,
        }
        for name, value in settings.items():
            if value:
                raise SettingsError(
                    f"{name} of a ModelCheckpoint is {value} and saves in mid-iteration; wanted every_n_epochs, which "
                    "counts whole iterations (last_checkpoint, best_checkpoint, trainer.callbacks)"
                )


def check_context_window(settings: RolloutSettings, config: Any, chat: ChatFormat, horizon: int) -> None:
    """Refuse rows that could outgrow the model before anything is played."""
    window, positions = context_window(config)
    turn = _turn_tokens(settings, chat)
    boundary = BOUNDARY_TOKENS * (3 if action_format(settings.prompt.action_format).calls_tools else 1)
    needed = settings.prompt.max_tokens + horizon * (
        settings.max_action_tokens + turn + settings.max_observation_tokens + boundary
    )
    if window is not None and needed > window:
        before = f"{turn} of rollout.prompt.turn_template + " if turn else ""
        raise SettingsError(
            f"rollout.prompt.max_tokens {settings.prompt.max_tokens} + data.world_model_horizon {horizon} x "
            f"(rollout.max_action_tokens {settings.max_action_tokens} + {before}rollout.max_observation_tokens "
            f"{settings.max_observation_tokens} + {boundary} for turn boundaries) do not fit {positions}; lower "
            "one of them"
        )


BOUNDARY_TOKENS = 16
"""More than any known chat template puts between an action and the next observation; a third of it around tools."""


def _turn_tokens(settings: RolloutSettings, chat: ChatFormat) -> int:
    """Tokens between an action and the observation, as far as the template fixes them (layouts that grow)."""
    if not settings.layout.grows:
        return 0
    prompts = PromptBuilder(settings.prompt, chat)
    if "{task}" in prompts.before_observation or "{admissible_commands}" in prompts.before_observation:
        rank_zero_warn(
            "rollout.prompt.turn_template has {task} or {admissible_commands} before {observation}: their tokens "
            "are not known beforehand, so nobody has checked that they fit the model's positions"
        )
    return len(prompts.chat.encode_text(prompts.turn("", [], settings.max_steps)[0]))
