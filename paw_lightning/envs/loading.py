"""Environments named in a configuration, and what only some of them need."""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path
from typing import Any, TypedDict

from paw_lightning.envs.base import TextEnv
from paw_lightning.errors import SettingsError


class EnvironmentSpec(TypedDict, total=False):
    """An environment as a configuration names it.

    Its arguments are typed as a bare ``dict``: the command line would build the environments that it finds in anything
    more telling, and these have to be built elsewhere or later.
    """

    class_path: str
    init_args: dict  # type: ignore[type-arg]
    weight: float


def build_environment(spec: Any, split: str) -> TextEnv:
    """Build ``{"class_path": "package.module.Class", "init_args": {...}}`` for a split.

    Raises ValueError for a spec of another shape, TypeError for a class that is no TextEnv.
    """
    spec = plain_spec(spec)
    module, _, name = spec["class_path"].rpartition(".")
    found = getattr(importlib.import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, TextEnv)):
        raise TypeError(f"class_path {spec['class_path']!r} names {found!r}; wanted a subclass of TextEnv")
    return found(split, **(spec.get("init_args") or {}))  # type: ignore[call-arg]


def plain_spec(spec: Any, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """The spec with every namespace of the command line in it made a dictionary; `optional` lists further keys.

    Raises ValueError for what does not name a class.
    """
    spec = _plain(spec)
    known = {"class_path", "init_args", *optional}
    if not isinstance(spec, dict) or "." not in str(spec.get("class_path")) or not spec.keys() <= known:
        raise SettingsError(
            f"the environment {spec!r} cannot be built; wanted {{class_path: package.module.Class, init_args: {{...}}}}"
            + "".join(f", and perhaps {key}" for key in optional)
        )
    return spec


def _plain(value: Any) -> Any:
    if hasattr(value, "as_dict"):
        value = value.as_dict()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


class MissingPackageError(ModuleNotFoundError, SettingsError):
    """An optional package that the configured environment needs is not installed."""


def import_extra(module: str, extra: str) -> Any:
    """Import an optional package, naming the extra that brings it when it is not there."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # the package is there and itself lacks something
        raise MissingPackageError(
            f"this environment needs {module.split('.')[0]}: pip install 'paw-lightning[{extra}]'", name=error.name
        ) from error


def require_java() -> None:
    """Refuse to go on without a Java machine; the packages that start one fail in less readable ways."""
    home = os.environ.get("JAVA_HOME")
    if shutil.which("java") is None and not (home and (Path(home) / "bin" / "java").exists()):
        raise RuntimeError("this environment runs in a Java machine: apt-get install default-jre-headless")
