"""GRPO, GRPO + PaW, the placebo and ECHO with SmolLM2 after a short warm start, as many seeds as the time allows.

Fixed beforehand: the metric, success at temperature 1 on 200 houses that no training met; the arms; 16 iterations of
household/smollm2; seeds 1, 2, 3, ..., all arms of a seed before the next. Several runs share the card. Success is
measured every four iterations, so that runs which the time ends are compared where all of a seed still ran.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kit
import measuring

ARMS = {"GRPO": ["wm/off"], "GRPO + PaW": [], "placebo": ["wm/placebo"], "ECHO": ["wm/echo"]}
METRIC = "val/success_rate"
ITERATIONS, EVERY, HOUSES, SEEDS = 16, 4, 200, 16
PROCESSES = 8
"""Runs at a time: two seeds; each takes some 8 GiB."""


@dataclass
class Run:
    """One arm with one seed, in a process."""

    arm: str
    seed: int
    folder: Path
    process: subprocess.Popen[bytes]
    started: float

    def curve(self) -> dict[str, float]:
        """Iteration -> success so far."""
        if not list(self.folder.rglob("metrics.csv")):
            return {}
        points = [point for point in measuring.curves(self.folder) if METRIC in point]
        return {str(int(point["step"])): point[METRIC] for point in points}


def settings(options: kit.Options, folder: Path) -> dict[str, Any]:
    """What all runs have."""
    small = {"data.groups": 1, "data.group_size": 2, "rollout.max_steps": 2, "data.minibatches": 1}
    houses = 2 if options.rehearse else HOUSES
    return {
        "trainer.limit_val_batches": 1.0,
        "data.validation_tasks": houses,
        "data.evaluation_batch": houses,
        "rollout.validation_temperature": 1.0,
        "trainer.logger": measuring.QUIET["trainer.logger"],
        "trainer.logger.init_args.save_dir": folder,
        "trainer.logger.init_args.flush_logs_every_n_steps": 1,
        **(small if options.rehearse else {}),
    }


def start(options: kit.Options, configs: list[str], changed: dict[str, Any], folder: Path) -> subprocess.Popen[bytes]:
    """A `paw-lightning fit` in a process of its own; what it says goes to its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    line = measuring.arguments(configs, settings(options, folder) | changed, options)
    cores = max(1, (os.cpu_count() or 1) // PROCESSES)
    with (folder / "output.txt").open("w") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "paw_lightning", "fit", *line],
            env=os.environ | {"OMP_NUM_THREADS": str(cores)},
            stdout=out,
            stderr=subprocess.STDOUT,
        )


def last_words(folder: Path) -> str:
    """The end of what a failed run has said."""
    return " ".join((folder / "output.txt").read_text(errors="replace").split()[-40:])


def warm_start(options: kit.Options) -> Path:
    """SmolLM2 after 80 episodes of the expert, which every run begins with."""
    folder, policy = options.work / "warm", options.work / "warm" / "policy"
    with kit.entry(options, "study/warm start") as found:
        short = {"trainer.max_epochs": 1, "trainer.check_val_every_n_epoch": 1} if options.rehearse else {}
        changed = {"policy_export.folder": policy, "trainer.num_sanity_val_steps": 0, **short}
        changed |= {"model.path": "tiny-household"} if options.rehearse else {}
        process = start(options, ["household/smollm2_imitate"], changed, folder)
        if process.wait():
            raise RuntimeError(last_words(folder))
        [point] = [point for point in measuring.curves(folder) if METRIC in point]
        found |= {"success": point[METRIC], "houses": int(settings(options, folder)["data.validation_tasks"])}
    if "failed" in found:
        raise SystemExit("the warm start failed; wanted a policy to begin with")
    return policy


def begin(options: kit.Options, arm: str, seed: int, policy: Path) -> Run:
    """Start one run."""
    folder = options.work / f"{arm.replace(' ', '')}-{seed}"
    iterations, every = (1, 1) if options.rehearse else (ITERATIONS, EVERY)
    changed = {
        "seed_everything": seed,
        "model.path": policy,
        "trainer.max_epochs": iterations,
        "trainer.check_val_every_n_epoch": every,
    }
    process = start(options, ["household/smollm2", *ARMS[arm]], changed, folder)
    return Run(arm, seed, folder, process, time.monotonic())


def study(options: kit.Options, policy: Path) -> None:
    """Run seeds while there is time; the entry has each run's curve as far as it came."""
    at_a_time, seeds = (2, 1) if options.rehearse else (PROCESSES, SEEDS)
    waiting = [(arm, seed) for seed in range(1, seeds + 1) for arm in ARMS]
    running: list[Run] = []
    over: list[Run] = []
    longest = 0.0
    with kit.entry(options, "study/runs") as found:
        found |= {"iterations": 1 if options.rehearse else ITERATIONS, "runs": {}, "failures": {}}
        while running or waiting:
            for run in [run for run in running if run.process.poll() is not None]:
                running.remove(run)
                over.append(run)
                longest = max(longest, time.monotonic() - run.started)
                if run.process.returncode:
                    found["failures"][f"{run.arm}, seed {run.seed}"] = last_words(run.folder)[-300:]
            while waiting and len(running) < at_a_time and options.left() > 1.1 * longest + 3:
                running.append(begin(options, *waiting.pop(0), policy))
            for run in [*over, *running]:
                if curve := run.curve():
                    found["runs"].setdefault(run.arm, {})[str(run.seed)] = curve
            kit.write(options, "study/runs", found)
            if options.left() < 3 or not running:
                break
            time.sleep(min(2.0, options.left() - 2.5))
        found |= {"finished": len([run for run in over if not run.process.returncode]), "longest_run_s": longest}
        for run in running:
            run.process.kill()


if __name__ == "__main__":
    given = kit.options(__doc__)
    study(given, warm_start(given))
