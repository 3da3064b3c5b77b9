"""PPO end to end: GAE through the environment loop, the critic, its loss, its checkpoints."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from transformers import AutoModelForCausalLM

from paw_lightning.callbacks import GracefulStop, RolloutSamples
from paw_lightning.models import heads, loading
from paw_lightning.training.datamodule import RolloutDataModule
from paw_lightning.training.module import PaWModule
from paw_lightning.types import MicroBatch, Rollout
from paw_lightning.update.collate import collate
from tests.helpers import runs
from tests.helpers.runs import PPO, assert_same_curves, assert_same_end
from tests.helpers.updates import make_rollout, step_gradients

BOTH_OUTCOMES = {"data__groups": 4, "seed_everything": 3}
"""A seed whose first twelve episodes of a random policy end in about 9 successes: rounding has a say."""
SEPARATE = PPO | {"model__critic": "separate", "model__critic_learning_rate": 0.003}


def ppo_rollout() -> Rollout:
    """make_rollout with values and targets of its own for every action token."""
    rollout, dice = make_rollout(), torch.Generator().manual_seed(1)
    for t in rollout.transitions:
        t.token_advantages, t.old_values, t.value_targets = torch.randn(3, len(t.action_ids), generator=dice).unbind()
    return rollout


@pytest.fixture(params=["shared", "separate"])
def ppo_module(request, module: PaWModule) -> PaWModule:
    """With a critic that has already learnt something, so that its gradient reaches its backbone."""
    module.critic = request.param
    module.model.critic = heads.build_critic(module.language_model, request.param)
    head = getattr(module.model.critic, "value_head", module.model.critic)
    torch.nn.init.normal_(head.projection.weight, generator=torch.Generator().manual_seed(2))
    return module


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_ppo_trains_policy_and_critic(critic: str, tiny_model_dir: str, tmp_path: Path) -> None:
    cli = runs.fit(tmp_path, tiny_model_dir, **PPO | BOTH_OUTCOMES | {"model__critic": critic})
    curves = runs.curves(cli)
    for tag in ("train/value_loss", "train/explained_variance", "train/policy_loss"):
        assert len(curves[tag]) == 2, tag
    assert curves["train/explained_variance"][1] == 0.0, "a critic that says 0 explains nothing"
    trained = cli.model.model.critic.state_dict()
    fresh = heads.build_critic(loading.load_language_model(tiny_model_dir), critic).state_dict()
    assert [name for name in fresh if torch.equal(fresh[name], trained[name])] == []


@pytest.mark.parametrize(
    "settings", [pytest.param(PPO, id="shared"), pytest.param(SEPARATE, id="separate", marks=pytest.mark.slow)]
)
def test_resume_equals_unbroken_run(settings: dict, tiny_model_dir: str, tmp_path: Path) -> None:
    unbroken = runs.fit(tmp_path / "unbroken", tiny_model_dir, trainer__max_epochs=3, **settings)
    stopped = runs.fit(tmp_path / "stopped", tiny_model_dir, trainer__max_epochs=1, **settings)
    checkpoint = runs.log_dir(stopped) / "checkpoints" / "last.ckpt"
    resumed = runs.fit(tmp_path / "resumed", tiny_model_dir, trainer__max_epochs=3, ckpt_path=checkpoint, **settings)
    assert_same_end(unbroken, resumed)
    assert_same_curves(unbroken, resumed)
    for name, tensor in unbroken.model.model.critic.state_dict().items():
        assert torch.equal(tensor, resumed.model.model.critic.state_dict()[name]), name
    exported = runs.log_dir(unbroken) / "policy"
    assert not [name for name in AutoModelForCausalLM.from_pretrained(exported).state_dict() if "critic" in name]
    with pytest.raises(ValueError, match="critic: checkpoint"):
        runs.fit(tmp_path / "other", tiny_model_dir, trainer__max_epochs=3, ckpt_path=checkpoint)


def test_the_critics_learning_rate_is_its_own(tiny_model_dir: str, tmp_path: Path) -> None:
    cli = runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=1, **SEPARATE)
    policy, critic = cli.trainer.optimizers[0].param_groups
    assert (policy["lr"], critic["lr"]) == (0.01, 0.003)
    assert {id(p) for p in critic["params"]} == {id(p) for p in cli.model.model.critic.parameters()}
    assert {id(p) for p in policy["params"]} == {id(p) for p in cli.model.language_model.parameters()}


def test_first_advantages_of_a_critic_that_says_nothing_are_the_returns_to_go(
    tiny_model_dir: str, tmp_path: Path, monkeypatch
) -> None:
    """Its first values are 0; with gamma = lambda = 1 every token's advantage is the sum of the rewards from it on."""
    seen: list[Rollout] = []
    monkeypatch.setattr(RolloutSamples, "on_rollout_end", lambda self, t, m, rollout: seen.append(rollout))
    settings = {"trainer__max_epochs": 1, "rollout__advantage__whiten": "false"}
    runs.fit(tmp_path, tiny_model_dir, **PPO, **BOTH_OUTCOMES, **settings)
    [rollout] = seen
    assert 0 < sum(episode.won for episode in rollout.episodes) < len(rollout.episodes)
    for episode in rollout.episodes:
        for i, t in enumerate(episode.transitions):
            to_go = sum(later.reward for later in episode.transitions[i:])
            assert t.old_values.tolist() == [0.0] * len(t.action_ids)
            assert t.token_advantages.tolist() == t.value_targets.tolist() == [to_go] * len(t.action_ids)
            assert t.advantage == to_go


