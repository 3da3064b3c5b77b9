"""One run's settings, read by the parser that `fit` uses, without running anything."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from jsonargparse import Namespace
from transformers import PreTrainedModel

from paw_lightning.callbacks.setup_checks import check_context_window
from paw_lightning.commands.export import load_weights
from paw_lightning.commands.parsing import read
from paw_lightning.envs.base import TextEnv
from paw_lightning.errors import SettingsError
from paw_lightning.models.loading import check_vocabulary, load_language_model
from paw_lightning.models.lora import add_adapters
from paw_lightning.rollouts.collector import Collector
from paw_lightning.rollouts.runner import stop_token_ids
from paw_lightning.rollouts.settings import RolloutSettings
from paw_lightning.samplers.base import Sampler
from paw_lightning.samplers.native import NativeSampler
from paw_lightning.text.prompts import PromptBuilder
from paw_lightning.training.datamodule import RolloutDataModule
from paw_lightning.training.module import PaWModule
from paw_lightning.training.strategies import MIXED, TRUE, full_name


@dataclass(frozen=True)
class RunSettings:
    """The settings of one run, parsed, and the parts that commands build from them."""

    module: PaWModule
    """Its tokenizer is loaded, its language model is not."""
    data: RolloutDataModule
    rollout: RolloutSettings
    namespace: Namespace
    """Every key with its value, defaults included."""

    @property
    def config(self) -> dict[str, Any]:
        """The same as plain dictionaries."""
        return self.namespace.as_dict()

    @property
    def prompts(self) -> PromptBuilder:
        """Writes decision contexts."""
        return PromptBuilder(self.rollout.prompt, self.module.chat)

    @property
    def device(self) -> torch.device:
        """Where the policy plays: an accelerator where there is one, unless the settings say `cpu`."""
        found = self.config["trainer"]["accelerator"] != "cpu" and torch.cuda.is_available()
        return torch.device("cuda" if found else "cpu")

    @property
    def precision(self) -> str:
        """`trainer.precision`, by its full name."""
        return full_name(self.config["trainer"]["precision"])

    def arithmetic(self) -> AbstractContextManager[Any]:
        """Mixed precision, where `trainer.precision` asks for it."""
        kind = MIXED.get(self.precision)
        return nullcontext() if kind is None else torch.autocast(self.device.type, kind)


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn ValueError and FileNotFoundError of the parts that are built inside into SettingsError."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise SettingsError(str(error)) from error


@_refusing()
def read_settings(words: Sequence[str]) -> RunSettings:
    """Parse `--config` and `--key value` words as `fit` does, with the same errors."""
    parser: Any = read(words)
    parts = parser.parser.instantiate_classes(parser.config)["fit"]
    return RunSettings(parts["model"], parts["data"], parts["rollout"].settings, parser.config["fit"])


def policy_words(policy: str, words: Sequence[str]) -> list[str]:
    """The words of a run that is played by `policy`: a model directory, a hub or bundled name, or a checkpoint.

    A checkpoint (RUN/checkpoints/last.ckpt) is of the model that the config.yaml of its run names; without a `--config`
    among the words, all other settings come from there as well.
    """
    if not is_checkpoint(policy):
        return [*words, f"--model.path={policy}", "--model.weights=pretrained", "--model.lora.rank=0"]
    config = Path(policy).expanduser().resolve().parent.parent / "config.yaml"
    if not config.is_file():
        raise SettingsError(f"--policy is {policy!r}, and {config} does not exist; wanted RUN/checkpoints/last.ckpt")
    model = yaml.safe_load(config.read_text())["model"]
    named = any(word == "-c" or word.split("=")[0] == "--config" for word in words)
    own = {key: model[key] for key in ("path", "chat_template", "lora", "dtype") if model.get(key) is not None}
    given = [f"--model.{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in own.items()]
    return [*([] if named else ["--config", str(config)]), *words, *given]


def is_checkpoint(policy: str) -> bool:
    """Whether a policy is given as Lightning's checkpoint, one file or a folder with a part for each rank."""
    return policy.endswith(".ckpt")


@_refusing()
def load_policy(settings: RunSettings, checkpoint: str | None = None) -> PreTrainedModel:
    """The language model that plays, adapters included, with the weights of a checkpoint if one is given."""
    transformers.utils.logging.disable_progress_bar()
    module = settings.module
    model = load_language_model(
        module.path,
        weights=module.weights,
        dtype=module.dtype_name,
        activation_checkpointing=module.activation_checkpointing,
        attention=module.attention,
    )
    check_vocabulary(model, module.chat.encoder, module.path)
    check_context_window(settings.rollout, model.config, module.chat, settings.data.cutter.world_model_horizon)
    if module.lora.rank:
        add_adapters(model, module.lora)
    if settings.precision in TRUE:  # first: a checkpoint's float64 must not pass through float32
        model.to(TRUE[settings.precision])  # type: ignore[arg-type]  # its wrapper hides the signature
    if checkpoint is not None:
        _load_weights(model, checkpoint)
    return model.to(settings.device)  # type: ignore[arg-type]  # its wrapper hides the signature


def _load_weights(model: PreTrainedModel, checkpoint: str) -> None:
    """Put a checkpoint's weights into the model; a LoRA run's checkpoint holds the adapters only."""
    prefix, state = "model.language_model.", load_weights(Path(checkpoint).expanduser())
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    missing = sorted({name for name, p in model.named_parameters() if p.requires_grad} - own.keys())
    if missing:
        raise SettingsError(f"--policy is {checkpoint!r}, which lacks {missing[:3]}; wanted a checkpoint of this model")
    model.load_state_dict(own, strict=False)


def native_sampler(settings: RunSettings, model: PreTrainedModel) -> NativeSampler:
    """Samples from the model itself, whatever sampler the run would use."""
    chat = settings.module.chat
    return NativeSampler(model, stop_token_ids(chat, model), chat.tokenizer.pad_token_id)


def make_collector(
    settings: RunSettings,
    sampler: Sampler,
    stops: Sequence[int],
    make_env: Callable[[], TextEnv],
    *,
    max_steps: int | None = None,
    max_action_tokens: int | None = None,
) -> Collector:
    """The collector of a run, with the run's limits unless others are given."""
    rollout = settings.rollout
    return Collector(
        make_env,
        PromptBuilder(rollout.prompt, settings.module.chat.stopped_by(stops)),
        sampler,
        max_steps=max_steps or rollout.max_steps,
        max_action_tokens=max_action_tokens or rollout.max_action_tokens,
        max_observation_tokens=rollout.max_observation_tokens,
        stop_token_ids=stops,
        layout=rollout.layout,
    )
