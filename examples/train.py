"""A run without the command line: GRPO + PaW in the household world, a few minutes on a laptop's CPU."""

from functools import partial

import lightning as L
import torch

import paw_lightning as paw

TEXT = "{observation}\nTask: {task}\n"  # the task stands before every action: a small model copies what is near


def train(iterations: int = 80, groups: int = 8, validation_tasks: int = 200, folder: str = "runs") -> L.Trainer:
    """Train the shipped policy `tiny-household`; the result is exported into the run's folder."""
    loss = paw.PolicyLoss(clip_high=0.28, kl_coefficient=0.05)
    adam = partial(torch.optim.AdamW, lr=3e-4, weight_decay=0.0)
    module = paw.PaWModule("tiny-household", policy_loss=loss, optimizer=adam)
    data = paw.RolloutDataModule(groups, group_size=8, minibatches=4, validation_tasks=validation_tasks)
    house = partial(paw.HouseholdEnv, tasks=["pick"], receptacles=4, objects=2, brief_intro=True)
    prompt = paw.Prompt(first_template=TEXT, turn_template=TEXT, max_tokens=768)
    limits = {"max_steps": 8, "max_action_tokens": 12, "max_observation_tokens": 96, "scoring_tokens": 2048}
    loop = paw.EnvironmentLoop(house, prompt, "episode", paw.GRPO(), inadmissible_action_penalty=0.5, **limits)
    method = [paw.EntropySelection(alpha=0.75), paw.RewardBalance()]
    options = {"accumulate_grad_batches": 6, "gradient_clip_val": 1.0, "log_every_n_steps": 1, "accelerator": "cpu"}
    callbacks = [loop, *method, paw.Canaries(), paw.PolicyExport(), paw.IterationProgressBar()]
    trainer = L.Trainer(max_epochs=iterations, callbacks=callbacks, default_root_dir=folder, **options)
    trainer.fit(module, data)
    return trainer


if __name__ == "__main__":
    train()
