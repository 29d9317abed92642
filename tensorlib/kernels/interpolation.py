"""Resampling along one dimension: every output is a weighted sum of a few inputs."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._array import DeviceArray
from tensorlib._device import device as Device
from tensorlib.kernels.indexing import contiguous
from tensorlib.kernels.tables import Tables
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import cdiv, launch

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 512

# (inputs, outputs, kind, scale or None, whether the corners are aligned)
Rule = tuple[int, int, str, float | None, bool]


def _source(rule: Rule, dtype: Any) -> np.ndarray:
    """Where each output lies among the inputs, in steps of them, before any rounding."""
    n, m, kind, scale, align = rule
    at = np.arange(m, dtype=dtype)
    if align:
        return at * dtype((n - 1) / (m - 1) if m > 1 else 0)
    step = dtype(1.0 / scale) if scale else dtype(n) / dtype(m)
    if kind == "nearest":
        return at * step
    return step * (at + dtype(0.5)) - dtype(0.5)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution of the distance x."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


_FILTERS = {
    "linear-aa": (1, lambda x: np.maximum(1 - np.abs(x), 0)),
    "cubic-aa": (2, lambda x: _cubic(x, -0.5)),
    "lanczos-aa": (3, lambda x: np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)),
}


def _antialiased(rule: Rule, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Taps of a filter that widens with the scale, normalised over those within the input."""
    n, m, kind, scale, align = rule
    if align:
        step = (n - 1) / (m - 1) if m > 1 else 0.0
    else:
        step = 1.0 / scale if scale else n / m
    radius, shape = _FILTERS[kind]
    support = radius * max(step, 1.0)
    center = step * (np.arange(m) + 0.5)
    low = np.maximum((center - support + 0.5).astype(np.int64), 0)
    count = np.minimum((center + support + 0.5).astype(np.int64), n) - low
    count = np.clip(count, 0, int(np.ceil(support)) * 2 + 1)
    k = np.arange(max(int(count.max(initial=1)), 1))
    inside = k < count[:, None]
    weight = shape((k + low[:, None] - center[:, None] + 0.5) / max(step, 1.0))
    weight = np.where(inside, weight, 0)
    total = weight.sum(1, keepdims=True)
    weight /= np.where(total == 0, 1, total)
    return np.minimum(low[:, None] + np.where(inside, k, 0), n - 1), weight.astype(dtype)


