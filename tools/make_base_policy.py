"""Makes the small language models that reinforcement learning starts from: `tiny-household` (the quickstart's),
`tiny-shop`.

Each is trained from scratch on transcripts of a noisy player in its generated world, and on observations shuffled
across episodes: afterwards it writes commands that the world reacts to and knows how answers sound, but seldom solves a
task and does not know which answer an action brings about. The same seed on the same machine gives the same weights.

    python tools/make_base_policy.py                  # writes paw_lightning/assets/tiny-household
    python tools/make_base_policy.py --world shop     # writes paw_lightning/assets/tiny-shop
    python tools/base_policy_report.py [--world shop] # plays it, and writes its model card
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from base_worlds import WORLDS, Phase, Recipe, Transcript, World
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from paw_lightning.models.linear_logprob import linear_logprob
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.prompts import Prompt, PromptBuilder

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "paw_lightning" / "assets"
PAD, END = "<|pad|>", "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{{ '<|end|>\n' if message['role'] == 'assistant' else '>' }}{% endfor %}"
)
"""A text adventure's own look: the player's line starts with ">"."""
IGNORED = -100


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over a world's texts: nothing is unknown, nearly every word of them is one token."""
    # AutoTokenizer gives every Qwen2 model Qwen's own word boundaries, whatever its files say: so these are ours too.
    qwen = Qwen2Tokenizer().backend_tokenizer
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.pre_tokenizer = qwen.normalizer, qwen.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=None,
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
    )


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A Qwen2 with random weights."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.feedforward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.float32,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


@dataclass(frozen=True)
class Row:
    """Token ids, and for each position what it is to predict (IGNORED: nothing)."""

    ids: list[int]
    labels: list[int]


class Packer:
    """Turns transcripts into token ids equal, up to every action, to the prompt that a run would build there."""

    def __init__(self, chat: ChatFormat, prompt: Prompt) -> None:
        self.chat, self.prompt, self.prompts = chat, prompt, PromptBuilder(prompt, chat)
        self.known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; transcripts repeat themselves a lot."""
        if text not in self.known:
            self.known[text] = self.chat.encode_text(text)
        return self.known[text]

    def context(self, observation: str, task: str) -> list[int]:
        """An observation as it stands right before an action."""
        text = self.prompt.first_template.format(observation=observation, task=task)
        return [*self.encode(text), *self.chat.after_ids]

    def transcript(self, transcript: Transcript) -> Row:
        """One whole episode as the step layout's prompts show it, every action a target.

        After an action the end token is the target, while the transcript goes on with what the history of a prompt
        shows there (a line break).
        """
        line_break = self.encode(self.prompt.history_turn.rsplit("{action}", 1)[1])
        ids: list[int] = []
        labels: list[int] = []
        for observation, action, _ in transcript.turns:
            context, words = self.context(observation, transcript.task), self.encode(" " + action)
            ids += context + words + line_break
            labels += [IGNORED] * (len(context) - 1) + words + [self.chat.tokenizer.eos_token_id]
            labels += [IGNORED] * len(line_break)
        return Row(ids, labels)

    def growing(self, transcript: Transcript) -> Row:
        """The same in the episode layout: the end token stays, and what comes after it is encoded in pieces."""
        end = self.chat.tokenizer.eos_token_id
        ids: list[int] = []
        labels: list[int] = []
        for number, (observation, action, _) in enumerate(transcript.turns, 1):
            context = self.context(observation, transcript.task)
            if number > 1:
                before, after = self.prompts.turn(transcript.task, [], number)
                context = [*self.chat.bridge_after([end]), *before, *self.encode(observation), *after]
                context += self.chat.after_ids
            words = [*self.encode(" " + action), end]
            ids += context + words
            labels += [IGNORED] * (len(context) - 1) + words + [IGNORED]
        return Row(ids, labels)

    def language(self, transcript: Transcript, answer: str, rng: random.Random) -> Row:
        """An action followed by somebody else's answer, which alone is the target."""
        observation, action, _ = rng.choice(transcript.turns)
        end = [self.chat.tokenizer.eos_token_id]
        ids = [*self.context(observation, transcript.task), *self.encode(" " + action), *end]
        ids += self.chat.bridge_after(ids)
        target = self.encode(answer)
        return Row(ids + target, [IGNORED] * (len(ids) - 1) + target + [IGNORED])


