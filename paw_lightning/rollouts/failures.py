"""Where in the user's own code an environment failed."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
MESSENGERS = [PACKAGE / "rollouts", PACKAGE / "envs" / "worker"]
"""Who only passes on what an environment raised."""
LIBRARIES = [Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib", "platlib")]
ANSWERS = {"reset": (2, "(observation, info)"), "step": (5, "(observation, reward, terminated, truncated, info)")}
"""How many values a method returns, and which."""


def origin(env: object, call: str, error: BaseException) -> str:
    """`file:line` of the environment's code that raised, or that returned what cannot be used; empty if unknown."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _below(f.filename, MESSENGERS)]
    own = [f for f in frames if not _below(f.filename, LIBRARIES)]
    if own:
        return place(own[-1].filename, own[-1].lineno)
    if frames:  # an installed environment
        return place(frames[0].filename, frames[0].lineno)
    code = getattr(getattr(type(env), call.partition("(")[0], None), "__code__", None)
    return "" if code is None or _below(code.co_filename, [PACKAGE]) else place(code.co_filename, code.co_firstlineno)


def wanted(call: str, error: BaseException) -> str:
    """What the method should have returned, where its answer had the wrong number of values; empty otherwise."""
    trace = error.__traceback__
    count, names = ANSWERS.get(call.partition("(")[0], (0, ""))
    raised_here = trace is not None and trace.tb_next is None
    problem = str(error)
    short_or_long = f"expected {count}" in problem or "non-iterable" in problem
    return names if raised_here and "unpack" in problem and short_or_long else ""


def place(filename: str, line: int | None) -> str:
    """A line of a file, by a path from the current folder where it lies below that."""
    path, here = Path(filename), Path.cwd()
    inside = path.is_relative_to(here) and not _below(filename, LIBRARIES)
    return f"{path.relative_to(here) if inside else path.name}:{line}"


def _below(filename: str, folders: list[Path]) -> bool:
    return any(Path(filename).is_relative_to(folder) for folder in folders)
