"""What an environment of `verifiers` is made of here: loaded once, asked for its rows, and given a model to ask."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from paw_lightning.envs.loading import ENVIRONMENT, import_extra, install_hint, wrong_argument
from paw_lightning.errors import SettingsError
from paw_lightning.text.tool_calls import Call

one_at_a_time = threading.Lock()
"""The random numbers and each event loop are shared by all copies in this process."""
_LOADED: dict[tuple[str, str], Loaded] = {}


@dataclass(frozen=True)
class Loaded:
    """An environment of `verifiers`. It keeps nothing of an episode, so that all copies share it and its event loop."""

    environment: Any
    package: Any
    client: Any
    """The class of the client that it asks."""
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def response(self, turn: int, action: str, call: Call | None) -> Any:
        """An answer of the policy as a model's client gives it."""
        made, calls = self.package, None
        if call is not None:
            arguments = json.dumps(call.arguments, ensure_ascii=False)
            calls = [made.ToolCall(id=f"call_{turn}", name=call.name, arguments=arguments)]
        content, reason = (action, "stop") if call is None else ("", "tool_calls")
        message = made.ResponseMessage(content=content, tool_calls=calls, finish_reason=reason, is_truncated=False)
        return made.Response(id=f"turn_{turn}", created=0, model="policy", message=message)


@dataclass(frozen=True)
class Question:
    """What the environment's loop asks the policy."""

    messages: list[Any]
    tools: list[Any]
    answer: asyncio.Future[Any]


class Desk:
    """Where questions wait for the policy."""

    def __init__(self) -> None:
        self._questions: asyncio.Queue[Question] = asyncio.Queue()

    async def ask(self, messages: list[Any], tools: list[Any] | None) -> Any:
        """The policy's answer."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        await self._questions.put(Question(messages, tools or [], answer))
        return await answer

    async def next_question(self, episode: asyncio.Task[Any]) -> Question | None:
        """The next question of an episode; None where it has ended."""
        asked = asyncio.ensure_future(self._questions.get())
        await asyncio.wait({asked, episode}, return_when=asyncio.FIRST_COMPLETED)
        if not episode.done():
            return asked.result()
        asked.cancel()
        return None


def _client_class(package: Any) -> Any:
    """The class of clients that ask at a `Desk`; the package takes subclasses of its own only."""

    class PolicyClient(package.Client):  # type: ignore[misc]
        def setup_client(self, config: Any) -> Any:
            return config

        async def to_native_tool(self, tool: Any) -> Any:
            return tool

        async def to_native_prompt(self, messages: Any) -> Any:
            return messages, {}

        async def get_native_response(self, prompt: Any, model: Any, sampling: Any, tools: Any = None, **_: Any) -> Any:
            return await self.client.ask(prompt, tools)

        async def raise_from_native_response(self, response: Any) -> None: ...

        async def from_native_response(self, response: Any) -> Any:
            return response

        async def close(self) -> None: ...

    return PolicyClient


def load(name: str, arguments: dict[str, Any]) -> Loaded:
    """The environment, made once in a process."""
    _check_no_loop(name)
    key = (name, json.dumps(arguments, sort_keys=True, default=repr))
    if key not in _LOADED:
        package = import_extra("verifiers", "verifiers")
        try:
            make = package.load_environment
        except AttributeError as error:  # 0.4, or a part of an earlier one is missing
            raise SettingsError(
                f"verifiers {package.__version__} is installed; wanted the whole of one before 0.4 for {ENVIRONMENT}: "
                f"{install_hint('verifiers')}: {error}"
            ) from error
        with one_at_a_time, drawing_from(random.Random(0)), _signals_kept():
            try:
                environment = make(name, **arguments)
            except Exception as error:
                wanted = f"one that verifiers.load_environment makes with the arguments {arguments}"
                raise wrong_argument("environment", name, f"{wanted}: {error}") from error
        _check_rubrics(environment, name, package)
        _LOADED[key] = Loaded(environment, package, _client_class(package))
    return _LOADED[key]


def rows_of(environment: Any, name: str, split: str) -> Any:
    """The rows of a split."""
    train = split == "train"
    with one_at_a_time, drawing_from(random.Random(0)):
        rows = environment.build_dataset() if train else environment.build_eval_dataset()
    if rows is not None and not train:
        rows = rows.select(range(split == "test", len(rows), 2))
    if not rows:
        wanted = "a dataset" if train else "an eval_dataset of two rows or more, half of it for val and half for test"
        without = "" if train else " (without validation: trainer.limit_val_batches: 0)"
        raise wrong_argument("environment", name, f"one that has {wanted}, as the split is {split!r}{without}")
    return rows


def _check_rubrics(environment: Any, name: str, package: Any) -> None:
    for rubric in _rubrics(environment):
        if isinstance(rubric, package.JudgeRubric):
            raise wrong_argument(
                "environment",
                name,
                f"one that computes its reward itself: its {type(rubric).__name__} asks a judge's model over the "
                "network, which cannot be used here",
            )
        if rubric.has_group_rewards:
            raise wrong_argument(
                "environment", name, "one that scores each episode by itself: a function of its rubric compares several"
            )


def _rubrics(environment: Any) -> Iterator[Any]:
    """All rubrics of an environment, and of the parts of a group of environments."""
    for part in getattr(environment, "envs", []):
        yield from _rubrics(part)
    waiting = [environment.rubric]
    while waiting:
        rubric = waiting.pop()
        waiting += getattr(rubric, "rubrics", [])
        yield rubric


def _check_no_loop(name: str) -> None:
    """Refuse to play within a running event loop, which cannot wait for another."""
    with suppress(RuntimeError):
        asyncio.get_running_loop()
        raise SettingsError(
            f"{ENVIRONMENT} is VerifiersEnv of {name!r}, within a running event loop (a notebook's); wanted it in a "
            "WorkerEnv there"
        )


@contextmanager
def drawing_from(own: random.Random) -> Iterator[None]:
    """What is drawn from Python's global random numbers meanwhile comes from `own`."""
    outside = random.getstate()
    random.setstate(own.getstate())
    try:
        yield
    finally:
        own.setstate(random.getstate())
        random.setstate(outside)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Leave Ctrl-C and SIGTERM to their handlers: an environment takes both for itself when it is made."""
    original, here = signal.signal, threading.get_ident()

    def kept(number: Any, handler: Any) -> Any:
        return signal.getsignal(number) if threading.get_ident() == here else original(number, handler)

    signal.signal = kept  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = original
