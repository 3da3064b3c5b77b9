"""One training step of a random Qwen2-shaped model: seconds, tokens per second, memory, model FLOP utilisation.

    python benchmarks/model_step.py --shape 1.5B --dtype bfloat16    # an accelerator with 40 GB or more
    python benchmarks/model_step.py                                  # 16M: what a CPU can do

The model is the package's own, heads included; a row is a prompt, an action and a predicted observation of the paper's
ALFWorld lengths. Weights, gradients and AdamW's moments have --dtype. Utilisation is 6 x parameters x tokens, plus
attention, over the seconds and the speed of the machine: --peak-tflops, or that of a matrix product measured here.
Gradient checkpointing (--checkpointing) is not counted as work.
"""

from __future__ import annotations

import statistics
import tempfile
from argparse import Namespace
from typing import Any

import measuring
import torch
from building import QWEN_VOCABULARY, random_qwen
from torch import Tensor

from paw_lightning.models.loading import load_language_model
from paw_lightning.models.policy_world_model import PolicyWorldModel
from paw_lightning.policy.losses import PolicyLoss
from paw_lightning.world_model.loss import WorldModelLoss

SHAPES = {  # hidden, layers, vocabulary, rows
    "tiny": (96, 3, 600, 8),
    "16M": (320, 8, 600, 8),
    "0.5B": (896, 24, QWEN_VOCABULARY, 8),
    "1.5B": (1_536, 28, QWEN_VOCABULARY, 8),
}
PROMPT, ACTION, OBSERVATION = 500, 120, 30
"""Tokens of a row."""


def batch(rows: int, vocabulary: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids at random, the mask of the actions, the mask of the observations."""
    width = PROMPT + ACTION + OBSERVATION
    ids = torch.randint(vocabulary, (rows, width), device=device)
    place = torch.arange(width, device=device).expand(rows, -1)
    return ids, (place >= PROMPT) & (place < PROMPT + ACTION), place >= PROMPT + ACTION


def step(model: PolicyWorldModel, optimizer: torch.optim.Optimizer, example: tuple[Tensor, Tensor, Tensor]) -> None:
    """Both losses, backward, AdamW."""
    out = model(*example, 1.0)
    old, advantages = out.action_logprobs.detach(), torch.ones_like(out.action_logprobs)
    policy = PolicyLoss()(out.action_logprobs, out.action_entropies, old, advantages, None).mean()
    (policy + WorldModelLoss()(out.target_logprobs).mean()).backward()
    optimizer.step()
    optimizer.zero_grad()


def measured_peak(options: Namespace) -> float:
    """Floating-point operations per second of a large square matrix product."""
    size = 8_192 if options.device == "cuda" else 1_024
    a, b = torch.randn(2, size, size, device=options.device, dtype=getattr(torch, options.dtype))
    [seconds] = measuring.interleaved([lambda: a @ b], 5)
    return 2 * size**3 / min(seconds)


def operations(model: PolicyWorldModel, rows: int) -> float:
    """6 N per token for all but the head, 6 H V per token that a head reads, and causal attention."""
    config, width = model.language_model.config, PROMPT + ACTION + OBSERVATION
    head = config.vocab_size * config.hidden_size
    backbone = sum(p.numel() for p in model.language_model.get_decoder().parameters()) - head
    attention = config.num_hidden_layers * config.hidden_size * width  # half the square, two products
    return 6.0 * rows * (width * (backbone + attention) + (ACTION + OBSERVATION) * head)


def main() -> None:
    parser = measuring.parser(__doc__, repeats=5)
    parser.add_argument("--shape", choices=SHAPES, default="16M")
    parser.add_argument("--rows", type=int, help="of the micro-batch")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations in the backward pass")
    parser.add_argument("--peak-tflops", type=float, help="of the machine in this dtype")
    options = parser.parse_args()
    measuring.prepare(options)
    options.shape = "tiny" if options.quick else options.shape
    hidden, layers, vocabulary, rows = SHAPES[options.shape]
    rows = options.rows or (2 if options.quick else rows)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, torch.device(options.device):
        path = random_qwen(folder, hidden, layers, vocabulary)
        language_model = load_language_model(
            path, weights="random", dtype=options.dtype, activation_checkpointing=options.checkpointing
        )
    model = PolicyWorldModel(language_model).to(options.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    example = batch(rows, vocabulary, options.device)
    work, peak_speed = operations(model, rows), options.peak_tflops and options.peak_tflops * 1e12
    step(model, optimizer, example)  # warms up, and makes the optimizer's state
    measuring.reset_peak(options.device)
    [seconds] = measuring.interleaved([lambda: step(model, optimizer, example)], options.repeats, warm=False)
    memory, median = measuring.peak(options.device), statistics.median(seconds)
    peak_speed = peak_speed or measured_peak(options)
    row: dict[str, Any] = {
        "shape": options.shape,
        "parameters, M": sum(p.numel() for p in model.parameters()) / 1e6,
        "rows": rows,
        "step, s": median,
        "tokens/s": rows * (PROMPT + ACTION + OBSERVATION) / median,
        "peak memory, GiB": memory / 2**30,
        "machine, TFLOP/s": peak_speed / 1e12,
        "utilisation": work / median / peak_speed,
    }
    measuring.table([row])
    measuring.report(options, row | {"seconds": seconds, "operations": work})


if __name__ == "__main__":
    main()
