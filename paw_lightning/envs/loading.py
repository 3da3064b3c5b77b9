"""Environments named in a configuration, and what only some of them need."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any, TypedDict

from paw_lightning.envs.base import TextEnv
from paw_lightning.errors import SettingsError

ENVIRONMENT = "rollout.environment"
"""Where the environment stands in a configuration; error messages name it."""
SPLITS = ("train", "val", "test")


class EnvironmentSpec(TypedDict, total=False):
    """An environment as a configuration names it.

    Its arguments are a bare ``dict``, because the command line would build environments that it finds in a more exact
    type, and these have to be built later or in another process.
    """

    class_path: str
    init_args: dict  # type: ignore[type-arg]
    weight: float


def build_environment(spec: Any, split: str, key: str = ENVIRONMENT) -> TextEnv:
    """Build ``{"class_path": "package.module.Class", "init_args": {...}}`` for a split.

    Args:
        spec: the class and its arguments.
        split: "train", "val" or "test".
        key: where the spec stands in the configuration, for error messages.

    Raises:
        SettingsError: the spec names no environment, a package that it needs is missing, or it refuses its arguments.
    """
    spec = plain_spec(spec)
    found, arguments = _find_class(spec["class_path"], key), spec.get("init_args") or {}
    try:
        inspect.signature(found).bind(split, **arguments)
    except TypeError as error:
        raise SettingsError(
            f"{key}.init_args is {arguments}; wanted the arguments of {found.__name__}: {error}"
        ) from None
    try:
        return found(split, **arguments)  # type: ignore[call-arg]
    except SettingsError as error:  # the environment does not know that it is a part of another one
        raise type(error)(str(error).replace(f"{ENVIRONMENT}.", f"{key}.", 1)) from error


def _find_class(class_path: str, key: str) -> type[TextEnv]:
    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise SettingsError(
            f"{key}.class_path is {class_path!r}; wanted a class that can be imported: {error}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, TextEnv)):
        raise SettingsError(f"{key}.class_path is {class_path!r}, which names {found!r}; wanted a subclass of TextEnv")
    return found


def plain_spec(spec: Any, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """The spec with every namespace of the command line in it made a dictionary; `optional` lists further keys.

    Raises:
        SettingsError: it does not name a class.
    """
    spec = _plain(spec)
    known = {"class_path", "init_args", *optional}
    if not isinstance(spec, dict) or "." not in str(spec.get("class_path")) or not spec.keys() <= known:
        raise SettingsError(
            f"{ENVIRONMENT} is {spec!r}; wanted {{class_path: package.module.Class, init_args: {{...}}}}"
            + "".join(f", and perhaps {key}" for key in optional)
        )
    return spec


def _plain(value: Any) -> Any:
    if hasattr(value, "as_dict"):
        value = value.as_dict()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def wrong_argument(name: str, value: object, wanted: str, kind: type[SettingsError] = SettingsError) -> SettingsError:
    """The error for an argument of an environment: "rollout.environment.init_args.NAME is VALUE; wanted ..."."""
    return kind(f"{ENVIRONMENT}.init_args.{name} is {value!r}; wanted {wanted}")


def check_split(split: str) -> None:
    """Refuse a split other than the three that every environment has.

    Raises:
        SettingsError: another one.
    """
    if split not in SPLITS:
        raise SettingsError(f"split is {split!r}; wanted one of {list(SPLITS)}")


def expand(path: str | os.PathLike[str], name: str) -> str:
    """Replace ``~`` and environment variables in a path, which is the environment's argument ``name``.

    Raises:
        SettingsError: a variable is not set.
    """
    for variable in re.findall(r"\$\{?(\w+)", os.fspath(path)):
        if variable not in os.environ:
            raise wrong_argument(name, path, f"a path, but the environment variable {variable} is not set")
    return os.path.expanduser(os.path.expandvars(path))


def import_extra(module: str, extra: str, user: str = ENVIRONMENT) -> Any:
    """Import an optional package.

    Args:
        module: what to import.
        extra: the extra of this package that brings it.
        user: what needs it, for the error message.

    Raises:
        SettingsError: it is not installed; names the extra and what to install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # the package is there and itself lacks something
        package = module.split(".")[0]
        raise SettingsError(f"{package} is not installed; wanted it for {user}: {install_hint(extra)}") from error


def install_hint(extra: str) -> str:
    """How to install what an extra of this package brings; right for a checkout and for a wheel alike."""
    try:
        stated = metadata.requires("paw-lightning") or []
    except metadata.PackageNotFoundError:  # run from a folder without having been installed
        stated = []
    parts = [line.split(";") for line in stated if re.search(rf"""extra == ["']{extra}["']""", line)]
    packages = " ".join(f"'{package.strip()}'" for package, *_ in parts)
    return (
        f"pip install {packages} (the extra `{extra}` of paw-lightning)" if packages else f"install the extra `{extra}`"
    )


def require_java() -> None:
    """Refuse to start without a Java machine; the packages that need one give less readable errors.

    Raises:
        SettingsError: there is no ``java`` on the path and none in JAVA_HOME.
    """
    home = os.environ.get("JAVA_HOME")
    if shutil.which("java") is None and not (home and (Path(home) / "bin" / "java").exists()):
        raise SettingsError(f"java is not installed; wanted it for {ENVIRONMENT}: apt-get install default-jre-headless")
