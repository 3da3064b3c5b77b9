"""Plays groups of episodes in lock step and records every transition token by token."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from paw_lightning.envs.base import TextEnv
from paw_lightning.rollouts.sampler import Generation
from paw_lightning.seeding import stable_seed, uniforms
from paw_lightning.tokenization import ParsedAction, PromptBuilder, Turn, parse_action
from paw_lightning.types import Episode, RolloutGroup, Transition

logger = logging.getLogger(__name__)


class Sampler(Protocol):
    """Turns prompts into actions; see :class:`paw_lightning.rollouts.sampler.NativeSampler`."""

    def generate(
        self, prompts: list[list[int]], *, temperature: float, max_new_tokens: int, uniforms: torch.Tensor
    ) -> list[Generation]: ...


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


@dataclass(eq=False)
class _Seat:
    """One place in a group, its environment, and the attempt at its episode that is under way."""

    group: int
    task_seed: int
    member: int
    attempts: int = 0
    env: TextEnv | None = None
    player: _Player | None = None

    @property
    def done(self) -> bool:
        return self.player is not None and self.player.done


@dataclass
class _Player:
    """One running episode with its environment."""

    env: TextEnv
    episode: Episode
    observation: str
    admissible: list[str] | None
    initial: str
    turns: list[Turn] = field(default_factory=list)
    done: bool = False
    failure: EpisodeError | None = None


class EpisodeError(RuntimeError):
    """This attempt at an episode cannot be finished; `retry` says whether another could be."""

    def __init__(self, message: str, *, retry: bool = True) -> None:
        super().__init__(message)
        self.retry = retry


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
        episode_retries: int = 0,
    ) -> None:
        self.make_env = make_env
        self.prompts = prompts
        self.sampler = sampler
        self.max_steps = max_steps
        self.max_action_tokens = max_action_tokens
        self.max_observation_tokens = max_observation_tokens
        self.stop_token_ids = frozenset(stop_token_ids)
        self.episode_retries = episode_retries
        self._idle: list[TextEnv] = []

    def play(
        self,
        task_seeds: Sequence[int],
        group_size: int,
        *,
        temperature: float,
        seed: Sequence[int | str],
        progress: Progress | None = None,
    ) -> PlayedGroups:
        """Play `group_size` episodes of each task to their ends or to max_steps.

        `seed` names the occasion (run seed, iteration): with a task and a member it fixes an episode completely.
        """
        seconds: dict[str, float] = defaultdict(float)
        failed: dict[int, str] = {}
        groups, seats = _seats(task_seeds, group_size)
        while active := [seat for seat in seats if not seat.done and seat.group not in failed]:
            with timed(seconds, "environment"):
                self._start([seat for seat in active if seat.player is None], groups, seed, failed)
            players = [seat.player for seat in active if seat.player is not None and seat.group not in failed]
            self._play_turn(players, temperature, seed, seconds)
            for seat in active:
                if seat.player is not None and seat.player.failure is not None:
                    self._fail(seat, seat.player.failure, failed)
            if progress:
                progress(sum(seat.done or seat.group in failed for seat in seats), len(seats))
        self._idle += [seat.env for seat in seats if seat.env is not None]
        for g, group in enumerate(groups):
            if g in failed:
                logger.warning("dropped the whole group of task %s: %s", task_seeds[g], failed[g])
            else:
                group.episodes = [seat.player.episode for seat in seats if seat.group == g and seat.player is not None]
        kept = [group for g, group in enumerate(groups) if g not in failed]
        return PlayedGroups(kept, list(failed.values()), seconds, sum(seat.attempts > 0 for seat in seats))

    def keep(self, env: TextEnv) -> None:
        """Take over an environment that nobody plays in."""
        self._idle.append(env)

    def close(self) -> None:
        """Close every environment."""
        while self._idle:
            close_quietly(self._idle.pop())

    def _start(
        self, seats: list[_Seat], groups: list[RolloutGroup], seed: Sequence[int | str], failed: dict[int, str]
    ) -> None:
        """Seat a player at the start of each seat's episode; all resets begin before the first is waited for."""
        errors: dict[_Seat, EpisodeError] = {}
        options = {seat: {"episode_seed": stable_seed(*seed, seat.task_seed, seat.member)} for seat in seats}
        for seat in seats:
            try:
                # A second attempt gets a new environment: what an old one is worth after a failure nobody knows.
                seat.env = self._idle.pop() if self._idle and not seat.attempts else self.make_env()
                seat.env.begin_reset(seed=seat.task_seed, options=options[seat])
            except Exception as error:  # the environment is foreign code: anything may come
                errors[seat] = EpisodeError(_describe(seat.env, "reset", error))
        for seat in seats:
            if seat not in errors:
                try:
                    seat.player = self._reset(seat, groups[seat.group], options[seat])
                except EpisodeError as error:
                    errors[seat] = error
        for seat in errors:
            self._fail(seat, errors[seat], failed)

    def _reset(self, seat: _Seat, group: RolloutGroup, options: dict[str, Any]) -> _Player:
        assert seat.env is not None
        try:
            observation, info = seat.env.reset(seed=seat.task_seed, options=options)
            _check_observation(observation, False)
            admissible = _check_info(info)
        except Exception as error:  # the environment is foreign code: anything may come
            raise EpisodeError(_describe(seat.env, "reset", error)) from error
        group.group_key = str(info.get("group_key", seat.task_seed))
        group.max_return = info.get("max_reward")
        group.environment = str(info.get("environment", ""))
        episode = Episode(seat.task_seed, seat.member, str(info.get("task", "")))
        return _Player(seat.env, episode, observation, admissible, observation)

    def _fail(self, seat: _Seat, error: EpisodeError, failed: dict[int, str]) -> None:
        """Clear a seat for the next attempt, or give its group up when there is none."""
        if seat.env is not None:
            close_quietly(seat.env)
        seat.env = seat.player = None
        if error.retry and seat.attempts < self.episode_retries and seat.group not in failed:
            seat.attempts += 1
            logger.warning("playing an episode of task %s again: %s", seat.task_seed, error)
        else:
            failed.setdefault(seat.group, str(error))

    def _play_turn(
        self, active: list[_Player], temperature: float, seed: Sequence[int | str], seconds: dict[str, float]
    ) -> None:
        prompts, ready = [], []
        with timed(seconds, "tokenization"):
            for p in active:
                try:
                    prompts.append(
                        self.prompts.build(p.episode.task, p.observation, p.turns, p.initial, p.admissible or [])
                    )
                    ready.append(p)
                except ValueError as error:
                    p.failure = EpisodeError(str(error), retry=False)
            noise = [
                uniforms(self.max_action_tokens, *seed, p.episode.task_seed, p.episode.member, len(p.turns))
                for p in ready
            ]
        if not ready:
            return
        with timed(seconds, "generation"):
            generations = self.sampler.generate(
                prompts,
                temperature=temperature,
                max_new_tokens=self.max_action_tokens,
                uniforms=torch.stack(noise),
            )
        with timed(seconds, "tokenization"):
            actions = [self._parse(generation) for generation in generations]
        with timed(seconds, "environment"):
            for p, action in zip(ready, actions, strict=True):
                self._begin(p, action)
            for p, prompt_ids, generation, action in zip(ready, prompts, generations, actions, strict=True):
                if p.failure is None:
                    self._act(p, prompt_ids, generation, action)
        with timed(seconds, "tokenization"):
            for p in ready:
                if p.failure is None:
                    self._encode_observation(p.episode.transitions[-1])

    def _parse(self, generation: Generation) -> ParsedAction:
        words = [i for i in generation.token_ids if i not in self.stop_token_ids]
        text = self.prompts.chat.tokenizer.decode(words, skip_special_tokens=True)
        return parse_action(text, self.prompts.prompt.action_format)

    def _begin(self, p: _Player, action: ParsedAction) -> None:
        """Set a step going: environments outside this process work side by side."""
        try:
            p.env.begin_step(action.text)
        except Exception as error:  # the environment is foreign code: anything may come
            p.failure = EpisodeError(_describe(p.env, f"step({action.text!r})", error))

    def _act(self, p: _Player, prompt_ids: list[int], generation: Generation, action: ParsedAction) -> None:
        """Send one action to one environment and record the transition, or why there is none."""
        try:
            observation, reward, terminated, truncated, info = p.env.step(action.text)
            done = bool(terminated or truncated)
            _check_observation(observation, done)
            admissible = _check_info(info)
            reward = float(reward)
            if reward != reward or reward in (float("inf"), float("-inf")):
                raise ValueError(f"reward {reward!r}; wanted a finite number")
        except Exception as error:  # the environment is foreign code: anything may come
            p.failure = EpisodeError(_describe(p.env, f"step({action.text!r})", error))
            return
        p.episode.transitions.append(
            Transition(
                prompt_ids=prompt_ids,
                action_ids=generation.token_ids,
                bridge_ids=self.prompts.chat.bridge_after(generation.token_ids),
                observation_ids=[],
                sampled_logprobs=generation.logprobs,
                token_entropies=generation.entropies,
                action_text=action.text,
                observation_text=observation,
                anchor=p.observation,
                reward=reward,
                well_formed=action.well_formed,
                admissible=action.well_formed if p.admissible is None else action.text in p.admissible,
                truncated=not generation.stopped,
            )
        )
        p.turns.append(Turn(p.observation, action.text))
        p.observation, p.admissible = observation, admissible
        p.episode.finished = done
        p.done = done or len(p.turns) == self.max_steps
        p.episode.won = p.episode.won or bool(info.get("won", False))

    def _encode_observation(self, transition: Transition) -> None:
        ids = self.prompts.chat.encode_text(transition.observation_text)
        if len(ids) <= self.max_observation_tokens:
            transition.observation_ids = ids


