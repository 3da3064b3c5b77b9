"""Times `NativeSampler` against transformers' `generate`: `python benchmarks/sampler.py --json sampler.json`.

Both sample 12 tokens for the same 64 prompts from the same random Qwen2, interleaved in one process. `generate` only
returns tokens; `NativeSampler` returns log-probs and entropies as well. On a busy machine trust the last column.
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

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from paw_lightning.rollouts.sampler import NativeSampler

VOCABULARY, NEW_TOKENS, ROWS, PAD = 600, 12, 64, 0
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


def generate_with_transformers(model: Qwen2ForCausalLM, prompts: Prompts) -> None:
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=NEW_TOKENS,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        pad_token_id=PAD,
    ).tolist()


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
        for workload, prompts in workloads(shortest, longest).items():
            settings = {"temperature": 1.0, "max_new_tokens": NEW_TOKENS, "uniforms": uniforms}
            calls = [
                partial(generate_with_transformers, model, prompts),
                partial(sampler.generate, prompts, **settings),
            ]
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
