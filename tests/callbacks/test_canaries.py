"""Every canary trips on what it is there for, and none of them changes a run."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model

from paw_lightning.callbacks import canary_checks as checks
from paw_lightning.callbacks.canary_checks import CanaryError
from paw_lightning.models.lora import LoRA
from paw_lightning.rollouts import scoring
from paw_lightning.samplers.base import Generation
from paw_lightning.samplers.native import NativeSampler
from paw_lightning.samplers.session import Session
from paw_lightning.training.datamodule import RolloutDataModule
from paw_lightning.training.module import PaWModule
from tests.helpers import runs
from tests.helpers.factories import make_transition

QUICK = {
    "trainer__limit_val_batches": 0,
    "trainer__enable_checkpointing": "false",
    "policy_export__folder": None,
    "reward_balance__coefficient": "constant",  # something to learn from the first step on
}


@pytest.fixture
def module(tiny_model_dir: str) -> PaWModule:
    module = PaWModule(tiny_model_dir)
    module.configure_model()
    return module


def test_canaries_change_nothing(tiny_model_dir: str, tmp_path: Path, capfd) -> None:
    """The same weights to the last bit, the same curves, and the same random state afterwards."""
    on = runs.fit(tmp_path / "on", tiny_model_dir, **QUICK)
    printed, random_state = capfd.readouterr().err, torch.get_rng_state()
    off = runs.fit(tmp_path / "off", tiny_model_dir, canaries__enabled="false", **QUICK)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(tensor, runs.weights(off)[name]) for name, tensor in runs.weights(on).items())
    curves, others = runs.curves(on), runs.curves(off)
    assert {tag: curves[tag] for tag in curves if not tag.startswith("time/")} == {
        tag: others[tag] for tag in others if not tag.startswith("time/")
    }
    assert printed.count("canaries: log-probs of sampler and trainer differ by") == 1
    assert printed.count("canaries: the policy trains on '") == 1
    assert "canaries:" not in capfd.readouterr().err


def patch_sampler(monkeypatch: pytest.MonkeyPatch, change) -> None:
    original = NativeSampler.generate

    def generate(self, prompts, *, temperature, **options):
        return original(self, prompts, temperature=change(temperature), **options)

    monkeypatch.setattr(NativeSampler, "generate", generate)


@pytest.mark.slow
def test_a_sampler_at_another_temperature(tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    patch_sampler(monkeypatch, lambda temperature: 0.8 * temperature)
    with pytest.raises(CanaryError, match=r"sampler's log-probs differ.*rollout\.temperature \(1\).*canaries\.enabled"):
        runs.fit(tmp_path, tiny_model_dir, **QUICK)
    runs.fit(tmp_path, tiny_model_dir, canaries__enabled="false", **QUICK)
    runs.fit(tmp_path, tiny_model_dir, canaries__logprob_tolerance=1.0, **QUICK)


def test_a_sampler_with_stale_weights(tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    """It plays the first rollout rightly; that it has not followed the first steps is seen at the second."""
    original = NativeSampler.__init__
    monkeypatch.setattr(
        NativeSampler, "__init__", lambda self, model, *rest: original(self, copy.deepcopy(model), *rest)
    )
    runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=1, **QUICK)
    with pytest.raises(CanaryError, match=r"trainer's log-probs by .* nats on average, and the sampler's not at all"):
        runs.fit(tmp_path, tiny_model_dir, **QUICK)


def test_a_sampler_with_weights_of_its_own(tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    original = NativeSampler.__init__

    def other_weights(self, model, *rest):
        model = copy.deepcopy(model)
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(1.5)
        original(self, model, *rest)

    monkeypatch.setattr(NativeSampler, "__init__", other_weights)
    with pytest.raises(CanaryError, match="other weights"):
        runs.fit(tmp_path, tiny_model_dir, **QUICK)


@pytest.mark.parametrize(("name", "kind"), [("action_mask", "action"), ("target_mask", "target")])
def test_a_shifted_mask(name: str, kind: str, tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    original = RolloutDataModule.transfer_batch_to_device

    def shift(self, batch, *rest):
        batch = original(self, batch, *rest)
        return replace(batch, **{name: getattr(batch, name).roll(-1, 1)})

    monkeypatch.setattr(RolloutDataModule, "transfer_batch_to_device", shift)
    with pytest.raises(CanaryError, match=rf"first mini-batch's {kind} mask covers '.*', which is no {kind}"):
        runs.fit(tmp_path, tiny_model_dir, **QUICK)


def test_weights_that_do_not_move(tiny_model_dir: str, tmp_path: Path) -> None:
    """A step of 1e-30 vanishes in float32, but where a bias is still 0."""
    settings = {"model__optimizer__init_args__lr": 1e-30, "model__optimizer__init_args__weight_decay": 0, **QUICK}
    with pytest.raises(CanaryError, match=r"learning rate 1e-30 moved \d+% of the weights.*model\.dtype: float32"):
        runs.fit(tmp_path, tiny_model_dir, **settings)


def test_bfloat16_weights_that_do_not_move_are_warned_of(tiny_model_dir: str, tmp_path: Path) -> None:
    """As `model.dtype` itself warns: a step of 1e-6 is below the precision of most weights."""
    settings = {"model__dtype": "bfloat16", "model__optimizer__init_args__lr": 1e-6}
    with pytest.warns(UserWarning, match=r"learning rate 1e-06 moved \d+% of the weights.*torch\.bfloat16"):
        runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=1, **settings, **QUICK)


def test_a_gradient_of_zero(tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    original = PaWModule.training_step
    monkeypatch.setattr(PaWModule, "training_step", lambda self, *batch: 0 * original(self, *batch)["loss"])
    with pytest.raises(CanaryError, match="gradient is exactly 0"):
        runs.fit(tmp_path, tiny_model_dir, **QUICK)


def test_nothing_to_learn_is_no_failure(tiny_model_dir: str, tmp_path: Path) -> None:
    """Without advantages and without a world model the gradient is 0 for a good reason."""
    runs.fit(tmp_path, tiny_model_dir, entropy_selection__alpha=0, **QUICK | {"data__group_size": 1})


def add_adapters(monkeypatch: pytest.MonkeyPatch, train_adapters: bool) -> None:
    """LoRA layers in every run's model, whose adapters or whose own weights are trained."""
    original = PaWModule.configure_model

    def configure(self) -> None:
        fresh = self.model is None
        original(self)
        if fresh:
            inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj", "up_proj"]), self.language_model)
            for name, parameter in self.language_model.named_parameters():
                parameter.requires_grad_(("lora_" in name) == train_adapters)

    monkeypatch.setattr(PaWModule, "configure_model", configure)


