"""PaW as pure functions, for a training loop of your own: no Lightning, no configuration (docs/api.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from paw_lightning.models.linear_logprob import linear_logprob
from paw_lightning.policy.advantages import GRPO, HGPO, RLOO, GiGPO, GraphGPO
from paw_lightning.policy.losses import PolicyLoss
from paw_lightning.types import Episode, RolloutGroup, Transition
from paw_lightning.world_model.coefficient import reward_adaptive_coefficient
from paw_lightning.world_model.loss import WorldModelLoss, target_token_weights
from paw_lightning.world_model.selection import action_entropy, select_top_entropy

__all__ = [
    "GRPO",
    "HGPO",
    "RLOO",
    "GiGPO",
    "GraphGPO",
    "PolicyLoss",
    "WorldModelLoss",
    "action_entropy",
    "group_advantages",
    "linear_logprob",
    "reward_adaptive_coefficient",
    "select_top_entropy",
    "target_token_weights",
]


def group_advantages(
    advantage: Callable[[RolloutGroup], list[float]],
    turn_rewards: Sequence[Sequence[float]],
    *,
    anchors: Sequence[Sequence[str]] | None = None,
    well_formed: Sequence[Sequence[bool]] | None = None,
    won: Sequence[bool] | None = None,
    states: Sequence[Sequence[str]] | None = None,
) -> list[list[float]]:
    """One advantage per turn of each episode of one group, from plain numbers.

    Args:
        advantage: GRPO(), RLOO(), GiGPO(), GraphGPO(), HGPO() or any other callable of a group.
        turn_rewards: per episode, the reward of each turn; an episode of which only the return counts is one turn.
        anchors: the text each action was chosen in; needed where turns are compared with each other (GiGPO,
            GraphGPO, HGPO).
        well_formed: False where a turn's text held no action; read by an `invalid_action_penalty`.
        won: per episode, whether its last turn led to success; GraphGPO measures how far every turn is from one.
        states: per episode, the name of the state before each turn and of the one after the last. Where they are
            told, turns are compared by them and not by anchors.

    Raises:
        ValueError: anchors or well_formed do not have the shape of turn_rewards, won is not one per episode, or states
            are not one more than an episode has turns.

    Example::

        group_advantages(GraphGPO(), [[0.0, 1.0], [0.0]], won=[True, False], states=[["a", "b", "end"], ["a", "c"]])
    """
    shape = [len(rewards) for rewards in turn_rewards]
    for name, rows in (("anchors", anchors), ("well_formed", well_formed)):
        if rows is not None and (came := [len(row) for row in rows]) != shape:
            raise ValueError(f"{name} has {came} turns; wanted those of turn_rewards, {shape}")
    if won is not None and len(won) != len(shape):
        raise ValueError(f"won has {len(won)} episodes; wanted those of turn_rewards, {len(shape)}")
    if states is not None and (came := [len(row) for row in states]) != [count + 1 for count in shape]:
        raise ValueError(f"states has {came} names; wanted one more than turn_rewards has turns, {shape}")
    episodes = []
    for i, rewards in enumerate(turn_rewards):
        texts = anchors[i] if anchors else [f"{i}, {turn}" for turn in range(len(rewards))]  # nothing matches
        valid = well_formed[i] if well_formed else [True] * len(rewards)
        turns = [_turn(*row) for row in zip(rewards, texts, valid, strict=True)]
        names = list(states[i]) if states else []
        episodes.append(
            Episode(task_seed=0, member=i, task="", transitions=turns, won=bool(won and won[i]), state_keys=names)
        )
    values = iter(advantage(RolloutGroup("", None, episodes)))
    return [list(islice(values, count)) for count in shape]


def _turn(reward: float, anchor: str, well_formed: bool) -> Transition:
    """A transition without tokens: what an advantage reads, and no more."""
    return Transition(
        prompt_ids=[],
        action_ids=[],
        bridge_ids=[],
        observation_ids=[],
        sampled_logprobs=[],
        sampled_entropies=[],
        action_text="",
        observation_text="",
        anchor=anchor,
        reward=reward,
        well_formed=well_formed,
        admissible=True,
    )
