"""PaW in TRL's GRPO trainer: its three parts as one subclass, in TRL's own forward pass.

    pip install trl && python examples/trl_grpo.py    # a tiny random model in a toy world, seconds on a CPU

TRL generates, scores and clips as ever. Each completion is followed by the environment's next observation, which
`tool_mask` keeps out of TRL's policy loss, and whose log-probs TRL's one forward pass computes along with the rest.
"""

from __future__ import annotations

import tempfile

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from paw_lightning.api import (
    WorldModelLoss,
    action_entropy,
    reward_adaptive_coefficient,
    select_top_entropy,
    target_token_weights,
)
from paw_lightning.models.loading import load_language_model, load_tokenizer
from paw_lightning.text.chat import ChatFormat


class PaWGRPOTrainer(GRPOTrainer):
    """GRPOTrainer + PaW, for one process; `observe(prompt, completion)` is the environment's answer to an action."""

    def __init__(self, *args, observe, max_return, alpha=0.75, world_model_loss=None, **kwargs):
        super().__init__(*args, **kwargs)
        if self.args.temperature != 1 or self.accelerator.num_processes > 1:
            raise ValueError("wanted temperature 1, which the observations' log-probs are for, and one process")
        self.observe, self.max_return, self.alpha = observe, max_return, alpha
        self.world_model_loss = world_model_loss or WorldModelLoss()  # clipped MAE, rho 0.2
        self.chat = ChatFormat(self.processing_class)

    def _generate(self, prompts):
        """Append the next observation to every completion."""
        prompt_ids, completion_ids, _, completions, *rest = super()._generate(prompts)
        rows, tool_mask, self.observed = [], [], []
        for prompt, action, completion in zip(prompts, completion_ids, completions, strict=True):
            text = self.chat.encode_text(self.observe(prompt, completion))
            bridge = self.chat.bridge_after(action)  # turn markers: context, never predicted
            rows.append(action + bridge + text)
            tool_mask.append([1] * len(action) + [0] * len(bridge + text))  # 1: TRL's policy loss
            self.observed.append(len(text))
        return prompt_ids, rows, tool_mask, completions, *rest

    def _calculate_rewards(self, *args):
        """Keep the returns, which TRL turns into advantages at once."""
        rewards = super()._calculate_rewards(*args)
        self.returns = (rewards * self.reward_weights.to(rewards.device)).nansum(1).tolist()
        return rewards

    def _generate_and_score_completions(self, inputs):
        """Choose and weigh the observations: here is the whole update, its groups still in order."""
        batch = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            return batch
        k = self.num_generations
        groups = [i // k for i in range(len(self.returns))]
        selected = select_top_entropy(self._action_entropies(batch), self.alpha).tolist()
        lambdas = [
            reward_adaptive_coefficient(self.returns[i : i + k], self.max_return, "the environment")
            for i in range(0, len(groups), k)
        ]
        # Part of the update in one optimizer step: the steps' mean has to be eq. 11.
        steps = self.args.steps_per_generation / self.args.gradient_accumulation_steps
        weights = torch.zeros_like(batch["completion_ids"], dtype=torch.float)
        for i, weight in enumerate(target_token_weights(groups, selected, self.observed, lambdas)):
            end = int(batch["completion_mask"][i].sum())
            weights[i, end - self.observed[i] : end] = weight * steps
        return {**batch, "target_weights": weights}  # TRL shuffles and splits it with the rest

    @torch.no_grad()
    def _action_entropies(self, batch):
        """H(a | h) of every completion; one scoring pass, which TRL makes too as soon as it needs old log-probs."""
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        length, rows = batch["completion_ids"].size(1), self.args.per_device_train_batch_size
        _, entropies, _ = self._get_per_token_logps_and_entropies(
            self.model, ids, mask, length, batch_size=rows, compute_entropy=True
        )
        action = (batch["completion_mask"] * batch["tool_mask"]).bool()
        return [action_entropy(row[own].tolist(), []) for row, own in zip(entropies, action, strict=True)]

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        """Keep the log-probs of actions and observations alike: one forward pass, two losses."""
        result = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self.logprobs = result[0]
        return result

    def _compute_loss(self, model, inputs):
        """TRL's policy loss, whatever its kind, plus the world-model loss (eq. 3)."""
        loss = super()._compute_loss(model, inputs)
        if "target_weights" not in inputs:  # evaluation
            return loss
        weights, targets = inputs["target_weights"], inputs["target_weights"] > 0
        world_model = (weights * self.world_model_loss(self.logprobs))[targets].sum()
        # The weights hold all normalisation, so micro-batches add up; TRL logs means.
        self._metrics["train"]["wm/loss"].append(world_model.item() * self.args.gradient_accumulation_steps)
        if targets.any():
            self._metrics["train"]["wm/observation_nll"].append(-self.logprobs[targets].mean().item())
        return loss + world_model


def observe(prompt, completion):
    """The toy world's answer: always the next room, whatever the action."""
    room = int(prompt[0]["content"].split()[-1])
    return f"You walk on. This is room {room + 1}."


def even_length(completions, **_):
    """The toy reward: 1 for an action of even length."""
    return [float(len(completion[0]["content"]) % 2 == 0) for completion in completions]


def main():
    """Twenty steps; `wm/observation_nll` falls from 6.3 to below 4."""
    settings = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=8,
        learning_rate=3e-3,
        max_steps=20,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        bf16=False,
    )
    trainer = PaWGRPOTrainer(
        model=load_language_model("tiny-household", weights="random"),
        processing_class=load_tokenizer("tiny-household"),
        reward_funcs=even_length,
        args=settings,
        train_dataset=Dataset.from_dict({"prompt": [[{"role": "user", "content": f"room {i}"}] for i in range(8)]}),
        observe=observe,
        max_return=1.0,
        # A random model gives every token 1/V, and the clipped MAE's gradient carries that factor: leave this argument
        # out with a pretrained one.
        world_model_loss=WorldModelLoss("cross_entropy"),
    )
    trainer.train()
    return trainer


if __name__ == "__main__":
    main()
