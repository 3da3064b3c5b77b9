"""A module to train, and the repair of what `step_gradients` does to its class."""

from __future__ import annotations

import pytest

from paw_lightning.training.module import PaWModule


@pytest.fixture
def module(tiny_model_dir: str) -> PaWModule:
    module = PaWModule(tiny_model_dir)
    module.configure_model()
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return module


@pytest.fixture(autouse=True)
def restore_trainer_property():
    original = PaWModule.__mro__[1].trainer
    yield
    PaWModule.trainer = original  # type: ignore[assignment]
