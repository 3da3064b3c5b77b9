"""What PaW adds to an update: time and memory over plain GRPO, on the same rollout, in turns.

    python benchmarks/paw_overhead.py [--shape episode step alfworld]

`episode` and `step` are the quickstart as played, in the two layouts. `alfworld` has the prompts of
alfworld/paper in generated houses of ALFWorld's size, with synthetic answers (--reasoning tokens before
the command) for a random Qwen2 of --hidden and --layers with Qwen's vocabulary of 151,936: the paper's lengths, nothing
learnt. By default it is as deep and wide as Qwen2.5-0.5B, its weights in bfloat16. All go through the shipped
micro-batches, `training_step`, backward, clipping and optimizer. Memory is the most that the process (a GPU's tensors)
holds in an update. "1.5B" is arithmetic: the multiplications that the same rows cost Qwen2.5-1.5B, of which the head is
a smaller part than of a narrower model.
"""

from __future__ import annotations

import random
import statistics
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import measuring
import torch
from building import (
    PARTS,
    QWEN_VOCABULARY,
    Updater,
    build,
    environment_loop,
    layout_settings,
    micro_batches,
    padding,
    play,
    random_qwen,
    rows_of,
    select,
)
from lightning.pytorch.cli import LightningCLI

from paw_lightning.envs import HouseholdEnv
from paw_lightning.rollouts.layouts import LAYOUTS, Layout
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.prompts import PromptBuilder
from paw_lightning.types import Episode, MicroBatch, Rollout, RolloutGroup, Transition
from paw_lightning.update.collate import collate

ARMS = {"GRPO": 0.0, "PaW": 0.75}
HOUSE: dict[str, Any] = {"receptacles": 25, "objects": 35}
"""About as much as a room of ALFWorld's has."""
BACKBONE, LAYERS, WIDTH = 1.31e9, 28, 1_536
"""Parameters, layers and width of Qwen2.5-1.5B without its embeddings."""


def alfworld_settings(folder: str, options: Namespace) -> dict[str, Any]:
    """The paper's config with a model, a world and a batch that a CPU can do."""
    model = random_qwen(folder, options.hidden, options.layers, 2_000 if options.quick else QWEN_VOCABULARY)
    return {
        "model.path": model,
        "model.weights": "random",
        "model.dtype": options.model_dtype,
        "model.policy_loss.kl_coefficient": 0,  # another model in memory would hide what PaW adds
        "model.activation_checkpointing": "false",
        "trainer.accumulate_grad_batches": 4,
        "data.groups": 2,
        "data.group_size": 2,
        "data.minibatches": 1,
        "rollout.environment.init_args.data_path": "null",
        **{f"rollout.environment.init_args.{name}": value for name, value in HOUSE.items()},
    }


def synthetic_rollout(made: LightningCLI, options: Namespace) -> Rollout:
    """Random play in generated houses: the third and fourth turn of each episode, when the history is full."""
    loop = environment_loop(made)
    prompts, order = PromptBuilder(loop.runner.settings.prompt, ChatFormat(made.model.tokenizer)), loop.runner.tasks
    dice = random.Random(0)
    groups = []
    for task in range(order.groups):
        episodes = [play_at_random(prompts, task, member, dice, options) for member in range(order.group_size)]
        groups.append(RolloutGroup(f"task {task}", 10.0, episodes))
    rollout = Rollout(0, groups)
    loop.iteration.advantage.write(rollout, loop.iteration.inadmissible_penalty)
    return rollout


