"""Twenty kills of the quickstart, wherever it is: nothing half is read as whole, and nothing finished is lost."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from paw_lightning.event_files import read_scalars
from paw_lightning.rollout_files import read
from paw_lightning.rollout_files.reading import train_files
from paw_lightning.text.prompts import Prompt
from tests.helpers.killing import AtRandom, InWriting, Runs, checkpoint_of, curves_of

ITERATIONS = 10
QUICKSTART = [
    "--config=household/paw",
    f"--trainer.max_epochs={ITERATIONS}",
    "--trainer.check_val_every_n_epoch=2",
    "--trainer.accumulate_grad_batches=2",
    "--trainer.num_sanity_val_steps=0",
    "--data.groups=4",
    "--data.group_size=4",
    "--data.validation_tasks=8",
]
LAYOUTS = {  # the step layout reads no template of later turns: its default is as good as none
    "episode": ["--rollout.layout=episode"],
    "step": ["--rollout.layout=step", f"--rollout.prompt.turn_template={Prompt().turn_template}"],
}
HALF = ["*.part", "*.unchecked"]
"""Names of what a kill in the midst of writing leaves."""


def moments(layout: str, seconds: float) -> list[AtRandom | InWriting]:
    """Ten kills: four at random moments, six in the midst of writing, the last of these of the policy."""
    chance = random.Random(layout)
    kills: list[AtRandom | InWriting] = [AtRandom(chance.uniform(0, 1.5 * seconds)) for _ in range(4)]
    kills += [
        InWriting("open", "last.ckpt.part", delay=chance.uniform(0, 0.005)),
        InWriting("os.rename", "last.ckpt.part", count=2),
        InWriting("open", "best.ckpt.part", delay=chance.uniform(0, 0.005)),
        InWriting("os.rename", "config.yaml.part"),
        InWriting("open", ".jsonl.gz.part", count=2, delay=chance.uniform(0, 0.005)),
    ]
    chance.shuffle(kills)
    return [*kills, InWriting("open", "policy.unchecked", delay=chance.uniform(0, 0.1))]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_ten_kills(layout: str, tmp_path: Path) -> None:
    options = [*QUICKSTART, *LAYOUTS[layout]]
    unbroken, killed = Runs(tmp_path / "unbroken", *options), Runs(tmp_path / "killed", *options)
    unbroken.finish()
    costs = read_scalars(unbroken.run)
    seconds = costs["time/rollout_s"][-1][1] + costs["time/update_s"][-1][1]
    kills, finished, left, lost = 0, 0, [], set[tuple[str, int]]()
    for moment in moments(layout, seconds):
        kills += killed.kill(moment)
        finished = assert_whole(killed, finished)
        lost |= new_gaps(unbroken, killed, finished, lost)
        left += [path.name for pattern in HALF for path in killed.run.rglob(pattern)]
    print(f"{layout}: {kills} kills, in the midst of {sorted(left)}")
    killed.finish()
    assert kills == 10
    assert_equal(unbroken, killed)
    assert_curves(unbroken, killed, lost)


def assert_whole(runs: Runs, finished: int) -> int:
    """What a killed run left can be read and is no older than before; returns its iterations."""
    checkpoint = checkpoint_of(runs)
    count = 0 if checkpoint is None else checkpoint["epoch"] + 1
    assert count >= finished, "an iteration was lost"
    curve = curves_of(runs.run).get("rollout/return", {})
    assert max(curve, default=0) <= count, "a curve tells of an iteration that was not saved"
    played = {} if runs.run is None else {number: read(path) for number, path in train_files(runs.run).items()}
    assert {*range(1, count + 1)} <= {*played}, "a finished iteration has its rollouts"
    if checkpoint is not None:
        assert yaml.safe_load((runs.run / "config.yaml").read_text())["ckpt_path"] is None
    if (runs.run / "policy").exists():
        AutoModelForCausalLM.from_pretrained(runs.run / "policy")
    return count


def assert_equal(unbroken: Runs, killed: Runs) -> None:
    """Weights, optimizer and rollouts, bit for bit; and nothing half is left."""
    one, other = (load_file(runs.run / "policy" / "model.safetensors") for runs in (unbroken, killed))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    old, new = checkpoint_of(unbroken), checkpoint_of(killed)
    assert old["epoch"] == new["epoch"] == ITERATIONS - 1 and old["global_step"] == new["global_step"]
    for name, tensor in old["state_dict"].items():
        assert torch.equal(tensor, new["state_dict"][name]), name
    moments = [state["optimizer_states"][0]["state"] for state in (old, new)]
    for key, state in moments[0].items():
        assert all(torch.equal(value, moments[1][key][name]) for name, value in state.items() if name != "step"), key
    for number, path in train_files(unbroken.run).items():
        assert read(path).episodes == read(train_files(killed.run)[number]).episodes, number
    assert not [path for pattern in HALF for path in killed.run.rglob(pattern)]


def points(runs: Runs, last: int = ITERATIONS) -> dict[tuple[str, int], float]:
    """{(tag, iteration): value} of all curves, up to the iteration `last`."""
    curves = {} if runs.run is None else curves_of(runs.run)
    return {(tag, step): value for tag, curve in curves.items() for step, value in curve.items() if step <= last}


def new_gaps(unbroken: Runs, killed: Runs, finished: int, lost: set[tuple[str, int]]) -> set[tuple[str, int]]:
    """Points that a kill has left out: of the last finished iteration alone, whose checkpoint was just there."""
    if finished == 0:
        return set()  # it will be started anew
    gaps = points(unbroken, finished).keys() - points(killed).keys() - lost
    assert {step for _, step in gaps} <= {finished}, "a finished iteration before the last has its points"
    return gaps


def assert_curves(unbroken: Runs, killed: Runs, lost: set[tuple[str, int]]) -> None:
    """The same points, bit for bit, but for those that the kills have left out."""
    expected, found = points(unbroken), points(killed)
    assert {tag for tag, _ in found} == {tag for tag, _ in expected}
    print(f"points that the kills left out: {sorted(lost - found.keys())}")
    assert found == {point: value for point, value in expected.items() if point in found or point not in lost}
