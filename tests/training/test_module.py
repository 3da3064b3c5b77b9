"""The update: eq. 11 by hand, and what it must not depend on."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from paw_lightning.policy.losses import PolicyLoss
from paw_lightning.rollouts.scoring import write_policy_scores
from paw_lightning.training.datamodule import RolloutDataModule
from paw_lightning.training.module import PaWModule
from paw_lightning.types import Rollout
from paw_lightning.update.batches import restrict
from paw_lightning.update.collate import collate
from paw_lightning.update.rows import Row, Segment
from paw_lightning.world_model.loss import WorldModelLoss
from tests.helpers.updates import make_rollout, naive_terms, step_gradients


def test_loss_is_equation_11(module: PaWModule) -> None:
    """L = token mean of the surrogate + mean over the 3 groups of lambda_g * mean over S_g of the clipped MAE."""
    rollout = make_rollout()
    data = RolloutDataModule(minibatches=1)
    [rows] = data.cutter.minibatch_rows(rollout)
    loss, gradients = step_gradients(module, rows, 1)

    module.zero_grad()
    surrogates, wm = [], torch.zeros((), dtype=torch.float64)
    for group in rollout.groups:
        losses = []
        for t in group.transitions:
            action, observation = naive_terms(module, t)
            ratio = (action - t.old_logprobs).exp()
            surrogates.append(-torch.minimum(ratio * t.advantage, ratio.clamp(0.8, 1.2) * t.advantage))
            p = observation.exp()
            if t.selected:
                losses.append(((p <= 0.2) * (1 - p)).sum() / len(observation))
        if losses:
            wm = wm + group.coefficient * torch.stack(losses).mean()
    expected = torch.cat(surrogates).mean() + wm / len(rollout.groups)
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    for name, p in module.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, atol=1e-5, rtol=1e-3, msg=name)


def having(rows: list[Row], role: str) -> list[Segment]:
    return [segment for row in rows for segment in row.having(role)]


def mass(rows: list[Row], role: str) -> float:
    """The sum of all weights of a role's tokens."""
    return math.fsum(segment.weight * len(segment.ids) for segment in having(rows, role))


def test_weights_by_hand() -> None:
    """Token mean: 16 action tokens, 1/16 each.

    World model, lambda_g / (G |S_g| |o|): group 0 has 3 selected of 4, 2 and 1 tokens: 0.5/(3*3*4) = 1/72, 1/36, 1/18;
    group 1 has one selected of 3 tokens: 1/(3*1*3) = 1/9; the rest 0.
    """
    [rows] = RolloutDataModule(minibatches=1).cutter.minibatch_rows(make_rollout())
    assert {segment.weight for segment in having(rows, "action")} == {1 / 16}
    by_target = {segment.ids[0]: segment.weight for segment in having(rows, "target")}
    expected = {70: 1 / 72, 74: 1 / 36, 76: 1 / 18, 77: 1 / 9}
    assert by_target == pytest.approx(expected)


@pytest.mark.parametrize("normalization", ["token_mean", "sequence_mean", "group_mean"])
def test_policy_weights_sum_to_one_in_every_step(normalization: str) -> None:
    data = RolloutDataModule(minibatches=2, normalization=normalization)
    for rows in data.cutter.minibatch_rows(make_rollout()):
        assert mass(rows, "action") == pytest.approx(1)


def test_world_model_weights_of_all_steps_average_to_the_update(module: PaWModule) -> None:
    """Two steps carry twice the weight each, so that their mean is eq. 11 of the whole update."""
    whole = RolloutDataModule(minibatches=1).cutter.minibatch_rows(make_rollout())[0]
    halves = RolloutDataModule(minibatches=2).cutter.minibatch_rows(make_rollout())
    total = mass(whole, "target")
    mean = sum(mass(rows, "target") for rows in halves) / 2
    # (0.5 + 1 + 0) / 3 groups
    assert total == pytest.approx(0.5)
    assert mean == pytest.approx(total)


