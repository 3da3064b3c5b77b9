"""The Runner: plays tasks with the policy as it is now, and scores what was played."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

from paw_lightning import ranks
from paw_lightning.errors import EnvironmentFailedError, SettingsError
from paw_lightning.models.fingerprint import fingerprint
from paw_lightning.models.policy_world_model import PolicyWorldModel
from paw_lightning.rollouts import scoring
from paw_lightning.rollouts.collector import Collector, PlayedGroups
from paw_lightning.rollouts.dynamic_sampling import play_useful
from paw_lightning.rollouts.episodes import FirstLook, describe
from paw_lightning.rollouts.settings import RolloutSettings
from paw_lightning.rollouts.tasks import Split, TaskOrder
from paw_lightning.rollouts.timing import timed
from paw_lightning.samplers.base import Sampler
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.prompts import PromptBuilder
from paw_lightning.types import Rollout, RolloutGroup, Transition


class Progress(Protocol):
    """Told after every turn how many episodes are finished; stage is "train", "val" or "test"."""

    def __call__(self, finished: int, total: int, stage: str) -> None: ...


class Policy(Protocol):
    """What plays and is scored; PaWModule is one."""

    chat: ChatFormat

    @property
    def played_model(self) -> PolicyWorldModel:
        """The whole model on this device, between `gather` and `free`."""

    def gather(self) -> None:
        """Take over the weights as they are now; every rank has to call it, outside of any forward pass."""

    def free(self) -> None:
        """Give back the memory that only playing needs."""

    def arithmetic(self) -> AbstractContextManager[None]:
        """The precision of the training forward: sampler, scoring and trainer have to see one policy."""

    def reference_model(self) -> AbstractContextManager[PolicyWorldModel | None]:
        """The frozen reference policy; None when no KL is asked for."""


class Runner:
    """Plays and scores; of several ranks each does its part, and all of them hold what all have played."""

    def __init__(
        self, settings: RolloutSettings, tasks: TaskOrder, policy: Policy, progress: Progress | None = None
    ) -> None:
        self.settings, self.tasks, self.policy = settings, tasks, policy
        self.progress = progress
        self._sampler: Sampler | None = None
        self._collectors: dict[Split, Collector] = {}
        self._counts: dict[Split, int | None] = {}
        self._first: list[FirstLook | None] = []

    # What there is to play

    def num_tasks(self, split: Split) -> int | None:
        """How many tasks the environment's split holds; None when they never end."""
        if split not in self._counts:
            try:
                env = self.settings.environment(split)
                self._counts[split] = env.num_tasks
            except SystemExit as error:
                raise EnvironmentFailedError(describe(None, f"__init__({split!r})", error)) from error
            self.collector(split).keep(env)  # it may be a process that took seconds to start
        return self._counts[split]

    def first_look(self) -> FirstLook | None:
        """Observation and info of the first training task before anything is played; None where that fails."""
        if not self._first or self._first[0] is None:  # what failed may not fail again
            self._first = [self.collector("train").first_look(self.train_tasks(0)[0])]
        return self._first[0]

    @property
    def prompts(self) -> PromptBuilder:
        """Writes the decision contexts of training, those of its first task where tasks have tools of their own.

        Raises EnvironmentFailedError where only the environment knows its tools, and fails.
        """
        prompts, look = self.collector("train").prompts, self.first_look()
        if look is None and prompts.form.calls_tools:
            raise EnvironmentFailedError(
                "the environment failed at the start of the first training task, and which tools there are only it "
                "knows (rollout.environment)"
            )
        return prompts if look is None else prompts.with_tools(look[1].get("tools"))

    def train_tasks(self, iteration: int, extra_round: int = 0) -> list[int]:
        """Task seeds of an iteration, or of one of its extra rounds (dynamic sampling)."""
        return self.tasks.train(iteration, self.num_tasks("train"), extra_round)

    def evaluation_tasks(self, split: Split) -> list[int]:
        """Task seeds of a whole evaluation."""
        assert split != "train"
        return self.tasks.evaluation(split, self.num_tasks(split))

    # Playing

    def refresh(self) -> None:
        """Take over the trained weights; every rank has to call it, outside of any forward pass."""
        self.policy.gather()
        self._inform_sampler()

    def _inform_sampler(self) -> None:
        """Let the sampler take over the gathered weights; every rank has to call it."""
        ranks.together(self.sampler.update_weights)
        longest, prompt = self.sampler.context_length, self.settings.prompt
        if longest is not None and prompt.max_tokens + self.settings.max_action_tokens > longest:
            raise SettingsError(
                f"rollout.prompt.max_tokens {prompt.max_tokens} + rollout.max_action_tokens "
                f"{self.settings.max_action_tokens} are more than the {longest} tokens that the sampler's server reads"
                "; wanted it started with a larger --max-model-len, or lower ones"
            )

    def release(self) -> None:
        """Give back what only playing needs."""
        self.policy.free()
        ranks.together(self.sampler.release)

    def hand_over(self, rollout: Rollout) -> None:
        """The rollout goes to its update; whoever plays ahead begins the next."""
        self.release()

    def play(self, iteration: int, task_seeds: list[int]) -> Rollout:
        """Play an iteration's tasks, and with dynamic sampling others in place of those that teach nothing."""
        return self._rollout(iteration, task_seeds, self.fingerprints())

    def _rollout(self, iteration: int, task_seeds: list[int], fingerprints: dict[str, str]) -> Rollout:
        play_round = partial(self._round, iteration, task_seeds)
        useful = play_useful(play_round, len(task_seeds), self.tasks.dynamic_sampling)
        played = useful.played
        if not played.groups:
            raise EnvironmentFailedError(
                f"no train group could be played to its end; the last failure: {played.failures[-1]}"
            )
        rollout = Rollout(
            iteration,
            played.groups,
            temperature=self.settings.temperature,
            demonstrated=self.settings.demonstrated,
            left_out=useful.left_out,
            failures=played.failures,
            seconds=dict(played.seconds),
            fingerprints=fingerprints,
        )
        answers = [t for group in rollout.played for t in group.transitions if t.predictable and t.observation_text]
        overlong = [t for t in answers if not t.observation_ids]
        rollout.metrics["rollout/overlong_observations"] = float(len(overlong))
        rollout.metrics["rollout/retried_episodes"] = float(played.retried_episodes)
        if self.tasks.dynamic_sampling:
            rollout.metrics["rollout/resampled_groups"] = float(useful.resampled)
        return rollout

    def temperatures(self, split: Split) -> Sequence[float]:
        """At which an evaluation samples, one after the other."""
        several = self.settings.test_temperatures if split == "test" else ()
        return several or [self.settings.validation_temperature]

    def evaluate(self, split: Split, task_seeds: list[int], samples: int, temperature: float) -> PlayedGroups:
        """Play unseen tasks; the same seeds give the same episodes at every call with equal weights."""
        return self._play(split, task_seeds, samples, temperature, (0,))

    def _round(self, iteration: int, task_seeds: list[int], number: int, count: int) -> PlayedGroups:
        """Play the first `count` tasks of a round; round 0 holds the iteration's own, the others are extra ones."""
        tasks = (self.train_tasks(iteration, number) if number else task_seeds)[:count]
        # A finite split may give an extra round a task that was played before: it has to be played otherwise.
        occasion = (iteration, f"extra round {number}") if number else (iteration,)
        return self._play("train", tasks, self.tasks.group_size, self.settings.temperature, occasion)

    def _play(
        self,
        split: Split,
        task_seeds: list[int],
        group_size: int,
        temperature: float,
        occasion: tuple[int | str, ...],
    ) -> PlayedGroups:
        """Play this rank's tasks and return all ranks' groups, in the order one process would have played them.

        Every rank then holds the whole update, so that what is normalised or selected over it needs no further talk.
        """
        # This rank's part
        mine = ranks.rank_slice(len(task_seeds))
        earlier = {task: count * group_size for task, count in Counter(task_seeds[: mine.start]).items()}
        play = partial(
            self.collector(split).play,
            task_seeds[mine],
            group_size,
            temperature=temperature,
            seed=(self.tasks.seed, split, *occasion),
            progress=partial(self.progress, stage=split) if self.progress else None,
            earlier=earlier,
        )
        with self._precision():
            parts = ranks.together(play)
        # All ranks' parts, the slowest rank's seconds
        names = dict.fromkeys(name for part in parts for name in part.seconds)
        seconds = {name: max(part.seconds.get(name, 0.0) for part in parts) for name in names}
        groups, failures = [g for p in parts for g in p.groups], [f for p in parts for f in p.failures]
        return PlayedGroups(groups, failures, seconds, sum(part.retried_episodes for part in parts))

    def _precision(self) -> AbstractContextManager[None]:
        """What a sampler computes in."""
        return self.policy.arithmetic()

    def fingerprints(self) -> dict[str, str]:
        """Of the weights that play and score, as they are now: `policy`, and `critic` and `reference` if any."""
        model = self.policy.played_model
        found = {"policy": fingerprint(model.language_model.parameters())}
        if model.critic is not None:
            found["critic"] = fingerprint(model.critic.parameters())
        with self.policy.reference_model() as reference:
            if reference is not None:  # below adapters it is what they leave alone
                frozen = (p for p in reference.language_model.parameters() if not p.requires_grad)
                found["reference"] = fingerprint(frozen)
        return found

    # Scoring

    def score(self, rollout: Rollout) -> None:
        """Write what scoring writes (types.py); every rank scores a part of the update and gets the rest."""
        self._score_parts(rollout, self._score)
        self._score_left_out(rollout)
        if rollout.demonstrated:
            return  # no sampler has written anything
        sampled = self.settings.takes_sampled_logprobs(self.sampler)
        rollout.foreign_logprobs = sampled and not self.sampler.trainers_arithmetic
        if not sampled:
            rollout.metrics["rollout/sampler_gap"] = scoring.sampler_gap(rollout.transitions)

    def _score_parts(self, rollout: Rollout, work: Callable[[list[RolloutGroup]], list[RolloutGroup]]) -> None:
        """Let every rank work on its part of the groups; all of them get all parts."""
        rollout.groups = self._in_parts(rollout, rollout.groups, work)

    def _score_left_out(self, rollout: Rollout) -> None:
        """Write the entropies of groups that teach the world model alone: selection reads nothing else of scoring."""
        if rollout.left_out_teach:
            rollout.left_out = self._in_parts(rollout, rollout.left_out, self._score_entropies)

    def _in_parts(
        self,
        rollout: Rollout,
        groups: list[RolloutGroup],
        work: Callable[[list[RolloutGroup]], list[RolloutGroup]],
    ) -> list[RolloutGroup]:
        mine = ranks.rank_slice(len(groups))
        with timed(rollout.seconds, "scoring"), self.policy.arithmetic():
            parts = ranks.together(partial(work, groups[mine]))
        return [group for part in parts for group in part]

    def _score_entropies(self, groups: list[RolloutGroup]) -> list[RolloutGroup]:
        transitions = [t for group in groups for t in group.transitions]
        for t in transitions:
            t.token_entropies = t.token_entropies or t.sampled_entropies
        limits = self.settings.temperature, self.settings.scoring_tokens
        scoring.write_policy_scores(self.policy.played_model, transitions, *limits, logprobs=False, values=False)
        return groups

    def _score(self, groups: list[RolloutGroup]) -> list[RolloutGroup]:
        settings, model = self.settings, self.policy.played_model
        transitions = [t for group in groups for t in group.transitions]
        limits = settings.temperature, settings.scoring_tokens
        # The policy's own log-probs, entropies and values
        own = settings.demonstrated or not settings.takes_sampled_logprobs(self.sampler)
        scoring.copy_what_was_sampled(transitions, logprobs=not own)
        scoring.write_policy_scores(model, transitions, *limits, logprobs=own, values=model.critic is not None)
        if settings.demonstrated:
            scoring.stand_in_for_a_sampler(transitions)
        if settings.importance_cap is not None:
            scoring.write_importance(transitions, settings.importance_cap)
        self._score_reference(transitions)
        return groups

    def _score_reference(self, transitions: list[Transition]) -> None:
        with self.policy.reference_model() as reference:
            if reference is not None:
                limits = self.settings.temperature, self.settings.scoring_tokens
                scoring.write_reference_logprobs(reference, transitions, *limits)

    # Who plays, built when first needed

    @property
    def sampler(self) -> Sampler:
        """Who writes the actions."""
        if self._sampler is None:
            model, chat = self.policy.played_model.language_model, self.policy.chat
            self._sampler = self.settings.sampler(model, stop_token_ids(chat, model), chat.tokenizer.pad_token_id)
        return self._sampler

    def collector(self, split: Split) -> Collector:
        """Who plays the episodes of a split."""
        if split not in self._collectors:
            settings, chat = self.settings, self.policy.chat
            stops = stop_token_ids(chat, self.policy.played_model.language_model)
            self._collectors[split] = Collector(
                partial(settings.environment, split),
                PromptBuilder(settings.prompt, chat.stopped_by(stops)),
                self.sampler,
                max_steps=settings.max_steps,
                max_action_tokens=settings.max_action_tokens,
                max_observation_tokens=settings.max_observation_tokens,
                stop_token_ids=stops,
                layout=settings.layout,
                counterfactuals=settings.counterfactuals and split == "train",
                demonstrated=settings.demonstrated and split == "train",
                episode_retries=settings.episode_retries,
                reached=lambda: any(collector.reached for collector in self._collectors.values()),
            )
        return self._collectors[split]

    def close(self) -> None:
        """Close every environment."""
        for collector in self._collectors.values():
            collector.close()
        self._collectors.clear()


def stop_token_ids(chat: ChatFormat, language_model: object) -> list[int]:
    """Every token that ends an action: the tokenizer's eos, the chat template's end of turn, the model's own list."""
    configured = getattr(getattr(language_model, "generation_config", None), "eos_token_id", None)
    several = configured if isinstance(configured, list) else [configured]
    return sorted({*(i for i in several if i is not None), *chat.stop_ids})


def stop_at_turn_end(chat: ChatFormat, language_model: Any) -> list[int]:
    """Write the tokens that end an action into the model's generation settings, which are exported; return them."""
    settings, stops = language_model.generation_config, stop_token_ids(chat, language_model)
    several = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    if {*stops} != {*several}:
        settings.eos_token_id = stops
    return stops
