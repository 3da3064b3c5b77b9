"""The console script: looks at the arguments, then imports what they need."""

from __future__ import annotations

import os
import signal
import sys
import traceback


def refuses_settings(error: BaseException) -> bool:
    """Whether the package's own code turned settings down before anything was played; all else is shown as a bug."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    called = {frame.f_code.co_name for frame in frames}
    # Lightning runs from `_run_stage` on; an environment is first built there, to count its tasks.
    set_up = "_run_stage" not in called or "num_tasks" in called
    return set_up and frames[-1].f_globals["__name__"].startswith("paw_lightning.")


def main() -> None:
    """The console script.

    A run whose settings are refused exits with 2, as for an unknown key; one that a signal stopped with 128 plus the
    signal's number, as shells count.
    """
    sys.path.insert(0, os.getcwd())  # so that a config can name a class of a file beside it, as `python -m` can
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from paw_lightning.callbacks.graceful_stop import GracefulStop
    from paw_lightning.cli.training import run

    try:
        trainer = run().trainer
    except SIGTERMException:  # before the first iteration the signal is Lightning's, which would exit with 0
        sys.exit(128 + signal.SIGTERM)
    except SystemExit as end:
        interrupt = end.__context__
        if not isinstance(interrupt, KeyboardInterrupt):
            raise
        # Ctrl-C outside of training, or a second signal in it (GracefulStop says which): Lightning would exit with 1.
        sys.exit(128 + (interrupt.args or (signal.SIGINT,))[0])
    except (ValueError, FileNotFoundError) as error:
        if not refuses_settings(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GracefulStop) and callback.received:
            sys.exit(128 + callback.received)