def play_at_random(prompts: PromptBuilder, task: int, member: int, dice: random.Random, options: Namespace) -> Episode:
    env = HouseholdEnv("train", **HOUSE)
    observation, info = env.reset(seed=task)
    layout: Layout = LAYOUTS["step"](prompts, info["task"], observation, 512)
    episode = Episode(task, member, info["task"], won=member % 2 == 0)
    for turn in range(4):
        context = layout.context(observation, info["admissible_commands"])
        command = dice.choice(info["admissible_commands"])
        observation_before, (observation, _, _, _, info) = observation, env.step(command)
        action = action_ids(prompts, command, dice, options.reasoning)
        paid = 10.0 if episode.won and turn == 3 else 0.0
        scores = [-dice.expovariate(1.0) for _ in action]
        t = Transition(
            prompt_ids=list(context.prompt_ids),
            action_ids=action,
            sampled_logprobs=scores,
            sampled_entropies=[-s for s in scores],
            token_entropies=[-s for s in scores],
            action_text=command,
            observation_text=observation,
            anchor=observation_before,
            reward=paid,
            well_formed=True,
            admissible=True,
        )
        t.old_logprobs = torch.tensor(scores)
        layout.record(t, info["admissible_commands"])
        episode.transitions.append(t)
    episode.transitions = episode.transitions[2:]
    return episode