@pytest.mark.slow
def test_trained_adapters_are_right(tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    add_adapters(monkeypatch, train_adapters=True)
    cli = runs.fit(tmp_path, tiny_model_dir, **QUICK)
    trained = [name for name, parameter in cli.model.named_parameters() if parameter.requires_grad]
    assert trained and all("lora_" in name for name in trained), "the check left them as they were"


def test_adapters_without_effect(tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    """The model's own weights are trained, and the adapters stay at their beginning, B = 0."""
    add_adapters(monkeypatch, train_adapters=False)
    with pytest.raises(CanaryError, match="4 LoRA layers have no effect"):
        runs.fit(tmp_path, tiny_model_dir, **QUICK)


def test_an_observation_that_changes_the_action(module: PaWModule) -> None:
    """Stand-in for attention in both directions: log-probs that depend on what comes after."""
    pair = checks.Pair(module, None, 1.0)
    [row] = checks.choose([make_transition(prompt_ids=[10, 11], action_ids=[12, 13], observation_ids=[14, 15])])
    followed = checks.with_last_observation(row)
    assert checks.check_appended_observation(pair, [row], pair.score([followed]), 1e-3) < 1e-5
    forward = module.model.forward

    def looks_ahead(input_ids, *masks):
        out = forward(input_ids, *masks)
        return replace(out, action_logprobs=out.action_logprobs + 0.01 * input_ids.shape[1])

    module.model.forward = looks_ahead
    # Three tokens are appended: 0.03 nats.
    with pytest.raises(CanaryError, match=r"appended observation changes .* by 0\.03 nats"):
        checks.check_appended_observation(pair, [row], pair.score([followed]), 1e-3)


def test_later_turns_that_change_the_first_action(module: PaWModule) -> None:
    """Every token of a row adds 0.01 nats to its actions: the first one lacks those that come behind it.

    That is the bridge and the observation of 4 tokens, the second turn of 2 + 2, and what follows it, 4 again: 0.12.
    """
    second = make_transition(prompt_ids=[], turn_ids=[20, 21])
    pair = checks.Pair(module, None, 1.0)
    [row] = checks.choose([make_transition(), second])
    forward = module.model.forward

    def looks_ahead(input_ids, *masks):
        out = forward(input_ids, *masks)
        return replace(out, action_logprobs=out.action_logprobs + 0.01 * input_ids.shape[1])

    module.model.forward = looks_ahead
    with pytest.raises(CanaryError, match=r"by 0\.12 nats"):
        checks.check_appended_observation(pair, [row], pair.score([checks.with_last_observation(row)]), 1e-3)


class Other:
    """A sampler's log-probs: the trainer's, and another 0.2 nats on what comes after so many tokens of a row."""

    def __init__(self, module: PaWModule, late: int) -> None:
        self.pair, self.late = checks.Pair(module, None, 1.0), late

    def play(self, *lengths: int) -> list:
        """One row of two turns for each length of its first prompt."""
        transitions = []
        for length in lengths:
            actions = list(range(20, 36))
            turns = [make_transition(prompt_ids=[10] * length, action_ids=actions)]
            turns.append(make_transition(prompt_ids=[], turn_ids=[11], action_ids=actions))
            [row] = checks.policy_rows(turns)
            [logprobs] = self.pair.score([row])
            start = length
            for i, t in enumerate(turns):
                own = logprobs[16 * i : 16 * (i + 1)] + 0.2 * (start >= self.late)
                t.sampled_logprobs, start = own.tolist(), start + 16 + 4 + 1
            transitions += turns
        return transitions


def agreement(other: Other, transitions: list, tolerance: float, **rest) -> float:
    checked = checks.choose(transitions)
    return checks.check_sampler_agrees(other.pair, checked, other.pair.score(checked), tolerance, **rest)


def test_what_only_the_longest_row_shows(module: PaWModule) -> None:
    """Ten rows of 10 + 16 + 4 + 1 + 16 = 47 tokens, and one of 67 among them, whose last 16 are wrong by 0.2 nats:
    a mean of 0.1 over that row, 0.025 over the four that are checked.
    """
    other = Other(module, late=50)
    transitions = other.play(*[10] * 5, 30, *[10] * 5)
    with pytest.raises(CanaryError, match=r"by 0\.1 nats on average over a row of 67 tokens; wanted at most 0\.05"):
        agreement(other, transitions, 0.05)
    assert agreement(other, transitions, 0.11) == pytest.approx(0.2 * 16 / (4 * 32), rel=1e-3)
    assert agreement(Other(module, late=100), transitions[:2], 0.05) < 1e-5


def test_what_rounding_explains_grows_with_the_surprise(module: PaWModule) -> None:
    """In float32 1e-3 nats: for 0.2 nats a token as for 1; 1.5 times that for a mean of (1 + 2) / 2; never above 2."""

    def explained(*logprobs: float) -> float:
        return checks.rounding(module, [torch.tensor([p]) for p in logprobs])

    assert explained(-0.2) == explained(-1.0) == explained(float("nan")) == 1e-3
    assert explained(-1.0, -2.0) == pytest.approx(1.5e-3)
    assert explained(-50.0) == explained(float("-inf")) == pytest.approx(2e-3)


def test_the_gap_over_the_whole_rollout_is_held_to_the_limit(module: PaWModule) -> None:
    other = Other(module, late=1000)
    transitions = other.play(10)
    agreement(other, transitions, 0.05, rollout_gap=0.04)
    said = r"by 0\.06 nats on average over the rollout \(rollout/sampler_gap\); wanted at most 0\.05"
    with pytest.raises(CanaryError, match=said):
        agreement(other, transitions, 0.05, rollout_gap=0.06)


def test_a_later_turn_whose_cache_is_wrong(tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    """The session spoils what it remembers, from the second turn on; first turns are right."""
    original = Session._go_on

    def spoiling(self, prompts, known, room):
        cache = original(self, prompts, known, room)
        for layer in cache.layers:
            layer.values *= 50
        return cache

    monkeypatch.setattr(Session, "_go_on", spoiling)
    with pytest.raises(CanaryError, match="another reading of long rows"):
        runs.fit(tmp_path, tiny_model_dir, rollout__layout="episode", rollout__max_action_tokens=20, **QUICK)


def test_the_rollouts_own_gap_is_a_limit_of_a_run(tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(scoring, "sampler_gap", lambda transitions: 0.5)
    with pytest.raises(CanaryError, match=r"by 0\.5 nats on average over the rollout"):
        runs.fit(tmp_path, tiny_model_dir, rollout__old_logprobs="trainer", **QUICK)


def test_texts(module: PaWModule) -> None:
    encode = module.tokenizer.encode
    sent = {"action_ids": [*encode("go north"), 2], "action_text": "go north"}
    right = make_transition(observation_ids=encode("A  hall.\n"), observation_text="A hall.", **sent)
    checks.check_texts(module.tokenizer, [right])
    checks.check_texts(module.tokenizer, [replace(right, action_text="GO NORTH"), replace(right, observation_ids=[])])
    with pytest.raises(CanaryError, match=r"decode to 'go north', .* sent 'go south'.*action_format"):
        checks.check_texts(module.tokenizer, [replace(right, action_text="go south")])
    call = '{"name": "go", "arguments": {"where": "north"}}'  # written as a call of another form
    checks.check_texts(module.tokenizer, [replace(right, action_text=call, answer_text="go north")])
    with pytest.raises(CanaryError, match=r"decode to 'go north', .* sent 'go south'"):
        checks.check_texts(module.tokenizer, [replace(right, action_text=call, answer_text="go south")])
    quoted = json.dumps(call)  # an answer that is none, and reads like one
    checks.check_texts(module.tokenizer, [replace(right, action_text=quoted, answer_text="go north")])
    with pytest.raises(CanaryError, match="the environment was sent"):
        checks.check_texts(
            module.tokenizer, [replace(right, action_text=json.dumps("go south"), answer_text="go north")]
        )
    with pytest.raises(CanaryError, match=r"observation tokens decode to 'A room'; .* answer 'A hall\.'.*model\.path"):
        checks.check_texts(module.tokenizer, [replace(right, observation_ids=encode("A room"))])


def test_stretches_of_a_mask() -> None:
    """A row may hold several."""
    ids, mask = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]), torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0]]).bool()
    assert checks.masked_runs(ids, mask) == [[1, 2], [4]]


