"""MCP servers as worlds of tools: over pipes and HTTP, with tasks of their own or from a file; what fails is named."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paw_lightning.envs.adapters.mcp import MCPEnv
from paw_lightning.errors import SettingsError
from paw_lightning.rollouts.episodes import check_info
from paw_lightning.text.tool_calls import Call
from tests.conftest import ROOT
from tests.helpers import runs

pytest.importorskip("mcp", reason="NO MCP: pip install 'paw-lightning[mcp]'")

SERVER = [sys.executable, str(ROOT / "examples" / "mcp_safe.py")]
REWARD = "examples.mcp_safe.reward"
WORLD = {"start_tool": "start", "final_tool": "enter", "reward": REWARD, "task": "Open the safe."}


def call(name: str, **arguments: Any) -> str:
    return str(Call(name, arguments))


def yes_is_right(task: dict[str, Any], calls: list[Any]) -> float:
    """A reward function: the answer has to be the task's own."""
    return float(calls[-1].arguments["text"] == task["right"])


@pytest.fixture
def make() -> Iterator[Any]:
    made: list[MCPEnv] = []

    def build(**arguments: Any) -> MCPEnv:
        made.append(MCPEnv(**{"command": SERVER, **arguments}))
        return made[-1]

    yield build
    for env in made:
        env.close()


def opened(env: MCPEnv) -> tuple[str, float, bool, bool, dict[str, Any]]:
    """Look for the note everywhere, then enter what it says."""
    seen = [env.step(call("look_in", place=place))[0] for place in ("desk", "shelf", "bed")]
    [note] = [text for text in seen if text.startswith("A note: ")]
    action = call("enter", code=note.removeprefix("A note: ").strip("."))
    env.begin_step(action)
    return env.step(action)


def test_a_server_over_pipes(make: Any) -> None:
    """Its tools but the one that starts a task; mistakes that a schema shows do not reach it."""
    env = make(**WORLD)
    observation, info = env.reset(seed=1)
    assert observation == "A safe. A note is in one of: desk, shelf, bed." and check_info(info) is None
    assert [tool["function"]["name"] for tool in info["tools"]] == ["look_in", "enter"]
    assert info["tools"][0]["function"]["parameters"]["properties"]["place"]["type"] == "string"
    assert (info["task"], info["max_reward"], info["group_key"]) == ("Open the safe.", 1.0, "train/1")
    for action, said in (
        ("open", "this is not one tool call"),
        (call("start", seed=2, split="val"), "there is no tool 'start', only look_in, enter"),
        (call("look_in", place=3), "place is 3; it has to be of type string"),
        (call("look_in", place="moon"), "no moon here"),
    ):
        answer, reward, done, _, info = env.step(action)
        assert said in answer and (reward, done, info["admissible_action"]) == (0.0, False, False)
    assert opened(env) == ("The safe opens.", 1.0, True, False, {"won": True, "admissible_action": True})
    process = env._session
    env.reset(seed=2)
    assert env._session is process, "a server that starts tasks is kept"
    assert env.step(call("enter", code="no"))[:3] == ("The safe stays shut.", 0.0, True)


def test_tasks_from_a_file(make: Any, tmp_path: Path) -> None:
    """Each episode has a session of its own and ends with an answer, which the adapter's own tool takes."""
    file = tmp_path / "tasks.jsonl"
    file.write_text("".join(json.dumps({"task": f"Say {i}.", "right": str(i)}) + "\n" for i in range(10)))
    reward = f"{__name__}.yes_is_right"
    env = make(tasks=str(file), reward=reward, tools=["look_in"])
    assert env.num_tasks == 8
    observation, info = env.reset(seed=9)
    assert observation == info["task"] == "Say 1.", "number 9 of 8 is the second"
    assert [tool["function"]["name"] for tool in info["tools"]] == ["look_in", "answer"]
    assert env.step(call("look_in", place="desk"))[4]["admissible_action"]
    assert env.step(call("answer", text="1"))[1:3] == (1.0, True)
    first = env._session
    env.reset(seed=0)
    assert env._session is not first
    assert env.step(call("answer", text="1"))[1:] == (0.0, True, False, {"won": False, "admissible_action": True})
    assert make(tasks=str(file), reward=reward, split="val").reset(seed=0)[0] == "Say 8."


