"""Adapters of other people's environments: each plays, and each config runs; what is not installed skips loudly."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paw_lightning.envs import TextEnv
from paw_lightning.envs.loading import build_environment, import_extra
from paw_lightning.errors import SettingsError
from tests.conftest import ROOT
from tests.helpers import runs

JAVA = {"express", "scienceworld"}
PACKAGES = {
    "express": "textworld_express",
    "scienceworld": "scienceworld",
    "textworld": "textworld",
    "gym": "minigrid",
    "textarena": "textarena",
    "openenv": "websockets",
}
SMALL = {
    "trainer__max_epochs": 1,
    "trainer__check_val_every_n_epoch": 1,
    "data__groups": 1,
    "data__group_size": 2,
    "data__validation_tasks": 1,
    "rollout__max_steps": 3,
    "policy_export__folder": None,
}


def need(extra: str) -> None:
    """Skip a test whose extra (or Java) is absent."""
    if importlib.util.find_spec(PACKAGES[extra]) is None:
        pytest.skip(f"NO {extra.upper()}: pip install 'paw-lightning[{extra}]'")
    if extra in JAVA and shutil.which("java") is None:
        pytest.skip(f"NO JAVA FOR {extra.upper()}: apt-get install default-jre-headless")


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Builds adapters and closes them; Java machines stay small."""
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xmx256m")
    made: list[TextEnv] = []

    def build(name: str, split: str = "train", **init_args: Any) -> TextEnv:
        made.append(
            build_environment({"class_path": f"paw_lightning.envs.adapters.{name}", "init_args": init_args}, split)
        )
        return made[-1]

    yield build
    for env in made:
        env.close()


def play(env: TextEnv, actions: list[str], seed: int = 0) -> list[tuple[str, float, bool]]:
    env.reset(seed=seed)
    return [env.step(action)[:3] for action in actions]


def check_config(name: str, folder: Path, **settings: Any) -> dict[str, dict[int, float]]:
    """One small iteration of a shipped config with the shipped policy: nothing is lost, something is learnt from."""
    config = ROOT / "configs" / name / "base.yaml"
    curves = runs.curves(runs.fit(folder, "tiny-household", (config,), **(SMALL | settings)))
    assert list(curves["rollout/dropped_groups"].values()) == [0.0]
    assert list(curves["rollout/retried_episodes"].values()) == [0.0]
    assert list(curves["val/dropped_tasks"].values()) == [0.0]
    assert list(curves["rollout/overlong_observations"].values()) == [0.0]
    assert curves["wm/observation_nll"] and curves["wm/coefficient"]
    return curves


def in_worker(name: str, init_args: dict[str, Any]) -> dict[str, Any]:
    """The setting that replaces what runs in a config's worker."""
    spec = {"class_path": f"paw_lightning.envs.adapters.{name}", "init_args": init_args}
    return {"rollout__environment__init_args__environment": spec}


def test_a_missing_package_names_its_extra() -> None:
    with pytest.raises(
        SettingsError,
        match=r"no_such_package is not installed; wanted .*environment: .*extra `express` of paw-lightning",
    ):
        import_extra("no_such_package.part", "express")


def test_express(make: Any) -> None:
    need("express")
    env = make("express.ExpressEnv", game="coin", parameters="numLocations=1,numDistractorItems=0,includeDoors=0")
    assert env.num_tasks == 1000
    observation, info = env.reset(seed=3)
    assert "coin" in info["task"] and info["max_reward"] == 1.0
    assert "take coin" in info["admissible_commands"] and "coin" in observation
    assert env.step("dance with coin")[1:4] == (0.0, False, False)
    _, reward, terminated, _, info = env.step("take coin")
    assert (reward, terminated, info["won"]) == (1.0, True, True)
    again = make("express.ExpressEnv", "val", game="coin")
    assert again.reset(seed=0)[1]["group_key"] != env.reset(seed=0)[1]["group_key"]
    actions = ["look around", "inventory"]
    assert play(env, actions, 1003) == play(env, actions, 3), "task 1003 of 1000 is task 3"


def test_express_config(tmp_path: Path) -> None:
    need("express")
    check_config("express", tmp_path)


