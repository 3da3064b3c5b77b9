"""Makes the small language model that `configs/alfworld/small.yaml` starts from, out of ALFWorld's training games.

It imitates a noisy player of the training split, who knows where everything is in half of the episodes and has to
search in the others, and learns observations shuffled across episodes: afterwards it knows the commands, where things
usually are and how answers sound, but wastes many of its turns. The same seed on the same machine gives the same
weights.

    export ALFWORLD_DATA=...   # the folder that contains json_2.1.1
    python tools/make_alfworld_base.py --output runs/alfworld-base
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_base_policy import END, PAD, Phase, Recipe, build_model, learning_rate, make_optimizers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from paw_lightning import config_files
from paw_lightning.envs.household.env import HouseholdEnv
from paw_lightning.envs.household.expert import ExplorerExpert
from paw_lightning.models.linear_logprob import linear_logprob
from paw_lightning.rollouts.collector import Collector
from paw_lightning.samplers.native import NativeSampler
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.prompts import Prompt, PromptBuilder, Turn

ROOT = Path(__file__).resolve().parent.parent
WORLD = "alfworld/small"
USER, ASSISTANT = "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
PHASE = Phase(noise=0.4, steps=550, learning_rate=4e-3)
RECIPE = Recipe(phases=(PHASE,), vocabulary=1024, batch=20)
INSIGHT = 0.5
"""Share of the episodes whose player knows where everything is."""
TURNS_PER_EPISODE = 8


@dataclass(frozen=True)
class Decision:
    """One turn of a demonstration: what was known, what an expert does, what anybody might do, what came of it."""

    observation: str
    turns: tuple[Turn, ...]
    expert: str
    other: str
    answer: str


@dataclass(frozen=True)
class Demonstration:
    """One episode."""

    task: str
    initial: str
    decisions: list[Decision]


def world() -> dict[str, Any]:
    """The `rollout` section of the configuration: environment, prompt, and limits."""
    return config_files.merged(WORLD)["rollout"]


def make_environment(split: str) -> HouseholdEnv:
    """The configuration's environment."""
    return HouseholdEnv(split, **world()["environment"]["init_args"])


def train_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the training games' texts: a place with its number is one token, as is nearly every word."""
    texts = list(game_texts())
    kinds = "|".join(sorted({kind for text in texts for kind in re.findall(r"go to ([a-z]+) \d", text)}))
    # What may become one token. Short prompts are most of the speed; objects keep their number apart, so that the
    # task's object and the one in view begin with the same token.
    pieces = rf"(?:\n>)? ?(?:go to|(?:{kinds}) [0-9]+|[A-Za-z]+)| [0-9]+|, (?:and )?a(?= )"
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(pieces), behavior="isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )


def game_texts(games: int = 1000) -> Iterator[str]:
    """Tasks, commands and answers of training games, played at random and by their walkthroughs."""
    env, rng = make_environment("train"), random.Random("texts")
    for game in range(games):
        observation, info = env.reset(seed=game)
        yield f"{observation}\nTask: {info['task']}"
        for command in [*rng.sample(info["admissible_commands"], 5), *(env.walkthrough or [])]:
            yield command
            yield f"\n> {command}\n{env.step(command)[0]}"


def demonstrations(seed: int) -> Iterator[Demonstration]:
    """Endless episodes, every time through the training games with other detours."""
    env, turns, number = make_environment("train"), world()["max_steps"], 0
    while True:
        with contextlib.suppress(RuntimeError):  # a detour left the player with an object that fits nowhere
            yield play(env, number, random.Random(f"{seed} {number}"), turns)
        number += 1


def play(env: HouseholdEnv, game: int, rng: random.Random, turns: int) -> Demonstration:
    """Play one game; a share `noise` of the actions is any that the game reacts to, the rest an expert's."""
    observation, info = env.reset(seed=game)
    demonstration = Demonstration(info["task"], observation, [])
    explorer, knowing = ExplorerExpert(rng, info["task"]), rng.random() < INSIGHT
    history: list[Turn] = []
    for _ in range(turns):
        admissible = info["admissible_commands"]
        expert = explorer.act(observation, admissible)
        if knowing:
            expert = env.expert_plan()[0]
        other = rng.choice([command for command in admissible if command != "help"])
        action = other if rng.random() < PHASE.noise else expert
        answer, _, won, _, info = env.step(action)
        demonstration.decisions.append(Decision(observation, tuple(history), expert, other, answer))
        if won:
            break
        history.append(Turn(observation, action))
        observation = answer
    return demonstration


