"""Language models and tokenizers from a directory, a hub name, or the policies shipped with the package."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from paw_lightning.errors import SettingsError
from paw_lightning.models import smollm2
from paw_lightning.models.playable import check_playable
from paw_lightning.text.encoding import TextEncoder
from paw_lightning.text.template import freeze_date

ASSETS = Path(__file__).parent.parent / "assets"
NO_CODE: dict[str, Any] = {"trust_remote_code": False}
"""Left out, Transformers would ask at the terminal whether to run the Python files of a model directory."""
WANTED = "a Hugging Face model directory, a hub name, or the name of a policy shipped with the package"


def resolve_model_path(path: str) -> str:
    """Return the directory of a policy shipped with the package, or `path` itself (a directory or a hub name).

    Raises:
        SettingsError: the path can only be one of this machine, and there is none.
    """
    if path == smollm2.NAME:
        return smollm2.directory()
    bundled = ASSETS / path
    if path and bundled.is_dir():
        return str(bundled)
    local = Path(path).expanduser()
    if local.is_file():
        checkpoint = ", a run's checkpoint (`paw-lightning export` writes its policy)" if path.endswith(".ckpt") else ""
        raise SettingsError(f"model.path is {path!r}, which is a file{checkpoint}; wanted {WANTED}")
    if not local.exists() and _names_a_folder(path):
        made = "it made first, as the head of its config says, or " if path.startswith("runs/") else ""
        raise SettingsError(f"model.path is {path!r}, which does not exist; wanted {made}{WANTED}")
    return str(local) if path else path


def _names_a_folder(path: str) -> bool:
    """Whether a path can only be a local folder, not OWNER/NAME of the hub; asking the hub would take a minute."""
    first, *rest = path.split("/")
    written_as_path = path.startswith(("/", "~", ".")) or len(rest) > 1
    return written_as_path or first == "runs" or bool(rest and Path(first).is_dir())


def load_tokenizer(path: str, chat_template: str | None = None) -> Any:
    """Load the tokenizer of a model directory or hub name, with another chat template in it if one is named.

    A chat template that writes today's date is given one day for ever, see
    :func:`~paw_lightning.text.template.freeze_date`. Raises SettingsError naming ``model.path`` when there is none.
    """
    directory = resolve_model_path(path)
    try:
        # AutoTokenizer gives every Qwen2 model Qwen's own word boundaries, whatever its tokenizer.json says.
        declared = get_tokenizer_config(directory).get("tokenizer_class")
        generic = declared in ("TokenizersBackend", "PreTrainedTokenizerFast")
        loader = PreTrainedTokenizerFast if generic else AutoTokenizer
        tokenizer = loader.from_pretrained(directory, **NO_CODE)
        if not tokenizer("x", add_special_tokens=False).input_ids:  # what Transformers makes of a folder without one
            raise ValueError("it has no tokens for a text")
    except Exception as error:  # a missing package, a broken file, another format: each kind has its own exceptions
        raise _no_model(path, "tokenizer", error, _other_format(Path(directory))) from error
    if chat_template is not None:
        tokenizer.chat_template = read_chat_template(chat_template)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        tokenizer.chat_template = {name: freeze_date(text) for name, text in template.items()}
    elif template is not None:
        tokenizer.chat_template = freeze_date(template)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    _keep_switches(tokenizer)
    return tokenizer


def read_chat_template(name: str) -> str:
    """A chat template that is shipped with the package (`tools`), or that of a file.

    Raises:
        SettingsError: there is no such file, or no text in it; the message names ``model.chat_template``.
    """
    shipped = ASSETS / f"{name}.jinja"
    file = shipped if shipped.is_file() and "/" not in name else Path(name).expanduser()
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        text, said = "", f": {error}"
    else:
        said = ", which is empty"
    if not text.strip():
        known = ", ".join(sorted(path.stem for path in ASSETS.glob("*.jinja")))
        raise SettingsError(
            f"model.chat_template is {name!r}{said}; wanted a file with a template in Jinja, the name of one shipped "
            f"with the package ({known}), or null, the model's own"
        )
    return text


def _keep_switches(tokenizer: Any) -> None:
    """Have switches saved with the tokenizer that Transformers forgets, so that an exported one reads the same tokens.

    One is `legacy`, by which a Llama tokenizer begins every text behind a control token with a blank.
    """
    for name, parameter in inspect.signature(type(tokenizer).__init__).parameters.items():
        value = getattr(tokenizer, name, None)
        if isinstance(parameter.default, bool) and isinstance(value, bool) and value != parameter.default:
            tokenizer.init_kwargs.setdefault(name, value)


def load_language_model(
    path: str,
    *,
    weights: Literal["pretrained", "random"] = "pretrained",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    activation_checkpointing: bool = False,
    attention: Literal["sdpa", "eager", "flash_attention_2"] | None = None,
) -> PreTrainedModel:
    """Load a causal language model, or build its architecture with random weights.

    It is returned in training mode: ``from_pretrained`` leaves models in evaluation mode and Lightning keeps them so.

    Raises:
        SettingsError: there is none, or it cannot play (`check_playable`); the message names ``model.path``.
    """
    directory, torch_dtype = resolve_model_path(path), getattr(torch, dtype)
    try:
        config = without_dropout(AutoConfig.from_pretrained(directory, **NO_CODE))
        settings: dict[str, Any] = {"dtype": torch_dtype, "attn_implementation": attention, **NO_CODE}
        if weights == "random":
            model = AutoModelForCausalLM.from_config(config, **settings)
        else:
            model = AutoModelForCausalLM.from_pretrained(directory, config=config, **settings)
    except ImportError as error:
        raise SettingsError(f"model.attention is {attention!r}; wanted one that can run here: {error}") from error
    except (OSError, ValueError, pickle.UnpicklingError) as error:  # the last of weights that would run code
        raise _no_model(path, "causal language model", error) from error
    check_playable(model, path)
    if activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def check_vocabulary(model: PreTrainedModel, encoder: TextEncoder, path: str) -> None:
    """Refuse a tokenizer that writes texts in more tokens than the model has embeddings: reading one would be a crash.

    Added tokens that no text becomes may lie beyond; the dialogue probe looks at those of the chat template.
    """
    tokenizer = encoder.tokenizer
    unused = encoder.control_ids - {tokenizer.pad_token_id, tokenizer.eos_token_id}
    needed = max(set(tokenizer.get_vocab().values()) - unused) + 1
    rows = model.get_input_embeddings().weight.shape[0]  # type: ignore[union-attr,index]
    if needed > rows:
        raise SettingsError(
            f"model.path is {path!r}, whose tokenizer has {needed} token ids and whose model {rows} embeddings; wanted "
            "one for each: save the model after resize_token_embeddings, or with the tokenizer it was trained with"
        )


def without_dropout(config: Any) -> Any:
    """Set every rate of dropout and jitter to 0: the policy that trains has to be the one that sampled."""
    for name, value in vars(config).items():
        if ("dropout" in name or "jitter" in name or name.endswith("pdrop")) and isinstance(value, float):
            setattr(config, name, 0.0)
    return config


def _other_format(folder: Path) -> str:
    """What a folder holds in place of a tokenizer of Transformers."""
    other = (folder / "tekken.json").is_file() and not (folder / "tokenizer.json").is_file()
    return " (it has a tekken.json, Mistral's own format, and no tokenizer.json)" if other else ""


def _no_model(path: str, what: str, error: Exception, hint: str = "") -> SettingsError:
    bundled = sorted(p.name for p in ASSETS.iterdir() if p.is_dir()) if ASSETS.is_dir() else []
    said = str(error).partition("\n")[0]
    if isinstance(error, pickle.UnpicklingError):  # torch's own words tell how to have the code run
        error = ValueError(said := "its weights hold more than tensors, and to read them would run code")
    named = said if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {said}"
    wanted = f"{WANTED} ({', '.join(bundled)})"
    return SettingsError(f"model.path is {path!r}, which gave no {what}{hint}; wanted {wanted}: {named}")
