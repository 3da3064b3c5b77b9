"""The core on a CUDA device: kernel, sampler against trainer, branches, precisions, LoRA, shards of one rank, resume.

Each check writes numbers and whether they are within the limits that the canaries and tests use.
"""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import kit
import measuring
import torch
from model_step import measured_peak
from torch import Tensor
from transformers import PreTrainedModel

from paw_lightning import cli
from paw_lightning.callbacks.canary_checks import TOLERANCE
from paw_lightning.models.linear_logprob import linear_logprob
from paw_lightning.models.loading import load_language_model
from paw_lightning.models.policy_world_model import PolicyWorldModel, read
from paw_lightning.samplers.base import Generation, Sampler
from paw_lightning.samplers.native import NativeSampler
from paw_lightning.samplers.paged import PagedSampler
from paw_lightning.types import MicroBatch
from paw_lightning.update.collate import collate
from paw_lightning.update.rows import Branch, Row, Segment

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
KERNEL_ERROR = {"float32": 1e-5, "bfloat16": 2e-2}
"""Largest ||got - exact|| / ||exact||; bfloat16 has 8 bits, and products of it are exact in float32."""
SMALL = {
    "data.groups": 2,
    "data.group_size": 4,
    "data.minibatches": 2,
    "rollout.max_steps": 4,
    "trainer.accumulate_grad_batches": 2,
    "canaries.enabled": "true",
}
FITS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "float32": ([], {"trainer.precision": "32-true"}),
    "bf16-mixed": ([], {}),
    "bf16-true": ([], {"trainer.precision": "bf16-true"}),
    "LoRA": (["lora"], {}),
    "branches": (["wm/placebo"], {}),
    "paged sampler": ([], {"rollout.sampler": "paged"}),
    "eager attention": ([], {"model.attention": "eager"}),
    "DDP of one rank": (["strategy/ddp"], {"trainer.devices": 1}),
    "FSDP2 of one rank": (["strategy/fsdp2"], {"trainer.devices": 1}),
    "FSDP1 of one rank": (["strategy/fsdp"], {"trainer.devices": 1, "trainer.precision": "32-true"}),
}
"""One iteration each of household/paw with these changes, canaries on."""
RESUMED_GAP = 0.05
"""||resumed - unbroken|| / ||trained - start|| at most."""


def wanted(found: dict[str, Any], name: str, value: float, limit: float) -> None:
    """Note a number, and raise where it is above its limit or none at all."""
    found[name] = value
    if not value <= limit:
        raise AssertionError(f"{name} is {value:.3g}; wanted at most {limit:.3g}")


# The kernel


def exact(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies in float64, by way of all logits."""
    logp = (hidden @ weight.T).log_softmax(1)
    return logp.gather(1, targets[:, None]).squeeze(1), -(logp.exp() * logp).sum(1)


def check_kernel(options: kit.Options, dtype: str, found: dict[str, Any]) -> None:
    """Values and gradients at Qwen2.5's vocabulary against float64 on the same device."""
    tokens, vocabulary, width = (64, 500, 32) if options.rehearse else (512, kit.QWEN_VOCABULARY, 896)
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, device=options.device, dtype=DTYPES[dtype])
    weight = torch.randn(vocabulary, width, device=options.device, dtype=DTYPES[dtype]).mul_(0.05)
    targets = torch.randint(vocabulary, (tokens,), device=options.device)
    upstream = torch.randn(2, tokens, device=options.device)
    results = []
    calls: tuple[tuple[Callable[..., tuple[Tensor, Tensor]], torch.dtype], ...] = (
        (linear_logprob, DTYPES[dtype]),
        (exact, torch.float64),
    )
    for function, precision in calls:
        inputs = [part.detach().to(precision).requires_grad_() for part in (hidden, weight)]
        outputs = function(*inputs, targets)
        loss = sum(((out * factor).sum() for out, factor in zip(outputs, upstream, strict=True)), torch.tensor(0.0))
        results.append([*outputs, *torch.autograd.grad(loss, inputs)])
    for name, got, right in zip(("logprobs", "entropies", "hidden_gradient", "weight_gradient"), *results, strict=True):
        error = ((got.double() - right).norm() / right.norm()).item()
        wanted(found, f"{name}_error", error, KERNEL_ERROR[dtype])


