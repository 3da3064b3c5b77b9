"""The shipped strategies, whole and with LoRA, with either sampler: twelve runs that have to learn what they play.

Two iterations of the toy world each. Whatever the sampler's own copy of the weights, its log-probs have to be the
trainer's in both: a sampler that is left behind after the first update, or that never sees the adapters, is found by
`rollout/sampler_gap`, as steps of 0.01 move log-probs by far more than rounding does.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from tests.conftest import ROOT
from tests.helpers import runs

CONFIGS = ROOT / "configs"
SETTINGS = {
    "trainer__max_epochs": 2,
    "trainer__limit_val_batches": 0,
    "trainer__num_sanity_val_steps": 0,
    "trainer__accumulate_grad_batches": 1,
    "model__optimizer__init_args__lr": 0.01,
    "model__policy_loss__kl_coefficient": 0,
    "data__groups": 2,
    "data__group_size": 2,
    "data__minibatches": 2,
    "rollout__environment": "tests.helpers.toy_env.ToyEnv",
    "rollout__layout": "step",
    "rollout__max_steps": 2,
    "rollout__max_action_tokens": 4,
    "rollout__prompt__max_tokens": 400,
    "rollout__old_logprobs": "trainer",  # measures the gap
    "policy_export__adapters": "merged",
}
SAMPLERS = {
    "native": {},
    # By default it takes most of the memory, in every process.
    "paged": {
        "rollout__sampler": "paw_lightning.samplers.paged.PagedSampler",
        "rollout__sampler__page_size": 16,
        "rollout__sampler__num_blocks": 256,
        "rollout__sampler__max_batch_tokens": 512,
    },
}


def run(strategy: str, configs: tuple[Path, ...], model: str, directory: Path, settings: dict) -> Path:
    if strategy == "single":
        return runs.log_dir(runs.fit(directory, model, configs, **settings))
    return runs.fit_ranks(directory, model, configs=configs, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("trained", ["full", "lora"])
@pytest.mark.parametrize("strategy", ["single", "ddp", "fsdp2"])
def test_a_shipped_strategy_learns_what_it_plays(
    strategy: str, trained: str, sampler: str, tiny_model_dir: str, tmp_path: Path
) -> None:
    overlays = [f"strategy/{strategy}.yaml", *(["lora.yaml"] if trained == "lora" else [])]
    configs = (CONFIGS / "household/paw.yaml", *(CONFIGS / name for name in overlays))
    directory = run(strategy, configs, tiny_model_dir, tmp_path, SETTINGS | SAMPLERS[sampler])
    curves = runs.read_curves(directory)
    gaps = list(curves["rollout/sampler_gap"].values())
    assert len(gaps) == 2 and max(gaps) < 1e-3, "the sampler plays the policy that is trained"
    assert min(curves["train/grad_norm"].values()) > 0
    start, end = (AutoModelForCausalLM.from_pretrained(d).state_dict() for d in (tiny_model_dir, directory / "policy"))
    assert start.keys() == end.keys(), "a plain model, adapters merged"
    moved = [name for name, tensor in start.items() if (end[name] - tensor).abs().max() > 1e-3]
    assert any("self_attn.q_proj" in name for name in moved)