def _taps(rule: Rule, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    n, m, kind, scale, _ = rule
    if kind in _FILTERS:
        return _antialiased(rule, dtype)
    if kind in ("reflect", "replicate", "circular"):  # a border, ``scale`` wide in front
        i = np.arange(m) - int(scale or 0)
        if kind == "reflect":
            i = np.abs(i)
            i = np.where(i >= n, 2 * (n - 1) - i, i)
        return (i % n if kind == "circular" else np.clip(i, 0, n - 1))[:, None], np.ones((m, 1), dtype)
    if kind == "windows":  # ``scale`` windows of adaptive pooling, each as long as the longest: its last repeated
        o = int(scale or 1)
        i = np.arange(o)
        low, high = i * n // o, -(-(i + 1) * n // o)
        k = np.minimum(low[:, None] + np.arange(m // o), high[:, None] - 1)
        return k.reshape(-1, 1), np.ones((m, 1), dtype)
    if kind == "area":
        i = np.arange(m)
        low, high = i * n // m, -(-(i + 1) * n // m)
        k = np.arange(int((high - low).max(initial=1)))
        inside = k < (high - low)[:, None]
        return np.where(inside, low[:, None] + k, low[:, None]), (inside / (high - low)[:, None]).astype(dtype)
    at = _source(rule, dtype)
    if kind.startswith("nearest"):
        if kind == "nearest-exact":
            at = np.maximum(at, 0) + dtype(0.5)
        return np.minimum(np.floor(at).astype(np.int64), n - 1)[:, None], np.ones((m, 1), dtype)
    if kind == "linear":
        if n == m:
            at = np.arange(m, dtype=dtype)
        at = np.maximum(at, 0)
        low = np.minimum(at.astype(np.int64), n - 1)
        part = np.clip(at - low, 0, 1)
        return np.stack([low, np.minimum(low + 1, n - 1)], 1), np.stack([1 - part, part], 1).astype(dtype)
    low = np.floor(at).astype(np.int64)
    part = np.clip(at - low, 0, 1)
    offsets = np.arange(-1, 3)
    weight = _cubic(part[:, None] - offsets.astype(dtype), -0.75)
    return np.clip(low[:, None] + offsets, 0, n - 1), weight.astype(dtype)


@lru_cache(256)
def taps(rule: Rule, adjoint: bool, double: bool) -> tuple[np.ndarray, np.ndarray]:
    """(index (m, K), weight (m, K)): out[i] = Σ weight[i, k] x[index[i, k]]; ``adjoint``: of the transposed map.

    Rows with fewer than K taps end in their first one again, with weight 0.
    """
    index, weight = _taps(rule, np.float64 if double else np.float32)
    if not adjoint:
        return index, weight
    n, m = rule[0], rule[1]
    used = weight != 0
    source, target = index[used], np.broadcast_to(np.arange(m)[:, None], index.shape)[used]
    values = weight[used]
    order = np.argsort(source, kind="stable")
    source, target, values = source[order], target[order], values[order]
    count = np.bincount(source, minlength=n)
    K = max(int(count.max(initial=1)), 1)
    start = np.cumsum(count) - count
    column = np.arange(source.size) - start[source]
    back, of = np.zeros((n, K), np.int64), np.zeros((n, K), weight.dtype)
    if m:
        back[:] = target[np.minimum(start, max(source.size - 1, 0))][:, None] if source.size else 0
    back[source, column], of[source, column] = target, values
    return back, of


_tables = Tables()


def _on_device(rule: Rule, adjoint: bool, double: bool, device: Device) -> tuple[DeviceArray, ...]:
    def make() -> tuple[np.ndarray, np.ndarray]:
        index, weight = taps(rule, adjoint, double)
        return index.astype(np.int32), weight

    return _tables.get((rule, adjoint, double), device, make)


# One program makes BLOCK outputs of (A, M, B) from (A, N, B), each a sum of K weighted inputs.
# Reads K numbers and writes one for each; neighbours share what they read in cache.
@jit
def resample_kernel(out, x, index, weight, n, N, M, B, K, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0)
    if WIDE:
        i = i.to(tl.int64)
    i = i * BLOCK + tl.arange(0, BLOCK)
    live = i < n
    column = i % B
    row = i // B % M
    base = i // B // M * N
    total = tl.zeros([BLOCK], weight.dtype.element_ty)
    for k in range(0, K):
        at = tl.load(index + row * K + k, mask=live, other=0)
        w = tl.load(weight + row * K + k, mask=live, other=0)
        v = tl.load(x + (base + at) * B + column, mask=live, other=0)
        total += v.to(weight.dtype.element_ty) * w
    tl.store(out + i, total.to(out.dtype.element_ty), mask=live)


def resample(out: DeviceArray, input: DeviceArray, dim: int, rule: Rule, adjoint: bool) -> None:
    """out[…, i, …] = Σ weight[i, k] input[…, index[i, k], …] along ``dim``."""
    index, weight = _on_device(rule, adjoint, input.dtype == np.float64, input.device)
    inner = 1
    for size in out.shape[dim + 1 :]:
        inner *= size
    if out.size:
        launch(resample_kernel, (cdiv(out.size, BLOCK),), out, contiguous(input), index, weight, out.size,
               input.shape[dim], out.shape[dim], inner, index.shape[1],
               WIDE=max(out.size + BLOCK, input.size) >= 1 << 31, BLOCK=BLOCK)  # fmt: skip
