"""What the steps of the GPU check share: their options and deadline, the file of results, random models of real sizes.

A step is a program that `checking.py` starts with a time limit, `python tools/gpu/NAME.py --out FILE --seconds 60`. It
writes each result as soon as it has it, so that a step which is killed leaves what it found.
"""

from __future__ import annotations

import argparse
import datetime
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import measuring
import record
import torch
from building import QWEN_VOCABULARY, random_qwen
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

SHAPES = {"0.5B": (896, 24, QWEN_VOCABULARY), "1.5B": (1_536, 28, QWEN_VOCABULARY)}
"""Hidden size, layers and vocabulary of Qwen2.5."""
REHEARSED = (64, 1, 2_000)
"""In place of either shape on a CPU."""
ACTION_TOKENS = 120
"""Mean length of an action, which ends at each token with the same chance."""
OWN_TOKENS = 1_000
"""Below it are the tokenizer's own tokens; none of them ends an action."""


class Options(argparse.Namespace):
    """What a step was started with; also the options that benchmarks ask for."""

    out: Path
    work: Path
    seconds: float
    rehearse: bool
    device: str
    dtype: str
    deadline: float

    def left(self) -> float:
        """Seconds until the step is killed."""
        return self.deadline - time.monotonic()


def options(description: str | None, *extra: tuple[str, dict[str, Any]]) -> Options:
    """A step's command line; its clock starts now."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="gpu.json, which results are added to")
    parser.add_argument("--work", type=Path, required=True, help="a folder for models, shared by the steps")
    parser.add_argument("--seconds", type=float, required=True, help="until the step is killed")
    parser.add_argument("--rehearse", action="store_true", help="tiny models on a CPU")
    for name, settings in extra:
        parser.add_argument(name, **settings)
    made = parser.parse_args(namespace=Options())
    made.deadline = time.monotonic() + made.seconds
    made.device, made.dtype, made.clock = "cpu" if made.rehearse else "cuda", "bfloat16", "wall"
    made.threads = 1 if made.rehearse else torch.get_num_threads()
    measuring.prepare(made)
    return made


def device_name(device: str) -> str:
    """The card's name, which every result carries."""
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


@contextmanager
def entry(options: Options, key: str) -> Iterator[dict[str, Any]]:
    """Collect a result and write it under its key; what the block raises becomes its reason of failure, and is over."""
    found: dict[str, Any] = {}
    start = time.monotonic()
    try:
        yield found
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        found["failed"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    found["seconds"] = round(time.monotonic() - start, 1)
    write(options, key, found)
    if options.device == "cuda":
        torch.cuda.empty_cache()


def write(options: Options, key: str, found: dict[str, Any]) -> None:
    """Write a result, or what there is of it so far, with the card and the day."""
    told = {"device": device_name(options.device), "date": datetime.date.today().isoformat()}
    record.add(options.out, "entries", key, {**found, **told})
    print(f"{key}: {found}", flush=True)


def model_directory(options: Options, shape: str) -> str:
    """A random Qwen2 of a shape in bfloat16 with a small tokenizer; made by the first step that asks.

    One token in ACTION_TOKENS ends an action. Random weights of this kind give all tokens similar chances, so that
    lengths are spread around that mean up to the limit, and a batch waits for its longest, as with a trained policy.
    """
    folder = options.work / shape
    if (folder / "generation_config.json").is_file():
        return str(folder)
    hidden, layers, vocabulary = REHEARSED if options.rehearse else SHAPES[shape]
    random_qwen(str(folder), hidden, layers, vocabulary)
    torch.manual_seed(0)
    with torch.device(options.device):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    ends = list(range(OWN_TOKENS, vocabulary, ACTION_TOKENS))
    model.save_pretrained(folder)
    GenerationConfig(eos_token_id=[1, *ends], pad_token_id=0).save_pretrained(folder)
    return str(folder)


def endless_directory(options: Options, shape: str) -> str:
    """The same model, whose actions end with the tokenizer's own eos alone: nearly all are as long as they may be."""
    source, folder = Path(model_directory(options, shape)), options.work / f"{shape}-endless"
    if not folder.is_dir():
        folder.mkdir()
        for file in source.iterdir():
            (folder / file.name).symlink_to(file)
        (folder / "generation_config.json").unlink()
        GenerationConfig(eos_token_id=1, pad_token_id=0).save_pretrained(folder)
    return str(folder)
