"""Strategies that shard the model over ranks, and the whole model that every rank plays with."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, Strategy, StrategyRegistry
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import DTensor

from paw_lightning.errors import SettingsError
from paw_lightning.models.policy_world_model import PolicyWorldModel
from paw_lightning.training import checkpoint_files

TIMEOUT = 1800.0
"""Seconds that a rank waits for the others: the slowest rank's rollout has to end within them."""


class FSDP2(ModelParallelStrategy):
    """Fully sharded data parallelism over all ranks, one unit per decoder layer (``paw_fsdp2``).

    Args:
        single_file: gather checkpoints into one file instead of one per rank; one of adapters alone always is.
        timeout: seconds a rank waits for the others.
    """

    def __init__(self, single_file: bool = False, timeout: float = TIMEOUT) -> None:
        super().__init__(
            tensor_parallel_size=1, save_distributed_checkpoint=not single_file, timeout=timedelta(seconds=timeout)
        )

    def setup_environment(self) -> None:
        """Lightning's "auto" would make the number of nodes the number of shards."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
        if self._trains_adapters:
            self._save_distributed_checkpoint = False

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Write one file, or a folder of parts, which takes its place when it is whole."""
        if not self._save_distributed_checkpoint:
            super().save_checkpoint(checkpoint, filepath, storage_options)
            return
        save = partial(super().save_checkpoint, checkpoint, storage_options=storage_options)
        checkpoint_files.save_parts(save, Path(self.broadcast(filepath)), self.checkpoint_io)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read plain data only."""
        with checkpoint_files.plain_data(checkpoint_path):
            return super().load_checkpoint(checkpoint_path, True)

    @property
    def _trains_adapters(self) -> bool:
        return bool(self.lightning_module.lora.rank)  # type: ignore[union-attr,operator]

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Gather no frozen weight: a checkpoint of adapters does not hold it."""
        if not self._trains_adapters:
            return super().lightning_module_state_dict()
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        return get_model_state_dict(self.model, options=options)


class FSDP1(FSDPStrategy):
    """The older flat-parameter FSDP, one unit per decoder layer (``paw_fsdp``); unlike Lightning's it runs on CPUs.

    Args:
        timeout: seconds a rank waits for the others.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        # One file would segfault on CPUs, where "full" state is gathered into memory that is already freed.
        super().__init__(state_dict_type="sharded", timeout=timedelta(seconds=timeout))

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Write a folder of parts, which takes its place when it is whole."""
        save = partial(super().save_checkpoint, checkpoint, storage_options=storage_options)
        checkpoint_files.save_parts(save, Path(self.broadcast(filepath)), self.checkpoint_io)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read plain data only."""
        if Path(checkpoint_path).is_file():  # Lightning reads it with an unpickler of its own, which runs anything
            checkpoint_files.check_plain(Path(checkpoint_path))
        with checkpoint_files.plain_data(checkpoint_path):
            return super().load_checkpoint(checkpoint_path, True)

    def _setup_model(self, model: nn.Module) -> nn.Module:
        layers = {type(layer) for layer in decoder_layers(model.model)}  # type: ignore[arg-type]
        # Lightning's own precision plugin refuses to clip the norm of sharded gradients.
        self.precision_plugin.clip_grad_by_norm = self._clip  # type: ignore[method-assign]
        return FullyShardedDataParallel(
            model,
            auto_wrap_policy=ModuleWrapPolicy(layers),
            mixed_precision=self.mixed_precision_config,
            sharding_strategy=self.sharding_strategy,
            device_id=self.root_device,
            use_orig_params=True,
        )

    def _clip(self, optimizer: torch.optim.Optimizer, clip_val: float | int) -> None:
        clip_gradients(self, [p for group in optimizer.param_groups for p in group["params"]], clip_val)


StrategyRegistry.register("paw_fsdp2", FSDP2, description="FSDP2 over all ranks, one unit per decoder layer")
StrategyRegistry.register("paw_fsdp", FSDP1, description="FSDP1 over all ranks, one unit per decoder layer")


MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""`trainer.precision` -> what a forward pass computes in, around weights that stay as they are."""
TRUE = {"64-true": torch.float64, "bf16-true": torch.bfloat16, "16-true": torch.float16}
"""`trainer.precision` -> what the weights are cast to."""


