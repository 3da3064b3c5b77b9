"""Worlds of tools from the command line: both layouts, imitation, two templates, a replay, check, play and view."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from paw_lightning.commands import check, play
from paw_lightning.errors import SettingsError
from paw_lightning.models.identity import check_identity
from paw_lightning.models.loading import load_tokenizer
from paw_lightning.rollout_files.reading import read
from paw_lightning.text.chat import ChatFormat
from tests.conftest import ROOT
from tests.helpers import runs
from tests.helpers.tool_templates import LLAMA

CONFIGS = ROOT / "configs"
WORLD = "tests.helpers.tool_world.Safe"
TOOLS = {
    "rollout__environment": WORLD,
    "rollout__prompt__action_format": "tool_call",
    "rollout__prompt__max_tokens": 3000,  # of a tokenizer that spends one token on every byte
    "rollout__max_steps": 2,
    "model__chat_template": "tools",
    "trainer__limit_val_batches": 0,
    "trainer__max_epochs": 1,
    "world_model_health__every": 0,
}
SHOWN = {"rollout__advantage": "Imitation", "rollout__max_action_tokens": 120, "data__group_size": 1}


def last_rollout(cli: Any) -> Any:
    [file] = sorted((runs.log_dir(cli) / "rollouts").glob("*0001*"))
    return read(file)


@pytest.mark.parametrize("layout", ["step", "episode"])
def test_a_world_of_two_tools_trains(layout: str, tiny_model_dir: str, tmp_path: Path) -> None:
    """A random model writes no call: each is told so, counted as ill-formed, and the answers are learnt."""
    cli = runs.fit(tmp_path, tiny_model_dir, **TOOLS, rollout__layout=layout)
    curves = runs.curves(cli)
    assert list(curves["rollout/dropped_groups"].values()) == [0.0]
    assert list(curves["rollout/well_formed_rate"].values()) == [0.0]
    assert list(curves["rollout/valid_action_rate"].values()) == [0.0]
    assert all(value > 0 for value in curves["wm/observation_nll"].values())
    exported = AutoTokenizer.from_pretrained(runs.log_dir(cli) / "policy")
    assert exported.chat_template == cli.model.tokenizer.chat_template
    assert "tool_call" in exported.chat_template


@pytest.mark.parametrize("layout", ["step", "episode"])
def test_an_expert_of_tools_is_imitated(layout: str, tiny_model_dir: str, tmp_path: Path) -> None:
    """Its calls are written in the template's form, and won with; the file holds calls and answers as they were."""
    cli = runs.fit(tmp_path, tiny_model_dir, **TOOLS, **SHOWN, rollout__layout=layout)
    curves = runs.curves(cli)
    assert list(curves["rollout/well_formed_rate"].values()) == [1.0]
    assert list(curves["rollout/success_rate"].values()) == [1.0]
    turns = last_rollout(cli).episodes[0].turns
    assert [json.loads(turn.action_text)["name"] for turn in turns] == ["read_note", "press"]
    assert turns[0].answer_text == '<tool_call>\n{"name": "read_note", "arguments": {}}\n</tool_call>'
    assert turns[0].observation_text.startswith("It says: ")


def test_an_answer_in_quotation_marks_is_trained_on_as_it_is_read(tiny_model_dir: str, tmp_path: Path) -> None:
    """Llama's form; its control tokens are ordinary text here, but for the one that ends a turn."""
    template = tmp_path / "llama.jinja"
    template.write_text(LLAMA.replace("<|eot_id|>", "<|end|>"))
    settings = TOOLS | SHOWN | {"model__chat_template": template, "rollout__layout": "episode"}
    cli = runs.fit(tmp_path, tiny_model_dir, **settings)
    turn = last_rollout(cli).episodes[0].turns[0]
    assert turn.answer_text == '{"name": "read_note", "parameters": {}}'
    assert cli.model.tokenizer.decode(turn.observation_ids) == turn.observation_text


def test_a_run_with_tools_is_replayed(tiny_model_dir: str, tmp_path: Path) -> None:
    cli = runs.fit(tmp_path / "played", tiny_model_dir, **TOOLS)
    again = runs.fit(tmp_path / "replayed", tiny_model_dir, **TOOLS, data__replay=runs.log_dir(cli))
    runs.assert_same_end(cli, again)


