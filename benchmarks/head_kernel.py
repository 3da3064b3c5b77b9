"""Peak memory and time of the language-model head: `linear_logprob` against a plain log_softmax.

`python benchmarks/head_kernel.py [--tokens 512 4096] [--entropy] [--device cuda]` prints a Markdown table. The default
shape is that of Qwen2.5-1.5B in float32, where the plain path takes some 9 GiB at 4,096 tokens, and half as much again
with `--entropy`. Every measurement is a process of its own, as allocators keep what was freed. On a CPU the seconds are
processor time, which other processes blur least.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from measuring import peak, reset_peak, settled
from torch import Tensor

from paw_lightning.models.linear_logprob import linear_logprob


def naive(hidden: Tensor, weight: Tensor, targets: Tensor, entropy: bool) -> tuple[Tensor, Tensor | None]:
    logp = (hidden @ weight.T).float().log_softmax(1)
    return logp.gather(1, targets[:, None]).squeeze(1), -(logp.exp() * logp).sum(1) if entropy else None


def ours(hidden: Tensor, weight: Tensor, targets: Tensor, entropy: bool) -> tuple[Tensor, Tensor]:
    return linear_logprob(hidden, weight, targets)


Path = Callable[[Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor | None]]
PATHS: dict[str, Path] = {
    "naive": naive,
    "linear_logprob": ours,
}


def forward_backward(path: str, entropy: bool, *example: Tensor) -> None:
    hidden, weight, targets = example
    logprobs, entropies = PATHS[path](hidden, weight, targets, entropy)
    loss = -logprobs.mean()
    if entropies is not None and entropy:
        loss = loss - 0.01 * entropies.mean()
    loss.backward()


def measure(
    path: str, entropy: bool, tokens: int, vocabulary: int, width: int, dtype: str, device: str
) -> dict[str, float]:
    """One forward and backward; the peak is counted over the inputs, the weight and their gradients."""
    torch.manual_seed(0)
    options = {"dtype": getattr(torch, dtype), "device": device}
    forward_backward(path, entropy, *inputs(8, 64, width, options))  # libraries load
    example = inputs(tokens, vocabulary, width, options)
    base = reset_peak(device)
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    forward_backward(path, entropy, *example)
    used = peak(device) - base
    gradients = sum(tensor.grad.nbytes for tensor in example[:2] if tensor.grad is not None)
    return {"seconds": clock() - start, "bytes": used - gradients}


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
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--entropy", action="store_true", help="let the entropies have a gradient too")
    parser.add_argument("--path", choices=PATHS, help="measure this path alone, in this process, and print JSON")
    args = parser.parse_args()
    args.device = settled(args.device)
    if args.path:
        torch.set_num_threads(args.threads)
        shape = {key: getattr(args, key) for key in ("vocabulary", "width", "dtype", "device")}
        print(json.dumps(measure(args.path, args.entropy, args.tokens[0], **shape)))
        return
    print("| tokens | path | peak over weight and gradients, GiB | relative | seconds | relative |")
    print("|--:|---|--:|--:|--:|--:|")
    for tokens in args.tokens:
        first = None
        for path in PATHS:
            got = in_own_process(["--path", path, "--tokens", str(tokens)])
            first = first or got
            memory, seconds = (got[key] / first[key] for key in ("bytes", "seconds"))
            print(f"| {tokens} | {path} | {got['bytes'] / 2**30:.2f} | {memory:.2f} ", end="")
            print(f"| {got['seconds']:.2f} | {seconds:.2f} |", flush=True)


def in_own_process(options: list[str]) -> dict[str, float]:
    """The arguments of this process apply, unless `options` repeats them."""
    command = [sys.executable, __file__, *sys.argv[1:], *options]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


if __name__ == "__main__":
    main()
