"""An iteration of SmolLM2 that plays, against a replay of it with another loss, on the same card.

household/smollm2 with PaW for three iterations, then `data.replay` of them with wm/ce; the first of each warms up.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import first_study
import kit
import measuring

PARTS = ("time/rollout_s", "time/update_s")
RUNS: dict[str, list[str]] = {"run": [], "replay": ["wm/ce"]}


def seconds(folder: Path) -> float:
    """Of an iteration, the median of those that had warmed up."""
    points = [point for point in measuring.curves(folder) if PARTS[-1] in point]
    return statistics.median(sum(point.get(part, 0.0) for part in PARTS) for point in (points[1:] or points))


def main() -> None:
    """Play, replay, and write what an iteration of each took."""
    options = kit.options(__doc__)
    iterations = 1 if options.rehearse else 3
    changed: dict[str, Any] = {"trainer.max_epochs": iterations, "trainer.num_sanity_val_steps": 0}
    changed |= {"model.path": "tiny-household"} if options.rehearse else {}
    with kit.entry(options, "replay/SmolLM2") as found:
        for name, overlays in RUNS.items():
            folder = options.work / f"replay-{name}"
            told = {**changed, "trainer.limit_val_batches": 0}
            if name == "replay":
                [recorded] = (options.work / "replay-run").rglob("rollouts")
                told["data.replay"] = recorded.parent
            if first_study.start(options, ["household/smollm2", *overlays], told, folder).wait():
                raise RuntimeError(first_study.last_words(folder))
            found[f"{name}_s"] = seconds(folder)
        found |= {"times_as_fast": found["run_s"] / found["replay_s"], "iterations": iterations}


if __name__ == "__main__":
    main()