@pytest.mark.parametrize("micro_batches", [2, 3, 6, 8])
def test_loss_does_not_depend_on_micro_batches(module: PaWModule, micro_batches: int) -> None:
    """8 is more than the 6 rows: two micro-batches carry weight 0."""
    [rows] = RolloutDataModule(minibatches=1).cutter.minibatch_rows(make_rollout())
    whole, whole_gradients = step_gradients(module, rows, 1)
    cut, cut_gradients = step_gradients(module, rows, micro_batches)
    assert cut == pytest.approx(whole, abs=1e-6)
    for name, gradient in whole_gradients.items():
        torch.testing.assert_close(cut_gradients[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def grown_rollout() -> Rollout:
    """The same groups as transcripts: every prompt is what the episode has seen so far, plus a turn text of its own."""
    rollout = make_rollout()
    for group in rollout.groups:
        prefix: list[int] = []
        for i, t in enumerate(group.transitions):
            t.turn_ids = t.prompt_ids
            prefix = prefix + t.turn_ids
            t.prompt_ids = [] if i else t.turn_ids
            prefix = prefix + t.action_ids + t.bridge_ids + t.observation_ids
    return rollout


def as_steps(rollout: Rollout) -> Rollout:
    """The same rollout in the step layout with full history."""
    for group in rollout.groups:
        prefix: list[int] = []
        for t in group.transitions:
            prefix = prefix + t.turn_ids
            t.prompt_ids = prefix
            prefix = prefix + t.action_ids + t.bridge_ids + t.observation_ids
    return rollout


@pytest.mark.parametrize(
    "settings", [{}, {"world_model_horizon": 3, "world_model_discount": 0.5}, {"normalization": "group_mean"}]
)
@pytest.mark.parametrize("controls", [False, True])
def test_both_layouts_give_the_same_loss_and_gradient(module: PaWModule, settings: dict, controls: bool) -> None:
    """With full history the layouts differ in how often a token is read, not in what is learnt from it."""
    episode, step = grown_rollout(), as_steps(grown_rollout())
    for rollout in (episode, step):
        for t in rollout.transitions if controls else []:
            t.control_ids = [i + 20 for i in t.observation_ids]
    data = RolloutDataModule(minibatches=1, **settings)
    [grown], [stepped] = data.cutter.minibatch_rows(episode), data.cutter.minibatch_rows(step)
    assert len(stepped) == 6 and len(grown) == 3
    loss, gradients = step_gradients(module, grown, 2)
    expected, expected_gradients = step_gradients(module, stepped, 2)
    assert loss == pytest.approx(expected, abs=1e-6)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_scoring_gives_the_same_logprobs_in_both_layouts(module: PaWModule) -> None:
    episode, step = grown_rollout(), as_steps(grown_rollout())
    for rollout in (episode, step):
        write_policy_scores(module.model, rollout.transitions, 0.7, batch_tokens=64, logprobs=True, values=False)
    for grown, stepped in zip(episode.transitions, step.transitions, strict=True):
        torch.testing.assert_close(grown.old_logprobs, stepped.old_logprobs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("surrogate", ["gspo", "cispo"])
def test_no_surrogate_depends_on_layout_or_micro_batches(module: PaWModule, surrogate: str) -> None:
    """In the episode layout a row holds several actions, each with a ratio of its own; old log-probs are made up."""
    module.policy_loss = PolicyLoss(surrogate=surrogate)
    cutter = RolloutDataModule(minibatches=1, normalization="sequence_mean").cutter
    [rows] = cutter.minibatch_rows(as_steps(grown_rollout()))
    whole, whole_gradients = step_gradients(module, rows, 1)
    [grown] = cutter.minibatch_rows(grown_rollout())
    for other_rows, micro_batches in ((rows, 2), (rows, 8), (grown, 1), (grown, 2)):
        loss, gradients = step_gradients(module, other_rows, micro_batches)
        assert loss == pytest.approx(whole, abs=1e-5)
        for name, gradient in whole_gradients.items():
            torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=1e-3, msg=name)


def test_the_sequence_ratio_is_that_of_each_turn(module: PaWModule) -> None:
    """GSPO's eq. 5 from a plain forward of every transition: the mean over the six actions of min(s A, clip(s) A)."""
    module.policy_loss = PolicyLoss(surrogate="gspo")
    rollout = make_rollout()
    for t in rollout.transitions:
        t.selected = False
    [rows] = RolloutDataModule(minibatches=1, normalization="sequence_mean").cutter.minibatch_rows(rollout)
    loss, _ = step_gradients(module, rows, 2)
    terms = []
    for t in rollout.transitions:
        s = (naive_terms(module, t)[0] - t.old_logprobs).mean().exp()
        terms.append(min((s * t.advantage).item(), (s.clamp(0.8, 1.2) * t.advantage).item()))
    assert loss == pytest.approx(-sum(terms) / 6, abs=1e-5)


def test_everything_about_the_policy_is_scored_in_one_pass(tiny_model_dir: str) -> None:
    """And in none where the sampler has told all; entropies that it gave stay."""
    module = PaWModule(tiny_model_dir, critic="shared")
    module.configure_model()
    transitions = grown_rollout().transitions
    for t in transitions:
        t.token_entropies = [7.0] * len(t.action_ids)
    passes: list[int] = []
    module.model.register_forward_hook(lambda *_: passes.append(1))
    write_policy_scores(module.model, transitions, 0.7, 10_000, logprobs=False, values=False)
    assert not passes
    transitions[1].token_entropies = []
    write_policy_scores(module.model, transitions, 0.7, 10_000, logprobs=True, values=True)
    assert len(passes) == 1
    for t in transitions:
        assert len(t.old_logprobs) == len(t.old_values) == len(t.token_entropies) == len(t.action_ids)
    kept = [entropy == 7.0 for t in transitions for entropy in t.token_entropies]
    assert kept.count(False) == len(transitions[1].action_ids)


def test_loss_does_not_depend_on_padding(module: PaWModule) -> None:
    [rows] = RolloutDataModule(minibatches=1).cutter.minibatch_rows(make_rollout())
    plain, gradients = step_gradients(module, rows, 1)
    padded, padded_gradients = step_gradients(module, rows, 1, padding=17)
    assert padded == pytest.approx(plain, abs=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(padded_gradients[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_action_logprobs_ignore_the_appended_observation(module: PaWModule) -> None:
    rollout = make_rollout()
    with_observation = RolloutDataModule(minibatches=1).cutter.minibatch_rows(rollout)[0]
    batch = collate(with_observation, on_policy=False)
    for t in rollout.transitions:
        t.selected = False
    bare = collate(RolloutDataModule(minibatches=1).cutter.minibatch_rows(rollout)[0], on_policy=False)
    assert bare.input_ids.shape[1] < batch.input_ids.shape[1], "the observation was appended"
    with torch.no_grad():
        first = module.model(batch.input_ids, batch.action_mask, batch.target_mask, 1.0)
        second = module.model(bare.input_ids, bare.action_mask, bare.target_mask, 1.0)
    torch.testing.assert_close(first.action_logprobs, second.action_logprobs, atol=1e-5, rtol=0)
    assert len(second.target_logprobs) == 0


def test_nothing_selected_is_bitwise_the_base_algorithm(module: PaWModule) -> None:
    """The loss of eq. 3 without its second term, and every gradient, to the last bit."""
    rollout = make_rollout()
    for t in rollout.transitions:
        t.selected = False
    [rows] = RolloutDataModule(minibatches=1).cutter.minibatch_rows(rollout)
    loss, gradients = step_gradients(module, rows, 1)

    module.zero_grad()
    batch = collate(sorted(rows, key=lambda row: row.length), on_policy=False)
    empty = torch.zeros_like(batch.action_mask)
    out = module.model(batch.input_ids, batch.action_mask, empty, 1.0)
    tokens = PolicyLoss()(out.action_logprobs, out.action_entropies, batch.old_logprobs, batch.advantages)
    base = (batch.policy_weights * tokens).sum()
    base.backward()
    assert loss == base.item()
    for name, p in module.named_parameters():
        assert torch.equal(gradients[name], p.grad), name


def test_first_minibatch_has_ratio_one(module: PaWModule) -> None:
    """With r = 1 the surrogate is -A: the loss is minus the weighted mean advantage, whatever the sampler recorded."""
    rollout = make_rollout()
    for t in rollout.transitions:
        t.selected = False
    [rows] = RolloutDataModule(minibatches=1).cutter.minibatch_rows(rollout)
    module._trainer = SimpleNamespace(accumulate_grad_batches=1)  # type: ignore[assignment]
    module.__class__.trainer = property(lambda self: self._trainer)  # type: ignore[assignment]
    batch = collate(rows, on_policy=True)
    # advantages x tokens: 3*1 - 2*0.5 + 4*0.25 + 2*2 - 3*1 + 2*0.5 = 5, over 16 tokens
    assert module.training_step(batch, 0)["loss"].item() == pytest.approx(-5 / 16, abs=1e-6)


def test_a_foreign_samplers_ratio_is_the_same_in_every_step(module: PaWModule) -> None:
    """Its log-probs are another policy's: the first step takes the ratio to them as the others do."""
    [rows] = RolloutDataModule(minibatches=1).cutter.minibatch_rows(make_rollout())
    later = module.losses(collate(rows, on_policy=False)).policy.item()
    first = module.losses(collate(rows, on_policy=True, foreign_logprobs=True)).policy.item()
    assert first == later != module.losses(collate(rows, on_policy=True)).policy.item()


def test_each_loss_part_can_be_exchanged_alone(module: PaWModule) -> None:
    [rows] = RolloutDataModule(minibatches=1).cutter.minibatch_rows(make_rollout())
    paw, _ = step_gradients(module, rows, 1)
    module.world_model_loss = WorldModelLoss(kind="cross_entropy")
    cross_entropy, _ = step_gradients(module, rows, 1)
    assert cross_entropy > paw, "-log p is above 1 - p"


def test_turns_carry_one_loss_each(module: PaWModule) -> None:
    """I = 4 over 5 steps: the gradient of step 4 is the world model's alone, that of 0..3 the policy's alone.

    One iteration of five steps, whose rows the four policy steps share; the parts' gradients come from separate
    backward passes of each loss.
    """
    data = RolloutDataModule(minibatches=5, world_model_interval=4)
    steps = data.cutter.steps(make_rollout())
    assert [terms for terms, _ in steps] == ["policy"] * 4 + ["world_model"]
    for terms, rows in steps:
        batch = restrict(collate(rows, on_policy=False), terms)
        other = "policy" if terms == "world_model" else "world_model"
        losses = module.losses(batch)
        assert getattr(losses, other).item() == 0.0
        assert getattr(losses, terms).item() != 0.0
        module.zero_grad()
        getattr(losses, other).backward(retain_graph=True)
        assert all(not p.grad.any() for p in module.parameters() if p.grad is not None), "nothing of the other loss"
        _, gradients = step_gradients(module, rows, 2, terms=terms)
        module.zero_grad()
        getattr(losses, terms).backward()
        for name, p in module.named_parameters():
            torch.testing.assert_close(gradients[name], p.grad, atol=1e-5, rtol=1e-3, msg=name)


def test_the_world_models_own_step_is_equation_11(module: PaWModule) -> None:
    """Its loss is the joint step's second term."""
    [rows] = RolloutDataModule(minibatches=1).cutter.minibatch_rows(make_rollout())
    joint = module.losses(collate(rows, on_policy=False)).world_model.item()
    terms, own = RolloutDataModule(minibatches=5, world_model_interval=4).cutter.steps(make_rollout())[4]
    alone = module.losses(restrict(collate(own, on_policy=False), terms)).world_model.item()
    assert alone == pytest.approx(joint, abs=1e-6)


def test_separate_world_model_head_leaves_the_policy_head_alone(tiny_model_dir: str) -> None:
    module = PaWModule(tiny_model_dir, world_model_head="separate")
    module.configure_model()
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    [rows] = RolloutDataModule(minibatches=1).cutter.minibatch_rows(make_rollout())
    _, gradients = step_gradients(module, rows, 1)
    assert gradients["model.world_model_head.projection"].abs().sum() > 0


def test_temperature_of_the_sampler_is_that_of_the_loss(module: PaWModule) -> None:
    batch = collate(RolloutDataModule(minibatches=1).cutter.minibatch_rows(make_rollout())[0], on_policy=False)
    out = module.model(batch.input_ids, batch.action_mask, batch.target_mask, 0.5)
    logits = module.language_model(batch.input_ids).logits
    expected = torch.log_softmax(logits / 0.5, -1)[:, :-1].gather(-1, batch.input_ids[:, 1:, None]).squeeze(-1)
    torch.testing.assert_close(out.action_logprobs, expected[batch.action_mask[:, 1:]], atol=1e-5, rtol=0)
