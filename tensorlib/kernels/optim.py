"""Fused optimizer updates: every parameter of a group in one launch, through a table of addresses.

A program owns BLOCK elements of one parameter. Table row ``i``: (address of parameter i, of its gradient, start of its
slice in the flat state, its size, its position among the step counts). Adam reads p, g, m, v and writes p, m, v: 28
bytes a float32 parameter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._array import DeviceArray, empty, is_contiguous, to_device
from tensorlib.kernels import pointwise
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import cdiv, launch

if TYPE_CHECKING:
    import triton.language as tl
    from triton.language.extra import libdevice

BLOCK = 1024


# One program raises BLOCK of the counts that take part by one.
@jit
def count_kernel(step, stride_step, index, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
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
    lr, beta2, rest1, rest2, log1, log2, eps, weight_decay,
    AMSGRAD: tl.constexpr, DECOUPLED: tl.constexpr, MAXIMIZE: tl.constexpr, LR_IS_ARRAY: tl.constexpr,
    COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, offsets, mask = _part(table, blocks, BLOCK)
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
    table, blocks, like, buffer, stride_b, lr, momentum, dampening, weight_decay,
    MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr, MAXIMIZE: tl.constexpr, LR_IS_ARRAY: tl.constexpr,
    COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, offsets, mask = _part(table, blocks, BLOCK)
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


def _tables(params: Sequence[Any], grads: Sequence[Any], offsets: Sequence[int], index: Sequence[int]) -> Any:
    """(address table, (row, block) of each program, number of programs) on the device."""
    rows = [[p.ptr, g.ptr, o, p.size, i] for p, g, o, i in zip(params, grads, offsets, index, strict=True)]
    counts = [cdiv(p.size, BLOCK) for p in params]
    which = np.repeat(np.arange(len(params)), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    blocks = np.stack([which, np.arange(len(which)) - first], 1).astype(np.int64)
    device = params[0].device
    return to_device(np.array(rows, np.int64), device), to_device(blocks, device), len(which)


def _write_back(params: Sequence[DeviceArray], packed: Sequence[DeviceArray]) -> None:
    for p, q in zip(params, packed, strict=True):
        if p is not q:
            pointwise.copy(p, q)


def adam(
    params: Sequence[DeviceArray], grads: Sequence[DeviceArray], exp_avg: DeviceArray, exp_avg_sq: DeviceArray,
    max_exp_avg_sq: Any, step: DeviceArray, lr: Any, *, offsets: Sequence[int], index: Sequence[int], beta1: float,
    beta2: float, eps: float, weight_decay: float, decoupled_weight_decay: bool, maximize: bool,
) -> None:  # fmt: skip
    """The Adam update of ``ops.optim.adam_``, in place."""
    if not params:
        return
    # The table holds addresses only: these names keep what it points at alive until the launch.
    packed, packed_grads = _contiguous(params), _contiguous(grads)
    table, blocks, programs = _tables(packed, packed_grads, offsets, index)
    where = to_device(np.array(index, np.int64), step.device)
    launch(count_kernel, (cdiv(len(index), BLOCK),), step, step.strides[0], where, len(index), BLOCK=BLOCK)
    number, compute = _precision(exp_avg.dtype)
    launch(
        adam_kernel, (programs,), table, blocks, exp_avg, exp_avg_sq, max_exp_avg_sq, step,
        exp_avg.strides[0], exp_avg_sq.strides[0], max_exp_avg_sq.strides[0] if max_exp_avg_sq is not None else 0,
        step.strides[0], lr if isinstance(lr, DeviceArray) else number(lr), number(beta2), number(1 - beta1),
        number(1 - beta2), number(_log(beta1)), number(_log(beta2)), number(eps), number(weight_decay),
        AMSGRAD=max_exp_avg_sq is not None, DECOUPLED=bool(decoupled_weight_decay), MAXIMIZE=bool(maximize),
        LR_IS_ARRAY=isinstance(lr, DeviceArray), COMPUTE=compute, BLOCK=BLOCK,
    )  # fmt: skip
    _write_back(params, packed)


def sgd(
    params: Sequence[DeviceArray], grads: Sequence[DeviceArray], momentum_buffer: Any, lr: Any, *,
    offsets: Sequence[int], momentum: float, dampening: float, weight_decay: float, nesterov: bool, maximize: bool,
) -> None:  # fmt: skip
    """The SGD update of ``ops.optim.sgd_``, in place."""
    if not params:
        return
    packed, packed_grads = _contiguous(params), _contiguous(grads)
    table, blocks, programs = _tables(packed, packed_grads, offsets, (0,) * len(params))
    number, compute = _precision(params[0].dtype)
    launch(
        sgd_kernel, (programs,), table, blocks, packed[0], momentum_buffer,
        momentum_buffer.strides[0] if momentum_buffer is not None else 0,
        lr if isinstance(lr, DeviceArray) else number(lr), number(momentum), number(dampening), number(weight_decay),
        MOMENTUM=momentum_buffer is not None, NESTEROV=bool(nesterov), MAXIMIZE=bool(maximize),
        LR_IS_ARRAY=isinstance(lr, DeviceArray), COMPUTE=compute, BLOCK=BLOCK,
    )  # fmt: skip
    _write_back(params, packed)


def _log(beta: float) -> float:
    return math.log(beta) if beta > 0 else -math.inf


def _precision(dtype: np.dtype[Any]) -> tuple[Any, np.dtype[Any]]:
    """(how numbers are passed, dtype of the arithmetic): float64 for float64, otherwise float32."""
    if dtype == np.float64:
        return (lambda x: np.float64(x)), np.dtype(np.float64)
    return float, np.dtype(np.float32)