def _seats(task_seeds: Sequence[int], group_size: int) -> tuple[list[RolloutGroup], list[_Seat]]:
    groups = [RolloutGroup(group_key=str(seed), max_return=None, episodes=[]) for seed in task_seeds]
    seats: list[_Seat] = []
    earlier: dict[int, int] = defaultdict(int)  # a task played twice has members 0..k-1, then k..2k-1
    for g, task_seed in enumerate(task_seeds):
        first = earlier[task_seed]
        earlier[task_seed] += group_size
        seats += [_Seat(g, task_seed, member) for member in range(first, first + group_size)]
    return groups, seats


def _check_observation(observation: Any, terminal: bool) -> None:
    """Only the last observation of an episode may be empty: there is nothing to act on in an empty one."""
    if not isinstance(observation, str):
        raise TypeError(f"observation of type {type(observation).__name__}; wanted a str")
    if not observation.strip() and not terminal:
        raise ValueError("an empty observation in the middle of an episode; wanted text")


def _check_info(info: Any) -> list[str] | None:
    """Return the admissible commands after checking what a group's statistics and prompts will be made of."""
    if not isinstance(info, dict):
        raise TypeError(f"info of type {type(info).__name__}; wanted a dict")
    largest = info.get("max_reward")
    if largest is not None and not isinstance(largest, int | float):
        raise TypeError(f"info['max_reward'] is {largest!r}; wanted a number")
    admissible = info.get("admissible_commands")
    if admissible is not None and not all(isinstance(command, str) for command in admissible):
        raise TypeError("info['admissible_commands'] holds something that is not a str")
    return None if admissible is None else list(admissible)


def close_quietly(env: TextEnv) -> None:
    """Close an environment; one that fails at that must not take the run along."""
    try:
        env.close()
    except Exception as error:  # the environment is foreign code: anything may come
        logger.warning("%s", _describe(env, "close", error))


def _describe(env: TextEnv | None, call: str, error: Exception) -> str:
    name = "the environment" if env is None else type(env).__name__
    return f"{name}.{call} failed with {type(error).__name__}: {error} (rollout.environment)"


class timed:
    """Adds the wall clock of a block to a dictionary entry."""

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self.seconds, self.name = seconds, name

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self.seconds[self.name] = self.seconds.get(self.name, 0.0) + time.perf_counter() - self.start
