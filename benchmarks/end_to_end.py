"""One iteration of play and update: this package against TRL's GRPOTrainer, the same job, in turns.

    pip install trl && python benchmarks/end_to_end.py [--turns 8 16 32] [--quick]

The job is that of household/grpo: the bundled policy, 8 groups of 8 episodes of up to 8 turns in the
generated household world, temperature 1, 12 tokens per action, one growing transcript per episode, four optimizer steps
with a KL term. With more turns than 8 the houses are those of docs/study.md's starved arms, where something is left to
do for so long. TRL plays through its `rollout_func`: at every turn its own batched generation for the episodes that
still run. Environment and token side are this package's on both sides, so the tokens are the same; generation, scoring,
loss and optimizer are TRL's own. Each run starts from the bundled policy, on both sides. PaW runs along.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import measuring
from datasets import Dataset
from transformers import TrainerCallback

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from paw_lightning import config_files
from paw_lightning.envs import HouseholdEnv
from paw_lightning.models.loading import load_language_model, load_tokenizer
from paw_lightning.rollouts.layouts import EpisodeLayout
from paw_lightning.text.actions import parse_action
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.prompts import Prompt, PromptBuilder, PromptTooLongError
from paw_lightning.types import Transition

CONFIGS = {name: f"household/{name}" for name in ("grpo", "paw")}
JOB = config_files.merged(CONFIGS["grpo"])
ROLLOUT, DATA = JOB["rollout"], JOB["data"]
EPISODES = DATA["groups"] * DATA["group_size"]
TOKENS_PER_TURN = ROLLOUT["prompt"]["max_tokens"] // ROLLOUT["max_steps"]
LARGE_HOUSES = {"receptacles": 10, "objects": 8}
Record = dict[str, float]


def lengthen(turns: int) -> None:
    """Change the job, for both sides, to episodes of up to this many turns."""
    if turns > ROLLOUT["max_steps"]:
        ROLLOUT["environment"]["init_args"] |= LARGE_HOUSES
    ROLLOUT["max_steps"] = turns
    ROLLOUT["prompt"]["max_tokens"] = TOKENS_PER_TURN * turns


def change_model(path: str, micro_batches: int) -> None:
    """Change the job, for both sides, to another policy; this package cuts a step into so many micro-batches."""
    JOB["model"]["path"], JOB["trainer"]["accumulate_grad_batches"] = path, micro_batches


def changed_settings() -> dict[str, Any]:
    """What may have been changed in the job, for the command line."""
    houses = ROLLOUT["environment"]["init_args"]
    return {
        "model.path": JOB["model"]["path"],
        "trainer.accumulate_grad_batches": JOB["trainer"]["accumulate_grad_batches"],
        "rollout.max_steps": ROLLOUT["max_steps"],
        "rollout.prompt.max_tokens": ROLLOUT["prompt"]["max_tokens"],
        **{f"rollout.environment.init_args.{name}": houses[name] for name in LARGE_HOUSES},
    }


class Episode:
    """One household and the transcript of what happens in it, as `rollout.layout: episode` writes it."""

    def __init__(self, prompts: PromptBuilder, seed: int) -> None:
        self.env = HouseholdEnv("train", **ROLLOUT["environment"]["init_args"])
        self.observation, info = self.env.reset(seed=seed)
        self.opening = ROLLOUT["prompt"]["first_template"].format(observation=self.observation, task=info["task"])
        self.layout = EpisodeLayout(prompts, info["task"], self.observation, ROLLOUT["max_observation_tokens"])
        self.prompt = list(self.layout.context(self.observation, []).ids)
        self.completion: list[int] = []
        self.mask: list[int] = []
        """1 for what the policy wrote, 0 for what the house said."""
        self.turns, self.reward, self.done = 0, 0.0, False

    def act(self, action: list[int], text: str) -> None:
        """Play a turn; where the episode goes on, the transcript does."""
        self.completion, self.mask = self.completion + action, self.mask + [1] * len(action)
        self.observation, reward, self.done, _, _ = self.env.step(parse_action(text, "plain").text)
        self.turns, self.reward = self.turns + 1, self.reward + reward
        self.done = self.done or self.turns == ROLLOUT["max_steps"]
        if self.done:
            return
        self.layout.record(Transition([], action, [], [], text, self.observation, "", 0.0, True, True), [])
        try:
            answered = list(self.layout.context(self.observation, []).ids)[len(self.prompt) :]
        except PromptTooLongError:
            self.done = True
            return
        self.mask += [0] * (len(answered) - len(self.completion))
        self.completion = answered


class HouseholdTrainer(GRPOTrainer):
    """GRPOTrainer that plays the household, and keeps how long play, scoring and update took."""

    def __init__(self, tasks: list[int], **options: Any) -> None:
        self.prompts = PromptBuilder(Prompt(**ROLLOUT["prompt"]), ChatFormat(options["processing_class"]))
        self.records: list[Record] = []
        # The text is all that a rollout function gets to see of a task.
        self.seeds = {Episode(self.prompts, seed).opening: seed for seed in tasks}
        questions = [[{"role": "user", "content": opening}] for opening in self.seeds]
        super().__init__(
            **options,
            train_dataset=Dataset.from_dict({"prompt": questions}),
            reward_funcs=lambda completions, total, **_: total,
            rollout_func=play,
        )
        self.add_callback(UpdateClock(self.records))

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self.records.append({"start": measuring.now()})
        batch = super()._generate_and_score_completions(inputs)
        self.records[-1]["scoring"] = measuring.now() - self.records[-1]["start"] - self.records[-1]["play"]
        return batch


class UpdateClock(TrainerCallback):
    """The update lasts until the last optimizer step that follows a rollout."""

    def __init__(self, records: list[Record]) -> None:
        self.records = records

    def on_step_end(self, *_: Any, **__: Any) -> None:
        last = self.records[-1]
        last["update"] = measuring.now() - last["start"] - last["play"] - last["scoring"]


def play(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    """TRL's rollout function: all episodes turn by turn, with the trainer's own generation."""
    start = measuring.now()
    episodes = [Episode(trainer.prompts, trainer.seeds[prompt[0]["content"]]) for prompt in prompts]
    while active := [episode for episode in episodes if not episode.done]:
        contexts = [episode.prompt + episode.completion for episode in active]
        actions, _ = trainer._generate_single_turn(contexts, None, {}, 1)
        texts = trainer.processing_class.batch_decode(actions, skip_special_tokens=True)
        for episode, action, text in zip(active, actions, texts, strict=True):
            episode.act(action, text)
    assert len(episodes) == EPISODES, "TRL hands over every prompt as often as it has generations"
    steps = float(sum(episode.turns for episode in episodes))
    trainer.records[-1] |= {"play": measuring.now() - start, "steps": steps}
    return {
        "prompt_ids": [episode.prompt for episode in episodes],
        "completion_ids": [episode.completion for episode in episodes],
        "env_mask": [episode.mask for episode in episodes],
        "logprobs": None,
        "total": [episode.reward for episode in episodes],
    }


def trl_settings(folder: str, seed: int, iterations: int, rows: int, options: Namespace) -> GRPOConfig:
    """The same job for TRL; `rows` at a time is what it is fastest with."""
    policy, optimizer = JOB["model"]["policy_loss"], JOB["model"]["optimizer"]["init_args"]
    return GRPOConfig(
        output_dir=folder,
        seed=seed,
        max_steps=iterations * DATA["minibatches"],
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=EPISODES // DATA["minibatches"] // rows,
        steps_per_generation=EPISODES // rows,
        num_generations=DATA["group_size"],
        max_completion_length=ROLLOUT["prompt"]["max_tokens"],
        generation_kwargs={"max_new_tokens": ROLLOUT["max_action_tokens"]},
        temperature=1.0,
        beta=policy["kl_coefficient"],
        epsilon=policy["clip_low"],
        epsilon_high=policy["clip_high"],
        learning_rate=optimizer["lr"],
        weight_decay=optimizer["weight_decay"],
        max_grad_norm=JOB["trainer"]["gradient_clip_val"],
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        use_cpu=options.device == "cpu",
        bf16=options.dtype == "bfloat16",
        logging_steps=DATA["minibatches"],
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        log_level="error",
    )


def theirs(number: int, iterations: int, rows: int, options: Namespace) -> list[Record]:
    """Iterations of TRL from the bundled policy."""
    tasks = [number * iterations * DATA["groups"] + i for i in range(iterations * DATA["groups"])]
    with tempfile.TemporaryDirectory() as folder:
        trainer = HouseholdTrainer(
            tasks,
            model=load_language_model(JOB["model"]["path"]),
            processing_class=load_tokenizer(JOB["model"]["path"]),
            args=trl_settings(folder, number, iterations, rows, options),
        )
        trainer.remove_callback(PrinterCallback)  # it would print beside the table
        trainer.train()
    return trainer.records


def ours(number: int, iterations: int, config: str, options: Namespace) -> list[Record]:
    """Iterations of this package from the bundled policy."""
    points = measuring.fit([CONFIGS[config]], {"seed_everything": number, **changed_settings()}, options, iterations)
    return [
        {
            "play": point["time/rollout_s"] - point.get("time/rollout_scoring_s", 0.0),
            "scoring": point.get("time/rollout_scoring_s", 0.0),
            "update": point["time/update_s"],
            "steps": point["rollout/episode_length"] * EPISODES,
        }
        for point in points
    ]


def summary(turns: int, name: str, records: list[Record], reference: list[Record]) -> dict[str, Any]:
    """Medians over iterations; the ratios are those of neighbours."""
    middle = measuring.medians(records)

    def faster(*parts: str) -> float:
        mine, other = ([r["steps"] / sum(r[part] for part in parts) for r in rs] for rs in (records, reference))
        return measuring.median_of_ratios(mine, other)

    return {
        "": name,
        "turns": turns,
        "steps": middle["steps"],
        "play, s": middle["play"],
        "scoring, s": middle["scoring"],
        "update, s": middle["update"],
        "steps/s in play": statistics.median(r["steps"] / r["play"] for r in records),
        "times TRL's": faster("play"),
        "steps/s in all": statistics.median(r["steps"] / (r["play"] + r["scoring"] + r["update"]) for r in records),
        "times TRL's in all": faster("play", "scoring", "update"),
        "update, times as fast": faster("update"),
    }


def measure(turns: int, iterations: int, repeats: int, options: Namespace) -> dict[str, list[Record]]:
    """Every arm's iterations of episodes of up to so many turns."""
    lengthen(turns)
    arms: dict[str, Callable[[int], list[Record]]] = {
        "TRL, GRPO": partial(theirs, iterations=iterations, rows=options.trl_rows, options=options),
        "paw_lightning, GRPO": partial(ours, iterations=iterations, config="grpo", options=options),
        "paw_lightning, GRPO + PaW": partial(ours, iterations=iterations, config="paw", options=options),
    }
    rounds = measuring.in_turns(arms, repeats)
    return {name: [record for played in runs for record in played] for name, runs in rounds.items()}


def main() -> None:
    parser = measuring.parser(__doc__, repeats=2)
    parser.add_argument("--turns", nargs="+", type=int, default=[8, 16, 32], help="at most, per episode; ascending")
    parser.add_argument("--iterations", type=int, default=2, help="per run")
    parser.add_argument("--trl-rows", type=int, default=4, choices=[2, 4, 8, 16], help="TRL's rows per micro-batch")
    options = parser.parse_args()
    measuring.prepare(options)
    iterations, repeats, lengths = options.iterations, options.repeats, sorted(options.turns)
    if options.quick:
        iterations, repeats, lengths = 1, 1, lengths[:1]
    found = {turns: measure(turns, iterations, repeats, options) for turns in lengths}
    measuring.table(
        [
            summary(turns, name, records, arms["TRL, GRPO"])
            for turns, arms in found.items()
            for name, records in arms.items()
        ]
    )
    measuring.report(options, found)


if __name__ == "__main__":
    main()
