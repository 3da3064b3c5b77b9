"""PolicyExport: the trained policy as a plain Hugging Face directory."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from peft import PeftModel
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from paw_lightning import ranks
from paw_lightning.callbacks.base import RolloutCallback
from paw_lightning.callbacks.read_back import Distance, Trained, check_model, check_tokenizer, distance_to
from paw_lightning.errors import SettingsError
from paw_lightning.models.loading import resolve_model_path
from paw_lightning.models.lora import adapters_off, copied, merged, save_adapter
from paw_lightning.training.module import PaWModule
from paw_lightning.training.run_folder import last_checkpoint, run_folder, shown
from paw_lightning.training.strategies import is_sharded
from paw_lightning.types import Rollout
from paw_lightning.update.rows import policy_rows
from paw_lightning.whole_files import replace_folder, writing

Adapters = Literal["merged", "separate"]
COMPARED_ROWS = 4
UNCHECKED = ".unchecked"
"""Ends the name of a directory whose policy has not been loaded again yet, or was refused."""


class PolicyExport(RolloutCallback):
    """Saves model and tokenizer when training ends, for ``AutoModelForCausalLM.from_pretrained``.

    What was written is loaded again and compared with what was trained, on texts and on rows of the last rollout.

    Args:
        folder: below the run's own folder, unless absolute; null exports nothing.
        adapters: what becomes of `model.lora`: `merged` into the weights of a plain model, or `separate`, a directory
            for ``PeftModel.from_pretrained`` on top of the model that was loaded.
        dtype: of the written weights; null keeps `model.dtype`. Adapters merged into bfloat16 weights are rounded to
            them, which may undo what a small learning rate has taught; `float32` keeps it.

    Raises:
        SettingsError: the written policy is another one than the trained one.
    """

    def __init__(
        self,
        folder: str | None = "policy",
        adapters: Adapters = "merged",
        dtype: Literal["float32"] | None = None,
    ) -> None:
        self.folder, self.adapters, self.dtype = folder, adapters, dtype
        self.outcome: list[str] = []
        self.trained = False
        self.rows: list[list[int]] = []
        """Token ids of a few rows of the latest rollout."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse what cannot be exported so, and to write over another run's policy, before any time is spent."""
        assert isinstance(pl_module, PaWModule)
        directory = self._directory(trainer)
        if directory is not None:
            check_form(pl_module, self.adapters, self.dtype)
        resumed = trainer.ckpt_path is not None
        if directory is not None and resumed and trainer.is_global_zero:
            shutil.rmtree(unchecked(directory), ignore_errors=True)  # of a run that was killed
        if directory is not None and not resumed and directory.is_dir() and any(directory.iterdir()):
            raise SettingsError(
                f"policy_export.folder is {self.folder}, and {shown(directory)} holds the policy of another run; "
                "wanted a folder that is empty or not there (or null, which exports nothing)"
            )

    def on_rollout_end(self, trainer: L.Trainer, pl_module: L.LightningModule, rollout: Rollout) -> None:
        """Keep what the policy read and wrote, as the texts to compare on."""
        self.rows = [row.trunk for row in policy_rows(rollout.groups[0].transitions)[:COMPARED_ROWS]]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """There is something left to train."""
        self.trained = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the directory and read it back."""
        directory = self._directory(trainer)
        if directory is not None:
            self._write(trainer, pl_module, directory)

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, directory: Path) -> None:
        assert isinstance(pl_module, PaWModule)
        pl_module.gather()
        try:
            ranks.together(lambda: self._export(trainer, pl_module, directory))
        finally:
            pl_module.free()

    def _export(self, trainer: L.Trainer, module: PaWModule, directory: Path) -> None:
        if not trainer.is_global_zero:
            return
        try:
            read_back = export_policy(module, directory, self.adapters, self.dtype, self.rows)
        except SettingsError as error:
            kept = last_checkpoint(trainer)
            raise SettingsError(f"{error}. The trained weights are in {kept}" if kept else str(error)) from error
        self.outcome = [f"policy:  {shown(directory)} {read_back[0]}", *[f"         {line}" for line in read_back[1:]]]

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say where the policy is, and how near to what was trained; write it where a killed run has not."""
        directory = None if self.trained else self._directory(trainer)
        if directory is not None and not directory.exists() and not is_sharded(trainer.strategy):
            self._write(trainer, pl_module, directory)
        for line in self.outcome:
            rank_zero_info(line)
        if not self.outcome and self.folder is not None and trainer.logger is None:
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


def check_form(module: PaWModule, adapters: Adapters, dtype: str | None) -> None:
    """Refuse settings of the export that would do nothing, or write what nobody can load."""
    if not module.lora.rank or adapters != "separate":
        return
    if dtype is not None:
        raise SettingsError(
            f"policy_export.dtype is {dtype!r} and policy_export.adapters is 'separate'; wanted null: separate "
            "adapters are float32, and the weights below them are not written"
        )
    if module.weights == "random":
        raise SettingsError(
            "policy_export.adapters is 'separate' and model.weights is 'random'; wanted 'merged': nobody could load "
            "the weights below the adapters"
        )