# Sampler and trainer


def reread(model: PreTrainedModel, prompts: list[list[int]], written: list[Generation]) -> Tensor:
    """Mean difference, nats, of the sampler's log-probs from those of the training forward over padded rows."""
    rows = [
        Row([Segment(prompt), Segment(action.token_ids, "action")])
        for prompt, action in zip(prompts, written, strict=True)
    ]
    batch = moved(collate(rows, on_policy=True), model.device)
    with torch.no_grad():
        scored = read(PolicyWorldModel(model), batch).action_logprobs
    sampled = torch.tensor([logprob for action in written for logprob in action.logprobs], device=scored.device)
    return (scored.float() - sampled).abs().mean()


def moved(batch: MicroBatch, device: torch.device) -> MicroBatch:
    """The micro-batch on a device."""
    names = [name for name, value in vars(batch).items() if isinstance(value, Tensor)]
    for name in names:
        setattr(batch, name, getattr(batch, name).to(device))
    return batch


def check_sampler(options: kit.Options, kind: str, dtype: str, found: dict[str, Any]) -> None:
    """Two turns of ragged transcripts in groups: the second turn is read from the cache that the first has left."""
    model = load_language_model(kit.model_directory(options, "0.5B"), dtype=dtype).to(options.device)  # type: ignore
    chosen: type[Any] = {"native": NativeSampler, "paged": PagedSampler}[kind]
    pages = {"page_size": 32, "num_blocks": 512, "max_batch_tokens": 512} if kind == "paged" else {}
    sampler: Sampler = chosen(model, [1], 0, **pages)
    sampler.update_weights()
    session, made = sampler.session(), torch.Generator().manual_seed(0)
    most = 400 if options.rehearse else 2_000
    prompts = [
        torch.randint(2, most, (length,), generator=made).tolist() for length in (90, 40, 150, 17) for _ in range(4)
    ]
    for turn in (1, 2):
        uniforms = torch.rand(len(prompts), 12, generator=made)
        written = session.generate(prompts, temperature=1.0, max_new_tokens=12, uniforms=uniforms)
        gap = reread(model, prompts, written).item()
        wanted(found, f"turn_{turn}_gap_nats", gap, TOLERANCE[DTYPES[dtype]])
        prompts = [
            prompt + action.token_ids + torch.randint(2, most, (9,), generator=made).tolist()
            for prompt, action in zip(prompts, written, strict=True)
        ]
    sampler.release()


def check_branches(options: kit.Options, attention: Any, found: dict[str, Any]) -> None:
    """Targets that are branches in the middle of a row, against the same in rows that end with them."""
    path = kit.model_directory(options, "0.5B")
    for dtype in ("float32", "bfloat16"):
        model = load_language_model(path, dtype=dtype, attention=attention).to(options.device)  # type: ignore
        tokens = torch.randint(2, 400, (72,), generator=torch.Generator().manual_seed(0)).tolist()
        first, second = Branch(4, Segment(tokens[-8:-4], "target")), Branch(32, Segment(tokens[-4:], "target"))
        row = Row([Segment(tokens[:-8])], branches=[Branch(1, Segment(tokens[1:64], "target")), first, second])
        alone = [Row([Segment(tokens[: branch.start]), branch.target]) for branch in (first, second)]
        with torch.no_grad():
            readings = [
                read(PolicyWorldModel(model), moved(collate([each], on_policy=True), model.device)).target_logprobs
                for each in (row, *alone)
            ]
        gap = (readings[0][-8:] - torch.cat(readings[1:])).abs().mean().item()
        wanted(found, f"{dtype}_gap_nats", gap, TOLERANCE[DTYPES[dtype]])


