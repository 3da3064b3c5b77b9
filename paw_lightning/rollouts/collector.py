"""Plays groups of episodes and records every transition token by token: in lock step, or each at its own pace."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from paw_lightning.envs.base import FAILURES, TextEnv
from paw_lightning.errors import ServerAwayError, SettingsError
from paw_lightning.rollouts.apart import Apart, Play
from paw_lightning.rollouts.demonstrations import Demonstrator
from paw_lightning.rollouts.episodes import (
    EpisodeError,
    FirstLook,
    Player,
    Seat,
    check_info,
    check_names,
    check_observation,
    close_quietly,
    describe,
    named_state,
    take_seats,
)
from paw_lightning.rollouts.layouts import Context, Layout, StepLayout
from paw_lightning.rollouts.timing import timed
from paw_lightning.rollouts.turns import Turn
from paw_lightning.samplers.base import Generation, Sampler
from paw_lightning.seeding import stable_seed, uniforms
from paw_lightning.text.prompts import PromptBuilder, PromptTooLongError
from paw_lightning.types import Episode, RolloutGroup

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (finished episodes, all episodes) after every turn."""


@dataclass
class PlayedGroups:
    """What came back from playing: complete groups, and what was lost on the way."""

    groups: list[RolloutGroup]
    failures: list[str]
    """One message for each group dropped because one of its episodes could not be played to its end."""
    seconds: dict[str, float]
    """Wall clock in "environment", "tokenization" and "generation"."""
    retried_episodes: int = 0
    """Episodes that were started again because their environment failed."""


