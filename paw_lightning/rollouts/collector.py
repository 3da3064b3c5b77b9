"""Plays groups of episodes in lock step and records every transition token by token."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from paw_lightning.envs.base import TextEnv
from paw_lightning.rollouts.layouts import LAYOUTS, Context, Layout, LayoutName
from paw_lightning.rollouts.sampler import Generation, Sampler, SessionSampler
from paw_lightning.seeding import stable_seed, uniforms
from paw_lightning.tokenization import ParsedAction, PromptBuilder, PromptTooLongError, parse_action
from paw_lightning.types import Episode, RolloutGroup, Transition

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


@dataclass
class _Player:
    """One running episode with its environment."""

    env: TextEnv
    group: int
    episode: Episode
    observation: str
    admissible: list[str] | None
    layout: Layout
    done: bool = False


@dataclass
class _Play:
    """What all turns of one call of `play` share."""

    sampler: Sampler
    temperature: float
    seed: Sequence[int | str]
    failed: dict[int, str]
    """Group -> why it is lost."""
    seconds: dict[str, float]


class EpisodeError(RuntimeError):
    """An environment misbehaved; the episode, and with it its whole group, is lost."""


class Collector:
    """Plays groups with one sampler and any number of copies of one environment.

    A failing environment costs its whole group, never half of one: statistics over the survivors of a group would be
    biased towards whatever does not crash.
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
        layout: LayoutName = "step",
        counterfactuals: bool = False,
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
        seconds: dict[str, float] = defaultdict(float)
        failed: dict[int, str] = {}
        sampler = self.sampler
        if self.layout == "episode" and isinstance(sampler, SessionSampler):
            sampler = sampler.session()
        play = _Play(sampler, temperature, seed, failed, seconds)
        with timed(seconds, "environment"):
            groups, players = self._start(task_seeds, group_size, seed, failed, earlier or {})
        for turn in range(self.max_steps):
            active = [p for p in players if not p.done and p.group not in failed]
            if not active:
                break
            self._play_turn(active, turn, play)
            if progress:
                progress(sum(p.done or p.group in failed for p in players), len(players))
        for p in players:
            # What an environment is worth after a failure of its group nobody knows: the next group gets a new one.
            (close_quietly if p.group in failed else self._idle.append)(p.env)
        for g, message in failed.items():
            logger.warning("dropped the whole group of task %s: %s", task_seeds[g], message)
        kept = [group for g, group in enumerate(groups) if g not in failed]
        return PlayedGroups(kept, list(failed.values()), seconds)

    def close(self) -> None:
        """Close every environment."""
        while self._idle:
            close_quietly(self._idle.pop())

    def _start(
        self,
        task_seeds: Sequence[int],
        group_size: int,
        seed: Sequence[int | str],
        failed: dict[int, str],
        played: Mapping[int, int],
    ) -> tuple[list[RolloutGroup], list[_Player]]:
        groups: list[RolloutGroup] = []
        players: list[_Player] = []
        earlier = defaultdict(int, played)  # a task played twice has members 0..k-1, then k..2k-1
        for g, task_seed in enumerate(task_seeds):
            group = RolloutGroup(group_key=str(task_seed), max_return=None, episodes=[])
            groups.append(group)
            first = earlier[task_seed]
            earlier[task_seed] += group_size
            for member in range(first, first + group_size):
                env = None
                try:
                    env = self._idle.pop() if self._idle else self.make_env()
                    options = {"episode_seed": stable_seed(*seed, task_seed, member)}
                    observation, info = env.reset(seed=task_seed, options=options)
                    _check_observation(observation, False)
                    admissible = _check_info(info)
                except Exception as error:  # the environment is foreign code: anything may come
                    failed[g] = _describe(env, "reset", error)
                    if env is not None:
                        close_quietly(env)
                    break
                task = str(info.get("task", ""))
                group.group_key = str(info.get("group_key", task_seed))
                group.max_return = info.get("max_reward")
                episode = Episode(task_seed, member, task)
                group.episodes.append(episode)
                layout = LAYOUTS[self.layout](self.prompts, task, observation, self.max_observation_tokens)
                players.append(_Player(env, g, episode, observation, admissible, layout))
        return groups, players

    def _play_turn(self, active: list[_Player], turn: int, play: _Play) -> None:
        with timed(play.seconds, "tokenization"):
            ready = [(p, context) for p in active if (context := self._context(p, play.failed))]
            noise = [
                uniforms(self.max_action_tokens, *play.seed, p.episode.task_seed, p.episode.member, turn)
                for p, _ in ready
            ]
        if not ready:
            return
        with timed(play.seconds, "generation"):
            generations = play.sampler.generate(
                [context.ids for _, context in ready],
                temperature=play.temperature,
                max_new_tokens=self.max_action_tokens,
                uniforms=torch.stack(noise),
            )
        for (p, context), generation in zip(ready, generations, strict=True):
            if p.group in play.failed:
                continue
            with timed(play.seconds, "environment"):
                try:
                    self._act(p, context, generation, play.seed)
                except EpisodeError as error:
                    play.failed[p.group] = str(error)
        with timed(play.seconds, "tokenization"):
            for p, _ in ready:
                if p.group not in play.failed:
                    p.layout.record(p.episode.transitions[-1], p.admissible or [])

    def _context(self, p: _Player, failed: dict[int, str]) -> Context | None:
        """The player's decision context; None when it has none, which ends its episode or costs its group."""
        try:
            return p.layout.context(p.observation, p.admissible or [])
        except ValueError as error:
            if isinstance(error, PromptTooLongError) and p.episode.transitions:
                p.done = p.episode.overflowed = True
            else:
                failed[p.group] = str(error)
            return None

    def _act(self, p: _Player, context: Context, generation: Generation, seed: Sequence[int | str]) -> None:
        """Send one action to one environment and record the transition."""
        tokenizer = self.prompts.chat.tokenizer
        words = [i for i in generation.token_ids if i not in self.stop_token_ids]
        action = parse_action(tokenizer.decode(words, skip_special_tokens=True), self.prompts.prompt.action_format)
        counterfactual = self._peek(p, action.text, seed) if self.counterfactuals else None
        try:
            observation, reward, terminated, truncated, info = p.env.step(action.text)
            done = bool(terminated or truncated)
            _check_observation(observation, done)
            admissible = _check_info(info)
            nuisance_spans = [(int(start), int(stop)) for start, stop in info.get("nuisance_spans", [])]
            reward = float(reward)
            if reward != reward or reward in (float("inf"), float("-inf")):
                raise ValueError(f"reward {reward!r}; wanted a finite number")
        except Exception as error:  # the environment is foreign code: anything may come
            raise EpisodeError(_describe(p.env, f"step({action.text!r})", error)) from error
        p.episode.transitions.append(
            Transition(
                prompt_ids=context.prompt_ids,
                action_ids=generation.token_ids,
                bridge_ids=[],
                observation_ids=[],
                sampled_logprobs=generation.logprobs,
                token_entropies=generation.entropies,
                action_text=action.text,
                observation_text=observation,
                anchor=p.observation,
                reward=reward,
                well_formed=action.well_formed,
                admissible=_was_admissible(action, p.admissible, info),
                truncated=not generation.stopped,
                turn_ids=context.turn_ids,
                dropped_turns=context.dropped_turns,
                predictable=bool(info.get("predictable", True)),
                nuisance_spans=nuisance_spans,
                counterfactual_ids=None if counterfactual is None else self._fitting(counterfactual),
            )
        )
        p.observation, p.admissible = observation, admissible
        p.done, p.episode.finished = done, done
        p.episode.won = p.episode.won or bool(info.get("won", False))

    def _peek(self, p: _Player, taken: str, seed: Sequence[int | str]) -> str | None:
        """The answer to another admissible action than the one taken; None where there is no other."""
        others = sorted(set(p.admissible or []) - {taken})
        if p.admissible is None:
            raise NotImplementedError(
                f"{type(p.env).__name__} lists no info['admissible_commands'], of which target_control.targets: "
                "wrong_action draws another action; choose other targets or another rollout.environment"
            )
        if not others:
            return None
        turn = len(p.episode.transitions)
        drawn = stable_seed(*seed, "counterfactual", p.episode.task_seed, p.episode.member, turn) % len(others)
        try:
            observation = p.env.peek(others[drawn])
            _check_observation(observation, True)
        except NotImplementedError:
            raise  # not a broken episode but a setting that this environment cannot meet: no group could be played
        except Exception as error:  # the environment is foreign code: anything may come
            raise EpisodeError(_describe(p.env, f"peek({others[drawn]!r})", error)) from error
        return observation

    def _fitting(self, text: str) -> list[int]:
        """Token ids of an observation; none for one that is longer than the limit."""
        ids = self.prompts.chat.encode_text(text)
        return ids if len(ids) <= self.max_observation_tokens else []


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


def _was_admissible(action: ParsedAction, listed: list[str] | None, info: dict[str, Any]) -> bool:
    """The environment's word for it, else its list's; without either any well-formed action is."""
    otherwise = action.well_formed if listed is None else action.text in listed
    return bool(info.get("admissible_action", otherwise))


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
