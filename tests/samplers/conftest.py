"""A sampler that shares and buckets all it can; what the tests of servers have in common."""

from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from paw_lightning.samplers import kv_cache as module
from paw_lightning.samplers import server
from tests.helpers.served import move


@pytest.fixture
def eager_to_split(monkeypatch):
    """Every extra forward call counts as nearly free: many buckets, and prefixes shared however short."""
    monkeypatch.setitem(module.CALL_COST, "cpu", 3)
    monkeypatch.setitem(module.READ_TOKENS, "cpu", 60)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that failed is tried again at once."""
    monkeypatch.setattr(server, "PAUSES", (0.0, 0.0))


@pytest.fixture
def moved_model(tiny_model_dir: str) -> Any:
    """Other weights than those that a server is started with."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    move(model)
    return model
