"""The shared language model and its readers: a policy head, a world-model head, and PPO's value head."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from paw_lightning.attention import branch_arguments
from paw_lightning.losses.linear_logprob import CHUNK_BYTES, linear_logprob

ASSETS = Path(__file__).parent / "assets"


def resolve_model_path(path: str) -> str:
    """Return the directory of a policy shipped with the package, or `path` itself (a directory or a hub name)."""
    bundled = ASSETS / path
    return str(bundled) if path and bundled.is_dir() else str(Path(path).expanduser()) if path else path


def load_tokenizer(path: str) -> Any:
    """Load the tokenizer of a model directory or hub name.

    Raises ValueError naming ``model.path`` when there is none.
    """
    directory = resolve_model_path(path)
    try:
        # AutoTokenizer gives every Qwen2 model Qwen's own word boundaries, whatever its tokenizer.json says.
        declared = get_tokenizer_config(directory).get("tokenizer_class")
        generic = declared in ("TokenizersBackend", "PreTrainedTokenizerFast")
        tokenizer = (PreTrainedTokenizerFast if generic else AutoTokenizer).from_pretrained(directory)
    except (OSError, ValueError) as error:
        raise _no_model(path, "tokenizer", error) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


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
    """
    directory, torch_dtype = resolve_model_path(path), getattr(torch, dtype)
    try:
        config = without_dropout(AutoConfig.from_pretrained(directory))
        settings = {"dtype": torch_dtype, "attn_implementation": attention}
        if weights == "random":
            model = AutoModelForCausalLM.from_config(config, **settings)
        else:
            model = AutoModelForCausalLM.from_pretrained(directory, config=config, **settings)
    except ImportError as error:
        raise ValueError(f"model.attention is {attention!r}; wanted one that can run here: {error}") from error
    except (OSError, ValueError) as error:
        raise _no_model(path, "causal language model", error) from error
    if activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def without_dropout(config: Any) -> Any:
    """Set every dropout rate to 0: the policy that trains has to be the one that sampled."""
    for name, value in vars(config).items():
        if ("dropout" in name or name.endswith("pdrop")) and isinstance(value, float):
            setattr(config, name, 0.0)
    return config


def _no_model(path: str, what: str, error: Exception) -> ValueError:
    bundled = sorted(p.name for p in ASSETS.iterdir() if p.is_dir()) if ASSETS.is_dir() else []
    return ValueError(
        f"no {what} at model.path={path!r}; wanted a Hugging Face model directory or hub name, or one of the bundled "
        f"policies {bundled}: {error}"
    )