def test_a_penalty_for_inadmissible_actions_stays_out_of_the_whitening(
    tiny_model_dir: str, tmp_path: Path, monkeypatch
) -> None:
    """No action is admissible here: every whitened advantage, of mean 0, is lowered by 0.5."""
    seen: list[Rollout] = []
    monkeypatch.setattr(RolloutSamples, "on_rollout_end", lambda self, t, m, rollout: seen.append(rollout))
    settings = {"rollout__environment__commands": True, "rollout__inadmissible_action_penalty": 0.5}
    runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=1, **PPO, **BOTH_OUTCOMES, **settings)
    tokens = torch.cat([t.token_advantages for t in seen[0].transitions])
    assert tokens.mean().item() == pytest.approx(-0.5, abs=1e-5)
    assert tokens.std().item() == pytest.approx(1, abs=1e-3)
    assert torch.cat([t.value_targets for t in seen[0].transitions]).unique().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("micro_batches", [3, 8])
def test_loss_does_not_depend_on_micro_batches_or_padding(ppo_module: PaWModule, micro_batches: int) -> None:
    [rows] = RolloutDataModule(minibatches=1).cutter.minibatch_rows(ppo_rollout())
    whole, whole_gradients = step_gradients(ppo_module, rows, 1)
    cut, cut_gradients = step_gradients(ppo_module, rows, micro_batches, padding=5)
    assert cut == pytest.approx(whole, abs=1e-5)
    assert any("critic" in name for name in whole_gradients)
    for name, gradient in whole_gradients.items():
        torch.testing.assert_close(cut_gradients[name], gradient, atol=1e-5, rtol=1e-3, msg=name)


def test_value_loss_is_the_token_mean(ppo_module: PaWModule) -> None:
    """16 action tokens: the loss beside the policy's is the mean of the 16 clipped squares, halved."""
    [rows] = RolloutDataModule(minibatches=1).cutter.minibatch_rows(ppo_rollout())
    batch = collate(rows, on_policy=False)
    losses = ppo_module.losses(batch)
    values, old, targets = losses.out.values, batch.old_values, batch.value_targets
    held = old + (values - old).clamp(-0.5, 0.5)
    expected = torch.maximum((values - targets) ** 2, (held - targets) ** 2).mean() / 2
    assert len(values) == 16
    torch.testing.assert_close(losses.value, expected)
    total, _ = step_gradients(ppo_module, rows, 1)
    policy, world_model = losses.policy.item(), losses.world_model.item()
    assert total == pytest.approx(policy + world_model + 0.5 * expected.item(), abs=1e-5)


