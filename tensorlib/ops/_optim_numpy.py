"""The fused optimizer updates on NumPy arrays: one call steps every parameter of a group.

State lives in one flat buffer per quantity; parameter ``i`` owns ``[offsets[i], offsets[i] + params[i].size)`` of it.
The update runs in spans of ``SPAN`` elements whose operands and scratch stay in the L2 cache, with ``out=`` everywhere.
Small parameters that are neighbours in the flat buffer are gathered into one span, because ten ufunc calls on
128 elements cost their overhead only. Formula and order of operations are PyTorch's, so losses follow it to rounding.
Half types compute in float32 and round once, when the span is written back.
"""

from __future__ import annotations

import math
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


def _lion(p: Array, g: Array, s: list[Array], rate: float, t: float, n: Any, a: Array, b: Array) -> None:
    """Numbers: beta1, 1 - beta1, beta2, 1 - beta2. State: the running mean."""
    (m,) = s
    np.multiply(m, n[0], a)
    np.multiply(g, n[1], b)
    np.add(a, b, a)
    np.sign(a, a)
    np.multiply(a, rate, a)
    np.subtract(p, a, p)
    np.multiply(m, n[2], m)
    np.multiply(g, n[3], b)
    np.add(m, b, m)


def _mean_square(g: Array, v: Array, n: Any, a: Array) -> None:
    """v <- n0 v + n1 g²."""
    np.multiply(v, n[0], v)
    np.multiply(g, n[1], a)
    np.multiply(a, g, a)
    np.add(v, a, v)


def _rmsprop(centered: bool, momentum: bool) -> Any:
    def rule(p: Array, g: Array, s: list[Array], rate: float, t: float, n: Any, a: Array, b: Array) -> None:
        """Numbers: alpha, 1 - alpha, eps, momentum. States: mean of squares, then momentum's, then of gradients."""
        _mean_square(g, s[0], n, a)
        if centered:
            mean = s[-1]
            np.subtract(g, mean, a)
            np.multiply(a, n[1], a)
            np.add(mean, a, mean)
            np.multiply(mean, mean, a)
            np.subtract(s[0], a, a)
            np.sqrt(a, a)
        else:
            np.sqrt(s[0], a)
        np.add(a, n[2], a)
        if momentum:
            np.divide(g, a, a)
            np.multiply(s[1], n[3], s[1])
            np.add(s[1], a, s[1])
            np.multiply(s[1], rate, a)
        else:
            np.multiply(g, rate, b)
            np.divide(b, a, a)
        np.subtract(p, a, p)

    return rule


def _adagrad(p: Array, g: Array, s: list[Array], rate: float, t: float, n: Any, a: Array, b: Array) -> None:
    """Numbers: lr_decay, eps. State: the sum of squares."""
    np.multiply(g, g, a)
    np.add(s[0], a, s[0])
    np.sqrt(s[0], a)
    np.add(a, n[1], a)
    np.multiply(g, rate / (1 + (t - 1) * n[0]), b)
    np.divide(b, a, a)
    np.subtract(p, a, p)


def _adadelta(p: Array, g: Array, s: list[Array], rate: float, t: float, n: Any, a: Array, b: Array) -> None:
    """Numbers: rho, 1 - rho, eps. States: mean of squares of the gradients, and of the updates."""
    v, u = s
    _mean_square(g, v, n, a)
    np.add(u, n[2], a)
    np.sqrt(a, a)
    np.add(v, n[2], b)
    np.sqrt(b, b)
    np.divide(a, b, a)
    np.multiply(a, g, a)
    _mean_square(a, u, n, b)
    np.multiply(a, rate, a)
    np.subtract(p, a, p)


def _adamax(p: Array, g: Array, s: list[Array], rate: float, t: float, n: Any, a: Array, b: Array) -> None:
    """Numbers: 1 - beta1, beta2, eps, log beta1. States: the running mean, the largest |g| as it decays."""
    m, u = s
    np.subtract(g, m, a)
    np.multiply(a, n[0], a)
    np.add(m, a, m)
    np.abs(g, a)
    np.add(a, n[2], a)
    np.multiply(u, n[1], u)
    np.maximum(u, a, out=u)
    np.multiply(m, rate / -math.expm1(t * n[3]), a)
    np.divide(a, u, a)
    np.subtract(p, a, p)


def _nadam(p: Array, g: Array, s: list[Array], rate: float, t: float, n: Any, a: Array, b: Array) -> None:
    """Numbers: 1 - beta1, beta2, 1 - beta2, eps, beta1, momentum_decay log 0.96, log beta2, the schedule's three."""
    m, v = s
    np.subtract(g, m, a)
    np.multiply(a, n[0], a)
    np.add(m, a, m)
    np.multiply(v, n[1], v)
    np.multiply(g, n[2], a)
    np.multiply(a, g, a)
    np.add(v, a, v)
    np.sqrt(v, a)
    np.divide(a, n[9] ** 0.5, a)
    np.add(a, n[3], a)
    np.multiply(g, rate * n[7], b)
    np.divide(b, a, b)
    np.subtract(p, b, p)
    np.multiply(m, rate * n[8], b)
    np.divide(b, a, b)
    np.subtract(p, b, p)


