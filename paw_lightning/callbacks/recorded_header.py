"""The header of a rollout file: what its episodes were played with, by which weights, and how to read their tokens."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from paw_lightning import __version__
from paw_lightning.callbacks.rollout_curves import evaluation_metrics, rollout_metrics
from paw_lightning.rollout_files import Header, RecordedEpisode
from paw_lightning.rollouts.provenance import played_with
from paw_lightning.rollouts.runner import Runner
from paw_lightning.training.module import PaWModule
from paw_lightning.types import Evaluation, Rollout


class RecordedHeader:
    """Writes headers of one run."""

    def __init__(self, runner: Runner, module: PaWModule, advantage: str) -> None:
        self.runner, self.module, self.advantage = runner, module, advantage
        self.texts: dict[int, str] = {}
        """Of every token id that has occurred."""

    def of_rollout(self, rollout: Rollout, episodes: list[RecordedEpisode]) -> Header:
        """Of an iteration."""
        prints = rollout.fingerprints
        return Header(
            split="train",
            iteration=rollout.iteration + 1,
            temperature=rollout.temperature,
            weights=prints["policy"],
            critic=prints.get("critic"),
            reference=prints.get("reference"),
            demonstrated=rollout.demonstrated,
            counterfactuals=self.runner.settings.counterfactuals,
            foreign_logprobs=rollout.foreign_logprobs,
            off_policy=rollout.off_policy,
            failures=rollout.failures,
            metrics=rollout_metrics(rollout),
            seconds=rollout.seconds,
            **self._of_run(episodes),
        )

    def of_evaluation(self, evaluation: Evaluation, iteration: int, episodes: list[RecordedEpisode]) -> Header:
        """Of a validation, or of a test at one temperature, after so many iterations."""
        return Header(
            split=evaluation.split,  # type: ignore[arg-type]
            iteration=iteration,
            temperature=evaluation.temperature,
            weights=self.runner.fingerprints()["policy"],
            failures=evaluation.failures,
            metrics=evaluation_metrics(evaluation.split, evaluation.groups, len(evaluation.failures)),
            **self._of_run(episodes),
        )

    def _of_run(self, episodes: list[RecordedEpisode]) -> dict[str, Any]:
        """What is the same all run long, and the tokens' texts."""
        loss = self.module.world_model_loss.token_loss
        return {
            "package": __version__,
            "environment": self._settings["rollout.environment"],
            "model": self.module.path,
            "layout": self._settings["rollout.layout"],
            "advantage": self.advantage,
            "world_model_loss": type(loss).__name__,
            "rho": getattr(loss, "rho", None),
            "seed": self.runner.tasks.seed,
            "settings": self._settings,
            "texts": self._texts(episodes),
        }

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return played_with(self.runner.settings, self.runner.tasks, self.module.chat)

    def _texts(self, episodes: list[RecordedEpisode]) -> dict[int, str]:
        """Token id -> text, as within a text: some tokenizers drop the space before the first token."""
        used: set[int] = set()
        for turn in (turn for episode in episodes for turn in episode.turns):
            used.update(turn.prompt_ids, turn.turn_ids, turn.action_ids, turn.bridge_ids, turn.observation_ids)
            used.update(turn.control_ids or (), turn.counterfactual_ids or ())
        for token in used - self.texts.keys():
            once, twice = (
                self.module.tokenizer.decode([token] * n, clean_up_tokenization_spaces=False) for n in (1, 2)
            )
            self.texts[token] = twice.removeprefix(once)
        return {token: self.texts[token] for token in sorted(used)}
