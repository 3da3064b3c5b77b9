"""What a GPU would do, on a CPU: replay a captured step, and count what would make the host wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class RecordedStep(TorchDispatchMode):
    """A step as a CUDA graph has it: the kernels that it ran, with the very tensors that it ran them on.

    Nothing of Python is run again by a replay: a number that was read, or a tensor that took another's place, stays
    what it was. Capturing does no work either, so what the step writes to is put back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        """Run all kernels again, each into the memory that it wrote to."""
        for func, args, kwargs, out in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Recorder:
    """Captures steps in place of `cuda_graph`, and counts captures and replays."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0

    def __call__(self, step: Callable[[], None]) -> Callable[[], None]:
        before = WrittenTo()
        recorded = RecordedStep()
        with before, recorded:
            step()
        before.restore()
        self.captured += 1

        def replay() -> None:
            self.replayed += 1
            recorded.replay()

        return replay


class WrittenTo(TorchDispatchMode):
    """Keeps what operations in place overwrite."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.is_mutable and isinstance(args[0], Tensor):
            self.kept.append((args[0], args[0].clone()))
        return func(*args, **(kwargs or {}))

    def restore(self) -> None:
        """Put everything back, the latest first."""
        for tensor, old in reversed(self.kept):
            tensor.copy_(old)


TO_PYTHON = {"item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__"}
WAITING = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique", "unique_dim", "isin")
FROM_PYTHON = ("lift_fresh", "lift")


class _Methods(TorchFunctionMode):
    def __init__(self, seen: Counter[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in TO_PYTHON:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


class _Kernels(TorchDispatchMode):
    def __init__(self, seen: Counter[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        masks = name.startswith("index") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in tree_leaves(args[1:2])
        )
        if name.startswith(WAITING) or name in FROM_PYTHON or masks:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


class HostWaits:
    """Counts by name, inside, what would make the host wait for a GPU: numbers that Python reads, kernels whose result
    has as many elements as the data say, and tensors made of Python's numbers."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def __enter__(self) -> Counter[str]:
        self._modes = _Methods(self.seen), _Kernels(self.seen)
        for mode in self._modes:
            mode.__enter__()
        return self.seen

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)
