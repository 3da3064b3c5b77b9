"""PolicyExport: the trained policy as a plain Hugging Face directory."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import lightning as L
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from paw_lightning.errors import SettingsError
from paw_lightning.models.lora import merged, save_adapter
from paw_lightning.training.module import PaWModule
from paw_lightning.training.run_folder import run_folder, shown


class PolicyExport(L.Callback):
    """Saves model and tokenizer when training ends, for ``AutoModelForCausalLM.from_pretrained``.

    Args:
        folder: below the run's own folder, unless absolute; null exports nothing.
        adapters: what becomes of `model.lora`: `merged` into the weights of a plain model, or `separate`, a directory
            for ``PeftModel.from_pretrained`` on top of the model that was loaded.
    """

    def __init__(self, folder: str | None = "policy", adapters: Literal["merged", "separate"] = "merged") -> None:
        self.folder, self.adapters = folder, adapters
        self.outcome = ""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse to write over the policy of another run, before any time is spent."""
        directory = self._directory(trainer)
        resumed = trainer.ckpt_path is not None
        if directory is not None and not resumed and directory.is_dir() and any(directory.iterdir()):
            raise SettingsError(
                f"policy_export.folder is {self.folder}, and {shown(directory)} holds the policy of another run; "
                "wanted a folder that is empty or not there (or null, which exports nothing)"
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the directory."""
        directory = self._directory(trainer)
        if directory is None:
            return
        assert isinstance(pl_module, PaWModule)
        pl_module.gather()
        if trainer.is_global_zero:
            export_policy(pl_module, directory, self.adapters)
        pl_module.free()
        self.outcome = str(shown(directory))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say where the policy is."""
        if self.outcome:
            rank_zero_info(f"policy:  {self.outcome}")
        elif self.folder is not None and trainer.logger is None:
            rank_zero_info("policy:  not exported, as trainer.logger is false and the run has no folder; an absolute")
            rank_zero_info("         policy_export.folder is written to all the same")

    def _directory(self, trainer: L.Trainer) -> Path | None:
        """Where the policy goes; None where it goes nowhere."""
        if self.folder is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return None
        folder = run_folder(trainer)  # asks all ranks
        if Path(self.folder).is_absolute():
            return Path(self.folder)
        # Without a logger there is no run folder, and a relative path would land in the current directory.
        return None if folder is None else folder / self.folder


def export_policy(module: PaWModule, directory: Path, adapters: Literal["merged", "separate"] = "merged") -> None:
    """Write the language model and its tokenizer; a separate world-model head is not part of the policy."""
    language_model = module.played_model.language_model
    if module.lora.rank and adapters == "separate":
        save_adapter(language_model, module.lora, module.path, directory)
    else:
        (merged(language_model) if module.lora.rank else language_model).save_pretrained(directory)
    module.tokenizer.save_pretrained(directory)