@pytest.mark.slow
def test_scienceworld(make: Any) -> None:
    """The gold path of the simulator collects the whole score, 1; a wrong focus ends the episode with 0 in all."""
    need("scienceworld")
    env = make("scienceworld.ScienceWorldEnv", tasks=["find-living-thing"], admissible=True)
    _, info = env.reset(seed=1)
    assert "living thing" in info["task"] and "look around" in info["admissible_commands"]
    task, variation = info["group_key"].split("/")
    env._env.load(task, int(variation), "easy", generateGoldPath=True)
    gold = env._env.get_gold_action_sequence()
    env.reset(seed=1)
    results = [env.step(action) for action in gold]
    assert sum(reward for _, reward, *_ in results) == pytest.approx(1.0)
    assert results[-1][2] and results[-1][4]["won"]
    env.reset(seed=0)
    results = [env.step(action) for action in ["go to kitchen", "focus on cupboard"]]
    assert results[0][1] > 0 and results[0][1] + results[1][1] == 0.0
    assert results[-1][2] and not results[-1][4]["won"]


@pytest.mark.slow
def test_scienceworld_config(tmp_path: Path) -> None:
    need("scienceworld")
    check_config("scienceworld", tmp_path)


@pytest.mark.slow
def test_textworld(make: Any, tmp_path: Path) -> None:
    """The stored walkthrough of a generated game wins it; a second environment finds the game made."""
    need("textworld")
    env = make("textworld.TextWorldEnv", make="tw-coin_collector --level 2", folder=str(tmp_path), num_tasks=1)
    observation, info = env.reset(seed=0)
    assert "$$" not in observation and "\n>" not in observation and info["max_reward"] == 1.0
    [game] = tmp_path.rglob("*.json")
    made = game.stat().st_mtime_ns
    walkthrough = json.loads(game.read_text())["metadata"]["walkthrough"]
    assert walkthrough[0] in info["admissible_commands"]
    results = [env.step(action) for action in walkthrough]
    assert [reward for _, reward, *_ in results] == [0.0] * (len(walkthrough) - 1) + [1.0]
    assert results[-1][2] and results[-1][4]["won"]
    other = make("textworld.TextWorldEnv", make="tw-coin_collector --level 2", folder=str(tmp_path), num_tasks=1)
    assert other.reset(seed=5)[0] == observation and game.stat().st_mtime_ns == made


@pytest.mark.slow
def test_textworld_config(tmp_path: Path) -> None:
    need("textworld")
    inner = {"num_tasks": 1, "folder": str(tmp_path / "games")}
    check_config("textworld", tmp_path, **in_worker("textworld.TextWorldEnv", inner))


def test_gymnasium(make: Any) -> None:
    """On the 4 x 4 lake without slipping this path leads past the holes to the goal."""
    need("gym")
    env = make("gym.GymnasiumEnv", make={"is_slippery": False}, task="reach G")
    observation, info = env.reset(seed=0)
    assert observation == "[S]FFF\nFHFH\nFFFH\nHFFG"
    assert info["admissible_commands"] == ["down", "left", "right", "up"] and info["task"] == "reach G"
    assert env.step("swim")[:2] == ("Unknown action. Actions: left, down, right, up.", 0.0)
    results = [env.step(action) for action in ["down", "down", "right", "right", "down", "right"]]
    assert [reward for _, reward, *_ in results] == [0.0] * 5 + [1.0]
    assert results[-1][2] and results[-1][4]["won"] and results[-1][0].endswith("HFF[G]")
    assert play(env, ["down", "right"])[-1][1:] == (0.0, True), "a hole ends it unwon"
    with pytest.raises(ValueError, match=r"actions is .*wanted at most 4 actions"):
        make("gym.GymnasiumEnv", actions=["a", "b", "c", "d", "e"])


def test_minigrid_in_words(make: Any) -> None:
    """The words are checked by walking to what they name: turn to it, go there, and be paid."""
    need("gym")
    env = make("gym.MiniGridEnv", id="BabyAI-GoToObj-v0")
    for seed in range(3):
        observation, info = env.reset(seed=seed)
        wanted = info["task"].removeprefix("go to the ")
        reward = 0.0
        for _ in range(40):
            place = observation.partition(wanted)[2].partition(",")[0].partition(".")[0]
            if f"{wanted} 1 ahead" == wanted + place:
                break
            ahead, aside = " ahead" in place, " to the " in place
            nearer = ahead and not place.startswith(" 0")
            action = "go forward" if nearer else "turn right" if "right" in place or not aside else "turn left"
            observation, reward, done, _, info = env.step(action)
            if done:
                break
        assert info["won"] and 0.5 < reward <= 1.0, (seed, observation)


def test_gym_config(tmp_path: Path) -> None:
    need("gym")
    check_config("gym", tmp_path)


