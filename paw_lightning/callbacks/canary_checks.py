"""What the canaries check, each as a function that raises CanaryError."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NoReturn

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from paw_lightning import ranks
from paw_lightning.models.lora import adapted_layers, adapters_off
from paw_lightning.samplers.base import Generation, Sampler
from paw_lightning.seeding import uniforms
from paw_lightning.text.encoding import valid_text
from paw_lightning.text.tool_calls import calls_or_quotes
from paw_lightning.training.module import PaWModule
from paw_lightning.types import MicroBatch, Transition
from paw_lightning.update.collate import rectangle
from paw_lightning.update.rows import Row, Segment, policy_rows

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.01, torch.bfloat16: 0.05}
"""Nats, mean over tokens: above the rounding of each arithmetic, below a temperature of 0.9 instead of 1 where a token
surprises by a nat or so; `rounding` allows more where they surprise more."""
CHECKED = 4
"""Rows that are scored at most: the longest of the rollout, and others from all over it."""
FREE_TOKENS, SHARE = 1024, 0.01
"""Others are added while all hold at most so many tokens, or that share of the rollout's: they are read one by one."""
TELLING = 16
"""Action tokens from which on a row is held to the tolerance by itself, and not only together with the others."""
PROBE_TOKENS = 8
WATCHED_WEIGHTS, SEARCHED_WEIGHTS = 64, 65_536
"""Per tensor: weights that have to move, those with the largest gradients of an evenly spaced sample."""


class CanaryError(RuntimeError):
    """A check failed; the message says what is wrong and where to look."""


@dataclass(frozen=True)
class Pair:
    """Sampler and trainer of one policy, each asked what it makes of the same tokens."""

    module: PaWModule
    sampler: Sampler
    temperature: float

    def score(self, rows: Sequence[Row]) -> list[Tensor]:
        """Log-probs of each row's action tokens from the training forward, one row at a time: no padding can matter."""
        result = []
        for row in rows:
            masks = (tensor.to(self.module.device) for tensor in rectangle([row]))
            out = self.module.played_model(*masks, self.temperature)
            result.append(out.action_logprobs.double().cpu())
        return result

    def score_answers(self, prompts: Sequence[list[int]], answers: Sequence[Generation]) -> list[Tensor]:
        """The same of what the sampler answers to prompts."""
        pairs = zip(prompts, answers, strict=True)
        return self.score([Row([Segment(prompt), Segment(answer.token_ids, "action")]) for prompt, answer in pairs])

    def sample(self, prompts: list[list[int]]) -> list[Generation]:
        """The sampler's answers, of random numbers that are always the same."""
        noise = torch.stack([uniforms(PROBE_TOKENS, "canary", i) for i in range(len(prompts))])
        settings: dict[str, Any] = {"temperature": self.temperature, "max_new_tokens": PROBE_TOKENS}
        return self.sampler.generate(prompts, **settings, uniforms=noise)


@dataclass
class Probe:
    """What sampler and trainer said to a few prompts before the first step."""

    prompts: list[list[int]]
    generations: list[Generation]
    trainer: list[Tensor]
    """Log-probs of the generated tokens."""

    @classmethod
    def take(cls, pair: Pair, prompts: list[list[int]]) -> Probe:
        """Sample and score."""
        generations = pair.sample(prompts)
        return cls(prompts, generations, pair.score_answers(prompts, generations))


