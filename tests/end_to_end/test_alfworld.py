"""The configurations for the official ALFWorld games; what needs the games skips without ALFWORLD_DATA."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import yaml
from tokenizers import Regex, pre_tokenizers
from transformers import AutoModelForCausalLM, Qwen2Config

from paw_lightning.envs.household.env import HouseholdEnv
from paw_lightning.models.loading import load_tokenizer
from paw_lightning.rollouts.layouts import LAYOUTS
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.prompts import Prompt, PromptBuilder, Turn
from tests.conftest import ROOT, byte_tokenizer
from tests.helpers import runs
from tests.helpers.factories import make_transition

NAMES = ("paper", "small", "smollm2")
CONFIGS = [ROOT / "configs" / "alfworld" / f"{name}.yaml" for name in NAMES]
PAPER = CONFIGS[0]
QWEN_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|start|>system\nYou are a helpful assistant.<|end|>\n{% endif %}"
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@pytest.fixture
def games() -> None:
    if "ALFWORLD_DATA" not in os.environ:
        pytest.skip("NO ALFWORLD GAMES: set ALFWORLD_DATA to the folder with json_2.1.1")


@pytest.fixture(scope="module")
def small_qwen(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Qwen2.5's architecture (grouped queries, biases, tied weights, a default system message), shrunk and random."""
    directory = tmp_path_factory.mktemp("small-qwen")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = QWEN_TEMPLATE
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_one_iteration_on_two_official_games(config: Path, games: None, small_qwen: str, tmp_path: Path) -> None:
    curves = runs.curves(runs.fit(tmp_path, small_qwen, (config,), **runs.ONE_ITERATION))
    assert list(curves["rollout/dropped_groups"].values()) == [0.0]
    assert list(curves["rollout/episode_length"].values()) == [3.0]
    assert list(curves["rollout/overlong_observations"].values()) == [0.0]
    assert list(curves["wm/coefficient"].values()) == [1.0]


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_missing_games_are_named(
    config: Path, small_qwen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    with pytest.raises(ValueError, match=r"data_path .*the environment variable ALFWORLD_DATA is not set"):
        runs.fit(tmp_path, small_qwen, (config,), **runs.ONE_ITERATION)


def test_the_paper_s_prompt() -> None:
    """The task, two past turns, the view, the actions, and what to answer with, in this order and nothing older."""
    prompt = Prompt(**yaml.safe_load(PAPER.read_text())["rollout"]["prompt"])
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = QWEN_TEMPLATE
    turns = [Turn(f"view {i}", f"deed {i}") for i in (1, 2, 3)]
    ids = PromptBuilder(prompt, ChatFormat(tokenizer)).build("a task", "view 4", turns, "view 1", ["help", "look"])
    text = tokenizer.decode(ids)
    parts = [
        "system",
        "user",
        "a task",
        "step 4",
        "[Observation 2] view 2\n[Action 2] deed 2\n",
        "[Observation 3] view 3",
    ]
    parts += ["[Action 3] deed 3\n\n[Observation 4] view 4\n", "\n'look'\n", "<think>", "<action>", "assistant\n"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert "view 1" not in text and "help" not in text.split("[Observation 2]")[1]


def test_the_small_transcript_shows_every_answer_and_the_task_last(games: None) -> None:
    """A small model cannot act on what it does not see."""
    rollout = yaml.safe_load(CONFIGS[1].read_text())["rollout"]
    prompt = Prompt(**rollout["prompt"] | {"max_tokens": 100_000})  # bytes, where the policy's tokens are whole phrases
    env = HouseholdEnv("train", **rollout["environment"]["init_args"])
    observation, info = env.reset(seed=0)
    tokenizer = byte_tokenizer()
    chat = ChatFormat(tokenizer)
    layout = LAYOUTS[rollout["layout"]](PromptBuilder(prompt, chat), info["task"], observation, 10_000)
    seen = [observation]
    for place in [command for command in info["admissible_commands"] if command.startswith("go to ")][:5]:
        layout.context(seen[-1], [])
        seen.append(env.step(place)[0])
        layout.record(make_transition(action_ids=chat.encode_answer(place), observation_text=seen[-1]), [])
    text = tokenizer.decode(layout.context(seen[-1], []).ids)
    assert len(seen) == 6 and all(text.count(f"{answer}\nTask: {info['task']}") == 1 for answer in seen)
    assert text.rindex(f"Task: {info['task']}") > text.rindex(seen[-1])


def test_a_tokenizer_keeps_its_word_boundaries(small_qwen: str, tmp_path: Path) -> None:
    """Hugging Face's AutoTokenizer would give a Qwen2 model Qwen's."""
    tokenizer = load_tokenizer(small_qwen)
    boundaries = pre_tokenizers.Split(Regex("mug 1"), behavior="isolated")
    tokenizer.backend_tokenizer.pre_tokenizer = boundaries
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((Path(small_qwen) / "config.json").read_text())
    loaded = load_tokenizer(str(tmp_path)).backend_tokenizer.pre_tokenizer
    assert loaded.pre_tokenize_str("a mug 1.") == boundaries.pre_tokenize_str("a mug 1.")