def _radam(p: Array, g: Array, s: list[Array], rate: float, t: float, n: Any, a: Array, b: Array) -> None:
    """Numbers: 1 - beta1, beta2, 1 - beta2, eps, log beta1, log beta2, 2 / (1 - beta2) - 1, the schedule's two."""
    m, v = s
    np.subtract(g, m, a)
    np.multiply(a, n[0], a)
    np.add(m, a, m)
    np.multiply(v, n[1], v)
    np.multiply(g, n[2], a)
    np.multiply(a, g, a)
    np.add(v, a, v)
    np.multiply(m, rate * n[7] * (n[8] if n[8] > 0 else 1.0), a)
    if n[8] > 0:
        np.sqrt(v, b)
        np.add(b, n[3], b)
        np.divide(a, b, a)
    np.subtract(p, a, p)


def _asgd(p: Array, g: Array, s: list[Array], rate: float, t: float, n: Any, a: Array, b: Array) -> None:
    """Numbers: lambd, alpha, t0, the schedule's three. State: the mean of the parameters."""
    np.multiply(p, n[3], p)
    np.multiply(g, n[4], a)
    np.subtract(p, a, p)
    if n[5] == 1:
        np.copyto(s[0], p)
    else:
        np.subtract(p, s[0], a)
        np.multiply(a, n[5], a)
        np.add(s[0], a, s[0])


def _rprop(p: Array, g: Array, s: list[Array], rate: float, t: float, n: Any, a: Array, b: Array) -> None:
    """Numbers: the two factors, the smallest and the largest step. States: the last gradient, the steps."""
    previous, size = s
    np.multiply(g, previous, a)
    flipped = a < 0
    np.copyto(b, 1)
    np.copyto(b, n[1], where=a > 0)
    np.copyto(b, n[0], where=flipped)
    np.multiply(size, b, size)
    np.clip(size, n[2], n[3], out=size)
    np.copyto(previous, g)
    np.copyto(previous, 0, where=flipped)
    np.sign(previous, a)
    np.multiply(a, size, a)
    np.subtract(p, a, p)


def _nadam_schedule(t: float, own: Sequence[Any], rate: float, n: Any) -> tuple[tuple[Any, ...], tuple[float, ...]]:
    """Own: the product of all mu. Derived: what the gradient and the mean are multiplied by, 1 - beta2^t."""
    mu, after = (n[4] * (1 - 0.5 * math.exp(k * n[5])) for k in (t, t + 1))
    product = own[0] * own[0].dtype.type(mu)
    known = float(product)
    return (product,), ((1 - mu) / (1 - known), after / (1 - known * after), 1 - n[1] ** t)  # PyTorch's rounding


def _radam_schedule(t: float, own: Sequence[Any], rate: float, n: Any) -> tuple[tuple[Any, ...], tuple[float, ...]]:
    """Derived: 1 / (1 - beta1^t), and the rectified step, 0 where the variance is not known yet."""
    known, limit = 1 - n[1] ** t, n[6]
    length = limit - 2 * t * n[1] ** t / known
    factor = 0.0
    if length > 5:
        rectified = (length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)
        factor = math.sqrt(rectified * known)
    return (), (1 / (1 - (1 - n[0]) ** t), factor)


def _asgd_schedule(t: float, own: Sequence[Any], rate: float, n: Any) -> tuple[tuple[Any, ...], tuple[float, ...]]:
    """Own: eta and mu of the next step. Derived: the decay and those of this one."""
    eta, mu = float(own[0]), float(own[1])
    # In float32 whatever the state's dtype is, as PyTorch has them.
    following = np.float32(rate / (1 + n[0] * rate * t) ** n[1]), np.float32(1 / max(1.0, t - n[2]))
    return following, (1 - n[0] * eta, eta, mu)


#: Rules whose step depends on numbers of each parameter: (step, own, rate, numbers) -> (own, more numbers of the rule).
SCHEDULES: dict[str, Any] = {"nadam": _nadam_schedule, "radam": _radam_schedule, "asgd": _asgd_schedule}

#: (p, g, states, rate, step, numbers, two rows of scratch): each changes p and the states in place.
RULES: dict[str, Any] = {
    "nadam": _nadam, "radam": _radam, "asgd": _asgd, "rprop": _rprop,
    "lion": _lion, "adagrad": _adagrad, "adadelta": _adadelta, "adamax": _adamax,
    "rmsprop": _rmsprop(False, False), "rmsprop_centered": _rmsprop(True, False),
    "rmsprop_momentum": _rmsprop(False, True), "rmsprop_momentum_centered": _rmsprop(True, True),
}  # fmt: skip


