"""A sampler that shares and buckets all it can."""

import pytest

from paw_lightning.samplers import kv_cache as module


@pytest.fixture
def eager_to_split(monkeypatch):
    """Every extra forward call counts as nearly free: many buckets, and prefixes shared however short."""
    monkeypatch.setitem(module.CALL_COST, "cpu", 3)
    monkeypatch.setitem(module.READ_TOKENS, "cpu", 60)
