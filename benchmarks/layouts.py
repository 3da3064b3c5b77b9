"""One training sequence per transition against one per episode: rollout, scoring and update of the same iteration.

python benchmarks/layouts.py --config household/paw

The two layouts in turns. The rollouts are the base policy's own in each layout, so they differ.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import measuring
from building import TURN, Updater, build, layout_settings, padding, play
from lightning.pytorch.cli import LightningCLI

from paw_lightning.callbacks.base import environment_loop


def iteration(made: LightningCLI, updater: Updater, number: int) -> dict[str, float]:
    """Seconds and sizes of one iteration; nothing is learnt from one to the next."""
    start = measuring.now()
    rollout = play(made, number)
    played = measuring.now()
    tokens = sum(row.length for part in made.datamodule.minibatch_rows(rollout) for row in part)
    batches = list(made.datamodule.micro_batches(rollout))
    return {
        "rollout and scoring, s": played - start,
        "update, s": updater.update(batches)["all"],
        "transitions": len(rollout.transitions),
        "rows": sum(len(batch.input_ids) for batch in batches),
        "tokens": tokens,
        "padding": padding(batches, tokens),
        "overflows": sum(e.overflowed for e in rollout.episodes),
        "success": sum(e.won for e in rollout.episodes) / len(rollout.episodes),
    }


def main() -> None:
    parser = measuring.parser(__doc__, repeats=3)
    parser.add_argument("--config", default="household/paw")
    parser.add_argument("--turn-template", default=TURN)
    options = parser.parse_args()
    measuring.prepare(options)
    repeats = 1 if options.quick else options.repeats
    small = {"data.groups": 2, "data.group_size": 4} if options.quick else {}
    still = small | {"model.optimizer.init_args.lr": 0.0}
    arms = {}
    for name in ("step", "episode"):
        made = build([options.config], layout_settings(name) | still, options)
        loop = environment_loop(made.trainer)
        loop.prompt = replace(loop.prompt, turn_template=options.turn_template)
        arms[name] = partial(iteration, made, Updater(made))
    results = measuring.in_turns(arms, repeats)
    middle = {name: measuring.medians(rows) for name, rows in results.items()}
    measuring.table(
        [
            {"": key, "step": step, "episode": middle["episode"][key], "step / episode": _ratio(middle, key)}
            for key, step in middle["step"].items()
        ]
    )
    measuring.report(options, results)


def _ratio(middle: dict[str, dict[str, float]], key: str) -> float | str:
    return middle["step"][key] / middle["episode"][key] if middle["episode"][key] else ""


if __name__ == "__main__":
    main()
