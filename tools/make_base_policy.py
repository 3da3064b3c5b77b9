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
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from base_worlds import WORLDS, Phase, Transcript, World
from tiny_models import build_model, optimize, train_bpe
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM, Qwen2Tokenizer

from paw_lightning.models.linear_logprob import linear_logprob
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.prompts import Prompt, PromptBuilder

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "paw_lightning" / "assets"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}"
    "{{ '<|end|>\n' if message['role'] == 'assistant' else '>' }}{% endfor %}"
)
"""A text adventure's own look: the player's line starts with ">"."""
IGNORED = -100


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Of a world's texts."""
    # AutoTokenizer gives every Qwen2 model Qwen's own word boundaries, whatever its files say: so these are ours too.
    qwen = Qwen2Tokenizer().backend_tokenizer
    return train_bpe(
        texts, vocabulary, qwen.pre_tokenizer, qwen.normalizer, unk_token=None, chat_template=CHAT_TEMPLATE
    )


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
                before, after = (self.encode(text) for text in self.prompts.turn(transcript.task, [], number))
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


def losses(
    model: Qwen2ForCausalLM, world: World, phase: Phase, packer: Packer, seed: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each batch in turn, on actions and on observations that follow from nothing."""
    for transcripts, language in batches(world, phase, packer, seed):
        yield mean_loss(model, transcripts), mean_loss(model, language)


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
        seed = f"{options.seed}" + f" phase {number}" * (number > 0)
        optimize(model, world.recipe, phase, losses(model, world, phase, packer, seed))
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    print(f"wrote {output} after {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
