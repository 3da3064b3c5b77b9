"""How often the report of a comparison errs where all arms are equal, and how often it finds what is there.

    python tools/comparison_rates.py [--tables 4000]
    python tools/comparison_rates.py --power --spread 0.05 [--arms 2] [--tables 1000]

Arms and their base draw every seed's success rate from the same distribution. Coverage is how often the interval of a
difference holds 0; "result" is the share of whole tables that call any difference one. "Excludes 0" is the share of
tables with any interval that does: the hints that a reader might see in them.

With --power the first arm ends higher than its base by a true difference, and the others do not. A line holds how often
a table calls that difference a result; --spread is the standard deviation of an arm's ends over seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from paw_lightning.compare.curves import Curve
from paw_lightning.compare.results import Results, summarise

TASKS = 200
"""Validation tasks behind every success rate."""
Draw = Callable[[np.random.Generator, int], np.ndarray]
DRAWS: dict[str, Draw] = {
    "normal": lambda rng, count: rng.normal(0.5, 0.05, count),
    "success 0.5": lambda rng, count: rng.binomial(TASKS, 0.5, count) / TASKS,
    "success 0.1": lambda rng, count: rng.binomial(TASKS, 0.1, count) / TASKS,
}


def rates(draw: Draw, seeds: int, arms: int, tables: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """Coverage of the intervals, share of tables with a result, share of tables with an interval that excludes 0."""
    covered, results, excluding = 0, 0, 0
    for _ in range(tables):
        rows = summarise(equal_arms(draw, seeds, arms, rng))[1:]
        intervals = [row.difference_interval for row in rows if row.difference_interval is not None]
        holds = [low <= 0 <= high for low, high in intervals]
        covered += sum(holds)
        results += any(row.is_result for row in rows)
        excluding += not all(holds)
    return covered / tables / arms, results / tables, excluding / tables


def equal_arms(draw: Draw, seeds: int, arms: int, rng: np.random.Generator) -> Results:
    """One table: a base and so many arms beside it."""
    table = Results("val/success_rate", "base")
    for name in ["base", *(f"arm{number}" for number in range(arms))]:
        table.add_arm(name, "")
        table.arms[name] = {seed: Curve({1: end}, 0.0) for seed, end in enumerate(draw(rng, seeds).tolist())}
    return table


def power(difference: float, spread: float, seeds: int, arms: int, tables: int, rng: np.random.Generator) -> float:
    """How often a true difference of the first of some arms counts as a result, Holm's adjustment over all of them."""
    found = 0
    for _ in range(tables):
        table = equal_arms(lambda rng, count: rng.normal(0.5, spread, count), seeds, arms, rng)
        first = table.arms["arm0"]
        table.arms["arm0"] = {seed: Curve({1: curve.points[1] + difference}, 0.0) for seed, curve in first.items()}
        found += summarise(table)[1].is_result
    return found / tables


def print_power(spread: float, arms: int, tables: int) -> None:
    """Print how often each of some differences is found, by numbers of seeds."""
    rng = np.random.default_rng(0)
    differences = (0.02, 0.03, 0.05, 0.1, 0.2)
    print("| seeds | " + " | ".join(f"{difference:+.2f}" for difference in differences) + " |")
    print("|---|" + "---|" * len(differences))
    for seeds in (8, 12, 16, 24, 32):
        shares = [power(difference, spread, seeds, arms, tables, rng) for difference in differences]
        print(f"| {seeds} | " + " | ".join(f"{100 * share:.0f} %" for share in shares) + " |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=4000, help="tables for each line")
    parser.add_argument("--power", action="store_true", help="how often a true difference is found")
    parser.add_argument("--spread", type=float, default=0.05, help="of ends over seeds, a standard deviation")
    parser.add_argument("--arms", type=int, default=2, help="differences of the table, with --power")
    options = parser.parse_args()
    tables, rng = options.tables, np.random.default_rng(0)
    if options.power:
        return print_power(options.spread, options.arms, tables)
    print("| values | seeds | arms | coverage | result | excludes 0 |", "|---|---|---|---|---|---|", sep="\n")
    for name, draw in DRAWS.items():
        for seeds in (3, 5, 8):
            for arms in (1, 3, 5, 7):
                shares = " | ".join(f"{100 * share:.1f} %" for share in rates(draw, seeds, arms, tables, rng))
                print(f"| {name} | {seeds} | {arms} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
