"""Environments of the package `verifiers`, stepped from outside: turns, tools, rewards, splits; what fails is named."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from paw_lightning.envs.adapters import verifiers
from paw_lightning.envs.adapters.verifiers import VerifiersEnv
from paw_lightning.envs.adapters.verifiers_loading import Desk
from paw_lightning.errors import SettingsError
from paw_lightning.rollouts.episodes import check_info
from paw_lightning.text.tool_calls import Call
from tests.conftest import ROOT
from tests.helpers import runs

WORLDS = "tests.helpers.verifiers_worlds"
FINDING = "examples.verifiers_finding"


@pytest.fixture
def make() -> Iterator[Any]:
    pytest.importorskip("verifiers", reason="NO VERIFIERS: pip install 'paw-lightning[verifiers]'")
    made: list[VerifiersEnv] = []

    def build(split: str = "train", kind: str = "safe", environment: str = WORLDS, **settings: Any) -> VerifiersEnv:
        arguments = {} if environment == FINDING else {"kind": kind, **settings.pop("arguments", {})}
        made.append(VerifiersEnv(split, environment=environment, arguments=arguments, **settings))
        return made[-1]

    yield build
    for env in made:
        env.close()


def call(name: str, **arguments: Any) -> str:
    return str(Call(name, arguments))


def test_turns_until_the_environment_ends(make: Any) -> None:
    """Row 3 of the data set; a reward at the end, with the last words, and nothing before."""
    env = make(environment=FINDING)
    assert env.num_tasks == 1000
    observation, info = env.reset(seed=1003)
    assert check_info(info) is None and "tools" not in info
    assert (info["max_reward"], info["group_key"]) == (1.0, "train/3"), "task 1003 of 1000 is row 3"
    assert observation == info["task"] and observation.startswith("You see a ") and "Task: find a " in observation
    right = env._rows[3]["answer"]
    wrong = "shelf" if right != "shelf" else "drawer"
    assert env.step(f"go to {wrong} 1")[0].startswith(f"You arrive at {wrong} 1. On the {wrong} 1, you see a ")
    env.reset(seed=3)
    assert env.step("dance") == ("Nothing happens.", 0.0, False, False, {"won": False})
    answer, *rest = env.step(f"go to {right} 1")
    assert rest == [1.0, True, False, {"won": True}] and answer == "", "the second of two turns gets no answer"
    env.reset(seed=3)
    answer, reward, done, _, _ = env.step(f"go to {right} 1")
    assert (reward, done) == (1.0, True) and answer.startswith(f"You arrive at {right} 1."), "the last words"


def test_tool_calls(make: Any) -> None:
    """Calls reach the tools; those that a schema refuses do not, and an answer without a call is the last."""
    env = make(winning_reward=1.5)
    observation, info = env.reset(seed=0)
    assert observation == "Be brief.\n\nWhat is one?" and info["task"] == "What is one?" and check_info(info) is None
    assert [tool["function"]["name"] for tool in info["tools"]] == ["look_in", "enter"]
    assert info["tools"][1]["function"]["parameters"]["properties"]["code"]["type"] == "integer"
    for action, said in (
        (call("leave"), "error: there is no tool 'leave', only look_in, enter"),
        (call("enter", code="7"), "error: code is '7'; it has to be of type integer"),
    ):
        assert env.step(action) == (said, 0.0, False, False, {"won": False, "admissible_action": False})
    heard = {"won": False, "admissible_action": True}
    assert env.step(call("look_in", place="desk")) == ("The desk is empty.", 0.0, False, False, heard)
    assert env.step(call("look_in", place="moon"))[0] == "too far", "the tool's own complaint"
    assert env.step(call("look_in", place="shelf"))[0] == "(no text)"
    # right is 1 with the weights 0.7, 0.2 and 0.1, and called is 1 with 0.5: 1.5.
    answer, reward, done, _, info = env.step("one")
    assert (answer, reward, done) == ("", pytest.approx(1.5), True) and info == {"won": True, "admissible_action": True}
    env.reset(seed=0)
    # 0.7 + 0.2 + 0.1 is 0.9999999999999999: 1 is wanted, and 1.5 is not there.
    assert env.step("one")[1:] == (pytest.approx(1.0), True, False, {"won": False, "admissible_action": True})
    one = make()
    one.reset(seed=0)
    assert one.step("one")[4]["won"]


def test_a_call_that_ends_the_episode_is_scored(make: Any) -> None:
    """An environment may end at a tool's error (`stop_errors`): it is the policy's, and costs no episode."""
    env = make(kind="strict")
    env.reset(seed=0)
    assert env.step(call("look_in", place="moon"))[:3] == ("", 0.0, True)


def test_text_is_no_call_without_tools(make: Any) -> None:
    env = make(kind="single")
    env.reset(seed=0)
    assert env.step(call("one"))[1:3] == (0.0, True)
    env.reset(seed=1)
    assert env.step("two")[1:3] == (1.0, True)


def test_a_group_of_environments(make: Any) -> None:
    """Rows 0 to 5 are the first one's, which has no tools; 6 to 11 the second's, whose tool has a hidden argument."""
    env = make(kind="both")
    assert env.num_tasks == 12
    assert "tools" not in env.reset(seed=0)[1]
    assert env.step("one")[1:3] == (1.0, True)
    [tool] = env.reset(seed=7)[1]["tools"]
    assert list(tool["function"]["parameters"]["properties"]) == ["letter"]
    assert env.step(call("tell", letter=1))[0] == "w", "the second letter of the answer of row 1, two"
    assert env.step("two")[1:3] == (1.0, True)


def test_episodes_are_apart(make: Any) -> None:
    """Two copies of one environment, played in turn; parts of a message that are no text are named."""
    first, second = make(kind="drawn"), make(kind="drawn")
    assert first._loaded is second._loaded, "the data set is loaded once"
    first.reset(seed=0)
    second.reset(seed=2)
    assert first.step("a")[0].startswith("1 ") and first.step("b")[0].startswith("2 ")
    text = second.step("a")[0]
    assert text.startswith("1 ") and text.endswith("\n\n(image_url)")
    assert first.step("stop")[:3] == ("The end.", 3.0, True)
    assert second.step("stop")[:3] == ("The end.", 2.0, True)


def test_random_numbers_are_the_episodes_own(make: Any) -> None:
    """A task starts alike in a group; within it the episode's seed decides; the trainer's numbers are left alone."""
    env = make(kind="drawn")
    random.seed(7)
    wanted = random.Random(7).random()

    def played(seed: int, episode_seed: int) -> tuple[str, str]:
        return env.reset(seed=seed, options={"episode_seed": episode_seed})[0], env.step("a")[0]

    start, turn = played(0, 1)
    assert played(0, 1) == (start, turn)
    again, other = played(0, 2)
    assert again == start and other != turn
    assert played(3, 1)[0].partition("start")[2] != start.partition("start")[2]
    assert random.random() == wanted


class Drawing:
    """As much of an environment of the package as threads need: it draws at the start and in every turn, and waits."""

    rubric: Any

    async def rollout(self, row: Any, desk: Desk, *_: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": f"{random.random()}"}]
        for _turn in range(3):
            answer = await desk.ask([*messages], None)
            await asyncio.sleep(0.001)
            messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": f"{random.random()}"}]
        return {"completion": messages, "reward": 1.0}

    async def score_rollout(self, state: Any) -> None: ...

    async def cleanup(self, state: Any) -> None: ...


def test_episodes_in_threads_are_what_they_are_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler that takes prompts one at a time steps them so: none may go on by another's random numbers."""
    drawing = Drawing()
    drawing.rubric = drawing
    package = SimpleNamespace(ToolError=KeyError)
    loaded = SimpleNamespace(
        environment=drawing,
        loop=asyncio.new_event_loop(),
        package=package,
        client=lambda desk: desk,
        response=lambda turn, action, call: action,
    )
    monkeypatch.setattr(verifiers, "load", lambda *_: loaded)
    monkeypatch.setattr(verifiers, "rows_of", lambda *_: [{}] * 8)

    def played(seed: int) -> list[str]:
        env = VerifiersEnv(environment="drawing")
        seen = [env.reset(seed=seed, options={"episode_seed": seed})[0]]
        return [*seen, *(env.step("go on")[0] for _ in range(3))]

    alone = [*map(played, range(6))]
    assert len({text for texts in alone for text in texts}) == 24
    with ThreadPoolExecutor(6) as threads:
        assert [*threads.map(played, range(6))] == alone
    loaded.loop.close()


