"""check: a good environment passes, each broken one is named; prompt, row, lengths, time and memory are shown."""

from __future__ import annotations

import re
import time

import pytest

from paw_lightning.commands.check import command
from paw_lightning.commands.checking.contract import check_contract
from paw_lightning.commands.checking.findings import Finding
from paw_lightning.commands.checking.lengths import quantile
from paw_lightning.commands.checking.texts import parts, selected_rows
from paw_lightning.errors import SettingsError
from tests.commands import broken_envs
from tests.conftest import byte_tokenizer
from tests.helpers.factories import make_episode, make_group, make_transition
from tests.helpers.toy_env import ToyEnv


def contract(env: type[ToyEnv], **options: object) -> dict[str, Finding]:
    """The findings that are not fine, by name."""
    findings = check_contract(lambda split: env(split, **options), max_steps=5)  # type: ignore[arg-type]
    return {finding.name: finding for finding in findings if finding.level != "ok"}


def test_a_good_environment_passes() -> None:
    findings = check_contract(broken_envs.SplitEnv, max_steps=5)
    assert {finding.level for finding in findings} == {"ok"}
    assert [finding.name for finding in findings] == [
        *("splits", "answers", "determinism", "unseen tasks", "num_tasks", "max_reward", "won", "commands", "peek")
    ]
    assert "9 steps of 3 train tasks" in findings[1].text  # three turns in each of three tasks


BROKEN = [
    (
        broken_envs.Forgetful,
        "determinism",
        "FAIL",
        r"\(2\).*turn 1 `observation` is '.* \(7\)' and '.* \(10\)'",
    ),
    (broken_envs.NeverWon, "won", "warning", "won was never in info, in 3 episodes: .* success will be 0 for ever"),
    (broken_envs.FourItems, "step", "FAIL", r"returned a tuple of 4; wanted \(observation, reward, terminated, trunc"),
    (broken_envs.Silent, "step", "FAIL", "an empty observation in the middle of an episode"),
    (broken_envs.Generous, "max_reward", "FAIL", "task 0 paid 3, above its R_max 1"),
    (ToyEnv, "unseen tasks", "warning", "seeds 0 to 2 are the same tasks in train and val"),
    (broken_envs.Raises, "step", "FAIL", r"RuntimeError: my bug in step \(.*broken_envs.py:\d+ in step\)"),
    (broken_envs.NoSplit, "splits", "FAIL", "split 'val': FileNotFoundError: no validation games"),
    (broken_envs.Clumsy, "peek", "FAIL", "peek"),
    (broken_envs.Wordy, "reset", "FAIL", r"info\['admissible_commands'\] is 'look'; wanted a list of str"),
    (broken_envs.NamedOnce, "step", "FAIL", r"info\['state_key'\] is None; wanted a name at reset and at every step"),
    (broken_envs.Endless, "num_tasks", "warning", "seed 5 is another task than seed 0"),
]


