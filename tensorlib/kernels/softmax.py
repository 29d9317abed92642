"""softmax, log_softmax and their gradients along any dim of any layout, in float32 or float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._array import DeviceArray, empty
from tensorlib.kernels import rows
from tensorlib.kernels.pointwise import collapse
from tensorlib.kernels.reduction import compute_dtype, strided
from tensorlib.kernels.rows import Need, Rows
from tensorlib.runtime.autotune import Config, Tunable
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import cdiv, launch

if TYPE_CHECKING:
    import triton.language as tl


@jit
def _load(x, offsets, mask, COMPUTE: tl.constexpr, fill: tl.constexpr):
    return tl.where(mask, tl.load(x + offsets, mask=mask).to(COMPUTE), tl.full((1, 1), fill, COMPUTE))


# One program owns BLOCK_M rows. ONE: BLOCK_N covers a row, read once. Otherwise the first walk keeps for every lane its
# maximum and the sum of exp(x - maximum), joined at the end; the second writes. Reads the input once (ONE) or twice,
# writes the output once. UNIT divides N and where rows begin.
# Milakov & Gimelshein 2018, "Online normalizer calculation for softmax".
@jit
def softmax_kernel(
    out, x, M, N, kept_shape, stride_out_m, stride_x_m, stride_on, stride_xn,
    LOG: tl.constexpr, ONE: tl.constexpr, COMPUTE: tl.constexpr, KEPT: tl.constexpr, UNIT: tl.constexpr,
    WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0)
    lane = tl.arange(0, BLOCK_N)
    if WIDE:
        m = m.to(tl.int64)
        lane = lane.to(tl.int64)
    m = m * BLOCK_M + tl.arange(0, BLOCK_M)
    N = N // UNIT * UNIT
    from_ = strided(m, kept_shape, stride_x_m, KEPT)[:, None] // UNIT * UNIT
    to = strided(m, kept_shape, stride_out_m, KEPT)[:, None] // UNIT * UNIT
    low: tl.constexpr = float("-inf")
    rows = (m < M)[:, None]
    if ONE:
        n = lane[None, :]
        mask = rows & (n < N)
        v = _load(x, from_ + n * stride_xn, mask, COMPUTE, low)
        v = v - tl.max(v, 1)[:, None]
        e = tl.exp(v)
        total = tl.sum(e, 1)[:, None]
        if LOG:
            result = v - tl.log(total)
        else:
            result = e / total
        tl.store(out + (to + n * stride_on), result.to(out.dtype.element_ty), mask=mask)
    else:
        top = tl.full((BLOCK_M, BLOCK_N), low, COMPUTE)
        total = tl.zeros((BLOCK_M, BLOCK_N), COMPUTE)
        for at in range(0, N, BLOCK_N):
            n = at + lane[None, :]
            v = _load(x, from_ + n * stride_xn, rows & (n < N), COMPUTE, low)
            # One exponential, of the distance to the larger; where both are -inf their sum counts for nothing later.
            scale = tl.where(v == top, 1.0, tl.exp(-tl.abs(v - top)))
            total = tl.where(v > top, total * scale + 1.0, total + scale)
            top = tl.maximum(v, top)
        best = tl.max(top, 1)[:, None]
        base = tl.where(best == low, 0.0, best)
        total = tl.sum(total * tl.exp(top - base), 1)[:, None]
        if LOG:
            shift = tl.log(total)
        else:
            shift = total
        for at in range(0, N, BLOCK_N):
            n = at + lane[None, :]
            mask = rows & (n < N)
            v = _load(x, from_ + n * stride_xn, mask, COMPUTE, low) - best
            if LOG:
                result = v - shift
            else:
                result = tl.exp(v) / shift
            tl.store(out + (to + n * stride_on), result.to(out.dtype.element_ty), mask=mask)


# One program owns BLOCK_M rows: softmax (g - Σ g y) y, log_softmax g - exp(y) Σ g. Reads g and y once (ONE) or twice
# (log_softmax: g twice, y once), writes the gradient once.
@jit
def softmax_grad_kernel(
    out, g, y, M, N, kept_shape, stride_out_m, stride_g_m, stride_y_m, stride_on, stride_gn, stride_yn,
    LOG: tl.constexpr, ONE: tl.constexpr, COMPUTE: tl.constexpr, KEPT: tl.constexpr, UNIT: tl.constexpr,
    WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0)
    lane = tl.arange(0, BLOCK_N)
    if WIDE:
        m = m.to(tl.int64)
        lane = lane.to(tl.int64)
    m = m * BLOCK_M + tl.arange(0, BLOCK_M)
    N = N // UNIT * UNIT
    g_m = strided(m, kept_shape, stride_g_m, KEPT)[:, None] // UNIT * UNIT
    y_m = strided(m, kept_shape, stride_y_m, KEPT)[:, None] // UNIT * UNIT
    to = strided(m, kept_shape, stride_out_m, KEPT)[:, None] // UNIT * UNIT
    rows = (m < M)[:, None]
    if ONE:
        n = lane[None, :]
        mask = rows & (n < N)
        dv = _load(g, g_m + n * stride_gn, mask, COMPUTE, 0.0)
        v = _load(y, y_m + n * stride_yn, mask, COMPUTE, 0.0)
        if LOG:
            result = dv - tl.exp(v) * tl.sum(dv, 1)[:, None]
        else:
            result = (dv - tl.sum(dv * v, 1)[:, None]) * v
        tl.store(out + (to + n * stride_on), result.to(out.dtype.element_ty), mask=mask)
    else:
        part = tl.zeros((BLOCK_M, BLOCK_N), COMPUTE)
        for at in range(0, N, BLOCK_N):
            n = at + lane[None, :]
            mask = rows & (n < N)
            dv = _load(g, g_m + n * stride_gn, mask, COMPUTE, 0.0)
            if LOG:
                part += dv
            else:
                part += dv * _load(y, y_m + n * stride_yn, mask, COMPUTE, 0.0)
        total = tl.sum(part, 1)[:, None]
        for at in range(0, N, BLOCK_N):
            n = at + lane[None, :]
            mask = rows & (n < N)
            dv = _load(g, g_m + n * stride_gn, mask, COMPUTE, 0.0)
            v = _load(y, y_m + n * stride_yn, mask, COMPUTE, 0.0)
            if LOG:
                result = dv - tl.exp(v) * total
            else:
                result = (dv - total) * v
            tl.store(out + (to + n * stride_on), result.to(out.dtype.element_ty), mask=mask)


def _run(
    kernel: Any, tunable: Tunable, out: DeviceArray, inputs: tuple[DeviceArray, ...], dim: int, log: bool,
    compute: np.dtype[Any],
) -> None:  # fmt: skip
    if not out.size:
        return
    shape, N = out.shape, out.shape[dim]
    outer = [d for d in range(len(shape)) if d != dim]
    M = out.size // N
    everything = (out, *inputs)
    kept_shape, kept = collapse([shape[d] for d in outer], [tuple(a.strides[d] for d in outer) for a in everything])
    if M == 1:  # a stride of 0, whose multiples the compiler knows to be aligned; of 1 it does not
        kept = [(0,)] * len(everything)
    steps = [a.strides[dim] for a in everything]
    span = max(sum(abs(s) * (n - 1) for s, n in zip(a.strides, shape, strict=True)) for a in everything)
    across = M > 1 and abs(steps[1]) > abs(kept[1][-1])  # neighbours in memory are neighbouring rows
    unit = rows.unit(N, kept_shape, kept) if all(s == 1 for s in steps) else 1

    def run(config: Config, out: DeviceArray) -> None:
        block_m, block_n = config["BLOCK_M"], config["BLOCK_N"]
        launch(
            kernel, (cdiv(M, block_m),), out, *inputs, M, N, kept_shape, *kept, *steps, LOG=log, COMPUTE=compute,
            KEPT=len(kept_shape), UNIT=unit, WIDE=max(span, M + block_m, N + block_n) >= 1 << 31, **config.launch,
        )  # fmt: skip

    problem = Rows(M, N, inputs[0].itemsize, compute, across, False)
    run(tunable.choose(problem, out.device, run, (out,)), out)


def softmax(out: DeviceArray, x: DeviceArray, dim: int, log: bool) -> None:
    """out = softmax(x), or its logarithm, along dim; x is converted to out's dtype first, half types to float32."""
    _run(softmax_kernel, SOFTMAX, out, (x,), dim, log, compute_dtype(out.dtype))


def softmax_grad(out: DeviceArray, g: DeviceArray, y: DeviceArray, dim: int, log: bool) -> None:
    """The gradient for the input from that of the output y."""
    _run(softmax_grad_kernel, SOFTMAX_GRAD, out, (g, y), dim, log, compute_dtype(y.dtype))


SOFTMAX = rows.tunable(
    "softmax", softmax_kernel, Need(14, 1.55, 0, 1, 1),
    lambda x: softmax(empty(x.shape, x.dtype, x.device), x, 1, False),
)  # fmt: skip
SOFTMAX_GRAD = rows.tunable(
    "softmax_grad", softmax_grad_kernel, Need(16, 2.2, 0, 2, 2),
    lambda x: softmax_grad(empty(x.shape, x.dtype, x.device), x, x, 1, False),
)  # fmt: skip
