"""The household engine against the reference ALFWorld, run live in a worker process (extra `alfworld`)."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import pytest

from paw_lightning.envs import HouseholdEnv, WorkerEnv

GAMES = 3


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_both_engines_answer_alike(request: pytest.FixtureRequest) -> None:
    """Random admissible commands with some nonsense, then the stored solution from a fresh start."""
    if importlib.util.find_spec("alfworld") is None:
        pytest.skip("NO REFERENCE ALFWORLD: pip install 'paw-lightning[alfworld]' (compiles C++)")
    folder: Path = request.getfixturevalue("official")
    games = sorted(folder.glob("valid_seen/**/game.tw-pddl"))
    rng = random.Random(0)
    for game in rng.sample(games, GAMES):
        ours = HouseholdEnv("val", game_file=str(game))
        spec = {
            "class_path": "tests.helpers.reference_alfworld.ReferenceAlfworld",
            "init_args": {"game_file": str(game)},
        }
        theirs = WorkerEnv("val", environment=spec)
        compare_reset(ours, theirs)
        walkthrough = list(ours.walkthrough or [])
        commands = [command for command in ours._started().admissible if command != "help"]
        for _ in range(25):
            command = "sing a song" if rng.random() < 0.1 else rng.choice(commands)
            commands = compare_step(ours, theirs, command)
        compare_reset(ours, theirs)
        for command in walkthrough:
            compare_step(ours, theirs, command)
        assert ours._started().won, game
        theirs.close()


def compare_reset(ours: HouseholdEnv, theirs: WorkerEnv) -> None:
    observation, info = ours.reset(seed=0)
    reference, reference_info = theirs.reset(seed=0)
    assert observation == reference
    assert info["admissible_commands"] == reference_info["admissible_commands"]


def compare_step(ours: HouseholdEnv, theirs: WorkerEnv, command: str) -> list[str]:
    """Play a command in both; return what may follow."""
    observation, reward, terminated, truncated, info = ours.step(command)
    reference, *numbers, reference_info = theirs.step(command)
    assert (observation, reward, terminated, truncated) == (reference, *numbers), command
    assert info["admissible_commands"] == reference_info["admissible_commands"], command
    assert info["won"] == reference_info["won"], command
    return [command for command in info["admissible_commands"] if command != "help"]
