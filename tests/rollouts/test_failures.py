"""A failure in an environment names the environment's own line."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from paw_lightning.envs import TextEnv
from paw_lightning.errors import ServerAwayError, SettingsError
from paw_lightning.rollouts.episodes import describe
from tests.helpers.playing import collector
from tests.helpers.toy_env import ToyEnv


class Raises(ToyEnv):
    def step(self, action: str) -> Any:
        raise RuntimeError("my bug in step")


class RaisesInALibrary(ToyEnv):
    def step(self, action: str) -> Any:
        return json.loads("{")


class Four(ToyEnv):
    def step(self, action: str) -> Any:
        return "a", 0.0, True, {}


class NoInfo(ToyEnv):
    def reset(self, **_: Any) -> Any:
        return "the start"


class Nothing(ToyEnv):
    def step(self, action: str) -> Any:
        return None


HERE = "tests/rollouts/test_failures.py"


def line(method: Callable, below: int = 0, file: str = HERE) -> str:
    """The place of a method, or of a line below its first."""
    return f"{file}:{inspect.getsourcelines(method)[1] + below}"


def failure(env: TextEnv) -> str:
    """What is said of a step that fails."""
    try:
        env.step("open box")
    except Exception as error:
        return describe(env, "step('open box')", error)
    raise AssertionError("nothing failed")


def test_the_line_that_raised() -> None:
    message = failure(Raises())
    where = line(Raises.step, 1)
    assert message == (
        f"Raises.step('open box') failed with RuntimeError: my bug in step, {where} (rollout.environment)"
    )


def test_a_library_that_raises_is_not_to_blame() -> None:
    assert line(RaisesInALibrary.step, 1) in failure(RaisesInALibrary())


def played(make_env: Callable[[], TextEnv]) -> str:
    """How the collector's attempt to play task 1 ends."""
    player = collector()
    player.make_env = make_env
    return player.play([1], 1, temperature=1.0, seed=(0,)).failures[0]


@pytest.mark.parametrize(
    ("env", "method", "expected"),
    [
        (Four, "step", "expected 5, got 4); wanted (observation, reward, terminated, truncated, info), "),
        (Nothing, "step", "non-iterable NoneType object; wanted (observation, reward, terminated, truncated, info), "),
        (NoInfo, "reset", "(expected 2); wanted (observation, info), "),
    ],
)
def test_an_answer_of_the_wrong_number_of_values(env: type[TextEnv], method: str, expected: str) -> None:
    assert f"{expected}{line(getattr(env, method))} (rollout.environment)" in played(env)


def test_a_check_that_fails_names_the_method() -> None:
    message = played(lambda: ToyEnv(fail_on=1, failure="number"))
    assert f"observation of type int; wanted a str, {line(ToyEnv.step, file='tests/helpers/toy_env.py')}" in message


class Away(ToyEnv):
    """Of a server that is away for a while: the first two to be built find it, then two do not."""

    built = 0

    def __init__(self, kind: type[SettingsError] = ServerAwayError, reached: int = 2) -> None:
        super().__init__()
        Away.built += 1
        self.number = Away.built
        if reached < self.number <= reached + 2:
            raise kind("rollout.environment.init_args.url is 'ws://x'; wanted the address of a server that answers")

    def step(self, action: str) -> Any:
        if self.number == 2:
            raise ConnectionError("gone")
        return super().step(action)


def test_a_server_that_comes_back_costs_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first group is played, the server goes, and the third attempt at the second finds it again."""
    monkeypatch.setattr(Away, "built", 0)
    player = collector()
    player.episode_retries = 3
    player.make_env = Away
    assert len(player.play([1], 1, temperature=1.0, seed=(0,)).groups) == 1
    player.close()
    played = player.play([1], 1, temperature=1.0, seed=(0,))
    assert (len(played.groups), played.retried_episodes, Away.built) == (1, 1, 5)


@pytest.mark.parametrize(("kind", "reached"), [(ServerAwayError, 0), (SettingsError, 2)])
def test_a_wrong_setting_ends_the_run(kind: type[SettingsError], reached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that was never there, and any other setting, whenever it is noticed: no retry would help."""
    monkeypatch.setattr(Away, "built", 0)
    player = collector()
    player.episode_retries = 3
    player.make_env = partial(Away, kind, reached)
    with pytest.raises(SettingsError, match="wanted the address"):
        for _ in range(2):
            player.play([1], 1, temperature=1.0, seed=(0,))
            player.close()


def test_a_server_that_another_split_has_reached_is_no_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of three attempts of a validation that begins while it is away finds nobody, nor does the second."""
    monkeypatch.setattr(Away, "built", 2)
    player = collector(reached=lambda: True)
    player.episode_retries, player.make_env = 2, Away
    assert len(player.play([1], 1, temperature=1.0, seed=(0,)).groups) == 1
    alone = collector()
    alone.make_env, Away.built = Away, 2
    with pytest.raises(ServerAwayError):
        alone.play([1], 1, temperature=1.0, seed=(0,))