class Collector:
    """Plays groups with one sampler and any number of copies of one environment.

    An episode whose environment fails is played again from its start, in a new environment and with the same seeds, up
    to `episode_retries` times; other seeds would favour episodes that happen not to fail. Then its whole group is
    dropped, never half of it: statistics over the survivors would be biased towards whatever does not crash.
    """

    def __init__(
        self,
        make_env: Callable[[], TextEnv],
        prompts: PromptBuilder,
        sampler: Sampler,
        *,
        max_steps: int,
        max_action_tokens: int,
        max_observation_tokens: int,
        stop_token_ids: Sequence[int],
        layout: type[Layout] = StepLayout,
        counterfactuals: bool = False,
        demonstrated: bool = False,
        episode_retries: int = 0,
        reached: Callable[[], bool] = lambda: False,
    ) -> None:
        self.make_env = make_env
        self.prompts = prompts
        self.sampler = sampler
        self.max_steps = max_steps
        self.max_action_tokens = max_action_tokens
        self.max_observation_tokens = max_observation_tokens
        self.stop_token_ids = frozenset(stop_token_ids)
        self.layout = layout
        self.counterfactuals = counterfactuals
        """Record with each turn the answer to another admissible action, drawn at random."""
        self.demonstrator = Demonstrator(max_action_tokens) if demonstrated else None
        """Writes the actions in the policy's place."""
        self.episode_retries = episode_retries
        self.reached = False
        """An episode has begun: what the settings name is there."""
        self._reached_elsewhere = reached
        self._idle: list[TextEnv] = []

    def play(
        self,
        task_seeds: Sequence[int],
        group_size: int,
        *,
        temperature: float,
        seed: Sequence[int | str],
        progress: Progress | None = None,
        earlier: Mapping[int, int] | None = None,
    ) -> PlayedGroups:
        """Play `group_size` episodes of each task to their ends or to max_steps.

        `earlier`: members of a task that other ranks play on this occasion; numbering goes on after them.

        `seed` names the occasion (run seed, iteration): with a task and a member it fixes an episode completely.

        An episode whose next decision context is too long ends there, as at max_steps; at its first turn there is
        nothing to keep, and its group is lost.
        """
        groups, seats = take_seats(task_seeds, group_size, earlier or {})
        sampler = self.sampler.session() if self.layout.grows else self.sampler
        play = Play(groups, sampler, temperature, seed, {}, defaultdict(float))
        tell = partial(_tell, progress, seats, play.failed)
        if not self.demonstrator and sampler.connections:
            Apart(self, play, tell).run(seats)
        else:
            self._play_in_step(seats, play, tell)
        return self._gather(task_seeds, seats, play)

    def keep(self, env: TextEnv) -> None:
        """Take over an environment that nobody plays in."""
        self._idle.append(env)

    def first_look(self, task_seed: int) -> FirstLook | None:
        """What an environment says at the start of a task; None where it fails, which `play` will report."""
        env = None
        try:
            env = self._idle.pop() if self._idle else self.make_env()
            observation, info = env.reset(seed=task_seed, options={"episode_seed": 0})
            check_observation(observation, False)
            check_info(info)
            self.reached = True
            return observation, info
        except FAILURES:
            return None
        finally:
            if env is not None:
                close_quietly(env)  # nobody has to bear a reset in the middle of an episode

    def close(self) -> None:
        """Close every environment."""
        while self._idle:
            close_quietly(self._idle.pop())

    def _gather(self, task_seeds: Sequence[int], seats: list[Seat], play: Play) -> PlayedGroups:
        """Hand out the groups that are whole, and keep the environments for the next."""
        self._idle += [seat.env for seat in seats if seat.env is not None]
        for seat in seats:
            if seat.group not in play.failed:
                assert seat.player is not None
                play.groups[seat.group].episodes.append(seat.player.episode)
        play.failed.update((g, wrong) for g, group in enumerate(play.groups) if (wrong := check_names(group.episodes)))
        for g, message in play.failed.items():
            logger.warning("dropped the whole group of task %s: %s", task_seeds[g], message)
        kept = [group for g, group in enumerate(play.groups) if g not in play.failed]
        retried = sum(bool(seat.errors) for seat in seats)
        return PlayedGroups(kept, list(play.failed.values()), play.seconds, retried)

    def _start(self, seats: list[Seat], play: Play) -> None:
        """Seat a player at the start of each seat's episode; all resets begin before the first is waited for."""
        errors = {seat: error for seat in seats if (error := self.open(seat, play.seed))}
        starts = {seat: self.reset(seat, play.seed) for seat in seats if seat not in errors}
        for seat, start in starts.items():
            if isinstance(start, EpisodeError):
                errors[seat] = start
            else:
                seat.player = self.seat(seat, play.groups[seat.group], *start)
        for seat, error in errors.items():
            self.fail(seat, error, play.failed)

    def open(self, seat: Seat, seed: Sequence[int | str]) -> EpisodeError | None:
        """Give a seat an environment and begin its reset; what went wrong, if anything."""
        try:
            # A second attempt gets a new environment: one that has failed is not trusted again.
            seat.env = self._idle.pop() if self._idle and not seat.errors else self.make_env()
            seat.env.begin_reset(seed=seat.task_seed, options=_options(seat, seed))
        except FAILURES as error:
            return self._lost(seat, error)
        return None

    def reset(self, seat: Seat, seed: Sequence[int | str]) -> FirstLook | EpisodeError:
        """Wait for the reset; touches no tokenizer."""
        assert seat.env is not None
        try:
            observation, info = seat.env.reset(seed=seat.task_seed, options=_options(seat, seed))
            check_observation(observation, False)
            check_info(info)
        except FAILURES as error:
            return self._lost(seat, error)
        self.reached = True
        return observation, info

    def _lost(self, seat: Seat, error: BaseException) -> EpisodeError:
        """What an episode that cannot begin costs: the run where a setting is wrong, as no retry would help."""
        away = isinstance(error, ServerAwayError) and (self.reached or self._reached_elsewhere())
        if isinstance(error, SettingsError) and not away:
            raise error
        return EpisodeError(describe(seat.env, "reset", error))

    def seat(self, seat: Seat, group: RolloutGroup, observation: str, info: dict[str, Any]) -> Player:
        assert seat.env is not None
        group.group_key = str(info.get("group_key", seat.task_seed))
        largest = info.get("max_reward")
        group.max_return = None if largest is None else float(largest)
        group.environment = str(info.get("environment", ""))
        episode = Episode(
            seat.task_seed,
            seat.member,
            str(info.get("task", "")),
            kind=str(info.get("kind") or ""),
            errors=list(seat.errors),
            state_keys=named_state(info),
        )
        prompts = self.prompts.with_tools(info.get("tools"))
        layout = self.layout(prompts, episode.task, observation, self.max_observation_tokens)
        return Player(seat.env, episode, observation, check_info(info), layout)

    def fail(self, seat: Seat, error: EpisodeError, failed: dict[int, str]) -> None:
        """Clear a seat for the next attempt, or give its group up when there is none."""
        if seat.env is not None:
            close_quietly(seat.env)
        seat.env = seat.player = None
        if error.retry and len(seat.errors) < self.episode_retries and seat.group not in failed:
            seat.errors.append(str(error))
            logger.warning("playing an episode of task %s again: %s", seat.task_seed, error)
        else:
            failed.setdefault(seat.group, str(error))

    # In lock step

    def _play_in_step(self, seats: list[Seat], play: Play, tell: Callable[[], None]) -> None:
        """All episodes' next turns at a time, for samplers that write them together."""
        while active := [seat for seat in seats if not seat.done and seat.group not in play.failed]:
            with timed(play.seconds, "environment"):
                self._start([seat for seat in active if seat.player is None], play)
            self._play_turn([s.player for s in active if s.player is not None and s.group not in play.failed], play)
            for seat in active:
                if seat.player is not None and seat.player.failure is not None:
                    self.fail(seat, seat.player.failure, play.failed)
            tell()

    def _play_turn(self, active: list[Player], play: Play) -> None:
        with timed(play.seconds, "tokenization"):
            ready = [(p, context) for p in active if (context := self.context(p))]
        if not ready:
            return
        if self.demonstrator:
            with timed(play.seconds, "environment"):
                shown = [(p, context, self._shown(p, self.demonstrator)) for p, context in ready]
            ready = [(p, context) for p, context, answer in shown if answer]
            generations = [answer for _, _, answer in shown if answer]
        else:
            noise = [self.noise(p, play.seed) for p, _ in ready]
            with timed(play.seconds, "generation"):
                generations = play.sampler.generate(
                    [context.ids for _, context in ready],
                    temperature=play.temperature,
                    max_new_tokens=self.max_action_tokens,
                    uniforms=torch.stack(noise),
                )
        with timed(play.seconds, "tokenization"):
            turns = [self.read(*player, answer) for player, answer in zip(ready, generations, strict=True)]
        with timed(play.seconds, "environment"):
            for turn in turns:
                if self.counterfactuals:
                    turn.ask_otherwise(play.seed)
                turn.begin()
            for turn in turns:
                turn.step()
        with timed(play.seconds, "tokenization"):
            for turn in turns:
                turn.record(self.encode, self.max_steps)

    def _shown(self, p: Player, demonstrator: Demonstrator) -> Generation | None:
        """What the environment's expert writes; None where it fails."""
        try:
            return demonstrator.answer(p.env, p.layout.prompts)
        except EpisodeError as error:
            p.failure = error
            return None

    def context(self, p: Player) -> Context | None:
        """The player's decision context; None when it has none, which ends its episode or costs its group."""
        try:
            return p.layout.context(p.observation, p.admissible or [])
        except ValueError as error:
            if isinstance(error, PromptTooLongError) and p.turn:
                p.done = p.episode.overflowed = True
            else:
                p.failure = EpisodeError(str(error), retry=False)
            return None

    def read(self, p: Player, context: Context, generation: Generation) -> Turn:
        prompts = p.layout.prompts
        answer = prompts.chat.read_answer(generation.token_ids, self.stop_token_ids)
        return Turn(p, context, generation, answer.text, prompts.form.read(answer.text, answer.opened))

    def noise(self, p: Player, seed: Sequence[int | str]) -> Tensor:
        """The random numbers of a player's next action."""
        return uniforms(self.max_action_tokens, *seed, p.episode.task_seed, p.episode.member, p.turn)

    def encode(self, text: str) -> list[int]:
        return self.prompts.chat.encode_within(text, self.max_observation_tokens)


def _options(seat: Seat, seed: Sequence[int | str]) -> dict[str, Any]:
    return {"episode_seed": stable_seed(*seed, seat.task_seed, seat.member)}


def _tell(progress: Progress | None, seats: Sequence[Seat], failed: Mapping[int, str]) -> None:
    if progress:
        progress(sum(seat.done or seat.group in failed for seat in seats), len(seats))
