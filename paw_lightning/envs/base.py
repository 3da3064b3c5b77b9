"""The text environment: Gymnasium's signatures with plain strings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

FAILURES = (Exception, SystemExit)
"""What the code of an environment may raise, SystemExit included, as code with a command line inside does; Ctrl-C
(KeyboardInterrupt) is never caught."""
ROUNDING = 1e-6
"""A reward may be a sum of weighted parts: 0.7 + 0.2 + 0.1 is 0.9999999999999999."""


class TextEnv(ABC):
    """A world with tasks that is played in text.

    The class is built as ``Env(split, **init_args)``; ``split`` is "train", "val" or "test" and must change which
    tasks a seed stands for. Conventional ``info`` keys, all optional unless said otherwise:

    - ``task`` (reset): the goal as one sentence.
    - ``max_reward`` (reset): R_max, the largest attainable return; PaW's coefficient needs it here or in the config.
    - ``group_key`` (reset): names the task; episodes with equal keys start in the same state.
    - ``tools`` (reset): what can be called, as chat templates know it: a list of ``{"type": "function", "function":
      {"name": ..., "description": ..., "parameters": a JSON schema}}``. With ``rollout.prompt.action_format:
      tool_call`` it is required, and `step` gets one call, ``{"name": ..., "arguments": {...}}``: see `ToolEnv`.
    - ``admissible_commands`` (reset, step): actions the world would react to, sorted or in the order in which it shows
      them.
    - ``admissible_action`` (step): the world reacted to the action just played. Without it, an action is admissible if
      it is among the ``admissible_commands``; a world that takes free text (a search) has to say it.
    - ``won`` (step): the task is solved.
    - ``state_key`` (reset and every step, or never): names the state that the world is in now, in which it reacts to
      commands in one way. Credit by turn (GiGPO, HGPO, GraphGPO) compares turns of equal keys; without it, turns that
      saw the same text, which may read alike with a thing in hand and without. The policy never sees it.
    - ``kind`` (reset): what sort of task it is, such as "heat"; a test reports success by it.
    - ``environment`` (reset): which environment of a mixture the episode is played in.
    - ``nuisance_spans`` (reset, step): character spans ``[(start, end), ...]`` of the observation that
      nobody can predict.
    - ``predictable`` (step): False where the observation as a whole is no target for a world model, such as a last page
      that prints the reward.
    """

    num_tasks: int | None = None
    """How many distinct tasks the split holds; None when any seed gives a new one."""

    @abstractmethod
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start task number ``seed`` and return its first observation and info; beyond ``num_tasks`` start over.

        ``options["episode_seed"]`` seeds whatever is random *within* the episode, so that the k episodes of a group
        start alike and may still differ.
        """

    def begin_reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> None:  # noqa: B027
        """Set a reset going without waiting for it; the :meth:`reset` that follows with the same arguments returns it.

        The collector begins all environments before it waits for the first, so that those which work outside this
        process work side by side. An environment that computes in this process leaves it alone.
        """

    def begin_step(self, action: str) -> None:  # noqa: B027 - see begin_reset
        """Set a step going without waiting for it; the :meth:`step` that follows with the same action returns it."""

    @abstractmethod
    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one action; return observation, reward, terminated, truncated, info."""

    def peek(self, action: str) -> str:
        """The observation that ``action`` would get now; the state, random numbers included, does not change.

        Optional: only the control ``target_control.targets: wrong_action`` asks for it.
        """
        raise NotImplementedError(
            f"target_control.targets is 'wrong_action' and {type(self).__name__} cannot answer an action without "
            "playing it (it has no `peek`); wanted other targets or another rollout.environment"
        )

    def demonstrate(self) -> str:
        """What an expert would do now: a command, or a whole answer in the run's action format.

        Optional: only imitation (`rollout.advantage: Imitation`) asks for it, once before each step. The state does not
        change.
        """
        raise NotImplementedError(
            f"rollout.advantage is Imitation and {type(self).__name__} has no expert (no `demonstrate`); wanted a "
            "world that has one, or RecordedEpisodes with episodes of your own (rollout.environment)"
        )

    def close(self) -> None:  # noqa: B027 - most worlds hold nothing
        """Release whatever the environment holds."""