def test_textarena(make: Any) -> None:
    """Two copies in one process do not disturb each other, nor the numbers of whoever else draws some."""
    need("textarena")
    first, second = (
        make("textarena.TextArenaEnv", game="2048-v0-raw"),
        make("textarena.TextArenaEnv", game="2048-v0-raw"),
    )
    moves = ["[Left]", "[Down]", "[Right]", "[Up]"] * 2
    alone = play(first, moves, 4)
    random.seed(7)
    first.reset(seed=4)
    second.reset(seed=9)
    among = []
    for move in moves:
        among.append(first.step(move)[:3])
        second.step(move)
    assert among == alone
    assert random.random() == random.Random(7).random()
    guess = make("textarena.TextArenaEnv")
    guess.reset(seed=0)
    low, high, done, reward = 1, 20, False, 0.0
    while not done:  # five halvings find one of twenty
        middle = (low + high) // 2
        text, reward, done, _, info = guess.step(f"[{middle}]")
        low, high = (middle + 1, high) if "higher" in text else (low, middle - 1)
    assert (reward, info["won"]) == (1.0, True) and text


def test_textarena_config(tmp_path: Path) -> None:
    need("textarena")
    check_config("textarena", tmp_path)


@pytest.fixture
def openenv_server() -> Iterator[str]:
    """A server that speaks OpenEnv's messages (checked against openenv 0.10.0): guess seed % 3, one of 0, 1, 2."""
    need("openenv")
    from websockets.sync.server import serve

    def session(socket: Any) -> None:
        for text in socket:
            message = json.loads(text)
            if message["type"] == "close":
                return
            if message["type"] == "reset":
                secret = message["data"]["seed"] % 3
                data = {"observation": {"text": "guess", "metadata": {}}, "reward": None, "done": False}
            elif message["data"].keys() != {"message"}:
                socket.send(json.dumps({"type": "error", "data": {"message": "Invalid message"}}))
                continue
            else:
                right = message["data"]["message"] == str(secret)
                data = {"observation": {"text": "yes" if right else "no"}, "reward": float(right), "done": right}
            socket.send(json.dumps({"type": "observation", "data": data}))

    with serve(session, "localhost", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.socket.getsockname()[1]}"
        server.shutdown()


def test_openenv(make: Any, openenv_server: str) -> None:
    first, second = (make("openenv.OpenEnvEnv", url=openenv_server) for _ in range(2))
    assert first.reset(seed=4) == ("guess", {"group_key": "train/4", "max_reward": 1.0})
    second.reset(seed=5)
    first.begin_step("2")
    second.begin_step("2")
    assert first.step("2") == ("no", 0.0, False, False, {"won": False}), "sessions are apart"
    assert second.step("2") == ("yes", 1.0, True, False, {"won": True})
    with pytest.raises(RuntimeError, match="call reset"):
        second.step("2")  # a server may pay again
    wrong = make("openenv.OpenEnvEnv", url=openenv_server, action_field="word")
    wrong.reset(seed=0)
    with pytest.raises(RuntimeError, match="Invalid message"):
        wrong.step("0")


