"""Cross-entropy and its gradient, fused: the probabilities are never written.

Rows are the positions that have a target: row r of an input (N, C, S) is n = r // S, s = r % S. The loss of a row is
w (lse - x[target]) + w z_loss lse² with lse = log Σ e^x, and w the weight of its class, 0 where it is ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._array import DeviceArray, empty
from tensorlib.kernels import create
from tensorlib.kernels.indexing import contiguous
from tensorlib.kernels.reduction import compute_dtype
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.hardware import hardware
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl

_FLOAT64 = np.dtype(np.float64)
LONG = 4096  # classes that a block of the kernel of tiles holds: rows of more have a kernel of their own
NONE, MEAN = 0, 1
REDUCTIONS = {"none": NONE, "mean": MEAN, "sum": 2}


@jit
def _target(target, weight, r, inside, C, ignore_index, ACC: tl.constexpr):
    """(class, weight of the row: 0 where ignored, NaN where the class is out of range)."""
    y = tl.load(target + r, mask=inside, other=0).to(tl.int64)
    counted = inside & (y != ignore_index)
    known = counted & (y >= 0) & (y < C)
    if weight is None:
        w = tl.where(known, 1.0, 0.0).to(ACC)
    else:
        w = tl.load(weight + y, mask=known, other=0.0).to(ACC)
    return y, tl.where(counted & (known == 0), float("nan"), w), known


@jit
def _weight_sum(weight, C, BLOCK_C: tl.constexpr, ACC: tl.constexpr):
    """The sum of the class weights: C without weights."""
    if weight is None:
        total = tl.cast(C, ACC)
    else:
        part = tl.zeros((BLOCK_C,), ACC)
        for start in range(0, C, BLOCK_C):
            c = start + tl.arange(0, BLOCK_C)
            part += tl.load(weight + c, mask=c < C, other=0.0).to(ACC)
        total = tl.sum(part)
    return total


# One program owns BLOCK_R rows and walks over their classes once, BLOCK_C at a time, with a running maximum (online
# softmax, Milakov and Gimelshein 2018): reads the input once, writes one log-sum-exp a row, and the losses (PARTIAL
# false) or their sum and that of the row weights, one each a program.
@jit
def cross_entropy_kernel(
    losses, weights, lse, x, target, weight, R, C, S, stride_n, stride_c, stride_s, ignore_index, smoothing, z_loss,
    LOG_PROBABILITIES: tl.constexpr, SMOOTH: tl.constexpr, Z: tl.constexpr, PARTIAL: tl.constexpr, ACC: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    inside = r < R
    row = x + (r // S) * stride_n + (r % S) * stride_s
    y, w, known = _target(target, weight, r, inside, C, ignore_index, ACC)
    chosen = tl.load(row + y * stride_c, mask=known, other=0.0).to(ACC)
    if LOG_PROBABILITIES:
        loss = tl.where(w == 0, 0.0, -w * chosen)
    else:
        high = tl.full((BLOCK_R,), float("-inf"), ACC)
        total = tl.zeros((BLOCK_R,), ACC)
        weighted = tl.zeros((BLOCK_R,), ACC)
        for start in range(0, C, BLOCK_C):
            c = start + tl.arange(0, BLOCK_C)
            there = inside[:, None] & (c < C)[None, :]
            v = tl.load(row[:, None] + c.to(tl.int64)[None, :] * stride_c, mask=there, other=float("-inf")).to(ACC)
            above = tl.maximum(high, tl.max(v, axis=1))
            base = tl.where(above == float("-inf"), 0.0, above)  # -inf - -inf would be NaN
            total = total * tl.exp(high - base) + tl.sum(tl.exp(v - base[:, None]), axis=1)
            high = above
            if SMOOTH:
                if weight is None:
                    v = tl.where(there, v, 0.0)
                else:
                    wc = tl.load(weight + c, mask=c < C, other=0.0).to(ACC)
                    v = tl.where(there, v * wc[None, :], 0.0)
                weighted += tl.sum(v, axis=1)
        base = tl.where(high == float("-inf"), 0.0, high)
        norm = tl.log(total) + base
        tl.store(lse + r, norm, mask=inside)
        loss = w * (norm - chosen)
        if SMOOTH:
            spread = _weight_sum(weight, C, BLOCK_C, ACC) * norm - weighted
            loss = (1.0 - smoothing) * loss + (smoothing / C) * spread
        if Z:
            loss += w * (z_loss * norm * norm)
        loss = tl.where(inside & (y == ignore_index), 0.0, loss)
    if PARTIAL:
        tl.store(losses + tl.program_id(0), tl.sum(tl.where(inside, loss, 0.0)))
        tl.store(weights + tl.program_id(0), tl.sum(tl.where(inside, w, 0.0)))
    else:
        tl.store(losses + r, loss.to(losses.dtype.element_ty), mask=inside)


@jit
def _middle(begin, C, EDGE: tl.constexpr):
    """(head, first, n): of C neighbours from offset begin, n from first on are whole vectors of EDGE, head before it.

    Multiples of EDGE both, as the compiler knows: loads of whole vectors, though a row begins and ends anywhere.
    """
    if EDGE == 1:
        return 0, begin, C
    first = (begin + (EDGE - 1)) // EDGE * EDGE
    head = (first - begin).to(tl.int32)
    n = tl.maximum(C - head, 0) // EDGE * EDGE
    return head, first, n


@jit
def _ends(lane, head, n, C, EDGE: tl.constexpr):
    """(classes, which of them there are) of what lies before and behind the middle of a row: up to 2 EDGE lanes."""
    behind = lane >= EDGE
    c = tl.where(behind, lane - EDGE + head + n, lane)
    return c, tl.where(behind, c < tl.minimum(C, head + n + EDGE), lane < tl.minimum(head, C))


@jit
def _replace(at, c, there, y, weight, norm, main, part, share, factor, ignored, SMOOTH: tl.constexpr):
    """Write over scores their gradient."""
    x = tl.load(at, mask=there, other=float("-inf")).to(norm.dtype)
    d = tl.exp(x - norm) * part - tl.where(c == y, main, 0.0)
    if SMOOTH:
        if weight is None:
            d -= share
        else:
            d -= share * tl.load(weight + c, mask=there, other=0.0).to(norm.dtype)
    d = tl.where(ignored, 0.0, d * factor)
    tl.store(at, d.to(at.dtype.element_ty), mask=there)


# One program owns one row, of classes that are neighbours or lie at one distance: UNROLL blocks of BLOCK classes are
# under way at a time, and each lane keeps the maximum of what it saw and the sum of exp(x - maximum), joined at the
# end: one exp an element and 1 / UNROLL to move the sum to a new maximum, in the registers of UNROLL + 2 blocks. Reads
# the row once. GRAD: reads it again, which finds it in the cache, and writes over it w (softmax - onehot) times g, if
# there is one: the scores are gone then. EDGE: see `_middle`; the classes at the row's ends are a block of their own.
@jit
def cross_entropy_row_kernel(
    losses, weights, lse, x, target, weight, g, C, stride_n, stride_c, stride_g, ignore_index, smoothing, z_loss,
    SMOOTH: tl.constexpr, Z: tl.constexpr, GRAD: tl.constexpr, ACC: tl.constexpr,
    BLOCK: tl.constexpr, UNROLL: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64)
    row = x + r * stride_n
    lane = tl.arange(0, BLOCK)
    low: tl.constexpr = float("-inf")
    head, first, n = _middle(r * stride_n, C, EDGE)
    middle = x + first
    y, w, known = _target(target, weight, r, r >= 0, C, ignore_index, ACC)
    chosen = tl.load(row + y * stride_c, mask=known, other=0.0).to(ACC)
    high = tl.full((BLOCK,), low, ACC)
    total = tl.zeros((BLOCK,), ACC)
    weighted = tl.zeros((BLOCK,), ACC)
    shares = tl.zeros((BLOCK,), ACC)
    if EDGE > 1:
        c, there = _ends(lane, head, n, C, EDGE)
        high = tl.load(row + c, mask=there, other=low).to(ACC)
        total = tl.where(high == low, 0.0, 1.0).to(ACC)
        if SMOOTH:
            if weight is None:
                weighted = tl.where(there, high, 0.0)
            else:
                shares = tl.load(weight + c, mask=there, other=0.0).to(ACC)
                weighted = tl.where(there, high * shares, 0.0)
    for start in range(0, n, BLOCK * UNROLL):
        above = high
        values = ()
        for u in tl.static_range(UNROLL):
            c = start + u * BLOCK + lane
            v = tl.load(middle + c * stride_c, mask=c < n, other=low).to(ACC)
            above = tl.maximum(above, v)
            values = values + (v,)
        base = tl.where(above == low, 0.0, above)  # -inf - -inf would be NaN
        total = total * tl.exp(high - base)
        for u in tl.static_range(UNROLL):
            total += tl.exp(values[u] - base)
            if SMOOTH:
                c = start + u * BLOCK + lane
                if weight is None:
                    weighted += tl.where(c < n, values[u], 0.0)
                else:
                    wc = tl.load(weight + head + c, mask=c < n, other=0.0).to(ACC)
                    weighted += tl.where(c < n, values[u] * wc, 0.0)
                    shares += wc
        high = above
    best = tl.max(high, 0)
    base = tl.where(best == low, 0.0, best)
    norm = tl.log(tl.sum(total * tl.exp(high - base), 0)) + base
    loss = w * (norm - chosen)
    main = w
    part = w
    share = smoothing / C
    if SMOOTH:
        if weight is None:
            whole = tl.cast(C, ACC)
        else:
            whole = tl.sum(shares, 0)
        main = w * (1.0 - smoothing)
        part = main + share * whole
        loss = (1.0 - smoothing) * loss + share * (whole * norm - tl.sum(weighted, 0))
    if Z:
        loss += w * (z_loss * norm * norm)
        part += 2.0 * z_loss * w * norm
    ignored = y == ignore_index
    tl.store(losses + r, tl.where(ignored, 0.0, loss).to(losses.dtype.element_ty))
    if weights is not None:
        tl.store(weights + r, w)
    if lse is not None:
        tl.store(lse + r, norm)
    if GRAD:
        factor = tl.full((), 1.0, ACC)
        if g is not None:
            factor = tl.load(g + r * stride_g).to(ACC)
        for start in range(0, n, BLOCK * UNROLL):
            for u in tl.static_range(UNROLL):
                c = start + u * BLOCK + lane
                _replace(
                    middle + c * stride_c, head + c, c < n, y, weight, norm, main, part, share, factor, ignored, SMOOTH
                )
        if EDGE > 1:
            c, there = _ends(lane, head, n, C, EDGE)
            _replace(row + c, c, there, y, weight, norm, main, part, share, factor, ignored, SMOOTH)


# One program adds up what the others left: reads P sums and P weights, writes the loss and what it was divided by.
@jit
def cross_entropy_sum_kernel(out, total, losses, weights, P, MEAN: tl.constexpr, BLOCK: tl.constexpr):
    ACC: tl.constexpr = losses.dtype.element_ty
    s = tl.zeros((BLOCK,), ACC)
    w = tl.zeros((BLOCK,), ACC)
    for start in range(0, P, BLOCK):
        i = start + tl.arange(0, BLOCK)
        s += tl.load(losses + i, mask=i < P, other=0.0)
        w += tl.load(weights + i, mask=i < P, other=0.0)
    loss = tl.sum(s)
    if MEAN:
        divisor = tl.sum(w)
        loss = loss / divisor
    else:
        divisor = tl.full((), 1.0, ACC)
    tl.store(total, divisor)
    tl.store(out, loss.to(out.dtype.element_ty))


@jit
def _grad_tile(
    dx, x, at, to, c, there, y, w, scale, weight, lse, r, inside, C, ignore_index, smoothing, z_loss,
    LOG_PROBABILITIES: tl.constexpr, SMOOTH: tl.constexpr, Z: tl.constexpr, ACC: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The gradient of classes c of rows r: from offsets ``at`` of the input to offsets ``to``."""
    hit = c == y[:, None]
    if LOG_PROBABILITIES:
        d = tl.where(hit, -w[:, None], 0.0)
    else:
        v = tl.load(x + at, mask=there, other=0.0).to(ACC)
        norm = tl.load(lse + r, mask=inside, other=0.0).to(ACC)
        p = tl.exp(v - norm[:, None])
        if SMOOTH:
            share = smoothing / C
            if weight is None:
                each = tl.full((1, 1), 1.0, ACC)
            else:
                each = tl.load(weight + c, mask=c < C, other=0.0).to(ACC)
            main = w * (1.0 - smoothing)
            d = p * (main + share * _weight_sum(weight, C, BLOCK_C, ACC))[:, None]
            d = d - tl.where(hit, main[:, None], 0.0) - share * each
        else:
            d = w[:, None] * (p - tl.where(hit, 1.0, 0.0))
        if Z:
            d += p * (2.0 * z_loss * w * norm)[:, None]
    # a row that is left out has no gradient, not 0 * inf where nothing counts and the mean divides by 0
    d = tl.where((y == ignore_index)[:, None], 0.0, d * scale[:, None])
    tl.store(dx + to, d.to(dx.dtype.element_ty), mask=there)