def test_splits(make: Any) -> None:
    """The data set is for training; of the five rows to evaluate with, 0, 2, 4 are for val and 1, 3 for test."""

    def starts(split: str) -> list[str]:
        env = make(split)
        return [env.reset(seed=seed)[1]["task"].split()[-1].strip("?") for seed in range(env.num_tasks)]

    assert starts("train") == ["one", "two", "three", "four", "five", "six"]
    assert (starts("val"), starts("test")) == (["one", "three", "five"], ["two", "four"])
    assert make("val").reset(seed=0)[1]["task"] == "Eval one"


def test_an_episode_that_is_left_is_cleaned_up(make: Any) -> None:
    from tests.helpers.verifiers_worlds import cleaned

    env = make()
    env.reset(seed=4)
    cleaned.clear()
    env.reset(seed=5)
    assert cleaned == ["five"]
    env.close()
    assert cleaned == ["five", "six"]


def test_failures_cost_the_episode(make: Any) -> None:
    """What the environment raises is raised, at its start or in a turn; the next episode is played."""
    env = make(kind="drawn")
    with pytest.raises(RuntimeError, match=r"the environment failed: InfraError.*no room"):
        env.reset(seed=1)
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match=r"the environment failed: InfraError.*gone"):
        env.step("raise")
    env.reset(seed=0)
    with pytest.raises(SystemExit):
        env.step("exit")
    env.reset(seed=0)
    assert env.step("a")[0].startswith("1 ")


