"""The errors that the command line prints as one line, and what breaks an evaluation off."""

from __future__ import annotations

from collections.abc import Collection


class SettingsError(ValueError):
    """A setting was refused; the message reads "KEY is ...; wanted ..." and the command line prints it as one line."""


class ServerAwayError(SettingsError):
    """A server that a setting names does not answer: at first a wrong setting, later a fault that may pass."""


class SamplerFailedError(RuntimeError):
    """No action can be had, or none that the policy would write; the message names the sampler's part that fails."""


class EnvironmentFailedError(RuntimeError):
    """Nothing could be played; the message names the environment's method, its error, and the line of its code."""


class NotWrittenError(RuntimeError):
    """The disk did not take a file; the message names the file, the reason, and how much room there is."""


class EvaluationCut(BaseException):
    """A signal broke an evaluation off: no error of an environment, which would be caught and played again."""


def one_of(key: str, value: object, choices: Collection[object]) -> None:
    """Refuse a value that is none of the choices: the command line knows them, a script's author may misspell one."""
    if value not in choices:
        raise SettingsError(f"{key} is {value!r}; wanted one of {', '.join(map(repr, choices))}")
