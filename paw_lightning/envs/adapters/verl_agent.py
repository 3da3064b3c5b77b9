"""Environment managers in the manner of verl-agent, of which one environment is played."""

from __future__ import annotations

import importlib
from typing import Any

from paw_lightning.envs.base import TextEnv


class ManagedEnv(TextEnv):
    """Plays an environment manager with a batch of one: its ``reset(kwargs)`` and ``step(texts)`` work on lists.

    Such a manager returns ``({"text": [...], "anchor": [...]}, infos)`` from reset and ``(observations, rewards, dones,
    infos)`` from step, and reads the action out of the policy's text by itself. Its "text" is a whole prompt with the
    history in it, its "anchor" the bare observation; the latter is taken where there is one, since the prompt here is
    written by ``rollout.prompt``. Use a WorkerEnv: those managers are made to own their process.

    Args:
        split: handed on.
        factory: dotted path of a callable that returns the manager: ``factory(split, **arguments)``.
        arguments: of the factory.
        action_template: what the manager is sent; "{action}" stands for the action as ``rollout.prompt.action_format``
            reads it.
        max_reward: R_max; None leaves it to reward_balance.max_return.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        factory: str,
        arguments: dict[str, Any] | None = None,
        action_template: str = "<think></think><action>{action}</action>",
        max_reward: float | None = 10.0,
    ) -> None:
        module, _, name = factory.rpartition(".")
        self._manager = getattr(importlib.import_module(module), name)(split, **(arguments or {}))
        self._split, self._template, self._max_reward = split, action_template, max_reward

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode; the manager's kwargs are one dictionary with the seed and the split."""
        observations, infos = self._manager.reset([{"seed": seed, "split": self._split}])
        info = self._info(infos) | {"group_key": f"{self._split}/{seed}"}
        return self._text(observations), info if self._max_reward is None else info | {"max_reward": self._max_reward}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one action."""
        observations, rewards, dones, infos = self._manager.step([self._template.replace("{action}", action)])
        return self._text(observations), float(rewards[0]), bool(dones[0]), False, self._info(infos)

    def close(self) -> None:
        """Close the manager, if it can be."""
        getattr(self._manager, "close", lambda: None)()

    @staticmethod
    def _text(observations: dict[str, Any]) -> str:
        anchors = observations.get("anchor")
        return str((observations["text"] if anchors is None else anchors)[0])

    @staticmethod
    def _info(infos: list[dict[str, Any]]) -> dict[str, Any]:
        info = dict(infos[0])
        admissible = info.get("admissible_commands")
        return info if admissible is None else info | {"admissible_commands": sorted(admissible)}
