"""Rollouts of made-up tokens, the update's loss and gradients on their rows, and log-probs by a plain forward."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import torch

from paw_lightning.training.module import PaWModule
from paw_lightning.types import Episode, Rollout, RolloutGroup, Terms, Transition
from paw_lightning.update.batches import restrict, split_evenly
from paw_lightning.update.collate import collate
from paw_lightning.update.rows import Row
from paw_lightning.world_model.callbacks import RewardBalance
from paw_lightning.world_model.loss import WorldModelLoss


def transition(prompt: int, action: list[int], observation: list[int], advantage: float, **fields) -> Transition:
    """A transition with made-up tokens; byte tokens of the tiny model lie in 3..258."""
    values = {
        "prompt_ids": list(range(10, 10 + prompt)),
        "action_ids": action,
        "bridge_ids": [1, 50],
        "observation_ids": observation,
        "sampled_logprobs": [-5.0] * len(action),
        "sampled_entropies": [5.0] * len(action),
        "token_entropies": [5.0] * len(action),
        "action_text": "a",
        "observation_text": "o",
        "anchor": "s",
        "reward": 0.0,
        "well_formed": True,
        "admissible": True,
        "old_logprobs": torch.full((len(action),), -5.5),
        "advantage": advantage,
        "selected": True,
    }
    return Transition(**(values | fields))


def make_rollout() -> Rollout:
    """Three groups; the second has one unselected transition, the third selects nothing."""
    first = [
        transition(5, [60, 61, 2], [70, 71, 72, 73], 1.0),
        transition(9, [62, 2], [74, 75], -0.5),
        transition(3, [63, 64, 65, 2], [76], 0.25),
    ]
    second = [
        transition(7, [66, 2], [77, 78, 79], 2.0),
        transition(4, [67, 68, 2], [80, 81], -1.0, selected=False),
    ]
    third = [transition(6, [69, 2], [82, 83], 0.5, selected=False)]
    groups = [
        RolloutGroup(str(g), 1.0, [Episode(g, 0, "task", transitions)], coefficient=coefficient)
        for g, (transitions, coefficient) in enumerate([(first, 0.5), (second, 1.0), (third, 0.75)])
    ]
    groups[0].episodes[0].state_keys = ["hall", "attic", "hall", "roof"]
    return Rollout(0, groups)


def weigh(balance: RewardBalance, rollout: Rollout, *, rewardless: bool = False) -> None:
    """Give every group its lambda, where no other kind's weight is to be matched."""

    def measure(rollout: Rollout) -> tuple[torch.Tensor, torch.Tensor]:
        raise AssertionError("nothing to measure")

    balance.weigh(rollout, WorldModelLoss(), measure, rewardless=rewardless)


def step_gradients(
    module: PaWModule, rows: list[Row], micro_batches: int, padding: int = 0, terms: Terms = "joint"
) -> tuple[float, dict]:
    """Loss and gradients of one optimizer step cut into micro-batches, as Lightning accumulates them."""
    module._trainer = SimpleNamespace(accumulate_grad_batches=micro_batches)  # type: ignore[assignment]
    module.__class__.trainer = property(lambda self: self._trainer)  # type: ignore[assignment]
    module.zero_grad()
    total = 0.0
    for piece in split_evenly(rows, micro_batches, lambda row: row.length):
        batch = restrict(collate(piece, on_policy=False), terms)
        if padding:
            pad = torch.nn.functional.pad
            batch = replace(
                batch,
                input_ids=pad(batch.input_ids, (0, padding)),
                action_mask=pad(batch.action_mask, (0, padding)),
                target_mask=pad(batch.target_mask, (0, padding)),
            )
        loss = module.training_step(batch, 0)["loss"] / micro_batches
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def naive_terms(module: PaWModule, t: Transition) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of action and observation tokens of one transition, by a plain forward of the Hugging Face model."""
    ids = t.prompt_ids + t.action_ids + t.bridge_ids + t.observation_ids
    logits = module.language_model(torch.tensor([ids])).logits[0].double()
    logprobs = torch.log_softmax(logits, -1)
    picked = torch.stack([logprobs[i - 1, token] for i, token in enumerate(ids) if i])
    start, stop = len(t.prompt_ids), len(t.prompt_ids) + len(t.action_ids)
    return picked[start - 1 : stop - 1], picked[len(ids) - len(t.observation_ids) - 1 :]


def transcript(*turns: tuple[list[int], list[int], list[int]], **fields) -> list[Transition]:
    """One episode in the episode layout, from (context before the action, action, observation after it)."""
    return [
        transition(0, action, observation, 0.5 - i, prompt_ids=[] if i else context, turn_ids=context, **fields)
        for i, (context, action, observation) in enumerate(turns)
    ]


FIRST = [([10, 11, 12], [60, 2], [70, 71]), ([13, 14], [61, 62, 2], [72]), ([15], [63, 2], [73, 74, 75])]


SECOND = [([16, 17], [64, 2], [76, 77, 78]), ([18], [65, 2], [79, 80])]


def rollout_of(*episodes: list[Transition]) -> Rollout:
    """One group per episode, with coefficients 0.5, 1, ..."""
    groups = [
        RolloutGroup(str(g), 1.0, [Episode(g, 0, "task", transitions)], coefficient=(g + 1) / 2)
        for g, transitions in enumerate(episodes)
    ]
    return Rollout(0, groups)


CONTROLS = ([90, 91], [92], [93, 94, 95])


def controlled(transitions: list[Transition]) -> list[Transition]:
    for t, ids in zip(transitions, CONTROLS, strict=True):
        t.control_ids = ids
    return transitions
