"""What `paw-lightning estimate` says of every run whose time is known, beside that time.

    python benchmarks/predictions.py            # the table
    python benchmarks/predictions.py --write    # into docs/scaling.md

Our own benchmarks are read from docs/benchmarks.json, whose processor is the device `cpu`; the others say where
they come from. A device is never fitted to a row: a processor core has one set of figures for all of them.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import run_all
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from paw_lightning.commands import estimate
from paw_lightning.commands.estimating.bottleneck import bottleneck
from paw_lightning.commands.estimating.costs import Reader, Trainer
from paw_lightning.commands.estimating.devices import DEVICES, Device
from paw_lightning.commands.estimating.iteration import Plan, Seconds, Servers, seconds
from paw_lightning.commands.estimating.playing import Worlds
from paw_lightning.commands.estimating.reading import FREE
from paw_lightning.commands.estimating.shapes import SIZES, Shape, shape_of
from paw_lightning.commands.estimating.work import Work
from paw_lightning.commands.memory import GIB, Memory
from paw_lightning.commands.parsing import parse_settings
from paw_lightning.commands.sizes import Sizes

DOCUMENT = Path(__file__).parent.parent / "docs/scaling.md"
NUMBERS = json.loads(run_all.NUMBERS.read_text())
OURS, SHARED, FOREIGN = 2.0, 3.0, 4.0
"""Factors that a test holds predictions within: of this package on the benchmarks' processor; on other processors, or
on cores that others shared; of other people's code on GPUs."""


@dataclass(frozen=True)
class Row:
    """One figure of one run."""

    run: str
    phase: str
    measured: float
    predicted: float
    within: float = OURS

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted / self.measured


# Models


@functools.cache
def counted(**config: Any) -> Shape:
    """Count a model of this config."""
    with torch.device("meta"):
        return shape_of(AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)))


