"""A command line and its configuration files, looked at before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paw_lightning import config_files
from paw_lightning.cli.keys import is_known
from paw_lightning.cli.messages import unknown_key
from paw_lightning.cli.moved import new_value
from paw_lightning.errors import SettingsError


@dataclass(frozen=True)
class Setting:
    """One key, its value, and the file that it stands in (None: the command line)."""

    key: str
    value: Any
    file: str | None = None

    @property
    def place(self) -> str:
        """Where it stands, for a message."""
        return f" in {self.file}" if self.file else ""


def settings_of(args: list[str]) -> list[Setting]:
    """Every setting of a training command's arguments, files included, in the order in which they apply.

    Raises:
        SettingsError: a file is no YAML mapping.
    """
    settings: list[Setting] = []
    rest = iter([*args, ""])
    argument = next(rest)
    while argument:
        following = next(rest)
        if argument.startswith("-") and not _is_number(argument):
            key, equals, value = argument.lstrip("-").partition("=")
            if not equals and (not following.startswith("-") or _is_number(following)):
                value, following = following, next(rest, "")
            if key in ("config", "c"):
                settings += _settings_of_file(value)
            else:
                settings.append(Setting(key.removesuffix("+"), value))
        argument = following
    return settings


def check_settings(settings: list[Setting]) -> None:
    """Refuse keys that do not exist and classes that have moved.

    Raises:
        SettingsError: names the key, the file, and what was most likely meant.
    """
    for setting in settings:
        if not is_known(setting.key):
            raise SettingsError(unknown_key(setting.key, setting.place))
        moved = new_value(setting.key, setting.value) if isinstance(setting.value, str) else None
        if moved:
            raise SettingsError(f"{setting.key}{setting.place} is {setting.value!r}, which has moved; wanted {moved!r}")


def asks_for_choices(settings: list[Setting]) -> bool:
    """Answer ``--rollout.environment.help`` and its like where no class is named; says whether it did."""
    from paw_lightning.cli.choices import CHOICES, listing

    for setting in settings:
        key = setting.key.removesuffix(".help")
        if key != setting.key and key in CHOICES and not setting.value:
            print(listing(key))
            return True
    return False


def summary(command: str, settings: list[Setting]) -> str:
    """What is about to run, in a few words."""
    values = {setting.key: setting.value for setting in settings}
    named = [s.value for s in settings if s.key in ("rollout.environment", "rollout.environment.class_path")]
    environment = named[-1] if named else None
    words = [command, values.get("model.path"), environment and "in " + str(environment).rpartition(".")[2]]
    return " ".join(str(word) for word in words if word)


def _settings_of_file(name: str) -> list[Setting]:
    if "://" in name or name.lstrip().startswith("{") or "\n" in name:
        return []  # an address, or the settings themselves: the parser reads them
    return list(_flat(config_files.own_settings(Path(name).expanduser()), "", name))


def _flat(content: dict[Any, Any], prefix: str, file: str) -> Iterator[Setting]:
    for name, value in content.items():
        key = f"{prefix}{name}".removesuffix("+")
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{key}.", file)
        else:
            yield Setting(key, value, file)
            for item in value if isinstance(value, list) else []:
                if isinstance(item, dict):
                    yield from (Setting(key, s.value, file) for s in _flat(item, "", file))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
