"""An iteration against TRL's `GRPOTrainer` on the same card: the job of benchmarks/end_to_end.py, Qwen2.5-0.5B's size.

64 episodes of up to 8 turns, 12 tokens an action, four optimizer steps of 16 rows, bf16-mixed on both sides. The policy
is random, so that all episodes last to the end. Rounds in turns; the first warms up. PaW runs along.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import end_to_end
import kit
import measuring

TURNS, ITERATIONS, ROWS = 8, 2, 16
"""Turns of an episode at most, iterations of a run, rows of an optimizer step: one micro-batch on both sides."""
PARTS = ("play", "scoring", "update")


def row(records: list[end_to_end.Record]) -> dict[str, float]:
    """Medians over iterations."""
    middle = measuring.medians(records)
    whole = [record["steps"] / sum(record[part] for part in PARTS) for record in records]
    return {f"{part}_s": middle[part] for part in PARTS} | {
        "steps": middle["steps"],
        "steps_per_s": statistics.median(whole),
        "iterations": len(records),
    }


def main() -> None:
    options = kit.options(__doc__)
    turns, iterations = (2, 1) if options.rehearse else (TURNS, ITERATIONS)
    end_to_end.change_model(kit.endless_directory(options, "0.5B"), 1)
    end_to_end.lengthen(turns)
    arms: dict[str, Callable[[int], list[end_to_end.Record]]] = {
        "TRL, GRPO": partial(end_to_end.theirs, iterations=iterations, rows=ROWS, options=options),
        "GRPO": partial(end_to_end.ours, iterations=iterations, config="grpo", options=options),
        "GRPO + PaW": partial(end_to_end.ours, iterations=iterations, config="paw", options=options),
    }
    kept: dict[str, list[end_to_end.Record]] = {name: [] for name in arms}
    for number in range(1 if options.rehearse else 4):
        began = options.left()
        for name, arm in list(arms.items()):
            with kit.entry(options, f"trl/{name}") as found:
                kept[name] = [*(kept[name] if number > 1 else []), *arm(number)]
                found |= row(kept[name]) | {"turns": turns, "warm": number > 0}
            if "failed" in found:
                del arms[name]
        if options.left() < 1.1 * (began - options.left()):
            break


if __name__ == "__main__":
    main()
