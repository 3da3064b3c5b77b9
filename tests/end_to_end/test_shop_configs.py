"""The configurations of the shop: one iteration each through the command line, and what a base policy learns from."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from paw_lightning import config_files
from paw_lightning.envs import ShopEnv
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.prompts import Prompt, PromptBuilder, Turn
from tests.conftest import ROOT, byte_tokenizer
from tests.helpers import runs

sys.path.insert(0, str(ROOT / "tools"))  # tools are scripts: each finds its neighbours in its own folder

BASE, SMOLLM2 = (ROOT / "configs" / "shop" / f"{name}.yaml" for name in ("base", "smollm2"))
PAPER, SMALL = (ROOT / "configs" / "webshop" / f"{name}.yaml" for name in ("paper", "small"))


def test_every_config_is_tested() -> None:
    assert sorted((ROOT / "configs" / "shop").glob("*.yaml")) == [BASE, SMOLLM2]
    assert sorted((ROOT / "configs" / "webshop").glob("*.yaml")) == [PAPER, SMALL]


@pytest.mark.parametrize("config", [BASE, SMOLLM2], ids=["base", "smollm2"])
def test_base_runs(config: Path, tiny_model_dir: str, tmp_path: Path) -> None:
    curves = runs.curves(runs.fit(tmp_path, tiny_model_dir, (config,), **runs.ONE_ITERATION))
    assert list(curves["rollout/dropped_groups"].values()) == [0.0]
    assert list(curves["rollout/episode_length"].values()) == [3.0]
    assert curves["wm/observation_nll"], "without a method's file, the defaults are PaW's"


@pytest.fixture
def official_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WEBSHOP_DATA with files of the official form: 600 mugs, so that there are training goals."""
    for package in ("nltk", "rapidfuzz"):
        pytest.importorskip(package, reason=f"NO {package.upper()}: pip install 'paw-lightning[webshop]'")
    item = {
        "name": "Steel mug",
        "full_description": "Keeps tea warm.",
        "small_description": ["Of steel."],
        "pricing": "$9.00",
        "category": "home",
        "query": "mugs",
        "product_category": "Home › Mugs",
        "customization_options": {"Color": [{"value": "Red", "image": None}]},
    }
    known = {"attributes": ["steel"], "instruction": "Find me steel mugs", "instruction_attributes": ["steel"]}
    folder = tmp_path / "webshop"
    folder.mkdir()
    (folder / "items_shuffle_1000.json").write_text(json.dumps([item | {"asin": f"B{i}"} for i in range(600)]))
    (folder / "items_ins_v2_1000.json").write_text(json.dumps({f"B{i}": known for i in range(600)}))
    monkeypatch.setenv("WEBSHOP_DATA", str(folder))


@pytest.mark.parametrize("config", [PAPER, SMALL], ids=["paper", "small"])
def test_webshop_configs_run(config: Path, official_files: None, tiny_model_dir: str, tmp_path: Path) -> None:
    curves = runs.curves(runs.fit(tmp_path, tiny_model_dir, (config,), **runs.ONE_ITERATION))
    assert list(curves["rollout/dropped_groups"].values()) == [0.0]
    assert list(curves["rollout/episode_length"].values()) == [3.0]
    assert list(curves["wm/coefficient"].values()) == [1.0], "a random policy buys nothing"


