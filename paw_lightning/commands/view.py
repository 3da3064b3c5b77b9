"""Writes a run's episodes and curves as one HTML page, or shows a run in progress.

    paw-lightning view runs/paw_lightning/version_0
    paw-lightning view RUN_A RUN_B --output page.html
    paw-lightning view RUN --serve

The page holds every episode that the run has written to RUN/rollouts, token by token; it needs no network. Two runs are
shown together, so that the same task can be read side by side.
"""

from __future__ import annotations

from pathlib import Path

from paw_lightning.cli.command_arguments import Arguments
from paw_lightning.commands.viewing.page import page, printable
from paw_lightning.commands.viewing.runs import Run, open_runs
from paw_lightning.errors import SettingsError
from paw_lightning.whole_files import write_whole

PORT = 8321


def command(args: list[str]) -> int:
    """Read the runs, then write the page or serve it until Ctrl-C; returns the exit status."""
    parser = Arguments("view", __doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run; two to compare them")
    parser.add_argument("--output", type=Path, help="page to write (default: view.html in the first RUN)")
    parser.add_argument(
        "--serve", action="store_true", help="show a run in progress: new iterations appear by themselves"
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"of --serve, on this machine alone (default: {PORT})")
    options = parser.parse_args(args)
    if len(options.runs) > 2:
        raise SettingsError(f"the runs are {len(options.runs)}; wanted one, or two to compare")
    if options.serve and options.output:
        raise SettingsError("there are --output and --serve; wanted one of them: a page in a file, or one that follows")
    runs = open_runs(options.runs)
    if options.serve:
        from paw_lightning.commands.viewing.server import serve

        return serve(runs, options.port)
    for run in runs:
        if not run.files():
            raise SettingsError(NO_FILES.format(run.folder))
    write(runs, options.output or runs[0].folder / "view.html")
    return 0


NO_FILES = (
    "the run is {0}, which holds no episodes; wanted files in {0}/rollouts, which a run writes with "
    "rollout_files.enabled true"
)


def write(runs: list[Run], output: Path) -> None:
    """Make the page and put it in its place whole.

    Raises:
        SettingsError: no file can be there.
        NotWrittenError: the disk did not take it.
    """
    if output.is_dir() or not output.parent.is_dir():
        what = "is a folder" if output.is_dir() else "lies in a folder that does not exist"
        raise SettingsError(f"--output is {output}, which {what}; wanted a file")
    parts = [(place, run.part(name)) for place, run in enumerate(runs) for name in run.files()]
    text = page([run.name for run in runs], [run.curves() for run in runs], parts).encode()
    write_whole(output, lambda file: file.write(text), needed=len(text))
    print(f"wrote {printable(str(output))}: {len(parts)} rollout files, {len(text) / 1e6:.1f} MB; open it in a browser")
