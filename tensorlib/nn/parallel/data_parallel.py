"""``DataParallel`` of one device: the module under PyTorch's wrapper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tensorlib._device import device
from tensorlib.errors import DeviceError
from tensorlib.nn.module import Module

__all__ = ["DataParallel", "data_parallel"]


def _one(name: str, device_ids: Sequence[Any] | None) -> None:
    if len({device(d) for d in device_ids or ()}) > 1:
        raise DeviceError(
            f"{name}: device_ids {list(device_ids or ())}: expected at most one device a process; "
            "start a process for each GPU"
        )


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
