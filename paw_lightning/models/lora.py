"""LoRA: small trainable matrices beside the frozen linear layers of a language model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from paw_lightning.errors import SettingsError
from paw_lightning.seeding import stable_seed

NAME = "default"  # peft's name of an only adapter


@dataclass(frozen=True)
class LoRA:
    """W x becomes W x + (alpha / rank) B A x with W frozen; there is no dropout: the policy that trains has to
    be the one that sampled.

    Args:
        rank: of A and B; 0 trains the whole model instead.
        alpha: scale of the update.
        target_modules: names of the linear layers, or `all-linear`, which is all but the LM head.
    """

    rank: int = 0
    alpha: float = 32.0
    target_modules: str | list[str] = "all-linear"

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise SettingsError(f"model.lora.rank is {self.rank}; wanted at least 1, or 0 to train the whole model")
        if not self.alpha > 0:
            raise SettingsError(f"model.lora.alpha is {self.alpha}; wanted above 0")

    @property
    def config(self) -> LoraConfig:
        """The same settings as peft's LoraConfig."""
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # any number will do
            target_modules=self.target_modules,
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
        )


def add_adapters(language_model: PreTrainedModel, lora: LoRA) -> None:
    """Freeze the model and put float32 adapters, equal on every rank, beside its linear layers.

    B starts at 0: the policy is the loaded one until the first step. Raises SettingsError naming the key when no
    layer has a wanted name.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stable_seed("lora"))
        try:
            inject_adapter_in_model(lora.config, language_model)
        except ValueError as error:
            raise SettingsError(
                f"model.lora.target_modules is {lora.target_modules!r}; wanted names of linear layers: {error}"
            ) from error
    _check_embeddings(language_model, lora)
    for name, parameter in language_model.named_parameters():
        parameter.requires_grad_(is_adapter(name))
        if is_adapter(name):
            parameter.data = parameter.data.float()  # a bfloat16 weight would lose small steps


def _check_embeddings(language_model: PreTrainedModel, lora: LoRA) -> None:
    """Refuse adapters where W is read by something else than its layer.

    The losses read the LM head's own W, so that an adapter beside it would act while playing and never be trained; an
    adapter of tied embeddings, merged into W, would change the LM head as well.
    """
    tied = language_model.config.get_text_config().tie_word_embeddings
    if isinstance(language_model.get_output_embeddings(), LoraLayer):
        what = "the LM head, whose own weight the losses read"
    elif tied and isinstance(language_model.get_input_embeddings(), LoraLayer):
        what = "embeddings that are the LM head's weight too (tie_word_embeddings)"
    else:
        return
    raise SettingsError(
        f"model.lora.target_modules is {lora.target_modules!r}, which adapts {what}; wanted layers between the "
        "embeddings and the LM head: all-linear, or their names"
    )


def is_adapter(name: str) -> bool:
    """Whether the parameter of this name is one of A or B."""
    return ".lora_" in name


def adapted_layers(model: nn.Module) -> list[LoraLayer]:
    """The layers that have adapters beside them."""
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def has_adapters(model: nn.Module) -> bool:
    """Whether the model trains adapters."""
    return bool(adapted_layers(model))


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """The loaded model inside, without a second copy of its weights."""
    layers = adapted_layers(model)
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def copied(language_model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the model."""
    if hasattr(language_model, "destroy_cached_continuous_batching_manager"):
        # The paged sampler's threads cannot be copied.
        language_model.destroy_cached_continuous_batching_manager()  # type: ignore[operator]
    return copy.deepcopy(language_model)


def merged(language_model: PreTrainedModel, dtype: Literal["float32"] | None = None) -> PreTrainedModel:
    """A copy of the model as if it had been trained without adapters: W + (alpha / rank) B A in W's place.

    The sum is rounded to the weights' own type, or to `dtype`.
    """
    model = copied(language_model)
    if dtype == "float32":
        model.float()
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    return model


def save_adapter(language_model: PreTrainedModel, base: str, directory: Path) -> None:
    """Write the adapters alone, for ``PeftModel.from_pretrained(base_model, directory)``."""
    directory.mkdir(parents=True, exist_ok=True)
    config: Any = copy.copy(language_model.peft_config[NAME])  # type: ignore[index]
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(directory)
    tensors: dict[str, Tensor] = {
        f"base_model.model.{name.replace(f'.{NAME}', '')}": p.detach().cpu().contiguous()
        for name, p in language_model.named_parameters()
        if is_adapter(name)
    }
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
