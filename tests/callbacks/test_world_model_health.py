"""WorldModelHealth: what it measures, by hand and against plain computations, and that measuring changes nothing."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from paw_lightning.callbacks import WorldModelHealth
from paw_lightning.callbacks.diagnostics import compare_gradients, leaks, nuisance_mask, nuisance_shares
from paw_lightning.models.loading import load_tokenizer
from paw_lightning.rollouts.prediction import predict_observations
from paw_lightning.text.actions import action_format
from paw_lightning.text.chat import ChatFormat
from paw_lightning.training.datamodule import RolloutDataModule
from paw_lightning.training.module import PaWModule
from paw_lightning.update.batches import split_evenly
from paw_lightning.update.collate import collate
from paw_lightning.world_model.loss import WorldModelLoss
from tests.conftest import ROOT, byte_tokenizer
from tests.helpers import runs
from tests.helpers.factories import make_transition
from tests.helpers.updates import make_rollout, naive_terms

HOUSEHOLD = tuple(ROOT / "configs" / f"{name}.yaml" for name in ("household/base", "method/grpo", "wm/paw"))
TINY = runs.FEW_EPISODES | {"trainer__max_epochs": 2, "rollout__max_steps": 4}


@pytest.fixture
def module(tiny_model_dir: str) -> PaWModule:
    module = PaWModule(tiny_model_dir)
    module.configure_model()
    return module


SEARCH = "paw_lightning.envs.search.SearchTags"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("plain", "take mug 1", False),
        ("plain", "\n take mug 1 \n", False),
        ("plain", "take mug 1\nYou pick up the mug 1.", True),
        ("tags", "<think>a\nb</think><action>look</action>", False),
        ("tags", "<think>a\nb</think><action>look</action> \n", False),
        ("tags", "<think>a</think><action>look</action>\nYou see a mug.", True),
        ("tags", "no tags\nat all", False),
        (SEARCH, "<think>a\nb</think><search>Zorla</search> \n", False),
        (SEARCH, "<think><information> names Mivra</think><answer>Mivra</answer>", False),
        (SEARCH, "<search>Zorla</search>\n<information>Doc 1", True),
        (SEARCH, "<answer>Mivra</answer> it is", True),
        (SEARCH, "<Search>Zorla</SEARCH> so", True),
        (SEARCH, "<think>a</think><information>Doc 1: Mivra</information><answer>Mivra</answer>", True),
        (SEARCH, "no tags\nat all", False),
    ],
)
def test_an_action_that_runs_on_leaks(name: str, text: str, expected: bool) -> None:
    assert leaks(make_transition(), text, set(), action_format(name)) is expected


def test_an_action_that_is_cut_off_or_takes_another_role_leaks() -> None:
    """Token 5 ends the action [4, 5] as it should; token 4 before it is a role marker where only 4 is one."""
    assert leaks(make_transition(truncated=True), "look", set(), action_format("plain"))
    assert leaks(make_transition(), "look", {4}, action_format("plain"))
    assert not leaks(make_transition(), "look", {5}, action_format("plain"))


def test_nuisance_is_every_token_that_touches_a_span() -> None:
    offsets = [(0, 2), (2, 4), (4, 4), (4, 6), (6, 9)]
    assert nuisance_mask(offsets, [(3, 5)]).tolist() == [False, True, True, True, False]
    assert nuisance_mask(offsets, []).tolist() == [False] * 5


@pytest.mark.parametrize("name", ["bytes", "tiny-household"])
def test_offsets_belong_to_the_encoded_text(name: str) -> None:
    chat = ChatFormat(byte_tokenizer() if name == "bytes" else load_tokenizer(name))
    text = "You see a mug 1 (tag 3f2a). é <|im_start|>user\n"
    offsets = chat.text_offsets(text)
    assert len(offsets) == len(chat.encode_text(text))
    start = text.index("3f2a")
    inside = nuisance_mask(offsets, [(start, start + 4)]).tolist()
    touched = "".join(text[first:last] for (first, last), hit in zip(offsets, inside, strict=True) if hit)
    assert "3f2a" in touched and len(touched) <= 6


def test_nuisance_shares_by_hand() -> None:
    """p = 0.1 is nuisance, p = 0.5 is not; w(p) (1 - p) of both:

    cross-entropy 0.9 and 0.5; MAE 0.09 and 0.25; clipped MAE 0.09 and 0;
    focal w = (1-p)^2 - 2 p (1-p) ln p: (0.81 + 0.18 ln 10) 0.9 and (0.25 + 0.5 ln 2) 0.5.
    """
    shares = nuisance_shares(torch.tensor([0.1, 0.5]).log(), torch.tensor([True, False]), WorldModelLoss())
    focal = (0.81 + 0.18 * math.log(10)) * 0.9, (0.25 + 0.5 * math.log(2)) * 0.5
    expected = {"tokens": 0.5, "cross_entropy": 9 / 14, "mae": 9 / 34, "clipped_mae": 1.0}
    assert shares == pytest.approx(expected | {"focal": focal[0] / sum(focal)})
    assert "clipped_mae" not in nuisance_shares(torch.tensor([-0.1]), torch.tensor([True]), WorldModelLoss())


def test_gradients_compared_by_hand() -> None:
    """(3, 4) and (4, 3): 24 / 25 and |5| / |5|; what one loss does not reach adds nothing."""
    pair = compare_gradients([torch.tensor([3.0, 4.0]), None], [torch.tensor([4.0, 3.0]), torch.zeros(2)])
    assert {name: value.item() for name, value in pair.items()} == pytest.approx({"cosine": 0.96, "norm_ratio": 1.0})
    assert compare_gradients([torch.ones(2)], [torch.zeros(2)]) == {}
    assert compare_gradients([torch.ones(2)], [None]) == {}


def test_predictions_are_those_of_the_plain_model(module: PaWModule) -> None:
    transitions = make_rollout().transitions
    for budget in (1, 30, 1000):
        predictions = predict_observations(module.model, transitions, budget)
        assert len(predictions) == len(transitions)
        for p in predictions:
            torch.testing.assert_close(p.logprobs.double(), naive_terms(module, p.transition)[1], atol=1e-5, rtol=0)


def test_a_hit_is_the_most_likely_token(module: PaWModule) -> None:
    """After [20, 21, 22] the most likely token is a hit, any other is none."""
    top = int(module.language_model(torch.tensor([[20, 21, 22]])).logits[0, -1].argmax())
    row = {"prompt_ids": [20, 21], "action_ids": [22], "bridge_ids": []}
    transitions = [make_transition(observation_ids=[token, 30], **row) for token in (top, (top + 1) % 259)]
    first, second = predict_observations(module.model, transitions, 100)
    hit, miss = (first, second) if first.transition is transitions[0] else (second, first)
    assert hit.hits[0] and not miss.hits[0]


def test_a_transition_without_a_prompt_carries_on(module: PaWModule) -> None:
    first = make_transition(prompt_ids=[10, 11], action_ids=[12], bridge_ids=[13], observation_ids=[14])
    rest = {"action_ids": [16], "bridge_ids": [17], "observation_ids": [18, 19]}
    carried = make_transition(prompt_ids=[], turn_ids=[15], **rest)
    alone = make_transition(prompt_ids=[10, 11, 12, 13, 14, 15], **rest)
    [one] = predict_observations(module.model, [first, carried], 100, wanted=lambda t: t is carried)
    [other] = predict_observations(module.model, [alone], 100)
    assert torch.equal(one.logprobs, other.logprobs)


def test_gradient_cosine_is_that_of_the_whole_first_step(module: PaWModule) -> None:
    """Against both losses' own backward passes over the uncut step; no gradient is left behind."""
    [rows] = RolloutDataModule(minibatches=1).cutter.minibatch_rows(make_rollout())
    flat = {}
    for name in ("policy", "world_model"):
        module.zero_grad()
        getattr(module.losses(collate(rows, on_policy=False)), name).backward()
        flat[name] = torch.cat([p.grad.flatten() for p in module.parameters()])
    module.zero_grad()

    logged: dict[str, torch.Tensor] = {}
    module.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign]
    trainer = SimpleNamespace(accumulate_grad_batches=3)
    module.arithmetic = nullcontext  # type: ignore[method-assign]
    health = WorldModelHealth()
    health.looking = True
    dice = torch.get_rng_state()
    for i, piece in enumerate([*split_evenly(rows, 3, lambda row: row.length), rows]):
        health.on_train_batch_start(trainer, module, collate(piece, on_policy=False), i)
    expected = torch.nn.functional.cosine_similarity(flat["policy"], flat["world_model"], 0)
    assert logged["wm/gradient_cosine"].item() == pytest.approx(expected.item(), abs=1e-5)
    ratio = flat["world_model"].norm() / flat["policy"].norm()
    assert logged["wm/gradient_norm_ratio"].item() == pytest.approx(ratio.item(), rel=1e-4)
    assert all(p.grad is None for p in module.parameters())
    assert torch.equal(torch.get_rng_state(), dice)


