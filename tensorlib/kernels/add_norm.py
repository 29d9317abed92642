"""A residual's sum and its normalization, in one pass: the sum is written for the next block, and normalized.

Rows of N neighbours. What is normalized is the sum as it was added, in float32 or float64, as are the statistics; only
what is written is rounded. No atomics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorlib._array import DeviceArray, empty
from tensorlib.kernels import create
from tensorlib.kernels.indexing import contiguous
from tensorlib.kernels.loss import number
from tensorlib.kernels.reduction import SUM, Reduction, _add2, _state2, compute_dtype, reduce
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.hardware import hardware
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl

ROW = 8192  # elements of a row a program keeps in registers; longer rows are read again, from the cache
TILE = 2048  # elements a program takes at a time where rows are short, or long
PROGRAMS = 256  # that share the rows in backward, as each writes a part of the weights' gradients
FEW_PROGRAMS = 32  # the same on a processor, which has fewer cores


@jit
def _load(x, offsets, mask, COMPUTE: tl.constexpr):
    return tl.load(x + offsets, mask=mask, other=0.0).to(COMPUTE)


@jit
def _affine(v, weight, bias, n, inside, COMPUTE: tl.constexpr):
    if weight is not None:
        v = v * _load(weight, n, inside, COMPUTE)[None, :]
    if bias is not None:
        v = v + _load(bias, n, inside, COMPUTE)[None, :]
    return v


# One program owns BLOCK_M rows. ONE: BLOCK_N covers a row, whose sum stays in registers: reads x and the residual once,
# writes the sum and the result, 4 numbers an element, where an addition and a normalization move 5. Otherwise both are
# read again, once for the deviation from the mean and once for the result. RMS: no mean.
# Ba et al. 2016; Zhang & Sennrich 2019.
@jit
def add_norm_kernel(
    out, total, mean, rstd, x, residual, weight, bias, M, N, eps,
    RMS: tl.constexpr, ONE: tl.constexpr, COMPUTE: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0)
    if WIDE:
        m = m.to(tl.int64)
    m = m * BLOCK_M + tl.arange(0, BLOCK_M)
    lane = tl.arange(0, BLOCK_N)
    rows = (m < M)[:, None]
    row = (m * N)[:, None]
    stored: tl.constexpr = total.dtype.element_ty
    if ONE:
        inside = lane < N
        mask = rows & inside[None, :]
        at = row + lane[None, :]
        v = _load(x, at, mask, COMPUTE) + _load(residual, at, mask, COMPUTE)
        tl.store(total + at, v.to(stored), mask=mask)
        if not RMS:
            mu = tl.sum(v, 1) / N
            tl.store(mean + m, mu, mask=m < M)
            v = tl.where(mask, v - mu[:, None], 0.0)
        scale = 1.0 / tl.sqrt(tl.sum(v * v, 1) / N + eps)
        tl.store(rstd + m, scale, mask=m < M)
        v = _affine(v * scale[:, None], weight, bias, lane, inside, COMPUTE)
        tl.store(out + at, v.to(out.dtype.element_ty), mask=mask)
    else:
        first = tl.zeros((BLOCK_M, BLOCK_N), COMPUTE)
        for start in range(0, N, BLOCK_N):
            n = start + lane
            mask = rows & (n < N)[None, :]
            at = row + n[None, :]
            v = _load(x, at, mask, COMPUTE) + _load(residual, at, mask, COMPUTE)
            tl.store(total + at, v.to(stored), mask=mask)
            if RMS:
                first += v * v
            else:
                first += v
        mu = tl.zeros((BLOCK_M,), COMPUTE)
        squares = tl.sum(first, 1)
        if not RMS:
            mu = squares / N
            second = tl.zeros((BLOCK_M, BLOCK_N), COMPUTE)
            rest = tl.zeros((BLOCK_M, BLOCK_N), COMPUTE)  # what rounding left of the mean: Chan, Golub & LeVeque 1983
            for start in range(0, N, BLOCK_N):
                n = start + lane
                mask = rows & (n < N)[None, :]
                at = row + n[None, :]
                v = _load(x, at, mask, COMPUTE) + _load(residual, at, mask, COMPUTE)
                v = tl.where(mask, v - mu[:, None], 0.0)
                second += v * v
                rest += v
            off = tl.sum(rest, 1) / N
            mu += off
            tl.store(mean + m, mu, mask=m < M)
            squares = tl.sum(second, 1) - N * off * off
        scale = 1.0 / tl.sqrt(squares / N + eps)
        tl.store(rstd + m, scale, mask=m < M)
        for start in range(0, N, BLOCK_N):
            n = start + lane
            inside = n < N
            mask = rows & inside[None, :]
            at = row + n[None, :]
            v = _load(x, at, mask, COMPUTE) + _load(residual, at, mask, COMPUTE)
            v = (v - mu[:, None]) * scale[:, None]
            tl.store(out + at, _affine(v, weight, bias, n, inside, COMPUTE).to(out.dtype.element_ty), mask=mask)


# One program owns ``share`` rows, BLOCK_M at a time. With h = (sum - mean) rstd and d = g weight, the gradient of the
# sum, and so of both its terms, is rstd (d - mean(d) - h mean(d h)) + g_total; RMS: without mean(d). Reads g, g_total
# and the sum, writes the gradient: 4 numbers an element, 6 where g_total is added afterwards. ONE: a row is read once,
# and the program's sums of g h and g are written for each column; otherwise rows are read twice.
@jit
def add_norm_grad_kernel(
    out, part_weight, part_bias, g, g_total, total, weight, mean, rstd, M, N, share,
    RMS: tl.constexpr, ONE: tl.constexpr, COMPUTE: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    begin = program * share
    lane = tl.arange(0, BLOCK_N)
    inside = lane < N
    if ONE:
        w = tl.full((1, BLOCK_N), 1.0, COMPUTE)
        if weight is not None:
            w = _load(weight, lane, inside, COMPUTE)[None, :]
        sum_gh = tl.zeros((BLOCK_M, BLOCK_N), COMPUTE)
        sum_g = tl.zeros((BLOCK_M, BLOCK_N), COMPUTE)
    for at_m in range(begin, tl.minimum(begin + share, M), BLOCK_M):
        m = at_m + tl.arange(0, BLOCK_M)
        rows = (m < M)[:, None]
        row = (m * N)[:, None]
        scale = tl.load(rstd + m, mask=m < M, other=0.0)[:, None]
        mu = tl.zeros((BLOCK_M, 1), COMPUTE)
        if not RMS:
            mu = tl.load(mean + m, mask=m < M, other=0.0)[:, None]
        if ONE:
            mask = rows & inside[None, :]
            at = row + lane[None, :]
            dv = _load(g, at, mask, COMPUTE)
            h = tl.where(mask, (_load(total, at, mask, COMPUTE) - mu) * scale, 0.0)
            if part_weight is not None:
                sum_gh += dv * h
            if part_bias is not None:
                sum_g += dv
            d = dv * w
            rest = d - h * (tl.sum(d * h, 1) / N)[:, None]
            if not RMS:
                rest = rest - (tl.sum(d, 1) / N)[:, None]
            rest = rest * scale + _load(g_total, at, mask, COMPUTE)
            tl.store(out + at, rest.to(out.dtype.element_ty), mask=mask)
        else:
            sum_dh = tl.zeros((BLOCK_M, BLOCK_N), COMPUTE)
            sum_d = tl.zeros((BLOCK_M, BLOCK_N), COMPUTE)
            for start in range(0, N, BLOCK_N):
                n = start + lane
                mask = rows & (n < N)[None, :]
                d = _load(g, row + n[None, :], mask, COMPUTE)
                if weight is not None:
                    d = d * _load(weight, n, n < N, COMPUTE)[None, :]
                sum_dh += d * ((_load(total, row + n[None, :], mask, COMPUTE) - mu) * scale)
                sum_d += d
            mean_dh = (tl.sum(sum_dh, 1) / N)[:, None]
            mean_d = (tl.sum(sum_d, 1) / N)[:, None]
            for start in range(0, N, BLOCK_N):
                n = start + lane
                mask = rows & (n < N)[None, :]
                at = row + n[None, :]
                d = _load(g, at, mask, COMPUTE)
                if weight is not None:
                    d = d * _load(weight, n, n < N, COMPUTE)[None, :]
                rest = d - ((_load(total, at, mask, COMPUTE) - mu) * scale) * mean_dh
                if not RMS:
                    rest = rest - mean_d
                rest = rest * scale + _load(g_total, at, mask, COMPUTE)
                tl.store(out + at, rest.to(out.dtype.element_ty), mask=mask)
    if ONE:
        at = program * N + lane
        if part_weight is not None:
            tl.store(part_weight + at, tl.sum(sum_gh, 0), mask=inside)
        if part_bias is not None:
            tl.store(part_bias + at, tl.sum(sum_g, 0), mask=inside)


def _blocks(M: int, N: int) -> tuple[bool, int, int, int]:
    """(a row in one block, BLOCK_M, BLOCK_N, warps)."""
    one = N <= ROW
    block_n = next_power_of_2(N) if one else 2 * TILE
    block_m = min(next_power_of_2(M), max(TILE // block_n, 1))
    tile = block_m * block_n
    return one, block_m, block_n, 16 if tile > 4096 else 8 if tile > 2048 else 4


def add_norm(
    out: DeviceArray, total: DeviceArray, mean: DeviceArray | None, rstd: DeviceArray, input: DeviceArray,
    residual: DeviceArray, weight: DeviceArray | None, bias: DeviceArray | None, eps: float,
) -> None:  # fmt: skip
    """total = input + residual, out = its normalization over rows, with the statistics; ``mean`` None: by the RMS."""
    M = rstd.size
    if not out.size:
        return
    N = out.size // M
    compute = compute_dtype(out.dtype)
    one, block_m, block_n, warps = _blocks(M, N)
    weight, bias = (None if a is None else contiguous(a) for a in (weight, bias))
    launch(
        add_norm_kernel, (cdiv(M, block_m),), out, total, mean, rstd, contiguous(input), contiguous(residual), weight,
        bias, M, N, number(eps, compute), RMS=mean is None, ONE=one, COMPUTE=compute,
        WIDE=out.size + block_m * block_n >= 1 << 31, BLOCK_M=block_m, BLOCK_N=block_n, num_warps=warps,
    )  # fmt: skip


@jit
def _terms(g, total, mean, rstd, n, arg):
    return (g * ((total - mean) * rstd), g)


@jit
def _terms_rms(g, total, rstd, n, arg):
    return (g * (total * rstd), g)


_LONG = Reduction(_terms, _add2, _state2, (0.0, 0.0), (None, None))
_LONG_RMS = Reduction(_terms_rms, _add2, _state2, (0.0, 0.0), (None, None))


def add_norm_grad(
    out: DeviceArray, g_weight: DeviceArray | None, g_bias: DeviceArray | None, g: DeviceArray, g_total: DeviceArray,
    total: DeviceArray, weight: DeviceArray | None, mean: DeviceArray | None, rstd: DeviceArray,
) -> None:  # fmt: skip
    """Gradients of add_norm for either term of the sum, weight and bias; of these None: not wanted."""
    M = rstd.size
    if not out.size:
        for unused in (g_weight, g_bias):
            if unused is not None:
                create.full(unused, None, 0, None, None)
        return
    N = out.size // M
    compute = compute_dtype(out.dtype)
    one, block_m, block_n, warps = _blocks(M, N)
    most = FEW_PROGRAMS if hardware(out.device).family == "native" else PROGRAMS
    share = cdiv(cdiv(M, block_m), most) * block_m if one else block_m
    programs = cdiv(M, share)
    parts = [empty((programs, N), compute, out.device) if one and w is not None else None for w in (g_weight, g_bias)]
    g, g_total, total, rstd = (contiguous(a) for a in (g, g_total, total, rstd))
    weight, mean = (None if a is None else contiguous(a) for a in (weight, mean))
    launch(
        add_norm_grad_kernel, (programs,), out, *parts, g, g_total, total, weight, mean, rstd, M, N, share,
        RMS=mean is None, ONE=one, COMPUTE=compute, WIDE=out.size + block_m * block_n >= 1 << 31, BLOCK_M=block_m,
        BLOCK_N=block_n, num_warps=warps,
    )  # fmt: skip
    if one:
        for grad, part in zip((g_weight, g_bias), parts, strict=True):
            if grad is not None:
                reduce([grad.reshape((N,))], [part], (0,), SUM, [compute])
    elif g_weight is not None or g_bias is not None:
        stats: list[Any] = [a.reshape((M, 1)) for a in (mean, rstd) if a is not None]
        flat = [empty((N,), compute, out.device) if a is None else a.reshape((N,)) for a in (g_weight, g_bias)]
        rows = [a.reshape((M, N)) for a in (g, total)]
        reduce(flat, [*rows, *stats], (0,), _LONG_RMS if mean is None else _LONG, [compute] * (2 + len(stats)))
