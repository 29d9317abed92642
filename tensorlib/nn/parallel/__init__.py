"""``DataParallel`` of one device, ``DistributedDataParallel`` of one process: the module under PyTorch's wrappers."""

from __future__ import annotations

from tensorlib.nn.parallel import scatter_gather
from tensorlib.nn.parallel.data_parallel import DataParallel, data_parallel
from tensorlib.nn.parallel.distributed import DistributedDataParallel
from tensorlib.nn.parallel.parallel_apply import parallel_apply
from tensorlib.nn.parallel.replicate import replicate
from tensorlib.nn.parallel.scatter_gather import gather, scatter

__all__ = [
    "DataParallel", "DistributedDataParallel", "data_parallel", "gather", "parallel_apply", "replicate", "scatter",
    "scatter_gather",
]  # fmt: skip
