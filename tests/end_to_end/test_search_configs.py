"""The configurations for search: one iteration each through the command line, and what their prompts show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paw_lightning import config_files
from paw_lightning.callbacks import EnvironmentLoop
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.prompts import Prompt, PromptBuilder, Turn
from tests.conftest import ROOT, byte_tokenizer
from tests.helpers import fake_search_server, runs

BASE, PAPER = (ROOT / "configs" / "search" / f"{name}.yaml" for name in ("base", "paper"))
ONE_ITERATION = {
    "trainer__accelerator": "cpu",
    "trainer__max_epochs": 1,
    "trainer__check_val_every_n_epoch": 1,
    "trainer__accumulate_grad_batches": 2,
    "data__groups": 2,
    "data__group_size": 2,
    "data__minibatches": 2,
    "data__validation_tasks": 2,
    "rollout__max_action_tokens": 8,
    "policy_export__folder": None,
}


def test_every_config_is_tested() -> None:
    assert sorted((ROOT / "configs" / "search").glob("*.yaml")) == [BASE, PAPER]


def test_base_runs(tiny_model_dir: str, tmp_path: Path) -> None:
    cli = runs.fit(tmp_path, tiny_model_dir, (BASE,), rollout__prompt__max_tokens=1000, **ONE_ITERATION)
    curves = runs.curves(cli)
    assert list(curves["rollout/dropped_groups"].values()) == [0.0]
    assert list(curves["rollout/overlong_observations"].values()) == [0.0]
    # a random model says nothing that the world knows, so every episode has all its turns
    assert list(curves["rollout/episode_length"].values()) == [4.0]


def test_paper_runs_on_data_and_a_server(tiny_model_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"id": "1", "question": "who ruled Zorla?", "golden_answers": ["Teko"]}
    for name in ("train", "val"):
        (tmp_path / f"{name}.jsonl").write_text((json.dumps(row) + "\n") * 2)
    monkeypatch.setenv("SEARCH_QA_DATA", str(tmp_path))
    url = "rollout__environment__init_args__retriever__init_args__url"
    with fake_search_server.running() as server:
        cli = runs.fit(tmp_path, tiny_model_dir, (PAPER,), **{**ONE_ITERATION, url: server.url})
        [loop] = [callback for callback in cli.trainer.callbacks if isinstance(callback, EnvironmentLoop)]
        env = loop.settings.environment("train")
        env.reset(seed=0)
        assert "first text" in env.step("<search>Zorla</search>")[0], "the config's retriever asks the server"
    curves = runs.curves(cli)
    assert list(curves["rollout/dropped_groups"].values()) == [0.0]
    assert list(curves["rollout/well_formed_rate"].values()) == [0.0]
    assert list(curves["wm/coefficient"].values()) == [1.0]


def test_the_paper_s_prompt_shows_the_whole_history() -> None:
    prompt = Prompt(**config_files.merged(PAPER)["rollout"]["prompt"])
    turns = [Turn(f"found {i}", f"<search>query {i}</search>") for i in (1, 2, 3)]
    ids = PromptBuilder(prompt, ChatFormat(byte_tokenizer())).build("who?", "found 4", turns, "found 1", [])
    text = byte_tokenizer().decode(ids)
    parts = ["Question: who?", "step 4", *(f"found {i}\n[Action {i}] <search>query {i}" for i in (1, 2, 3)), "found 4"]
    places = [text.index(part) for part in [*parts, "<think>", "<search> your", "<answer> your"]]
    assert places == sorted(places)


def test_the_paper_s_figures() -> None:
    """The row of the paper's table, so that nobody changes it unawares."""
    config = config_files.merged(PAPER)
    assert (config["data"]["groups"], config["data"]["group_size"]) == (256, 5)
    rollout = config["rollout"]
    assert (rollout["max_steps"], rollout["max_action_tokens"], rollout["prompt"]["max_tokens"]) == (4, 512, 4096)
    assert (rollout["temperature"], rollout["validation_temperature"]) == (1.0, 0.0)
    assert rollout["advantage"]["init_args"]["invalid_action_penalty"] == 0.01
    assert config["model"]["policy_loss"]["kl_coefficient"] == 0.001
