"""One turn of an episode: what the policy has decided goes to the environment, and its answer is recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from paw_lightning.envs.base import FAILURES
from paw_lightning.rollouts.counterfactuals import counterfactual
from paw_lightning.rollouts.episodes import (
    EpisodeError,
    Player,
    check_info,
    check_observation,
    check_state_key,
    describe,
    was_admissible,
)
from paw_lightning.rollouts.layouts import Context
from paw_lightning.samplers.base import Generation
from paw_lightning.seeding import stable_seed
from paw_lightning.text.actions import ParsedAction
from paw_lightning.types import Transition


@dataclass(frozen=True)
class Outcome:
    """An environment's answer to a step."""

    observation: str
    reward: float
    done: bool
    info: dict[str, Any]
    admissible: list[str] | None
    nuisance_spans: list[tuple[int, int]]
    state_key: list[str]
    """Of the state now; empty where states have no names."""


@dataclass
class Turn:
    """What a player has read, written and decided."""

    player: Player
    context: Context
    generation: Generation
    answer_text: str
    """All that was written."""
    action: ParsedAction
    """What the environment gets of it."""
    other: str | None = None
    """The environment's answer to another action; None where nobody asked for it, or none exists."""
    came: Outcome | None = None
    """What the environment answered; None before it has, and where it failed."""

    def play(self, seed: Sequence[int | str] | None) -> None:
        """All that the environment has to do with it; `seed` asks for the answer to another action as well."""
        if seed is not None:
            self.ask_otherwise(seed)
        self.begin()
        self.step()

    def ask_otherwise(self, seed: Sequence[int | str]) -> None:
        """Ask for the answer to another action, before the step: a worker can only do one thing at a time."""
        p = self.player
        drawn = stable_seed(*seed, "counterfactual", p.episode.task_seed, p.episode.member, p.turn)
        try:
            self.other = counterfactual(p.env, p.admissible, self.action.text, drawn)
        except EpisodeError as error:
            p.failure = error

    def begin(self) -> None:
        """Set the environment's step going, as those outside this process work side by side."""
        p = self.player
        if p.failure is not None:
            return
        try:
            p.env.begin_step(self.action.text)
        except FAILURES as error:
            p.failure = EpisodeError(describe(p.env, f"step({self.action.text!r})", error))

    def step(self) -> None:
        """Wait for the environment's answer, and look whether it can be used; touches no tokenizer."""
        p, action = self.player, self.action
        if p.failure is not None:
            return
        try:
            observation, reward, terminated, truncated, info = p.env.step(action.text)
            done = bool(terminated or truncated)
            check_observation(observation, done)
            admissible = check_info(info)
            state_key = check_state_key(info, p.episode.state_keys)
            nuisance_spans = [(int(start), int(stop)) for start, stop in info.get("nuisance_spans", [])]
            reward = float(reward)
            if reward != reward or reward in (float("inf"), float("-inf")):
                raise ValueError(f"reward {reward!r}; wanted a finite number")
        except FAILURES as error:
            p.failure = EpisodeError(describe(p.env, f"step({action.text!r})", error))
            return
        self.came = Outcome(observation, reward, done, info, admissible, nuisance_spans, state_key)

    def record(self, encode: Callable[[str], list[int]], max_steps: int) -> None:
        """Record the transition, unless the environment failed."""
        p, action, came = self.player, self.action, self.came
        if came is None:
            return
        as_read = p.layout.prompts.chat.as_read
        observation, nuisance_spans = as_read(came.observation, came.nuisance_spans)
        other = None if self.other is None else encode(as_read(self.other, [])[0])
        p.episode.transitions.append(
            Transition(
                prompt_ids=self.context.prompt_ids,
                action_ids=self.generation.token_ids,
                sampled_logprobs=self.generation.logprobs,
                sampled_entropies=self.generation.entropies,
                action_text=action.text,
                observation_text=observation,
                anchor=p.observation,
                reward=came.reward,
                well_formed=action.well_formed,
                admissible=was_admissible(action, p.admissible, came.info),
                answer_text=self.answer_text,
                truncated=not self.generation.stopped,
                turn_ids=self.context.turn_ids,
                dropped_turns=self.context.dropped_turns,
                predictable=bool(came.info.get("predictable", True)),
                nuisance_spans=nuisance_spans,
                counterfactual_ids=other,
            )
        )
        p.episode.state_keys += came.state_key
        p.episode.last_observation = "" if observation == came.observation else came.observation
        p.observation, p.admissible = came.observation, came.admissible
        p.episode.finished = came.done
        p.done = came.done or p.turn == max_steps
        p.episode.won = p.episode.won or bool(came.info.get("won", False))
        p.layout.record(p.episode.transitions[-1], p.admissible or [])
