"""EnvironmentLoop: plays the environment with the current policy and gives every transition its advantage."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from transformers import PreTrainedModel

from paw_lightning import ranks
from paw_lightning.callbacks.base import rollout_callbacks
from paw_lightning.callbacks.rollout_curves import outcome_metrics, rollout_metrics, sampler_gap
from paw_lightning.callbacks.setup_checks import check_arguments, check_setup
from paw_lightning.envs.base import TextEnv
from paw_lightning.policy.advantages.gae import GAE, explained_variance
from paw_lightning.policy.advantages.group import GRPO
from paw_lightning.rollouts import scoring
from paw_lightning.rollouts.collector import Collector, PlayedGroups, timed
from paw_lightning.rollouts.dynamic_sampling import UsefulGroups, play_useful, without_variance
from paw_lightning.rollouts.episodes import describe
from paw_lightning.rollouts.layouts import LayoutName
from paw_lightning.samplers.base import Sampler
from paw_lightning.samplers.native import NativeSampler
from paw_lightning.samplers.paged import PagedSampler
from paw_lightning.samplers.vllm import VLLMSampler
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.prompts import Prompt, PromptBuilder
from paw_lightning.training.datamodule import RolloutDataModule, Split
from paw_lightning.training.module import PaWModule
from paw_lightning.types import Episode, Rollout, RolloutGroup, Transition

Advantage = Callable[[RolloutGroup], list[float]]
SamplerFactory = Callable[[PreTrainedModel, list[int], int], Sampler]
"""Called with the language model, the tokens that end an action, and the padding token."""
SAMPLERS: dict[str, SamplerFactory] = {
    "native": NativeSampler,
    "paged": PagedSampler,
    "vllm": VLLMSampler,
}


class EnvironmentLoop(L.Callback):
    """Plays groups of episodes and hands them to the datamodule (config key ``rollout``).

    Args:
        environment: class of the environment and its arguments; it is built with the split's name.
        prompt: how a decision context is written.
        layout: `step`, one training sequence per transition, the paper's; `episode`, one growing transcript per
            episode, which is read and trained on once.
        advantage: class that turns a group's rewards into one advantage per transition; GAE makes one per action token
            and needs `model.critic`.
        inadmissible_action_penalty: subtracted from the advantage of a turn whose action the environment does not list
            as admissible; >= 0, a term of its own outside any normalisation (choice: the paper penalises malformed
            text only, which is the advantage's own `invalid_action_penalty`).
        max_steps: turns after which an episode is cut off.
        max_action_tokens: longest action, its end-of-turn token included.
        max_observation_tokens: longer observations are played but never predicted (choice: a cut-off target would
            teach a text that nobody wrote).
        temperature: of sampling in training, above 0; the policy loss uses the same distribution.
        validation_temperature: of sampling in `validate` and `test`; 0 is greedy.
        episode_retries: how often an episode whose environment failed is played again from its start with the same
            seeds (choice); after that its whole group is dropped.
        old_logprobs: `sampler` takes those recorded while sampling; `trainer` recomputes them in one more pass.
        scoring_tokens: padded tokens per no-grad batch.
        sampler: `native`, `paged` (transformers' continuous batching, for accelerators), `vllm` (a server), or a class
            with settings.
        importance_cap: multiply each action token's advantage by the trainer's probability over the sampler's, at most
            this; needs `old_logprobs: trainer`. null trusts the sampler.
    """

    def __init__(
        self,
        environment: Callable[[str], TextEnv],
        prompt: Prompt = Prompt(),  # noqa: B008 - frozen
        layout: LayoutName = "step",
        advantage: Advantage | None = None,
        inadmissible_action_penalty: float = 0.0,
        max_steps: int = 50,
        max_action_tokens: int = 512,
        max_observation_tokens: int = 512,
        temperature: float = 1.0,
        validation_temperature: float = 1.0,
        episode_retries: int = 1,
        old_logprobs: Literal["sampler", "trainer"] = "sampler",
        scoring_tokens: int = 32_768,
        sampler: Literal["native", "paged", "vllm"] | SamplerFactory = "native",
        importance_cap: float | None = None,
    ) -> None:
        self.environment, self.prompt, self.advantage = environment, prompt, advantage or GRPO()
        self.layout = layout
        self.inadmissible_action_penalty = inadmissible_action_penalty
        self.max_steps, self.max_action_tokens = max_steps, max_action_tokens
        self.max_observation_tokens = max_observation_tokens
        self.temperature, self.validation_temperature = temperature, validation_temperature
        self.old_logprobs, self.scoring_tokens = old_logprobs, scoring_tokens
        self.episode_retries, self.importance_cap = episode_retries, importance_cap
        check_arguments(self)
        self.make_sampler = SAMPLERS[sampler] if isinstance(sampler, str) else sampler
        self.sampler: Any = None
        self.rollout_metrics: dict[str, float] | None = None
        self.dropped_evaluations = self.evaluated = 0
        self.evaluation_failure = ""
        self.collectors: dict[Split, Collector] = {}
        self.task_counts: dict[Split, int | None] = {}
        self.evaluations: dict[str, list[Episode]] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Attach to the datamodule as its source of rollouts."""
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, RolloutDataModule) or not isinstance(pl_module, PaWModule):
            raise TypeError("EnvironmentLoop needs a PaWModule and a RolloutDataModule")
        self.trainer, self.module, self.data, self.seed = trainer, pl_module, data, data.seed
        pl_module.temperature = self.temperature
        data.source = self
        check_setup(self)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Build the training environment, which may refuse its arguments, before validation plays in another."""
        ranks.together(lambda: self.num_tasks("train"))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Close every environment."""
        for collector in self.collectors.values():
            collector.close()
        self.collectors.clear()

    def num_tasks(self, split: Split) -> int | None:
        """How many tasks the environment's split holds; None when they never end."""
        if split not in self.task_counts:
            try:
                env = self.environment(split)
                self.task_counts[split] = env.num_tasks
            except SystemExit as error:
                raise RuntimeError(describe(None, f"__init__({split!r})", error)) from error
            self._collector(split).keep(env)  # it may be a process that took seconds to start
        return self.task_counts[split]

    def first_info(self) -> dict[str, Any] | None:
        """What the environment says of the first training task before anything is played; None where that fails."""
        return self._collector("train").first_info(self.data.train_tasks(0)[0])

    def collect(self, iteration: int, task_seeds: list[int], group_size: int) -> Rollout:
        """Play one iteration, score it, and let the other callbacks write their fields."""
        start = time.perf_counter()
        self._refresh_weights()
        useful = self._play_useful(iteration, task_seeds, group_size)
        played = useful.played
        rollout = Rollout(iteration, played.groups, len(played.failures), dict(played.seconds))
        overlong = [t for t in rollout.transitions if t.predictable and t.observation_text and not t.observation_ids]
        rollout.metrics["rollout/overlong_observations"] = float(len(overlong))
        rollout.metrics["rollout/retried_episodes"] = float(played.retried_episodes)
        with timed(rollout.seconds, "scoring"), self._precision():
            self._score(rollout)
        self._write_advantages(rollout)
        for callback in rollout_callbacks(self.trainer):
            callback.on_rollout_end(self.trainer, self.module, rollout)
        self._release()
        self._log(rollout, useful, time.perf_counter() - start)
        self.update_start = time.perf_counter()
        return rollout

    def _write_advantages(self, rollout: Rollout) -> None:
        """Write each transition's advantage, and with GAE those of its tokens and the critic's targets."""
        if isinstance(self.advantage, GAE):
            self._write_token_advantages(rollout, self.advantage)
            return
        for group in rollout.groups:
            for t, advantage in zip(group.transitions, self.advantage(group), strict=True):
                t.advantage = advantage - self._penalty(t)

    def _write_token_advantages(self, rollout: Rollout, algorithm: GAE) -> None:
        transitions = rollout.transitions
        for t, (advantages, target) in zip(transitions, algorithm.of_update(rollout.episodes), strict=True):
            t.token_advantages, t.value_targets = advantages - self._penalty(t), target
            t.advantage = t.token_advantages.mean().item()
        values, targets = (
            torch.cat([getattr(t, name) for t in transitions]) for name in ("old_values", "value_targets")
        )
        explained = explained_variance(values, targets)
        if explained is not None:
            rollout.metrics["train/explained_variance"] = explained

    def _penalty(self, transition: Transition) -> float:
        return 0.0 if transition.admissible else self.inadmissible_action_penalty

    def evaluate(self, split: Split, task_seeds: list[int]) -> list[Episode]:
        """Play unseen tasks once each; the same seeds give the same episodes at every call with equal weights."""
        played = self._play(split, task_seeds, 1, self.validation_temperature, (0,))
        self.dropped_evaluations += len(played.failures)
        self.evaluated += len(played.groups)
        if played.failures:
            self.evaluation_failure = played.failures[-1]
        for group in played.groups:
            if group.environment:
                self.evaluations.setdefault(f"{split}/{group.environment}", []).extend(group.episodes)
        return [episode for group in played.groups for episode in group.episodes]

    def _play_useful(self, iteration: int, task_seeds: list[int], group_size: int) -> UsefulGroups:
        """Play an iteration's tasks, and with `data.dynamic_sampling` others for those that teach nothing."""

        def play(number: int, count: int) -> PlayedGroups:
            tasks = (self.data.train_tasks(iteration, number) if number else task_seeds)[:count]
            # A finite split may give an extra round a task that was played before: it has to be played otherwise.
            occasion = (iteration, f"extra round {number}") if number else (iteration,)
            return self._play("train", tasks, group_size, self.temperature, occasion)

        useful = play_useful(play, len(task_seeds), self.data.dynamic_sampling)
        if not useful.played.groups:
            failure = useful.played.failures[-1]
            raise RuntimeError(f"no train group could be played to its end; the last failure: {failure}")
        return useful

    def _play(
        self,
        split: Split,
        task_seeds: list[int],
        group_size: int,
        temperature: float,
        occasion: tuple[int | str, ...],
    ) -> PlayedGroups:
        observers = rollout_callbacks(self.trainer)

        def progress(finished: int, total: int) -> None:
            for callback in observers:
                callback.on_rollout_progress(finished, total, split)

        seed = (self.seed, split, *occasion)
        with self._precision():
            return self._play_share(
                lambda tasks, earlier: self._collector(split).play(
                    tasks, group_size, temperature=temperature, seed=seed, progress=progress, earlier=earlier
                ),
                task_seeds,
                group_size,
            )

    def _play_share(
        self, play: Callable[[list[int], dict[int, int]], PlayedGroups], task_seeds: list[int], group_size: int
    ) -> PlayedGroups:
        """Play this rank's tasks and return all ranks' groups, in the order one process would have played them.

        Every rank then holds the whole update, so that what is normalised or selected over it needs no further talk.
        """
        mine = ranks.share(len(task_seeds))
        earlier = {task: count * group_size for task, count in Counter(task_seeds[: mine.start]).items()}
        parts = ranks.together(lambda: play(task_seeds[mine], earlier))
        names = dict.fromkeys(name for part in parts for name in part.seconds)
        seconds = {name: max(part.seconds.get(name, 0.0) for part in parts) for name in names}
        groups, failures = [g for p in parts for g in p.groups], [f for p in parts for f in p.failures]
        return PlayedGroups(groups, failures, seconds, sum(part.retried_episodes for part in parts))

    def _refresh_weights(self) -> None:
        """Give whoever plays the weights as they are now; every rank has to call it, outside of any forward."""
        self.module.replica.refresh(self.trainer.strategy)
        ranks.together(self._sampler().update_weights)

    def _release(self) -> None:
        """Free what only playing needs."""
        self.module.replica.release()
        self._sampler().release()

    def _sampler(self) -> Sampler:
        if self.sampler is None:
            model, tokenizer = self.module.replica.model.language_model, self.module.tokenizer
            self.sampler = self.make_sampler(model, stop_token_ids(tokenizer, model), tokenizer.pad_token_id)
        return self.sampler

    def _collector(self, split: Split) -> Collector:
        if split not in self.collectors:
            tokenizer, language_model = self.module.tokenizer, self.module.replica.model.language_model
            stops = stop_token_ids(tokenizer, language_model)
            self.collectors[split] = Collector(
                lambda: self.environment(split),
                PromptBuilder(self.prompt, ChatFormat(tokenizer)),
                self._sampler(),
                max_steps=self.max_steps,
                max_action_tokens=self.max_action_tokens,
                max_observation_tokens=self.max_observation_tokens,
                stop_token_ids=stops,
                layout=self.layout,
                counterfactuals=split == "train"
                and any(callback.needs_counterfactuals for callback in rollout_callbacks(self.trainer)),
                episode_retries=self.episode_retries,
            )
        return self.collectors[split]

    def _precision(self) -> AbstractContextManager[None]:
        """The arithmetic of the training forward: sampler, scoring and trainer have to see one policy."""
        return self.trainer.precision_plugin.forward_context()

    def _score(self, rollout: Rollout) -> None:
        """Every rank scores a part of the update and gets the rest from the others."""
        mine = ranks.share(len(rollout.groups))

        def score() -> list[RolloutGroup]:
            self._score_groups(rollout.groups[mine])
            return rollout.groups[mine]

        rollout.groups = [group for part in ranks.together(score) for group in part]
        if self.old_logprobs == "trainer":
            rollout.metrics["rollout/sampler_gap"] = sampler_gap(rollout)

    def _score_groups(self, groups: list[RolloutGroup]) -> None:
        transitions, model = [t for group in groups for t in group.transitions], self.module.replica.model
        own = self.old_logprobs == "trainer"
        if not own:
            scoring.copy_sampled_logprobs(transitions)
        critic = model.critic is not None
        scoring.write_policy_scores(
            model, transitions, self.temperature, self.scoring_tokens, logprobs=own, values=critic
        )
        if self.importance_cap is not None:
            scoring.write_importance(transitions, self.importance_cap)
        with self.module.reference_model() as reference:
            if reference is not None:
                scoring.write_reference_logprobs(reference, transitions, self.temperature, self.scoring_tokens)

    def _log(self, rollout: Rollout, useful: UsefulGroups, seconds: float) -> None:
        """Keep the curves' next points; outcomes are those of all that was played, trained on or not."""
        everything = replace(rollout, groups=rollout.groups + useful.left_out)
        metrics = {**rollout_metrics(everything), **rollout.metrics, "time/rollout_s": seconds}
        metrics["rollout/zero_variance_groups"] = float(sum(map(without_variance, everything.groups)))
        if self.data.dynamic_sampling:
            metrics["rollout/resampled_groups"] = float(useful.resampled)
        metrics.update({f"time/rollout_{name}_s": value for name, value in rollout.seconds.items()})
        self.rollout_metrics = metrics

    def on_train_batch_end(self, *_: object) -> None:
        """Take the time here: validation runs before the epoch's end."""
        self.update_end = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the iteration's rollout (a stream has no right to log, a hook has)."""
        if self.rollout_metrics is None:
            return  # resumed from a checkpoint that was saved between the last step and here
        update = {"time/update_s": self.update_end - self.update_start}
        pl_module.log_dict({**self.rollout_metrics, **update}, on_step=False, on_epoch=True, sync_dist=True)
        self.rollout_metrics = None

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the weights to play with: inside a step, a sharded model could not be."""
        self._refresh_weights()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Free them."""
        self._release()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As for validation."""
        self._refresh_weights()

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As for validation."""
        self._release()

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log how many tasks were lost (the success rate is over the others), and a mixture's parts."""
        self._log_evaluation("val", pl_module)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log how many tasks were lost (the success rate is over the others), and a mixture's parts."""
        self._log_evaluation("test", pl_module)

    def _log_evaluation(self, split: Split, pl_module: L.LightningModule) -> None:
        metrics = {f"{split}/dropped_tasks": float(self.dropped_evaluations)}
        for prefix, episodes in self.evaluations.items():
            metrics.update(outcome_metrics(prefix, episodes))
        if self.dropped_evaluations and not self.evaluated:
            # Training need not end for it; a checkpoint that monitors the rate takes it for the worst.
            metrics[f"{split}/success_rate"] = math.nan
            rank_zero_warn(f"no {split} task could be played to its end; the last failure: {self.evaluation_failure}")
        pl_module.log_dict(metrics, sync_dist=True)
        self.dropped_evaluations = self.evaluated = 0
        self.evaluations.clear()


def stop_token_ids(tokenizer: object, language_model: object) -> list[int]:
    """Every token that ends an action: the tokenizer's eos and those of the model's generation settings."""
    configured = getattr(getattr(language_model, "generation_config", None), "eos_token_id", None)
    several = configured if isinstance(configured, list) else [configured]
    return sorted({i for i in [*several, getattr(tokenizer, "eos_token_id", None)] if i is not None})
