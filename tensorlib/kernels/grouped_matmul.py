"""Products of groups of different sizes, as the experts of a mixture have them: one kernel for all groups.

The sizes are on the device: offs[i] is where group i ends. No host waits for them; each program finds its own group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tensorlib._array import DeviceArray
from tensorlib.kernels import matmul_tiles as tiles
from tensorlib.kernels.epilogues import Epilogue
from tensorlib.kernels.matmul import (
    _FLOAT8,
    _NO_E4M3,
    _widened,
    accumulator,
    place_of,
    precision,
    product,
    widened,
)
from tensorlib.kernels.pointwise import fill
from tensorlib.kernels.quantized_matmul import _rescaled
from tensorlib.runtime.autotune import Config, Tunable
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.hardware import Estimate, Hardware, hardware
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl


# out[rows of group g] = a[rows of group g] @ b[g]: a (T, K), b (G, K, N), out (T, N), the rows of a group one after the
# other, zeros after the last group. One program owns BLOCK_M rows of one group and BLOCK_N columns; the grid has the
# most tiles that the groups can need, and what is too many ends at once. Reads the G offsets, and what a product of
# each group reads: a group's matrix once for each BLOCK_M of its rows. scale_a (T), scale_b (G, N): of float8 operands,
# which WIDEN brings to a dtype in registers; IMPRECISE as for `matmul_kernel`.
@jit
def grouped_rows_kernel(
    out, a, b, scale_a, scale_b, offs, T, N, K, G,
    stride_om, stride_on, stride_am, stride_ak, stride_bg, stride_bk, stride_bn, stride_g,
    stride_sa, stride_sg, stride_sb,
    EVEN_K: tl.constexpr, WIDE: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, IMPRECISE: tl.constexpr,
    WIDEN: tl.constexpr, GROUPS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tiles_n = tl.cdiv(N, BLOCK_N)
    tile = tl.program_id(0) // tiles_n
    pid_n = tl.program_id(0) % tiles_n
    # Groups 0 .. G-1, and G: the rows after the last of them.
    g = tl.arange(0, GROUPS)
    ends = tl.load(offs + g * stride_g, mask=g < G, other=T)
    starts = tl.load(offs + (g - 1) * stride_g, mask=(g > 0) & (g <= G), other=0)
    ends = tl.minimum(tl.maximum(ends, starts), T)
    counts = tl.where(g <= G, tl.cdiv(ends - starts, BLOCK_M), 0)
    after = tl.cumsum(counts, 0)
    group = tl.sum((after <= tile).to(tl.int32), 0)
    mine = g == group
    first = tl.sum(tl.where(mine, after - counts, 0), 0)
    row = tl.sum(tl.where(mine, starts, 0), 0) + (tile - first) * BLOCK_M
    last = tl.sum(tl.where(mine, ends, 0), 0)

    offs_m = row + tl.arange(0, BLOCK_M)
    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, BLOCK_K)
    if WIDE:
        offs_m = offs_m.to(tl.int64)
        offs_n = offs_n.to(tl.int64)
        offs_k = offs_k.to(tl.int64)
    mask_m = offs_m[:, None] < last
    mask_n = offs_n[None, :] < N
    b += tl.minimum(group, G - 1).to(tl.int64) * stride_bg
    a_ptrs = a + (offs_m[:, None] * stride_am + offs_k[None, :] * stride_ak)
    b_ptrs = b + (offs_k[:, None] * stride_bk + offs_n[None, :] * stride_bn)
    step_a = tl.cast(stride_ak, tl.int64) * BLOCK_K
    step_b = tl.cast(stride_bk, tl.int64) * BLOCK_K
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=ACC)
    for k in range(0, tl.where(group < G, K, 0), BLOCK_K):
        if EVEN_K:
            x = tl.load(a_ptrs, mask=mask_m, other=0.0)
            y = tl.load(b_ptrs, mask=mask_n, other=0.0)
        else:
            x = tl.load(a_ptrs, mask=mask_m & (offs_k[None, :] < K - k), other=0.0)
            y = tl.load(b_ptrs, mask=mask_n & (offs_k[:, None] < K - k), other=0.0)
        if WIDEN is not None:
            x = widened(x, WIDEN)
            y = widened(y, WIDEN)
        acc = tl.dot(x, y, acc, input_precision=PRECISION, max_num_imprecise_acc=IMPRECISE, out_dtype=ACC)
        a_ptrs += step_a
        b_ptrs += step_b
    if scale_a is not None:
        scale_b += tl.minimum(group, G - 1).to(tl.int64) * stride_sg
        acc *= tl.load(scale_a + offs_m * stride_sa, mask=offs_m < last, other=0)[:, None]
        acc *= tl.load(scale_b + offs_n * stride_sb, mask=offs_n < N, other=0)[None, :]
    at = offs_m[:, None] * stride_om + offs_n[None, :] * stride_on
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=mask_m & mask_n)


# out[g] = a[:, group g] @ b[group g]: a (M, T), b (T, N), out (G, M, N). One program owns BLOCK_M x BLOCK_N elements of
# one group's matrix, and reads the rows and columns of that group. scale_a (G, M), scale_b (G, N): of float8 operands.
@jit
def grouped_terms_kernel(
    out, a, b, scale_a, scale_b, offs, M, N, T, stride_am, stride_ak, stride_bk, stride_bn, stride_g,
    stride_ga, stride_sa, stride_gb, stride_sb,
    WIDE: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, IMPRECISE: tl.constexpr, WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    group = tl.program_id(0) // (tiles_m * tiles_n)
    pid_m, pid_n = place_of(tl.program_id(0) % (tiles_m * tiles_n), tiles_m, tiles_n, GROUP_M)
    first = tl.load(offs + (group - 1) * stride_g, mask=group > 0, other=0)
    first = tl.minimum(first, T)
    count = tl.maximum(tl.minimum(tl.load(offs + group * stride_g), T) - first, 0)
    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, BLOCK_K)
    if WIDE:
        offs_m = offs_m.to(tl.int64)
        offs_n = offs_n.to(tl.int64)
        offs_k = offs_k.to(tl.int64)
    mask_m = offs_m[:, None] < M
    mask_n = offs_n[None, :] < N
    a += first * tl.cast(stride_ak, tl.int64)
    b += first * tl.cast(stride_bk, tl.int64)
    a_ptrs = a + (offs_m[:, None] * stride_am + offs_k[None, :] * stride_ak)
    b_ptrs = b + (offs_k[:, None] * stride_bk + offs_n[None, :] * stride_bn)
    step_a = tl.cast(stride_ak, tl.int64) * BLOCK_K
    step_b = tl.cast(stride_bk, tl.int64) * BLOCK_K
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=ACC)
    for k in range(0, count, BLOCK_K):
        x = tl.load(a_ptrs, mask=mask_m & (offs_k[None, :] < count - k), other=0.0)
        y = tl.load(b_ptrs, mask=mask_n & (offs_k[:, None] < count - k), other=0.0)
        if WIDEN is not None:
            x = widened(x, WIDEN)
            y = widened(y, WIDEN)
        acc = tl.dot(x, y, acc, input_precision=PRECISION, max_num_imprecise_acc=IMPRECISE, out_dtype=ACC)
        a_ptrs += step_a
        b_ptrs += step_b
    if scale_a is not None:
        scale_a += group.to(tl.int64) * stride_ga
        scale_b += group.to(tl.int64) * stride_gb
        acc *= tl.load(scale_a + offs_m * stride_sa, mask=offs_m < M, other=0)[:, None]
        acc *= tl.load(scale_b + offs_n * stride_sb, mask=offs_n < N, other=0)[None, :]
    out += group.to(tl.int64) * M * N
    tl.store(out + (offs_m[:, None] * N + offs_n[None, :]), acc.to(out.dtype.element_ty), mask=mask_m & mask_n)


class Grouped(NamedTuple):
    """Products of groups as the choice of their tile sees them: M, N, K of a group of middling size."""

    M: int
    N: int
    K: int
    groups: int
    dtype: np.dtype[Any]
    precision: str
    layout: str
    along: str  # what is cut into groups: "rows" or "terms"


def _one(p: Grouped) -> tiles.Problem:
    return tiles.Problem(p.M, p.N, p.K, p.groups, p.dtype, p.precision, p.layout)


def _key(p: Grouped) -> Grouped:
    one = tiles.key(_one(p))
    return p._replace(M=one.M, N=one.N, K=one.K, groups=one.batch)


def _candidates(p: Grouped, gpu: Hardware) -> Sequence[Config]:
    """The tiles of pointers that products have, one program each."""
    one = _one(p)._replace(M=max(p.M, 2), N=max(p.N, 2))
    return [c for c in tiles.candidates(one, gpu) if not tiles.by_descriptor(c) and c["SPLIT_K"] == 1]


def _cost(config: Config, p: Grouped, gpu: Hardware) -> Estimate:
    found = tiles.cost(config, _one(p), gpu)
    if gpu.target == "gfx950" and config["BLOCK_M"] * config["BLOCK_N"] >= 256 * 256:  # spills here, not in a product
        found = found._replace(seconds=found.seconds * 1.5)
    return found


class Scales(NamedTuple):
    """Of float8 operands: of each row of the left one and each column of the right one, of a group where these differ.

    ``fast``: Hopper may add up all products in fewer bits than float32 has, not 128 of them.
    """

    a: DeviceArray
    b: DeviceArray
    fast: bool


def grouped_matmul(
    out: DeviceArray, input: DeviceArray, mat2: DeviceArray, offs: DeviceArray | None, scales: Scales | None = None
) -> None:
    """out = the products of the groups of input and mat2, of two or three dimensions each; offs (G,) ends of groups."""
    if offs is None and scales is not None:
        scaled = Epilogue(_rescaled, (scales.a[:, :, None], scales.b[:, None]))
        product(out, input, mat2, scaled, scales.fast)
    elif offs is None:
        product(out, input, mat2)
    elif not out.size:
        return
    elif not offs.shape[0]:
        fill(out, 0)
    elif input.ndim == 2 and mat2.ndim == 2:
        _terms(out, input, mat2, offs, scales)
    elif input.ndim == 2:
        _rows(out, input, mat2, offs, scales)
    else:  # the columns of mat2 are the rows of the transposed product
        turned = None if scales is None else Scales(scales.b, scales.a, scales.fast)
        _rows(out.T, mat2.T, input.swapaxes(1, 2), offs, turned)


def _sums(a: DeviceArray, b: DeviceArray, scales: Scales | None) -> str:
    """ "sums" where each 128 products are added up apart, which takes registers of its own."""
    return "sums" if scales is not None and not scales.fast and _widened(a, b, hardware(a.device)) is None else ""


def _scaling(a: DeviceArray, b: DeviceArray, scales: Scales | None, block_k: int) -> Any:
    """(a, b, scale of a, scale of b, their strides, constants) as kernels take them."""
    gpu = hardware(a.device)
    constants = {"WIDEN": _widened(a, b, gpu), "IMPRECISE": min(block_k, 128) if _sums(a, b, scales) else None}
    if scales is None:
        return a, b, None, None, None, constants
    if gpu.target in _NO_E4M3:
        a, b = (x.view(np.uint8) if x.dtype == _FLOAT8[0] else x for x in (a, b))
    return a, b, scales.a, scales.b, (*scales.a.strides, *scales.b.strides), constants


def _rows(out: DeviceArray, a: DeviceArray, b: DeviceArray, offs: DeviceArray, scales: Scales | None) -> None:
    (T, K), (G, _, N) = a.shape, b.shape
    how, dtype = precision(a.dtype, a.device), a.dtype

    def run(config: Config, out: DeviceArray) -> None:
        m, n, k = config["BLOCK_M"], config["BLOCK_N"], config["BLOCK_K"]
        spans = ((T + m, K + k, a.strides), (K + k, N + n, b.strides[1:]), (T + m, N + n, out.strides))
        constants = {name: v for name, v in config.launch.items() if name not in ("GROUP_M", "SPLIT_K")}
        x, y, scale_a, scale_b, steps, how_scaled = _scaling(a, b, scales, k)
        launch(
            grouped_rows_kernel, ((cdiv(T, m) + G + 1) * cdiv(N, n),), out, x, y, scale_a, scale_b, offs, T, N, K, G,
            *out.strides, *a.strides, *b.strides, *offs.strides, *(steps or (0, 0, 0)), EVEN_K=K % k == 0,
            WIDE=_wide(spans), ACC=accumulator(dtype), PRECISION=how, GROUPS=next_power_of_2(G + 1), **how_scaled,
            **constants,
        )  # fmt: skip

    layout = tiles.layout(*a.strides, dtype.itemsize, a.ptr) + tiles.layout(*b.strides[1:], dtype.itemsize, b.ptr)
    problem = Grouped(cdiv(T, G), N, K, G, dtype, _sums(a, b, scales) or how, layout, "rows")
    run(GROUPED.choose(problem, a.device, run, (out,)), out)


def _terms(out: DeviceArray, a: DeviceArray, b: DeviceArray, offs: DeviceArray, scales: Scales | None) -> None:
    (M, T), N, G = a.shape, b.shape[1], offs.shape[0]
    how, dtype = precision(a.dtype, a.device), a.dtype

    def run(config: Config, out: DeviceArray) -> None:
        m, n, k = config["BLOCK_M"], config["BLOCK_N"], config["BLOCK_K"]
        spans = ((M + m, T + k, a.strides), (T + k, N + n, b.strides), (M + m, N + n, (N, 1)))
        constants = {name: v for name, v in config.launch.items() if name != "SPLIT_K"}
        x, y, scale_a, scale_b, steps, how_scaled = _scaling(a, b, scales, k)
        launch(
            grouped_terms_kernel, (cdiv(M, m) * cdiv(N, n) * G,), out, x, y, scale_a, scale_b, offs, M, N, T,
            *a.strides, *b.strides, *offs.strides, *(steps or (0, 0, 0, 0)), WIDE=_wide(spans), ACC=accumulator(dtype),
            PRECISION=how, **how_scaled, **constants,
        )  # fmt: skip

    layout = tiles.layout(*a.strides, dtype.itemsize, a.ptr) + tiles.layout(*b.strides, dtype.itemsize, b.ptr)
    problem = Grouped(M, N, cdiv(T, G), G, dtype, _sums(a, b, scales) or how, layout, "terms")
    run(GROUPED.choose(problem, a.device, run, (out,)), out)


def _wide(spans: Sequence[tuple[int, int, tuple[int, ...]]]) -> bool:
    """Whether an offset needs 64 bits: (rows, columns, strides) of each operand."""
    return any(abs(s) * rows + abs(t) * columns >= 1 << 31 for rows, columns, (s, t) in spans)


GROUPED = Tunable(
    "grouped_matmul", (grouped_rows_kernel, grouped_terms_kernel), _candidates, _key, _cost,
    fit=lambda config, p: tiles.fit(config, _one(p)._replace(M=max(p.M, 2), N=max(p.N, 2))),
)  # fmt: skip
