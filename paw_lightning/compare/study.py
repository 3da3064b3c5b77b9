"""A comparison's file: what is compared, and by what."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from paw_lightning import config_files
from paw_lightning.errors import SettingsError


@dataclass(frozen=True)
class Arm:
    """One configuration under comparison."""

    configs: tuple[str, ...]
    """Names as the file gives them."""
    files: tuple[Path, ...]
    """What they stand for, files that lie below others included."""
    arguments: tuple[str, ...]
    base: str | None = None
    """The arm that it is compared with; None for the comparison's own. An arm that names itself is a base."""
    group: str = ""
    """Name of the table that it stands in."""


@dataclass(frozen=True)
class Comparison:
    """What is compared, and by what."""

    metric: str
    base: str
    seeds: tuple[int, ...]
    arms: dict[str, Arm]
    common: tuple[str, ...]
    last_points: int
    also: tuple[str, ...] = ()
    """Further curves whose last values are shown."""
    further_pairs: tuple[tuple[str, str], ...] = ()
    """Arms whose difference is reported besides that of each arm from its base."""

    def resolved(self) -> dict[str, Any]:
        """All that decides the result, the configuration files' contents included, as it comes back from JSON.

        Groups, further columns and further pairs are not in it: they change what is shown of the runs, and no run.
        """
        arms = {
            name: {
                "configs": [yaml.safe_load(config_files.own_text(path.read_text())) for path in arm.files],
                "arguments": arm.arguments,
                **({"base": arm.base} if arm.base else {}),
            }
            for name, arm in self.arms.items()
        }
        keys = ("metric", "base", "seeds", "common", "last_points")
        return json.loads(json.dumps({**{key: vars(self)[key] for key in keys}, "arms": arms}, default=str))


def read_comparison(path: Path) -> Comparison:
    """Read and check a comparison's file; SettingsError names what is wrong in it."""
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise SettingsError(f"comparison is {str(path)!r}; wanted YAML: {' '.join(str(error).split())}") from error
    _check_keys(
        content, {"metric", "base", "seeds", "arms"}, {"common", "last_points", "also", "further_pairs"}, f"{path}: "
    )
    arms = {name: _read_arm(name, arm, f"{path}: arms") for name, arm in _mapping(content["arms"], path).items()}
    bases = {"base": content["base"], **{f"arms.{name}.base": arm.base for name, arm in arms.items() if arm.base}}
    for key, base in bases.items():
        if base not in arms:
            raise SettingsError(f"{path}: {key} is {base!r}; wanted one of the arms: {', '.join(arms)}")
    seeds = content["seeds"]
    if not isinstance(seeds, list) or not seeds or len({s for s in seeds if isinstance(s, int)}) < len(seeds):
        raise SettingsError(f"{path}: seeds is {seeds!r}; wanted a list of different integers")
    last_points = content.get("last_points", 1)
    if not isinstance(last_points, int) or last_points < 1:
        raise SettingsError(f"{path}: last_points is {last_points!r}; wanted an integer of at least 1")
    return Comparison(
        metric=content["metric"],
        base=content["base"],
        seeds=tuple(seeds),
        arms=arms,
        common=_arguments(content.get("common", []), f"{path}: common"),
        last_points=last_points,
        also=_strings(content.get("also", []), f"{path}: also", "curves' tags"),
        further_pairs=_pairs(content.get("further_pairs", []), arms, f"{path}: further_pairs"),
    )


def _pairs(content: Any, arms: dict[str, Arm], where: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(content, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in content):
        raise SettingsError(f"{where} is {content!r}; wanted a list of [arm, other arm]")
    seen: list[set[str]] = []
    for number, (arm, other) in enumerate(content):
        given = f"{where}[{number}] is {[arm, other]}"
        if not {str(arm), str(other)} <= arms.keys() or arm == other:
            raise SettingsError(f"{given}; wanted two of the arms: {', '.join(arms)}")
        if {arm, other} in seen:
            raise SettingsError(f"{given} again; wanted each pair once: every pair raises all adjusted p values")
        seen.append({arm, other})
    return tuple((arm, other) for arm, other in content)


def _mapping(arms: Any, path: Path) -> dict[str, Any]:
    if not isinstance(arms, dict):
        raise SettingsError(f"{path}: arms is {arms!r}; wanted names with configs")
    return arms


def _read_arm(name: str, content: Any, where: str) -> Arm:
    if not re.fullmatch(r"\w[\w-]*", name):
        raise SettingsError(f"{where}: a name is {name!r}; wanted letters, digits, _ and -: it will be a folder's")
    _check_keys(content, {"configs"}, {"arguments", "base", "group"}, f"{where}.{name}.")
    configs = _strings(content["configs"], f"{where}.{name}.configs", "files")
    files = tuple(file for config in configs for file in _layers(config, f"{where}.{name}.configs"))
    arguments = _arguments(content.get("arguments", []), f"{where}.{name}.arguments")
    return Arm(configs, files, arguments, content.get("base"), str(content.get("group", "")))


def _layers(name: str, where: str) -> list[Path]:
    try:
        return config_files.layers(config_files.find(name))
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from None


def _arguments(content: Any, where: str) -> tuple[str, ...]:
    arguments = _strings(content, where, "--key=value")
    for number, argument in enumerate(arguments):
        if not re.match(r"--[^=\s]+=", argument):
            raise SettingsError(f"{where}[{number}] is {argument!r}; wanted --key=value")
        if re.match(r"--trainer\.logger\+?=(?!.*(TensorBoard|CSV)Logger$)", argument):
            raise SettingsError(
                f"{where}[{number}] is {argument!r}; wanted loggers in one of the configs: compare puts one before "
                "them that writes the curves into its own folder"
            )
    return arguments


def _strings(content: Any, where: str, wanted: str) -> tuple[str, ...]:
    if not isinstance(content, list) or not all(isinstance(item, str) for item in content):
        raise SettingsError(f"{where} is {content!r}; wanted a list of {wanted}")
    return tuple(content)


def _check_keys(content: Any, required: set[str], optional: set[str], where: str) -> None:
    if not isinstance(content, dict):
        raise SettingsError(f"{where.rstrip('.: ')} is {content!r}; wanted the keys {', '.join(sorted(required))}")
    if missing := required - content.keys():
        raise SettingsError(f"{where}{min(missing)} is not set; wanted {', '.join(sorted(required))}")
    if unknown := content.keys() - required - optional:
        known = ", ".join(sorted(required | optional))
        raise SettingsError(f"{where}{min(map(str, unknown))} is no known key; wanted one of {known}")
