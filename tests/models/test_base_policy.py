"""The shipped base policy: small, loadable anywhere, and as good and as weak as its card says."""

from __future__ import annotations

import sys

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from paw_lightning.models.loading import ASSETS
from paw_lightning.text.chat import ChatFormat
from tests.conftest import ROOT

DIRECTORY = ASSETS / "tiny-household"
sys.path.insert(0, str(ROOT / "tools"))


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in DIRECTORY.rglob("*")) <= 8 * 2**20
    model = AutoModelForCausalLM.from_pretrained(DIRECTORY)
    assert model.config.model_type == "qwen2" and model.num_parameters() <= 2_000_000
    assert (DIRECTORY / "model.safetensors").exists()


def test_its_tokenizer_knows_every_text() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DIRECTORY)
    for text in ("You arrive at drawer 1. The drawer 1 is closed.", "Größe 🙂\x00\n\n  tag 4f2a", "<|end|>"):
        assert tokenizer.decode(ChatFormat(tokenizer).encode_text(text)) == text


@pytest.mark.slow
def test_it_solves_a_few_unseen_houses() -> None:
    """5-20 % of the quickstart's validation houses; 200 of them, so that chance alone moves the rate by 2 points."""
    from base_policy_report import evaluate

    result = evaluate(str(DIRECTORY), 1.0)
    assert 0.05 <= result["success_rate"] <= 0.20
    assert result["well_formed_rate"] >= 0.97
    card = yaml.safe_load((DIRECTORY / "README.md").read_text().split("---")[1])
    assert result["success_rate"] == pytest.approx(card["success_at_temperature_1"], abs=0.03)
