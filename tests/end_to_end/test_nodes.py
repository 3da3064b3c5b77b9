"""The two-node command of docs/scaling.md, both nodes on this machine: what it learns is what one process learns."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

JOB = ["fit", "--config", "household/paw", "--data.groups=2", "--trainer.max_epochs=1", "--data.minibatches=2"]
JOB += ["--trainer.check_val_every_n_epoch=1", "--data.validation_tasks=8", "--data.evaluation_batch=8"]
JOB += ["--trainer.logger=lightning.pytorch.loggers.CSVLogger"]


def curves(folder: Path) -> dict[str, float]:
    """Everything that a run of one iteration has logged last, times apart."""
    [path] = folder.rglob("metrics.csv")
    with path.open() as lines:
        points = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(lines)]
    merged = {key: value for point in points for key, value in point.items()}
    return {key: value for key, value in merged.items() if not key.startswith("time/")}


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.mark.slow
def test_two_nodes_learn_what_one_process_does(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    alone = [*JOB, f"--trainer.logger.init_args.save_dir={tmp_path / 'one'}", "--trainer.accumulate_grad_batches=2"]
    subprocess.run([sys.executable, "-m", "paw_lightning", *alone], check=True, env=environment, cwd=tmp_path)
    job = [*JOB, "--config", "strategy/fsdp2", "--trainer.num_nodes=2", "--trainer.devices=1"]
    job += [f"--trainer.logger.init_args.save_dir={tmp_path / 'two'}", "--trainer.accumulate_grad_batches=1"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
    torchrun += ["--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    nodes = [
        subprocess.Popen([*torchrun, f"--node_rank={rank}", "-m", "paw_lightning", *job], env=environment, cwd=tmp_path)
        for rank in range(2)
    ]
    assert [node.wait(timeout=280) for node in nodes] == [0, 0]
    one, two = curves(tmp_path / "one"), curves(tmp_path / "two")
    shared = one.keys() & two.keys()
    assert len(shared) > 40 and "train/policy_loss" in shared
    assert {key: two[key] for key in shared} == pytest.approx({key: one[key] for key in shared}, rel=1e-3, abs=1e-4)
