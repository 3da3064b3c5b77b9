"""Finds the file and line in an environment's own code where an exception came from."""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Callable

from paw_lightning.envs.base import FAILURES, TextEnv
from paw_lightning.errors import SettingsError


def described(error: BaseException, environment: type | None = None) -> str:
    """The exception in one line, with the place in the environment's own file that it came through last."""
    place = where(error, environment)
    message = str(error) or "without a message"
    return f"{type(error).__name__}: {message}" + (f" ({place})" if place else "")


def where(error: BaseException, environment: type | None = None) -> str:
    """`file:line in function` of the last frame in the environment's file; without one, of the last frame of all."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    own = _file_of(environment)
    frame = next((frame for frame in reversed(frames) if frame.filename == own), frames[-1])
    return f"{os.path.relpath(frame.filename)}:{frame.lineno} in {frame.name}"


def _file_of(environment: type | None) -> str | None:
    try:
        return None if environment is None else inspect.getfile(environment)
    except (OSError, TypeError):  # a class typed into an interpreter
        return None


def build(factory: Callable[[str], TextEnv], split: str) -> TextEnv:
    """The environment of a split. Raises SettingsError, with the place, where it cannot be built."""
    try:
        return factory(split)
    except FAILURES as error:
        raise SettingsError(
            f"rollout.environment cannot be built for the split {split!r}; wanted one that can: {described(error)}"
        ) from error
