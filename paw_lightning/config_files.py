"""Configuration files: those that come with the package, found by name, and files that lie on others.

A file may begin with ``configs: [household/base, method/grpo]``: the files named there lie below it, in this order.
Each is a path, seen from the folder of the file that names it, or the name of a shipped one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from paw_lightning.errors import SettingsError

BELOW = "configs"
"""The key at the head of a file that lies on others."""
INSTALLED, CHECKOUT = Path(__file__).parent / "configs", Path(__file__).parent.parent / "configs"
FOLDER = INSTALLED if INSTALLED.is_dir() else CHECKOUT


def shipped() -> dict[str, Path]:
    """Every shipped file by its name, which is its path without ``.yaml``: ``household/paw``."""
    return {path.relative_to(FOLDER).with_suffix("").as_posix(): path for path in sorted(FOLDER.rglob("*.yaml"))}


def find(name: str, folder: Path = Path()) -> Path:
    """The file that a name stands for: one that exists, seen from `folder`, else a shipped one.

    ``household/paw``, ``household/paw.yaml`` and ``configs/household/paw.yaml`` all name the same shipped file.

    Raises:
        SettingsError: there is neither; the message gives the names that are spelt alike.
    """
    path = folder / Path(name).expanduser()
    if path.is_file():
        return path
    files, wanted = shipped(), _shipped_name(name)
    if wanted in files:
        return files[wanted]
    beside = {str(file.relative_to(folder)) if folder != Path() else str(file) for file in path.parent.glob("*.yaml")}
    near = difflib.get_close_matches(name, sorted(beside), 1) or _nearest(wanted, list(files))
    meant = f"did you mean {' or '.join(map(repr, near))}?" if near else ""
    hint = meant or "wanted a file, or a name that `paw-lightning configs` lists"
    fault = "is a folder" if path.is_dir() else "does not exist"
    raise SettingsError(f"config is {name!r}, which {fault}; {hint}")


def _shipped_name(name: str) -> str:
    parts = PurePosixPath(name).with_suffix("").parts if name.endswith(".yaml") else PurePosixPath(name).parts
    return "/".join(parts[1:] if parts[:1] == ("configs",) else parts)


def _nearest(wanted: str, names: list[str]) -> list[str]:
    """Up to three names that are spelt alike, or whose last part is the one wanted."""
    ends = [name for name in names if name.rpartition("/")[2] == wanted.rpartition("/")[2]]
    return list(dict.fromkeys([*difflib.get_close_matches(wanted, names, 3), *ends]))[:3]


def layers(path: Path) -> list[Path]:
    """A file and all those that it lies on, the lowest first, in the order in which they are to be read.

    Raises:
        SettingsError: a file is not readable as YAML, names one that does not exist, or lies on itself.
    """
    return list(_layers(path, []))


def _layers(path: Path, above: list[Path]) -> Iterator[Path]:
    real = path.resolve()
    if real in above:
        circle = " -> ".join(str(each) for each in [*above[above.index(real) :], real])
        raise SettingsError(f"{BELOW} is a circle, {circle}; wanted files that do not lie on themselves")
    for name in _below(path):
        try:
            found = find(name, path.parent)
        except SettingsError as error:
            raise SettingsError(f"{BELOW} in {path}: {error}") from None
        yield from _layers(found, [*above, real])
    yield path


def _below(path: Path) -> list[str]:
    names = _load(path).get(BELOW, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SettingsError(f"{BELOW} in {path} is {names!r}; wanted a list of files or shipped names")
    return names


def own_settings(path: Path) -> dict[str, Any]:
    """What a file sets by itself, without the files that lie below it.

    Raises:
        SettingsError: it is not YAML, or not a mapping.
    """
    return {key: value for key, value in _load(path).items() if key != BELOW}


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"config is {str(path)!r}; wanted YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict | None):
        raise SettingsError(f"config is {str(path)!r}, which holds {content!r:.40}; wanted a mapping of sections")
    return content or {}


def own_text(text: str) -> str:
    """A file's text without its list of files below, line for line: what a parser of settings is to read."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return text  # whoever parses it says what is wrong
    if not isinstance(root, yaml.MappingNode):
        return text
    for key, value in root.value:
        if key.value == BELOW and isinstance(value, yaml.SequenceNode):
            start, stop = key.start_mark.index, value.end_mark.index
            rest = text[stop:].lstrip(", \n") if root.flow_style else text[stop:]
            remaining = text[:start] + "\n" * text.count("\n", start, stop) + rest
            return remaining if len(root.value) > 1 else "{}"
    return text


def merged(*names: str | Path) -> dict[str, Any]:
    """The settings that the named files give when each is laid over those before it."""
    settings: dict[str, Any] = {}
    for name in names:
        for path in layers(find(str(name))):
            settings = lay_over(settings, own_settings(path))
    return settings


def lay_over(below: Any, above: Any) -> Any:
    """What `above` leaves of `below`: mappings are joined key by key, all else is replaced.

    An object of another class (``class_path``) takes none of the arguments of the one below.
    """
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    if not same_class(below.get("class_path", ""), above.get("class_path", "")):
        return above
    return below | {key: lay_over(below.get(key), value) for key, value in above.items()}


def same_class(old: str, new: str) -> bool:
    """Whether two class paths, short ones or none, may mean the same class."""
    return not old or not new or old.rpartition(".")[2] == new.rpartition(".")[2]


def expand(args: Sequence[str]) -> list[str]:
    """A command line with the path of a file, and of those that it lies on, in place of each ``--config NAME``."""
    expanded: list[str] = []
    rest = iter(args)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if option not in ("-c", "--config"):
            expanded.append(argument)
        elif not equals and (value := next(rest, "")) == "":
            expanded.append(argument)  # the parser says that a value is missing
        elif _names_a_file(value):
            expanded += [f"--config={path}" for path in layers(find(value))]
        else:
            expanded.append(f"--config={value}")
    return expanded


def _names_a_file(value: str) -> bool:
    """Rather than settings themselves (``{data: {groups: 4}}``) or an address (``s3://...``)."""
    return "://" not in value and not value.lstrip().startswith("{") and "\n" not in value
