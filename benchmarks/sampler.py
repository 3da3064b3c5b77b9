"""Times `NativeSampler` against transformers' `generate` and continuous batching: `python benchmarks/sampler.py`.

All sample 12 tokens for the same 64 prompts from the same random Qwen2, `generate` and the native sampler in turns.
`generate` only returns tokens; the native sampler returns log-probs and entropies as well. In "whole episodes" 8 groups
of 8 transcripts grow for 8 turns by 12 sampled tokens and 20 to 60 of an observation: `generate` reads each transcript
anew, a session of the sampler only what is new. `paged` is `rollout.sampler: paged`, transformers' continuous batching,
measured on the ragged prompts, its pages empty and its manager started. On a busy machine trust `--clock processor`,
which of `paged`, a second thread, would count the waiting too: there its seconds are wall clock all the same.
"""

from __future__ import annotations

import random
import statistics
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import measuring
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from paw_lightning.samplers.native import NativeSampler
from paw_lightning.samplers.paged import PagedSampler

VOCABULARY, NEW_TOKENS, ROWS, PAD, TURNS = 600, 12, 64, 0, 8
PAGES = {"page_size": 32, "num_blocks": 1_024, "max_batch_tokens": 2_048}  # by default it takes most of the memory
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


def generate_with_transformers(model: Any, prompts: Prompts, new_tokens: int = NEW_TOKENS) -> Prompts:
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    whole: torch.Tensor = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=new_tokens,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        pad_token_id=PAD,
    )
    return whole[:, width:].tolist()


def paged_seconds(model: Qwen2ForCausalLM, prompts: Prompts, repeats: int, **settings: Any) -> float:
    """Wall-clock seconds for the prompts, all pages empty, the manager running."""
    sampler = PagedSampler(model, stop_token_ids=[], pad_token_id=PAD, **PAGES)
    seconds = []
    for _ in range(repeats):
        sampler.update_weights()
        sampler.generate([prompt[::-1] for prompt in prompts], **settings)  # it is sized by what it first gets
        start = time.monotonic()
        sampler.generate(prompts, **settings)
        seconds.append(time.monotonic() - start)
    sampler.update_weights()
    return statistics.median(seconds)


def measure(name: str, options: Namespace) -> list[dict[str, Any]]:
    """One row per kind of prompts."""
    hidden, layers, shortest, longest = MODELS[name]
    model = build_model(hidden, layers).to(options.device, getattr(torch, options.dtype))
    sampler = NativeSampler(model, stop_token_ids=[], pad_token_id=PAD)
    uniforms = torch.rand(ROWS, NEW_TOKENS)
    settings: dict[str, Any] = {
        "temperature": 1.0,
        "max_new_tokens": NEW_TOKENS,
        "uniforms": uniforms,
    }
    large = name == "10M"
    repeats = 1 if options.quick else max(1, options.repeats // 4) if large else options.repeats
    pairs: dict[str, list[Callable[[], object]]] = {
        kind: [partial(generate_with_transformers, model, prompts), partial(sampler.generate, prompts, **settings)]
        for kind, prompts in workloads(shortest, longest).items()
    }
    pairs["whole episodes"] = [
        partial(play, partial(generate_with_transformers, model), shortest, longest),
        partial(play_in_session, sampler, shortest, longest, **settings),
    ]
    rows = []
    for kind, calls in pairs.items():
        if options.prompts not in kind:
            continue
        theirs, ours = measuring.interleaved(calls, repeats, warm=not large)
        row = {
            "model": name,
            "prompts": kind,
            "generate, s": statistics.median(theirs),
            "native, s": statistics.median(ours),
            "times as fast": measuring.median_of_ratios(theirs, ours),
            "paged, s": "",
        }
        if kind.startswith("ragged") and options.paged:
            row["paged, s"] = paged_seconds(model, workloads(shortest, longest)[kind], 1 if large else 2, **settings)
        rows.append(row)
    return rows


def main() -> None:
    parser = measuring.parser(__doc__, repeats=4)
    parser.add_argument("--model", nargs="+", choices=MODELS, default=["tiny", "10M"])
    parser.add_argument("--prompts", default="", help="only the cases whose name holds this")
    parser.add_argument("--no-paged", dest="paged", action="store_false")
    options = parser.parse_args()
    measuring.prepare(options)
    torch.manual_seed(0)
    options.model = ["small"] if options.quick else options.model
    rows = [row for name in options.model for row in measure(name, options)]
    measuring.table(rows)
    measuring.report(options, rows)


if __name__ == "__main__":
    main()
