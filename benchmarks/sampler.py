"""Times `NativeSampler` against transformers' `generate`: `python benchmarks/sampler.py --json sampler.json`.

Both sample 12 tokens for the same 64 prompts from the same random Qwen2, interleaved in one process. `generate` only
returns tokens; `NativeSampler` returns log-probs and entropies as well. In "whole episodes" 8 groups of 8 transcripts
grow for 8 turns by 12 sampled tokens and 20 to 60 of an observation: `generate` reads each transcript anew, a session
of the sampler only what is new. On a busy machine trust the last column.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from paw_lightning.rollouts.sampler import NativeSampler

VOCABULARY, NEW_TOKENS, ROWS, PAD, TURNS = 600, 12, 64, 0, 8
MODELS = {  # hidden size, layers, shortest and longest ragged prompt
    "small": (96, 3, 40, 110),
    "tiny": (128, 4, 150, 300),
    "10M": (320, 8, 150, 300),
}

Prompts = list[list[int]]


def build_model(hidden: int, layers: int) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        max_position_embeddings=2048,
    )
    return Qwen2ForCausalLM(config).eval()


def workloads(shortest: int, longest: int) -> dict[str, Prompts]:
    """Sixty-four prompts each; token 0 is kept for padding."""
    dice = random.Random(0)

    def prompt(length: int) -> list[int]:
        return [dice.randrange(1, VOCABULARY) for _ in range(length)]

    lengths = [dice.randint(shortest, longest) for _ in range(ROWS)]
    prefix = prompt(100 * longest // 300)
    return {
        "ragged, nothing shared": [prompt(length) for length in lengths],
        "equal lengths, nothing shared": [prompt((shortest + longest) // 2) for _ in range(ROWS)],
        "8 groups of 8 identical": [row for length in lengths[:8] for row in [prompt(length)] * 8],
        "a third of each is a common prefix": [prefix + prompt(length - len(prefix)) for length in lengths],
        "mixed lengths (1 in 8 is long)": [prompt(longest if row % 8 == 0 else longest // 6) for row in range(ROWS)],
    }


def play(write: Callable[[Prompts], Prompts], shortest: int, longest: int) -> None:
    """Whole episodes: prompt, action, observation, action, ..."""
    dice = random.Random(0)

    def text(length: int) -> list[int]:
        return [dice.randrange(1, VOCABULARY) for _ in range(length)]

    transcripts = [prompt for _ in range(8) for prompt in [text(dice.randint(shortest, longest))] * 8]
    for _ in range(TURNS):
        actions = write(transcripts)
        transcripts = [
            transcript + action + text(dice.randint(20, 60))
            for transcript, action in zip(transcripts, actions, strict=True)
        ]


def play_in_session(sampler: NativeSampler, shortest: int, longest: int, **settings: Any) -> None:
    session = sampler.session()
    play(lambda prompts: [g.token_ids for g in session.generate(prompts, **settings)], shortest, longest)


def generate_with_transformers(model: Qwen2ForCausalLM, prompts: Prompts) -> Prompts:
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    whole: torch.Tensor = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=NEW_TOKENS,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        pad_token_id=PAD,
    )
    return whole[:, width:].tolist()


def interleaved(calls: Sequence[Callable[[], object]], repeats: int) -> tuple[list[list[float]], list[list[float]]]:
    """Wall-clock and processor seconds of each call, in turns: whatever else the machine does falls on all alike."""
    wall: list[list[float]] = [[] for _ in calls]
    processor: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for index, call in enumerate(calls):
            start = time.perf_counter(), time.process_time()
            call()
            if repeat:  # the first round warms up
                wall[index].append(time.perf_counter() - start[0])
                processor[index].append(time.process_time() - start[1])
    return wall, processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--prompts", default="", help="only the cases whose name holds this")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    results = []
    print("| model | prompts | generate, ms | NativeSampler, ms | times faster | in least processor time |")
    print("|---|---|---|---|---|---|")
    for name in options.models:
        hidden, layers, shortest, longest = MODELS[name]
        model = build_model(hidden, layers).to(options.device)
        sampler = NativeSampler(model, stop_token_ids=[], pad_token_id=PAD)
        uniforms = torch.rand(ROWS, NEW_TOKENS)
        settings = {"temperature": 1.0, "max_new_tokens": NEW_TOKENS, "uniforms": uniforms}
        pairs: dict[str, list[Callable[[], object]]] = {
            workload: [
                partial(generate_with_transformers, model, prompts),
                partial(sampler.generate, prompts, **settings),
            ]
            for workload, prompts in workloads(shortest, longest).items()
        }
        pairs["whole episodes"] = [
            partial(play, partial(generate_with_transformers, model), shortest, longest),
            partial(play_in_session, sampler, shortest, longest, **settings),
        ]
        for workload, calls in pairs.items():
            if options.prompts not in workload:
                continue
            wall, processor = interleaved(calls, options.repeats)
            theirs, ours = map(statistics.median, wall)
            ratio, processor_ratio = theirs / ours, min(processor[0]) / min(processor[1])
            print(
                f"| {name} | {workload} | {1e3 * theirs:.0f} | {1e3 * ours:.0f} "
                f"| {ratio:.2f} | {processor_ratio:.2f} |",
                flush=True,
            )
            row = {"model": name, "prompts": workload, "ratio": ratio, "processor_ratio": processor_ratio}
            results.append(row | {"generate_seconds": wall[0], "native_seconds": wall[1]})
    if options.json:
        environment = {"threads": options.threads, "device": options.device, "torch": torch.__version__}
        options.json.write_text(json.dumps({"environment": environment, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
