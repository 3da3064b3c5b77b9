"""PaW's parts as callbacks: settings, and one method each that applies the formula beside it to a rollout.

They use none of Lightning's hooks. ``paw_lightning.iteration`` calls them, in the one order that makes sense (select,
replace, weigh), whatever their order in the trainer's list.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import lightning as L
from torch import Generator

from paw_lightning.errors import SettingsError, one_of
from paw_lightning.seeding import generator
from paw_lightning.types import Rollout, RolloutGroup, Transition
from paw_lightning.world_model import filters
from paw_lightning.world_model import targets as controls
from paw_lightning.world_model.coefficient import (
    Measure,
    linear_coefficient,
    matching_scale,
    reward_adaptive_coefficient,
)
from paw_lightning.world_model.loss import Kind, WorldModelLoss
from paw_lightning.world_model.selection import RULES, Rule, action_entropy, check_alpha, first_occurrences, select

Targets = Literal["observation", "shuffled", "half_gold", "noise_sign", "random_tokens", "wrong_action"]


class EntropySelection(L.Callback):
    """Keeps the ceil(alpha |P|) transitions of highest action entropy over the whole update (eq. 4).

    choice: P holds the transitions that have a next observation to predict; the others take no place in the share. It
    holds those of the groups that `data.left_out_teach` brings back as well.

    Logs ``wm/selected_fraction`` (of those that could be predicted), ``wm/duplicate_fraction`` (when they count once),
    ``wm/entropy_threshold`` (the lowest entropy kept, rule `entropy`) and ``rollout/action_entropy``.

    Args:
        alpha: share to keep, in [0, 1]; 1 keeps all, 0 switches the world model off: plain policy optimisation.
        rule: `entropy` is eq. 4. The others are its controls: `random` draws as many; `lowest_probability` keeps the
            actions of lowest mean log-prob, those the policy was most surprised to write. Or a function of yours, by
            its path, that scores transitions: (transitions, generator) -> one number each.
        entropy: `full` over the vocabulary (default), or `sampled`, the paper's printed formula.
        deduplicate: a transition that occurs several times in an update counts once. Two are the same when
            environment, observation before, action and observation after are the same texts, whatever the history.
            The first one can be selected, its repeats cannot.
        pool: what the share is taken of: `global` is the paper's whole update; `environment` takes it of each
            environment of a mixture, so that one of high entropy cannot take every place.
    """

    def __init__(
        self,
        alpha: float = 0.75,
        rule: Literal["entropy", "random", "lowest_probability"] | Rule = "entropy",
        entropy: Literal["full", "sampled"] = "full",
        deduplicate: bool = False,
        pool: Literal["global", "environment"] = "global",
    ) -> None:
        check_alpha(alpha)
        if isinstance(rule, str):
            one_of("entropy_selection.rule", rule, RULES)
        one_of("entropy_selection.entropy", entropy, ("full", "sampled"))
        one_of("entropy_selection.pool", pool, ("global", "environment"))
        self.alpha, self.rule, self.entropy = alpha, rule, entropy
        self.deduplicate, self.pool = deduplicate, pool

    def select(self, rollout: Rollout, seed: int) -> None:
        """Write action_entropy and selected of every transition."""
        for t in rollout.teaching_transitions:
            t.action_entropy = action_entropy(t.token_entropies, t.sampled_logprobs, self.entropy)
            t.selected = False
        rule = RULES[self.rule] if isinstance(self.rule, str) else self.rule
        pools = self._pools(rollout)
        for environment, pool in pools.items():
            randomness = generator(seed, "selection", rollout.iteration, environment)
            for t, chosen in zip(pool, select(rule, pool, self.alpha, randomness), strict=True):
                t.selected = chosen
        self._log(rollout, pools)

    def _pools(self, rollout: Rollout) -> dict[str, list[Transition]]:
        """The transitions that compete with each other, under their environment's name (or "" for all)."""
        candidates = [(g.environment, t) for g in rollout.teaching for t in g.transitions if t.teachable]
        if self.deduplicate:
            new = first_occurrences([(e, t.anchor, t.action_text, t.observation_text) for e, t in candidates])
            candidates = [candidate for candidate, first in zip(candidates, new.tolist(), strict=True) if first]
        pools: dict[str, list[Transition]] = {}
        for environment, t in candidates:
            pools.setdefault(environment if self.pool == "environment" else "", []).append(t)
        return pools

    def _log(self, rollout: Rollout, pools: dict[str, list[Transition]]) -> None:
        transitions, metrics = rollout.teaching_transitions, rollout.metrics
        predictable = sum(t.teachable for t in transitions)
        entropies = [t.action_entropy for t in transitions]
        metrics["rollout/action_entropy"] = math.fsum(entropies) / max(len(entropies), 1)
        if self.alpha:
            metrics["wm/selected_fraction"] = sum(t.selected for t in transitions) / max(predictable, 1)
        if self.deduplicate:
            metrics["wm/duplicate_fraction"] = 1 - sum(map(len, pools.values())) / max(predictable, 1)
        for environment, pool in pools.items():
            kept = [t.action_entropy for t in pool if t.selected]
            if kept and self.rule == "entropy":
                metrics["wm/entropy_threshold" + (f"/{environment}" if environment else "")] = min(kept)