def action_ids(prompts: PromptBuilder, command: str, dice: random.Random, reasoning: int) -> list[int]:
    """Reasoning of half to one and a half times the usual length, the command between its tags, the end."""
    thought = [dice.randrange(2, 500) for _ in range(dice.randint(reasoning // 2, reasoning * 3 // 2))]
    tags = prompts.chat.encode_text(f"<think></think><action>{command}</action>")
    return [*thought, *tags, prompts.chat.tokenizer.eos_token_id]


def generate(made: LightningCLI, rollout: Rollout) -> None:
    """As many tokens as the synthetic answers have, for their prompts."""
    contexts = [t.prompt_ids for t in rollout.transitions]
    longest = max(len(t.action_ids) for t in rollout.transitions)
    sampler: Any = environment_loop(made).runner.sampler
    sampler.stop_token_ids = frozenset()
    sampler.generate(contexts, temperature=1.0, max_new_tokens=longest, uniforms=torch.rand(len(contexts), longest))


def multiplications(batches: Sequence[MicroBatch], tokens: int) -> float:
    """Of an update of Qwen2.5-1.5B over these rows: forward, and backward that reads the head's logits twice."""
    width = sum(batch.input_ids.numel() * batch.input_ids.shape[1] for batch in batches) / tokens
    predicted = sum(int(batch.action_mask.sum() + batch.target_mask.sum()) for batch in batches)
    attention = LAYERS * WIDTH * width  # keys and values of half the row, both products
    return 3 * tokens * (BACKBONE + attention) + 4 * predicted * WIDTH * QWEN_VOCABULARY


def shuffled(made: LightningCLI, rollout: Rollout, parts: int) -> float:
    """The padding of the same rows if micro-batches were cut in random order."""
    rows = rows_of(made, rollout)
    random.Random(0).shuffle(rows)
    size = -(-len(rows) // parts)
    batches = [collate(rows[i : i + size], on_policy=True) for i in range(0, len(rows), size)]
    return padding(batches, sum(row.length for row in rows))


def measure(shape: str, folder: str, options: Namespace) -> dict[str, Any]:
    """All numbers of one shape."""
    if shape == "alfworld":
        made = build(["alfworld/paper"], alfworld_settings(folder, options), options)
        rollout, repeats = synthetic_rollout(made, options), options.slow_repeats
        played: Callable[[], object] = partial(generate, made, rollout)
    else:
        quick = {"data.groups": 2, "data.group_size": 4} if options.quick else {}
        made = build([options.config], layout_settings(shape) | quick, options)
        rollout, repeats = play(made), options.repeats
        played = partial(play, made, 1)
    seconds = [0.0]
    if not options.quick:
        seconds = measuring.interleaved([played], 1 if shape == "alfworld" else 3, warm=False)[0]
    return compare(made, rollout, repeats) | {"rollout": statistics.median(seconds), "shape": shape}


def compare(made: LightningCLI, rollout: Rollout, repeats: int) -> dict[str, Any]:
    """Both arms' seconds by part, peaks, tokens."""
    batches, tokens = {}, {}
    for name, alpha in ARMS.items():
        select(made, rollout, alpha)
        tokens[name] = sum(row.length for row in rows_of(made, rollout))
        batches[name] = micro_batches(made, rollout)
    updater = Updater(made)
    arms = {name: partial(one_update, updater, batches[name]) for name in ARMS}
    seconds = measuring.in_turns(arms, repeats)
    parts = made.datamodule.cutter.minibatches * made.trainer.accumulate_grad_batches
    return {
        "transitions": len(rollout.transitions),
        "tokens": tokens,
        "predicted": {name: sum(int(b.target_mask.sum()) for b in batches[name]) for name in ARMS},
        "acted": sum(int(b.action_mask.sum()) for b in batches["GRPO"]),
        "padding": padding(batches["PaW"], tokens["PaW"]),
        "padding in random order": shuffled(made, rollout, parts),
        "seconds": seconds,
        "multiplications": {name: multiplications(batches[name], tokens[name]) for name in ARMS},
        "peaks": peaks(updater, batches),
    }


def one_update(updater: Updater, batches: list[MicroBatch], _: int) -> dict[str, float]:
    return updater.update(batches)


def peaks(updater: Updater, batches: dict[str, list[MicroBatch]]) -> dict[str, int]:
    """Bytes in use at most while an arm is trained; the second round counts, as the first leaves caches behind."""
    measuring.give_memory_back()
    found = {}
    for _ in range(2):
        for name in ARMS:
            device = updater.module.device.type
            measuring.reset_peak(device)
            updater.update(batches[name])
            found[name] = measuring.peak(device)
    return found


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """One row of the first table."""
    seconds = {name: [part["all"] for part in parts] for name, parts in found["seconds"].items()}
    ratio = measuring.median_of_ratios(seconds["PaW"], seconds["GRPO"])
    update, rollout, counted = statistics.median(seconds["GRPO"]), found["rollout"], found["multiplications"]
    return {
        "PaW / GRPO": found["shape"],
        "rows' tokens": found["tokens"]["PaW"] / found["tokens"]["GRPO"],
        "tokens to a head": 1 + found["predicted"]["PaW"] / found["acted"],
        "update time": ratio,
        "step time": (rollout + ratio * update) / (rollout + update),
        "peak memory": found["peaks"]["PaW"] / found["peaks"]["GRPO"],
        # The quickstart's rows are nothing that a model of that size would be trained on.
        "1.5B, update": counted["PaW"] / counted["GRPO"] if found["shape"] == "alfworld" else "",
        "padding": found["padding"],
        "in random order": found["padding in random order"],
    }


def breakdown(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the second table: seconds by part, and what PaW adds in percent of GRPO's update."""
    middle = {name: measuring.medians(parts) for name, parts in found["seconds"].items()}
    whole = middle["GRPO"]["all"]
    return [
        {
            "part": f"{found['shape']}: {part}",
            "GRPO, s": middle["GRPO"][part],
            "PaW, s": middle["PaW"][part],
            "added, % of GRPO's update": 100 * (middle["PaW"][part] - middle["GRPO"][part]) / whole,
        }
        for part in (*PARTS, "rest", "all")
    ]


def main() -> None:
    parser = measuring.parser(__doc__, repeats=5)
    shapes = ["episode", "step", "alfworld"]
    parser.add_argument("--shape", nargs="+", choices=shapes, default=shapes)
    parser.add_argument("--config", default="household/paw", help="of `episode` and `step`")
    parser.add_argument("--slow-repeats", type=int, default=3, help="of `alfworld`")
    parser.add_argument("--hidden", type=int, default=896)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument(
        "--model-dtype", default="bfloat16", choices=["float32", "bfloat16"], help="of `alfworld`'s weights"
    )
    parser.add_argument("--reasoning", type=int, default=100)
    options = parser.parse_args()
    measuring.prepare(options)
    if options.quick:
        options.repeats = options.slow_repeats = 1
        options.hidden, options.layers, options.reasoning = 64, 1, 10
    with tempfile.TemporaryDirectory() as folder:
        found = [measure(shape, folder, options) for shape in options.shape]
    measuring.table([summary(each) for each in found])
    print()
    measuring.table([row for each in found for row in breakdown(each)])
    measuring.report(options, found)


if __name__ == "__main__":
    main()
