"""A run that is set up but not started: module, datamodule and callbacks of a config, and updates by hand."""

from __future__ import annotations

import contextlib
import sys
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import measuring
import torch
from lightning.pytorch.cli import LightningCLI
from torch import nn
from transformers import Qwen2Config

from paw_lightning import cli as command_line
from paw_lightning.callbacks import EntropySelection, EnvironmentLoop, RewardBalance
from paw_lightning.models.loading import load_tokenizer
from paw_lightning.training.datamodule import RolloutDataModule
from paw_lightning.training.module import PaWModule
from paw_lightning.types import MicroBatch, Rollout
from paw_lightning.update.rows import Row

QWEN_VOCABULARY = 151_936
PARTS = ("backbone", "heads", "backward", "optimizer")
TURN = "{observation}\nTask: {task}\n"


def layout_settings(name: str) -> dict[str, Any]:
    """Settings of a layout in which the policy reads the whole episode, whichever it is."""
    history = {"template": "{history}" + TURN, "history_turn": TURN + "> {action}\n", "history_length": 8}
    shown = {f"rollout.prompt.{key}": value for key, value in history.items()} if name == "step" else {}
    return {"rollout.layout": name, **shown}


def build(configs: Sequence[str | Path], settings: Mapping[str, Any], options: Namespace) -> LightningCLI:
    """Everything of a config, the model in place."""
    args = measuring.arguments(configs, {"trainer.logger": "false", **settings}, options)
    with contextlib.redirect_stdout(sys.stderr):
        made = command_line.PaWCLI(
            PaWModule,
            RolloutDataModule,
            args=args,
            run=False,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            trainer_defaults={**command_line.TRAINER_DEFAULTS, "callbacks": []},
            save_config_callback=None,
        )
    made.trainer.strategy.connect(made.model)
    made.model.trainer = made.trainer
    made.datamodule.trainer = made.trainer
    made.trainer.datamodule = made.datamodule  # type: ignore[attr-defined]
    made.model.configure_model()
    made.model.to(options.device)
    environment_loop(made).setup(made.trainer, made.model, "fit")
    return made


def environment_loop(made: LightningCLI) -> EnvironmentLoop:
    """The run's own."""
    callbacks: list[L.Callback] = made.trainer.callbacks  # type: ignore[attr-defined]
    [loop] = [callback for callback in callbacks if isinstance(callback, EnvironmentLoop)]
    return loop


def random_qwen(folder: str, hidden: int, layers: int, vocabulary: int, tokenizer: str = "tiny-household") -> str:
    """A directory with a Qwen2 architecture of these sizes, for `model.weights: random`, and a small tokenizer."""
    load_tokenizer(tokenizer).save_pretrained(folder)
    heads = max(2, hidden // (128 if hidden > 1_024 else 64))
    Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 35 // 6 // 2 * 2,  # Qwen2.5-1.5B has 8,960 for 1,536
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 6),
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        architectures=["Qwen2ForCausalLM"],
    ).save_pretrained(folder)
    return folder


def play(made: LightningCLI, iteration: int = 0) -> Rollout:
    """What the policy plays in an iteration, scored, with advantages."""
    parts = environment_loop(made).iteration
    parts.runner.refresh()
    rollout = parts.runner.play(iteration, parts.runner.train_tasks(iteration))
    parts.runner.score(rollout)
    parts.advantage.write(rollout, parts.inadmissible_penalty)
    parts.runner.release()
    return rollout


def select(made: LightningCLI, rollout: Rollout, alpha: float) -> None:
    """Give the rollout PaW's fields for this share of transitions."""
    parts = environment_loop(made).iteration
    EntropySelection(alpha=alpha).select(rollout, parts.runner.tasks.seed)
    RewardBalance().weigh(rollout, parts.policy.world_model_loss, parts.measure)


def rows_of(made: LightningCLI, rollout: Rollout) -> list[Row]:
    """The rows of an update."""
    return [row for part in made.datamodule.cutter.minibatch_rows(rollout) for row in part]


def micro_batches(made: LightningCLI, rollout: Rollout) -> list[MicroBatch]:
    """What an update trains on."""
    return list(made.datamodule.cutter.micro_batches(rollout, made.trainer.accumulate_grad_batches))


@contextmanager
def stopwatch(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = measuring.now()
    yield
    seconds[name] += measuring.now() - start


class Updater:
    """Optimizer steps as the Trainer makes them, with a clock for each part."""

    def __init__(self, made: LightningCLI) -> None:
        self.module, self.data, self.trainer = made.model, made.datamodule, made.trainer
        configured = self.module.configure_optimizers()
        self.optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
        self.seconds: dict[str, float] = defaultdict(float)
        model = self.module.model
        watched = {model.language_model.get_decoder(): "backbone"}
        watched |= {model.policy_head: "heads", model.world_model_head: "heads"}
        for part, name in watched.items():
            self._watch(part, name)

    def _watch(self, part: nn.Module, name: str) -> None:
        starts: list[float] = []
        part.register_forward_pre_hook(lambda *_: starts.append(measuring.now()))

        def stop(*_: Any) -> None:
            self.seconds[name] += measuring.now() - starts.pop()

        part.register_forward_hook(stop)

    def update(self, batches: Sequence[MicroBatch]) -> dict[str, float]:
        """Train on an update's micro-batches; return the seconds of each part and of all."""
        self.seconds.clear()
        per_step, start = self.trainer.accumulate_grad_batches, measuring.now()
        for number, batch in enumerate(batches):
            batch = self.data.transfer_batch_to_device(batch, self.module.device, 0)
            with self.trainer.precision_plugin.forward_context():
                loss = self.module.training_step(batch, number)["loss"]
            with stopwatch(self.seconds, "backward"):
                (loss / per_step).backward()
            if (number + 1) % per_step == 0:
                with stopwatch(self.seconds, "optimizer"):
                    torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.trainer.gradient_clip_val or 1.0)
                    self.optimizer.step()
                    self.optimizer.zero_grad()
        self.module.means.take()
        total = measuring.now() - start
        known = {name: self.seconds[name] for name in PARTS}
        return known | {"rest": total - sum(known.values()), "all": total}


def padding(batches: Sequence[MicroBatch], tokens: int) -> float:
    """The share of positions that are computed and are nobody's."""
    return 1 - tokens / sum(batch.input_ids.numel() for batch in batches)
