"""play: a person wins a house with numbers and texts; a policy is watched; what cannot be played is one sentence."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from paw_lightning.commands import terminal
from paw_lightning.commands.play import command
from paw_lightning.commands.playing.person import play_by_hand
from paw_lightning.commands.playing.transcript import contexts, success_line
from paw_lightning.commands.run_settings import load_policy, policy_words, read_settings
from paw_lightning.envs import HouseholdEnv
from paw_lightning.errors import SettingsError
from tests.helpers.factories import make_episode, make_transition

HOUSE = {"tasks": ["pick"], "receptacles": 4, "objects": 2, "brief_intro": True}
CONFIG = ["--config", str(Path(__file__).parents[2] / "configs" / "household" / "paw.yaml")]


def type_lines(monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_a_person_wins_a_house(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    env = HouseholdEnv("val", **HOUSE)  # type: ignore[arg-type]
    _, info = env.reset(seed=3)
    plan = env.expert_plan()
    first = info["admissible_commands"].index(plan[0]) + 1
    # A number that is none and a question cost no turn; the first action is typed as its number.
    type_lines(monkeypatch, ["99", "?", str(first), *plan[1:]])
    assert command([*CONFIG, "--split", "val", "--seed", "3", "--rollout.max_steps=20"]) == 0
    out = capsys.readouterr().out
    assert f"Task: {info['task']}" in out
    assert f"{first:2} {plan[0]}" in out
    assert f"99 is no number of the list; wanted 1 to {len(info['admissible_commands'])}" in out
    for turn, action in enumerate(plan, start=1):
        reward = int(turn == len(plan))
        assert f"> {action}    (turn {turn}, reward {reward})" in out
    assert f"won: {len(plan)} turns, return 1 of 1" in out
    assert max(map(len, out.splitlines())) <= terminal.WIDTH


@pytest.mark.parametrize("end", [["q"], [""], []], ids=["q", "empty", "end of file"])
def test_a_person_stops(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], end: list[str]) -> None:
    type_lines(monkeypatch, ["look", "sing a song", *end])
    assert command(CONFIG) == 0
    out = capsys.readouterr().out
    assert "> sing a song    (turn 2, reward 0, not admissible)" in out
    assert "stopped: 2 turns, return 0 of 1" in out


def test_a_person_is_cut_off_as_a_policy_is(capsys: pytest.CaptureFixture[str]) -> None:
    hand = play_by_hand(HouseholdEnv("val", **HOUSE), 0, 2, lambda admissible: "look")  # type: ignore[arg-type]
    assert (hand.turn, hand.won, hand.over) == (2, False, False)
    assert "cut off after 2 turns (rollout.max_steps)" in capsys.readouterr().out


def test_tools_of_any_schema_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """A schema may be `true`, and choices may be null."""

    class Tools(HouseholdEnv):
        def reset(self, **keys):  # type: ignore[no-untyped-def]
            observation, info = super().reset(**keys)
            properties = {"a": True, "b": {"enum": None}, "c": {"enum": ["x", 2]}}
            return observation, info | {
                "tools": [{"function": {"name": "act", "parameters": {"properties": properties}}}]
            }

    play_by_hand(Tools("val", **HOUSE), 0, 1, lambda admissible: "look")  # type: ignore[arg-type]
    assert "act(a, b, c: x | 2):" in capsys.readouterr().out


def test_a_bug_in_the_environment_has_a_place(monkeypatch: pytest.MonkeyPatch, tiny_model_dir: str) -> None:
    type_lines(monkeypatch, ["go"])
    with pytest.raises(SettingsError, match=r"RuntimeError: my bug in step \(.*broken_envs\.py:\d+ in step\)"):
        command(["--rollout.environment", "tests.commands.broken_envs.Raises"])


def test_watching_a_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert command([*CONFIG, "--policy", "tiny-household", "--episodes", "3", "--temperature", "0.4"]) == 0
    out = capsys.readouterr().out
    assert [int(n) for n in re.findall(r"^episode (\d): val task", out, re.MULTILINE)] == [1, 2, 3]
    assert len(re.findall(r"^\[1\] > .* H \d\.\d\d", out, re.MULTILINE)) == 3
    won = len(re.findall(r"^episode \d: val task \d: won, return 1 of 1", out, re.MULTILINE))
    assert re.search(rf"^success {won} of 3: \d+\.\d% ± \d+\.\d% \(standard error\)$", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= terminal.WIDTH


def test_the_prompt_as_the_model_read_it(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--episodes", "1", "--temperature", "0", "--rollout.max_steps=2", "--prompt"]
    assert command([*CONFIG, "--policy", "tiny-household", *few]) == 0
    out = capsys.readouterr().out
    first, later = re.search(r"\[prompt of (\d+) tokens", out), re.search(r"\[carried on with (\d+) tokens, (\d+)", out)
    assert first and later
    assert int(later[2]) > int(first[1]) + int(later[1])  # the action is not among what is new
    assert "    | Task: put a " in out


def test_a_checkpoint_plays_as_the_model_that_was_saved(
    tiny_model_dir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights of 0 make every token as likely as any other: H = ln 259, the byte tokenizer's vocabulary."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    state = {f"model.language_model.{name}": torch.zeros_like(p) for name, p in model.named_parameters()}
    (tmp_path / "checkpoints").mkdir()
    torch.save({"state_dict": state}, tmp_path / "checkpoints" / "last.ckpt")
    toy = {"class_path": "tests.commands.broken_envs.SplitEnv"}
    config = {
        "model": {"path": tiny_model_dir, "lora": {"rank": 0, "alpha": 32.0, "target_modules": "all-linear"}},
        "rollout": {"environment": toy, "max_action_tokens": 4},
        "ckpt_path": "is/gone.ckpt",
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert command(["--policy", str(tmp_path / "checkpoints" / "last.ckpt"), "--episodes=1"]) == 0
    assert "H 5.56" in capsys.readouterr().out
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(SettingsError, match=r"config.yaml does not exist; wanted RUN/checkpoints/last.ckpt"):
        command(["--policy", str(tmp_path / "checkpoints" / "last.ckpt")])


@pytest.mark.parametrize("words", [["--episodes", "0"], ["--temperature", "-1"]])
def test_options_that_cannot_be(words: list[str]) -> None:
    with pytest.raises(SettingsError, match=rf"{words[0]} is {words[1]}"):
        command([*CONFIG, "--policy", "tiny-household", *words])


def test_the_success_line() -> None:
    """One of four: sqrt(0.25 * 0.75 / 4) = 0.2165."""
    episodes = [make_episode([], won=i == 0) for i in range(4)]
    assert success_line(episodes, 0) == "success 1 of 4: 25.0% ± 21.7% (standard error)"
    assert success_line(episodes, 2).endswith("; 2 more were lost to their environment")
    assert success_line([], 2) == "success unknown: all 2 tasks were lost to their environment"


def test_contexts_of_both_layouts() -> None:
    own = make_transition()  # prompt 1 2 3, action 4 5, bridge 6, observation 7 8 9
    carried = make_transition(prompt_ids=[], turn_ids=[10])
    assert contexts(make_episode([own, own])) == [[1, 2, 3], [1, 2, 3]]
    assert contexts(make_episode([own, carried])) == [[1, 2, 3], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]


def test_texts_are_harmless_and_fit() -> None:
    assert terminal.harmless("a\x1b[2Jb\tc\n\ud800") == "a�[2Jb  c\n?"
    assert all(len(line) <= terminal.WIDTH for line in terminal.wrapped("word " * 50 + "x" * 200, "[1] > "))
    assert terminal.wrapped("a\n\nb", "> ", "| ") == ["> a", "|", "| b"]
    # Two columns of 30: (80 - 2 + 2) // (30 + 2) = 2.
    assert len(terminal.columns(["x" * 30] * 4)) == 2


def test_colour_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert terminal.painted("won", "green") == "won"  # pytest's output is no terminal
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert terminal.painted("won", "green") == "\033[32mwon\033[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.painted("won", "green") == "won"


@pytest.mark.parametrize(
    ("precision", "dtype"), [("32-true", torch.float32), ("bf16-true", torch.bfloat16), ("64", torch.float64)]
)
def test_a_policy_is_played_in_the_runs_precision(precision: str, dtype: torch.dtype, tiny_model_dir: str) -> None:
    words = policy_words(tiny_model_dir, ["--config", "household/base", f"--trainer.precision={precision}"])
    assert {p.dtype for p in load_policy(read_settings(words)).parameters()} == {dtype}