def test_first_minibatch_has_ratio_one(ppo_module: PaWModule) -> None:
    """The surrogate is minus the mean of the tokens' own advantages, whatever the sampler recorded."""
    [rows] = RolloutDataModule(minibatches=1).cutter.minibatch_rows(ppo_rollout())
    losses = ppo_module.losses(collate(rows, on_policy=True))
    assert torch.equal(losses.old_logprobs, losses.out.action_logprobs)
    advantages = torch.cat([s.transition.token_advantages for row in rows for s in row.having("action")])
    assert losses.policy.item() == pytest.approx(-advantages.mean().item(), abs=1e-6)


def test_values_do_not_look_ahead(ppo_module: PaWModule) -> None:
    """The value before a token changes with the token before it, and not with itself or what follows."""
    ids = torch.randint(3, 250, (1, 12), generator=torch.Generator().manual_seed(3))
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[0, 5:10] = True

    def values(tokens: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return ppo_module.model(tokens, mask, torch.zeros_like(mask), 1.0).values

    changed = ids.clone()
    changed[0, 7] += 1
    same = torch.isclose(values(ids), values(changed), atol=1e-6)
    assert same.tolist() == [True, True, True, False, False], "tokens 5, 6 and 7 know nothing of 7; 8 and 9 do"


def test_a_fresh_critic_says_zero_and_leaves_the_backbone_alone(tiny_model_dir: str) -> None:
    fresh = PaWModule(tiny_model_dir, critic="shared")
    fresh.configure_model()
    [rows] = RolloutDataModule(minibatches=1).cutter.minibatch_rows(ppo_rollout())
    losses = fresh.losses(collate(rows, on_policy=False))
    assert losses.out.values.tolist() == [0.0] * 16
    losses.value.backward()
    assert all(not p.grad.any() for p in fresh.language_model.parameters() if p.grad is not None)
    assert fresh.model.critic.projection.weight.grad.any()


def test_the_critic_is_clipped_apart(ppo_module: PaWModule) -> None:
    """Gradients of norm 3 (policy) and 300 (critic), clipped at 1: together the policy's would shrink to 0.01."""
    ppo_module._trainer = SimpleNamespace(strategy=SingleDeviceStrategy("cpu"))
    type(ppo_module).trainer = property(lambda self: self._trainer)
    optimizer = ppo_module.configure_optimizers()
    for group, norm in zip(optimizer.param_groups, (3.0, 300.0), strict=True):
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
        group["params"][0].grad.flatten()[0] = norm
    ppo_module.configure_gradient_clipping(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
    clipped = [torch.nn.utils.get_total_norm([p.grad for p in g["params"]]).item() for g in optimizer.param_groups]
    assert clipped == pytest.approx([1.0, 1.0], abs=1e-4)


@pytest.mark.parametrize("separate", ["critic", "world_model_head"])
def test_a_step_of_one_loss_leaves_the_others_own_parameters(
    separate: str, tiny_model_dir: str, tmp_path: Path, monkeypatch
) -> None:
    """Losses take turns: policy, world model, policy, ...; AdamW's momentum alone would move what is not taught."""
    moved: list[tuple[str, bool]] = []
    kept: dict[str, torch.Tensor] = {}

    def note(callback: object, trainer: object, trained: PaWModule, out: object, batch: MicroBatch, *_: object) -> None:
        part = getattr(trained.model, separate)
        now = torch.cat([p.detach().flatten().clone() for p in part.parameters()])
        if "before" in kept:
            moved.append((batch.terms, not torch.equal(now, kept["before"])))
        kept["before"] = now

    monkeypatch.setattr(GracefulStop, "on_train_batch_end", note)
    settings = {
        "rollout__advantage": "paw_lightning.policy.advantages.GAE",
        "model__critic": "separate",
        "model__world_model_head": "separate",
        "data__world_model_interval": 1,
        "data__minibatches": 4,
        "trainer__accumulate_grad_batches": 1,
        "trainer__limit_val_batches": 0,
        "trainer__max_epochs": 2,
    }
    runs.fit(tmp_path, tiny_model_dir, **settings)
    teaches = "policy" if separate == "critic" else "world_model"
    assert moved == [(terms, terms == teaches) for terms, _ in moved] and len(moved) == 7
