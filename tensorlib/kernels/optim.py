"""Fused optimizer updates: every parameter of a group in one launch, through a table of addresses.

A program owns BLOCK elements of one parameter. Table row ``i``: (address of parameter i, of its gradient, start of its
slice in the flat state, its size, its position among the step counts). Adam reads p, g, m, v and writes p, m, v: 28
bytes a float32 parameter.

The tables stay on the device while the addresses are the same, as they are in most steps: an allocator that caches
gives new gradients the memory of those that were dropped. Loss scaling asks nothing of the host either: where its flag
says that a gradient is infinite, every program finds its elements masked.
"""

from __future__ import annotations

import math
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


@jit
def _part(table, blocks, BLOCK: tl.constexpr):
    """(table row, offsets within the parameter, mask) of this program."""
    b = tl.program_id(0)
    row = tl.load(blocks + 2 * b)
    offsets = tl.load(blocks + 2 * b + 1) * BLOCK + tl.arange(0, BLOCK)
    return row, offsets, offsets < tl.load(table + 5 * row + 3)


@jit
def _rate(lr, LR_IS_ARRAY: tl.constexpr, COMPUTE: tl.constexpr):
    if LR_IS_ARRAY:
        rate = tl.load(lr).to(COMPUTE)
    else:
        rate = tl.cast(lr, COMPUTE)
    return rate