def test_groups_that_teach_the_world_model_alone_count(module: PaWModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is selected was left out of the policy's update: it is looked at all the same."""
    rollout = make_rollout()
    rollout.left_out, rollout.groups, rollout.left_out_teach = rollout.groups[:2], rollout.groups[2:], True
    assert not any(t.selected for t in rollout.transitions)
    shown: list[list[float]] = []
    place = "paw_lightning.callbacks.world_model_health"
    monkeypatch.setattr(f"{place}._leak_rate", lambda *_: 0.0)
    monkeypatch.setattr(f"{place}.write_histogram", lambda _, tag, values, step: shown.append(values.tolist()))
    health = WorldModelHealth(every=1)
    health.runner = SimpleNamespace(prompts=None)  # type: ignore[assignment]
    health.on_rollout_end(None, module, rollout)  # type: ignore[arg-type]
    assert health.looking and shown == [[0.75, 0.5, 1.0]]


def test_health_changes_no_weight_and_shows_every_curve(tmp_path: Path) -> None:
    """Bit for bit, dice included; with tagged observations and an entropy bonus every curve has something to show."""
    bonus = {"model__policy_loss__entropy_coefficient": 0.01}
    noisy = {"rollout__environment__init_args__nuisance": "random_ids", **bonus, **TINY}
    on = runs.fit(tmp_path / "on", "tiny-household", HOUSEHOLD, world_model_health__every=1, **noisy)
    dice = torch.get_rng_state()
    off = {"world_model_health__every": 0, "world_model_health__validation": "false"}
    without = runs.fit(tmp_path / "off", "tiny-household", HOUSEHOLD, **off, **noisy)
    assert torch.equal(torch.get_rng_state(), dice)
    for name, tensor in runs.weights(on).items():
        assert torch.equal(tensor, runs.weights(without)[name]), name

    kinds = {f"wm_nuisance/{kind}" for kind in ("tokens", "clipped_mae", "mae", "cross_entropy", "focal")}
    validated = {f"val/observation_{name}" for name in ("nll", "top1", "active")}
    looks = kinds | validated | {"wm/gradient_cosine", "wm/gradient_norm_ratio"}
    curves, others = runs.curves(on), runs.curves(without)
    assert {tag for tag in looks if len(curves.get(tag, {})) != 2} == set()
    assert looks & others.keys() == set()
    assert len(others["wm/role_leak_rate"]) == 2
    for tag, points in others.items():
        if not tag.startswith("time/"):
            assert curves[tag] == points, tag
    events = EventAccumulator(str(runs.log_dir(on)), size_guidance={"histograms": 0})
    events.Reload()
    assert len(events.Histograms("wm/coefficient_by_group")) == 2


def test_looks_every_so_many_iterations(tiny_model_dir: str, tmp_path: Path) -> None:
    """The first and the third of three iterations.

    The entropy bonus gives the policy a gradient where all members of a group end alike.
    """
    settings = {"trainer__max_epochs": 3, "trainer__limit_val_batches": 0, "reward_balance__max_return": 2.0}
    settings["model__policy_loss__entropy_coefficient"] = 0.01
    cli = runs.fit(tmp_path, tiny_model_dir, world_model_health__every=2, **settings)
    assert set(runs.curves(cli)["wm/gradient_norm_ratio"]) == {1, 3}


def test_a_run_without_world_model_is_validated_too(tiny_model_dir: str, tmp_path: Path) -> None:
    curves = runs.curves(runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=1, entropy_selection__alpha=0))
    [nll] = curves["val/observation_nll"].values()
    assert nll == pytest.approx(math.log(259), abs=0.5), "a random model of 259 tokens"
    assert "wm/gradient_cosine" not in curves


def test_every_is_checked() -> None:
    with pytest.raises(ValueError, match=r"world_model_health\.every is -1"):
        WorldModelHealth(every=-1)