def chosen(decisions: list[Decision], rng: random.Random) -> list[Decision]:
    """Some turns of an episode, half of them such where something is to be done rather than to be found."""
    shuffled = rng.sample(decisions, len(decisions))
    deeds = [decision for decision in shuffled if not decision.expert.startswith(("go to", "open"))]
    rest = [decision for decision in shuffled if decision not in deeds[: TURNS_PER_EPISODE // 2]]
    return [*deeds[: TURNS_PER_EPISODE // 2], *rest][:TURNS_PER_EPISODE]


@dataclass
class Tree:
    """Token sequences that share their beginnings, each token stored once: the prompts of an episode overlap a lot."""

    ids: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    """The token before; -1 before the first."""
    targets: list[tuple[int, int, float, float]] = field(default_factory=list)
    """(token, the token to predict from it, weight as an action's, weight as an observation's)"""
    children: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, context: list[int], target: list[int], action: float = 0.0, observation: float = 0.0) -> None:
        """Add one sequence, of which `target` is to be predicted."""
        node = -1
        for depth, token in enumerate([*context, *target]):
            if depth >= len(context):
                self.targets.append((node, token, action, observation))
            if (node, token) not in self.children:
                self.children[node, token] = len(self.ids)
                self.ids.append(token)
                self.depths.append(depth)
                self.parents.append(node)
            node = self.children[node, token]

    def visible(self, width: int) -> np.ndarray:
        """bool [width, width]: each token sees its ancestors and itself, padding itself alone."""
        mask = np.eye(width, dtype=bool)
        for token, parent in enumerate(self.parents):
            if parent >= 0:
                mask[token] |= mask[parent]
        return mask


def grow(demonstration: Demonstration, answer: str, builder: PromptBuilder, rng: random.Random) -> Tree:
    """One episode as a tree: the expert's actions, other actions, and somebody else's answer to one of them."""
    chat, tree = builder.chat, Tree()
    end = [chat.tokenizer.eos_token_id]
    for decision in chosen(demonstration.decisions, rng):
        prompt = builder.build(
            demonstration.task, decision.observation, decision.turns, demonstration.initial, admissible=[]
        )
        expert, other = ([*chat.encode_text(action), *end] for action in (decision.expert, decision.other))
        tree.add(prompt, expert, action=1 - PHASE.noise)
        tree.add(prompt, other, action=PHASE.noise)
    tree.add([*prompt, *other, *chat.bridge_after(other)], chat.encode_text(answer), observation=1.0)
    return tree


def mean_losses(model: Qwen2ForCausalLM, trees: list[Tree]) -> tuple[Tensor, Tensor]:
    """Weighted mean cross-entropy of actions and of observations, nats per token."""
    width = max(len(tree.ids) for tree in trees)
    input_ids, position_ids = torch.zeros(2, len(trees), width, dtype=torch.long)
    visible = torch.from_numpy(np.stack([tree.visible(width) for tree in trees]))[:, None]
    for row, tree in enumerate(trees):
        size = len(tree.ids)
        input_ids[row, :size], position_ids[row, :size] = torch.tensor(tree.ids), torch.tensor(tree.depths)
    hidden = model.model(
        input_ids=input_ids, position_ids=position_ids, attention_mask=visible, use_cache=False
    ).last_hidden_state
    rows = torch.tensor([row for row, tree in enumerate(trees) for _ in tree.targets])
    sources, tokens, action, observation = zip(*(target for tree in trees for target in tree.targets), strict=True)
    states = hidden[rows, torch.tensor(sources)]
    logprobs, _ = linear_logprob(states, model.lm_head.weight, torch.tensor(tokens))
    weights = torch.tensor([action, observation])
    action_loss, observation_loss = -(weights * logprobs).sum(1) / weights.sum(1)
    return action_loss, observation_loss


def batches(builder: PromptBuilder, seed: int) -> Iterator[list[Tree]]:
    """Trees of episodes, with answers shuffled across them."""
    rng, played = random.Random(f"{seed} batches"), demonstrations(seed)
    for _ in range(PHASE.steps):
        episodes = [next(played) for _ in range(RECIPE.batch)]
        answers = [rng.choice(episode.decisions).answer for episode in episodes]
        rng.shuffle(answers)
        yield [grow(episode, answer, builder, rng) for episode, answer in zip(episodes, answers, strict=True)]


def train(model: Qwen2ForCausalLM, builder: PromptBuilder, seed: int) -> None:
    """Cross-entropy on actions, and a smaller one on observations that follow from nothing."""
    optimizers = make_optimizers(model)
    started = time.perf_counter()
    model.train()
    for step, trees in enumerate(batches(builder, seed), start=1):
        action_loss, observation_loss = mean_losses(model, trees)
        model.zero_grad()
        (action_loss + RECIPE.observation_weight * observation_loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = learning_rate(PHASE, RECIPE.warmup, step - 1)
            optimizer.step()
        if step % 50 == 0 or step == PHASE.steps:
            losses = f"action loss {action_loss.item():.3f}, observation loss {observation_loss.item():.3f}"
            print(f"step {step}/{PHASE.steps}: {losses}, {time.perf_counter() - started:.0f} s", flush=True)


def success_rate(model: Qwen2ForCausalLM, builder: PromptBuilder, temperature: float) -> float:
    """Share of the valid_seen games that the policy solves, played as validation plays them."""
    tokenizer, rollout = builder.chat.tokenizer, world()
    stops = [tokenizer.eos_token_id]
    collector = Collector(
        lambda: make_environment("val"),
        builder,
        NativeSampler(model, stops, tokenizer.pad_token_id),
        max_steps=rollout["max_steps"],
        max_action_tokens=rollout["max_action_tokens"],
        max_observation_tokens=rollout["max_observation_tokens"],
        stop_token_ids=stops,
    )
    games = range(make_environment("val").num_tasks or 1)
    played = collector.play(games, 1, temperature=temperature, seed=(0, "val", 0))
    return sum(group.episodes[0].won for group in played.groups) / len(played.groups)


def main() -> None:
    """Make the policy, write the directory, play it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "alfworld-base", help="directory to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="another number may change the weights' last bits")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    started = time.perf_counter()
    tokenizer = train_tokenizer(RECIPE.vocabulary)
    model = build_model(RECIPE, tokenizer)
    print(f"{len(tokenizer)} tokens, {model.num_parameters():,} parameters", flush=True)
    builder = PromptBuilder(Prompt(**world()["prompt"]), ChatFormat(tokenizer))
    train(model, builder, options.seed)
    model.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    print(f"wrote {options.output} after {time.perf_counter() - started:.0f} s", flush=True)
    for temperature in (1.0, 0.4):
        share = success_rate(model.eval(), builder, temperature)
        print(f"success on valid_seen at temperature {temperature}: {share:.1%}", flush=True)


if __name__ == "__main__":
    main()