@jit
def adam_kernel(
    table, blocks, exp_avg, exp_avg_sq, max_exp_avg_sq, step, stride_m, stride_v, stride_x, stride_step,
    lr, found_inf, beta2, rest1, rest2, log1, log2, eps, weight_decay,
    AMSGRAD: tl.constexpr, DECOUPLED: tl.constexpr, MAXIMIZE: tl.constexpr, LR_IS_ARRAY: tl.constexpr,
    CHECKED: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, offsets, mask = _part(table, blocks, BLOCK)
    mask = _live(mask, found_inf, CHECKED)
    kind = tl.pointer_type(exp_avg.dtype.element_ty)
    p_at = tl.load(table + 5 * row).to(kind) + offsets
    g_at = tl.load(table + 5 * row + 1).to(kind) + offsets
    at = tl.load(table + 5 * row + 2) + offsets
    t = tl.load(step + tl.load(table + 5 * row + 4) * stride_step)
    rate = _rate(lr, LR_IS_ARRAY, COMPUTE)
    # 1 - beta and log(beta) come from the host, in float64: in float32 they would lose four digits. t counts from 1.
    correction1 = -libdevice.expm1(t * log1)
    correction2 = tl.sqrt(-libdevice.expm1(t * log2))
    p = tl.load(p_at, mask=mask, other=0.0).to(COMPUTE)
    g = tl.load(g_at, mask=mask, other=0.0).to(COMPUTE)
    m = tl.load(exp_avg + at * stride_m, mask=mask, other=0.0).to(COMPUTE)
    v = tl.load(exp_avg_sq + at * stride_v, mask=mask, other=0.0).to(COMPUTE)
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
        highest = tl.load(max_exp_avg_sq + at * stride_x, mask=mask, other=0.0).to(COMPUTE)
        second = tl.maximum(highest, v, propagate_nan=tl.PropagateNan.ALL)
        tl.store(max_exp_avg_sq + at * stride_x, second.to(exp_avg.dtype.element_ty), mask=mask)
    p = p - (rate / correction1) * m / (tl.sqrt(second) / correction2 + eps)
    tl.store(exp_avg + at * stride_m, m.to(exp_avg.dtype.element_ty), mask=mask)
    tl.store(exp_avg_sq + at * stride_v, v.to(exp_avg.dtype.element_ty), mask=mask)
    tl.store(p_at, p.to(exp_avg.dtype.element_ty), mask=mask)


@jit
def sgd_kernel(
    table, blocks, like, buffer, stride_b, lr, found_inf, momentum, dampening, weight_decay,
    MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr, MAXIMIZE: tl.constexpr, LR_IS_ARRAY: tl.constexpr,
    CHECKED: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, offsets, mask = _part(table, blocks, BLOCK)
    mask = _live(mask, found_inf, CHECKED)
    kind = tl.pointer_type(like.dtype.element_ty)
    p_at = tl.load(table + 5 * row).to(kind) + offsets
    g_at = tl.load(table + 5 * row + 1).to(kind) + offsets
    p = tl.load(p_at, mask=mask, other=0.0).to(COMPUTE)
    g = tl.load(g_at, mask=mask, other=0.0).to(COMPUTE)
    if MAXIMIZE:
        g = -g
    g = g + weight_decay * p
    if MOMENTUM:
        b_at = buffer + (tl.load(table + 5 * row + 2) + offsets) * stride_b
        b = momentum * tl.load(b_at, mask=mask, other=0.0).to(COMPUTE) + (1.0 - dampening) * g
        tl.store(b_at, b.to(like.dtype.element_ty), mask=mask)
        if NESTEROV:
            g = g + momentum * b
        else:
            g = b
    tl.store(p_at, (p - _rate(lr, LR_IS_ARRAY, COMPUTE) * g).to(like.dtype.element_ty), mask=mask)


# A program divides BLOCK elements of one gradient by the scale, and raises the flag where one is infinite or NaN; all
# that raise it write the same. Reads and writes each gradient once.
@jit
def unscale_kernel(table, blocks, like, found_inf, scale, COMPUTE: tl.constexpr, BLOCK: tl.constexpr):
    row, offsets, mask = _part(table, blocks, BLOCK)
    kind = tl.pointer_type(like.dtype.element_ty)
    at = tl.load(table + 5 * row + 1).to(kind) + offsets
    g = tl.load(at, mask=mask, other=0.0).to(COMPUTE)
    bad = tl.max((tl.abs(g) < float("inf")).to(tl.int32) ^ 1, 0)
    tl.store(found_inf, 1.0, mask=bad != 0)
    inverse = tl.div_rn(1.0, tl.load(scale)).to(COMPUTE)
    tl.store(at, (g * inverse).to(like.dtype.element_ty), mask=mask)


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
    anchor: DeviceArray, params: Sequence[Any], grads: Sequence[Any], offsets: Sequence[int], index: Sequence[int]
) -> Any:
    """(address table, (row, block) of each program, number of programs, ``index``) on the device."""
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
        counts = [cdiv(size, BLOCK) for size in sizes]
        which = np.repeat(np.arange(len(counts)), counts)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        return [np.stack([which, np.arange(len(which)) - first], 1).astype(np.int64), np.array(index, np.int64)]

    blocks, where = shapes.get((sizes, index), device, programs)
    table = places.get((addresses, offsets, sizes, index), device, (len(sizes), 5), rows)
    return table, blocks, blocks.shape[0], where


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
    table, blocks, programs, where = _tables(exp_avg, packed, packed_grads, offsets, index)
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
        MAXIMIZE=bool(maximize), LR_IS_ARRAY=isinstance(lr, DeviceArray), CHECKED=checked, COMPUTE=compute, BLOCK=BLOCK,
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
    table, blocks, programs, _ = _tables(anchor, packed, packed_grads, offsets, (0,) * len(params))
    number, compute = _precision(params[0].dtype)
    launch(
        sgd_kernel, (programs,), table, blocks, packed[0], momentum_buffer,
        momentum_buffer.strides[0] if momentum_buffer is not None else 0,
        lr if isinstance(lr, DeviceArray) else number(lr), found_inf, number(momentum), number(dampening),
        number(weight_decay), MOMENTUM=momentum_buffer is not None, NESTEROV=bool(nesterov), MAXIMIZE=bool(maximize),
        LR_IS_ARRAY=isinstance(lr, DeviceArray), CHECKED=found_inf is not None, COMPUTE=compute, BLOCK=BLOCK,
    )  # fmt: skip
    _write_back(params, packed)


def unscale(grads: Sequence[DeviceArray], found_inf: DeviceArray, scale: DeviceArray) -> None:
    """``ops.optim.amp_unscale_``, in place."""
    if not grads:
        return
    packed = _contiguous(grads)
    none = (0,) * len(packed)
    table, blocks, programs, _ = _tables(scale, packed, packed, none, none)
    compute = _precision(packed[0].dtype)[1]
    launch(
        unscale_kernel, (programs,), table, blocks, packed[0], found_inf, scale, COMPUTE=compute, BLOCK=BLOCK
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