class TargetControl(L.Callback):
    """Replaces what the world model predicts, leaving selection, coefficient and the weight of a transition alone.

    Is it knowledge of the world that helps, or the update itself? With `data.world_model_horizon` above 1 it
    replaces all that the selected transitions reach.

    A filter takes single tokens out of any of these: they are read and never predicted. choice (the paper does not
    say): |o| of eqs. 9 and 11 counts the tokens that are left, so that a filter changes what an observation teaches and
    not how much it weighs; where none is left, there is nothing to predict, and the transition takes no place in P.

    Logs ``wm/true_target_fraction``, the share of a control's targets that are the true observation all the same,
    ``wm/true_token_fraction``, that of single tokens (`half_gold`), ``wm/positive_fraction``, the share of the selected
    transitions with the sign 1 (`noise_sign`), and ``wm/filtered_fraction``, the share of observation tokens that the
    filter takes out.

    Args:
        targets: `observation`, the true next one; `shuffled`, the observations of the selected transitions, each given
            to another of them, so that the tokens of an update stay the same and only their causes are wrong: nobody
            gets an observation equal to its own, unless one observation makes up more than half of all; `half_gold`,
            half of an observation's tokens in places drawn at random, the others those of a shuffled observation;
            `noise_sign`, the true one, the sign of what each selected transition teaches being drawn, 1 or -1;
            `random_tokens`, as many ordinary tokens as the observation has, drawn uniformly; `wrong_action`, the
            world's true answer to another admissible action in the same state (the environment has to offer `peek`).
            Such answers have lengths of their own; where there is no other action, or its answer is longer than
            `rollout.max_observation_tokens`, nothing is predicted.
        filter: a function, by its path: (the observation's text, (first, last + 1) character of each of its tokens) ->
            for each token whether it may be a target. ``paw_lightning.world_model.filters`` has some. null: all may.
    """

    def __init__(self, targets: Targets = "observation", filter: filters.TokenFilter | None = None) -> None:
        one_of("target_control.targets", targets, get_args(Targets))
        self.targets, self.filter = targets, filter

    @property
    def replaces(self) -> bool:
        """Whether something else than the true observation is predicted."""
        return self.targets not in ("observation", "noise_sign")

    @property
    def does_something(self) -> bool:
        """Whether anything is taught otherwise than the true observation as it is."""
        return self.targets != "observation" or self.filter is not None

    @property
    def needs_counterfactuals(self) -> bool:
        """The collector has to record, beside each observation, the world's answer to another action."""
        return self.targets == "wrong_action"

    def rule_out(self, rollout: Rollout, chat: Any) -> None:
        """Write target_mask, and counterfactual_mask where that is predicted: what a filter leaves."""
        if self.filter is None:
            return
        counts = [0, 0]  # tokens ruled out, and all
        for t in rollout.teaching_transitions:
            if t.observation_ids:
                t.target_mask = filters.mask(self.filter, chat, t.observation_text, t.observation_ids)
                counts = [counts[0] + t.target_mask.count(False), counts[1] + len(t.target_mask)]
            if t.counterfactual_ids and self.needs_counterfactuals:
                text = chat.tokenizer.decode(t.counterfactual_ids)
                t.counterfactual_mask = filters.mask(self.filter, chat, text, t.counterfactual_ids)
        rollout.metrics["wm/filtered_fraction"] = counts[0] / max(counts[1], 1)

    def replace(self, rollout: Rollout, tokenizer: Any, horizon: int, seed: int) -> None:
        """Write control_ids and control_mask of the transitions whose observation is predicted, or target_sign."""
        transitions = controls.predicted(rollout, horizon)
        if self.targets == "observation" or not transitions:
            return
        randomness = generator(seed, "targets", rollout.iteration)
        if self.targets == "noise_sign":
            self._draw_signs(rollout, randomness)
            return
        if self.targets == "shuffled":
            replaced = controls.shuffled(transitions, randomness)
        elif self.targets == "half_gold":
            replaced = controls.half_gold(transitions, randomness)
        elif self.targets == "random_tokens":
            replaced = controls.random_tokens(transitions, tokenizer, randomness)
        else:
            replaced = controls.wrong_action(transitions)
        for t, (ids, mask) in zip(transitions, replaced, strict=True):
            t.control_ids, t.control_mask = ids, mask
        true = sum(t.control_ids == t.observation_ids for t in transitions)
        rollout.metrics["wm/true_target_fraction"] = true / len(transitions)
        if self.targets == "half_gold":
            same = [a == b for t in transitions for a, b in zip(t.control_ids or (), t.observation_ids, strict=True)]
            rollout.metrics["wm/true_token_fraction"] = sum(same) / len(same)

    def _draw_signs(self, rollout: Rollout, randomness: Generator) -> None:
        selected = [t for t in rollout.teaching_transitions if t.selected]
        for t, sign in zip(selected, controls.signs(len(selected), randomness), strict=True):
            t.target_sign = sign
        rollout.metrics["wm/positive_fraction"] = sum(t.target_sign > 0 for t in selected) / len(selected)