def choose(transitions: Sequence[Transition]) -> list[Row]:
    """The longest row of the rollout, and others from all over it as far as they are cheap (FREE_TOKENS, SHARE).

    The others have an observation at their end where there are such, and one of them is read in any case if the longest
    has none.

    The rows are whole: all turns of the episode layout.
    """
    rows = [row for row in policy_rows(transitions) if all(t.action_ids for t in turns(row))]
    longest = max(rows, key=lambda row: row.length, default=None)
    pool = [row for row in rows if turns(row)[-1].observation_ids] or rows
    spread = [pool[i * len(pool) // (CHECKED - 1)] for i in range(CHECKED - 1)] if pool else []
    limit = max(FREE_TOKENS, SHARE * sum(row.length for row in rows))
    chosen = [] if longest is None else [longest]
    for row in spread:
        blind = not turns(chosen[-1])[-1].observation_ids and len(chosen) == 1  # nothing shows what an observation does
        if row is not longest and (blind or sum(other.length for other in [*chosen, row]) <= limit):
            chosen.append(row)
    return chosen


def turns(row: Row) -> list[Transition]:
    """The transitions of a row, in order."""
    return [segment.transition for segment in row.having("action") if segment.transition is not None]


def check_texts(tokenizer: Any, checked: Sequence[Transition]) -> None:
    """Action tokens hold the text that was sent to the environment, observation tokens its answer."""
    for t in checked:
        # An action may hold tokens that are called special; padding within it was not sent.
        unsent = {tokenizer.pad_token_id, tokenizer.eos_token_id}
        written = tokenizer.decode([i for i in t.action_ids if i not in unsent])
        # A tool call reaches the environment in a form of its own, so there it is the whole answer that is compared.
        sent = t.answer_text if calls_or_quotes(t.action_text) else t.action_text
        if squashed(sent).casefold() not in squashed(written).casefold():
            fail(
                f"action tokens decode to {shortened(written)}, but the environment was sent "
                f"{shortened(sent)}; wanted the latter within the former (rollout.prompt.action_format)"
            )
        if not t.observation_ids:
            continue
        read = tokenizer.decode(t.observation_ids)
        text = valid_text(t.observation_text)  # as ChatFormat.encode_text reads it
        again = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        # A lossy tokenizer loses the same of the text itself.
        if squashed(read) not in (squashed(text), squashed(tokenizer.decode(again))):
            fail(
                f"observation tokens decode to {shortened(read)}; wanted the environment's answer "
                f"{shortened(t.observation_text)} (the tokenizer of model.path)"
            )


def rounding(module: PaWModule, scored: Sequence[Tensor]) -> float:
    """Largest mean difference that the arithmetic explains, nats: TOLERANCE, up to twice that for surprising tokens.

    A rounded logit moves a log-prob by that much times (1 - p): hardly where the policy is sure. Seen in bfloat16:
    0.002 nats at a mean surprise of 0.2 nats, 0.035 at 2.5.
    """
    surprise = -torch.cat(list(scored)).mean().item()
    return TOLERANCE[arithmetic(module)] * min(max(1.0, surprise), 2.0)


def check_sampler_agrees(
    pair: Pair, checked: Sequence[Row], scored: Sequence[Tensor], tolerance: float, rollout_gap: float | None = None
) -> float:
    """The sampler's own log-probs are those of the training forward; returns the mean difference.

    It is taken over all action tokens of the checked rows, and over a row's own where it has enough of them: what
    changes with the length shows in the longest. `rollout_gap` is that of the whole rollout, where scoring knows it.
    """
    sampled = [
        torch.tensor([p for t in turns(row) for p in t.sampled_logprobs], dtype=torch.float64) for row in checked
    ]
    gap = mean_gap(scored, sampled)
    parts = zip(checked, scored, sampled, strict=True)
    gaps = [(mean_gap([p], [q]), f" over a row of {row.length} tokens") for row, p, q in parts if len(p) >= TELLING]
    gaps += [] if rollout_gap is None else [(rollout_gap, " over the rollout (rollout/sampler_gap)")]
    worst, where = max([(gap, ""), *gaps])
    if not worst <= tolerance:
        fail(
            f"the sampler's log-probs differ from the trainer's by {worst:.2g} nats on average{where}; wanted at most "
            f"{tolerance:g} (canaries.logprob_tolerance): the sampler uses another temperature than "
            f"rollout.temperature ({pair.temperature:g}), other weights, another precision (of a server: its --dtype) "
            "or another reading of long rows, or the model drops units out while it trains (model.path)"
        )
    return gap


def check_appended_observation(pair: Pair, checked: Sequence[Row], whole: Sequence[Tensor], tolerance: float) -> float:
    """What follows an action does not change the action's log-probs; returns the mean difference.

    The first action of each row is read again with nothing behind it. `whole` are the log-probs of the whole rows, read
    with the observation that follows the last action.
    """
    alone = pair.score([Row(row.segments[:2]) for row in checked])
    gap = mean_gap(alone, [scored[: len(first)] for scored, first in zip(whole, alone, strict=True)])
    if not gap <= tolerance:
        fail(
            f"an appended observation changes the log-probs of the action before it by {gap:.2g} nats on average; "
            f"wanted at most {tolerance:g} (canaries.logprob_tolerance), as a causal model gives (model.path)"
        )
    return gap


def with_last_observation(row: Row) -> Row:
    """The row, and the environment's answer to its last action."""
    last = turns(row)[-1]
    return Row([*row.segments, Segment(last.bridge_ids), Segment(last.observation_ids)])


def check_masks(tokenizer: Any, batch: MicroBatch, known: dict[str, set[tuple[int, ...]]]) -> tuple[str, str]:
    """Every stretch of a mask is one whole action or one whole target; returns the first of each as text."""
    shown = []
    for name, mask in (("action", batch.action_mask), ("target", batch.target_mask)):
        runs = masked_runs(batch.input_ids, mask)
        for run in runs:
            if tuple(run) not in known[name]:
                fail(
                    f"a stretch of the first mini-batch's {name} mask covers {shortened(tokenizer.decode(run))}, which "
                    f"is no {name} of the rollout; wanted whole ones: the rows are built wrongly"
                )
        shown.append(shortened(tokenizer.decode(runs[0])) if runs else "nothing")
    return shown[0], shown[1]


def check_weights_moved(
    module: PaWModule, watched: Sequence[tuple[nn.Parameter, Tensor, Tensor]], optimizer: Any
) -> None:
    """Most of the weights with the largest gradients are other numbers than before (zeros alone always move).

    Adapters and weights below float32 are warned of only: who chose them was told what becomes of small steps.
    """
    moved = [local(p.detach()).flatten()[places] != values for p, places, values in watched]
    hits = [hit for part in ranks.pooled([m.tolist() for m in moved]) for hit in part]
    share = sum(hits) / len(hits)
    dtypes = ", ".join(sorted(set(ranks.pooled([str(p.dtype) for p, _, _ in watched]))))
    if share >= 0.5:
        return
    rates = ", ".join(sorted({f"{group['lr']:g}" for group in optimizer.param_groups}))
    message = (
        f"an optimizer step with learning rate {rates} moved {share:.0%} of the weights with the largest gradients; "
        f"wanted at least half: {dtypes} is too coarse for so small a step (model.dtype: float32 with "
        "trainer.precision: bf16-mixed), or the optimizer has other parameters (model.optimizer)"
    )
    if module.lora.rank or dtypes != str(torch.float32):
        rank_zero_warn(message)
    else:
        fail(message)


def check_adapters(pair: Pair, probe: Probe) -> None:
    """With LoRA adapters the model is another one than without them, now that they have been trained."""
    model = pair.module.language_model
    layers = adapted_layers(model)
    if not layers or not any(g.token_ids for g in probe.generations):
        return
    adapted = pair.score_answers(probe.prompts, probe.generations)
    with adapters_off(model):
        bare = pair.score_answers(probe.prompts, probe.generations)
    if all(map(torch.equal, adapted, bare)):
        fail(
            f"the model's {len(layers)} LoRA layers have no effect on its log-probs after a step; wanted trained "
            "adapters that are switched on and not merged (model.path, or how the adapters were added)"
        )


def check_sampler_follows(pair: Pair, before: Probe, tolerance: float) -> None:
    """Where training changed what the trainer says to the probe's prompts, the sampler says something else too."""
    moved = mean_gap(pair.score_answers(before.prompts, before.generations), before.trainer)
    if moved > tolerance / 10 and pair.sample(before.prompts) == before.generations:
        fail(
            f"training moved the trainer's log-probs by {moved:.2g} nats on average, and the sampler's not at all; "
            "wanted a sampler that takes over the trained weights (rollout)"
        )


@contextmanager
def passive(module: PaWModule) -> Iterator[None]:
    """Inside: the training forward's arithmetic, no gradients, and random numbers that leave no trace."""
    devices = [module.device] if module.device.type == "cuda" else []
    with torch.no_grad(), module.arithmetic(), torch.random.fork_rng(devices=devices):
        yield


def mean_gap(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Mean absolute difference over all tokens; 0 where there is none."""
    gaps = (torch.cat(list(first)) - torch.cat(list(second))).abs()
    return gaps.mean().item() if len(gaps) else 0.0


def watch(parameter: nn.Parameter) -> tuple[nn.Parameter, Tensor, Tensor]:
    """The parameter, places of large gradient, and its values there; places count in the flattened parameter."""
    assert parameter.grad is not None
    gradient, values = local(parameter.grad).flatten(), local(parameter.detach()).flatten()
    stride = max(1, len(gradient) // SEARCHED_WEIGHTS)
    sampled = gradient[::stride].abs()
    sizes, places = sampled.topk(min(WATCHED_WEIGHTS, len(sampled)))
    places = places[sizes > 0] * stride
    return parameter, places, values[places].clone()


def local(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor that is here, or the tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def masked_runs(input_ids: Tensor, mask: Tensor) -> list[list[int]]:
    """Token ids of every unbroken stretch of a mask, row by row."""
    rows = zip(input_ids.tolist(), mask.tolist(), strict=True)
    stretches = (groupby(zip(ids, masked, strict=True), key=lambda pair: pair[1]) for ids, masked in rows)
    return [[token for token, _ in pairs] for row in stretches for masked, pairs in row if masked]


def target_runs(t: Transition) -> list[tuple[int, ...]]:
    """Every unbroken stretch of what a transition may be taught; whole texts where no filter cuts them."""
    mask = t.predicted_mask or [True] * len(t.predicted_ids)
    pairs = groupby(zip(t.predicted_ids, mask, strict=True), key=lambda pair: pair[1])
    return [tuple(token for token, _ in run) for taught, run in pairs if taught]


def squashed(text: str) -> str:
    """Text without what tokenizers may lose: white space and the form of a character."""
    return "".join(unicodedata.normalize("NFKC", valid_text(text)).split())


def shortened(text: str, length: int = 60) -> str:
    """Text in quotes, cut in the middle."""
    half = length // 2
    return repr(text if len(text) <= length else f"{text[:half]} ... {text[-half:]}")


def arithmetic(module: PaWModule) -> torch.dtype:
    """What the forward pass computes in: autocast's dtype where that is on, else the weights'."""
    device = module.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return module.language_model.get_input_embeddings().weight.dtype  # type: ignore[union-attr,return-value]


def fail(what: str) -> NoReturn:
    raise CanaryError(f"{what}. canaries.enabled: false trains regardless")
