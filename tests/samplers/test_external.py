"""A sampler named by class: when it is told that weights are new, and when that its memory is wanted back."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import lightning as L

from paw_lightning.samplers.base import Sampler
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
