"""Reading from the addresses that indices give, and the kernel that reads, writes or adds there; gradients of views.

An index out of range traps on a GPU (``tl.device_assert``), as in PyTorch; the access itself is masked off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._array import DeviceArray, as_strided, empty, expand, is_contiguous
from tensorlib.kernels import create, pointwise
from tensorlib.kernels.pointwise import collapse
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 1024
CHECKED = {"debug": True, "sanitize_overflow": False}  # keeps device_assert, and adds no checks of its own


# --------------------------------------------------------------------------------------------------- one element each


# One program owns BLOCK elements of the index space, in C order. For each: the address in x is its place by x_strides
# (0 along indexed dimensions) plus index * step for each index array; y is the dense side. MODE "read": y = x; "place":
# y = the address; the others write to x: "write" y, "fill" value, "add" / "max" / "min" y atomically.
# Reads the indices (8 bytes each) and one side, writes the other.
@jit
def indexed_kernel(
    x, y, indices, n, shape, x_strides, y_strides, index_strides, sizes, steps, value,
    MODE: tl.constexpr, RANK: tl.constexpr, COUNT: tl.constexpr, WRAP: tl.constexpr, WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0)
    if WIDE:
        i = i.to(tl.int64)
    i = i * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    rest = i
    at_x = tl.zeros_like(i)
    at_y = tl.zeros_like(i)
    at_index = ()
    for _ in tl.static_range(COUNT):
        at_index = at_index + (at_x,)
    for d in tl.static_range(RANK - 1, -1, -1):
        c = rest % shape[d]
        rest = rest // shape[d]
        at_x += c * x_strides[d]
        at_y += c * y_strides[d]
        moved = ()
        for k in tl.static_range(COUNT):
            moved = moved + (at_index[k] + c * index_strides[k][d],)
        at_index = moved
    inside = mask
    for k in tl.static_range(COUNT):
        j = tl.load(indices[k] + at_index[k], mask=mask, other=0).to(tl.int64)
        if WRAP:
            j = tl.where(j < 0, j + sizes[k], j)
        fits = (j >= 0) & (j < sizes[k])
        tl.device_assert(fits | (i >= n), "index out of bounds")
        inside = inside & fits
        at_x += j.to(at_x.dtype) * steps[k]
    element: tl.constexpr = x.dtype.element_ty
    if MODE == "read":
        v = tl.load(x + at_x, mask=inside, other=0)
        tl.store(y + at_y, tl.cast(v, y.dtype.element_ty), mask=mask)
    elif MODE == "place":
        tl.store(y + at_y, tl.where(inside, at_x, 0).to(y.dtype.element_ty), mask=mask)
    elif MODE == "fill":
        tl.store(x + at_x, tl.full((BLOCK,), 0, element) + tl.cast(value, element), mask=inside)
    else:
        v = tl.cast(tl.load(y + at_y, mask=mask, other=0), element)
        if MODE == "write":
            tl.store(x + at_x, v, mask=inside)
        elif MODE == "add":
            tl.atomic_add(x + at_x, v, mask=inside, sem="relaxed")
        elif MODE == "max":
            # As bits a positive NaN is above every number, so that NaN wins, as in PyTorch.
            if element.is_floating():
                v = tl.where(v != v, float("nan"), v)
            tl.atomic_max(x + at_x, v, mask=inside, sem="relaxed")
        else:
            if element.is_floating():
                v = tl.where(v != v, -float("nan"), v)  # and a negative NaN is below every number
            tl.atomic_min(x + at_x, v, mask=inside, sem="relaxed")


def indexed(
    mode: str,
    x: DeviceArray,
    y: DeviceArray | None,
    shape: Sequence[int],
    x_strides: Sequence[int],
    indices: Sequence[DeviceArray],
    sizes: Sequence[int],
    steps: Sequence[int],
    value: Any = None,
    wrap: bool = True,
) -> None:
    """Launch ``indexed_kernel`` over ``shape``; y and the indices have that shape."""
    n = 1
    for m in shape:
        n *= m
    if n == 0:
        return
    if mode not in ("read", "place"):  # what is read may be a view of what is written
        y = None if y is None else pointwise.apart(y, x)
        indices = [pointwise.apart(i, x) for i in indices]
    dims, strides = collapse(shape, [x_strides, None if y is None else y.strides, *[i.strides for i in indices]])
    rank = len(dims)
    reach = sum((size - 1) * abs(step) for size, step in zip(sizes, steps, strict=True))
    span = max(sum(abs(t) * (m - 1) for t, m in zip(s, dims, strict=True)) for s in strides if s is not None)
    launch(
        indexed_kernel,
        (cdiv(n, BLOCK),),
        x,
        y,
        tuple(indices),
        n,
        dims,
        strides[0],
        (0,) * rank if strides[1] is None else strides[1],
        tuple(strides[2:]),
        tuple(sizes),
        tuple(steps),
        value,
        MODE=mode,
        RANK=rank,
        COUNT=len(indices),
        WRAP=wrap,
        WIDE=max(span + reach, n + BLOCK) >= 1 << 31,
        BLOCK=BLOCK,
        options=CHECKED,
    )


# --------------------------------------------------------------------------------------------------- advanced indices


def _placed(shape: Sequence[int], dims: Sequence[int], common: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """(shape of the result, where the indices' dimensions lie in it) of an advanced index over ``dims``."""
    rest = [n for d, n in enumerate(shape) if d not in dims]
    at = dims[0] if dims[-1] - dims[0] == len(dims) - 1 else 0
    return (*rest[:at], *common, *rest[at:]), at


def layout(x: DeviceArray, indices: Sequence[DeviceArray], dims: Sequence[int]) -> tuple[Any, Any, Any, Any, Any]:
    """(shape, strides of x, index arrays, sizes, steps) of the index space of an advanced index."""
    common = np.broadcast_shapes(*[i.shape for i in indices])
    shape, at = _placed(x.shape, dims, common)
    rest = [s for d, s in enumerate(x.strides) if d not in dims]
    strides = (*rest[:at], *(0,) * len(common), *rest[at:])
    after = len(shape) - at - len(common)
    spread = []
    for i in indices:
        i = expand(i, common)
        spread.append(as_strided(i, shape, (*(0,) * at, *i.strides, *(0,) * after)))
    return shape, strides, spread, [x.shape[d] for d in dims], [x.strides[d] for d in dims]


def index(
    out: DeviceArray, input: DeviceArray, indices: Sequence[DeviceArray], dims: Sequence[int], unique: bool, wrap: bool
) -> None:
    """out = input[..., indices, ...], the indices over ``dims``."""
    i = indices[0]
    if len(dims) == 1 and dims[0] == 0 and is_contiguous(i) and is_contiguous(input) and out.size >= 64 * i.size:
        rows(out, input, i, wrap)
        return
    shape, strides, spread, sizes, steps = layout(input, indices, dims)
    indexed("read", input, out, shape, strides, spread, sizes, steps, wrap=wrap)


def zero(x: DeviceArray) -> None:
    create.full(x, x.shape, 0, x.dtype, x.device)


# -------------------------------------------------------------------------------------------------- along one dimension


def along(x: DeviceArray, dim: int, index: DeviceArray) -> tuple[Any, Any, Any, Any, Any]:
    """The index space of gather and scatter: index's own, a corner of x's but for ``dim``."""
    strides = (*x.strides[:dim], 0, *x.strides[dim + 1 :])
    return index.shape, strides, [index], [x.shape[dim]], [x.strides[dim]]


def gather(out: DeviceArray, input: DeviceArray, index: DeviceArray, dim: int) -> None:
    """out[i, j, k] = input[i, index[i, j, k], k] for dim 1."""
    shape, strides, at, sizes, steps = along(input, dim, index)
    indexed("read", input, out, shape, strides, at, sizes, steps, wrap=False)


# ------------------------------------------------------------------------------------------------- gradients of views


def slice_grad(out: DeviceArray, g: DeviceArray, shape: Any, index: Any) -> None:
    """out = zeros with g at a basic index."""
    zero(out)
    pointwise.copy(out[index], g)


def diagonal_grad(out: DeviceArray, g: DeviceArray, shape: Any, offset: int, dim1: int, dim2: int) -> None:
    """out = zeros with g on a diagonal."""
    zero(out)
    rest = [d for d in range(out.ndim) if d not in (dim1, dim2)]
    s = out.strides
    start = 0 if not g.size else offset * s[dim2] if offset >= 0 else -offset * s[dim1]
    pointwise.copy(as_strided(out, g.shape, (*[s[d] for d in rest], s[dim1] + s[dim2]), start), g)


# ---------------------------------------------------------------------------------------------------- whole rows


# One program owns BLOCK_M rows and BLOCK_N columns of out = x[index]. Reads each index and row once, writes it once.
@jit
def rows_kernel(
    out, x, index, M, N, size, WRAP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    tiles_n = tl.cdiv(N, BLOCK_N)  # the second dimension of a grid ends at 65535
    rm = tl.program_id(0) // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M)
    rn = (tl.program_id(0) % tiles_n).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    j = tl.load(index + rm, mask=rm < M, other=0).to(tl.int64)
    if WRAP:
        j = tl.where(j < 0, j + size, j)
    fits = (j >= 0) & (j < size)
    tl.device_assert(fits | (rm >= M), "index out of bounds")
    mask = (rm < M)[:, None] & (rn < N)[None, :]
    v = tl.load(x + j[:, None] * N + rn[None, :], mask=mask & fits[:, None], other=0)
    tl.store(out + rm.to(tl.int64)[:, None] * N + rn[None, :], v, mask=mask)


def rows(out: DeviceArray, x: DeviceArray, index: DeviceArray, wrap: bool) -> None:
    """out = x[index] over the first dimension; all contiguous."""
    m, size = index.size, x.shape[0]
    if not out.size:
        return
    n = out.size // m
    block_n = min(next_power_of_2(n), 1024)
    block_m = max(1, min(1024 // block_n, 16))
    launch(rows_kernel, (cdiv(m, block_m) * cdiv(n, block_n),), out, x, index, m, n, size, WRAP=wrap, BLOCK_M=block_m,
           BLOCK_N=block_n, options=CHECKED)  # fmt: skip


def contiguous(x: DeviceArray) -> DeviceArray:
    """x, or a contiguous copy of it."""
    if is_contiguous(x):
        return x
    out = empty(x.shape, x.dtype, x.device)
    pointwise.copy(out, x)
    return out