def test_checked_rows_are_whole_and_the_longest_is_among_them() -> None:
    def chosen(*transitions) -> list:
        return [checks.turns(row) for row in checks.choose(transitions)]

    follower, unobserved = make_transition(prompt_ids=[]), make_transition(observation_ids=[])
    long, rows = make_transition(prompt_ids=[1] * 4), [make_transition(reward=i) for i in range(9)]
    assert chosen(*rows[:4], long, *rows[4:]) == [[long], [rows[0]], [rows[3]], [rows[5]]]  # of ten: 0, 3 and 6
    assert chosen(unobserved, rows[0]) == [[unobserved], [rows[0]], [rows[0]], [rows[0]]]
    assert chosen(rows[0], follower) == [[rows[0], follower]]
    assert chosen(follower) == []
    assert chosen(make_transition(action_ids=[])) == []
    # Of 40 rows of 600 tokens a second one makes more than 1,024, and than 1 % of 24,000; 1 % of 240,000 is four rows.
    of_600 = [make_transition(prompt_ids=[1] * 598, reward=i) for i in range(400)]
    assert chosen(*of_600[:40]) == [[of_600[0]]]
    of_600[0].observation_ids = []  # the longest: one with an observation has to be beside it
    assert chosen(*of_600[:40]) == [[of_600[0]], [of_600[1]]]
    of_600[0].observation_ids = [7]
    assert chosen(*of_600) == [[of_600[0]], [of_600[133]], [of_600[266]]]  # a third of them apart, and the longest is 0


