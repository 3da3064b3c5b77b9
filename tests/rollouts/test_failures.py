"""A failure in an environment names the environment's own line."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import pytest

from paw_lightning.envs import TextEnv
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
