"""PolicyExport: the trained policy as a plain Hugging Face directory."""

from __future__ import annotations

from pathlib import Path

import lightning as L

from paw_lightning.module import PaWModule


class PolicyExport(L.Callback):
    """Saves model and tokenizer when training ends, for ``AutoModelForCausalLM.from_pretrained``.

    Args:
        folder: below the run's log directory, unless absolute; null exports nothing.
    """

    def __init__(self, folder: str | None = "policy") -> None:
        self.folder = folder

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the directory."""
        # Without a logger there is no run folder, and a relative path would land in the current directory.
        homeless = trainer.logger is None and not Path(self.folder or "").is_absolute()
        if self.folder is None or homeless or trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return
        assert isinstance(pl_module, PaWModule)
        export_policy(pl_module, Path(trainer.log_dir or ".") / self.folder)


def export_policy(module: PaWModule, directory: Path) -> None:
    """Write the language model and its tokenizer; a separate world-model head is not part of the policy."""
    module.language_model.save_pretrained(directory)
    module.tokenizer.save_pretrained(directory)
