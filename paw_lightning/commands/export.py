"""Turns a checkpoint, sharded or not, into the Hugging Face directory that a finished run exports.

    paw-lightning export runs/paw_lightning/version_0/checkpoints/last.ckpt

The run's config.yaml, two folders above the checkpoint, says which model the weights belong to (or --config does). One
process without an accelerator gathers all shards: the whole model has to fit into memory.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paw_lightning.cli.command_arguments import Arguments
from paw_lightning.errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor


def command(args: list[str]) -> int:
    """Read the checkpoint, write the directory; returns the exit status."""
    options = parse(args)
    import transformers

    from paw_lightning.callbacks.policy_export import export_policy
    from paw_lightning.models.lora import LoRA
    from paw_lightning.training.module import PaWModule

    settings = model_settings(options.config)
    transformers.utils.logging.disable_progress_bar()
    kept = {key: settings[key] for key in ("weights", "chat_template", "dtype") if key in settings}
    module = PaWModule(settings["path"], lora=LoRA(**settings["lora"]), **kept)
    module.configure_model()
    state = load_weights(options.checkpoint)
    # Neither a separate world-model head nor a critic is part of the policy, nor frozen weights of a LoRA checkpoint.
    wanted = {name for name, p in module.named_parameters() if p.requires_grad}
    if missing := sorted(wanted - state.keys()):
        raise SettingsError(
            f"the checkpoint is {options.checkpoint}, which lacks {', '.join(missing[:3])}; wanted one of "
            f"{settings['path']}, the model of {options.config}"
        )
    module.load_state_dict(state, strict=False)
    read_back = export_policy(module, options.output, options.adapters, options.dtype)
    print(f"exported to {options.output}", *read_back, sep="\n")
    return 0


def parse(args: list[str]) -> argparse.Namespace:
    """The options, checked and completed."""
    parser = Arguments("export", __doc__)
    parser.add_argument("checkpoint", type=Path, help="file, or folder with one file per rank")
    parser.add_argument("--output", type=Path, help="directory to write (default: RUN/exported)")
    parser.add_argument("--config", type=Path, help="the run's config.yaml (default: two folders above the checkpoint)")
    parser.add_argument(
        "--adapters", choices=["merged", "separate"], default="merged", help="LoRA's (default: merged into the weights)"
    )
    parser.add_argument("--dtype", choices=["float32"], help="of the written weights (default: the run's model.dtype)")
    options = parser.parse_args(args)
    if not options.checkpoint.exists():
        found = f"the checkpoint is {options.checkpoint}, which does not exist"
        raise SettingsError(f"{found}; wanted RUN/checkpoints/last.ckpt")
    run = options.checkpoint.resolve().parent.parent
    options.config = options.config or run / "config.yaml"
    options.output = options.output or run / "exported"
    return options


def model_settings(config: Path) -> dict[str, Any]:
    """The `model` section of a run's settings."""
    import yaml

    if not config.is_file():
        raise SettingsError(f"--config is {config}, which does not exist; wanted config.yaml of the checkpoint's run")
    content = yaml.safe_load(config.read_text())
    if not isinstance(content, dict) or not {"path", "lora", "dtype"} <= (content.get("model") or {}).keys():
        raise SettingsError(f"--config is {config}, which has no whole `model`; wanted config.yaml as a run wrote it")
    return content["model"]


def load_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The module's whole state from a file, or from a folder with one file per rank (FSDP1 names it `model`)."""
    import torch
    from lightning.fabric.utilities.load import _load_distributed_checkpoint

    from paw_lightning.training.checkpoint_files import plain_data

    with plain_data(checkpoint):
        if checkpoint.is_dir():
            state = _load_distributed_checkpoint(checkpoint)
            return state.get("state_dict") or state["model"]
        return torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