# One program owns BLOCK_R rows and BLOCK_C classes of the gradient: reads that tile of the input, writes it once.
# g w (softmax - onehot), and for smoothed labels the same of the uniform distribution. EDGE, of one row: the tiles are
# of the whole vectors of it, and the first one's program makes its ends, too.
@jit
def cross_entropy_grad_kernel(
    dx, g, x, target, weight, lse, total, R, C, S, stride_n, stride_c, stride_s, stride_on, stride_oc, stride_os,
    ignore_index, smoothing, z_loss, stride_g,
    LOG_PROBABILITIES: tl.constexpr, SMOOTH: tl.constexpr, Z: tl.constexpr, ACC: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    tiles_c = tl.cdiv(C, BLOCK_C)  # the second dimension of a grid ends at 65535
    r = (tl.program_id(0) // tiles_c).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    tile = tl.program_id(0) % tiles_c
    inside = r < R
    y, w, _ = _target(target, weight, r, inside, C, ignore_index, ACC)
    scale = tl.load(g + r * stride_g, mask=inside, other=0.0).to(ACC) / tl.load(total).to(ACC)
    if EDGE == 1:
        n, s = r // S, r % S
        c = (tile.to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
        at = (n * stride_n + s * stride_s)[:, None] + c * stride_c
        to = (n * stride_on + s * stride_os)[:, None] + c * stride_oc
        _grad_tile(
            dx, x, at, to, c, inside[:, None] & (c < C), y, w, scale, weight, lse, r, inside, C, ignore_index,
            smoothing, z_loss, LOG_PROBABILITIES, SMOOTH, Z, ACC, BLOCK_C,
        )  # fmt: skip
    else:  # of input and gradient alike
        head, first, n = _middle(r * stride_on, C, EDGE)
        c = (tile * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
        at = first[:, None] + c
        _grad_tile(
            dx, x, at, at, head[:, None] + c, c < n[:, None], y, w, scale, weight, lse, r, inside, C, ignore_index,
            smoothing, z_loss, LOG_PROBABILITIES, SMOOTH, Z, ACC, BLOCK_C,
        )  # fmt: skip
        if tile == 0:
            ends, there = _ends(tl.arange(0, 2 * EDGE)[None, :], head[:, None], n[:, None], C, EDGE)
            to = (r * stride_on)[:, None] + ends
            _grad_tile(
                dx, x, to, to, ends, there, y, w, scale, weight, lse, r, inside, C, ignore_index, smoothing, z_loss,
                LOG_PROBABILITIES, SMOOTH, Z, ACC, BLOCK_C,
            )  # fmt: skip


def _layout(x: DeviceArray) -> tuple[DeviceArray, tuple[int, int, int], tuple[int, int, int]]:
    """(x, (N, C, S), strides of N, C, S) of an input (C), (N, C) or (N, C, d1, …)."""
    shape, strides = x.shape, x.strides
    if x.ndim == 1:
        return x, (1, shape[0], 1), (0, strides[0], 0)
    if x.ndim == 2:
        return x, (*shape, 1), (*strides, 0)
    if x.ndim > 3:
        x = contiguous(x)
        s = int(np.prod(shape[2:]))
        return x, (shape[0], shape[1], s), (shape[1] * s, s, 1)
    return x, shape, strides  # type: ignore[return-value]


def _blocks(C: int, S: int) -> tuple[int, int]:
    """(BLOCK_R, BLOCK_C): whole rows where classes are neighbours, whole columns where positions are."""
    if S > 1:
        return 128, min(next_power_of_2(C), 16)
    block = min(next_power_of_2(C), 4096)
    return max(1, 2048 // block), block


def _edge(x: DeviceArray, stride_n: int, stride_c: int, C: int) -> int:
    """Elements of 16 bytes, where rows of neighbours do not begin and end at multiples of it; else 1."""
    size = 16 // x.itemsize
    if stride_c != 1 or x.ptr % 16 or (stride_n % 16 == 0 and C % 16 == 0):  # of multiples of 16 the compiler knows
        return 1
    return size


def row_blocks(x: DeviceArray, stride_n: int, stride_c: int, C: int, acc: np.dtype[Any]) -> dict[str, int]:
    """BLOCK, UNROLL and EDGE of the kernel of rows, with its warps: 16 bytes of half numbers a thread and block."""
    family = hardware(x.device).family
    most = 128 if family == "native" else 1024 if acc == _FLOAT64 else 2048
    block = min(next_power_of_2(C), most)
    warps = block // (512 if family == "cdna" else 256)
    edge = _edge(x, stride_n, stride_c, C) if block >= 32 else 1
    return {"BLOCK": block, "UNROLL": min(4, cdiv(C, block)), "EDGE": edge, "num_warps": max(1, warps)}


def cross_entropy(
    out: DeviceArray, lse: DeviceArray, total: DeviceArray, input: DeviceArray, target: DeviceArray,
    weight: DeviceArray | None, ignore_index: int, reduction: str, label_smoothing: float, log_probabilities: bool,
    z_loss: float,
) -> None:  # fmt: skip
    """out = the loss, lse = log Σ e^x of each row, total = what a mean was divided by."""
    x, (N, C, S), strides = _layout(input)
    R, kind, acc = N * S, REDUCTIONS[reduction], lse.dtype
    partial = kind != NONE
    numbers = ignore_index, number(label_smoothing, acc), number(z_loss, acc)
    rows = S == 1 and C > LONG and C * abs(strides[1]) < 1 << 31 and not log_probabilities
    block_r, block_c = (1, 0) if rows else _blocks(C, S)
    P = cdiv(R, block_r)
    losses = empty((P,), acc, out.device) if partial else out
    weights = empty((P,), acc, out.device) if partial else None
    flags = {"SMOOTH": label_smoothing != 0, "Z": z_loss != 0, "ACC": acc}
    if rows:
        launch(
            cross_entropy_row_kernel, (R,), losses, weights, lse, x, contiguous(target), _flat(weight), None, C,
            strides[0], strides[1], 0, *numbers, GRAD=False, **flags, **row_blocks(x, strides[0], strides[1], C, acc),
        )  # fmt: skip
    else:
        launch(
            cross_entropy_kernel, (P,), losses, weights, lse, x, contiguous(target), _flat(weight), R, C, S, *strides,
            *numbers, LOG_PROBABILITIES=log_probabilities, PARTIAL=partial, BLOCK_R=block_r, BLOCK_C=block_c, **flags,
        )  # fmt: skip
    total_of(out, total, losses, weights, kind)
    if log_probabilities:
        create.full(lse, lse.shape, 0.0, lse.dtype, lse.device)


def total_of(out: DeviceArray, total: DeviceArray, losses: DeviceArray, weights: DeviceArray | None, kind: int) -> None:
    """out = the sum or mean of the losses, total = what they were divided by; nothing but total = 1 for 'none'."""
    if weights is None:
        create.full(total, (), 1.0, total.dtype, total.device)
    else:
        launch(cross_entropy_sum_kernel, (1,), out, total, losses, weights, losses.size, MEAN=kind == MEAN, BLOCK=1024)


def _flat(weight: DeviceArray | None) -> DeviceArray | None:
    return None if weight is None else contiguous(weight)


def number(value: float, acc: np.dtype[Any]) -> Any:
    return np.float64(value) if acc == _FLOAT64 else float(value)


def cross_entropy_grad(
    out: DeviceArray, grad: DeviceArray, input: DeviceArray, target: DeviceArray, weight: DeviceArray | None,
    lse: DeviceArray, total: DeviceArray, ignore_index: int, label_smoothing: float, log_probabilities: bool,
    z_loss: float,
) -> None:  # fmt: skip
    """out = grad times the derivative of the loss."""
    x, (N, C, S), strides = _layout(input)
    R, acc = N * S, compute_dtype(input.dtype)
    block_r, block_c = _blocks(C, S)
    gpu = hardware(x.device)
    block_c = min(block_c, 1024 if gpu.on_host else 64 * gpu.warp_size)  # 16 elements a lane
    grad = contiguous(grad)
    alike = block_r == 1 and S == 1 and strides[0] == C and out.ptr % 16 == 0
    launch(
        cross_entropy_grad_kernel, (cdiv(R, block_r) * cdiv(C, block_c),), out, grad, x, contiguous(target),
        _flat(weight), contiguous(lse), total, R, C, S, *strides, C * S, S, 1, ignore_index,
        number(label_smoothing, acc), number(z_loss, acc), 1 if grad.ndim else 0,
        LOG_PROBABILITIES=log_probabilities, SMOOTH=label_smoothing != 0, Z=z_loss != 0, ACC=acc,
        BLOCK_R=block_r, BLOCK_C=block_c, EDGE=_edge(x, C, strides[1], C) if alike else 1,
    )  # fmt: skip