def test_a_template_without_tools_names_the_key(tiny_model_dir: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"leaves out the tools.*model.chat_template: tools"):
        runs.fit(tmp_path, tiny_model_dir, **TOOLS | {"model__chat_template": None})


def test_a_checkpoint_belongs_to_its_template(tiny_model_dir: str) -> None:
    chats = [ChatFormat(load_tokenizer(tiny_model_dir, name)).identity() for name in (None, "tools")]
    with pytest.raises(SettingsError, match=r"wanted model.chat_template and model.path as in"):
        check_identity(*chats)


def test_the_config_runs(tmp_path: Path) -> None:
    """With the shipped policy, which has seen no tool: imitation, then PaW."""
    small = runs.FEW_EPISODES | {"trainer__max_epochs": 1, "rollout__max_steps": 2, "trainer__limit_val_batches": 0}
    small |= {"data__groups": 1, "data__minibatches": 1, "trainer__accumulate_grad_batches": 1}
    names = ("tools/base", "method/imitate", "wm/actobs")
    cli = runs.fit(tmp_path, "tiny-household", tuple(CONFIGS / f"{name}.yaml" for name in names), **small)
    assert list(runs.curves(cli)["rollout/well_formed_rate"].values()) == [1.0]
    names = ("tools/base", "method/grpo", "wm/paw")
    small["rollout__max_action_tokens"] = 6
    cli = runs.fit(tmp_path, "tiny-household", tuple(CONFIGS / f"{name}.yaml" for name in names), **small)
    assert list(runs.curves(cli)["rollout/dropped_groups"].values()) == [0.0]


def test_the_config_of_a_policy_of_its_own_runs(tmp_path: Path) -> None:
    """With another policy in the place of the one that is made first."""
    small = runs.FEW_EPISODES | {"trainer__max_epochs": 1, "rollout__max_steps": 1, "trainer__limit_val_batches": 0}
    small |= {"data__groups": 1, "data__minibatches": 1, "trainer__accumulate_grad_batches": 1}
    small |= {"model__chat_template": "tools", "rollout__max_action_tokens": 6}
    cli = runs.fit(tmp_path, "tiny-household", (CONFIGS / "tools" / "safe.yaml",), **small)
    assert list(runs.curves(cli)["rollout/dropped_groups"].values()) == [0.0]


WORDS = ["--config", "tools/base", f"--rollout.environment={WORLD}", "--rollout.max_steps=2"]


def test_play_shows_the_tools_and_takes_short_calls(capsys: pytest.CaptureFixture, monkeypatch) -> None:
    """A name with arguments in JSON is a call; a whole call is one too."""
    monkeypatch.setattr("sys.stdin", io.StringIO('?\nread_note\npress {"color": "red"}\n'))
    assert play.command(WORDS) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "press(color: red | blue, times): Press a button." in said
    assert '> {"name": "read_note", "arguments": {}}' in said and "It says: " in said
    assert '> {"name": "press", "arguments": {"color": "red"}}' in said and "Click." in said


def test_check_shows_a_dialogue_with_tools(capsys: pytest.CaptureFixture) -> None:
    words = [*WORDS, "--config", "method/grpo", "--config", "wm/paw", "--data.groups=2"]
    assert check.command(words) == 0
    said = capsys.readouterr().out
    assert "<tool_response>" in said and "ok tools read_note, press" in " ".join(said.split())


def test_the_documented_world_plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_dir: str) -> None:
    """The code of the page, copied out of it and trained on."""
    [code] = re.findall(r"```python\n# safe\.py\n(.*?)```", (ROOT / "docs" / "tool_calls.md").read_text(), re.DOTALL)
    (tmp_path / "safe.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "safe", raising=False)
    cli = runs.fit(tmp_path, tiny_model_dir, **TOOLS | {"rollout__environment": "safe.Safe", "data__groups": 1})
    assert list(runs.curves(cli)["rollout/dropped_groups"].values()) == [0.0]
    env = sys.modules["safe"].Safe()
    env.reset(seed=0)
    assert env.step('{"name": "press", "arguments": {"color": "green"}}')[0] == (
        "error: color is 'green'; it can be 'red', 'blue'"
    )
