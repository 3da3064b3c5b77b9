"""The shipped base policy: small, loadable anywhere, and as good and as weak as its card says."""

from __future__ import annotations

import sys

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from paw_lightning.models.loading import ASSETS
from paw_lightning.rollouts.layouts import EpisodeLayout
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.prompts import Prompt, PromptBuilder, Turn
from tests.conftest import ROOT
from tests.helpers.factories import make_transition

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


def test_its_training_rows_are_the_prompts_of_a_run() -> None:
    """Up to every action, a packed transcript is, token by token, the prompt that the quickstart builds there."""
    from household_transcripts import play_houses, world
    from make_base_policy import IGNORED, Packer

    chat, prompt = ChatFormat(AutoTokenizer.from_pretrained(DIRECTORY)), Prompt(**world()["prompt"])
    builder, packer = PromptBuilder(prompt, chat), Packer(chat, prompt)
    transcript = next(play_houses(0, noise=0.5, insight=0.0))
    row = packer.transcript(transcript)
    end = chat.tokenizer.eos_token_id
    ends = [i for i, label in enumerate(row.labels) if label == end]
    assert len(ends) == len(transcript.turns) > 3, "every action is a target"
    for number, stop in enumerate(ends[: prompt.history_length + 1]):  # later prompts show less than everything
        turns = [Turn(observation, action) for observation, action, _ in transcript.turns[:number]]
        observation, action, _ = transcript.turns[number]
        ids = builder.build(transcript.task, observation, turns, transcript.turns[0][0], [])
        assert row.ids[: len(ids)] == ids
        assert row.labels[len(ids) - 1 : stop + 1] == [*chat.encode_text(" " + action), end]
        assert len(ids) == 1 or row.labels[len(ids) - 2] == IGNORED


def test_its_growing_rows_are_the_transcripts_of_a_run() -> None:
    """The same in the episode layout: every action is predicted from the ids that `EpisodeLayout` hands the sampler."""
    from household_transcripts import play_houses, world
    from make_base_policy import Packer

    chat, prompt = ChatFormat(AutoTokenizer.from_pretrained(DIRECTORY)), Prompt(**world()["prompt"])
    transcript = next(play_houses(0, noise=0.5, insight=0.0))
    row = Packer(chat, prompt).growing(transcript)
    layout = EpisodeLayout(PromptBuilder(prompt, chat), transcript.task, transcript.turns[0][0], 96)
    end = chat.tokenizer.eos_token_id
    for observation, action, answer in transcript.turns:
        words = [*chat.encode_text(" " + action), end]
        ids = layout.context(observation, []).ids
        assert row.ids[: len(ids) + len(words)] == ids + words
        assert row.labels[len(ids) - 1 : len(ids) - 1 + len(words)] == words
        layout.record(make_transition(action_ids=words, observation_text=answer), [])


def test_it_solves_a_few_unseen_houses() -> None:
    """5-20 % of the quickstart's validation houses; 200 of them, so that chance alone moves the rate by 2 points."""
    from base_policy_report import evaluate

    result = evaluate(str(DIRECTORY), 1.0)
    assert 0.05 <= result["success_rate"] <= 0.20
    assert result["well_formed_rate"] >= 0.97
    card = yaml.safe_load((DIRECTORY / "README.md").read_text().split("---")[1])
    assert result["success_rate"] == pytest.approx(card["success_at_temperature_1"], abs=0.03)