def fused_(
    params: Sequence[Array], grads: Sequence[Array], states: Sequence[Array], step: Array | None, own: Array | None,
    lr: float | Array, found_inf: Array | None = None, *, offsets: tuple[int, ...], index: tuple[int, ...], rule: str,
    numbers: tuple[float, ...], weight_decay: float, decoupled_weight_decay: bool, maximize: bool,
) -> None:  # fmt: skip
    """One step of a rule of ``RULES`` for every parameter in one call, in place; layout and options as ``adam_``'s.

    own: (k, n), the numbers that each parameter has beside its count, changed by the rule of ``SCHEDULES``.
    """
    if not params or (found_inf is not None and found_inf):
        return
    rate, t = float(lr), 0.0
    options: dict[str, Any] = {"rule": rule, "numbers": numbers, "weight_decay": weight_decay, "maximize": maximize,
               "decoupled_weight_decay": decoupled_weight_decay}  # fmt: skip
    if step is not None:
        where = list(index)
        step[where] += 1
        counts = step[where][None] if own is None else np.concatenate([step[where][None], own[:, where]])
        if not (counts == counts[:, :1]).all():  # one call a count, as in ``adam_``
            step[where] -= 1
            _, which = np.unique(counts, axis=1, return_inverse=True)
            for k in range(which.max() + 1):
                part = np.flatnonzero(which.reshape(-1) == k).tolist()
                fused_(
                    [params[i] for i in part], [grads[i] for i in part], states, step, own, lr,
                    offsets=tuple(offsets[i] for i in part), index=tuple(index[i] for i in part), **options,
                )  # fmt: skip
            return
        t = float(counts[0, 0])
        schedule = SCHEDULES.get(rule)
        if schedule is not None:
            following, derived = schedule(t, counts[1:, 0], rate, numbers)
            numbers = (*numbers, *derived)
            if own is not None:
                own[:, where] = np.array(following, own.dtype)[:, None]
    update = RULES[rule]
    stored = states[0].dtype
    wide = stored in _WIDE
    row_p, row_g, row_a, row_b, *rows = _scratch(stored if wide else np.dtype(np.float32), 4 + len(states))
    flat_p, copied = _flatten(params)
    flat_g, _ = _flatten(grads)
    for lo, hi, members, gather in _plan(tuple(p.size for p in params), offsets, True):
        n = hi - lo
        if gather:
            p, g = row_p[:n], row_g[:n]
            if len(members) > 1:
                p.fill(0)  # as in ``adam_``
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
        held = [s[lo:hi] for s in states]
        if not wide:
            for row, s in zip(rows, held, strict=False):
                row[:n] = s
            held = [row[:n] for row in rows[: len(states)]]
        if maximize:
            g = np.negative(g, row_g[:n])
        if weight_decay and decoupled_weight_decay:
            np.multiply(p, 1 - rate * weight_decay, p)
        elif weight_decay:
            np.multiply(p, weight_decay, row_a[:n])
            g = np.add(g, row_a[:n], row_g[:n])
        update(p, g, held, rate, t, numbers, row_a[:n], row_b[:n])
        if not wide:
            for s, made in zip(states, held, strict=True):
                s[lo:hi] = made
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


def norm(tensors: Sequence[Array], norm_type: float) -> Array:
    """(Σ |x|^p)^(1/p) over all elements of all tensors, in float32 or wider; ``inf``: the largest |x|."""
    parts = []
    for x in tensors:
        if not x.size:
            continue
        flat = x.reshape(-1)
        flat = flat if x.dtype in _WIDE else flat.astype(np.float32)
        if norm_type == 2:
            parts.append(np.dot(flat, flat))
        elif norm_type == np.inf:
            parts.append(np.abs(flat).max())
        else:
            parts.append(np.add.reduce(np.abs(flat) if norm_type == 1 else np.power(np.abs(flat), norm_type)))
    every = np.array(parts or [0], np.float64)
    if norm_type == np.inf:
        return np.asarray(every.max())
    total = np.add.reduce(every)
    return np.asarray(total if norm_type == 1 else np.sqrt(total) if norm_type == 2 else total ** (1 / norm_type))


def clip_(grads: Sequence[Array], norm: Array, *, max_norm: float) -> None:
    """grads <- grads min(1, max_norm / (norm + 1e-6)), in place; nothing is touched where that is 1."""
    factor = max_norm / (float(norm) + 1e-6)
    if factor >= 1:
        return
    for g in grads:
        if g.dtype in _WIDE:
            np.multiply(g, g.dtype.type(factor), out=g)
        else:
            g[...] = g.astype(np.float32) * np.float32(factor)


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
