"""The console script. Heavy libraries are imported only by the subcommands that need them."""

from __future__ import annotations

import importlib
import os
import signal
import sys

from paw_lightning.errors import EnvironmentFailedError, NotWrittenError, SamplerFailedError, SettingsError


def main() -> None:
    """Run the process's command line.

    Exit status: 2 for settings that are refused, in one line that begins with ``error:``; 128 plus the signal's number,
    as shells count, for a run that a signal stopped; 1 for a failed environment or a full disk, in one line too, and,
    with a traceback, for anything unexpected.
    """
    sys.path.insert(0, os.getcwd())  # so that a config can name a class of a file beside it, as `python -m` can
    try:
        status = dispatch(sys.argv[1:])
    except SettingsError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        status = 2
    except (EnvironmentFailedError, NotWrittenError, SamplerFailedError) as error:  # a traceback shows libraries alone
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    if status:
        sys.exit(status)


def dispatch(args: list[str]) -> int:
    """Run one command line and return its exit status."""
    from paw_lightning.cli.help import overview, refuse_command
    from paw_lightning.cli.sections import COMMANDS, TRAINING

    name = args[0] if args else ""
    if name in ("", "-h", "--help"):
        print(overview(), file=sys.stdout if name else sys.stderr)
        return 0 if name else 2
    if name in ("-V", "--version"):
        from paw_lightning import __version__

        print(f"paw-lightning {__version__}")
        return 0
    if name in TRAINING:
        return train(args)
    if name in COMMANDS:
        module, _ = COMMANDS[name]
        return int(importlib.import_module(module).command(args[1:]))
    raise refuse_command(name)


def train(args: list[str]) -> int:
    """Check the arguments, then let Lightning run fit, validate or test."""
    from paw_lightning import __version__, config_files
    from paw_lightning.cli import arguments

    settings = arguments.settings_of(config_files.expand(args[1:]))
    arguments.check_settings(settings)
    if arguments.asks_for_choices(settings):
        return 0
    if not {"help", "h", "print_config"} & {setting.key.rpartition(".")[2] for setting in settings} and _is_first():
        print(f"paw-lightning {__version__}: {arguments.summary(args[0], settings)} ...", file=sys.stderr, flush=True)

    from paw_lightning.callbacks.graceful_stop import GracefulStop
    from paw_lightning.cli.training import run

    try:
        trainer = run(args).trainer
    except SystemExit as end:
        return _status(end)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GracefulStop) and callback.received:
            return 128 + callback.received
    return 0


def _is_first() -> bool:
    """Whether this is the run's first process, the only one that prints (torchrun, SLURM and Lightning number them)."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def _status(end: SystemExit) -> int:
    """The exit status of a run that called `sys.exit`; 128 + the signal where a signal was the reason."""
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    if isinstance(end, SIGTERMException):  # before the first iteration the signal is Lightning's
        return 128 + signal.SIGTERM
    if isinstance(end.__context__, KeyboardInterrupt):
        # Ctrl-C outside of training, or a second signal in it: GracefulStop says which.
        return 128 + (end.__context__.args or (signal.SIGINT,))[0]
    return end.code if isinstance(end.code, int) else 1