def test_watched_places_hold_the_largest_gradients() -> None:
    """Of 100 numbers the 64 largest by size, the smallest of which is 37 in 1..100; a third of them is too few."""
    parameter = torch.nn.Parameter(torch.zeros(10, 10))
    parameter.grad = -torch.arange(1.0, 101.0).reshape(10, 10)
    [same] = [checks.watch(parameter)]
    assert sorted(same[1].tolist()) == list(range(36, 100))
    optimizer, module = SimpleNamespace(param_groups=[{"lr": 0.1}]), SimpleNamespace(lora=LoRA())
    with torch.no_grad():
        parameter[:6] = 1.0  # places 0 to 59: 24 of the 64
    with pytest.raises(CanaryError):
        checks.check_weights_moved(module, [same], optimizer)
    with pytest.warns(UserWarning, match="moved 38% of the weights"):
        checks.check_weights_moved(SimpleNamespace(lora=LoRA(rank=1)), [same], optimizer)
    with torch.no_grad():
        parameter[9] = 1.0  # 10 more
    checks.check_weights_moved(module, [same], optimizer)


def test_bad_tolerance_is_named(tiny_model_dir: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"canaries\.logprob_tolerance is 0\.0; wanted above 0"):
        runs.fit(tmp_path, tiny_model_dir, canaries__logprob_tolerance=0)


def test_a_probe_without_tokens_says_nothing(monkeypatch) -> None:
    """A sampler may answer all of a probe's prompts with no token at all: no difference, and no effect to miss."""
    silent = [Generation([], [], [], False)] * 2
    empty = [torch.empty(0)] * 2
    monkeypatch.setattr(checks, "adapted_layers", lambda model: ["adapted"])
    pair = SimpleNamespace(module=SimpleNamespace(language_model=None))
    checks.check_adapters(pair, checks.Probe([[1], [2]], silent, empty))
    assert checks.mean_gap(empty, empty) == 0