@dataclass(frozen=True)
class LogitForm:
    """What a model makes of its LM head's output z: logits = cap(scale z), cap(x) = softcap tanh(x / softcap).

    Cohere multiplies, Granite divides, Gemma caps; the config says by how much.
    """

    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, config: Any) -> LogitForm:
        """Read the form off a model's config."""
        text = config.get_text_config()
        scale = getattr(text, "logit_scale", None) or 1 / (getattr(text, "logits_scaling", None) or 1.0)
        return cls(scale, getattr(text, "final_logit_softcapping", None))

    def read(
        self, states: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Log-probs [N] and entropies [N] of softmax(logits / temperature) from states [N, H].

        cap(scale z) / T = cap'(z) / T' with both softcap and T divided by scale: the scale costs no arithmetic.
        """
        softcap = None if self.softcap is None else self.softcap / self.scale
        temperature = temperature / self.scale
        return linear_logprob(states, weight, targets, bias=bias, temperature=temperature, softcap=softcap)


class PolicyHead(nn.Module):
    """Reads the hidden states that predict action tokens: log-probs and entropies of the sampling distribution."""

    def __init__(self, form: LogitForm) -> None:
        super().__init__()
        self.form = form

    def forward(
        self, hidden: Tensor, lm_head: nn.Linear, input_ids: Tensor, mask: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """hidden [B, T, H], input_ids and mask [B, T] -> log-probs [N] and entropies [N] in nats, N = mask.sum()."""
        states, targets = predicting_states(hidden, input_ids, mask)
        return self.form.read(states, lm_head.weight, targets, getattr(lm_head, "bias", None), temperature)


class WorldModelHead(nn.Module):
    """Reads the hidden states that predict observation tokens, through the shared LM head or one of its own."""

    def __init__(self, form: LogitForm, own_projection: Tensor | None = None) -> None:
        super().__init__()
        self.form = form
        self.projection = None if own_projection is None else nn.Parameter(own_projection.detach().clone())

    def forward(self, hidden: Tensor, lm_head: nn.Linear, input_ids: Tensor, mask: Tensor) -> Tensor:
        """hidden [B, T, H], input_ids and mask [B, T] -> log p of each target [M], M = mask.sum()."""
        states, targets = predicting_states(hidden, input_ids, mask)
        weight = lm_head.weight if self.projection is None else self.projection
        logprobs, _ = self.form.read(states, weight, targets, getattr(lm_head, "bias", None))
        return logprobs

    @torch.no_grad()
    def hits(self, hidden: Tensor, lm_head: nn.Linear, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Arguments as in ``forward`` -> bool [M]: the target is the most likely token."""
        states, targets = predicting_states(hidden, input_ids, mask)
        weight = lm_head.weight if self.projection is None else self.projection
        rows = max(1, CHUNK_BYTES // (4 * len(weight)))
        chunks = [nn.functional.linear(h, weight, getattr(lm_head, "bias", None)).argmax(1) for h in states.split(rows)]
        return torch.cat(chunks) == targets


class ValueHead(nn.Module):
    """Reads the hidden states that predict action tokens: the value of the state before each token.

    It starts at 0, so that the first values are 0 and the first gradient does not reach the backbone.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.projection = nn.Linear(hidden_size, 1)  # float32 whatever the backbone: returns need the digits
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, hidden: Tensor, input_ids: Tensor, mask: Tensor, view: Mapping[str, Any]) -> Tensor:
        """hidden [B, T, H], input_ids and mask [B, T] -> values float32 [N], N = mask.sum().

        `hidden` was read under `view`, which a critic with a backbone needs for its own.
        """
        states, _ = predicting_states(hidden, input_ids, mask)
        # A product and a sum: autocast would make a matrix product bfloat16.
        return (states.float() * self.projection.weight[0]).sum(-1) + self.projection.bias


class SeparateCritic(nn.Module):
    """A value head on a backbone of its own, a copy of the policy's as it starts."""

    def __init__(self, language_model: PreTrainedModel) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(language_model.get_decoder())
        self.value_head = ValueHead(language_model.config.get_text_config().hidden_size)

    def forward(self, hidden: Tensor, input_ids: Tensor, mask: Tensor, view: Mapping[str, Any]) -> Tensor:
        """As ValueHead's; the policy's hidden states are not read."""
        own = self.backbone(input_ids=input_ids, use_cache=False, **view).last_hidden_state
        return self.value_head(own, input_ids, mask, view)


def build_critic(language_model: PreTrainedModel, kind: Literal["none", "shared", "separate"]) -> nn.Module | None:
    """The critic of a policy that has not been trained yet; None for none."""
    if kind == "separate":
        return SeparateCritic(language_model)
    return ValueHead(language_model.config.get_text_config().hidden_size) if kind == "shared" else None


def predicting_states(hidden: Tensor, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the hidden states one position before each masked token, and those tokens."""
    return hidden[:, :-1][mask[:, 1:]], input_ids[:, 1:][mask[:, 1:]]


@dataclass
class HeadOutputs:
    """What the heads read from one forward pass; flat vectors in the row-major order of their mask, in nats."""

    action_logprobs: Tensor
    action_entropies: Tensor
    observation_logprobs: Tensor
    values: Tensor | None
    """In units of return, one per action token; None without a critic."""


class PolicyWorldModel(nn.Module):
    """One language model, one forward pass, two heads, and a critic where PPO asks for one.

    Everything happens inside one ``forward``, so that sharding strategies see a single root module.
    """

    def __init__(self, language_model: PreTrainedModel, separate_world_model_head: bool = False) -> None:
        super().__init__()
        self.language_model = language_model
        form = LogitForm.of(language_model.config)
        self.policy_head = PolicyHead(form)
        own = language_model.get_output_embeddings().weight if separate_world_model_head else None
        self.world_model_head = WorldModelHead(form, own)
        self.critic: nn.Module | None = None

    def forward(
        self,
        input_ids: Tensor,
        action_mask: Tensor,
        observation_mask: Tensor,
        temperature: float,
        position_ids: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> HeadOutputs:
        """input_ids, masks and position_ids [B, T], right-padded, visible bool [B, 1, T, T] (rows with branches).

        Action log-probs are those of logits / temperature.
        """
        backbone = self.language_model.get_decoder()
        view: dict[str, Any] = {}
        if position_ids is not None and visible is not None:
            view = branch_arguments(self.language_model, position_ids, visible)
        hidden = backbone(input_ids=input_ids, use_cache=False, **view).last_hidden_state
        lm_head = self.language_model.get_output_embeddings()
        logprobs, entropies = self.policy_head(hidden, lm_head, input_ids, action_mask, temperature)
        observed = self.world_model_head(hidden, lm_head, input_ids, observation_mask)
        values = None if self.critic is None else self.critic(hidden, input_ids, action_mask, view)
        return HeadOutputs(logprobs, entropies, observed, values)


@torch.no_grad()
def check_heads(model: PolicyWorldModel) -> None:
    """Refuse a model that makes its logits from the last hidden state in another way than `LogitForm` knows.

    The heads read the hidden states themselves; such a model would be trained on another distribution than it samples
    from. Raises ValueError naming ``model.path``.
    """
    device = next(model.parameters()).device
    input_ids = torch.arange(8, device=device)[None]
    mask = torch.ones_like(input_ids, dtype=torch.bool)
    read = model(input_ids, mask, torch.zeros_like(mask), 1.0).action_logprobs
    logprobs = torch.log_softmax(model.language_model(input_ids=input_ids, use_cache=False).logits[0, :-1].float(), -1)
    gap = (read - logprobs.gather(1, input_ids[0, 1:, None]).squeeze(1)).abs().max().item()
    if gap > (1e-3 if read.dtype == next(model.parameters()).dtype else 0.1):
        raise ValueError(
            f"the model's own log-probs differ by {gap:.2g} nats from those read off its hidden states; wanted a model "
            "whose logits are its LM head's output, scaled or capped as its config says (model.path)"
        )


def frozen_copy(model: PolicyWorldModel) -> PolicyWorldModel:
    """Return a copy that is never trained: the reference policy of the KL term."""
    return copy.deepcopy(model).requires_grad_(False).eval()
