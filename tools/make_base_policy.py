"""Makes `tiny-household`, the small language model that reinforcement learning starts from in the quickstart.

It is trained from scratch on noisy demonstrations of generated houses, and on observations shuffled across
episodes: afterwards it writes commands that a house reacts to and knows how answers sound, but rarely solves a task and
does not know which answer an action brings about. The same seed on the same machine gives the same weights.

    python tools/make_base_policy.py --output paw_lightning/assets/tiny-household
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from household_demonstrations import Example, Step, episodes, examples
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from paw_lightning.envs.household import HouseholdEnv
from paw_lightning.envs.household_game import TASKS
from paw_lightning.losses.linear_logprob import linear_logprob
from paw_lightning.tokenization import ChatFormat, Prompt, PromptBuilder

ROOT = Path(__file__).resolve().parent.parent
WORLD = ROOT / "configs" / "household" / "grpo.yaml"
OUTPUT = ROOT / "paw_lightning" / "assets" / "tiny-household"

PAD, USER, ASSISTANT, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the base policy becomes."""

    noise: float = 0.6
    """Share of the demonstrated actions that are drawn from all that the house would react to. It is there from the
    first step on: noise added at the end would be forgotten by the first few updates of any kind."""
    insight: float = 0.4
    """Share of the episodes whose expert knows where everything is."""
    others: int = 4
    """Random actions that are shown beside the expert's, for less noise in the gradient than one of them gives."""
    houses: int = 60_000
    turns_per_house: int = 4
    observation_weight: float = 0.3
    """Weight of the loss on shuffled observations, next to 1 for the loss on actions."""
    vocabulary: int = 640
    width: int = 96
    feedforward: int = 256
    layers: int = 3
    heads: int = 4
    positions: int = 4096
    steps: int = 3000
    batch: int = 96
    learning_rate: float = 2e-3
    final_learning_rate: float = 1e-4
    warmup: int = 50


def world() -> dict[str, Any]:
    """The quickstart's `rollout` section: environment, prompt, and limits."""
    return yaml.safe_load(WORLD.read_text())["rollout"]


def make_environment(split: str, **changes: Any) -> HouseholdEnv:
    """The quickstart's environment, with changes."""
    return HouseholdEnv(split, **{**world()["environment"]["init_args"], **changes})