def unchecked(directory: Path) -> Path:
    """Where a policy lies until it has been loaded again and found to be the trained one."""
    directory = directory.resolve()
    return directory.with_name(directory.name + UNCHECKED)


def check_place(directory: Path) -> None:
    """Refuse a folder of other things: an export takes the place of the whole folder, never of some files in it."""
    others = directory.is_dir() and any(directory.iterdir())
    if others and not any((directory / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise SettingsError(
            f"the policy is to be written to {directory} (policy_export.folder, --output), which holds other things; "
            "wanted a folder that is not there, that is empty, or an exported policy, which would be replaced"
        )


def export_policy(
    module: PaWModule,
    directory: Path,
    adapters: Adapters = "merged",
    dtype: Literal["float32"] | None = None,
    sequences: Sequence[list[int]] = (),
) -> list[str]:
    """Write the language model and its tokenizer, and read them back; a separate world-model head is no part of it.

    Returns what the comparison says, in lines. Until it has passed, the files lie in a directory beside, `.unchecked`,
    which then takes the place of an earlier export as a whole; `sequences` are token ids to compare on, fixed texts
    where there are none.

    Raises:
        SettingsError: what was written is another policy than what was trained.
    """
    check_form(module, adapters, dtype)
    check_place(directory)
    model, tokenizer, device = module.played_model.language_model, module.tokenizer, module.device
    trained = Trained.read(model, tokenizer, sequences)
    draft = unchecked(directory)
    shutil.rmtree(draft, ignore_errors=True)
    # Write
    apart = bool(module.lora.rank) and adapters == "separate"
    keep_valid_generation_settings(model, module.path)
    with writing(directory, draft):
        if apart:
            save_adapter(model, resolve_model_path(module.path), draft)
        else:
            _whole(module, dtype).save_pretrained(draft)
        tokenizer.save_pretrained(draft)
    # Read back
    check_tokenizer(tokenizer, draft)

    def load() -> Any:
        if not apart:
            return _load(module, draft)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft's use of transformers
            return PeftModel.from_pretrained(_load_base(module), draft)

    exported = check_model(trained, load, device, draft)
    with writing(directory, draft):
        replace_folder(draft, directory.resolve())
    return _lines(exported, _before_training(module, trained), rounded=not apart and dtype is None)


def _whole(module: PaWModule, dtype: Literal["float32"] | None) -> PreTrainedModel:
    """A plain model with the trained weights: the trained one itself, or a copy where something has to change."""
    model = module.played_model.language_model
    if module.lora.rank:
        return merged(model, dtype)
    return copied(model).float() if dtype == "float32" and model.dtype != torch.float32 else model


def _load(module: PaWModule, directory: str | Path, dtype: str = "auto") -> PreTrainedModel:
    attention = module.language_model.config._attn_implementation
    return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation=attention)


def _load_base(module: PaWModule) -> PreTrainedModel:
    """The model that training began with."""
    return _load(module, resolve_model_path(module.path), dtype=module.dtype_name)


def keep_valid_generation_settings(model: PreTrainedModel, path: str) -> None:
    """Drop generation settings that `save_pretrained` would refuse; the tokens that end a text stay."""
    settings = model.generation_config
    try:
        settings.validate(strict=True)
    except ValueError as error:
        kept = {name: getattr(settings, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        model.generation_config = GenerationConfig(**kept)
        said = " ".join(str(error).split())
        rank_zero_warn(f"generation_config.json of {path} is not valid, only its token ids are exported: {said}")


def _before_training(module: PaWModule, trained: Trained) -> Distance | None:
    """How far training has moved the policy; None where the weights it began with are gone."""
    if module.weights == "random":
        return None
    if module.lora.rank:
        model = module.played_model.language_model
        with adapters_off(model):
            return trained.distance(model)
    return distance_to(trained, lambda: _load_base(module), module.device)[0]


def _lines(exported: Distance, before: Distance | None, *, rounded: bool) -> list[str]:
    """The comparison in words."""
    same = "equal log-probs" if exported.largest == 0 else f"log-probs within {exported.largest:.0e} nats"
    lines = [f"(read back: same ids, {same})"]
    if before is not None:
        lines.append(
            f"KL(trained || exported) {exported.divergence:.1e} nats a token, KL(trained || before training) "
            f"{before.divergence:.1e}"
        )
    if before is not None and rounded and exported.divergence > before.divergence / 10:
        lines.append(
            "rounding the weights cost more than a tenth of what training changed: policy_export.dtype: float32 or "
            "policy_export.adapters: separate keeps it (`paw-lightning export CHECKPOINT --dtype float32`)"
        )
    return lines
