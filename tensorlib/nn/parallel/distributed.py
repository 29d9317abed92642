"""``DistributedDataParallel`` of one process: the module under PyTorch's wrapper."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from tensorlib.nn.module import Module
from tensorlib.nn.parallel.data_parallel import DataParallel

__all__ = ["DistributedDataParallel"]


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
