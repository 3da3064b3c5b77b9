"""Estimates the memory and the time of a run before it is started.

    paw-lightning estimate --config alfworld/paper --gpus 1 --gpu_gib 80

--config NAME and --key VALUE are those of `paw-lightning fit`. Lengths default to the settings' upper limits; --turns,
--prompt, --action and --observation give what a run typically has. Nothing is allocated: parameters and optimizer state
are counted, and a micro-batch's activations measured, on tensors without data. What one layer needs for a moment
(recomputing, gathering shards) is not in it.

Times are arithmetic over an assumed speed (--tflops reached per device, --bandwidth in GB/s), good to a factor of two.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from paw_lightning.cli.command_arguments import Arguments
from paw_lightning.errors import SettingsError

if TYPE_CHECKING:
    from paw_lightning.commands.memory import Memory, Parameters
    from paw_lightning.commands.sizes import Sizes

GIB = 2**30
FREE = 0.1
"""Share of a device's memory that is left to the allocator and to kernels."""
LENGTHS = {
    "turns": "of an episode",
    "prompt": "tokens before an action",
    "action": "tokens of an action",
    "observation": "tokens of an observation",
}


def command(args: list[str]) -> int:
    """Print the estimate; returns the exit status."""
    options, words = parse(args)
    from paw_lightning.commands.memory import build, cache_limit, memory, parameters
    from paw_lightning.commands.parsing import parse_settings
    from paw_lightning.commands.sizes import read_sizes

    lengths = {name: getattr(options, name) for name in LENGTHS}
    settings = parse_settings(words)
    sizes = read_sizes(settings, options.gpus, **lengths)
    model = build(sizes)
    counts, limit = parameters(model, sizes), cache_limit(model, sizes)
    needed = memory(model, sizes)
    row = f"a micro-batch is {sizes.micro_batch} rows of {sizes.lengths.row} tokens"
    print(f"{counts.policy / 1e6:,.1f} M parameters; {row}; per device:")
    show_memory(needed, options.gpu_gib)
    for name, value in seconds(sizes, needed, counts, limit, options.tflops, options.bandwidth).items():
        print(f"  {name:20} {value:9.1f} s per iteration")
    if settings.rollout.ahead:
        print(of_playing_ahead(sizes.sampler))
    return 0


def of_playing_ahead(sampler: str) -> str:
    """Whether the times of rollout and update add up."""
    if sampler == "vllm":
        return "rollout.ahead: the server plays beside the update, and an iteration takes the longer of the two"
    return f"rollout.ahead: sampler {sampler} plays before the update, and an iteration takes both"


def parse(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command's own options, checked, and the words that are `fit`'s."""
    parser = Arguments("estimate", __doc__)
    parser.add_argument("--gpus", type=int, default=1, help="devices (default: 1)")
    parser.add_argument("--gpu_gib", type=float, default=80.0, help="memory of each, in GiB (default: 80)")
    parser.add_argument("--tflops", type=float, default=300.0, help="speed that each reaches (default: 300)")
    parser.add_argument("--bandwidth", type=float, default=2000.0, help="of its memory, in GB/s (default: 2000)")
    for name, meaning in LENGTHS.items():
        parser.add_argument(f"--{name}", type=int, help=f"{meaning} (default: the settings' upper limit)")
    options, words = parser.parse_known_args(args)
    for name, value in vars(options).items():
        if value is not None and not value > 0:
            raise SettingsError(f"--{name} is {value}; wanted above 0")
    return options, words


def show_memory(needed: Memory, gpu_gib: float) -> None:
    """A line for each purpose, then the verdict."""
    for name, value in vars(needed).items():
        print(f"  {name.replace('_', ' '):20} {value / GIB:9.2f} GiB")
    print(f"  {'peak of the update':20} {needed.update / GIB:9.2f} GiB")
    print(f"  {'peak of the rollout':20} {needed.rollout / GIB:9.2f} GiB")
    peak = max(needed.update, needed.rollout) / GIB
    fits = "fits" if peak < (1 - FREE) * gpu_gib else "does NOT fit"
    print(f"{peak:.1f} GiB {fits} {gpu_gib:g} GiB (a tenth is left to the allocator and kernels)")


def seconds(
    sizes: Sizes, needed: Memory, counts: Parameters, cache_limit: int | None, tflops: float, bandwidth: float
) -> dict[str, float]:
    """Of one iteration: the update at 6 (recomputing: 8) operations per parameter and token, the rollout at 2 to read
    each row's prompt, and one pass over the weights for each token that a batch writes.

    Args:
        sizes: of the run.
        needed: its memory.
        counts: its parameters.
        cache_limit: tokens that the sampler's cache holds; episodes that do not fit are played in further batches.
        tflops: 10^12 operations per second that each device reaches.
        bandwidth: 10^9 bytes per second that each device reads.
    """
    rows, speed, lengths = sizes.rows / sizes.gpus, tflops * 1e12, sizes.lengths
    work = 8 if sizes.activation_checkpointing else 6
    # Growing transcripts: half of the cache is for what is remembered.
    room = cache_limit and cache_limit / (2 if sizes.growing and sizes.sampler == "native" else 1)
    batches = max(1.0, sizes.turn_tokens / room) if room else 1.0
    passes = lengths.turns * lengths.action * batches
    return {
        "update": work * (counts.policy + counts.critic) * rows * lengths.row / speed,
        "rollout: reading": 2 * counts.policy * rows * lengths.prompt / speed,
        "rollout: writing": passes * max(needed.weights, needed.rollout_copy) / (bandwidth * 1e9),
    }
