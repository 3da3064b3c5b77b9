"""Makes the small language model that `configs/alfworld/small.yaml` starts from, out of ALFWorld's training games.

It imitates noisy play of the training split, half of it by an expert who knows where everything is and half by one who
searches, and learns observations shuffled across episodes: afterwards it knows the commands, where things usually are,
and how answers sound, but wastes about half of its turns. The same seed on the same machine gives the same weights.

    export ALFWORLD_DATA=...   # the folder that contains json_2.1.1
    python tools/make_alfworld_base.py --output runs/alfworld-base
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from household_demonstrations import Example, Step, examples, play
from make_base_policy import ASSISTANT, CHAT_TEMPLATE, END, PAD, USER, Recipe, batches, build_model, say, train
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from paw_lightning.envs.household import HouseholdEnv
from paw_lightning.rollouts.collector import Collector
from paw_lightning.rollouts.sampler import NativeSampler
from paw_lightning.tokenization import ChatFormat, Prompt, PromptBuilder

ROOT = Path(__file__).resolve().parent.parent
WORLD = ROOT / "configs" / "alfworld" / "small.yaml"

PIECES = r"(?:\n>)? ?(?:go to|[A-Za-z]+ [0-9]+|[A-Za-z]+)|, (?:and )?a(?= )"
"""What may become one token: a name with its number, a word, the joints of a list. Short rows are most of the speed."""

EPISODES_PER_GAME = 4
RECIPE = Recipe(
    noise=0.5,
    insight=0.5,
    others=2,
    turns_per_house=8,
    vocabulary=1280,
    width=96,
    feedforward=256,
    layers=3,
    heads=4,
    steps=1000,
    batch=96,
)


def world() -> dict[str, Any]:
    """The `rollout` section of the configuration: environment, prompt, and limits."""
    return yaml.safe_load(WORLD.read_text())["rollout"]


def make_environment(split: str) -> HouseholdEnv:
    """The configuration's environment."""
    return HouseholdEnv(split, **world()["environment"]["init_args"])


def train_tokenizer(vocabulary: int, seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the training games' texts: nothing is unknown, most names are one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(game_texts(seed), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )


def episodes(games: int, per_game: int, seed: int, recipe: Recipe) -> Iterator[list[Step]]:
    """Play the first training games several times each, every time with other detours."""
    env = make_environment("train")
    for number in range(games * per_game):
        rng = random.Random(f"{seed} {number}")
        try:
            yield play(
                env,
                number // per_game,
                rng,
                noise=recipe.noise,
                insight=recipe.insight,
                others=recipe.others,
                turns=world()["max_steps"],
            )
        except RuntimeError:  # a detour left the player with an object that fits nowhere
            continue


def game_texts(seed: int) -> Iterator[str]:
    """Places, tasks, commands and answers of training games."""
    for steps in episodes(1000, 2, seed, RECIPE):
        yield f"{steps[0].initial}\nTask: {steps[0].task}"
        for step in steps:
            for action in step.others:
                yield f"\n> {action}\n{step.answer}"
                yield action


def demonstrations(recipe: Recipe, builder: PromptBuilder, seed: int) -> list[Example]:
    """The training set."""
    games = make_environment("train").num_tasks or 1

    def progress(number: int) -> None:
        if number % 2_000 == 0:
            say(f"played {number}/{games * EPISODES_PER_GAME} episodes")

    return examples(episodes(games, EPISODES_PER_GAME, seed, recipe), builder, recipe.turns_per_house, seed, progress)


def success_rate(model: Qwen2ForCausalLM, builder: PromptBuilder, temperature: float, split: str = "val") -> float:
    """Share of the split's games that the policy solves, played as validation plays them."""
    tokenizer = builder.chat.tokenizer
    stops = [tokenizer.eos_token_id]
    collector = Collector(
        lambda: make_environment(split),
        builder,
        NativeSampler(model, stops, tokenizer.pad_token_id),
        max_steps=world()["max_steps"],
        max_action_tokens=world()["max_action_tokens"],
        stop_token_ids=stops,
    )
    games = range(make_environment(split).num_tasks or 1)
    played = collector.play(games, 1, temperature=temperature, seed=(0, split, 0))
    return sum(group.episodes[0].won for group in played.groups) / len(played.groups)


def main() -> None:
    """Make the policy, play it, write the directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "alfworld-base", help="directory to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="another number may change the weights' last bits")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    started = time.perf_counter()
    tokenizer = train_tokenizer(RECIPE.vocabulary, options.seed)
    model = build_model(RECIPE, tokenizer)
    say(f"{len(tokenizer)} tokens, {model.num_parameters():,} parameters")
    chat = ChatFormat(tokenizer)
    builder = PromptBuilder(Prompt(**world()["prompt"]), chat)
    data = demonstrations(RECIPE, builder, options.seed)
    mean = sum(len(example.prompt_ids) for example in data) / len(data)
    say(f"{len(data)} rows, {mean:.0f} prompt tokens on average ({time.perf_counter() - started:.0f} s)")
    train(model, batches(data, RECIPE, chat, options.seed), RECIPE, say)
    model.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    say(f"wrote {options.output} after {time.perf_counter() - started:.0f} s")
    for temperature in (1.0, 0.4):
        share = success_rate(model.eval(), builder, temperature)
        say(f"success on valid_seen at temperature {temperature}: {share:.1%}")


if __name__ == "__main__":
    main()
