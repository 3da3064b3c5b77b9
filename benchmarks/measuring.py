"""What the benchmarks share: options, runs of the command line, clocks, peaks of memory, tables."""

from __future__ import annotations

import argparse
import contextlib
import csv
import ctypes
import gc
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")
ROOT = Path(__file__).parent.parent
PRECISION = {"float32": "32-true", "bfloat16": "bf16-mixed"}
QUIET = {
    "trainer.limit_val_batches": 0,
    "trainer.num_sanity_val_steps": 0,
    "trainer.enable_checkpointing": "false",
    "trainer.enable_progress_bar": "false",
    "trainer.logger": "lightning.pytorch.loggers.CSVLogger",
    "canaries.enabled": "false",  # they check a run once, at its start
    "world_model_health.every": 0,  # one iteration in ten costs it a second backward pass
    "policy_export.folder": "null",
}
"""Everything of a run that is not rollout or update is switched off."""


def parser(description: str | None, repeats: int) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    made.add_argument("--dtype", default="float32", choices=list(PRECISION))
    made.add_argument("--threads", type=int, default=torch.get_num_threads())
    made.add_argument("--repeats", type=int, default=repeats)
    made.add_argument("--clock", default="wall", choices=["wall", "processor"], help="processor: on a busy machine")
    made.add_argument("--quick", action="store_true", help="the smallest sizes: does it run, roughly how fast")
    made.add_argument("--json", type=Path, help="write every number here")
    return made


def settled(device: str) -> str:
    """The device that `auto` stands for here, or the one that is named."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def prepare(options: argparse.Namespace) -> None:
    """Settle the device, the threads (in processes to come as well), and the clock that the whole process goes by."""
    options.device = settled(options.device)
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if options.clock == "processor":
        if options.device == "cuda":
            raise SystemExit(
                "--clock is processor and --device cuda; wanted wall: a GPU's work takes no processor time"
            )
        time.perf_counter = time.process_time


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """What the numbers hang on."""
    card = torch.cuda.get_device_name() if options.device == "cuda" else "none"
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "clock": options.clock,
        "gpu": card,
        "dtype": options.dtype,
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
    }


def report(options: argparse.Namespace, results: Any) -> None:
    """Write the numbers as JSON where that is asked for."""
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(options), "results": results}, indent=2) + "\n")


def table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a Markdown table; the first column is text, the others numbers."""
    head = list(rows[0])
    print("| " + " | ".join(head) + " |")
    print("|---|" + "--:|" * (len(head) - 1))
    for row in rows:
        print("| " + " | ".join(_written(row[name]) for name in head) + " |", flush=True)


def _written(value: Any) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 0.1 else f"{value:.4g}"


def arguments(configs: Sequence[str | Path], settings: Mapping[str, Any], options: argparse.Namespace) -> list[str]:
    """A command line without its subcommand."""
    hardware = {
        "trainer.accelerator": "gpu" if options.device == "cuda" else "cpu",
        "trainer.precision": PRECISION[options.dtype],
    }
    named = QUIET | hardware | dict(settings)
    return [*(f"--config={path}" for path in configs), *(f"--{key}={value}" for key, value in named.items())]


def fit(
    configs: Sequence[str | Path], settings: Mapping[str, Any], options: argparse.Namespace, iterations: int
) -> list[dict[str, float]]:
    """Run so many iterations of `paw-lightning fit`, and return the curves' points of each."""
    from paw_lightning import cli  # after the threads are set

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        logger = {"trainer.logger.init_args.save_dir": folder, "trainer.max_epochs": iterations}
        logger["trainer.check_val_every_n_epoch"] = iterations
        cli.run(
            ["fit", *arguments(configs, {"trainer.logger": QUIET["trainer.logger"], **logger, **settings}, options)]
        )
        return curves(Path(folder))


def curves(folder: Path) -> list[dict[str, float]]:
    """One record per iteration that a CSVLogger below a folder has written."""
    [path] = folder.rglob("metrics.csv")
    with path.open() as lines:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(lines)]
    iterations: dict[float, dict[str, float]] = {}
    for row in rows:
        iterations.setdefault(row["step"], {}).update(row)
    return list(iterations.values())


def in_turns(calls: Mapping[str, Callable[[int], T]], repeats: int, *, warm: bool = True) -> dict[str, list[T]]:
    """What each call returns for the numbers of the rounds: whatever else the machine does falls on all alike.

    `warm` adds a first round, number 0, that is not kept.
    """
    kept: dict[str, list[T]] = {name: [] for name in calls}
    for number in range(repeats + warm):
        for name, call in calls.items():
            returned = call(number)
            if number >= warm:
                kept[name].append(returned)
    return kept


def interleaved(calls: Sequence[Callable[[], object]], repeats: int, *, warm: bool = True) -> list[list[float]]:
    """Seconds of each call, in turns. `warm` adds a first round."""

    def timed(call: Callable[[], object], _: int) -> float:
        start = now()
        call()
        return now() - start

    return list(in_turns({str(i): partial(timed, call) for i, call in enumerate(calls)}, repeats, warm=warm).values())


def now() -> float:
    """Seconds, when all work that was handed to a GPU is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def median_of_ratios(first: Sequence[float], second: Sequence[float]) -> float:
    """Of measurements taken in turns: neighbours saw the same machine."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))


def medians(records: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Key by key."""
    return {key: statistics.median(record[key] for record in records) for key in records[0]}


def give_memory_back() -> None:
    """Let glibc hand every block beyond 64 KiB back to the system as it is freed, so that a peak is one of use.

    It costs time: measure that before.
    """
    mmap_threshold, libc = -3, ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(mmap_threshold, 65_536)


def reset_peak(device: str) -> int:
    """Forget the peak so far; return the bytes in use now."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return peak(device)


def peak(device: str) -> int:
    """Most bytes in use at a time since `reset_peak`: of the GPU's tensors, or of the whole process."""
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