def test_a_late_answer_of_openenv_is_nobodys(make: Any) -> None:
    """A step and a reset that were given up: what they are answered later is no answer of another request."""
    need("openenv")
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.server import serve

    late = threading.Event()

    def session(socket: Any) -> None:
        for text in socket:
            data = json.loads(text)["data"]
            said = data["message"] if "message" in data else f"task {data['seed']}"
            if said in ("wait", "task 13"):
                late.wait(60)
            try:
                socket.send(json.dumps({"type": "observation", "data": {"observation": {"text": said}}}))
            except ConnectionClosed:
                return

    with serve(session, "localhost", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = make("openenv.OpenEnvEnv", url=f"http://localhost:{server.socket.getsockname()[1]}")
        patience = env._timeout
        env.reset(seed=1)
        for give_up in (lambda: env.step("wait"), lambda: env.reset(seed=13)):
            env._timeout = 0.1
            with pytest.raises(TimeoutError):
                give_up()
            env._timeout = patience
            with pytest.raises(RuntimeError, match=r"episode with the OpenEnv server is over: call reset\(\) before"):
                env.step("a")
            late.set()
            assert env.reset(seed=2)[0] == "task 2" and env.step("b")[0] == "b"
            late.clear()
        env.begin_step("c")
        assert env.reset(seed=3)[0] == "task 3", "nor is what nobody has waited for"
        late.set()
        env.close()
        server.shutdown()


def test_openenv_config(openenv_server: str, tmp_path: Path) -> None:
    check_config("openenv", tmp_path, rollout__environment__init_args__url=openenv_server)


@pytest.fixture
def openenv_tools() -> Iterator[str]:
    """A server of tools in OpenEnv's messages (written after openenv-core 0.3.0): guess seed % 3 by calls."""
    need("openenv")
    from websockets.sync.server import serve

    schema = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
    tools = [{"name": "guess", "description": "Guess.", "input_schema": schema}]
    tools.append({"name": "hint", "description": "Ask.", "input_schema": {"type": "object", "properties": {}}})

    def answer(data: dict[str, Any], secret: int) -> dict[str, Any]:
        if data == {"type": "list_tools"}:
            return {"observation": {"tools": tools}, "reward": None, "done": False}
        assert data.keys() == {"type", "tool_name", "arguments"} and data["type"] == "call_tool"
        if data["tool_name"] == "hint":
            error = {"error_type": "execution_error", "message": "no hints"}
            return {"observation": {"tool_name": "hint", "result": None, "error": error}, "reward": None, "done": False}
        right = repr(data["arguments"]) == f"{{'number': {secret}}}"  # an int, no float
        content = [{"type": "text", "text": "yes" if right else "no"}]
        result = {"content": content, "structured_content": None, "is_error": False}
        observation = {"tool_name": "guess", "result": result, "error": None}
        return {"observation": observation, "reward": float(right), "done": right}

    def session(socket: Any) -> None:
        secret = 0
        for text in socket:
            message = json.loads(text)
            if message["type"] == "reset":
                secret = message["data"]["seed"] % 3
                data: dict[str, Any] = {"observation": {"metadata": {}}, "reward": None, "done": False}
            else:
                data = answer(message["data"], secret)
            socket.send(json.dumps({"type": "observation", "data": data}))

    with serve(session, "localhost", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.socket.getsockname()[1]}"
        server.shutdown()


def test_openenv_tools(make: Any, openenv_tools: str) -> None:
    env = make("openenv.OpenEnvToolEnv", url=openenv_tools, task="Guess it.")
    observation, info = env.reset(seed=4)
    assert observation == info["task"] == "Guess it.", "the server's first observation has no text"
    assert [tool["function"]["name"] for tool in info["tools"]] == ["guess", "hint"]

    def call(name: str, **arguments: Any) -> str:
        return json.dumps({"name": name, "arguments": arguments})

    wrong = {"won": False, "admissible_action": False}
    assert env.step("2")[0].startswith("error: this is not one tool call")
    assert env.step(call("guess", number="1")) == (
        *("error: number is '1'; it has to be of type integer", 0.0, False, False),
        wrong,
    )
    assert env.step(call("leave"))[0] == "error: there is no tool 'leave', only guess, hint"
    assert env.step(call("hint")) == ("error: no hints", 0.0, False, False, wrong)
    assert env.step(call("guess", number=2)) == ("no", 0.0, False, False, {"won": False, "admissible_action": True})
    env.begin_step(call("guess", number=1.0))
    assert env.step(call("guess", number=1.0))[:3] == ("yes", 1.0, True)
    for action in ("2", call("guess", number=1)):
        with pytest.raises(RuntimeError, match="call reset"):
            env.step(action)


def test_openenv_tools_config(openenv_tools: str, tmp_path: Path) -> None:
    settings = {"rollout__environment__init_args__url": openenv_tools, "rollout__max_action_tokens": 8}
    curves = runs.curves(
        runs.fit(tmp_path, "tiny-household", (ROOT / "configs" / "openenv" / "tools.yaml",), **SMALL, **settings)
    )
    assert list(curves["rollout/dropped_groups"].values()) == [0.0] and curves["wm/observation_nll"]


def test_verl_agent_manager(make: Any) -> None:
    env = make("verl_agent.ManagedEnv", factory="tests.helpers.managers.make_one", arguments={"goal": 2})
    observation, info = env.reset(seed=3)
    assert observation == "task 3: count to 2", "the bare observation, not the manager's prompt"
    assert info["admissible_commands"] == ["down", "up"] and info["max_reward"] == 10.0
    assert env.step("up")[:4] == ("you are at 1", 0.0, False, False)
    observation, reward, done, _, info = env.step("up")
    assert (observation, reward, done, info["won"]) == ("you are at 2", 10.0, True, True)
    raw = make("verl_agent.ManagedEnv", factory="tests.helpers.managers.make_one", action_template="{action}")
    raw.reset(seed=3)
    assert raw.step("up")[0] == "no action"
    manager = raw._manager
    raw.close()
    assert manager.closed


def test_verl_agent_config(tmp_path: Path) -> None:
    check_config(
        "verl_agent", tmp_path, **in_worker("verl_agent.ManagedEnv", {"factory": "tests.helpers.managers.make_one"})
    )


def test_mixture_config(tmp_path: Path) -> None:
    """Three of four tasks are small houses; the single validation task is seed 0, a large one."""
    curves = check_config("mixture", tmp_path, data__groups=4)
    assert curves["rollout/small/return"] and curves["rollout/large/return"] and curves["val/large/return"]
