"""Fingerprints: equal for equal weights alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from paw_lightning.models.fingerprint import SAMPLED, fingerprint


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(1000, 16), nn.Linear(16, 3))


def test_equal_weights_have_one_fingerprint() -> None:
    first = model()
    assert fingerprint(first.parameters()) == fingerprint(copy.deepcopy(first).parameters())
    assert len(fingerprint(first.parameters())) == 16
    assert fingerprint([]) == fingerprint([torch.empty(0)]) == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_optimizer_step_changes_it(dtype: torch.dtype) -> None:
    """The smallest step that each arithmetic has, in a tensor that is read by every 62nd number: 16000 / 256."""
    trained = model().to(dtype)
    before = fingerprint(trained.parameters())
    with torch.no_grad():
        for p in trained.parameters():
            p.copy_(torch.nextafter(p, torch.full_like(p, 9)))
    assert fingerprint(trained.parameters()) != before


def test_the_sample_is_spread_over_a_tensor() -> None:
    """One number among the first, in the middle and near the end: of 10 * 256 numbers every tenth is read."""
    weights = torch.zeros(10 * SAMPLED)
    prints = {fingerprint([weights])}
    for place in (0, 1280, 2550):
        changed = weights.clone()
        changed[place] = 1
        prints.add(fingerprint([changed]))
    assert len(prints) == 4
