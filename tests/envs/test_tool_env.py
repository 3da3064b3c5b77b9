"""Worlds of tools: what a call is told, and what passes through workers and mixtures."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest

from paw_lightning import MixtureEnv, RecordedEpisodes, SafeEnv, ToolEnv, ToolError
from paw_lightning.commands.checking.contract import check_contract
from paw_lightning.errors import SettingsError
from paw_lightning.rollouts.episodes import check_info
from paw_lightning.text.tool_calls import Call
from tests.helpers.tool_world import Safe

SAFE = {"class_path": "paw_lightning.envs.SafeEnv"}
OTHER = {"class_path": "tests.helpers.tool_world.Safe"}


def call(name: str, **arguments: Any) -> str:
    return str(Call(name, arguments))


# Playing


def test_a_whole_number_is_an_integer_and_a_method_gets_one() -> None:
    """JSON's 2.0 is 2 where int is asked for, in lists and where None may be, too; a float stays one."""

    class Shown(ToolEnv):
        def start(self, random) -> str:
            return "Go."

        def show(self, a: int, b: int | None, c: list[int], d: Literal[2, 3], e: float, f: list, g: list[float]) -> str:
            """Show.

            Args:
                a: First.
                b: Second.
                c: Third.
                d: Fourth.
                e: Fifth.
                f: Sixth.
                g: Seventh.
            """
            return repr((a, b, c, d, e, f, g))

    env = Shown()
    env.reset(seed=0)
    wholes = {"a": 2.0, "b": -1.0, "c": [3.0, 4], "d": 2.0, "e": 2.0, "f": [2.0], "g": [2.0]}
    assert env.step(call("show", **wholes))[0] == "(2, -1, [3, 4], 2, 2.0, [2.0], [2.0])"
    assert env.step(call("show", **wholes | {"a": 2.5}))[0] == "error: a is 2.5; it has to be of type integer"
    assert env.step(call("show", **wholes | {"d": 4.0}))[0] == "error: d is 4.0; it can be 2, 3"


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        (None, "(no text)"),
        ("", "(no text)"),
        ("so", "so"),
        ({"a": None, "b": [True]}, '{"a": null, "b": [true]}'),
        (3, "3"),
        (" \n", "(no text)"),
        (1 + 2j, "(1+2j)"),
        ({(1, 2): "x"}, "{(1, 2): 'x'}"),
    ],
    ids=str,
)
def test_what_a_tool_answers_is_read_as_text(answer: Any, read: str) -> None:
    class Says(ToolEnv):
        def start(self, random) -> str:
            return "Go."

        def say(self, last: bool) -> Any:
            """Say.

            Args:
                last: It is over.
            """
            if last:
                self.finish(won=True)
            return answer

    env = Says()
    env.reset(seed=0)
    assert env.step(call("say", last=False))[0] == read
    assert env.step(call("say", last=True))[0].strip() == read.replace("(no text)", ""), "nothing has to follow the end"


def test_a_call_is_answered() -> None:
    env = Safe()
    _, info = env.reset(seed=1)
    assert [tool["function"]["name"] for tool in info["tools"]] == ["read_note", "press"]
    color = env.step(call("read_note"))[0].split()[-1].strip(".")
    assert env.step(call("press", color=color)) == (
        "Click.",
        1.0,
        True,
        False,
        {"won": True, "admissible_action": True},
    )
    env.reset(seed=1)
    other = "red" if color == "blue" else "blue"
    assert env.step(call("press", color=other))[1:3] == (0.0, True), "a new episode earns anew"


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("press red", "this is not one tool call"),
        (call("press") + call("press"), "this is not one tool call"),
        (call("start"), "there is no tool 'start', only read_note, press"),
        (call("finish", won=True), "there is no tool 'finish'"),
        (call("__class__"), "there is no tool '__class__'"),
        (call("press", color="green"), "color is 'green'"),
        (call("press", color="red", times=0), "not at all?"),
    ],
)
def test_a_wrong_call_is_told_so_and_nothing_happens(action: str, said: str) -> None:
    env = Safe()
    env.reset(seed=0)
    answer, reward, terminated, truncated, info = env.step(action)
    assert answer.startswith("error: ") and said in answer
    assert (reward, terminated, truncated, info) == (0.0, False, False, {"won": False, "admissible_action": False})


def test_there_is_no_step_outside_of_an_episode() -> None:
    """Before the first reset and after the end, whatever the call is worth; no tool is called and nothing is paid."""
    env = Safe()
    for action in (call("press", color="red"), "press red"):
        with pytest.raises(RuntimeError, match=r"the episode is over: call reset\(\) before step\(\)"):
            env.step(action)
    for _ in range(2):
        env.reset(seed=1)
        assert env.step(call("press", color=env.code))[2]
        for action in (call("press", color=env.code), call("read_note"), "press red"):
            with pytest.raises(RuntimeError, match="the episode is over"):
                env.step(action)
        assert not env.read


