"""Peak memory and time of the language-model head: `linear_logprob` against a plain log_softmax.

Run as `python benchmarks/head_kernel.py [--tokens 512 4096] [--device cpu]`; prints a Markdown table. Every
measurement is a process of its own: allocators keep what an earlier one freed. The shape of Qwen2.5-1.5B by
default: at 4,096 tokens the plain path needs about 15 GiB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from paw_lightning.losses import linear_logprob

GIB = 2**30


def naive(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, None]:
    logits = (hidden @ weight.T).float()
    return logits.log_softmax(1).gather(1, targets[:, None]).squeeze(1), None


def naive_with_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logp = (hidden @ weight.T).float().log_softmax(1)
    return logp.gather(1, targets[:, None]).squeeze(1), -(logp.exp() * logp).sum(1)


PATHS = {"naive": naive, "naive, entropy": naive_with_entropy, "linear_logprob": linear_logprob}


def forward_backward(path: str, hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    logprobs, entropies = PATHS[path](hidden, weight, targets)
    loss = -logprobs.mean()
    if path != "naive":
        loss = loss - 0.01 * entropies.mean()
    loss.backward()


def reset_peak(device: str) -> int:
    """Forget the peak so far; return the bytes in use now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return peak(device)


def peak(device: str) -> int:
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def measure(path: str, tokens: int, vocabulary: int, width: int, dtype: str, device: str) -> dict[str, float]:
    """One forward and backward; the peak is counted over the inputs, weight and weight gradient."""
    torch.manual_seed(0)
    options = {"dtype": getattr(torch, dtype), "device": device}
    forward_backward(path, *inputs(8, 64, width, options))  # libraries load
    example = inputs(tokens, vocabulary, width, options)
    base = reset_peak(device)
    start = time.perf_counter()
    forward_backward(path, *example)
    used = peak(device) - base
    gradients = sum(tensor.grad.nbytes for tensor in example[:2])
    return {"seconds": time.perf_counter() - start, "bytes": used - gradients}


def inputs(tokens: int, vocabulary: int, width: int, options: dict) -> tuple[Tensor, Tensor, Tensor]:
    hidden = torch.randn(tokens, width, **options).requires_grad_()
    weight = torch.randn(vocabulary, width, **options).mul_(0.05).requires_grad_()
    return hidden, weight, torch.randint(vocabulary, (tokens,), device=options["device"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 4096])
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--width", type=int, default=1_536)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--path", choices=PATHS, help="measure this path alone, in this process, and print JSON")
    args = parser.parse_args()
    shape = {"vocabulary": args.vocabulary, "width": args.width, "dtype": args.dtype, "device": args.device}
    if args.path:
        torch.set_num_threads(args.threads)
        print(json.dumps(measure(args.path, args.tokens[0], **shape)))
        return
    print("| tokens | path | peak over weight and gradient, GiB | relative | seconds | relative |")
    print("|--:|---|--:|--:|--:|--:|")
    for tokens in args.tokens:
        first = None
        for path in PATHS:
            options = [f"--{key}={value}" for key, value in shape.items()]
            command = [sys.executable, __file__, f"--tokens={tokens}", f"--threads={args.threads}", *options]
            got = json.loads(subprocess.run([*command, f"--path={path}"], check=True, stdout=subprocess.PIPE).stdout)
            first = first or got
            ratios = [got[key] / first[key] for key in ("bytes", "seconds")]
            print(
                f"| {tokens} | {path} | {got['bytes'] / GIB:.2f} | {ratios[0]:.2f} "
                f"| {got['seconds']:.1f} | {ratios[1]:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
