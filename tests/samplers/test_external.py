"""A sampler named by class: when it is told that weights are new, and when that its memory is wanted back."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import lightning as L
import pytest

from paw_lightning.samplers.base import Generation, Sampler
from paw_lightning.samplers.native import NativeSampler
from tests.helpers import runs

EVENTS: list[str] = []


class Noting(Sampler):
    """The native sampler, with a note of every call."""

    def __init__(self, model, stop_token_ids, pad_token_id) -> None:
        self.native = NativeSampler(model, stop_token_ids, pad_token_id)

    def update_weights(self) -> None:
        EVENTS.append("weights")

    def generate(self, prompts, **settings):
        EVENTS.append("play")
        return self.native.generate(prompts, **settings)

    def release(self) -> None:
        EVENTS.append("release")


class Skewed(Noting):
    """Draws at twice the temperature, and says so: its arithmetic is not the trainer's."""

    def generate(self, prompts, **settings):
        return self.native.generate(prompts, **settings | {"temperature": 2 * settings["temperature"]})


class Silent(Noting):
    """Gives no token at all for every second prompt."""

    def generate(self, prompts, **settings):
        actions = self.native.generate(prompts, **settings)
        return [Generation([], [], [], False) if i % 2 else action for i, action in enumerate(actions)]


class NotingSteps(L.Callback):
    def on_before_optimizer_step(self, *_: object) -> None:
        EVENTS.append("step")


def test_memory_is_given_back_before_an_update(tiny_model_dir: str, tmp_path: Path) -> None:
    """Two iterations, each followed by a validation; the canaries' own sampling is over before the steps as well."""
    EVENTS.clear()
    names = {"rollout__sampler": f"{__name__}.Noting", "trainer__callbacks": f"{__name__}.NotingSteps"}
    runs.fit(tmp_path, tiny_model_dir, **names)
    told = [name for name, _ in groupby(EVENTS)]
    iteration = ["weights", "play", "release", "step", "weights", "play", "release"]
    assert told == iteration * 2


FIRST_STEP = {"trainer__max_epochs": 1, "data__minibatches": 1, "trainer__limit_val_batches": 0}


@pytest.mark.parametrize(
    ("settings", "own"),
    [({}, True), ({"rollout__importance_cap": 2.0}, True), ({"rollout__old_logprobs": "sampler"}, False)],
    ids=["default", "cap", "sampler"],
)
def test_one_update_takes_one_ratio(settings: dict, own: bool, tiny_model_dir: str, tmp_path: Path) -> None:
    """In the first step the policy is the trainer's own, at a ratio of 1, or as far from the sampler as it is."""
    skewed = {"rollout__sampler": f"{__name__}.Skewed", "canaries__enabled": False, **FIRST_STEP, **settings}
    curves = runs.curves(runs.fit(tmp_path, tiny_model_dir, **skewed))
    gap = curves["rollout/sampler_gap" if own else "rollout/logprob_gap"][1]
    assert gap > 0.01, "of log-probs at temperatures 1 and 2"
    assert ("train/approx_kl" in curves) is not own
    assert ("rollout/sampler_gap" in curves) is own


@pytest.mark.parametrize(("cap", "measured"), [(None, False), (2.0, True)])
def test_the_native_sampler_needs_another_pass_for_a_cap_alone(
    cap: float | None, measured: bool, tiny_model_dir: str, tmp_path: Path
) -> None:
    curves = runs.curves(runs.fit(tmp_path, tiny_model_dir, rollout__importance_cap=cap, **FIRST_STEP))
    assert ("rollout/sampler_gap" in curves) is measured and "train/approx_kl" not in curves


@pytest.mark.parametrize(
    "settings", [{"data__normalization": "sequence_mean"}, {"rollout__layout": "episode", **runs.PPO}]
)
def test_actions_without_tokens_are_played_and_teach_nothing(
    settings: dict, tiny_model_dir: str, tmp_path: Path
) -> None:
    cli = runs.fit(tmp_path, tiny_model_dir, rollout__sampler=f"{__name__}.Silent", **settings)
    assert cli.trainer.current_epoch == 2
    assert max(runs.curves(cli)["rollout/well_formed_rate"].values()) <= 0.5