# Whole runs


@contextmanager
def lone() -> Iterator[None]:
    """A process group that a strategy has started ends with its run."""
    try:
        yield
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def check_fit(options: kit.Options, name: str, found: dict[str, Any]) -> None:
    """One iteration: canaries raise where sampler and trainer differ; every loss is a number."""
    layers, changed = FITS[name]
    with lone():
        [point] = measuring.fit(["household/paw", *layers], SMALL | changed, options, 1)
    found |= {tag: point[tag] for tag in ("rollout/logprob_gap", "time/rollout_s", "time/update_s") if tag in point}
    trained = {tag: value for tag, value in point.items() if tag.startswith("train/")}
    if not trained or not all(map(math.isfinite, trained.values())):
        raise AssertionError(f"the iteration's losses are {trained}; wanted finite numbers")


def check_resume(options: kit.Options, found: dict[str, Any]) -> None:
    """Two iterations at once, and one that is resumed for another: the same weights at the end.

    Bit for bit where the card adds up in the same order every time; anyway far nearer to each other than to the start.
    """
    ends = []
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        for place, iterations, resumed in (("whole", 2, ""), ("first", 1, ""), ("second", 2, "first")):
            settings = SMALL | {
                "trainer.enable_checkpointing": "true",
                "trainer.deterministic": "warn",
                "trainer.max_epochs": iterations,
                "trainer.check_val_every_n_epoch": 2,
                "trainer.logger": measuring.QUIET["trainer.logger"],
                "trainer.logger.init_args.save_dir": Path(folder, place),
            }
            if resumed:
                [settings["ckpt_path"]] = Path(folder, resumed).rglob("last.ckpt")
            run = cli.run(["fit", *measuring.arguments(["household/paw"], settings, options)])
            ends.append({n: p.detach().float().cpu() for n, p in run.model.language_model.named_parameters()})
    start = load_language_model("tiny-household").state_dict()
    trained, gap = (distance(ends[0], other) for other in (start, ends[2]))
    found |= {"same_bits": gap == 0.0, "trained_by": trained}
    if not trained > 0:
        raise AssertionError("the weights did not move; a resumed run like that proves nothing")
    wanted(found, "gap_over_training", gap / trained, RESUMED_GAP)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The norm of the difference of all weights."""
    return math.sqrt(sum((one[name] - other[name]).square().sum().item() for name in one))


def main() -> None:
    options = kit.options(__doc__)
    with kit.entry(options, "machine") as found:
        found |= versions(options)
    for dtype in DTYPES:
        with kit.entry(options, f"core/kernel, {dtype}") as found:
            check_kernel(options, dtype, found)
    for kind in ("native", "paged"):
        for dtype in DTYPES:
            with kit.entry(options, f"core/{kind} sampler = trainer, {dtype}") as found:
                check_sampler(options, kind, dtype, found)
    for attention in ("sdpa", "eager"):
        with kit.entry(options, f"core/branches, {attention}") as found:
            check_branches(options, attention, found)
    for name in FITS:
        with kit.entry(options, f"core/run, {name}") as found:
            check_fit(options, name, found)
    with kit.entry(options, "core/resume") as found:
        check_resume(options, found)
    shutil.rmtree("lightning_logs", ignore_errors=True)


def versions(options: kit.Options) -> dict[str, Any]:
    """What the figures hang on, and how fast the card multiplies."""
    import lightning
    import transformers

    found: dict[str, Any] = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
        "lightning": lightning.__version__,
        "bfloat16_tflops": measured_peak(options) / 1e12,
    }
    if options.device == "cuda":
        found["memory_gib"] = torch.cuda.get_device_properties(0).total_memory / 2**30
    return found


if __name__ == "__main__":
    main()
