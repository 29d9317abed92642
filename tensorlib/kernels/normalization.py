"""Layer, RMS, batch and group normalization and their gradients; statistics in float32 or float64, no atomics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._array import DeviceArray, empty, expand, is_contiguous
from tensorlib.kernels import create, pointwise
from tensorlib.kernels import rows as blocks
from tensorlib.kernels.pointwise import collapse
from tensorlib.kernels.reduction import (
    SUM,
    Reduction,
    _add2,
    _map_moments,
    _map_state2,
    _moments,
    _state2,
    _step_moments,
    compute_dtype,
    lanes,
    reduce,
    strided,
)
from tensorlib.kernels.rows import Need, Rows
from tensorlib.runtime.autotune import Config
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.hardware import hardware
from tensorlib.runtime.launch import cdiv, launch

if TYPE_CHECKING:
    import triton.language as tl

_FLOAT64 = np.dtype(np.float64)
FEW_PROGRAMS = 32  # that share the rows when the gradients of weight and bias are summed, on a processor

_join_moments = lanes(_moments)


@jit
def _load(x, offsets, mask, COMPUTE: tl.constexpr):
    return tl.where(mask, tl.load(x + offsets, mask=mask).to(COMPUTE), tl.zeros((1, 1), COMPUTE))


@jit
def _affine(v, weight, bias, n, inside, column_shape, stride_w, stride_b, COLUMNS: tl.constexpr, COMPUTE: tl.constexpr):
    if weight is not None:
        v = v * _load(weight, strided(n, column_shape, stride_w, COLUMNS)[None, :], inside, COMPUTE)
    if bias is not None:
        v = v + _load(bias, strided(n, column_shape, stride_b, COLUMNS)[None, :], inside, COMPUTE)
    return v


# One program owns BLOCK_M rows of N elements. ONE: BLOCK_N covers a row, read once, the variance by two passes over
# registers; otherwise a first walk by Welford's method a lane, joined at the end. RMS: no mean, no bias. Reads the
# input once (ONE) or twice and the weights once a program, writes the output, and mean and 1/deviation a row. UNIT
# divides N and where rows begin.
# Ba et al. 2016; Zhang & Sennrich 2019.
@jit
def layer_norm_kernel(
    out, mean, rstd, x, weight, bias, M, N, eps, row_shape, stride_xm, column_shape, stride_xn, stride_w, stride_b,
    RMS: tl.constexpr, ONE: tl.constexpr, COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    UNIT: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0)
    lane = tl.arange(0, BLOCK_N)
    if WIDE:
        m = m.to(tl.int64)
        lane = lane.to(tl.int64)
    m = m * BLOCK_M + tl.arange(0, BLOCK_M)
    rows = (m < M)[:, None]
    N = N // UNIT * UNIT
    from_ = strided(m, row_shape, stride_xm, ROWS)[:, None] // UNIT * UNIT
    to = (m * N)[:, None]
    size = tl.cast(N, COMPUTE)
    if ONE:
        inside = (lane < N)[None, :]
        mask = rows & inside
        v = _load(x, from_ + strided(lane, column_shape, stride_xn, COLUMNS)[None, :], mask, COMPUTE)
        if RMS:
            scale = 1.0 / tl.sqrt(tl.sum(v * v, 1) / size + eps)
        else:
            mu = tl.sum(v, 1) / size
            v = tl.where(mask, v - mu[:, None], 0.0)
            scale = 1.0 / tl.sqrt(tl.sum(v * v, 1) / size + eps)
            tl.store(mean + m, mu, mask=m < M)
        tl.store(rstd + m, scale, mask=m < M)
        v = _affine(v * scale[:, None], weight, bias, lane, inside, column_shape, stride_w, stride_b, COLUMNS, COMPUTE)
        tl.store(out + (to + lane[None, :]), v.to(out.dtype.element_ty), mask=mask)
    else:
        centre = tl.zeros((BLOCK_M, BLOCK_N), COMPUTE)
        m2 = tl.zeros((BLOCK_M, BLOCK_N), COMPUTE)
        have = tl.zeros((BLOCK_M, BLOCK_N), COMPUTE)
        for at in range(0, N, BLOCK_N):
            n = at + lane
            mask = rows & (n < N)[None, :]
            v = _load(x, from_ + strided(n, column_shape, stride_xn, COLUMNS)[None, :], mask, COMPUTE)
            if RMS:
                m2 += v * v
            else:
                counted = mask.to(COMPUTE)
                have += counted
                delta = (v - centre) * counted
                centre += delta / tl.maximum(have, 1.0)
                m2 += delta * (v - centre)
        if RMS:
            mu = tl.zeros((BLOCK_M,), COMPUTE)
            scale = 1.0 / tl.sqrt(tl.sum(m2, 1) / size + eps)
        else:
            joined = _join_moments((centre, m2, have))
            mu = joined[0]
            scale = 1.0 / tl.sqrt(joined[1] / size + eps)
            tl.store(mean + m, mu, mask=m < M)
        tl.store(rstd + m, scale, mask=m < M)
        for at in range(0, N, BLOCK_N):
            n = at + lane
            inside = (n < N)[None, :]
            mask = rows & inside
            v = _load(x, from_ + strided(n, column_shape, stride_xn, COLUMNS)[None, :], mask, COMPUTE)
            v = (v - mu[:, None]) * scale[:, None]
            v = _affine(v, weight, bias, n, inside, column_shape, stride_w, stride_b, COLUMNS, COMPUTE)
            tl.store(out + (to + n[None, :]), v.to(out.dtype.element_ty), mask=mask)


# One program owns ``share`` rows, BLOCK_M at a time. With h = (x - mean) rstd and d = g weight, the gradient of the
# input is rstd (d - mean(d) - h mean(d h)); RMS: without mean(d). ONE: BLOCK_N covers a row, x and g are read once, and
# the program's sums of g h and g, where they are wanted, are written for each column, to be summed over programs: bytes
# 2 reads, 1 write and 2 N numbers a program. Otherwise x and g are read twice. UNIT divides N and where rows begin.
@jit
def layer_norm_grad_kernel(
    out, part_weight, part_bias, g, x, weight, mean, rstd, M, N, share,
    row_shape, stride_gm, stride_xm, column_shape, stride_gn, stride_xn, stride_w,
    RMS: tl.constexpr, ONE: tl.constexpr, COMPUTE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    UNIT: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    lane = tl.arange(0, BLOCK_N)
    if WIDE:
        program = program.to(tl.int64)
        lane = lane.to(tl.int64)
    start = program * share
    N = N // UNIT * UNIT
    size = tl.cast(N, COMPUTE)
    inside = (lane < N)[None, :]
    if ONE:
        w = tl.full((1, BLOCK_N), 1.0, COMPUTE)
        if weight is not None:
            w = _load(weight, strided(lane, column_shape, stride_w, COLUMNS)[None, :], inside, COMPUTE)
        sum_gh = tl.zeros((BLOCK_M, BLOCK_N), COMPUTE)
        sum_g = tl.zeros((BLOCK_M, BLOCK_N), COMPUTE)
    for at_m in range(start, tl.minimum(start + share, M), BLOCK_M):
        m = at_m + tl.arange(0, BLOCK_M)
        rows = (m < M)[:, None]
        g_m = strided(m, row_shape, stride_gm, ROWS)[:, None] // UNIT * UNIT
        x_m = strided(m, row_shape, stride_xm, ROWS)[:, None] // UNIT * UNIT
        to = (m * N)[:, None]
        scale = tl.load(rstd + m, mask=m < M, other=0.0)[:, None]
        if RMS:
            mu = tl.zeros((BLOCK_M, 1), COMPUTE)
        else:
            mu = tl.load(mean + m, mask=m < M, other=0.0)[:, None]
        if ONE:
            mask = rows & inside
            dv = _load(g, g_m + strided(lane, column_shape, stride_gn, COLUMNS)[None, :], mask, COMPUTE)
            h = _load(x, x_m + strided(lane, column_shape, stride_xn, COLUMNS)[None, :], mask, COMPUTE)
            h = tl.where(mask, (h - mu) * scale, 0.0)
            if part_weight is not None:
                sum_gh += dv * h
            if part_bias is not None:
                sum_g += dv
            d = dv * w
            rest = d - h * (tl.sum(d * h, 1) / size)[:, None]
            if not RMS:
                rest = rest - (tl.sum(d, 1) / size)[:, None]
            tl.store(out + (to + lane[None, :]), (rest * scale).to(out.dtype.element_ty), mask=mask)
        else:
            sum_dh = tl.zeros((BLOCK_M, BLOCK_N), COMPUTE)
            sum_d = tl.zeros((BLOCK_M, BLOCK_N), COMPUTE)
            for at in range(0, N, BLOCK_N):
                n = at + lane
                mask = rows & (n < N)[None, :]
                d = _load(g, g_m + strided(n, column_shape, stride_gn, COLUMNS)[None, :], mask, COMPUTE)
                if weight is not None:
                    d *= _load(weight, strided(n, column_shape, stride_w, COLUMNS)[None, :], (n < N)[None, :], COMPUTE)
                h = _load(x, x_m + strided(n, column_shape, stride_xn, COLUMNS)[None, :], mask, COMPUTE)
                sum_dh += d * ((h - mu) * scale)
                sum_d += d
            mean_dh = (tl.sum(sum_dh, 1) / size)[:, None]
            mean_d = (tl.sum(sum_d, 1) / size)[:, None]
            for at in range(0, N, BLOCK_N):
                n = at + lane
                mask = rows & (n < N)[None, :]
                d = _load(g, g_m + strided(n, column_shape, stride_gn, COLUMNS)[None, :], mask, COMPUTE)
                if weight is not None:
                    d *= _load(weight, strided(n, column_shape, stride_w, COLUMNS)[None, :], (n < N)[None, :], COMPUTE)
                h = _load(x, x_m + strided(n, column_shape, stride_xn, COLUMNS)[None, :], mask, COMPUTE)
                rest = d - ((h - mu) * scale) * mean_dh
                if not RMS:
                    rest = rest - mean_d
                tl.store(out + (to + n[None, :]), (rest * scale).to(out.dtype.element_ty), mask=mask)
    if ONE:
        at = program * N + lane
        if part_weight is not None:
            tl.store(part_weight + at, tl.sum(sum_gh, 0), mask=lane < N)
        if part_bias is not None:
            tl.store(part_bias + at, tl.sum(sum_g, 0), mask=lane < N)


def _rows_and_columns(arrays: Sequence[DeviceArray], columns: Sequence[Any], lead: int) -> Any:
    """Row shape and strides of arrays; column shape and strides of arrays, then of the weights (None: as none)."""
    shape = arrays[0].shape
    row_shape, rows = collapse(shape[:lead], [a.strides[:lead] for a in arrays])
    if row_shape == (1,):  # a stride of 0, whose multiples the compiler knows to be aligned; of 1 it does not
        rows = [(0,)] * len(arrays)
    column_shape, cols = collapse(
        shape[lead:], [*(a.strides[lead:] for a in arrays), *(None if c is None else c.strides for c in columns)]
    )
    return row_shape, rows, column_shape, [(0,) * len(column_shape) if c is None else c for c in cols]


def _wide(arrays: Sequence[DeviceArray], extra: int) -> bool:
    spans = [sum(abs(s) * (n - 1) for s, n in zip(a.strides, a.shape, strict=True)) for a in arrays]
    return max(*spans, arrays[0].size + extra) >= 1 << 31


def _number(value: float, compute: np.dtype[Any]) -> Any:
    return np.float64(value) if compute == _FLOAT64 else float(value)


def layer_norm(
    out: DeviceArray, mean: Any, rstd: DeviceArray, x: DeviceArray, weight: Any, bias: Any, columns: int, eps: float
) -> None:
    """out = (x - mean) rstd weight + bias over the last ``columns`` dims, mean and rstd (one a row) written too.

    ``mean`` None: root mean square normalization.
    """
    M, lead = rstd.size, x.ndim - columns
    if not out.size:
        return
    N = x.size // M
    compute = compute_dtype(x.dtype)
    row_shape, rows, column_shape, cols = _rows_and_columns([x], [weight, bias], lead)
    unit = blocks.unit(N, row_shape, rows) if cols[0] == (1,) else 1

    def run(config: Config, *made: DeviceArray) -> None:
        out, mean, rstd = blocks.among(outputs, made)
        block_m, block_n = config["BLOCK_M"], config["BLOCK_N"]
        launch(
            layer_norm_kernel, (cdiv(M, block_m),), out, mean, rstd, x, weight, bias, M, N, _number(eps, compute),
            row_shape, rows[0], column_shape, *cols, RMS=mean is None, COMPUTE=compute, ROWS=len(row_shape),
            COLUMNS=len(column_shape), UNIT=unit, WIDE=_wide([out, x], block_m * block_n * 2), **config.launch,
        )  # fmt: skip

    problem = Rows(M, N, x.itemsize, compute, False, False)
    outputs = (out, mean, rstd)
    there = tuple(a for a in outputs if a is not None)
    run(LAYER_NORM.choose(problem, x.device, run, there), *there)


_GRAD = Need(8, 3.5, 7.2, 2, 2)


@jit
def _map_weight_bias(x, g, mean, rstd, n, arg):
    return (g * ((x - mean) * rstd), g)


@jit
def _map_weight(x, g, rstd, n, arg):
    return (g * (x * rstd), g)


_SUM_WEIGHT_BIAS = Reduction(_map_weight_bias, _add2, _state2, (0.0, 0.0), (None, None))
_SUM_WEIGHT = Reduction(_map_weight, _add2, _state2, (0.0, 0.0), (None, None))
_SUM_BOTH = Reduction(_map_state2, _add2, _state2, (0.0, 0.0), (None, None))


def layer_norm_grad(
    out: DeviceArray, g_weight: Any, g_bias: Any, g: DeviceArray, x: DeviceArray, weight: Any, mean: Any,
    rstd: DeviceArray, columns: int,
) -> None:  # fmt: skip
    """Gradients of layer_norm (``mean`` None: of rms_norm); ``g_weight`` and ``g_bias`` None: not wanted."""
    M, lead = rstd.size, x.ndim - columns
    if not out.size:
        for unused in (g_weight, g_bias):
            if unused is not None:
                create.full(unused, None, 0, None, None)
        return
    N = x.size // M
    compute = compute_dtype(x.dtype)
    mean, rstd = (a if a is None or is_contiguous(a) else _dense(a) for a in (mean, rstd))
    row_shape, rows, column_shape, cols = _rows_and_columns([g, x], [weight], lead)
    unit = blocks.unit(N, row_shape, rows) if cols[:2] == [(1,), (1,)] else 1
    given = (g_weight, g_bias)
    sums = any(w is not None for w in given) and N <= blocks.ROW  # held in registers beside the row

    def run(config: Config, *made: DeviceArray) -> None:
        out, g_weight, g_bias = blocks.among(outputs, made)
        one, block_m, block_n = config["ONE"], config["BLOCK_M"], config["BLOCK_N"]
        wanted = [t if sums and one else None for t in (g_weight, g_bias)]
        gpu = hardware(x.device)
        share = block_m
        if sums and one:
            most = FEW_PROGRAMS if gpu.on_host else blocks.resident(_GRAD, config, problem, gpu)
            share = cdiv(cdiv(M, block_m), most) * block_m
        programs = cdiv(M, share)
        parts = [None if t is None else empty((programs, N), compute, x.device) for t in wanted]
        launch(
            layer_norm_grad_kernel, (programs,), out, *parts, g, x, weight, mean, rstd, M, N, share,
            row_shape, *rows, column_shape, *cols, RMS=mean is None, COMPUTE=compute, ROWS=len(row_shape),
            COLUMNS=len(column_shape), UNIT=unit, WIDE=_wide([out, x, g], block_m * block_n * 2), **config.launch,
        )  # fmt: skip
        totals, held = [t for t in wanted if t is not None], [p for p in parts if p is not None]
        if totals:
            reduce(totals, held, (0,), _SUM_BOTH if len(totals) == 2 else SUM, [compute] * len(totals))
        elif g_weight is not None or g_bias is not None:
            stats = [_as_rows(a, x.shape, lead) for a in (mean, rstd) if a is not None]
            flat = [empty((N,), compute, x.device) if t is None else t for t in (g_weight, g_bias)]
            what = _SUM_WEIGHT if mean is None else _SUM_WEIGHT_BIAS
            reduce(flat, [x, g, *stats], range(lead), what, [compute] * (2 + len(stats)))

    problem = Rows(M, N, x.itemsize, compute, False, sums)
    outputs = (out, *given)
    there = tuple(a for a in outputs if a is not None)
    run(LAYER_NORM_GRAD.choose(problem, x.device, run, there), *there)


def _example(x: DeviceArray) -> None:
    compute = compute_dtype(x.dtype)
    out, weight = empty(x.shape, x.dtype, x.device), x[0]
    mean, rstd = (empty(x.shape[:1], compute, x.device) for _ in range(2))
    layer_norm(out, mean, rstd, x, weight, weight, 1, 1e-5)


def _example_grad(x: DeviceArray) -> None:
    out, weight = empty(x.shape, x.dtype, x.device), x[0]
    stat = x[:, 0]
    if stat.dtype != compute_dtype(x.dtype):
        stat = empty(x.shape[:1], compute_dtype(x.dtype), x.device)
        pointwise.copy(stat, x[:, 0])
    layer_norm_grad(
        out, empty(weight.shape, x.dtype, x.device), empty(weight.shape, x.dtype, x.device), x, x, weight, stat, stat, 1
    )


LAYER_NORM = blocks.tunable("layer_norm", layer_norm_kernel, Need(14, 1.55, 0, 1, 1, 2.0), _example)
LAYER_NORM_GRAD = blocks.tunable("layer_norm_grad", layer_norm_grad_kernel, _GRAD, _example_grad)


def _dense(a: DeviceArray) -> DeviceArray:
    out: DeviceArray = empty(a.shape, a.dtype, a.device)
    pointwise.copy(out, a)
    return out


def _as_rows(stat: DeviceArray, shape: tuple[int, ...], lead: int) -> DeviceArray:
    """Statistics of rows, one an element of the leading dims, broadcast over the others."""
    return expand(stat.reshape((*shape[:lead], *(1,) * (len(shape) - lead))), shape)


# ------------------------------------------------------------------------------------ batch and group normalization
# A reduction for the statistics and a pointwise pass for the result: nothing is copied, whatever the layout.


@jit
def _statistics(mean, m2, n, count, arg):
    return (mean, m2 / n)


@jit
def _mean_rstd(mean, m2, n, count, arg):
    return (mean, 1.0 / tl.sqrt(m2 / n + arg))


MEAN_VAR = Reduction(_map_moments, _moments, _statistics, (0.0, 0.0, 0.0), (None,) * 3, _step_moments)
MEAN_RSTD = Reduction(_map_moments, _moments, _mean_rstd, (0.0, 0.0, 0.0), (None,) * 3, _step_moments)


@jit
def _normalized(x, mean, rstd, weight, bias):
    return (x - mean) * rstd * weight + bias


@jit
def _normalized_var(x, mean, var, weight, bias, eps):
    return _normalized(x, mean, 1.0 / tl.sqrt(var + eps), weight, bias)


@jit
def _normalized_grad(g, x, mean, rstd, weight, mean_d, mean_dh):
    return rstd * (g * weight - mean_d - (x - mean) * rstd * mean_dh)


@jit
def _map_sums(x, g, mean, rstd, n, arg):
    return (g, g * ((x - mean) * rstd))


@jit
def _map_pair(a, b, weight, n, arg):
    return (a * weight, b * weight)


@jit
def _means(a, b, count, arg):
    return (a / tl.cast(arg, a.dtype), b / tl.cast(arg, b.dtype))


@jit
def _twice(a, b, count, arg):
    return (a, b, a, b)


_SUMS = Reduction(_map_sums, _add2, _state2, (0.0, 0.0), (None, None))
_SUMS_TWICE = Reduction(_map_sums, _add2, _twice, (0.0, 0.0), (None, None))
_MEANS = Reduction(_map_state2, _add2, _means, (0.0, 0.0), (None, None))
_WEIGHTED_MEANS = Reduction(_map_pair, _add2, _means, (0.0, 0.0), (None, None))


def _channels(a: Any, ndim: int, absent: float = 1.0) -> Any:
    """One number a channel, as (1, C, 1, …); ``absent`` for all of them where there are none."""
    return absent if a is None else a.reshape((1, a.shape[0], *(1,) * (ndim - 2)))


def _apply(fn: Any, out: DeviceArray, values: Sequence[Any], compute: np.dtype[Any]) -> None:
    pointwise.run(fn, out, tuple(values), (compute,) * len(values))


def batch_norm(
    out: DeviceArray, mean: DeviceArray, var: DeviceArray, x: DeviceArray, weight: Any, bias: Any, eps: float
) -> None:
    """out = (x - mean) / sqrt(var + eps) weight + bias a channel (dim 1); the statistics of x are written too."""
    compute = compute_dtype(x.dtype)
    reduce([mean, var], [x], [d for d in range(x.ndim) if d != 1], MEAN_VAR)
    per = [_channels(a, x.ndim) for a in (mean, var, weight)]
    _apply(_normalized_var, out, [x, *per, _channels(bias, x.ndim, 0.0), float(eps)], compute)


@jit
def _rstd(var, eps):
    return 1.0 / tl.sqrt(var + eps)


def batch_norm_grad(
    out: DeviceArray, g_weight: DeviceArray, g_bias: DeviceArray, g: DeviceArray, x: DeviceArray, weight: Any,
    mean: DeviceArray, var: DeviceArray, g_mean: DeviceArray, g_var: DeviceArray, eps: float,
) -> None:  # fmt: skip
    """Gradients of batch_norm: two sums a channel, then one pass, into which those of the statistics join."""
    compute = compute_dtype(x.dtype)
    rstd = empty(var.shape, compute, x.device)
    _apply(_rstd, rstd, [var, float(eps)], compute)
    n = float(x.size // max(x.shape[1], 1))
    dims = [d for d in range(x.ndim) if d != 1]
    sums = [empty(g_bias.shape, compute, x.device) for _ in range(2)]
    reduce([*sums, g_bias, g_weight], [x, g, _channels(mean, x.ndim), _channels(rstd, x.ndim)], dims, _SUMS_TWICE,
           [compute] * 4)  # fmt: skip
    per = [_channels(a, x.ndim) for a in (mean, rstd, weight, *sums, g_mean, g_var)]
    _apply(_batch_norm_input_grad, out, [g, x, *per, n], compute)


# Those of one channel are the same for a whole row, or column, of a tile, and are computed once for it.
@jit
def _batch_norm_input_grad(g, x, mean, rstd, weight, sum_g, sum_gh, g_mean, g_var, n):
    scale = rstd * weight
    factor = (2.0 * g_var - scale * rstd * sum_gh) / n
    constant = (g_mean - scale * sum_g) / n
    return g * scale + (x - mean) * factor + constant


def _grouped(x: DeviceArray, num_groups: int) -> DeviceArray:
    """(N, C, …) as (N, num_groups, C / num_groups, …): a view."""
    return x.reshape((x.shape[0], num_groups, x.shape[1] // num_groups, *x.shape[2:]))


def _of_groups(a: Any, num_groups: int, ndim: int, absent: float = 1.0) -> Any:
    """One number a channel, as (1, num_groups, C / num_groups, 1, …); ``absent`` where there are none."""
    return absent if a is None else a.reshape((1, num_groups, a.shape[0] // num_groups, *(1,) * (ndim - 3)))


def group_norm(
    out: DeviceArray, mean: DeviceArray, rstd: DeviceArray, x: DeviceArray, weight: Any, bias: Any, num_groups: int,
    eps: float,
) -> None:  # fmt: skip
    """out = (x - mean) rstd weight + bias; the statistics of each sample's groups of channels are written too."""
    if not x.size:
        return
    compute = compute_dtype(x.dtype)
    x, out = _grouped(x, num_groups), _grouped(out, num_groups)
    reduce([mean, rstd], [x], range(2, x.ndim), MEAN_RSTD, arg=eps)
    stats = [_as_rows(a, x.shape, 2) for a in (mean, rstd)]
    per = [_of_groups(weight, num_groups, x.ndim), _of_groups(bias, num_groups, x.ndim, 0.0)]
    _apply(_normalized, out, [x, *stats, *per], compute)


