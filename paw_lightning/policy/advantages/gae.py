"""Generalised advantage estimation over action tokens (PPO), from a critic's values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from paw_lightning.errors import SettingsError
from paw_lightning.policy.advantages.base import EPSILON, KEY, Advantage, Level, check, inadmissible
from paw_lightning.types import Episode, Rollout, Transition, alike


@dataclass(frozen=True)
class GAE(Advantage):
    """Generalised advantage estimation over action tokens, from a critic's values (PPO).

    A_i = delta_i + gamma lambda A_{i+1} with delta_i = r_i + gamma V_{i+1} - V_i.

    A turn's reward, less the penalty if it was invalid, falls on its last action token, of a turn without any on the
    latest before it. V after the end is 0, whatever ended the episode: at a limit of turns or of context nothing is
    added for what might have followed (choice: the return that is learnt from is the one that is logged).

    Args:
        level: `trajectory` runs through the episode's action tokens in time order, skipping what lies between.
            `row` treats each turn alone, its last token rewarded with the whole return (verl-agent).
        gamma: discount per token, in [0, 1].
        gae_lambda: in [0, 1]; 1 uses returns alone, 0 trusts the critic.
        whiten: over the update, as verl-agent and TRL do (choice: on, as GRPO's z-score: the size of a step then
            does not depend on the size of the reward). The value targets stay as they are. Where all returns are equal
            it blows the critic's own noise up to that size.
        invalid_action_penalty: >= 0; subtracted from the reward of a turn whose text held no action.
    """

    reads_values: ClassVar[bool] = True
    relative: ClassVar[bool] = False

    level: Level = "trajectory"
    gamma: float = 1.0
    gae_lambda: float = 1.0
    whiten: bool = True
    invalid_action_penalty: float = 0.0

    def __post_init__(self) -> None:
        check(self.level, self.invalid_action_penalty)
        if not (0 <= self.gamma <= 1 and 0 <= self.gae_lambda <= 1):
            raise SettingsError(
                f"{KEY}.gamma and .gae_lambda are {self.gamma} and {self.gae_lambda}; wanted both in [0, 1]"
            )

    def write(self, rollout: Rollout, inadmissible_penalty: float = 0.0) -> None:
        """Write token_advantages and value_targets of every transition, and their mean as its `advantage`.

        Logs ``train/explained_variance``, see :func:`explained_variance`.
        """
        transitions = rollout.transitions
        for t, (advantages, target) in zip(transitions, self.of_update(rollout.episodes), strict=True):
            t.token_advantages, t.value_targets = advantages - inadmissible(t, inadmissible_penalty), target
            t.advantage = t.token_advantages.mean().item() if len(advantages) else 0.0
        values = torch.cat([_values(t) for t in transitions])
        targets = torch.cat([t.value_targets for t in transitions if t.value_targets is not None])
        explained = explained_variance(values, targets)
        if explained is not None:
            rollout.metrics["train/explained_variance"] = explained

    def of_update(self, episodes: Sequence[Episode]) -> list[tuple[Tensor, Tensor]]:
        """(Advantages, value targets) of every turn of an update, from the turns' old_values; whitened if asked for."""
        turns = [pair for episode in episodes for pair in self(episode, [_values(t) for t in episode.transitions])]
        if not self.whiten:
            return turns
        advantages = whiten([advantage for advantage, _ in turns])
        return [(advantage, target) for advantage, (_, target) in zip(advantages, turns, strict=True)]

    def __call__(self, episode: Episode, values: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """(Advantages, value targets) per turn, float [A] each, from the critic's values [A] of its tokens.

        Nothing is whitened here: one episode does not know the update's mean.
        """
        if not values:
            return []
        whole = self.level == "trajectory"
        rewards = [torch.zeros_like(v) for v in values]
        last = rewards[0]  # of the latest turn that has a token
        for t, tokens in zip(episode.transitions, rewards, strict=True):
            last = tokens if len(tokens) or not whole else last
            penalty = 0.0 if t.well_formed else self.invalid_action_penalty
            last[-1:] += (t.reward if whole else episode.episode_return) - penalty
        if not whole:
            return [
                gae(r, v, gamma=self.gamma, gae_lambda=self.gae_lambda) for r, v in zip(rewards, values, strict=True)
            ]
        joined = gae(torch.cat(rewards), torch.cat(list(values)), gamma=self.gamma, gae_lambda=self.gae_lambda)
        lengths = [len(v) for v in values]
        return list(zip(*(part.split(lengths) for part in joined), strict=True))


def gae(rewards: Tensor, values: Tensor, *, gamma: float = 1.0, gae_lambda: float = 1.0) -> tuple[Tensor, Tensor]:
    """Advantages [N] and value targets A + V [N] of consecutive tokens with rewards [N] and values [N]."""
    following_value = following_advantage = 0.0
    advantages = []
    for reward, value in zip(reversed(rewards.tolist()), reversed(values.tolist()), strict=True):
        delta = reward + gamma * following_value - value
        following_advantage = delta + gamma * gae_lambda * following_advantage
        following_value = value
        advantages.append(following_advantage)
    result = values.new_tensor(advantages[::-1])
    return result, result + values.detach()


def whiten(advantages: Sequence[Tensor]) -> list[Tensor]:
    """(A - mean A) / (std A + 1e-6) over all tokens of all turns, float [A] each; std is unbiased.

    Fewer than two tokens, or tokens that are all equal, have advantage 0.
    """
    tokens = torch.cat([torch.empty(0), *advantages])
    if len(tokens) < 2 or _constant(tokens):
        return [torch.zeros_like(a) for a in advantages]
    mean, scale = tokens.mean(), tokens.std() + EPSILON
    return [(a - mean) / scale for a in advantages]


def explained_variance(values: Tensor, targets: Tensor) -> float | None:
    """1 - Var(target - V) / Var(target) over N tokens; None where all targets are equal.

    1: the critic knows the returns; 0: it does as well as a constant; below 0: worse.
    """
    if len(targets) < 2 or _constant(targets):
        return None
    return 1 - ((targets - values).var() / targets.var()).item()


def _constant(tokens: Tensor) -> bool:
    return alike([tokens.min().item(), tokens.max().item()])


def _values(transition: Transition) -> Tensor:
    if transition.old_values is None:
        raise SettingsError("rollout.advantage is GAE, but the rollout has no values; wanted a critic (model.critic)")
    return transition.old_values
