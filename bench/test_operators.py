"""Every declared benchmark size of every operator, timed by pytest-benchmark.

    pytest bench/test_operators.py -o addopts="" -k softmax
    pytest bench/test_operators.py -o addopts="" --benchmark-json=report.json

The sizes, bytes and flops come from the declarations; the report's ``extra_info`` holds GB/s and GFLOP/s of the median,
and the share of the nearest measured limit. `tensorlib bench` shows the same beside NumPy and PyTorch.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import pytest

import tensorlib
from tensorlib import bench

DEVICE = os.environ.get("TENSORLIB_BENCH_DEVICE", "cpu")
ON_GPU = DEVICE.startswith(("cuda", "hip"))
WORKS = bench.works(bench.chosen([]), ["float32"], False, ON_GPU, math.inf if ON_GPU else bench.MOST_FLOPS)


@pytest.fixture(scope="session")
def library() -> bench.Library:
    return bench.Library(tensorlib, DEVICE)


@pytest.fixture(scope="session")
def limits(library: bench.Library) -> bench.Limits:
    return bench.limits(library)


@pytest.mark.parametrize("work", [pytest.param(work, id=work.name.replace("×", "x")) for work in WORKS])
def test_operator(work: bench.Work, library: bench.Library, limits: bench.Limits, benchmark: Any) -> None:
    call, outs, _ = bench.prepared(work, library, work.op.public)

    def waited() -> None:
        call()
        library.synchronize()

    benchmark(waited)
    seconds = benchmark.stats.stats.median
    moved, flops = bench.amounts(work, outs)
    benchmark.extra_info["GFLOP/s"] = flops / seconds / 1e9
    benchmark.extra_info["GB/s"] = moved / seconds / 1e9
    benchmark.extra_info["of limit"] = limits.share(moved, flops, np.dtype(np.float32).name, seconds)