@pytest.mark.slow
def test_a_server_over_http(make: Any) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = f"from examples.mcp_safe import server; server.run('streamable-http', port={port})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        env = make(command=None, url=f"http://127.0.0.1:{port}/mcp", **WORLD)
        env.reset(seed=1)
        assert opened(env)[:3] == ("The safe opens.", 1.0, True)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"command": ["no_such_program"], **WORLD}, "command is .*wanted an MCP server that answers"),
        ({"command": None, "url": "http://127.0.0.1:9/mcp", **WORLD}, "url is .*wanted an MCP server that answers"),
        ({"url": "http://x", **WORLD}, "command is .*wanted either it or url"),
        ({"reward": REWARD}, "tasks is None; wanted either it or start_tool"),
        ({**WORLD, "reward": "no.such"}, "reward is 'no.such'; wanted module.function"),
        ({**WORLD, "final_tool": "leave"}, "final_tool is 'leave'; wanted one of"),
        ({**WORLD, "tools": ["fly"]}, r"tools is \['fly'\]; wanted some of the server's"),
        ({**WORLD, "start_tool": None, "tasks": "no_such_file"}, "tasks is 'no_such_file'; wanted a file"),
    ],
)
def test_what_cannot_be_played_is_named(make: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=f"rollout.environment.init_args.{message}"):
        make(**arguments).reset(seed=0)


def test_a_server_that_never_answers_is_ended(make: Any, tmp_path: Path) -> None:
    """It is given up after `timeout` seconds, and its process does not stay behind."""
    number = tmp_path / "pid"
    code = f"echo $$ > {number}; exec sleep 600"
    with pytest.raises(SettingsError, match=r"command is .*wanted an MCP server that answers: no answer within 5 s"):
        make(command=["sh", "-c", code], timeout=5.0, **WORLD).reset(seed=0)
    with pytest.raises(ProcessLookupError):
        os.kill(int(number.read_text()), 0)


def test_a_server_that_is_gone_costs_the_episode(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One episode: the reset that finds it gone gives the session up, and the next begins another."""
    monkeypatch.setenv("KEY_OF_MINE", "abc")
    env = make(command=[sys.executable, "-c", GONE], start_tool="start", final_tool="answer", reward=REWARD, timeout=20)
    assert env.reset(seed=0)[0] == "Go with abc."
    with pytest.raises(RuntimeError, match="the MCP server gave no answer"):
        env.step(call("leave"))
    with pytest.raises(RuntimeError, match="the MCP server"):
        env._begun = None  # as after an answer that came
        env.reset(seed=0)
    assert env.reset(seed=0)[0] == "Go with abc."


def test_there_is_no_step_outside_of_an_episode(make: Any) -> None:
    env = make(**WORLD)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(call("enter", code="no"))
    env.reset(seed=2)
    assert env.step(call("enter", code="no"))[2]
    for over in (lambda: None, env.close):
        over()
        with pytest.raises(RuntimeError, match="call reset"):
            env.step(call("enter", code="no"))


GONE = """
import os
from mcp.server.mcpserver import MCPServer
server = MCPServer("gone")
@server.tool()
def start() -> str:
    return f"Go with {os.environ.get('KEY_OF_MINE')}."
@server.tool()
def leave() -> str:
    os._exit(1)
server.run("stdio")
"""


def test_the_config_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    settings = runs.FEW_EPISODES | {"data__groups": 1, "data__minibatches": 1, "trainer__limit_val_batches": 0}
    settings |= {"trainer__max_epochs": 1, "rollout__max_steps": 2, "rollout__max_action_tokens": 6}
    settings["rollout__environment__init_args__command"] = SERVER
    cli = runs.fit(tmp_path, "tiny-household", (ROOT / "configs" / "mcp" / "base.yaml",), **settings)
    curves = runs.curves(cli)
    assert list(curves["rollout/dropped_groups"].values()) == [0.0]
    assert list(curves["rollout/retried_episodes"].values()) == [0.0]
    assert curves["wm/observation_nll"]