class RewardBalance(L.Callback):
    """Gives every group its lambda_g: how much the world model counts there (eq. 10).

    Logs ``wm/coefficient`` (mean lambda over the groups), ``wm/coefficient_max``, and ``wm/matching_scale``.

    Args:
        coefficient: `reward_adaptive` is `value` times eq. 10, 1 - mean return / R_max (under the advantage NoReward
            returns count as 0); `constant` is `value` everywhere; `linear` goes from `value` to `final_value` in
            `anneal_iterations` iterations and stays there.
        value: at least 0; the paper's is 1.
        final_value: at least 0; for `linear` alone.
        anneal_iterations: at least 1; required by `linear`, and for it alone.
        max_return: R_max; null takes what the environment states as ``info["max_reward"]``.
        match_weight_of: scale every lambda by one factor per update, so that the mean of lambda w(p) over the update's
            targets is what this kind of loss would have at the policy that sampled: then two kinds differ in shape
            alone. It costs one forward pass without gradient over the update, none for a kind that is its own match.
            choice: a factor of the whole update, from the policy before its first step, depends neither on how the
            update is cut nor on earlier iterations, so that a resumed run needs no memory of it. null: no scaling.
    """

    def __init__(
        self,
        coefficient: Literal["reward_adaptive", "constant", "linear"] = "reward_adaptive",
        value: float = 1.0,
        final_value: float = 0.0,
        anneal_iterations: int | None = None,
        max_return: float | None = None,
        match_weight_of: Kind | None = None,
    ) -> None:
        one_of("reward_balance.coefficient", coefficient, ("reward_adaptive", "constant", "linear"))
        if match_weight_of is not None:
            one_of("reward_balance.match_weight_of", match_weight_of, get_args(Kind))
        for name, number in (("value", value), ("final_value", final_value)):
            if not number >= 0:
                raise SettingsError(f"reward_balance.{name} is {number}; wanted at least 0")
        if coefficient == "linear" and (anneal_iterations is None or anneal_iterations < 1):
            raise SettingsError(
                f"reward_balance.anneal_iterations is {anneal_iterations}; wanted at least 1 iteration for `linear`"
            )
        for name, given, unset in (("final_value", final_value, 0.0), ("anneal_iterations", anneal_iterations, None)):
            if coefficient != "linear" and given != unset:
                raise SettingsError(
                    f"reward_balance.{name} is {given} and reward_balance.coefficient is {coefficient!r}, which does "
                    f"not read it; wanted {'null' if unset is None else unset}, or coefficient linear"
                )
        if max_return is not None and not max_return > 0:
            raise SettingsError(f"reward_balance.max_return is {max_return}; wanted above 0, or null")
        self.coefficient, self.value, self.final_value = coefficient, value, final_value
        self.anneal_iterations, self.max_return = anneal_iterations, max_return
        self.match_weight_of = match_weight_of

    def asks_environment(self, rewardless: bool) -> bool:
        """Whether R_max has to come from the environment; without a reward returns count as 0, and eq. 10 gives 1."""
        return self.coefficient == "reward_adaptive" and not rewardless and self.max_return is None

    def weigh(self, rollout: Rollout, loss: WorldModelLoss, measure: Measure, *, rewardless: bool = False) -> None:
        """Write coefficient of every group; `measure` is asked only where another kind's weight is to be matched."""
        if not any(t.selected for t in rollout.teaching_transitions):
            return  # nothing is predicted: plain policy optimisation needs no R_max
        for group in rollout.teaching:
            group.coefficient = self._coefficient(group, rollout.iteration, rewardless)
        if self.match_weight_of is not None:
            matched = self.match_weight_of == loss.kind
            scale = 1.0 if matched else matching_scale(loss, self.match_weight_of, *measure(rollout))
            rollout.metrics["wm/matching_scale"] = scale
            for group in rollout.teaching:
                group.coefficient *= scale
        coefficients = [group.coefficient for group in rollout.teaching]
        rollout.metrics["wm/coefficient"] = sum(coefficients) / len(coefficients)
        rollout.metrics["wm/coefficient_max"] = max(coefficients)

    def _coefficient(self, group: RolloutGroup, iteration: int, rewardless: bool) -> float:
        if self.coefficient == "reward_adaptive" and not rewardless:
            max_return = group.max_return if self.max_return is None else self.max_return
            source = f"the environment of task {group.group_key}"
            return self.value * reward_adaptive_coefficient(group.returns, max_return, source)
        if self.coefficient == "linear":
            assert self.anneal_iterations is not None
            return linear_coefficient(iteration, self.value, self.final_value, self.anneal_iterations)
        return self.value
