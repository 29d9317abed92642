"""Every declared benchmark size of every operator, timed by pytest-benchmark.

    pytest bench/test_operators.py -o addopts="" -k softmax
    pytest bench/test_operators.py -o addopts="" --benchmark-json=report.json

The sizes, bytes and flops come from the declarations; the report's ``extra_info`` holds GB/s and GFLOP/s of the median.
"""

from __future__ import annotations

import inspect
import os
from typing import Any

import numpy as np
import pytest

import tensorlib
from tensorlib._samples import Draw, Sample
from tensorlib.op import Op, declared

DEVICE = os.environ.get("TENSORLIB_BENCH_DEVICE", "cpu")
LIMIT = 5e10 if DEVICE == "cpu" else np.inf  # flops: about a second a call on one core


def shaped(a: Any) -> Any:
    """An argument as the counts see it: shape, size and bytes, without memory."""
    if isinstance(a, list):
        return [shaped(x) for x in a]
    return np.broadcast_to(np.zeros((), a.dtype or np.float32), a.shape) if isinstance(a, Draw) else a


def count(op: Op, measure: Any, sample: Sample) -> float:
    """Bytes or flops of a call, by the function its declaration gives: called by the names it asks for."""
    known = {p.name: p.default for p in op.params} | sample.attrs
    known |= dict(zip([p.name for p in op.params], map(shaped, sample.args), strict=False))
    asked = inspect.signature(measure).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in asked):
        return float(measure(**known))
    return float(measure(*[known[p.name] for p in asked]))


def sizes() -> list[Any]:
    """(operator, sample) for every declared size that this device can do in about a second."""
    return [
        pytest.param(op, sample, id=f"{op.name}-{i}")
        for op in declared()
        if isinstance(op, Op)
        for i, sample in enumerate(op.bench)
        if op.flops is None or count(op, op.flops, sample) <= LIMIT
    ]


@pytest.mark.parametrize("op, sample", sizes())
def test_operator(op: Op, sample: Any, benchmark: Any) -> None:
    def tensor(a: Any) -> Any:
        if isinstance(a, list):
            return [tensor(x) for x in a]
        return tensorlib.from_numpy(np.array(a)).to(DEVICE) if isinstance(a, np.ndarray) else a

    args = [tensor(a) for a in sample.arrays(np.float32)]
    benchmark(op.public, *args, **sample.attrs)
    seconds = benchmark.stats.stats.median
    if op.flops is not None:
        benchmark.extra_info["GFLOP/s"] = count(op, op.flops, sample) / seconds / 1e9
    if op.bytes is not None:
        benchmark.extra_info["GB/s"] = count(op, op.bytes, sample) / seconds / 1e9