@pytest.mark.parametrize("config", [PAPER, SMALL], ids=["paper", "small"])
def test_missing_products_are_named(
    config: Path, tiny_model_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEBSHOP_DATA", raising=False)
    with pytest.raises(ValueError, match=r"data_path .*the environment variable WEBSHOP_DATA is not set"):
        runs.fit(tmp_path, tiny_model_dir, (config,), **runs.ONE_ITERATION)


def test_the_paper_s_figures() -> None:
    """The column of the paper's table, so that nobody changes it unawares."""
    config = config_files.merged(PAPER)
    assert (config["data"]["groups"], config["data"]["group_size"]) == (16, 8)
    rollout = config["rollout"]
    assert (rollout["max_steps"], rollout["max_action_tokens"], rollout["prompt"]["max_tokens"]) == (15, 512, 4096)
    assert (rollout["temperature"], rollout["validation_temperature"]) == (1.0, 0.4)
    assert rollout["environment"]["init_args"]["success_reward"] == 10.0
    assert rollout["advantage"]["init_args"]["invalid_action_penalty"] == 0.1
    assert config["model"]["policy_loss"]["kl_coefficient"] == 0.01
    assert config["model"]["optimizer"]["init_args"]["lr"] == 1e-6


def test_the_paper_s_prompt() -> None:
    """The task, two past turns, the page, what can be done there, and what to answer with, in this order."""
    prompt = Prompt(**config_files.merged(PAPER)["rollout"]["prompt"])
    turns = [Turn(f"page {i}", f"click[{i}]") for i in (1, 2, 3)]
    actions = ["search[<your query>]", "click[buy now]"]
    ids = PromptBuilder(prompt, ChatFormat(byte_tokenizer())).build("a task", "page 4", turns, "page 1", actions)
    text = byte_tokenizer().decode(ids)
    parts = ["a task", "step 4", "[Observation 2] page 2\n[Action 2] click[2]\n", "[Observation 3] page 3"]
    parts += ["[Observation 4] page 4\n", "'search[<your query>]'\n'click[buy now]'\n", "<think>", "<action>"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert "page 1" not in text


@pytest.fixture(scope="module")
def shop_tokenizer() -> PreTrainedTokenizerFast:
    from base_worlds import SHOP
    from tiny_models import train_tokenizer

    texts = (text for text, _ in zip(SHOP.texts(0), range(600), strict=False))
    return train_tokenizer(texts, SHOP.vocabulary, SHOP.words())


def played(number: int, dice: str = "0") -> list[tuple[str, ...]]:
    """Task, observation, action and answer of each turn of one of the base policy's episodes."""
    from base_worlds import SHOP
    from players import Skill, play

    env, goal = SHOP.start(number)
    return list(play(env, goal, SHOP.player, random.Random(f"{dice} {number}"), Skill(0.4), SHOP.turns))


def test_turns_fit_the_limits_of_the_config(shop_tokenizer: PreTrainedTokenizerFast) -> None:
    from base_worlds import SHOP

    rollout, chat = SHOP.rollout, ChatFormat(shop_tokenizer)
    turns = [turn for number in range(40) for turn in played(number)]
    observations = [len(chat.encode_text(observation)) for _, observation, _, _ in turns]
    actions = [len(chat.encode_text(" " + action)) for _, _, action, _ in turns]
    assert max(observations) <= rollout["max_observation_tokens"]
    assert max(actions) < rollout["max_action_tokens"]
    assert sum(observations) / len(observations) < 80


def test_its_prompts_show_an_episode_from_its_beginning() -> None:
    """In the step layout too: what a policy reads there is what the growing transcript shows, but for the end token."""
    from base_worlds import SHOP

    prompt = Prompt(**SHOP.step_prompt)
    assert prompt.history_length >= SHOP.rollout["max_steps"]
    builder = PromptBuilder(prompt, ChatFormat(byte_tokenizer()))
    text = builder.render("a hat", "page 2", [Turn("page 1", "click[2]")], 1, "page 1", [])
    assert text == "page 1\nTask: a hat\n> click[2] \npage 2\nTask: a hat\n"


def test_episodes_are_of_other_shops_and_reproducible() -> None:
    from base_worlds import SHOP

    episodes = [played(number) for number in range(70)]
    assert episodes == [played(number) for number in range(70)] != [played(number, "1") for number in range(70)]
    assert len({turns[0][0] for turns in episodes}) > 60
    own = ShopEnv("train", **SHOP.rollout["environment"]["init_args"]).store
    titles = {product.title for product in own.products}
    seen = {line for turns in episodes for _, observation, _, _ in turns for line in observation.split("\n")}
    assert len(seen & titles) < 0.1 * len(titles)
