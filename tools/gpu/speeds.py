"""Tokens per second of an optimizer step of the paper's ALFWorld setting, played and trained by a random Qwen2.5.

128 episodes in generated houses of ALFWorld's size play two turns: 256 rows, which are one optimizer step of
alfworld/paper, trained as that file says. GRPO's update and PaW's are of the same rollout, in turns. For the 1.5B shape
a whole iteration of the paper's is estimated from the parts that were measured (`paper_iteration`).
"""

from __future__ import annotations

import statistics
from typing import Any

import kit
import measuring
import torch
from building import Updater, build, environment_loop, micro_batches, play, rows_of, select
from lightning.pytorch.cli import LightningCLI
from paw_overhead import ARMS, HOUSE

from paw_lightning.callbacks.run_cost import PHASES, peak_flops, speeds
from paw_lightning.types import MicroBatch, Rollout

CONFIG = "alfworld/paper"
TURNS, PAPER_TURNS, PAPER_ROWS = 2, 50, 3_500
"""Turns that are played; turns of an iteration at most, and its rows: 128 episodes of 23 to 31 turns."""
SAMPLER_TOKENS = 400_000
"""Keys and values that the sampler holds at a time, as docs/scaling.md advises where there is room."""
ROW_TOKENS = 830
"""Tokens of a row of the paper's lengths, 690 of prompt, 120 of action and 20 of observation."""


def settings(path: str, rehearse: bool) -> dict[str, Any]:
    """What the paper's configuration is changed in: the model, the world, the number of turns, one minibatch."""
    few = {"data.groups": 2, "data.group_size": 2, "rollout.max_action_tokens": 16} if rehearse else {}
    return {
        "model.path": path,
        "data.minibatches": 1,
        "trainer.accumulate_grad_batches": 2 if rehearse else 16,
        "rollout.max_steps": TURNS,
        "rollout.sampler.max_batch_tokens": SAMPLER_TOKENS,
        "rollout.environment.init_args.data_path": "null",
        **{f"rollout.environment.init_args.{name}": value for name, value in HOUSE.items()},
        **few,
    }


def played(made: LightningCLI) -> dict[str, Any]:
    """Seconds and tokens of a rollout, and what it was."""
    runner = environment_loop(made).runner
    with made.model.arithmetic():  # libraries load, and kernels are chosen
        runner.sampler.generate([[5, 6, 7, 8]] * 4, temperature=1.0, max_new_tokens=8, uniforms=torch.rand(4, 8))
    measuring.reset_peak(made.model.device.type)
    rollout = play(made)
    measuring.now()
    return {"rollout": rollout, "phases": dict(rollout.seconds), "bytes": measuring.peak(made.model.device.type)}


def both_arms(made: LightningCLI, rollout: Rollout) -> tuple[dict[str, list[MicroBatch]], dict[str, dict[str, int]]]:
    """The micro-batches of GRPO and of GRPO + PaW of the same rollout, and their tokens without and with padding."""
    batches: dict[str, list[MicroBatch]] = {}
    sizes: dict[str, dict[str, int]] = {"tokens": {}, "places": {}}
    for name, alpha in ARMS.items():
        select(made, rollout, alpha)
        sizes["tokens"][name] = sum(row.length for row in rows_of(made, rollout))
        batches[name] = micro_batches(made, rollout)
        sizes["places"][name] = sum(batch.input_ids.numel() for batch in batches[name])
    return batches, sizes


def update_speeds(
    made: LightningCLI,
    rollout: Rollout,
    phases: dict[str, float],
    seconds: dict[str, list[float]],
    sizes: dict[str, dict[str, int]],
) -> dict[str, Any]:
    """What the rounds so far tell: tokens per second by RunCost's own count, PaW over GRPO, utilisation."""
    known: dict[str, float] = {name: phases.get(name, 0.0) for name in PHASES}
    known["update"] = statistics.median(seconds["GRPO"])
    rates = speeds(rollout, known, sizes["tokens"]["GRPO"], sizes["places"]["GRPO"], scored=True)
    found: dict[str, Any] = {name.removeprefix("time/"): value for name, value in rates.items()}
    paw = statistics.median(seconds["PaW"])
    found |= {
        "update_s": known["update"],
        "paw_update_s": paw,
        "paw_over_grpo": measuring.median_of_ratios(seconds["PaW"], seconds["GRPO"]),
        "paw_trained_tokens_per_s": sizes["tokens"]["PaW"] / paw,
        "rounds": len(seconds["GRPO"]),
    }
    if made.model.device.type == "cuda" and (peak := peak_flops(kit.device_name("cuda"))):
        numbers = sum(p.numel() for p in made.model.language_model.parameters())
        found["update_mfu"] = 6 * numbers * sizes["tokens"]["GRPO"] / known["update"] / peak
    return found


def paper_iteration(found: dict[str, Any]) -> dict[str, float]:
    """Seconds of an iteration of the paper's shape, from the parts measured here.

    Generation and environment: 50 turns of all 128 episodes, so from above, as episodes end earlier. Scoring and
    update: 3,500 rows of 830 tokens at the measured tokens per second; PaW's update.

    Example: turns of 2 s, 50,000 tokens scored and 10,000 trained a second: 50 * 2 + 2,905,000 / 50,000 (58) + 290.5.
    """
    tokens = PAPER_ROWS * ROW_TOKENS
    parts = {
        "play_s": PAPER_TURNS * found["turn_s"],
        "scoring_s": tokens / found["scored_tokens_per_s"],
        "update_s": tokens / found["paw_trained_tokens_per_s"],
    }
    return {**parts, "iteration_s": sum(parts.values())}


def measure(options: kit.Options, shape: str) -> None:
    """Play, then update in turns until the time is over; every round writes what is known by then."""
    with kit.entry(options, f"speed/{shape}") as found:
        made = build([CONFIG], settings(kit.model_directory(options, shape), options.rehearse), options)
        parts = played(made)
        rollout, phases = parts["rollout"], parts["phases"]
        turns = max(len(episode.transitions) for episode in rollout.episodes)
        outside = sum(seconds for name, seconds in phases.items() if name not in ("scoring", "total"))
        lengths = [len(t.action_ids) for t in rollout.transitions]
        found |= {
            "parameters": sum(p.numel() for p in made.model.language_model.parameters()),
            "episodes": len(rollout.episodes),
            "rows": len(rollout.transitions),
            "turn_s": outside / turns,
            "action_tokens": statistics.mean(lengths),
            "longest_action": max(lengths),
            "play_peak_gib": parts["bytes"] / 2**30,
        }
        kit.write(options, f"speed/{shape}", found)
        # Updates in turns: the first warms up, and counts only while there is no other
        batches, sizes = both_arms(made, rollout)
        updater, seconds = Updater(made), dict[str, list[float]]()
        for number in range(2 if options.rehearse else 6):
            began = options.left()
            peaks = {}
            for name in ARMS:
                measuring.reset_peak(options.device)
                last = updater.update(batches[name])["all"]
                seconds[name] = [*(seconds.get(name, []) if number > 1 else []), last]
                peaks[name] = measuring.peak(options.device) / 2**30
            found |= update_speeds(made, rollout, phases, seconds, sizes)
            found |= {"warm": number > 0, "peak_gib": peaks["GRPO"], "paw_peak_gib": peaks["PaW"]}
            found["paper"] = paper_iteration(found)
            kit.write(options, f"speed/{shape}", found)
            if options.left() < 1.3 * (began - options.left()):
                break


if __name__ == "__main__":
    given = kit.options(__doc__, ("--shape", {"choices": list(kit.SHAPES), "required": True}))
    measure(given, given.shape)
