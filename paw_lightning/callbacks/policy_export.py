"""PolicyExport: the trained policy as a plain Hugging Face directory."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import lightning as L

from paw_lightning.models.lora import merged, save_adapter
from paw_lightning.training.module import PaWModule


class PolicyExport(L.Callback):
    """Saves model and tokenizer when training ends, for ``AutoModelForCausalLM.from_pretrained``.

    Args:
        folder: below the run's log directory, unless absolute; null exports nothing.
        adapters: what becomes of `model.lora`: `merged` into the weights of a plain model, or `separate`, a directory
            for ``PeftModel.from_pretrained`` on top of the model that was loaded.
    """

    def __init__(self, folder: str | None = "policy", adapters: Literal["merged", "separate"] = "merged") -> None:
        self.folder, self.adapters = folder, adapters

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the directory."""
        # Without a logger there is no run folder, and a relative path would land in the current directory.
        homeless = trainer.logger is None and not Path(self.folder or "").is_absolute()
        if self.folder is None or homeless or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        assert isinstance(pl_module, PaWModule)
        directory = Path(trainer.log_dir or ".") / self.folder  # asks all ranks
        pl_module.gather()
        if trainer.is_global_zero:
            export_policy(pl_module, directory, self.adapters)
        pl_module.free()


def export_policy(module: PaWModule, directory: Path, adapters: Literal["merged", "separate"] = "merged") -> None:
    """Write the language model and its tokenizer; a separate world-model head is not part of the policy."""
    language_model = module.played_model.language_model
    if module.lora.rank and adapters == "separate":
        save_adapter(language_model, module.lora, module.path, directory)
    else:
        (merged(language_model) if module.lora.rank else language_model).save_pretrained(directory)
    module.tokenizer.save_pretrained(directory)
