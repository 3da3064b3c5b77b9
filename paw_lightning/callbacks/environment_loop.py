"""EnvironmentLoop: the callback that plays; it ties an iteration to Lightning's hooks, and logs how episodes went."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from paw_lightning import ranks
from paw_lightning.callbacks.base import RolloutCallback
from paw_lightning.callbacks.dialogue_probe import check_dialogue
from paw_lightning.callbacks.parts import world_model_parts
from paw_lightning.callbacks.replay_checks import check_replay, check_replay_files, length
from paw_lightning.callbacks.rollout_curves import evaluation_metrics, rollout_metrics
from paw_lightning.callbacks.setup_checks import Run, check_control, check_largest_return, check_penalty, check_run
from paw_lightning.envs.base import TextEnv
from paw_lightning.errors import EvaluationCut, SettingsError
from paw_lightning.iteration import Iteration
from paw_lightning.policy.advantages import GRPO, Advantage
from paw_lightning.policy.advantages.base import PlainFunction
from paw_lightning.rollouts.ahead import Ahead
from paw_lightning.rollouts.layouts import LAYOUTS, Layout
from paw_lightning.rollouts.replay import player
from paw_lightning.rollouts.settings import SAMPLERS, RolloutSettings, SamplerFactory
from paw_lightning.rollouts.tasks import Split
from paw_lightning.text.prompts import Prompt
from paw_lightning.training.checkpoint_files import protect
from paw_lightning.training.datamodule import RolloutDataModule
from paw_lightning.training.module import PaWModule
from paw_lightning.types import Episode, Evaluation, MicroBatch, Rollout, RolloutGroup


class EnvironmentLoop(L.Callback):
    """Plays groups of episodes and hands them to the datamodule (config key ``rollout``).

    Args:
        environment: class of the environment and its arguments; it is built with the split's name.
        prompt: how a decision context is written.
        layout: `step`, one training sequence per transition, the paper's; `episode`, one growing transcript per
            episode, which is read and trained on once; or the class path of a Layout of yours.
        advantage: what turns rewards into advantages: GRPO (default), RLOO, GiGPO, GraphGPO, HGPO, GAE (PPO: needs
            `model.critic`), NoReward, Imitation (an expert plays); or a function of a group, or an Advantage, of yours.
        inadmissible_action_penalty: subtracted from the advantage of a turn whose action the environment does not list
            as admissible; >= 0, a term of its own outside any normalisation (choice: the paper penalises malformed
            text only, which is the advantage's own `invalid_action_penalty`).
        max_steps: turns after which an episode is cut off.
        max_action_tokens: longest action, its end-of-turn token included.
        max_observation_tokens: longer observations are played but never predicted (choice: a cut-off target would
            teach a text that nobody wrote).
        temperature: of sampling in training, above 0; the policy loss uses the same distribution.
        validation_temperature: of sampling in `validate` and `test`; 0 is greedy.
        test_temperatures: `test` plays its tasks at each of these; null is `validation_temperature` alone.
        episode_retries: how often an episode whose environment failed is played again from its start with the same
            seeds (choice); after that its whole group is dropped.
        old_logprobs: what the policy's ratio is taken against. `sampler`: the log-probs recorded while sampling;
            `trainer`: those of the trainer before the first step, in one more pass; null: `sampler` for the native
            sampler and with `ahead`, `trainer` for every other and with an `importance_cap`.
        scoring_tokens: padded tokens per no-grad batch.
        sampler: `native`, `paged` (transformers' continuous batching, for accelerators), `vllm` (a server), or the
            class path of a Sampler, with settings of its own.
        importance_cap: multiply each action token's advantage by the trainer's probability over the sampler's, at most
            this; `old_logprobs` is then `trainer`. null trusts the sampler.
        ahead: 1 trains each iteration on what the weights before the last update have played, the first one apart; the
            vLLM sampler then plays beside the update. The ratio is taken against those weights' log-probs, so that
            `old_logprobs: trainer` wants an `importance_cap`. 0 plays with the weights that are trained.
    """

    def __init__(
        self,
        environment: Callable[[str], TextEnv],
        prompt: Prompt = Prompt(),  # noqa: B008 - frozen
        layout: Literal["step", "episode"] | type[Layout] = "step",
        advantage: Advantage | Callable[[RolloutGroup], list[float]] | None = None,
        inadmissible_action_penalty: float = 0.0,
        max_steps: int = 20,
        max_action_tokens: int = 128,
        max_observation_tokens: int = 256,
        temperature: float = 1.0,
        validation_temperature: float = 1.0,
        test_temperatures: list[float] | None = None,
        episode_retries: int = 1,
        old_logprobs: Literal["sampler", "trainer"] | None = None,
        scoring_tokens: int = 8_192,
        sampler: Literal["native", "paged", "vllm"] | SamplerFactory = "native",
        importance_cap: float | None = None,
        ahead: Literal[0, 1] = 0,
    ) -> None:
        if advantage is not None and not isinstance(advantage, Advantage):
            advantage = PlainFunction(advantage)
        self.advantage = advantage or GRPO()
        self.inadmissible_action_penalty = inadmissible_action_penalty
        self.settings = RolloutSettings(
            environment=environment,
            prompt=prompt,
            layout=LAYOUTS[layout] if isinstance(layout, str) else layout,
            sampler=SAMPLERS[sampler] if isinstance(sampler, str) else sampler,
            max_steps=max_steps,
            max_action_tokens=max_action_tokens,
            max_observation_tokens=max_observation_tokens,
            temperature=temperature,
            validation_temperature=validation_temperature,
            test_temperatures=test_temperatures or (),
            episode_retries=episode_retries,
            old_logprobs=old_logprobs,
            importance_cap=importance_cap,
            scoring_tokens=scoring_tokens,
            ahead=ahead,
        )
        check_penalty(inadmissible_action_penalty, self.advantage)
        self._rollout: Rollout | None = None
        self._evaluations: dict[float, Evaluation] = {}
        """What has been played of the evaluation under way, by temperature."""
        self._update_start = 0.0

    # Set-up

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Put the iteration together, and refuse what does not go together."""
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, RolloutDataModule) or not isinstance(pl_module, PaWModule):
            raise SettingsError(
                "the trainer has another module or datamodule; wanted a PaWModule and a RolloutDataModule"
            )
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        selection, control, balance = world_model_parts(callbacks)
        settings = replace(
            self.settings,
            counterfactuals=control.needs_counterfactuals,
            demonstrated=self.advantage.demonstrated,
        )
        protect(trainer.strategy)
        self.trainer, self.module, self.data = trainer, pl_module, data
        self.observers = [callback for callback in callbacks if isinstance(callback, RolloutCallback)]
        # An evaluation plays, whatever the training before it has done.
        self.runner = player(settings, data.tasks, pl_module, self._progress, data.replay if stage == "fit" else None)
        self.iteration = Iteration(
            runner=self.runner,
            policy=pl_module,
            advantage=self.advantage,
            inadmissible_penalty=self.inadmissible_action_penalty,
            selection=selection,
            control=control,
            balance=balance,
            observe=self._observe,
            cutter=data.cutter,
            accumulate=trainer.accumulate_grad_batches,
        )
        for observer in self.observers:
            observer.connect(self.runner)
        data.stream_from(self)
        check_run(Run(trainer, pl_module, self.iteration))

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the training environment, which may refuse its arguments, before validation plays in another."""
        check_replay(trainer, self.runner)
        ranks.together(lambda: self.runner.num_tasks("train"))
        check_largest_return(self.iteration)
        ranks.together(lambda: check_dialogue(self.runner, self.module))
        check_control(Run(trainer, self.module, self.iteration))
        if self.ahead is not None:
            self.ahead.begin(length(trainer)[0], getattr(trainer.strategy, "_timeout", None))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look for the files of a replay, now that a resumed run knows where it goes on."""
        check_replay_files(trainer, self.runner)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Close every environment."""
        self.runner.close()

    # Who plays ahead

    @property
    def ahead(self) -> Ahead | None:
        """Who plays, where it plays ahead."""
        runner = getattr(self, "runner", None)
        return runner if isinstance(runner, Ahead) else None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Nobody needs what is being played."""
        if self.ahead is not None:
            self.ahead.give_up()

    def state_dict(self) -> dict[str, Any]:
        """What was played and is not yet trained on."""
        return {} if self.ahead is None else self.ahead.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        if self.ahead is not None:
            self.ahead.load(state_dict)

    # Training: what RolloutDataModule streams

    def micro_batches(self, iteration: int) -> Iterator[MicroBatch]:
        """Play an iteration when its first micro-batch is asked for, then give its micro-batches."""
        return self.iteration.run(iteration)

    def _progress(self, finished: int, total: int, stage: str) -> None:
        if stage == "val" and self.data.cut_asked:
            raise EvaluationCut
        for observer in self.observers:
            observer.on_rollout_progress(finished, total, stage)

    def _observe(self, rollout: Rollout) -> None:
        self._rollout = rollout
        for observer in self.observers:
            observer.on_rollout_end(self.trainer, self.module, rollout)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Have the curves so far on the disk: loggers keep them for minutes, and a kill would take them."""
        for logger in trainer.loggers:
            logger.save()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: MicroBatch, batch_idx: int
    ) -> None:
        """Take the time of the update's beginning."""
        if batch_idx == 0:
            self._update_start = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        """Take the time here, and wait for whoever plays: validation and checkpoints come before the epoch's end."""
        if self._rollout is not None:
            self._rollout.seconds["update"] = time.perf_counter() - self._update_start
            if self.ahead is not None and trainer.is_last_batch:
                self.ahead.settle(self._rollout.seconds)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the iteration's rollout: only a hook may log, a stream of batches may not."""
        self._log_iteration(trainer, pl_module)
        if self._rollout is None:
            return  # resumed from a checkpoint that was saved between the last step and here
        pl_module.log_dict(rollout_metrics(self._rollout), on_step=False, on_epoch=True, sync_dist=True)
        self._rollout = None

    def _log_iteration(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the x axis of all that is logged with it: Lightning takes `step` for it, whatever the logger."""
        pl_module.log("step", float(trainer.current_epoch + 1), sync_dist=True)

    # Evaluation

    def evaluation_tasks(self, split: Split) -> list[int]:
        """Task seeds of a whole evaluation."""
        return self.runner.evaluation_tasks(split)

    def temperatures(self, split: Split) -> Sequence[float]:
        """At which an evaluation samples, one after the other."""
        return self.runner.temperatures(split)

    def evaluate(self, split: Split, task_seeds: list[int], samples: int, temperature: float) -> list[Episode]:
        """Play unseen tasks, each so many times."""
        played = self.runner.evaluate(split, task_seeds, samples, temperature)
        evaluation = self._evaluations.setdefault(temperature, Evaluation(split, temperature))
        evaluation.groups += played.groups
        evaluation.failures += played.failures
        return [episode for group in played.groups for episode in group.episodes]

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the weights to play with: inside a step, a sharded model could not be."""
        self._evaluations = {}  # of an evaluation that was interrupted
        self.runner.refresh()

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log how the episodes went; an evaluation that a signal broke off counts no more than a sanity check."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._log_iteration(trainer, pl_module)
        if self.data.cut:
            self._evaluations, trainer.sanity_checking = {}, True
        else:
            self._log_evaluation("val", pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Free the gathered weights and what the sampler needs."""
        self.runner.release()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the weights to play with, as for a validation."""
        self._evaluations = {}
        self.runner.refresh()

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log how the episodes went."""
        self._log_evaluation("test", pl_module)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Free the gathered weights and what the sampler needs."""
        self.runner.release()

    def _log_evaluation(self, split: Split, pl_module: L.LightningModule) -> None:
        """The one writer of the evaluation's outcomes: rates over what could be played, and how much could not.

        Of a test's temperatures the first has the plain names.
        """
        played, self._evaluations = list(self._evaluations.values()), {}
        for number, evaluation in enumerate(played or [Evaluation(split, self.temperatures(split)[0])]):
            prefix = f"{split}/T{evaluation.temperature:g}" if number else split
            self._log_one(prefix, evaluation, pl_module)
            for observer in self.observers:
                observer.on_evaluation_end(self.trainer, self.module, evaluation)

    def _log_one(self, prefix: str, evaluation: Evaluation, pl_module: L.LightningModule) -> None:
        metrics = evaluation_metrics(prefix, evaluation.groups, len(evaluation.failures))
        if math.isnan(metrics.get(f"{prefix}/success_rate", 0.0)):
            # Training need not end for it; a checkpoint that monitors the rate takes it for the worst.
            last = evaluation.failures[-1]
            rank_zero_warn(f"no {evaluation.split} task could be played to its end; the last failure: {last}")
        pl_module.log_dict(metrics, sync_dist=True)
