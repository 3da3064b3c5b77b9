"""EntropySelection: PaW's first part, which transitions teach the world model."""

from __future__ import annotations

import math
from typing import Literal

import lightning as L
from torch import Tensor

from paw_lightning.callbacks.base import RolloutCallback, environment_loop
from paw_lightning.policy.advantages.no_reward import NoReward
from paw_lightning.seeding import generator
from paw_lightning.types import Rollout, Transition
from paw_lightning.world_model.selection import (
    action_entropy,
    check_alpha,
    first_occurrences,
    select_lowest_probability,
    select_random,
    select_top_entropy,
)


class EntropySelection(RolloutCallback):
    """Keeps the ceil(alpha |P|) transitions of highest action entropy over the whole update (eq. 4).

    choice: P holds the transitions that have a next observation to predict; the others take no place in the share.

    Logs ``wm/selected_fraction`` (of those that could be predicted), ``wm/duplicate_fraction`` (when they count once),
    ``wm/entropy_threshold`` (the lowest entropy kept, rule `entropy`) and ``rollout/action_entropy``.

    Args:
        alpha: share to keep, in [0, 1]; 1 keeps all, 0 switches the world model off: plain policy optimisation.
        rule: `entropy` is eq. 4. The others are its controls: `random` draws as many; `lowest_probability` keeps the
            actions of lowest mean log-prob, those the policy was most surprised to write; `all` keeps every one.
        entropy: `full` over the vocabulary (default), or `sampled`, the paper's printed formula.
        deduplicate: a transition that occurs several times in an update counts once. Two are the same when
            environment, observation before, action and observation after are the same texts, whatever the history;
            the first stays in P, the repeats leave it, and their weight goes to what else their group predicts.
        pool: what the share is taken of: `global` is the paper's whole update; `environment` takes it of each
            environment of a mixture, so that one of high entropy cannot take every place.
    """

    def __init__(
        self,
        alpha: float = 0.75,
        rule: Literal["entropy", "random", "lowest_probability", "all"] = "entropy",
        entropy: Literal["full", "sampled"] = "full",
        deduplicate: bool = False,
        pool: Literal["global", "environment"] = "global",
    ) -> None:
        check_alpha(alpha)
        if rule == "all" and alpha not in (0, 1):
            raise ValueError(f"entropy_selection.alpha is {alpha} and rule is 'all'; wanted alpha 1 (or 0: off)")
        self.alpha, self.rule, self.entropy = alpha, rule, entropy
        self.deduplicate, self.pool = deduplicate, pool

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse to select nothing where the world model is all that some optimizer steps teach."""
        interval: int = trainer.datamodule.world_model_interval  # type: ignore[attr-defined]
        no_reward = isinstance(environment_loop(trainer).advantage, NoReward)
        if not self.alpha and (interval or no_reward):
            why = f"data.world_model_interval is {interval}" if interval else "rollout.advantage is NoReward"
            raise ValueError(
                f"entropy_selection.alpha is 0 and {why}; wanted alpha above 0, as the world model would have nothing "
                "to learn"
            )

    def on_rollout_end(self, trainer: L.Trainer, pl_module: L.LightningModule, rollout: Rollout) -> None:
        """Write action_entropy and wm_selected of every transition."""
        for t in rollout.transitions:
            t.action_entropy = action_entropy(t.token_entropies, t.sampled_logprobs, self.entropy)
            t.wm_selected = False
        predictable = sum(bool(t.observation_ids) for t in rollout.transitions)
        pools = self._pools(rollout)
        for environment, pool in pools.items():
            for t, chosen in zip(pool, self._select(trainer, rollout, environment, pool).tolist(), strict=True):
                t.wm_selected = chosen
        self._log(rollout, pools, predictable)

    def _pools(self, rollout: Rollout) -> dict[str, list[Transition]]:
        """The transitions that compete with each other, under their environment's name (or "" for all)."""
        candidates = [(g.environment, t) for g in rollout.groups for t in g.transitions if t.observation_ids]
        if self.deduplicate:
            new = first_occurrences([(e, t.anchor, t.action_text, t.observation_text) for e, t in candidates])
            candidates = [candidate for candidate, first in zip(candidates, new.tolist(), strict=True) if first]
        pools: dict[str, list[Transition]] = {}
        for environment, t in candidates:
            pools.setdefault(environment if self.pool == "environment" else "", []).append(t)
        return pools

    def _select(self, trainer: L.Trainer, rollout: Rollout, environment: str, pool: list[Transition]) -> Tensor:
        if self.rule == "random":
            seed: int = trainer.datamodule.seed  # type: ignore[attr-defined]
            return select_random(len(pool), self.alpha, generator(seed, "selection", rollout.iteration, environment))
        if self.rule == "lowest_probability":
            return select_lowest_probability([_mean(t.sampled_logprobs) for t in pool], self.alpha)
        return select_top_entropy([t.action_entropy for t in pool], self.alpha)

    def _log(self, rollout: Rollout, pools: dict[str, list[Transition]], predictable: int) -> None:
        transitions, metrics = rollout.transitions, rollout.metrics
        metrics["rollout/action_entropy"] = _mean([t.action_entropy for t in transitions])
        metrics["wm/selected_fraction"] = sum(t.wm_selected for t in transitions) / max(predictable, 1)
        if self.deduplicate:
            metrics["wm/duplicate_fraction"] = 1 - sum(map(len, pools.values())) / max(predictable, 1)
        for environment, pool in pools.items():
            kept = [t.action_entropy for t in pool if t.wm_selected]
            if kept and self.rule == "entropy":
                metrics["wm/entropy_threshold" + (f"/{environment}" if environment else "")] = min(kept)


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