def test_signals_are_left_alone(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's environments take Ctrl-C and SIGTERM; another thread may not even do that."""
    monkeypatch.setattr("paw_lightning.envs.adapters.verifiers_loading._LOADED", {})
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    make(kind="single")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(make(kind="drawn")))
    thread.start()
    thread.join()
    assert made, "made outside the main thread"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"environment": "no_such"}, r"'no_such'; wanted one that .*Could not import 'no_such'"),
        ({"arguments": {"size": 3}}, r"wanted one that .* with the arguments \{.*'size': 3\}: .*unexpected keyword"),
        ({"kind": "judged"}, "its JudgeRubric asks a judge's model over the network, which cannot be used here"),
        ({"kind": "group"}, "its JudgeRubric asks a judge's model over the network"),
        ({"kind": "compared"}, "wanted one that scores each episode by itself"),
        ({"kind": "untrained"}, "wanted one that has a dataset, as the split is 'train'"),
        ({"split": "val", "arguments": {"evaluated": 0}}, r"has an eval_dataset of two rows .*limit_val_batches: 0"),
        ({"split": "test", "arguments": {"evaluated": 1}}, "has an eval_dataset of two rows .* split is 'test'"),
    ],
)
def test_what_cannot_be_played_is_named(make: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=rf"rollout.environment.init_args.environment is .*{message}"):
        make(**settings)


def test_a_running_event_loop_is_named(make: Any) -> None:
    async def within() -> None:
        make(kind="single")

    with pytest.raises(SettingsError, match=r"within a running event loop .*; wanted it in a WorkerEnv"):
        asyncio.run(within())


def test_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.4 has nothing to step by."""
    newer = ModuleType("verifiers")
    newer.__version__ = "0.4.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "verifiers", newer)
    with pytest.raises(
        SettingsError, match=r"verifiers 0.4.0 is installed; wanted the whole of one before 0.4 .*extra"
    ):
        VerifiersEnv(environment="none_such")


def test_the_config_runs(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    settings = runs.FEW_EPISODES | {"trainer__max_epochs": 1}
    cli = runs.fit(tmp_path, "tiny-household", (ROOT / "configs" / "verifiers" / "base.yaml",), **settings)
    curves = runs.curves(cli)
    for lost in ("rollout/dropped_groups", "rollout/retried_episodes", "val/dropped_tasks"):
        assert list(curves[lost].values()) == [0.0]
    assert curves["wm/observation_nll"] and curves["rollout/return"]
