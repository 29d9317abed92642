"""``DataParallel`` of one device, ``DistributedDataParallel`` of one process: the module under PyTorch's wrappers."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib._device import device
from tensorlib.errors import DeviceError
from tensorlib.nn.module import Module

__all__ = ["DataParallel", "DistributedDataParallel", "data_parallel", "gather", "scatter"]


def _one(name: str, device_ids: Sequence[Any] | None) -> None:
    if len({device(d) for d in device_ids or ()}) > 1:
        raise DeviceError(
            f"{name}: device_ids {list(device_ids or ())}: expected at most one device a process; "
            "start a process for each GPU"
        )


def scatter(inputs: Any, target_gpus: Sequence[Any], dim: int = 0) -> Any:
    """A nest of containers for each device: every tensor's piece along ``dim`` there, all else as it is.

    There are as many as the tensor with the most pieces has, at most one for each device.
    """

    def pieces(value: Any) -> list[Any]:
        if isinstance(value, Tensor):
            parts = ops.chunk(value, len(target_gpus), dim)
            return [part.to(device(at)) for part, at in zip(parts, target_gpus, strict=False)]
        if isinstance(value, (tuple, list)) and value:
            rows = list(zip(*map(pieces, value), strict=False))
            if isinstance(value, list):
                return [list(row) for row in rows]
            return [type(value)(*row) for row in rows] if hasattr(value, "_fields") else rows
        if isinstance(value, dict) and value:
            rows = list(zip(*map(pieces, value.values()), strict=False))
            return [type(value)(zip(value, row, strict=True)) for row in rows]
        return [value] * len(target_gpus)

    found = pieces(inputs)
    return tuple(found) if isinstance(inputs, Tensor) else found


def gather(outputs: Sequence[Any], target_device: Any, dim: int = 0) -> Any:
    """The nests of ``scatter`` as one on a device: tensors joined along ``dim``, those without dims as a row."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return ops.cat([(t if t.dim() else t.unsqueeze(0)).to(device(target_device)) for t in outputs], dim)
    if isinstance(first, dict):
        return type(first)((k, gather([d[k] for d in outputs], target_device, dim)) for k in first)
    if isinstance(first, (tuple, list)):
        joined = [gather(parts, target_device, dim) for parts in zip(*outputs, strict=True)]
        return type(first)(*joined) if hasattr(first, "_fields") else type(first)(joined)
    return first


class DataParallel(Module):
    """The module, called with the whole batch: one process drives one device. Its state has the prefix ``module.``.

    DeviceError where ``device_ids`` names several GPUs.
    """

    def __init__(
        self, module: Module, device_ids: Sequence[Any] | None = None, output_device: Any = None, dim: int = 0
    ) -> None:
        super().__init__()
        _one("DataParallel", device_ids)
        self.dim = dim
        self.module = module
        self.device_ids = list(device_ids or ())
        self.output_device = output_device

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """``module(*inputs, **kwargs)``."""
        return self.module(*inputs, **kwargs)


class DistributedDataParallel(DataParallel):
    """The module, in a ``distributed`` group of one process: no gradient is exchanged, no synchronisation put off.

    The options about buckets, buffers and graphs are accepted. DeviceError where ``device_ids`` names several GPUs.
    """

    def __init__(
        self, module: Module, device_ids: Sequence[Any] | None = None, output_device: Any = None, dim: int = 0,
        broadcast_buffers: bool = True, process_group: Any = None, bucket_cap_mb: float | None = None,
        find_unused_parameters: bool = False, check_reduction: bool = False, gradient_as_bucket_view: bool = False,
        static_graph: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(module, device_ids, output_device, dim)
        self.require_backward_grad_sync = True

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """A block in which gradients would not be exchanged."""
        before, self.require_backward_grad_sync = self.require_backward_grad_sync, False
        try:
            yield
        finally:
            self.require_backward_grad_sync = before


def data_parallel(
    module: Module,
    inputs: Any,
    device_ids: Sequence[Any] | None = None,
    output_device: Any = None,
    dim: int = 0,
    module_kwargs: dict[str, Any] | None = None,
) -> Any:
    """``module(*inputs, **module_kwargs)``: the whole batch on the one device. DeviceError as for DataParallel."""
    _one("data_parallel", device_ids)
    return module(*(inputs if isinstance(inputs, tuple) else (inputs,)), **(module_kwargs or {}))


#: PyTorch's longer path to ``scatter`` and ``gather``.
scatter_gather = sys.modules[f"{__name__}.scatter_gather"] = ModuleType(f"{__name__}.scatter_gather")
vars(scatter_gather).update(scatter=scatter, gather=gather)