def qwen(
    hidden: int, layers: int, vocabulary: int, inner: int | None = None, heads: int | None = None, groups: int = 0
) -> Shape:
    """As `building.random_qwen` makes it, unless said otherwise."""
    heads = heads or max(2, hidden // (128 if hidden > 1_024 else 64))
    return counted(
        model_type="qwen2",
        hidden_size=hidden,
        intermediate_size=inner or hidden * 35 // 6 // 2 * 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups or max(1, heads // 6),
        vocab_size=vocabulary,
        tie_word_embeddings=True,
    )


TINY = qwen(96, 3, 545, inner=256, heads=4, groups=4)
"""The bundled policies."""
SMOLLM2_TURNS, SMOLLM2_ACTION, SMOLLM2_GROWN, SMOLLM2_SEEN = 6.5, 6.0, 92.0, 41.0
"""Of household/smollm2: most episodes last to the seventh turn; tokens of commands, turns and observations, counted
with its tokenizer in 12 houses."""
SMOLLM2 = counted(
    model_type="llama",
    hidden_size=576,
    intermediate_size=1_536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    vocab_size=49_152,
    tie_word_embeddings=True,
)


def cores(count: float) -> Device:
    """So many cores of the benchmarks' processor, as one device."""
    core = DEVICES["cpu"]
    return replace(
        core, tflops=count * core.tflops, tflops_fp32=count * core.tflops_fp32, bandwidth=count * core.bandwidth
    )


# Runs

QUICKSTART = Work(
    groups=8,
    group_size=8,
    turns=8,
    most_turns=8,
    action=5.7,
    most_action=12,
    prompt=0,
    observation=0,
    growing=True,
    passes=1,
    micro_batches=24,
    optimizer_steps=4,
)
GROWN = 27.9
"""Tokens that a transcript of the quickstart gains before an action: (16,824 - 2,868) / 500 of `paw_overhead`."""


def quickstart(turns: float, most: int = 8, **changes: Any) -> Work:
    """The quickstart's transcripts, of so many turns on average."""
    work = replace(QUICKSTART, turns=turns, most_turns=most, **changes)
    return replace(work, prompt=turns * GROWN + (turns - 1) * work.action)


def iteration(
    work: Work,
    shape: Shape,
    device: Device,
    bits: int = 32,
    weight: int = 4,
    gpus: int = 1,
    *,
    worlds: Worlds | None = None,
    servers: Servers | None = None,
    server: Reader | None = None,
) -> Seconds:
    """Of one iteration of full training with AdamW."""
    held = float(shape.total * weight)
    trainer = Trainer(device, shape, gpus, False, bits, held, held, 2 * held, False)
    reader = Reader(device, shape, bits // 8, 2_048)
    return seconds(Plan(work, trainer, reader, worlds or Worlds(), None, servers, server))


def median(records: Iterable[dict[str, Any]], *names: str) -> float:
    return statistics.median(sum(record[name] for name in names) for record in records)


def against_trl() -> list[Row]:
    """`benchmarks/end_to_end.py`, our side."""
    rows = []
    for turns, arms in NUMBERS["end_to_end"]["results"].items():
        for arm in ("GRPO", "GRPO + PaW"):
            records = arms[f"paw_lightning, {arm}"]
            work = quickstart(median(records, "steps") / 64, int(turns), observation=12.5 if "PaW" in arm else 0)
            said = iteration(work, TINY, cores(1))
            run = f"quickstart, {arm}, {turns} turns"
            rows += [
                Row(run, "generation", median(records, "play"), said.play),
                Row(run, "scoring", median(records, "scoring"), said.scoring),
                Row(run, "update", median(records, "update"), said.update),
            ]
    return rows


def curves() -> list[Row]:
    """`benchmarks/scaling.py`: one setting of the quickstart varied."""
    rows = []
    for curve, points in NUMBERS["scaling"]["results"].items():
        for point in points:
            value = int(point["varied"].split()[1].replace(",", ""))
            turns = point["environment steps"] / point["episodes"]
            shape, gpus, device = TINY, 1, cores(2)
            work = quickstart(turns, 16, groups=point["episodes"] // 8, observation=12.5)
            if curve == "turns":
                work = replace(work, most_turns=value)
            if curve == "vocabulary":  # noise: every action runs to its limit
                work = quickstart(turns, 4, groups=2, action=12.0, observation=12.5)
                shape = qwen(96, 3, value)
            if curve == "ranks":
                gpus, device, work = value, cores(1), replace(work, micro_batches=24 // value, most_turns=8)
            said = iteration(work, shape, device, gpus=gpus)
            run = f"quickstart, {point['varied']}"
            rows += [
                Row(run, "generation, scoring", point["rollout, s"], said.play + said.scoring),
                Row(run, "update", point["update, s"], said.update),
            ]
    return rows


def layouts() -> list[Row]:
    """`benchmarks/layouts.py`, of PaW; a row of the step layout ends with an action of 5.7 and 12.4 more tokens."""
    rows = []
    for name, records in NUMBERS["layouts"]["results"].items():
        turns = median(records, "transitions") / 64
        work = quickstart(turns, observation=12.5)
        if name == "step":
            row = median(records, "tokens") / median(records, "rows")
            work = replace(work, growing=False, prompt=row - 5.7 - 12.4, padding=median(records, "padding"))
        said = iteration(work, TINY, cores(1))
        rows += [
            Row(
                f"quickstart, {name} layout",
                "generation, scoring",
                median(records, "rollout and scoring, s"),
                said.play + said.scoring,
            ),
            Row(f"quickstart, {name} layout", "update", median(records, "update, s"), said.update),
        ]
    return rows


def model_steps() -> list[Row]:
    """`benchmarks/model_step.py`, and the rows of ALFWorld's lengths of `benchmarks/paw_overhead.py`."""
    step = NUMBERS["model_step"]["results"]
    rows_of_500 = replace(
        QUICKSTART,
        groups=1,
        turns=1,
        most_turns=1,
        action=120,
        most_action=120,
        prompt=500,
        observation=30,
        growing=False,
    )
    rows_of_500 = replace(rows_of_500, micro_batches=1, optimizer_steps=1, padding=0)
    rows = [Row("a step, 16M", "update", step["step, s"], iteration(rows_of_500, qwen(320, 8, 600), cores(1)).update)]
    found = next(r for r in NUMBERS["paw_overhead"]["results"] if r["shape"] == "alfworld")
    shape = qwen(896, 24, 151_936)
    for arm in ("GRPO", "PaW"):
        seen = found["predicted"][arm] / found["transitions"]
        action = found["acted"] / found["transitions"]
        work = replace(
            rows_of_500,
            group_size=2,
            groups=4,
            action=action,
            most_action=150,
            prompt=found["tokens"]["GRPO"] / found["transitions"] - action,
            observation=seen,
            micro_batches=4,
            padding=found["padding"],
        )
        said = iteration(work, shape, cores(1), bits=16, weight=2)
        rows.append(
            Row(f"8 rows of ALFWorld, 0.5B, {arm}", "update", median(found["seconds"][arm], "all"), said.update)
        )
    said = iteration(replace(work, group_size=1, groups=8), shape, cores(1), bits=16, weight=2)
    rows.append(Row("8 rows of ALFWorld, 0.5B", "generation", found["rollout"], said.play))
    return rows


def samplers() -> list[Row]:
    """`benchmarks/sampler.py`: 64 prompts, 12 tokens each, no stop."""
    shapes = {"tiny": (128, 4), "10M": (320, 8)}
    rows = []
    for found in NUMBERS["sampler"]["results"]:
        hidden, layers = shapes[found["model"]]
        shape = qwen(hidden, layers, 600, inner=4 * hidden, heads=hidden // 32, groups=hidden // 32)
        work = replace(
            QUICKSTART,
            turns=1,
            most_turns=1,
            action=12,
            most_action=12,
            prompt=225,
            growing=False,
            group_size=1,
            groups=64,
        )
        kinds: dict[str, dict[str, Any]] = {
            "ragged, nothing shared": {},
            "equal lengths, nothing shared": {},
            "8 groups of 8 identical": {"group_size": 8, "groups": 8},
            "a third of each is a common prefix": {"prompt": 125},  # the rest is read once
            "mixed lengths (1 in 8 is long)": {"prompt": 300 / 8 + 50 * 7 / 8},
            # 8 turns of 12 and 20 to 60 tokens behind 225: (225 + 7 x 40) / 8 tokens a turn
            "whole episodes": {
                "group_size": 8,
                "groups": 8,
                "growing": True,
                "turns": 8,
                "most_turns": 8,
                "prompt": 225 + 7 * (12 + 40),
            },
        }
        said = iteration(replace(work, **kinds[found["prompts"]]), shape, cores(1))
        rows.append(Row(f"sampler, {found['model']}, {found['prompts']}", "generation", found["native, s"], said.play))
    return rows


def smollm2() -> list[Row]:
    """SmolLM2 with 135 million parameters on two cores."""
    # 64 prompts of 185 tokens, up to 24 new ones (21.2 on average), float32, on cores that others shared
    once = replace(
        QUICKSTART,
        turns=1,
        most_turns=1,
        action=21.2,
        most_action=24,
        prompt=185,
        growing=False,
        group_size=1,
        groups=64,
    )
    two = cores(2)
    said = iteration(once, SMOLLM2, two)
    server = Reader(two, SMOLLM2, 4, 2_048, server=True)
    asked = iteration(
        once, SMOLLM2, two, servers=Servers(1, 64, 4.0 * SMOLLM2.total, 4.0 * SMOLLM2.total), server=server
    )
    rows = [
        Row("SmolLM2, 64 prompts, native", "generation", 55.5, said.play, SHARED),
        Row("SmolLM2, 64 prompts, vLLM on the CPU", "generation", 68.0, asked.play, SHARED),
        Row("SmolLM2, to vLLM on the CPU", "sync", 4.2, asked.sync, SHARED),
    ]
    # household/smollm2: 4 x 8 episodes of up to 7 turns, bfloat16 without AMX; 16 iterations, 2 x 100 episodes to judge
    played = replace(
        QUICKSTART,
        groups=4,
        turns=SMOLLM2_TURNS,
        most_turns=7,
        action=SMOLLM2_ACTION,
        most_action=16,
        prompt=SMOLLM2_TURNS * SMOLLM2_GROWN + (SMOLLM2_TURNS - 1) * SMOLLM2_ACTION,
        observation=SMOLLM2_SEEN,
        passes=0,
        micro_batches=8,
        optimizer_steps=2,
    )
    trained = iteration(played, SMOLLM2, two, bits=16)
    judged = iteration(replace(played, groups=100, group_size=1), SMOLLM2, two, bits=16)
    return [
        *rows,
        Row("SmolLM2, 16 iterations and 2 validations", "all", 34 * 60.0, 16 * trained.total + 2 * judged.play, SHARED),
        Row("SmolLM2, one iteration", "all", 103.0, trained.total, SHARED),
        Row("SmolLM2, one iteration", "generation", 0.29 * 103.0, trained.play, SHARED),
        Row("SmolLM2, one iteration", "update", 0.70 * 103.0, trained.update, SHARED),
    ]


def whole_runs() -> list[Row]:
    """Runs of the studies: 10 iterations and 200 episodes to judge, two runs at a time on two cores."""
    near = iteration(quickstart(7.6), TINY, cores(1))
    near_judged = iteration(quickstart(7.6, groups=200, group_size=1), TINY, cores(1))
    far = iteration(quickstart(9.7, 10), TINY, cores(1))
    far_judged = iteration(quickstart(9.7, 10, groups=200, group_size=1), TINY, cores(1))
    # 8 x 8 episodes of up to 20 turns, prompts near 100 tokens, read anew at every turn; 2 x 8 micro-batches
    official = replace(QUICKSTART, turns=19.0, most_turns=20, growing=False, prompt=110, observation=15)
    official = replace(official, micro_batches=16, optimizer_steps=2)
    return [
        Row("study, near_grpo, 10 iterations", "all", 19.0, 10 * near.total + near_judged.play, SHARED),
        Row("study, starved_grpo, 10 iterations", "all", 32.0, 10 * far.total + far_judged.play, SHARED),
        Row("official ALFWorld games, small policy", "all", 20.0, iteration(official, TINY, cores(1)).total, SHARED),
    ]


def paces() -> list[Row]:
    """32 episodes of 8 turns on vLLM on a CPU, each step of an environment 0.5 s on average (a simulation there too).

    Its model generated for 10.4 s in all in lock step, 8 turns of 1.3 s: a step of 12 takes 0.108 s for 32 rows.
    """
    work = replace(QUICKSTART, groups=32, group_size=1, action=12, most_action=12, prompt=8 * GROWN + 7 * 12.0)
    worlds = Worlds(0.5, side_by_side=True)
    step = 10.4 / 8 / 12
    device = replace(cores(2), call_us=1e6 * step / 3, server_call_us=1e6 * step / 3)
    lock_step = iteration(work, TINY, device, worlds=worlds)
    server = Reader(device, TINY, 4, 2_048, server=True)
    apart = iteration(work, TINY, device, worlds=worlds, servers=Servers(1, 64, 0, 0), server=server)
    return [
        Row("32 episodes, steps of 0.5 s, in lock step", "generation, environment", 27.4, lock_step.play),
        Row("32 episodes, steps of 0.5 s, at their own pace", "generation, environment", 13.0, apart.play),
    ]


def engines() -> list[Row]:
    """A first prototype's loop and training speed, two cores: 64 prompts of 150 to 300 tokens, 12 new ones."""
    rows = []
    once = replace(
        QUICKSTART, turns=1, most_turns=1, action=8, most_action=12, prompt=225, growing=False, group_size=1, groups=64
    )
    for name, hidden, layers, alone, shared, trained in (
        ("0.9M", 128, 4, 0.70, 0.18, 16_000.0),
        ("10M", 320, 8, 4.7, 1.1, 1_900.0),
    ):
        shape = qwen(hidden, layers, 600, inner=4 * hidden, heads=hidden // 32, groups=hidden // 32)
        rows.append(Row(f"prototype, {name}", "generation", alone, iteration(once, shape, cores(2)).play, SHARED))
        grouped = iteration(replace(once, group_size=8, groups=8), shape, cores(2))
        rows.append(Row(f"prototype, {name}, 8 groups of 8", "generation", shared, grouped.play, SHARED))
        batch = replace(once, groups=32, prompt=225, micro_batches=1, optimizer_steps=1, padding=0)
        seconds_of = iteration(batch, shape, cores(2)).update
        rows.append(Row(f"prototype, {name}, 32 rows", "update", 32 * 233 / trained, seconds_of, SHARED))
    return rows


def published() -> list[Row]:
    """Other people's run: Qwen2.5-3B on ALFWorld, 16 x 8 episodes of 50 turns, on 4 A100-80.

    vLLM plays on the same cards, in lock step. 3.83 million tokens in 6,400 rows are 598 a row, of which answers of 100
    are assumed. Generation, log-probs of policy and reference, and update are given apart (verl-agent's family, first
    step; a teacher's 260 s are left out).
    """
    card, shape = DEVICES["A100"], counted(**SIZES["3B"])
    work = Work(
        groups=16,
        group_size=8,
        turns=50,
        most_turns=50,
        action=100,
        most_action=512,
        prompt=498,
        observation=0,
        growing=False,
        passes=2,
        micro_batches=100,
        optimizer_steps=25,
        padding=0.05,
    )
    reader = Reader(card, shape, 2, 16_384, server=True)
    held = float(shape.total * 4)
    trainer = Trainer(card, shape, 4, True, 16, held, held, 2 * held, True)
    said = seconds(Plan(work, trainer, reader, Worlds(), None))
    run = "verl-agent family, 3B, 4 x A100"
    return [
        Row(run, "generation", 425.0, said.play, FOREIGN),
        Row(run, "scoring", 179.0 + 175.0, said.scoring, FOREIGN),
        Row(run, "update", 774.0, said.update, FOREIGN),
        Row(run, "all", 1_556.0, said.total, FOREIGN),
    ]


def rows() -> list[Row]:
    """Every run there is."""
    parts = [against_trl, curves, layouts, model_steps, samplers, engines, smollm2, whole_runs, paces, published]
    return [row for part in parts for row in part()]


def table(found: Sequence[Row]) -> str:
    """Markdown: one line for each figure."""
    head = "| run | what | measured, s | predicted, s | predicted / measured |\n|---|---|--:|--:|--:|\n"
    lines = [
        f"| {row.run} | {row.phase} | {_written(row.measured)} | {_written(row.predicted)} | {row.ratio:.2f} |"
        for row in found
    ]
    return head + "\n".join(lines) + "\n"


def _written(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}"


# From 1 to 64 GPUs

GPUS = (1, 2, 4, 8, 16, 32, 64)
TYPICAL = ["--turns", "25", "--prompt", "690", "--action", "120", "--observation", "20"]
WHOLE = ["--config", "alfworld/paper", "--config", "strategy/ddp", *TYPICAL]
SHARDED = ["--config", "alfworld/paper", "--config", "strategy/fsdp2", *TYPICAL]
ADAPTERS = [*SHARDED, "--config", "lora", "--model.dtype", "bfloat16"]
KINDS = {"0.5B": WHOLE, "1.5B": WHOLE, "7B": SHARDED, "14B": SHARDED, "32B": ADAPTERS, "70B": ADAPTERS}
SAMPLERS = {"native": [], "vllm": ["--rollout.sampler", "vllm"]}


def sweep(sizes: Sequence[str] = tuple(KINDS), gpus: Sequence[int] = GPUS) -> str:
    """Markdown: seconds of an iteration of alfworld/paper on H100s, its longest phase; a dash where it does not fit."""
    head = f"| model | sampler | {' | '.join(map(str, gpus))} |\n|---|---|{'--:|' * len(gpus)}\n"
    lines = []
    for size in sizes:
        for sampler, words in SAMPLERS.items():
            told, rest = estimate.parse([*KINDS[size], *words, "--model_size", size])
            config = parse_settings(rest)
            cells = [_cell(*estimate.planned(config, number, number, told)) for number in gpus]
            kind = "LoRA, FSDP2" if KINDS[size] is ADAPTERS else "FSDP2" if KINDS[size] is SHARDED else "DDP"
            lines.append(f"| {size}, {kind} | {sampler} | {' | '.join(cells)} |")
    return head + "\n".join(lines) + "\n"


def _cell(plan: Plan, memory: Memory, _: Sizes) -> str:
    if memory.peak > (1 - FREE) * plan.trainer.device.memory * GIB:
        return f"- ({memory.peak / GIB:.0f} GiB)"
    found = seconds(plan)
    return f"{found.total:,.0f} {bottleneck(plan, found).phase}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into docs/scaling.md, the sweep over GPUs too")
    options = parser.parse_args()
    text = table(rows())
    print(text)
    if options.write:
        document = run_all.inserted(DOCUMENT.read_text(), "predictions", text)
        DOCUMENT.write_text(run_all.inserted(document, "sweep", sweep()))


if __name__ == "__main__":
    main()