def train_tokenizer(vocabulary: int, seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the texts of all household tasks: nothing is unknown, nearly every word is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [PAD, END, USER, ASSISTANT]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(household_texts(seed), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )


def household_texts(seed: int) -> Iterator[str]:
    """Observations, commands and tasks of larger houses with every task type."""
    for brief in (False, True):
        env = make_environment("train", tasks=TASKS, receptacles=12, objects=16, brief_intro=brief)
        for steps in episodes(env, 300, seed, noise=0.5, insight=0.5, others=1, turns=30):
            yield f"{steps[0].initial}\nTask: {steps[0].task}"
            for step in steps:
                yield from (f"> {step.others[0]}\n", *step.others, step.answer)


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A Qwen2 with random weights."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.feedforward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.float32,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


@dataclass(frozen=True)
class Batch:
    """Right-padded rows: a prompt, then branches that all continue it and cannot see each other."""

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    sources: Tensor
    """Column of the token that each token is predicted from."""
    action_weights: Tensor
    """float: 1 - noise on the expert's action, noise shared out over the others, 0 elsewhere."""
    observation_weights: Tensor
    """float: 1 on the observation, which follows the last action."""


def batches(data: list[Example], recipe: Recipe, chat: ChatFormat, seed: int) -> Iterator[Batch]:
    """Endless batches of rows of like length, every epoch with other rows and other observations together."""
    rng = random.Random(f"{seed} batches")
    bridge = chat.bridge_after([chat.tokenizer.eos_token_id])
    while True:
        order, answers = list(range(len(data))), list(range(len(data)))
        rng.shuffle(order)
        rng.shuffle(answers)
        pool = 32 * recipe.batch
        for start in range(0, len(order), pool):
            rows = [
                lay_out(data[i], bridge, data[answers[i]].observation_ids, recipe) for i in order[start : start + pool]
            ]
            rows.sort(key=len)
            cuts = list(range(0, len(rows), recipe.batch))
            rng.shuffle(cuts)
            yield from (pad(rows[cut : cut + recipe.batch], chat.tokenizer.pad_token_id) for cut in cuts)


@dataclass(frozen=True)
class Token:
    """One token of a row."""

    id: int
    position: int
    branch: int
    """0 is the prompt."""
    source: int
    action_weight: float = 0.0
    observation_weight: float = 0.0


def lay_out(example: Example, bridge: list[int], observation: list[int], recipe: Recipe) -> list[Token]:
    """One example with somebody else's observation after its last action."""
    prompt = len(example.prompt_ids)
    tokens = [Token(token, i, 0, max(i - 1, 0)) for i, token in enumerate(example.prompt_ids)]
    others = len(example.action_ids) - 1
    for branch, action in enumerate(example.action_ids):
        weight = recipe.noise / others if branch else 1 - recipe.noise
        for i, token in enumerate(action):
            tokens.append(Token(token, prompt + i, branch + 1, len(tokens) - 1 if i else prompt - 1, weight))
    for i, token in enumerate(bridge + observation):
        position = prompt + len(example.action_ids[-1]) + i
        tokens.append(Token(token, position, others + 1, len(tokens) - 1, 0.0, float(i >= len(bridge))))
    return tokens


def pad(rows: list[list[Token]], pad_token_id: int) -> Batch:
    """One rectangle; a token sees the prompt and its own branch."""
    width = max(map(len, rows))
    filler = Token(pad_token_id, 0, -1, 0)
    rows = [row + [filler] * (width - len(row)) for row in rows]

    def column(name: str) -> Tensor:
        return torch.tensor([[getattr(token, name) for token in row] for row in rows])

    branches = column("branch")
    visible = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
    mask = visible & torch.ones(width, width, dtype=torch.bool).tril()
    return Batch(
        column("id"),
        column("position"),
        mask[:, None],
        column("source"),
        column("action_weight"),
        column("observation_weight"),
    )


def losses(model: Qwen2ForCausalLM, batch: Batch) -> tuple[Tensor, Tensor]:
    """Weighted mean cross-entropy of actions and of observations, nats per token."""
    hidden = model.model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        attention_mask=batch.attention_mask,
        use_cache=False,
    ).last_hidden_state
    weights = torch.stack([batch.action_weights, batch.observation_weights])
    rows, columns = weights.sum(0).nonzero(as_tuple=True)
    sources = batch.sources[rows, columns]
    logprobs, _ = linear_logprob(hidden[rows, sources], model.lm_head.weight, batch.input_ids[rows, columns])
    weights = weights[:, rows, columns]
    action, observation = -(weights * logprobs).sum(1) / weights.sum(1)
    return action, observation


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine down to the final rate."""
    warm = min(1.0, (step + 1) / recipe.warmup)
    fall = (1 + math.cos(math.pi * step / recipe.steps)) / 2
    return warm * (recipe.final_learning_rate + (recipe.learning_rate - recipe.final_learning_rate) * fall)


def train(model: Qwen2ForCausalLM, stream: Iterator[Batch], recipe: Recipe, report: Callable[[str], None]) -> None:
    """Cross-entropy on actions, and a smaller one on observations that follow from nothing."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    tokens, started = 0, time.perf_counter()
    for step, batch in enumerate(itertools.islice(stream, recipe.steps)):
        optimizer.param_groups[0]["lr"] = learning_rate(recipe, step)
        action_loss, observation_loss = losses(model, batch)
        optimizer.zero_grad()
        (action_loss + recipe.observation_weight * observation_loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        tokens += batch.input_ids.numel()
        if (step + 1) % 100 == 0 or step + 1 == recipe.steps:
            seconds = time.perf_counter() - started
            report(
                f"step {step + 1}/{recipe.steps}: action loss {action_loss.item():.3f}, observation loss "
                f"{observation_loss.item():.3f}, {tokens / seconds:,.0f} tokens/s, {seconds:.0f} s"
            )


def say(line: str) -> None:
    """Show progress at once, also through a pipe."""
    print(line, flush=True)


def demonstrations(recipe: Recipe, builder: PromptBuilder, seed: int) -> list[Example]:
    """The training set."""
    played: Iterator[list[Step]] = episodes(
        make_environment("train"),
        recipe.houses,
        seed,
        noise=recipe.noise,
        others=recipe.others,
        insight=recipe.insight,
        turns=world()["max_steps"],
    )

    def progress(number: int) -> None:
        if number % 10_000 == 0:
            say(f"played {number}/{recipe.houses} houses")

    return examples(played, builder, recipe.turns_per_house, seed, progress)


def main() -> None:
    """Make the policy, play it, write the directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="directory to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="another number may change the weights' last bits")
    for name in ("noise", "insight", "observation_weight", "learning_rate"):
        parser.add_argument(f"--{name}", type=float, default=getattr(Recipe(), name))
    for name in ("houses", "others", "steps", "batch", "width", "layers", "feedforward", "heads", "turns_per_house"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Recipe(), name))
    options = vars(parser.parse_args())
    output, seed, threads = (options.pop(name) for name in ("output", "seed", "threads"))
    recipe = Recipe(**options)
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    started = time.perf_counter()
    tokenizer = train_tokenizer(recipe.vocabulary, seed)
    model = build_model(recipe, tokenizer)
    say(f"{len(tokenizer)} tokens, {model.num_parameters():,} parameters")
    chat = ChatFormat(tokenizer)
    data = demonstrations(recipe, PromptBuilder(Prompt(**world()["prompt"]), chat), seed)
    mean = sum(len(example.prompt_ids) for example in data) / len(data)
    say(f"{len(data)} rows, {mean:.0f} prompt tokens on average ({time.perf_counter() - started:.0f} s)")
    train(model, batches(data, recipe, chat, seed), recipe, say)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    say(f"wrote {output} after {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
