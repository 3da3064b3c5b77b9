"""Measure the shop: steps per second with clickables and text, seconds to open it, milliseconds for a search.

    python benchmarks/shop_engine.py [--data $WEBSHOP_DATA] [--goals 300]

Without official products (``--data`` or ``WEBSHOP_DATA``) only made-up shops are measured. Prints a Markdown table of
processor time on one core. Searches are part of the play; copies of a
group repeat theirs, which are then known.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable

from paw_lightning.envs.shop.env import SEARCH, ShopEnv
from paw_lightning.envs.shop.store import Store, generated_store, official_store

TURNS = 15


def record(env: ShopEnv, goals: int) -> list[list[str]]:
    """Random play that searches for the task and seldom buys: one list of actions per goal."""
    rng = random.Random(0)
    played = []
    for seed in range(goals):
        _, info = env.reset(seed=seed)
        actions = []
        for _ in range(TURNS):
            action = rng.choice(info["admissible_commands"])
            actions.append(f"search[{info['task']}]" if action == SEARCH else action)
            _, _, terminated, _, info = env.step(actions[-1])
            if terminated:
                break
        played.append(actions)
    return played


def steps_per_second(env: ShopEnv, played: list[list[str]]) -> float:
    """Replay every visit, resets included, in a shop that has not searched for anything yet."""
    start = time.process_time()
    for seed, actions in enumerate(played):
        env.reset(seed=seed)
        for action in actions:
            env.step(action)
    return sum(map(len, played)) / (time.process_time() - start)


def milliseconds_per_search(store: Store, count: int = 300) -> float:
    """Mean over whole task sentences, which nobody has played: the played ones are among the first."""
    queries = [goal.instruction.lower() for goal in store.goals[-count:]]
    start = time.process_time()
    for query in queries:
        store.search(query)
    return 1000 * (time.process_time() - start) / len(queries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("WEBSHOP_DATA", ""))
    parser.add_argument("--goals", type=int, default=300)
    parser.add_argument("--large", type=int, default=20_000, help="products of a large made-up shop")
    options = parser.parse_args()
    shops: dict[str, Callable[[], ShopEnv]] = {
        "made up, brief, 200": lambda: ShopEnv(products=200, brief=True, page_size=3, observation="lines"),
        "made up, 1,000": ShopEnv,
        f"made up, {options.large:,}": lambda: ShopEnv(products=options.large),
    }
    if options.data:
        shops["official, 1,000"] = lambda: ShopEnv(data_path=options.data)
        shops["official, text_rich"] = lambda: ShopEnv(data_path=options.data, observation="text_rich")
    print("| products | steps/s | s to open | ms per new search |\n|---|---|---|---|")
    for name, make in shops.items():
        played = record(make(), options.goals)
        generated_store.cache_clear()
        official_store.cache_clear()
        start = time.process_time()
        env = make()
        opening = time.process_time() - start
        speed = steps_per_second(env, played)
        print(f"| {name} | {speed:,.0f} | {opening:.2f} | {milliseconds_per_search(env.store):.2f} |", flush=True)


if __name__ == "__main__":
    main()
