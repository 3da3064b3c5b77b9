"""Names of earlier layouts that a configuration may still hold: class paths, and keys."""

MOVED = {
    "paw_lightning.advantages.": "paw_lightning.policy.advantages.",
    "paw_lightning.losses.PolicyLoss": "paw_lightning.policy.losses.PolicyLoss",
    "paw_lightning.losses.ValueLoss": "paw_lightning.policy.losses.ValueLoss",
    "paw_lightning.losses.policy.": "paw_lightning.policy.losses.",
    "paw_lightning.losses.WorldModelLoss": "paw_lightning.world_model.loss.WorldModelLoss",
    "paw_lightning.losses.world_model.": "paw_lightning.world_model.loss.",
    "paw_lightning.rollouts.sampler.": "paw_lightning.samplers.native.",
    "paw_lightning.rollouts.paged.": "paw_lightning.samplers.paged.",
    "paw_lightning.rollouts.vllm.": "paw_lightning.samplers.vllm.",
    "paw_lightning.strategies.": "paw_lightning.training.strategies.",
    "paw_lightning.module.": "paw_lightning.training.module.",
    "paw_lightning.datamodule.": "paw_lightning.training.datamodule.",
    "paw_lightning.lora.": "paw_lightning.models.lora.",
    "paw_lightning.tokenization.Prompt": "paw_lightning.text.prompts.Prompt",
    "paw_lightning.envs.search_server.": "paw_lightning.envs.search.server.",
    "paw_lightning.envs.search_retrievers.": "paw_lightning.envs.search.retrievers.",
    "paw_lightning.envs.shop_store.": "paw_lightning.envs.shop.store.",
    **{
        f"paw_lightning.envs.{adapter}.": f"paw_lightning.envs.adapters.{adapter}."
        for adapter in ("express", "gym", "openenv", "scienceworld", "textarena", "textworld", "verl_agent")
    },
}
"""Old beginning of a path -> the new one."""


KEYS = {
    "data.wm_horizon": "data.world_model_horizon",
    "data.wm_discount": "data.world_model_discount",
}
"""Old key -> the new one."""


VALUES = {
    ("rollout.prompt.action_format", "search"): "paw_lightning.envs.search.SearchTags",
    ("entropy_selection.rule", "all"): "entropy, with entropy_selection.alpha 1",
}
"""(Key, old value) -> the new one."""


def new_value(key: str, value: str) -> str | None:
    """What an old value, or the class of an old path, is now; None for what is not old."""
    return VALUES.get((key, value)) or new_path(value)


def new_path(path: str) -> str | None:
    """Where the class of an old path is now; None for a path that is not old."""
    for old, new in MOVED.items():
        if path.startswith(old):
            return new + path[len(old) :]
    return None
