"""Fused optimizer updates: every parameter of a group in one launch, through a table of addresses.

A program owns BLOCK elements of one parameter. Table row ``i``: (address of parameter i, of its gradient, start of its
slice in the flat state, its size, its position among the step counts). Adam reads p, g, m, v and writes p, m, v: 28
bytes a float32 parameter.

The tables stay on the device while the addresses are the same, as they are in most steps: an allocator that caches
gives new gradients the memory of those that were dropped. Loss scaling asks nothing of the host either: where its flag
says that a gradient is infinite, every program finds its elements masked.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._array import DeviceArray, empty, is_contiguous
from tensorlib.kernels import pointwise
from tensorlib.kernels.tables import Places, Tables
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import cdiv, launch

if TYPE_CHECKING:
    import triton.language as tl
    from triton.language.extra import libdevice

BLOCK = 1024


@jit
def _live(mask, found_inf, CHECKED: tl.constexpr):
    """The mask; of nothing where the flag of loss scaling says that a gradient is infinite."""
    if CHECKED:
        mask = mask & (tl.load(found_inf) == 0)
    return mask


# One program raises BLOCK of the counts that take part by one.
@jit
def count_kernel(step, stride_step, index, found_inf, n, CHECKED: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = _live(i < n, found_inf, CHECKED)
    at = tl.load(index + i, mask=mask, other=0) * stride_step
    tl.store(step + at, tl.load(step + at, mask=mask, other=0.0) + 1.0, mask=mask)


# The same for rules whose step depends on numbers of each parameter: one program advances BLOCK of those taking part.
# RULE: (step, own numbers, rate, numbers) -> (own numbers, what the elements of this step need), all in float64, for a
# few parameters: one minus a power loses its digits in float32. `ops._optim_numpy.SCHEDULES` has each in NumPy.
@jit
def schedule_kernel(
    step, own, derived, stride_step, stride_own, stride_derived, index, lr, found_inf, numbers, n,
    RULE: tl.constexpr, OWN: tl.constexpr, LR_IS_ARRAY: tl.constexpr, CHECKED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = _live(i < n, found_inf, CHECKED)
    at = tl.load(index + i, mask=mask, other=0)
    t = tl.load(step + at * stride_step, mask=mask, other=0.0) + 1.0
    values = ()
    for k in tl.static_range(OWN):
        values = values + (tl.load(own + k * stride_own + at, mask=mask, other=0.0).to(tl.float64),)
    made = RULE(t.to(tl.float64), values, _rate(lr, LR_IS_ARRAY, tl.float64), numbers)
    tl.store(step + at * stride_step, t, mask=mask)
    for k in tl.static_range(OWN):
        tl.store(own + k * stride_own + at, made[k].to(own.dtype.element_ty), mask=mask)
    for k in tl.static_range(OWN, len(made)):
        to = derived + (k - OWN) * stride_derived + at
        tl.store(to, made[k].to(derived.dtype.element_ty), mask=mask)


@jit
def _nadam_schedule(t, own, rate, numbers):
    mu = numbers[4] * (1.0 - 0.5 * tl.exp(t * numbers[5]))
    after = numbers[4] * (1.0 - 0.5 * tl.exp((t + 1.0) * numbers[5]))
    product = own[0] * mu
    known = -libdevice.expm1(t * numbers[6])
    return product, (1.0 - mu) / (1.0 - product), after / (1.0 - product * after), known


@jit
def _radam_schedule(t, own, rate, numbers):
    known = -libdevice.expm1(t * numbers[5])
    limit = numbers[6]
    length = limit - 2.0 * t * (1.0 - known) / known
    shorter = tl.maximum(length, 5.0)
    rectified = (shorter - 4.0) * (shorter - 2.0) * limit / ((limit - 4.0) * (limit - 2.0) * shorter)
    return -1.0 / libdevice.expm1(t * numbers[4]), tl.where(length > 5.0, tl.sqrt(rectified * known), 0.0)


@jit
def _asgd_schedule(t, own, rate, numbers):
    eta = rate / tl.exp(numbers[1] * tl.log(1.0 + numbers[0] * rate * t))
    mu = 1.0 / tl.maximum(1.0, t - numbers[2])
    return eta.to(tl.float32), mu.to(tl.float32), 1.0 - numbers[0] * own[0], own[0], own[1]


#: Rule -> (function, how many numbers of its own a parameter has, how many more its elements get).
SCHEDULES = {"nadam": (_nadam_schedule, 1, 3), "radam": (_radam_schedule, 0, 2), "asgd": (_asgd_schedule, 2, 3)}


@jit
def _block(table, blocks, BLOCK: tl.constexpr):
    """(table row, first element within the parameter, elements that are left of it) of this program."""
    b = tl.program_id(0)
    row = table + 5 * tl.load(blocks + 2 * b)
    start = tl.load(blocks + 2 * b + 1) * BLOCK
    return row, start, tl.load(row + 3) - start


# Where a program's elements begin: ``start`` of the parameter (WHICH 0) or its gradient (1). ALIGNED says what the
# compiler cannot see: addresses that come from a table are multiples of 16 bytes, so that loads may be as wide.
@jit
def _begin(row, start, like, WHICH: tl.constexpr, ALIGNED: tl.constexpr):
    at = tl.load(row + WHICH).to(tl.pointer_type(like.dtype.element_ty)) + start
    if ALIGNED:
        at = tl.multiple_of(at, 16)
    return at


# The first of a program's elements in the flat state.
@jit
def _in_state(row, start, ALIGNED: tl.constexpr):
    at = tl.load(row + 2) + start
    if ALIGNED:
        at = tl.multiple_of(at, 16)
    return at


# Which of a block's elements a program owns. All of them but in a parameter's last block, and then the mask is one flag
# for all, which leaves loads and stores wide.
@jit
def _inside(found_inf, left, FULL: tl.constexpr, CHECKED: tl.constexpr, BLOCK: tl.constexpr):
    if FULL:
        mask = tl.full((BLOCK,), 1, tl.int1)
    else:
        mask = tl.arange(0, BLOCK) < left
    return _live(mask, found_inf, CHECKED)


@jit
def _rate(lr, LR_IS_ARRAY: tl.constexpr, COMPUTE: tl.constexpr):
    if LR_IS_ARRAY:
        rate = tl.load(lr).to(COMPUTE)
    else:
        rate = tl.cast(lr, COMPUTE)
    return rate


@jit
def _adam(
    p_at, g_at, at, mask, exp_avg, exp_avg_sq, max_exp_avg_sq, t, stride_m, stride_v, stride_x, rate, beta2, rest1,
    rest2, log1, log2, eps, weight_decay,
    AMSGRAD: tl.constexpr, DECOUPLED: tl.constexpr, MAXIMIZE: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    lane = tl.arange(0, BLOCK)
    stored: tl.constexpr = exp_avg.dtype.element_ty
    # 1 - beta and log(beta) come from the host, in float64: in float32 they would lose four digits. t counts from 1.
    correction1 = -libdevice.expm1(t * log1)
    inverse2 = 1.0 / tl.sqrt(-libdevice.expm1(t * log2))  # a product an element is less than a division
    p = tl.load(p_at + lane, mask=mask, other=0.0).to(COMPUTE)
    g = tl.load(g_at + lane, mask=mask, other=0.0).to(COMPUTE)
    m_at = exp_avg + at * stride_m + lane * stride_m
    v_at = exp_avg_sq + at * stride_v + lane * stride_v
    m = tl.load(m_at, mask=mask, other=0.0).to(COMPUTE)
    v = tl.load(v_at, mask=mask, other=0.0).to(COMPUTE)
    if MAXIMIZE:
        g = -g
    if DECOUPLED:
        p = p * (1.0 - rate * weight_decay)
    else:
        g = g + weight_decay * p
    m = m + rest1 * (g - m)
    v = beta2 * v + rest2 * g * g
    second = v
    if AMSGRAD:
        x_at = max_exp_avg_sq + at * stride_x + lane * stride_x
        highest = tl.load(x_at, mask=mask, other=0.0).to(COMPUTE)
        second = tl.maximum(highest, v, propagate_nan=tl.PropagateNan.ALL)
        tl.store(x_at, second.to(stored), mask=mask)
    p = p - (rate / correction1) * m / (tl.sqrt(second) * inverse2 + eps)
    tl.store(m_at, m.to(stored), mask=mask)
    tl.store(v_at, v.to(stored), mask=mask)
    tl.store(p_at + lane, p.to(stored), mask=mask)


# One program owns BLOCK elements of one parameter: it reads them, their gradient and m and v, and writes all but the
# gradient. Kingma & Ba 2015; Loshchilov & Hutter 2019.
@jit
def adam_kernel(
    table, blocks, exp_avg, exp_avg_sq, max_exp_avg_sq, step, stride_m, stride_v, stride_x, stride_step,
    lr, found_inf, beta2, rest1, rest2, log1, log2, eps, weight_decay,
    AMSGRAD: tl.constexpr, DECOUPLED: tl.constexpr, MAXIMIZE: tl.constexpr, LR_IS_ARRAY: tl.constexpr,
    CHECKED: tl.constexpr, ALIGNED: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, start, left = _block(table, blocks, BLOCK)
    p_at = _begin(row, start, exp_avg, 0, ALIGNED)
    g_at = _begin(row, start, exp_avg, 1, ALIGNED)
    at = _in_state(row, start, ALIGNED)
    t = tl.load(step + tl.load(row + 4) * stride_step)
    rate = _rate(lr, LR_IS_ARRAY, COMPUTE)
    if left >= BLOCK:
        _adam(p_at, g_at, at, _inside(found_inf, left, True, CHECKED, BLOCK), exp_avg, exp_avg_sq, max_exp_avg_sq, t,
              stride_m, stride_v, stride_x, rate, beta2, rest1, rest2, log1, log2, eps, weight_decay,
              AMSGRAD, DECOUPLED, MAXIMIZE, COMPUTE, BLOCK)  # fmt: skip
    else:
        _adam(p_at, g_at, at, _inside(found_inf, left, False, CHECKED, BLOCK), exp_avg, exp_avg_sq, max_exp_avg_sq, t,
              stride_m, stride_v, stride_x, rate, beta2, rest1, rest2, log1, log2, eps, weight_decay,
              AMSGRAD, DECOUPLED, MAXIMIZE, COMPUTE, BLOCK)  # fmt: skip


@jit
def _sgd(
    p_at, g_at, b_at, stride_b, mask, rate, momentum, dampening, weight_decay, stored: tl.constexpr,
    MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr, MAXIMIZE: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    lane = tl.arange(0, BLOCK)
    p = tl.load(p_at + lane, mask=mask, other=0.0).to(COMPUTE)
    g = tl.load(g_at + lane, mask=mask, other=0.0).to(COMPUTE)
    if MAXIMIZE:
        g = -g
    g = g + weight_decay * p
    if MOMENTUM:
        b = momentum * tl.load(b_at + lane * stride_b, mask=mask, other=0.0).to(COMPUTE) + (1.0 - dampening) * g
        tl.store(b_at + lane * stride_b, b.to(stored), mask=mask)
        if NESTEROV:
            g = g + momentum * b
        else:
            g = b
    tl.store(p_at + lane, (p - rate * g).to(stored), mask=mask)


# One program owns BLOCK elements of one parameter: reads them, their gradient and with momentum the buffer, and writes
# all but the gradient.
@jit
def sgd_kernel(
    table, blocks, like, buffer, stride_b, lr, found_inf, momentum, dampening, weight_decay,
    MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr, MAXIMIZE: tl.constexpr, LR_IS_ARRAY: tl.constexpr,
    CHECKED: tl.constexpr, ALIGNED: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, start, left = _block(table, blocks, BLOCK)
    p_at = _begin(row, start, like, 0, ALIGNED)
    g_at = _begin(row, start, like, 1, ALIGNED)
    b_at = p_at
    if MOMENTUM:
        b_at = buffer + _in_state(row, start, ALIGNED) * stride_b
    rate = _rate(lr, LR_IS_ARRAY, COMPUTE)
    stored: tl.constexpr = like.dtype.element_ty
    if left >= BLOCK:
        _sgd(p_at, g_at, b_at, stride_b, _inside(found_inf, left, True, CHECKED, BLOCK), rate, momentum, dampening,
             weight_decay, stored, MOMENTUM, NESTEROV, MAXIMIZE, COMPUTE, BLOCK)  # fmt: skip
    else:
        _sgd(p_at, g_at, b_at, stride_b, _inside(found_inf, left, False, CHECKED, BLOCK), rate, momentum, dampening,
             weight_decay, stored, MOMENTUM, NESTEROV, MAXIMIZE, COMPUTE, BLOCK)  # fmt: skip


# The rules of ``fused_kernel``: (p, g, states, rate, step, numbers) -> (p, *states), all in the computation's dtype.
# ``ops._optim_numpy.RULES`` has each in NumPy, and says what the numbers are.


@jit
def _lion(p, g, states, rate, t, numbers):
    m = states[0]
    u = numbers[0] * m + numbers[1] * g
    step = tl.where(u > 0, rate, tl.where(u < 0, -rate, 0.0))
    return p - step, numbers[2] * m + numbers[3] * g


@jit
def _rms(g, v, numbers):
    return numbers[0] * v + numbers[1] * g * g


@jit
def _rmsprop(p, g, states, rate, t, numbers):
    v = _rms(g, states[0], numbers)
    return p - rate * (g / (tl.sqrt(v) + numbers[2])), v


@jit
def _rmsprop_centered(p, g, states, rate, t, numbers):
    v = _rms(g, states[0], numbers)
    mean = states[1] + numbers[1] * (g - states[1])
    return p - rate * (g / (tl.sqrt(v - mean * mean) + numbers[2])), v, mean


@jit
def _rmsprop_momentum(p, g, states, rate, t, numbers):
    v = _rms(g, states[0], numbers)
    b = numbers[3] * states[1] + g / (tl.sqrt(v) + numbers[2])
    return p - rate * b, v, b


@jit
def _rmsprop_momentum_centered(p, g, states, rate, t, numbers):
    v = _rms(g, states[0], numbers)
    mean = states[2] + numbers[1] * (g - states[2])
    b = numbers[3] * states[1] + g / (tl.sqrt(v - mean * mean) + numbers[2])
    return p - rate * b, v, b, mean


@jit
def _adagrad(p, g, states, rate, t, numbers):
    v = states[0] + g * g
    return p - rate / (1.0 + (t - 1.0) * numbers[0]) * (g / (tl.sqrt(v) + numbers[1])), v


@jit
def _adadelta(p, g, states, rate, t, numbers):
    v = _rms(g, states[0], numbers)
    d = tl.sqrt(states[1] + numbers[2]) / tl.sqrt(v + numbers[2]) * g
    return p - rate * d, v, _rms(d, states[1], numbers)


@jit
def _adamax(p, g, states, rate, t, numbers):
    m = states[0] + numbers[0] * (g - states[0])
    u = tl.maximum(numbers[1] * states[1], tl.abs(g) + numbers[2], propagate_nan=tl.PropagateNan.ALL)
    return p - rate / -libdevice.expm1(t * numbers[3]) * (m / u), m, u


# The numbers from 7 (3 for ASGD) on are those that the parameter's schedule made for this step.


@jit
def _nadam(p, g, states, rate, t, numbers):
    m = states[0] + numbers[0] * (g - states[0])
    v = numbers[1] * states[1] + numbers[2] * g * g
    size = tl.sqrt(v / numbers[9]) + numbers[3]
    return p - rate * numbers[7] * (g / size) - rate * numbers[8] * (m / size), m, v


@jit
def _radam(p, g, states, rate, t, numbers):
    m = states[0] + numbers[0] * (g - states[0])
    v = numbers[1] * states[1] + numbers[2] * g * g
    rectified = tl.where(numbers[8] > 0, m * numbers[8] / (tl.sqrt(v) + numbers[3]), m)
    return p - rate * numbers[7] * rectified, m, v


@jit
def _asgd(p, g, states, rate, t, numbers):
    q = p * numbers[3] - numbers[4] * g
    return q, tl.where(numbers[5] == 1.0, q, states[0] + (q - states[0]) * numbers[5])


@jit
def _rprop(p, g, states, rate, t, numbers):
    agreement = g * states[0]
    factor = tl.where(agreement < 0, numbers[0], tl.where(agreement > 0, numbers[1], 1.0))
    size = tl.minimum(tl.maximum(states[1] * factor, numbers[2]), numbers[3])
    g = tl.where(agreement < 0, 0.0, g)
    return p - tl.where(g > 0, size, tl.where(g < 0, -size, g * size)), g, size


RULES = {
    "nadam": _nadam, "radam": _radam, "asgd": _asgd, "rprop": _rprop, "lion": _lion,
    "rmsprop": _rmsprop, "rmsprop_centered": _rmsprop_centered, "rmsprop_momentum": _rmsprop_momentum,
    "rmsprop_momentum_centered": _rmsprop_momentum_centered, "adagrad": _adagrad, "adadelta": _adadelta,
    "adamax": _adamax,
}  # fmt: skip


@jit
def _fused(
    p_at, g_at, at, mask, states, strides, rate, t, weight_decay, numbers, stored: tl.constexpr, RULE: tl.constexpr,
    DECOUPLED: tl.constexpr, MAXIMIZE: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    lane = tl.arange(0, BLOCK)
    p = tl.load(p_at + lane, mask=mask, other=0.0).to(COMPUTE)
    g = tl.load(g_at + lane, mask=mask, other=0.0).to(COMPUTE)
    if MAXIMIZE:
        g = -g
    if DECOUPLED:
        p = p * (1.0 - rate * weight_decay)
    else:
        g = g + weight_decay * p
    values = ()
    for k in tl.static_range(len(states)):
        from_ = states[k] + at * strides[k] + lane * strides[k]
        values = values + (tl.load(from_, mask=mask, other=0.0).to(COMPUTE),)
    made = RULE(p, g, values, rate, t, numbers)
    tl.store(p_at + lane, made[0].to(stored), mask=mask)
    for k in tl.static_range(len(states)):
        tl.store(states[k] + at * strides[k] + lane * strides[k], made[k + 1].to(stored), mask=mask)


# One program owns BLOCK elements of one parameter, whatever the rule: reads them, their gradient and their states, and
# writes all but the gradient.
@jit
def fused_kernel(
    table, blocks, states, strides, step, stride_step, derived, stride_derived, lr, found_inf, weight_decay, numbers,
    DERIVED: tl.constexpr, RULE: tl.constexpr, DECOUPLED: tl.constexpr, MAXIMIZE: tl.constexpr,
    LR_IS_ARRAY: tl.constexpr, CHECKED: tl.constexpr, ALIGNED: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, start, left = _block(table, blocks, BLOCK)
    p_at = _begin(row, start, states[0], 0, ALIGNED)
    g_at = _begin(row, start, states[0], 1, ALIGNED)
    at = _in_state(row, start, ALIGNED)
    rate = _rate(lr, LR_IS_ARRAY, COMPUTE)
    t = rate
    if step is not None:
        t = tl.load(step + tl.load(row + 4) * stride_step).to(COMPUTE)
    for k in tl.static_range(DERIVED):
        numbers = numbers + (tl.load(derived + k * stride_derived + tl.load(row + 4)),)
    stored: tl.constexpr = states[0].dtype.element_ty
    if left >= BLOCK:
        _fused(p_at, g_at, at, _inside(found_inf, left, True, CHECKED, BLOCK), states, strides, rate, t, weight_decay,
               numbers, stored, RULE, DECOUPLED, MAXIMIZE, COMPUTE, BLOCK)  # fmt: skip
    else:
        _fused(p_at, g_at, at, _inside(found_inf, left, False, CHECKED, BLOCK), states, strides, rate, t, weight_decay,
               numbers, stored, RULE, DECOUPLED, MAXIMIZE, COMPUTE, BLOCK)  # fmt: skip


@jit
def _unscale(at, mask, found_inf, inverse, COMPUTE: tl.constexpr, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    g = tl.load(at + lane, mask=mask, other=0.0).to(COMPUTE)
    bad = tl.max((tl.abs(g) < float("inf")).to(tl.int32) ^ 1, 0)
    tl.store(found_inf, 1.0, mask=bad != 0)
    tl.store(at + lane, (g * inverse).to(at.dtype.element_ty), mask=mask)


# A program divides BLOCK elements of one gradient by the scale, and raises the flag where one is infinite or NaN; all
# that raise it write the same. Reads and writes each gradient once.
@jit
def unscale_kernel(
    table, blocks, like, found_inf, scale, ALIGNED: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr
):
    row, start, left = _block(table, blocks, BLOCK)
    at = _begin(row, start, like, 1, ALIGNED)
    inverse = tl.div_rn(1.0, tl.load(scale)).to(COMPUTE)
    if left >= BLOCK:
        _unscale(at, _inside(found_inf, left, True, False, BLOCK), found_inf, inverse, COMPUTE, BLOCK)
    else:
        _unscale(at, _inside(found_inf, left, False, False, BLOCK), found_inf, inverse, COMPUTE, BLOCK)


# One program owns SPAN elements of one gradient and writes what they add to the norm: the largest |g| (KIND 0), Σ |g|
# (1), Σ g² (2), or Σ |g|**order (3). Reads each gradient once.
@jit
def norm_kernel(
    parts, table, blocks, like, order, KIND: tl.constexpr, ALIGNED: tl.constexpr, COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    row, start, left = _block(table, blocks, SPAN)
    at = _begin(row, start, like, 1, ALIGNED)
    lane = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), COMPUTE)
    end = tl.minimum(left, SPAN).to(tl.int32)
    whole = end // BLOCK * BLOCK
    for i in range(0, whole, BLOCK):
        total = _added(total, tl.load(at + i + lane).to(COMPUTE), order, KIND)
    if whole < end:
        total = _added(total, tl.load(at + whole + lane, mask=whole + lane < end, other=0.0).to(COMPUTE), order, KIND)
    tl.store(parts + tl.program_id(0), _joined(total, KIND))


@jit
def _added(total, g, order, KIND: tl.constexpr):
    g = tl.abs(g)
    if KIND == 0:
        total = tl.maximum(total, g, propagate_nan=tl.PropagateNan.ALL)
    elif KIND == 1:
        total += g
    elif KIND == 2:
        total += g * g
    else:
        total += tl.where(g == 0, 0.0, tl.exp2(order * tl.log2(g)))
    return total


@jit
def _joined(total, KIND: tl.constexpr):
    if KIND == 0:  # tl.max would lose a NaN
        bad = tl.max((total != total).to(tl.int32), 0)
        high = tl.max(tl.where(total != total, 0.0, total), 0)
        joined = tl.where(bad != 0, float("nan"), high)
    else:
        joined = tl.sum(total, 0)
    return joined


# The one program joins the parts of all gradients: reads P numbers, writes the norm.
@jit
def norm_sum_kernel(out, parts, P, order, KIND: tl.constexpr, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), parts.dtype.element_ty)
    for i in range(0, P, BLOCK):
        part = tl.load(parts + i + lane, mask=i + lane < P, other=0.0)
        if KIND == 0:
            total = tl.maximum(total, part, propagate_nan=tl.PropagateNan.ALL)
        else:
            total += part
    norm = _joined(total, KIND)
    if KIND == 2:
        norm = tl.sqrt(norm)
    elif KIND == 3:
        norm = tl.where(norm == 0, 0.0, tl.exp2(tl.log2(norm) / order))
    tl.store(out, norm.to(out.dtype.element_ty))


@jit
def _clip(at, mask, factor, COMPUTE: tl.constexpr, BLOCK: tl.constexpr):
    at = at + tl.arange(0, BLOCK)
    g = tl.load(at, mask=mask, other=0.0).to(COMPUTE)
    tl.store(at, (g * factor).to(at.dtype.element_ty), mask=mask)


# A program multiplies BLOCK elements of one gradient by min(1, max_norm / (norm + 1e-6)), the norm read here. Where
# that is 1 it ends there, and nothing is read or written: most steps clip nothing.
@jit
def clip_kernel(
    table, blocks, like, norm, max_norm, ALIGNED: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr
):
    factor = max_norm / (tl.load(norm).to(COMPUTE) + 1e-6)
    if (factor < 1.0) | (factor != factor):
        row, start, left = _block(table, blocks, BLOCK)
        at = _begin(row, start, like, 1, ALIGNED)
        if left >= BLOCK:
            _clip(at, _inside(norm, left, True, False, BLOCK), factor, COMPUTE, BLOCK)
        else:
            _clip(at, _inside(norm, left, False, False, BLOCK), factor, COMPUTE, BLOCK)


# The one program reads and writes three numbers. The factors are float64, as PyTorch multiplies with them.
@jit
def update_scale_kernel(scale, growth_tracker, found_inf, growth_factor, backoff_factor, growth_interval):
    before = tl.load(scale)
    wide = before.to(tl.float64)
    good = tl.load(found_inf) == 0
    count = tl.where(good, tl.load(growth_tracker) + 1, 0)
    grown = (wide * growth_factor).to(tl.float32)
    due = good & (count == growth_interval)
    after = tl.where(due & (grown < float("inf")), grown, before)
    tl.store(scale, tl.where(good, after, (wide * backoff_factor).to(tl.float32)))
    tl.store(growth_tracker, tl.where(due, 0, count))


def _contiguous(arrays: Sequence[DeviceArray]) -> list[DeviceArray]:
    """The arrays, those with gaps as contiguous copies."""
    out = []
    for a in arrays:
        if not is_contiguous(a):
            packed = empty(a.shape, a.dtype, a.device)
            pointwise.copy(packed, a)
            a = packed
        out.append(a)
    return out


#: The tables of a group of parameters, for as long as something of theirs lives: its state, or its first parameter.
_kept: weakref.WeakKeyDictionary[DeviceArray, tuple[Tables, Places]] = weakref.WeakKeyDictionary()


def _tables(
    anchor: DeviceArray, params: Sequence[Any], grads: Sequence[Any], offsets: Sequence[int],
    index: Sequence[int], block: int = BLOCK,
) -> Any:  # fmt: skip
    """(address table, (row, block) of each program, number of programs, ``index``, whether all is aligned).

    The first two and ``index`` are on the device. Aligned: every address to 16 bytes, and every offset to 16 elements.
    """
    found = _kept.get(anchor)
    if found is None:
        found = _kept[anchor] = Tables(entries=16), Places()
    shapes, places = found
    device = params[0].device
    sizes = tuple([p.size for p in params])
    addresses = tuple([p.ptr for p in params]), tuple([g.ptr for g in grads])
    offsets, index = tuple(offsets), tuple(index)

    def rows() -> np.ndarray:
        return np.array([*addresses, offsets, sizes, index], np.int64).T

    def programs() -> list[np.ndarray]:
        counts = [cdiv(size, block) for size in sizes]
        which = np.repeat(np.arange(len(counts)), counts)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        return [np.stack([which, np.arange(len(which)) - first], 1).astype(np.int64), np.array(index, np.int64)]

    blocks, where = shapes.get((sizes, index, block), device, programs)
    table = places.get((addresses, offsets, sizes, index), device, (len(sizes), 5), rows)
    aligned = functools.reduce(operator.or_, itertools.chain(*addresses, offsets), 0) % 16 == 0
    return table, blocks, blocks.shape[0], where, aligned


def _write_back(params: Sequence[DeviceArray], packed: Sequence[DeviceArray]) -> None:
    for p, q in zip(params, packed, strict=True):
        if p is not q:
            pointwise.copy(p, q)


def adam(
    params: Sequence[DeviceArray], grads: Sequence[DeviceArray], exp_avg: DeviceArray, exp_avg_sq: DeviceArray,
    max_exp_avg_sq: Any, step: DeviceArray, lr: Any, found_inf: DeviceArray | None, *, offsets: Sequence[int],
    index: Sequence[int], beta1: float, beta2: float, eps: float, weight_decay: float, decoupled_weight_decay: bool,
    maximize: bool,
) -> None:  # fmt: skip
    """The Adam update of ``ops.optim.adam_``, in place."""
    if not params:
        return
    # The table holds addresses only: these names keep what it points at alive until the launch.
    packed, packed_grads = _contiguous(params), _contiguous(grads)
    table, blocks, programs, where, aligned = _tables(exp_avg, packed, packed_grads, offsets, index)
    checked = found_inf is not None
    launch(
        count_kernel, (cdiv(len(index), BLOCK),), step, step.strides[0], where, found_inf, len(index), CHECKED=checked,
        BLOCK=BLOCK,
    )  # fmt: skip
    number, compute = _precision(exp_avg.dtype)
    launch(
        adam_kernel, (programs,), table, blocks, exp_avg, exp_avg_sq, max_exp_avg_sq, step,
        exp_avg.strides[0], exp_avg_sq.strides[0], max_exp_avg_sq.strides[0] if max_exp_avg_sq is not None else 0,
        step.strides[0], lr if isinstance(lr, DeviceArray) else number(lr), found_inf, number(beta2),
        number(1 - beta1), number(1 - beta2), number(_log(beta1)), number(_log(beta2)), number(eps),
        number(weight_decay), AMSGRAD=max_exp_avg_sq is not None, DECOUPLED=bool(decoupled_weight_decay),
        MAXIMIZE=bool(maximize), LR_IS_ARRAY=isinstance(lr, DeviceArray), CHECKED=checked, ALIGNED=aligned,
        COMPUTE=compute, BLOCK=BLOCK,
    )  # fmt: skip
    _write_back(params, packed)


def sgd(
    params: Sequence[DeviceArray], grads: Sequence[DeviceArray], momentum_buffer: Any, lr: Any,
    found_inf: DeviceArray | None, *, offsets: Sequence[int], momentum: float, dampening: float, weight_decay: float,
    nesterov: bool, maximize: bool,
) -> None:  # fmt: skip
    """The SGD update of ``ops.optim.sgd_``, in place."""
    if not params:
        return
    packed, packed_grads = _contiguous(params), _contiguous(grads)
    anchor = params[0] if momentum_buffer is None else momentum_buffer
    table, blocks, programs, _, aligned = _tables(anchor, packed, packed_grads, offsets, (0,) * len(params))
    number, compute = _precision(params[0].dtype)
    launch(
        sgd_kernel, (programs,), table, blocks, packed[0], momentum_buffer,
        momentum_buffer.strides[0] if momentum_buffer is not None else 0,
        lr if isinstance(lr, DeviceArray) else number(lr), found_inf, number(momentum), number(dampening),
        number(weight_decay), MOMENTUM=momentum_buffer is not None, NESTEROV=bool(nesterov), MAXIMIZE=bool(maximize),
        LR_IS_ARRAY=isinstance(lr, DeviceArray), CHECKED=found_inf is not None, ALIGNED=aligned, COMPUTE=compute,
        BLOCK=BLOCK,
    )  # fmt: skip
    _write_back(params, packed)


def fused(
    params: Sequence[DeviceArray], grads: Sequence[DeviceArray], states: Sequence[DeviceArray], step: Any, own: Any,
    lr: Any, found_inf: DeviceArray | None, *, offsets: Sequence[int], index: Sequence[int], rule: str,
    numbers: Sequence[float], weight_decay: float, decoupled_weight_decay: bool, maximize: bool,
) -> None:  # fmt: skip
    """The update of ``ops.optim.fused_``, in place."""
    if not params:
        return
    packed, packed_grads = _contiguous(params), _contiguous(grads)
    table, blocks, programs, where, aligned = _tables(states[0], packed, packed_grads, offsets, index)
    checked, given = found_inf is not None, isinstance(lr, DeviceArray)
    number, compute = _precision(states[0].dtype)
    schedule, kept, count = SCHEDULES.get(rule, (None, 0, 0))
    derived = None
    if schedule is not None:
        derived = empty((count, step.size), compute, states[0].device)
        launch(
            schedule_kernel, (cdiv(len(index), 128),), step, own, derived, step.strides[0],
            0 if own is None else own.strides[0], step.size, where, lr if given else np.float64(lr), found_inf,
            tuple([np.float64(x) for x in numbers]), len(index), RULE=schedule, OWN=kept, LR_IS_ARRAY=given,
            CHECKED=checked, BLOCK=128,
        )  # fmt: skip
    elif step is not None:
        launch(
            count_kernel, (cdiv(len(index), BLOCK),), step, step.strides[0], where, found_inf, len(index),
            CHECKED=checked, BLOCK=BLOCK,
        )  # fmt: skip
    launch(
        fused_kernel, (programs,), table, blocks, tuple(states), tuple([s.strides[0] for s in states]), step,
        0 if step is None else step.strides[0], derived, 0 if step is None else step.size, lr if given else number(lr),
        found_inf, number(weight_decay), tuple([number(x) for x in numbers]), DERIVED=count, RULE=RULES[rule],
        DECOUPLED=bool(decoupled_weight_decay), MAXIMIZE=bool(maximize), LR_IS_ARRAY=given,
        CHECKED=checked, ALIGNED=aligned, COMPUTE=compute, BLOCK=BLOCK,
    )  # fmt: skip
    _write_back(params, packed)


def unscale(grads: Sequence[DeviceArray], found_inf: DeviceArray, scale: DeviceArray) -> None:
    """``ops.optim.amp_unscale_``, in place."""
    if not grads:
        return
    packed = _contiguous(grads)
    none = (0,) * len(packed)
    table, blocks, programs, _, aligned = _tables(scale, packed, packed, none, none)
    compute = _precision(packed[0].dtype)[1]
    launch(
        unscale_kernel, (programs,), table, blocks, packed[0], found_inf, scale, ALIGNED=aligned, COMPUTE=compute,
        BLOCK=BLOCK,
    )  # fmt: skip
    _write_back(grads, packed)


SPAN = 32 * BLOCK  # elements of a gradient whose part of a norm one program makes
_KINDS = {math.inf: 0, 1.0: 1, 2.0: 2}


def norm(out: DeviceArray, tensors: Sequence[DeviceArray], owner: DeviceArray | None, norm_type: float) -> None:
    """``ops.optim.multi_tensor_norm``: two launches."""
    packed = _contiguous(tensors)
    none = (0,) * len(packed)
    table, blocks, programs, _, aligned = _tables(
        tensors[0] if owner is None else owner, packed, packed, none, none, SPAN
    )
    number, compute = _precision(packed[0].dtype)
    kind, order = _KINDS.get(norm_type, 3), number(norm_type if math.isfinite(norm_type) else 0.0)
    parts = empty((max(programs, 1),), compute, out.device)
    if programs:
        launch(
            norm_kernel, (programs,), parts, table, blocks, packed[0], order, KIND=kind, ALIGNED=aligned,
            COMPUTE=compute, BLOCK=BLOCK, SPAN=SPAN,
        )  # fmt: skip
    launch(norm_sum_kernel, (1,), out, parts, programs, order, KIND=kind, BLOCK=BLOCK)


def clip(grads: Sequence[DeviceArray], norm: DeviceArray, owner: DeviceArray | None, *, max_norm: float) -> None:
    """``ops.optim.multi_tensor_clip_``, in place: one launch."""
    if not grads:
        return
    packed = _contiguous(grads)
    none = (0,) * len(packed)
    table, blocks, programs, _, aligned = _tables(grads[0] if owner is None else owner, packed, packed, none, none)
    number, compute = _precision(packed[0].dtype)
    launch(
        clip_kernel, (programs,), table, blocks, packed[0], norm, number(max_norm), ALIGNED=aligned, COMPUTE=compute,
        BLOCK=BLOCK,
    )  # fmt: skip
    _write_back(grads, packed)


def update_scale(
    scale: DeviceArray, growth_tracker: DeviceArray, found_inf: DeviceArray, *, growth_factor: float,
    backoff_factor: float, growth_interval: int,
) -> None:  # fmt: skip
    """``ops.optim.amp_update_scale_``, in place."""
    launch(
        update_scale_kernel, (1,), scale, growth_tracker, found_inf, np.float64(growth_factor),
        np.float64(backoff_factor), int(growth_interval),
    )  # fmt: skip


def _log(beta: float) -> float:
    return math.log(beta) if beta > 0 else -math.inf


def _precision(dtype: np.dtype[Any]) -> tuple[Any, np.dtype[Any]]:
    """(how numbers are passed, dtype of the arithmetic): float64 for float64, otherwise float32."""
    if dtype == np.float64:
        return (lambda x: np.float64(x)), np.dtype(np.float64)
    return float, np.dtype(np.float32)
