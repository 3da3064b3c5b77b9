"""Estimates the memory and the time of a run before it is started.

    paw-lightning estimate --config alfworld/paper --gpus 1,2,4,8 --device H100
    paw-lightning estimate --config alfworld/paper --model_size 7B --turns 25 --prompt 700 --action 120 --observation 20

--config NAME and --key VALUE are those of `paw-lightning fit`. Lengths default to the settings' upper limits, so that
memory is the most and time far too much: --turns, --prompt, --action and --observation give the means of a typical run.
Nothing is allocated: parameters and optimizer state are counted, and a micro-batch's activations measured, on tensors
without data. What one layer needs for a moment (recomputing, gathering shards) is not in it.

Time is that of a whole iteration. Playing is simulated with drawn lengths; all else is arithmetic over a device's speed
and the shares of it that are assumed to be reached. docs/scaling.md holds it to what was measured.
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from paw_lightning.cli.command_arguments import Arguments
from paw_lightning.errors import SettingsError

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from paw_lightning.commands.estimating.iteration import Plan
    from paw_lightning.commands.memory import Memory
    from paw_lightning.commands.sizes import Sizes

LENGTHS = {
    "turns": "of an episode, on average",
    "prompt": "tokens before an action; where transcripts grow, before the last one",
    "action": "tokens of an action",
    "observation": "tokens of an observation",
}


DEVICE_FLAGS = {
    "tflops": "10^12 bfloat16 operations a second",
    "tflops_fp32": "10^12 float32 operations a second",
    "bandwidth": "of its memory, GB/s",
    "memory": "GiB",
    "link": "to its neighbours, GB/s",
    "node_link": "of a machine to the next, GB/s",
    "per_node": "devices of one machine",
    "pcie": "to main memory, GB/s",
    "disk": "of the folder rollout.sampler.weights, GB/s",
    "train_share": "of the operations, reached in training",
    "read_share": "of the operations, reached in reading",
    "bandwidth_share": "of its memory's bandwidth, reached",
    "link_share": "of the links, reached",
    "call_us": "microseconds of a layer's call at least",
    "server_call_us": "the same in a server",
}
"""Fields of `estimating.devices.Device` that flags change."""


def command(args: list[str]) -> int:
    """Print the estimate; returns the exit status."""
    options, words = parse(args)
    from paw_lightning.commands.estimating.bottleneck import bottleneck, sentences
    from paw_lightning.commands.estimating.iteration import seconds
    from paw_lightning.commands.estimating.report import assumptions, memory_lines, table, uncounted, verdict
    from paw_lightning.commands.memory import GIB
    from paw_lightning.commands.parsing import parse_settings
    from paw_lightning.commands.terminal import headline, say

    config = parse_settings(words)
    made = [planned(config, gpus, servers, options) for gpus, servers in numbers_of_devices(options)]
    plans, needed, sizes = [plan for plan, _, _ in made], [memory for _, memory, _ in made], made[0][2]
    # Memory, in detail where one number of devices is asked for
    total = f"{plans[0].trainer.shape.total / 1e6:,.1f} M parameters"
    print(f"{total}; a micro-batch is {sizes.micro_batch} rows of {sizes.lengths.row} tokens; per device:")
    if len(made) == 1:
        print(*memory_lines(needed[0]), verdict(needed[0], plans[0].trainer.device), sep="\n")
    # Time
    found = [seconds(plan) for plan in plans]
    ahead = ", the next one played meanwhile" if found[0].ahead else ""
    print(f"\nseconds of one iteration, {options.device}{ahead}")
    print(*table(plans, found, [memory.peak / GIB for memory in needed]), sep="\n")
    longest = [bottleneck(plan, its) for plan, its in zip(plans, found, strict=True)]
    headline("what takes longest, and what moves it")
    for line in sentences(options.gpus, longest):
        say(line, "  ", "    ")
    headline("what this stands on; every --flag takes a better figure")
    for line in [*assumptions(options.device, plans[0], found[0].rows_used), *uncounted(config)]:
        say(line, "  ", "    ")
    return 0


def planned(
    config: Namespace, gpus: int, servers: int | None, options: argparse.Namespace
) -> tuple[Plan, Memory, Sizes]:
    """The plan of an iteration on so many devices, the memory of each, and what both were read from."""
    from paw_lightning.commands.estimating.devices import device
    from paw_lightning.commands.estimating.reading import plan_of
    from paw_lightning.commands.estimating.shapes import config_of
    from paw_lightning.commands.memory import GIB, build, cache_limit, memory
    from paw_lightning.commands.sizes import read_sizes

    known = device(options.device, {name: getattr(options, name) for name in DEVICE_FLAGS})
    lengths = {name: getattr(options, name) for name in LENGTHS}
    sizes = read_sizes(config, gpus, **{name: value and math.ceil(value) for name, value in lengths.items()})
    shape = config_of(options.model_size)
    card = None if options.device == "cpu" else known.memory * GIB
    needed, model = memory(build(sizes, shape), sizes, card), build(sizes, shape)  # memory replaces a model's tensors
    plan = plan_of(config, sizes, model, cache_limit(model, sizes, needed, card), known, servers, options)
    return plan, needed, sizes


def numbers_of_devices(options: argparse.Namespace) -> list[tuple[int, int | None]]:
    """`--gpus` and, for each, `--servers`."""
    servers: list[int | None] = list(options.servers or [None])
    if len(servers) == 1:
        servers *= len(options.gpus)
    if len(servers) != len(options.gpus):
        raise SettingsError(
            f"--servers has {len(servers)} numbers and --gpus {len(options.gpus)}; wanted one, or as many"
        )
    return list(zip(options.gpus, servers, strict=True))


def parse(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command's own options, checked, and the words that are `fit`'s."""
    parser = Arguments("estimate", __doc__)
    parser.add_argument("--gpus", type=_numbers, default=[1], help="that train, such as 8 or 1,2,4,8 (default: 1)")
    parser.add_argument("--servers", type=_numbers, help="that play (default: as many as rollout.sampler.urls)")
    parser.add_argument("--device", default="H100", help="H100, H200, A100, L40S, RTX 4090, or cpu (one core)")
    parser.add_argument("--model_size", help="0.5B, 1.5B, 3B, 7B, 14B, 32B or 70B in place of model.path")
    for name, meaning in LENGTHS.items():
        parser.add_argument(f"--{name}", type=float, help=f"{meaning} (default: the settings' upper limit)")
    parser.add_argument("--padding", type=float, default=0.05, help="share of a micro-batch (default: 0.05)")
    parser.add_argument("--env_seconds", type=float, default=0.0, help="of an environment's step (default: 0)")
    parser.add_argument("--env_together", action="store_true", help="a turn's steps overlap (worker processes)")
    parser.add_argument("--ahead", type=int, help="0 or 1 (default: rollout.ahead, or 0)")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn lengths (default: 0)")
    for name, meaning in DEVICE_FLAGS.items():
        kind = int if name == "per_node" else float
        parser.add_argument(f"--{name}", type=kind, help=f"{meaning} (default: the device's)")
    options, words = parser.parse_known_args(args)
    _check(options)
    return options, words


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, nor several with commas") from None


def _check(options: argparse.Namespace) -> None:
    for name in ("gpus", "servers", *LENGTHS, *DEVICE_FLAGS):
        given = getattr(options, name)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and not value > 0:
                raise SettingsError(f"--{name} is {value}; wanted above 0")
    if not options.env_seconds >= 0:
        raise SettingsError(f"--env_seconds is {options.env_seconds}; wanted at least 0")
    if not 0 <= options.padding < 1:
        raise SettingsError(f"--padding is {options.padding}; wanted at least 0 and below 1")
