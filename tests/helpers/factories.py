"""Transitions, episodes and groups for tests, with every field that a test does not care about filled in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paw_lightning.types import Episode, RolloutGroup, Transition


def make_transition(**overrides: Any) -> Transition:
    """A well-formed turn: three prompt, two action, one bridge and three observation tokens; reward 0."""
    fields: dict[str, Any] = {
        "prompt_ids": [1, 2, 3],
        "action_ids": [4, 5],
        "bridge_ids": [6],
        "observation_ids": [7, 8, 9],
        "sampled_logprobs": [-0.5, -1.0],
        "sampled_entropies": [0.4, 0.6],
        "token_entropies": [0.4, 0.6],
        "action_text": "look",
        "observation_text": "a room",
        "anchor": "a hall",
        "reward": 0.0,
        "well_formed": True,
        "admissible": True,
    }
    return Transition(**(fields | overrides))


def make_episode(transitions: Sequence[Transition], **overrides: Any) -> Episode:
    fields: dict[str, Any] = {"task_seed": 0, "member": 0, "task": "find it", "finished": True}
    return Episode(transitions=list(transitions), **(fields | overrides))


def make_group(
    returns: Sequence[float],
    turns: Sequence[int],
    *,
    invalid: Sequence[tuple[int, int]] = (),
    anchors: Sequence[Sequence[str]] | None = None,
    **overrides: Any,
) -> RolloutGroup:
    """One episode per return, paid on its last of `turns[j]` turns.

    `invalid` names (episode, turn) pairs whose text held no action; anchors are all different unless given.
    """
    episodes = []
    for j, (value, count) in enumerate(zip(returns, turns, strict=True)):
        transitions = [
            make_transition(
                reward=value if i == count - 1 else 0.0,
                well_formed=(j, i) not in invalid,
                anchor=anchors[j][i] if anchors else f"episode {j}, turn {i}",
            )
            for i in range(count)
        ]
        episodes.append(make_episode(transitions, member=j, won=value > 0))
    fields: dict[str, Any] = {"group_key": "task 0", "max_return": 10.0}
    return RolloutGroup(episodes=episodes, **(fields | overrides))
