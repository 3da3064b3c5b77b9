"""Turns a checkpoint, sharded or not, into the Hugging Face directory that a finished run exports.

    python tools/export_policy.py runs/paw_lightning/version_0/checkpoints/last.ckpt exported

The run's config.yaml, two folders above the checkpoint, says which model the weights belong to (or --config does). One
process without an accelerator gathers all shards: the whole model has to fit into memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from lightning.fabric.utilities.load import _load_distributed_checkpoint

from paw_lightning.callbacks.policy_export import export_policy
from paw_lightning.models.lora import LoRA
from paw_lightning.training.module import PaWModule


def load_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The module's whole state from a file, or from a folder with one file per rank (FSDP1 names it `model`)."""
    if checkpoint.is_dir():
        state = _load_distributed_checkpoint(checkpoint)
        return state.get("state_dict") or state["model"]
    return torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--config", type=Path, help="the run's config.yaml")
    parser.add_argument("--adapters", choices=["merged", "separate"], default="merged")
    options = parser.parse_args(arguments)
    config = yaml.safe_load((options.config or options.checkpoint.parent.parent / "config.yaml").read_text())["model"]
    lora = LoRA(**config["lora"])
    module = PaWModule(config["path"], lora=lora, dtype=config["dtype"])
    module.configure_model()
    state = load_weights(options.checkpoint)
    # Neither a separate world-model head nor a critic is part of the policy, nor frozen weights of a LoRA checkpoint.
    wanted = {name for name, p in module.named_parameters() if p.requires_grad}
    missing = sorted(wanted - state.keys())
    if missing:
        raise SystemExit(
            f"{options.checkpoint} lacks {missing[:3]}; wanted a checkpoint of {config['path']} (--config)"
        )
    module.load_state_dict(state, strict=False)
    export_policy(module, options.output, options.adapters)
    print(f"exported to {options.output}")


if __name__ == "__main__":
    main()
