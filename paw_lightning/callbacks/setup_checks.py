"""What EnvironmentLoop refuses before anything is played."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint, OnExceptionCheckpoint, Timer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from paw_lightning.policy.advantages.gae import GAE
from paw_lightning.policy.advantages.no_reward import NoReward
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.prompts import PromptBuilder

if TYPE_CHECKING:
    from paw_lightning.callbacks.environment_loop import EnvironmentLoop


def check_arguments(loop: EnvironmentLoop) -> None:
    """Refuse values that cannot work, naming the key."""
    for name in ("max_steps", "max_action_tokens", "max_observation_tokens", "scoring_tokens"):
        if getattr(loop, name) < 1:
            raise ValueError(f"rollout.{name} is {getattr(loop, name)}; wanted at least 1")
    if not loop.inadmissible_action_penalty >= 0:
        raise ValueError(
            f"rollout.inadmissible_action_penalty is {loop.inadmissible_action_penalty}; wanted at least 0, as it is "
            "subtracted"
        )
    if isinstance(loop.advantage, NoReward) and loop.inadmissible_action_penalty:
        raise ValueError(
            f"rollout.inadmissible_action_penalty is {loop.inadmissible_action_penalty} and rollout.advantage is "
            "NoReward; wanted 0: a penalty is a reward"
        )
    if not loop.temperature > 0:
        raise ValueError(f"rollout.temperature is {loop.temperature}; wanted above 0: a greedy policy cannot explore")
    if not loop.validation_temperature >= 0:
        raise ValueError(f"rollout.validation_temperature is {loop.validation_temperature}; wanted at least 0")
    if loop.episode_retries < 0:
        raise ValueError(f"rollout.episode_retries is {loop.episode_retries}; wanted at least 0")
    if loop.importance_cap is not None and (not loop.importance_cap > 0 or loop.old_logprobs != "trainer"):
        raise ValueError(
            f"rollout.importance_cap is {loop.importance_cap} and rollout.old_logprobs is {loop.old_logprobs!r}; "
            "wanted a cap above 0 and `trainer`, which measures the sampler against the trainer, or a cap of null"
        )


def check_setup(loop: EnvironmentLoop) -> None:
    """Refuse what does not go together with the model, the data or the trainer; ValueError names the keys."""
    data = loop.data
    _check_critic(loop, loop.module.critic)
    if isinstance(loop.advantage, NoReward):
        _check_rewardless(data.dynamic_sampling, data.world_model_interval)
    if data.group_size == 1 and not isinstance(loop.advantage, NoReward | GAE):
        rank_zero_warn("data.group_size is 1: an advantage relative to the group is 0, no reward is learnt from")
    _check_context_window(loop, data.wm_horizon)
    _check_stops(loop.trainer, data.minibatches)


def _check_critic(loop: EnvironmentLoop, critic: str) -> None:
    """A critic and an advantage that reads its values come together or not at all."""
    name = type(loop.advantage).__name__
    if isinstance(loop.advantage, GAE) and critic == "none":
        raise ValueError(
            f"rollout.advantage is {name} and model.critic is 'none'; wanted model.critic: shared or separate"
        )
    if critic != "none" and not isinstance(loop.advantage, GAE):
        raise ValueError(
            f"model.critic is {critic!r} and rollout.advantage is {name}, which reads no values; wanted "
            "model.critic: none, or paw_lightning.policy.advantages.GAE"
        )


def _check_rewardless(dynamic_sampling: int, world_model_interval: int) -> None:
    """Refuse what only makes sense where a reward teaches the policy."""
    if dynamic_sampling:
        raise ValueError(
            f"data.dynamic_sampling is {dynamic_sampling} and rollout.advantage is NoReward; wanted 0: it chooses "
            "groups by their reward"
        )
    if world_model_interval:
        raise ValueError(
            f"data.world_model_interval is {world_model_interval} and rollout.advantage is NoReward, so that policy "
            "steps teach nothing; wanted data.world_model_interval: 0 (configs/method/wm_only.yaml sets it: give it "
            "last)"
        )


def _check_stops(trainer: Any, minibatches: int) -> None:
    """Refuse what would stop or save in the middle of an iteration: no unbroken run passes through that state."""
    if trainer.fast_dev_run:
        return  # it stops where it likes, and saves nothing
    for name in ("max_steps", "min_steps"):
        steps = getattr(trainer, name) or 0
        if steps > 0 and steps % minibatches:
            raise ValueError(
                f"trainer.{name} is {steps}; wanted a multiple of data.minibatches ({minibatches}), "
                f"or trainer.{name.replace('steps', 'epochs')}, which counts whole iterations"
            )
    if trainer.overfit_batches:
        raise ValueError(f"trainer.overfit_batches is {trainer.overfit_batches}; wanted 0: it cuts iterations off")
    interval = getattr(trainer, "val_check_interval", "a time")  # Lightning has none for `DD:HH:MM:SS`
    limits = {
        "limit_train_batches": (trainer.limit_train_batches, "data.groups for a smaller iteration"),
        "val_check_interval": (interval, "trainer.check_val_every_n_epoch to validate rarely"),
    }
    for name, (value, instead) in limits.items():
        if isinstance(value, int) or value != 1.0:  # 1.0 is all of an iteration, 1 is one batch of it
            raise ValueError(f"trainer.{name} is {value}; wanted 1.0, a whole iteration, and {instead}")
    for callback in trainer.callbacks:
        _check_callback(callback)


def _check_callback(callback: L.Callback) -> None:
    """Refuse a callback of Lightning's that stops, saves or recuts in mid-iteration."""
    if isinstance(callback, Timer) and callback._interval != "epoch":
        raise ValueError("trainer.max_time stops in mid-iteration; wanted a Timer callback with `interval: epoch`")
    if isinstance(callback, OnExceptionCheckpoint):
        raise ValueError("an OnExceptionCheckpoint saves in mid-iteration; wanted last_checkpoint, which needs no end")
    if isinstance(callback, GradientAccumulationScheduler):
        raise ValueError(
            "a GradientAccumulationScheduler cuts an iteration otherwise than it was begun; wanted "
            "trainer.accumulate_grad_batches"
        )
    if isinstance(callback, ModelCheckpoint):
        settings = {
            "every_n_train_steps": callback._every_n_train_steps,
            "train_time_interval": callback._train_time_interval,
            "save_on_exception": callback.save_on_exception,
        }
        for name, value in settings.items():
            if value:
                raise ValueError(
                    f"{name} of a ModelCheckpoint is {value} and saves in mid-iteration; wanted every_n_epochs, which "
                    "counts whole iterations (last_checkpoint, best_checkpoint, trainer.callbacks)"
                )


