"""The native sampler against transformers' `generate` and continuous batching (`generate_batch`) at Qwen2.5's sizes.

64 prompts of 400 to 800 tokens, 128 new tokens each, none of which ends an action: every contender writes as many. They
run in turns; the first round warms up. `generate` returns tokens alone; the native sampler log-probs and entropies too.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from typing import Any

import kit
import measuring
import torch
from sampler import PAD, generate_with_transformers

from paw_lightning.models.loading import load_language_model
from paw_lightning.samplers.native import NativeSampler
from paw_lightning.samplers.paged import PagedSampler

NEW_TOKENS, GROUPS, GROUP_SIZE = 128, 8, 8
Prompts = list[list[int]]


def workloads(shortest: int, longest: int, groups: int, group_size: int, vocabulary: int) -> dict[str, Prompts]:
    """Prompts that share nothing, and groups of identical ones, as GRPO's first turn has them."""
    dice = random.Random(0)

    def prompt() -> list[int]:
        return [dice.randrange(2, vocabulary) for _ in range(dice.randint(shortest, longest))]

    return {
        "nothing shared": [prompt() for _ in range(groups * group_size)],
        "groups of identical prompts": [row for _ in range(groups) for row in [prompt()] * group_size],
    }


def contenders(model: Any, prompts: Prompts, new_tokens: int) -> dict[str, Callable[[], object]]:
    """What writes so many tokens for all prompts."""
    model.generation_config.eos_token_id = None
    native = NativeSampler(model, stop_token_ids=[], pad_token_id=PAD)
    paged = PagedSampler(model, stop_token_ids=[], pad_token_id=PAD)
    settings: dict[str, Any] = {
        "temperature": 1.0,
        "max_new_tokens": new_tokens,
        "uniforms": torch.rand(len(prompts), new_tokens),
    }

    def generate_batch() -> None:
        paged.update_weights()  # pages of an earlier round are not reused
        paged.generate(prompts, **settings)

    return {
        "native": lambda: native.generate(prompts, **settings),
        "generate": lambda: generate_with_transformers(model, prompts, new_tokens),
        "generate_batch": generate_batch,
    }


def measure(options: kit.Options, shape: str, kind: str, prompts: Prompts, until: float) -> None:
    """Rounds in turns as long as there is time for one more; each call's seconds are written when it ends."""
    new_tokens = 4 if options.rehearse else NEW_TOKENS
    key = f"samplers/{shape}, {kind}"
    with kit.entry(options, key) as found:
        model = load_language_model(kit.model_directory(options, shape), dtype="bfloat16").to(options.device).eval()  # type: ignore
        calls = contenders(model, prompts, new_tokens)
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        found |= {"prompts": len(prompts), "new_tokens": new_tokens}
        for number in range(4):
            began = options.left()
            for name, call in list(calls.items()):
                start = measuring.now()
                try:
                    call()
                except Exception as error:
                    found[f"{name}_failed"] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                    del calls[name]
                    continue
                seconds[name] = [*(seconds[name] if number > 1 else []), measuring.now() - start]
                middle = statistics.median(seconds[name])
                found |= {f"{name}_s": middle, f"{name}_tokens_per_s": len(prompts) * new_tokens / middle}
                kit.write(options, key, {**found, "warm": number > 0})
            found["warm"] = number > 0
            if options.left() - until < 1.2 * (began - options.left()) or (options.rehearse and number):
                break


def main() -> None:
    options = kit.options(__doc__)
    sizes = (20, 40, 2, 2, 1_000) if options.rehearse else (400, 800, GROUPS, GROUP_SIZE, kit.QWEN_VOCABULARY)
    cases = [(shape, kind) for kind in workloads(*sizes) for shape in ("0.5B", "1.5B")]
    whole = options.left()
    for number, (shape, kind) in enumerate(cases, 1):
        measure(options, shape, kind, workloads(*sizes)[kind], whole * (1 - number / len(cases)))


if __name__ == "__main__":
    main()
