"""An expert's answers in the place of the policy's, and what is learnt from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from paw_lightning.errors import SettingsError
from paw_lightning.rollouts.collector import Collector
from paw_lightning.rollouts.layouts import EpisodeLayout, StepLayout
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.prompts import Prompt, PromptBuilder
from paw_lightning.types import Rollout
from paw_lightning.update.batches import UpdateCutter
from tests.helpers import runs
from tests.helpers.playing import END, TOKENIZER
from tests.helpers.toy_env import ToyEnv

WORDS = ["ab", "<think>so</think><action>ef</action>", "cd"]


class Shown(ToyEnv):
    """The toy world with an expert, who at its second turn writes tags."""

    def demonstrate(self) -> str:
        return WORDS[self.turn]


class Lost(ToyEnv):
    """Its expert breaks down."""

    def demonstrate(self) -> str:
        raise LookupError("where was I?")


def collector(world: type[ToyEnv], action_format: str, layout: type = StepLayout, longest: int = 60) -> Collector:
    builder = PromptBuilder(Prompt(action_format=action_format), ChatFormat(TOKENIZER))
    sizes = {"max_steps": 3, "max_action_tokens": longest, "max_observation_tokens": 100}
    return Collector(world, builder, None, stop_token_ids=[END], layout=layout, demonstrated=True, **sizes)


class NoSampler:
    def session(self):
        return self


@pytest.mark.parametrize("layout", [StepLayout, EpisodeLayout])
def test_the_expert_writes_in_the_format(layout: type) -> None:
    """A command is put into the format, a whole answer stays as it is; each ends as the policy's would."""
    c = collector(Shown, "tags", layout)
    c.sampler = NoSampler()
    [group] = c.play([0], 1, temperature=1.0, seed=("run",)).groups
    thought = "<think>what next?</think><action>{}</action>"
    expected = [thought.format("ab"), WORDS[1], thought.format("cd")]
    assert [TOKENIZER.decode(t.action_ids) for t in group.transitions] == [text + "<|end|>" for text in expected]
    assert [t.action_text for t in group.transitions] == ["ab", "ef", "cd"]
    assert all(t.well_formed and not t.truncated for t in group.transitions)
    assert group.episodes[0].won, "three actions of two letters"


def test_an_expert_that_fails_costs_its_group_and_a_missing_one_the_run() -> None:
    c = collector(Lost, "plain")
    c.sampler = NoSampler()
    played = c.play([0], 1, temperature=1.0, seed=("run",))
    assert played.groups == [] and "demonstrate() failed with LookupError: where was I?" in played.failures[0]
    c = collector(ToyEnv, "plain")
    c.sampler = NoSampler()
    with pytest.raises(SettingsError, match=r"rollout.advantage is Imitation and ToyEnv has no expert"):
        c.play([0], 1, temperature=1.0, seed=("run",))


def test_an_answer_longer_than_an_action_is_refused() -> None:
    """ "ab" and its end are three tokens."""
    c = collector(Shown, "plain", longest=2)
    c.sampler = NoSampler()
    with pytest.raises(
        SettingsError, match=r"rollout.max_action_tokens is 2, and an expert's answer 'ab' has 3 tokens"
    ):
        c.play([0], 1, temperature=1.0, seed=("run",))


def test_no_step_takes_a_ratio_against_an_expert() -> None:
    c = collector(Shown, "plain")
    c.sampler = NoSampler()
    groups = c.play([0, 1, 2], 1, temperature=1.0, seed=("run",)).groups
    for t in [t for group in groups for t in group.transitions]:
        t.old_logprobs = torch.zeros(len(t.action_ids))
    cutter = UpdateCutter(minibatches=3)
    shown = list(cutter.micro_batches(Rollout(0, groups, demonstrated=True), 1))
    assert [(b.unit_ratio, b.on_policy) for b in shown] == [(True, False)] * 3
    assert [b.unit_ratio for b in cutter.micro_batches(Rollout(0, groups), 1)] == [True, False, False]


def test_imitation_is_cross_entropy_on_the_experts_tokens(tiny_model_dir: str, tmp_path: Path) -> None:
    """Two optimizer steps of plain SGD are those of the mean -log p of the action tokens, worked out anew."""
    settings = {
        "rollout__environment": "tests.rollouts.test_demonstrated.Shown",
        "rollout__advantage": "paw_lightning.policy.advantages.Imitation",
        "rollout__max_action_tokens": 60,
        "model__optimizer": "torch.optim.SGD",
        "model__optimizer__init_args__lr": 0.5,
        "model__optimizer__init_args__weight_decay": 0.0,  # else AdamW's default would stay with the class's change
        "entropy_selection__alpha": 0,
        "data__groups": 2,
        "data__group_size": 1,
        "data__minibatches": 2,
        "trainer__max_epochs": 1,
        "trainer__limit_val_batches": 0,
    }
    settings["rollout__importance_cap"] = 2.0  # of a base for an outside sampler: here there is none to correct for
    cli = runs.fit(tmp_path, tiny_model_dir, **settings)
    trained = cli.model.language_model

    builder = PromptBuilder(Prompt(), ChatFormat(TOKENIZER))
    c = Collector(Shown, builder, NoSampler(), max_steps=3, max_action_tokens=60, max_observation_tokens=256,
                  stop_token_ids=[END], demonstrated=True)  # fmt: skip
    groups = c.play(cli.trainer.datamodule.source.runner.train_tasks(0), 1, temperature=1.0, seed=("run",)).groups
    for t in [t for group in groups for t in group.transitions]:
        t.old_logprobs, t.advantage = torch.zeros(len(t.action_ids)), 1.0
    cutter = UpdateCutter(minibatches=2, seed=0)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    for batch in cutter.micro_batches(Rollout(0, groups, demonstrated=True), 1):
        logprobs = model(batch.input_ids).logits[:, :-1].log_softmax(-1)
        picked = logprobs.gather(-1, batch.input_ids[:, 1:, None])[..., 0][batch.action_mask[:, 1:]]
        model.zero_grad()
        (-picked.mean()).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.5 * p.grad
    for (name, ours), theirs in zip(trained.named_parameters(), model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5), name