def _check_context_window(loop: EnvironmentLoop, horizon: int) -> None:
    """Refuse rows that could outgrow the model before anything is played."""
    loop.module.configure_model()
    config = loop.module.language_model.config.get_text_config()
    window = getattr(config, "max_position_embeddings", None)
    turn = _turn_tokens(loop)
    needed = loop.prompt.max_tokens + horizon * (loop.max_action_tokens + turn + loop.max_observation_tokens + 16)
    if window is not None and needed > window:
        before = f"{turn} of rollout.prompt.turn_template + " if turn else ""
        raise ValueError(
            f"rollout.prompt.max_tokens {loop.prompt.max_tokens} + data.wm_horizon {horizon} x "
            f"(rollout.max_action_tokens {loop.max_action_tokens} + {before}rollout.max_observation_tokens "
            f"{loop.max_observation_tokens} + 16 for turn boundaries) do not fit the model's {window} positions; "
            "lower one of them"
        )


def _turn_tokens(loop: EnvironmentLoop) -> int:
    """Tokens between an action and the observation, as far as the template fixes them (episode layout)."""
    if loop.layout != "episode":
        return 0
    prompts = PromptBuilder(loop.prompt, ChatFormat(loop.module.tokenizer))
    if "{task}" in prompts.before_observation or "{admissible_commands}" in prompts.before_observation:
        rank_zero_warn(
            "rollout.prompt.turn_template has {task} or {admissible_commands} before {observation}: their tokens "
            "are not known beforehand, so nobody has checked that they fit the model's positions"
        )
    return len(prompts.turn("", [], loop.max_steps)[0])