def mean_loss(model: Qwen2ForCausalLM, rows: list[Row]) -> Tensor:
    """Cross-entropy per target token, nats."""
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in rows])
    labels = torch.tensor([row.labels + [IGNORED] * (width - len(row.ids)) for row in rows])
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    predicted = labels != IGNORED
    logprobs, _ = linear_logprob(hidden[predicted], model.lm_head.weight, labels[predicted])
    return -logprobs.mean()


def learning_rate(phase: Phase, warmup: int, step: int) -> float:
    """Linear warm-up times a cosine down to a twentieth of the peak."""
    warm = min(1.0, (step + 1) / warmup)
    fall = (1 + math.cos(math.pi * step / phase.steps)) / 2
    final = phase.learning_rate / 20
    return warm * (final + (phase.learning_rate - final) * fall)


def batches(world: World, phase: Phase, packer: Packer, seed: str) -> Iterator[tuple[list[Row], list[Row]]]:
    """Transcripts of tasks never seen before, and shuffled answers out of the same episodes."""
    rng = random.Random(f"{seed} batches")
    played = world.episodes(seed, phase.noise)
    for _ in range(phase.steps):
        whole = [next(played) for _ in range(world.recipe.batch)]
        episodes = [Transcript(episode.task, episode.turns[: phase.turns]) for episode in whole]
        answers = [rng.choice(episode.turns)[2] for episode in episodes]
        rng.shuffle(answers)
        language = [packer.language(e, answer, rng) for e, answer in zip(episodes, answers, strict=True)]
        growing = round(phase.growing * len(episodes))
        rows = [packer.growing(episode) for episode in episodes[:growing]]
        yield rows + [packer.transcript(episode) for episode in episodes[growing:]], language


def make_optimizers(model: Qwen2ForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for the rest: copying names forms in half the steps of AdamW alone."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, weight_decay=0.0, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0)]


def train(model: Qwen2ForCausalLM, world: World, phase: Phase, packer: Packer, seed: str) -> None:
    """Cross-entropy on actions, and a smaller one on observations that follow from nothing."""
    optimizers, recipe = make_optimizers(model), world.recipe
    started = time.perf_counter()
    model.train()
    for step, (transcripts, language) in enumerate(batches(world, phase, packer, seed)):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = learning_rate(phase, recipe.warmup, step)
            optimizer.zero_grad()
        action_loss, observation_loss = mean_loss(model, transcripts), mean_loss(model, language)
        (action_loss + recipe.observation_weight * observation_loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if (step + 1) % 50 == 0 or step + 1 == phase.steps:
            seconds = time.perf_counter() - started
            losses = f"action loss {action_loss.item():.3f}, observation loss {observation_loss.item():.3f}"
            print(f"step {step + 1}/{phase.steps}: {losses}, {seconds:.0f} s", flush=True)


def main() -> None:
    """Make the policy and write its directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=WORLDS, default="household", help="what it is to play")
    parser.add_argument(
        "--output", type=Path, help="directory to write; default: tiny-WORLD among the package's assets"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="another number may change the weights' last bits")
    options = parser.parse_args()
    world = WORLDS[options.world]
    output = options.output or ASSETS / f"tiny-{world.name}"
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    started = time.perf_counter()
    tokenizer = train_tokenizer(world.texts(options.seed), world.recipe.vocabulary)
    model = build_model(world.recipe, tokenizer)
    print(f"{len(tokenizer)} tokens, {model.num_parameters():,} parameters", flush=True)
    packer = Packer(ChatFormat(tokenizer), Prompt(**world.rollout()["prompt"]))
    for number, phase in enumerate(world.recipe.phases):
        # The first phase's seed is the plain one; a later phase plays the same tasks with other dice.
        train(model, world, phase, packer, f"{options.seed}" + f" phase {number}" * (number > 0))
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    print(f"wrote {output} after {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
