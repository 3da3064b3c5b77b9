"""Measure the household engine: steps per second with the admissible list, and milliseconds to load a game file.

    python benchmarks/household_engine.py [--data $ALFWORLD_DATA] [--games 60] [--steps 50]

Without official games (``--data`` or ``ALFWORLD_DATA``) only generated houses are measured. Prints a Markdown table of
processor time on one core.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

from paw_lightning.envs.household.engine import HouseholdEngine
from paw_lightning.envs.household.env import HouseholdEnv
from paw_lightning.envs.household.files import find_games, load_game
from paw_lightning.envs.household.game import TASKS
from paw_lightning.envs.loading import expand


def record(env: HouseholdEnv, games: int, steps: int) -> list[list[str]]:
    """Random play: one list of commands per game, so that choosing them is not part of the measurement."""
    rng = random.Random(0)
    played = []
    for seed in range(games):
        _, info = env.reset(seed=seed)
        commands = []
        for _ in range(steps):
            commands.append(rng.choice(info["admissible_commands"]))
            _, _, terminated, _, info = env.step(commands[-1])
            if terminated:
                break
        played.append(commands)
    return played


def steps_per_second(env: HouseholdEnv, played: list[list[str]]) -> float:
    """Replay every game, resets left out."""
    seconds, count = 0.0, 0
    for seed, commands in enumerate(played):
        env.reset(seed=seed)
        start = time.process_time()
        for command in commands:
            env.step(command)
        seconds += time.process_time() - start
        count += len(commands)
    return count / seconds


def milliseconds(work: Callable[[Any], object], arguments: list[Any]) -> tuple[float, float]:
    """Mean and maximum time of ``work(argument)``, in ms."""
    times = []
    for argument in arguments:
        start = time.process_time()
        work(argument)
        times.append(1000 * (time.process_time() - start))
    return statistics.mean(times), max(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("ALFWORLD_DATA", ""))
    parser.add_argument("--games", type=int, default=60)
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    seeds = list(range(options.games))
    generated = HouseholdEnv()
    rows = [("generated houses", generated, milliseconds(lambda seed: generated.reset(seed=seed), seeds))]
    if options.data:
        official = HouseholdEnv(data_path=options.data)
        files = find_games(expand(options.data, "--data"), "train", TASKS)[: options.games]
        # __wrapped__ goes around the cache.
        loading = milliseconds(lambda path: HouseholdEngine(load_game.__wrapped__(path)), list(files))
        rows.append(("official games", official, loading))
    print("| source | steps/s | ms per new house: mean | max |\n|---|---|---|---|")
    for name, env, (mean, worst) in rows:
        speed = steps_per_second(env, record(env, options.games, options.steps))
        print(f"| {name} | {speed:,.0f} | {mean:.2f} | {worst:.2f} |")


if __name__ == "__main__":
    main()