def full_name(precision: object) -> str:
    """A `trainer.precision` by Lightning's full name; it knows short ones as well, and numbers."""
    short = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "None": "32-true"}
    return short.get(str(precision), str(precision))


def cast(plugin: Any, *models: nn.Module) -> bool:
    """Cast weights in place to a `*-true` precision, and say whether it is one.

    Lightning does so itself after a checkpoint has been read: float64 weights would have passed through float32, and a
    reference that it does not know of would differ from the policy that it is.
    """
    if plugin.precision not in TRUE:
        return False
    for model in models:
        plugin.convert_module(model)
    return True


def decoder_layers(model: PolicyWorldModel) -> list[nn.Module]:
    """The repeated blocks of the language model: the modules whose weights are gathered together."""
    classes = set(model.language_model._no_split_modules or [])
    layers = [module for module in model.modules() if type(module).__name__ in classes]
    if not layers:
        raise SettingsError(
            f"{type(model.language_model).__name__} does not name its decoder layers; wanted a model with "
            "_no_split_modules, or trainer.strategy ddp (model.path)"
        )
    return layers


def shard(model: PolicyWorldModel, mesh: DeviceMesh) -> None:
    """Shard in place, each decoder layer by itself and the rest together (FSDP2)."""
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def is_sharded(strategy: Strategy) -> bool:
    """No rank holds the whole model."""
    return isinstance(strategy, FSDPStrategy | ModelParallelStrategy)


def flattens(trainer: Any) -> bool:
    """The strategy cuts every weight into vectors (FSDP1); a module without a trainer has none."""
    return trainer is not None and isinstance(trainer.strategy, FSDPStrategy)


def gradient_norm(strategy: Strategy, parameters: Iterable[nn.Parameter]) -> Tensor:
    """2-norm of the whole gradient, of which a rank may hold a part."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([g.to_local() if isinstance(g, DTensor) else g for g in gradients])
    if not is_sharded(strategy):
        return norm
    square = norm.to(strategy.root_device) ** 2
    return strategy.reduce(square, reduce_op="sum").sqrt()


def clip_gradients(strategy: Strategy, parameters: list[nn.Parameter], largest: float) -> None:
    """Scale these parameters' gradient to a 2-norm of at most `largest`; every rank has to call it."""
    if isinstance(strategy, FSDPStrategy):  # plain tensors that do not know they are parts
        torch.nn.utils.clip_grads_with_norm_(parameters, float(largest), gradient_norm(strategy, parameters))
    else:
        torch.nn.utils.clip_grad_norm_(parameters, float(largest))


class Replica:
    """The whole model on every rank, for playing and scoring.

    A sharded model cannot play: ranks call it a different number of times, and every call would wait for all ranks.
    Its weights are gathered once per rollout and freed for the update. Where the model is not sharded, `model` is the
    trained one itself and nothing is copied.
    """

    def __init__(self, trained: PolicyWorldModel, sharded: bool) -> None:
        self.model = trained
        self.sharded = sharded
        if sharded:  # a copy of the structure, whose weights are placeholders
            empty: Any = {id(p): nn.Parameter(p.new_empty(0), p.requires_grad) for p in trained.parameters()}
            self.model = copy.deepcopy(trained, empty)

    def refresh(self, strategy: Strategy) -> None:
        """Gather the weights as they are now; every rank has to call it, outside of any forward."""
        if not self.sharded:
            return
        assert strategy.model is not None
        options = StateDictOptions(full_state_dict=True, cpu_offload=False)
        state: dict[str, Any] = dict(get_model_state_dict(strategy.model, options=options))
        for name, tensor in [*self.model.named_parameters(), *self.model.named_buffers()]:
            tensor.data = state.get(f"model.{name}", tensor.data).detach().to(strategy.root_device)

    def release(self) -> None:
        """Free the gathered weights."""
        if self.sharded:
            for parameter in self.model.parameters():
                parameter.data = parameter.data.new_empty(0)
