"""The fused optimizer updates on NumPy arrays: one call steps every parameter of a group.

State lives in one flat buffer per quantity; parameter ``i`` owns ``[offsets[i], offsets[i] + params[i].size)`` of it.
The update runs in spans of ``SPAN`` elements whose operands and scratch stay in the L2 cache, with ``out=`` everywhere.
Small parameters that are neighbours in the flat buffer are gathered into one span, because ten ufunc calls on
128 elements cost their overhead only. Formula and order of operations are PyTorch's, so losses follow it to rounding.
Half types compute in float32 and round once, when the span is written back.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

#: Elements a span: 32768 float32 of parameter, gradient, two states and two scratch rows are 768 KiB, within L2.
SPAN = 32768
#: Parameters below this size are gathered with their neighbours: above it, the copies cost more than the calls.
SMALL = 4096

#: Slices of the flat state start at multiples of this many elements: 64 bytes of float32, for aligned vector loads.
ALIGN = 16

_WIDE = (np.dtype(np.float32), np.dtype(np.float64))
_local = threading.local()


class _Span(NamedTuple):
    """Elements ``[lo, hi)`` of the flat state. ``members``: (parameter, start in it, start in the span, size)."""

    lo: int
    hi: int
    members: tuple[tuple[int, int, int, int], ...]
    gather: bool


@lru_cache(maxsize=256)
def _plan(sizes: tuple[int, ...], offsets: tuple[int, ...], gather: bool) -> tuple[_Span, ...]:
    """Cut the parameters into spans; neighbours below SMALL elements share one."""
    spans: list[_Span] = []
    group: list[tuple[int, int, int, int]] = []
    lo = hi = 0

    def close() -> None:
        if group:
            spans.append(_Span(lo, hi, tuple(group), True))
            group.clear()

    for i, (size, offset) in enumerate(zip(sizes, offsets, strict=True)):
        if size == 0:
            continue
        if not gather or size >= SMALL:
            close()
            for start in range(0, size, SPAN):
                n = min(SPAN, size - start)
                spans.append(_Span(offset + start, offset + start + n, ((i, start, 0, n),), False))
            continue
        # Joined over alignment padding only: a gap of ALIGN may be the state of a parameter that takes no part.
        if not group or not 0 <= offset - hi < ALIGN or offset + size - lo > SPAN:
            close()
            lo = offset
        group.append((i, 0, offset - lo, size))
        hi = offset + size
    close()
    return tuple(spans)


def _scratch(dtype: np.dtype[Any], rows: int) -> list[Array]:
    """Rows of SPAN elements, kept by the thread between steps."""
    pool: dict[np.dtype[Any], list[Array]] = _local.__dict__.setdefault("rows", {})
    kept = pool.setdefault(dtype, [])
    while len(kept) < rows:
        kept.append(np.zeros(SPAN, dtype))
    return kept


def _flatten(arrays: Sequence[Array]) -> tuple[list[Array], list[int]]:
    """The arrays as 1-D, and the positions of those that had to be copied because they are not contiguous."""
    flat = [a.reshape(-1) for a in arrays]
    return flat, [i for i, a in enumerate(arrays) if not a.flags.c_contiguous]


def _write_back(params: Sequence[Array], flat: list[Array], copied: list[int]) -> None:
    for i in copied:
        params[i][...] = flat[i].reshape(params[i].shape)


def adam_(
    params: Sequence[Array],
    grads: Sequence[Array],
    exp_avg: Array,
    exp_avg_sq: Array,
    max_exp_avg_sq: Array | None,
    step: Array,
    lr: float | Array,
    found_inf: Array | None = None,
    *,
    offsets: tuple[int, ...],
    index: tuple[int, ...],
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled_weight_decay: bool,
    maximize: bool,
) -> None:
    """p <- p - lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps), in place, for every parameter in one call.

    m <- m + (1 - b1) (g - m); v <- b2 v + (1 - b2) g^2; with ``max_exp_avg_sq`` (AMSGrad) v is its running maximum.
    ``decoupled_weight_decay`` (AdamW): p <- (1 - lr wd) p first; otherwise g <- g + wd p. ``maximize``: g <- -g.

    params, grads: arrays of any shape, one dtype. exp_avg, exp_avg_sq, max_exp_avg_sq: flat buffers of that dtype,
    parameter i at offsets[i]. step: float32 (n,), the counts already made, raised here; parameter i has step[index[i]].
    found_inf: a number; where it is not 0, nothing is changed.
    Kingma & Ba 2015, algorithm 1; Loshchilov & Hutter 2019, algorithm 2; Reddi et al. 2018 (AMSGrad).
    """
    if not params or (found_inf is not None and found_inf):
        return
    where = list(index)
    step[where] += 1
    counts = step[where]
    first = counts[0]
    if not (counts == first).all():  # parameters whose gradients began at different steps: one call a count
        step[where] -= 1
        for count in np.unique(counts):
            part = [i for i in range(len(params)) if counts[i] == count]
            adam_(
                [params[i] for i in part], [grads[i] for i in part], exp_avg, exp_avg_sq, max_exp_avg_sq, step, lr,
                offsets=tuple(offsets[i] for i in part), index=tuple(index[i] for i in part), beta1=beta1, beta2=beta2,
                eps=eps, weight_decay=weight_decay, decoupled_weight_decay=decoupled_weight_decay, maximize=maximize,
            )  # fmt: skip
        return

    rate, t = float(lr), float(first)
    step_size = rate / (1 - beta1**t)
    correction = (1 - beta2**t) ** 0.5
    decay = 1 - rate * weight_decay if weight_decay and decoupled_weight_decay else None
    penalty = weight_decay if weight_decay and not decoupled_weight_decay else None
    stored = exp_avg.dtype
    wide = stored in _WIDE
    compute = stored if wide else np.dtype(np.float32)
    row_p, row_g, row_t, row_d, row_m, row_v, row_x = _scratch(compute, 7)
    flat_p, copied = _flatten(params)
    flat_g, _ = _flatten(grads)
    multiply, subtract, add = np.multiply, np.subtract, np.add

    for lo, hi, members, gather in _plan(tuple(p.size for p in params), offsets, True):
        n = hi - lo
        temp, denom = row_t[:n], row_d[:n]
        if gather:
            p, g = row_p[:n], row_g[:n]
            if len(members) > 1:
                p.fill(0)  # the padding between slices must hold numbers: it passes through the same arithmetic
                g.fill(0)
            for i, _, at, size in members:
                p[at : at + size] = flat_p[i]
                g[at : at + size] = flat_g[i]
        else:
            i, start, _, size = members[0]
            p, g = flat_p[i][start : start + size], flat_g[i][start : start + size]
            if not wide:
                row_p[:n], row_g[:n] = p, g
                p, g = row_p[:n], row_g[:n]
        m, v = exp_avg[lo:hi], exp_avg_sq[lo:hi]
        if not wide:
            row_m[:n], row_v[:n] = m, v
            m, v = row_m[:n], row_v[:n]

        if maximize:
            g = np.negative(g, row_g[:n])
        if decay is not None:
            multiply(p, decay, p)
        if penalty is not None:
            multiply(p, penalty, temp)
            g = add(g, temp, row_g[:n])
        subtract(g, m, temp)
        multiply(temp, 1 - beta1, temp)
        add(m, temp, m)
        multiply(v, beta2, v)
        multiply(g, 1 - beta2, temp)
        multiply(temp, g, temp)
        add(v, temp, v)
        if max_exp_avg_sq is None:
            np.sqrt(v, denom)
        else:
            x = max_exp_avg_sq[lo:hi]
            if not wide:
                row_x[:n] = x
                x = row_x[:n]
            np.maximum(x, v, out=x)
            if not wide:
                max_exp_avg_sq[lo:hi] = x
            np.sqrt(x, denom)
        np.divide(denom, correction, denom)
        add(denom, eps, denom)
        multiply(m, step_size, temp)
        np.divide(temp, denom, temp)
        subtract(p, temp, p)

        if not wide:
            exp_avg[lo:hi], exp_avg_sq[lo:hi] = m, v
        if gather or not wide:
            for i, start, at, size in members:
                flat_p[i][start : start + size] = p[at : at + size]
    _write_back(params, flat_p, copied)


def sgd_(
    params: Sequence[Array],
    grads: Sequence[Array],
    momentum_buffer: Array | None,
    lr: float | Array,
    found_inf: Array | None = None,
    *,
    offsets: tuple[int, ...],
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
) -> None:
    """p <- p - lr b with b <- momentum b + (1 - dampening) (g + weight_decay p), in place, for every parameter.

    ``nesterov``: p <- p - lr (g + momentum b). ``maximize``: g <- -g. A buffer of zeros with ``dampening=0`` gives
    PyTorch's first step, b = g. params, grads: arrays of any shape, one dtype. momentum_buffer: a flat buffer of that
    dtype, parameter i at offsets[i]; None when momentum is 0. found_inf: a number; where it is not 0, nothing is
    changed. Sutskever et al. 2013.
    """
    if not params or (found_inf is not None and found_inf):
        return
    rate = float(lr)
    stored = params[0].dtype
    wide = stored in _WIDE
    compute = stored if wide else np.dtype(np.float32)
    row_p, row_g, row_t, _, row_m = _scratch(compute, 5)[:5]
    flat_p, copied = _flatten(params)
    flat_g, _ = _flatten(grads)
    sizes = tuple(p.size for p in params)
    gathers = momentum_buffer is not None
    for lo, hi, members, gather in _plan(sizes, offsets if gathers else (0,) * len(sizes), gathers):
        n = hi - lo
        temp = row_t[:n]
        if gather:
            p, g = row_p[:n], row_g[:n]
            if len(members) > 1:
                p.fill(0)
                g.fill(0)
            for i, _, at, size in members:
                p[at : at + size] = flat_p[i]
                g[at : at + size] = flat_g[i]
        else:
            i, start, _, size = members[0]
            p, g = flat_p[i][start : start + size], flat_g[i][start : start + size]
            if not wide:
                row_p[:n], row_g[:n] = p, g
                p, g = row_p[:n], row_g[:n]
        if maximize:
            g = np.negative(g, row_g[:n])
        if weight_decay:
            np.multiply(p, weight_decay, temp)
            g = np.add(g, temp, row_g[:n])
        if momentum_buffer is not None:
            b = momentum_buffer[lo:hi]
            if not wide:
                row_m[:n] = b
                b = row_m[:n]
            np.multiply(b, momentum, b)
            if dampening:
                np.multiply(g, 1 - dampening, temp)
                np.add(b, temp, b)
            else:
                np.add(b, g, b)
            if not wide:
                momentum_buffer[lo:hi] = b
            if nesterov:
                np.multiply(b, momentum, temp)
                g = np.add(g, temp, row_g[:n])
            else:
                g = b
        np.multiply(g, rate, temp)
        np.subtract(p, temp, p)
        if gather or not wide:
            for i, start, at, size in members:
                flat_p[i][start : start + size] = p[at : at + size]
    _write_back(params, flat_p, copied)


def amp_unscale_(grads: Sequence[Array], found_inf: Array, scale: Array) -> None:
    """grads <- grads / scale, in place; found_inf <- 1 where one of them is infinite or NaN. Scale: float32."""
    inverse = np.float32(1 / np.float64(scale))
    for g in grads:
        wide = g if g.dtype in _WIDE else g.astype(np.float32)
        if not np.isfinite(wide).all():
            found_inf[...] = 1
        if wide is g:
            np.multiply(g, inverse, out=g)
        else:
            g[...] = wide * inverse


def amp_update_scale_(
    scale: Array, growth_tracker: Array, found_inf: Array, *, growth_factor: float, backoff_factor: float,
    growth_interval: int,
) -> None:  # fmt: skip
    """The scale times ``backoff_factor`` after an infinity, times ``growth_factor`` after so many steps without.

    In place: growth_tracker, int32, counts those steps. The scale stays where it would grow to infinity.
    """
    if found_inf:
        scale[...] = float(scale) * backoff_factor
        growth_tracker[...] = 0
        return
    growth_tracker += 1
    if growth_tracker == growth_interval:
        grown = np.float32(float(scale) * growth_factor)
        if np.isfinite(grown):
            scale[...] = grown
        growth_tracker[...] = 0
