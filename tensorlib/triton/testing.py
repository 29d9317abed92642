"""``triton.testing`` without PyTorch, on every device: timing and comparing. Reports and the rest are Triton's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib.errors import ArgumentError
from tensorlib.runtime import autotune, compiler
from tensorlib.triton._driver import Driver

__all__ = ["assert_close", "do_bench", "do_bench_cudagraph"]

_MODES: dict[str, Callable[[Sequence[float]], Any]] = {
    "min": min, "max": max, "mean": statistics.mean, "median": statistics.median, "all": list,
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Everything else: ``Benchmark``, ``perf_report``, ..."""
    return getattr(compiler.triton().testing, name)


def do_bench(
    fn: Callable[[], Any],
    warmup: float = 25,
    rep: float = 100,
    grad_to_none: Sequence[Any] | None = None,
    quantiles: Sequence[float] | None = None,
    return_mode: str = "mean",
) -> Any:
    """Milliseconds of ``fn()``: their mean, or min, max, median, or all of them; or the quantiles asked for.

    warmup, rep: milliseconds to run it before, and to time it. Tensors in grad_to_none lose their gradient before each
    run. A GPU (where one is active) is timed by events, with a cold L2 cache; the processor by its clock.
    """
    if return_mode not in _MODES:
        raise ArgumentError(f"do_bench: return_mode {return_mode!r}: expected one of {', '.join(_MODES)}")
    device = Driver().get_active_torch_device()

    def run() -> None:
        for tensor in grad_to_none or ():
            tensor.grad = None
        fn()

    times = autotune.benches[device.type](device).times if device.type in ("cuda", "hip") else _clocked
    fn()
    estimate = max(statistics.mean(times(run, 5 if device.type in ("cuda", "hip") else 1)), 1e-4)
    times(run, max(1, int(warmup / estimate)))
    found = times(run, max(1, int(rep / estimate)))
    if quantiles is None:
        return _MODES[return_mode](found)
    if any(not 0 <= q <= 1 for q in quantiles):
        raise ArgumentError(f"do_bench: quantiles {quantiles}: expected numbers of 0 to 1")
    values: list[float] = np.quantile(found, list(quantiles)).tolist()
    return values[0] if len(values) == 1 else values


def do_bench_cudagraph(
    fn: Callable[[], Any],
    rep: float = 20,
    grad_to_none: Sequence[Any] | None = None,
    quantiles: Sequence[float] | None = None,
    return_mode: str = "mean",
) -> Any:
    """`do_bench`: events leave out the host's time between launches, and the processor has no graphs."""
    return do_bench(fn, rep, rep, grad_to_none, quantiles, return_mode)


def _clocked(run: Callable[[], Any], repetitions: int) -> list[float]:
    """Milliseconds of each run, by the processor's clock."""
    found = []
    for _ in range(repetitions):
        start = time.perf_counter()
        run()
        found.append((time.perf_counter() - start) * 1e3)
    return found


def assert_close(x: Any, y: Any, atol: Any = None, rtol: Any = None, err_msg: str = "") -> None:
    """AssertionError unless |x - y| <= atol + rtol * |y| everywhere, NaN equal to NaN. atol 0.01, rtol 0 by default.

    x, y: tensors on any device, arrays, numbers. A tolerance may be a function of x's dtype.
    """
    atol = 1e-2 if atol is None else atol
    rtol = 0.0 if rtol is None else rtol
    dtype = x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype
    atol, rtol = (t(dtype) if callable(t) else t for t in (atol, rtol))
    np.testing.assert_allclose(_numbers(x), _numbers(y), rtol, atol, equal_nan=True, err_msg=err_msg)


def _numbers(value: Any) -> np.ndarray:
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    return array if array.dtype.kind in "biufc" else array.astype(np.float32)  # bfloat16 and the like