@pytest.mark.parametrize(("env", "name", "level", "text"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
def test_each_broken_environment_is_named(env: type[ToyEnv], name: str, level: str, text: str) -> None:
    broken_envs.CALLS[0] = 0
    found = contract(env)
    assert found[name].level == level
    assert re.search(text, found[name].text), found[name].text


def test_what_else_is_said_of_rewards() -> None:
    assert "reward_balance.max_return" in contract(broken_envs.SplitEnv, max_reward=None)["max_reward"].text
    # The actions of the probe are words of the observations; some task is won with 1 of 1.
    half = check_contract(lambda split: broken_envs.SplitEnv(split, max_reward=0.5), max_steps=5)
    assert any(finding.name == "max_reward" and finding.level == "FAIL" for finding in half)
    stated = check_contract(lambda split: broken_envs.SplitEnv(split, max_reward=0.5), max_steps=5, max_return=1.0)
    assert not any(finding.level == "FAIL" for finding in stated)  # the settings' R_max counts


def test_quantiles() -> None:
    values = [5, 1, 4, 2, 3, 6, 7, 8, 9, 10]
    assert [quantile(values, q) for q in (0.5, 0.9, 1.0)] == [5, 9, 10]  # half of ten values are at most 5
    assert quantile([3], 0.5) == 3


def test_the_parts_of_a_row() -> None:
    """Step layout, so a row is prompt, action, bridge, observation; an overlong observation is no target."""
    group = make_group([1.0], [1])
    assert [(role, len(ids)) for role, ids in parts(selected_rows(group)[0])] == [
        *(("context", 3), ("action", 2), ("bridge", 1), ("observation", 3))
    ]
    group.episodes = [make_episode([make_transition(observation_ids=[])])]
    assert [role for role, _ in parts(selected_rows(group)[0])] == ["context", "action"]


def words(model: str, *more: str, env: str = "tests.commands.broken_envs.SplitEnv") -> list[str]:
    limits = {"max_steps": 5, "max_action_tokens": 24, "max_observation_tokens": 64, "prompt.max_tokens": 512}
    given = [f"--rollout.{key}={value}" for key, value in limits.items()]
    return ["--model.path", model, "--rollout.environment", env, "--trainer.accelerator=cpu", *given, *more]


@pytest.mark.parametrize("layout", ["step", "episode"])
def test_the_whole_report(tiny_model_dir: str, layout: str, capsys: pytest.CaptureFixture[str]) -> None:
    start = time.perf_counter()
    assert command(words(tiny_model_dir, f"--rollout.layout={layout}", "--model.lora.rank=2")) == 0
    assert time.perf_counter() - start < 60
    out = capsys.readouterr().out
    assert "\033" not in out
    assert max(map(len, out.splitlines())) <= 80
    assert "FAIL" not in out
    # A byte is a token: <|start|>user\n + "train: start of 0\nTask: be even in house 0" + <|end|>\n<|start|>assistant\n
    prompt = len("user\ntrain: start of 0\nTask: be even in house 0\n") + len("assistant\n") + 3
    assert f"prompt of turn 1, as the model reads it: {prompt} tokens" in out
    assert "  | <|start|>user\n  | train: start of 0\n" in out
    assert "prompt of turn 3" in out
    for role in ("context", "action", "bridge", "observation"):
        assert re.search(rf"^{role} +\d+  \| ", out, re.MULTILINE), role
    for line in ("ok      determinism", "ok      time", "ok      memory", "ok      prompt"):
        assert line in out, line


def test_a_model_without_a_chat_template(tiny_model_dir: str, tmp_path: object, capsys: pytest.CaptureFixture) -> None:
    from transformers import AutoModelForCausalLM

    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    AutoModelForCausalLM.from_pretrained(tiny_model_dir).save_pretrained(tmp_path)
    assert command(words(str(tmp_path))) == 0
    out = capsys.readouterr().out
    assert "no chat template" in out
    assert "  | train: start of 0\n" in out


def test_a_broken_environment_ends_the_report(tiny_model_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(words(tiny_model_dir, env="tests.commands.broken_envs.Raises")) == 1
    out = capsys.readouterr().out
    assert "FAIL    step" in out
    assert "broken_envs.py:" in out
    assert "training row" not in out


def test_a_setting_that_cannot_be_is_refused(tiny_model_dir: str) -> None:
    with pytest.raises(SettingsError, match=r"^data.groups is 0; wanted at least 1$"):
        command(words(tiny_model_dir, "--data.groups=0"))


def test_what_is_cut_is_said(tiny_model_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Observations have 19 bytes or so, an action of three words more than 4."""
    assert command(words(tiny_model_dir, "--rollout.max_observation_tokens=8", "--rollout.max_action_tokens=4")) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "(100%) have more than 8 tokens and are never predicted" in out
    assert "FAIL action an admissible action has" in out