def test_rewards_on_the_way() -> None:
    class Paid(ToolEnv):
        max_reward = 3.0

        def start(self, random) -> str:
            return "Go."

        def work(self) -> str:
            """Work."""
            self.earn(0.5)
            return "Paid."

        def stop(self) -> str:
            """Stop."""
            self.finish(won=True)
            raise ToolError("too late")

    env = Paid()
    assert env.reset()[1]["max_reward"] == 3.0
    assert [env.step(call("work"))[1] for _ in range(2)] == [0.5, 0.5]
    assert env.step(call("stop"))[:3] == ("error: too late", 3.0, True)


def test_the_safe() -> None:
    """Its expert needs at most places + 1 calls; codes of the splits differ, digits' sums tell which is whose."""
    codes: dict[str, set[str]] = {}
    for split in ("train", "val", "test"):
        env = SafeEnv(split, places=2)
        for seed in range(30):
            env.reset(seed=seed)
            codes.setdefault(split, set()).add(env._code)
            turns = [env.step(env.demonstrate()) for _ in range(2)]
            if not turns[-1][2]:
                turns.append(env.step(env.demonstrate()))
            assert turns[-1][1:3] == (1.0, True) and turns[-1][4]["won"]
    assert {sum(map(int, code)) % 10 for code in codes["val"]} == {8}
    assert {sum(map(int, code)) % 10 for code in codes["test"]} == {9}
    assert not {8, 9} & {sum(map(int, code)) % 10 for code in codes["train"]}


@pytest.mark.parametrize("places", [1, 3])
def test_safes_of_colors_are_apart(places: int) -> None:
    """All splits have the colors, and no two of them a safe: even of one place, 48 in all, each has some."""
    safes = {}
    for split in ("train", "val", "test"):
        env = SafeEnv(split, places=places, digits=None)
        safes[split] = {(env.reset(seed=seed)[0], env._note, env._code) for seed in range(60)}
    assert all(safes.values())
    assert not safes["train"] & safes["val"] and not safes["train"] & safes["test"] and not safes["val"] & safes["test"]
    env.reset(seed=0)
    assert env.step(call("look_in", place="moon"))[0].startswith("error: no moon here, only ")
    assert env.step(call("enter", code="x"))[:3] == ("The safe stays shut.", 0.0, False)
    for wrong in ({"places": 0}, {"places": 7}, {"digits": 0}):
        with pytest.raises(SettingsError, match=f"init_args.{next(iter(wrong))} is"):
            SafeEnv(**wrong)


def test_check_plays_it() -> None:
    """The probe calls tools; no words of the observation."""
    findings = {finding.name: finding for finding in check_contract(SafeEnv, 4)}
    assert {finding.level for finding in findings.values()} == {"ok"}
    assert findings["tools"].text.startswith("look_in, enter; ")


# What passes them on


def test_a_worker_and_a_mixture_pass_tools_on() -> None:
    mixture = MixtureEnv(
        environments={
            "one": {"class_path": "paw_lightning.envs.WorkerEnv", "init_args": {"environment": SAFE}},
            "two": OTHER,
        }
    )
    try:
        names = []
        for seed in (0, 1):
            _, info = mixture.reset(seed=seed)
            assert check_info(json.loads(json.dumps(info))) is None
            names.append([tool["function"]["name"] for tool in info["tools"]])
            first = names[-1][0]
            assert mixture.step(call(first, **({"place": "desk"} if first == "look_in" else {})))[0]
        assert sorted(names) == [["look_in", "enter"], ["read_note", "press"]]
    finally:
        mixture.close()


def test_recorded_calls(tmp_path) -> None:
    """A line has its tools; a call is the recorded one whatever blanks are in it."""
    tools = Safe().tools
    turn = {"observation": "A safe.", "action": '{"name":"press","arguments":{"color":"red"}}'}
    path = tmp_path / "episodes.jsonl"
    path.write_text(json.dumps({"task": "Open.", "turns": [turn], "tools": tools}) + "\n")
    env = RecordedEpisodes(path=str(path), environment=OTHER)
    assert env.reset(seed=0)[1]["tools"] == tools
    assert env.step(call("press", color="red"))[1:3] == (1.0, True)
    env.reset(seed=0)
    assert env.step(call("press", color="blue"))[1:3] == (0.0, True)


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ("press", "info\\['tools'\\] is 'press'; wanted a list"),
        ([{"name": "press"}], "holds {'name': 'press'}; wanted"),
        ([{"type": "function", "function": {"name": ""}}], "holds"),
        ([{"function": {"name": "f", "parameters": []}}], "holds"),
        ([{"function": {"name": "f", "parameters": {"properties": []}}}], "holds"),
        ([{"function": {"name": "f"}}, {"function": {"name": "f"}}], "names one tool twice"),
        ([{"function": {"name": "f", "description": b"x"}}], "is no JSON"),
    ],
)
def test_what_is_no_list_of_tools_is_refused(tools: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        check_info({"tools": tools})