def group_norm_grad(
    out: DeviceArray, g_weight: DeviceArray, g_bias: DeviceArray, g: DeviceArray, x: DeviceArray, weight: Any,
    mean: DeviceArray, rstd: DeviceArray, num_groups: int,
) -> None:  # fmt: skip
    """Gradients of group_norm: two sums a sample and channel, from which all others are made, then one pass."""
    if not x.size:
        for a in (g_weight, g_bias):
            create.full(a, None, 0, None, None)
        return
    compute = compute_dtype(x.dtype)
    x, g, out = (_grouped(a, num_groups) for a in (x, g, out))
    stats = [_as_rows(a, x.shape, 2) for a in (mean, rstd)]
    sums = [empty(x.shape[:3], compute, x.device) for _ in range(2)]
    reduce(sums, [x, g, *stats], range(3, x.ndim), _SUMS, [compute] * 4)
    reduce([g_bias, g_weight], sums, (0,), _SUM_BOTH, [compute] * 2)
    of_channels = [] if weight is None else [_of_groups(weight, num_groups, 3)]
    means = [empty(mean.shape, compute, x.device) for _ in range(2)]
    reduce(means, [*sums, *of_channels], (2,), _WEIGHTED_MEANS if of_channels else _MEANS,
           [compute] * (2 + len(of_channels)), float(x.size // mean.size))  # fmt: skip
    weights = [1.0 if weight is None else _of_groups(weight, num_groups, x.ndim)]
    means = [_as_rows(a, x.shape, 2) for a in means]
    _apply(_normalized_grad, out, [g, x, *stats, *weights, *means], compute)
