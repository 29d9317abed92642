"""Matrix products: tiled kernels for every layout, batch, dtype and transposition, with an optional epilogue.

Operands are read through their strides, so neither a transpose nor a broadcast batch is ever copied. float8, float16,
bfloat16 and float32 accumulate in float32, float64 in float64, integers in int32 (int64 in int64). What is done to the
sums before they are rounded (a bias, an activation) is a function: `epilogues`. Which kernel runs, and with which tile,
is `matmul_tiles`' to say: one program a tile; several a tile, each with a part of K (`split_k_sum_kernel` adds them up
in a fixed order); persistent programs that load through tensor descriptors; or sums of products for one vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from tensorlib._array import DeviceArray, empty, expand, to_device
from tensorlib._device import device as Device
from tensorlib.kernels import matmul_tiles as tiles
from tensorlib.kernels.epilogues import (
    NONE,
    PLAIN,
    TILE,
    Epilogue,
    Laid,
    add_to,
    finish,
    laid_out,
    lay,
    of_batch,
    scaled,
    scaled_sum,
)
from tensorlib.kernels.matmul_tiles import Problem
from tensorlib.kernels.pointwise import collapse, copy
from tensorlib.runtime import precision as asked
from tensorlib.runtime.autotune import Config, Tunable
from tensorlib.runtime.compiler import Jit, jit
from tensorlib.runtime.hardware import Hardware, hardware
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_INT32, _INT64 = np.dtype(np.int32), np.dtype(np.int64)
_FLOAT16, _FLOAT8 = np.dtype(np.float16), (np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2))


# x in another dtype. Bytes are float8_e4m3fn, which older tensor cores' compilers do not convert: its exponent has 4
# bits, so that as those of a float16 it is 2^8 too small; numbers below the normal ones come right with the others.
@jit
def widened(x, TO: tl.constexpr):
    if x.dtype == tl.uint8:
        bits = x.to(tl.uint16)
        half = (((bits & 0x80) << 8) | ((bits & 0x7F) << 7)).to(tl.float16, bitcast=True) * 256.0
        x = tl.where((bits & 0x7F) == 0x7F, float("nan"), half)
    return x.to(TO)


# Where tile ``pid`` of a matrix of tiles_m x tiles_n lies: groups of GROUP_M rows of tiles, so that neighbours find
# each other's operands in L2 (the Triton tutorial's order).
@jit
def place_of(pid, tiles_m, tiles_n, GROUP_M: tl.constexpr):
    first = pid // (GROUP_M * tiles_n) * GROUP_M
    rows = tl.minimum(tiles_m - first, GROUP_M)
    pid_m = first + pid % (GROUP_M * tiles_n) % rows
    pid_n = pid % (GROUP_M * tiles_n) // rows
    return pid_m, pid_n


# Round the sums of rows m and columns n of a matrix and store them, after the epilogue.
@jit
def store(
    out, before, acc, extras, strides, batch, shape, m, n, M, N,
    RANK: tl.constexpr, MODES: tl.constexpr, FUNCTION: tl.constexpr, ACTIVATION: tl.constexpr, BEFORE: tl.constexpr,
):  # fmt: skip
    acc = finish(acc, extras, strides, batch, shape, m, n, M, N, RANK, MODES, FUNCTION)
    at = m[:, None] * N + n[None, :]
    inside = (m[:, None] < M) & (n[None, :] < N)
    if BEFORE:
        tl.store(before + at, acc.to(before.dtype.element_ty), mask=inside)
    if ACTIVATION is not None:
        acc = ACTIVATION(acc)
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=inside)


# One program owns BLOCK_M x BLOCK_N elements of one matrix of the batch, or, with SPLIT_K > 1, of one of SPLIT_K
# partial sums of it: then out is (batch, SPLIT_K, M, N). It reads BLOCK_M x K of a and K x BLOCK_N of b, and writes its
# tile once: M*K*N/BLOCK_N + K*N*M/BLOCK_M elements read in all, M*N written. WIDEN: the dtype that operands are brought
# to in registers. IMPRECISE: how many products of float8 Hopper may add up in fewer bits than float32 has.
@jit
def matmul_kernel(
    out, before, a, b, extras, M, N, K, batch_shape, a_strides, b_strides, extra_strides,
    stride_am, stride_ak, stride_bk, stride_bn,
    RANK: tl.constexpr, MODES: tl.constexpr, FUNCTION: tl.constexpr, ACTIVATION: tl.constexpr, BEFORE: tl.constexpr,
    EVEN_K: tl.constexpr, WIDE: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
    IMPRECISE: tl.constexpr, WIDEN: tl.constexpr, SPLIT_K: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    pid = tl.program_id(0)
    part = pid // (tiles_m * tiles_n)
    pid_m, pid_n = place_of(pid % (tiles_m * tiles_n), tiles_m, tiles_n, GROUP_M)
    batch = part // SPLIT_K
    out += tl.cast(part, tl.int64) * M * N
    if BEFORE:
        before += tl.cast(part, tl.int64) * M * N
    a += of_batch(batch, batch_shape, a_strides, RANK)
    b += of_batch(batch, batch_shape, b_strides, RANK)
    # A step over BLOCK_K elements of K; a stride of 1 is a constexpr, hence the cast.
    step_a = tl.cast(stride_ak, tl.int64) * BLOCK_K
    step_b = tl.cast(stride_bk, tl.int64) * BLOCK_K
    last = K
    if SPLIT_K > 1:
        steps = tl.cdiv(tl.cdiv(K, BLOCK_K), SPLIT_K)
        first = part % SPLIT_K * steps
        a += step_a * first
        b += step_b * first
        last = tl.maximum(tl.minimum(K - first * BLOCK_K, steps * BLOCK_K), 0)

    offs_m = pid_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = pid_n * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, BLOCK_K)
    if WIDE:
        offs_m = offs_m.to(tl.int64)
        offs_n = offs_n.to(tl.int64)
        offs_k = offs_k.to(tl.int64)
    mask_m = offs_m[:, None] < M
    mask_n = offs_n[None, :] < N
    a_ptrs = a + (offs_m[:, None] * stride_am + offs_k[None, :] * stride_ak)
    b_ptrs = b + (offs_k[:, None] * stride_bk + offs_n[None, :] * stride_bn)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=ACC)
    for k in range(0, last, BLOCK_K):
        if EVEN_K:
            x = tl.load(a_ptrs, mask=mask_m, other=0.0)
            y = tl.load(b_ptrs, mask=mask_n, other=0.0)
        else:
            x = tl.load(a_ptrs, mask=mask_m & (offs_k[None, :] < last - k), other=0.0)
            y = tl.load(b_ptrs, mask=mask_n & (offs_k[:, None] < last - k), other=0.0)
        if WIDEN is not None:
            x = widened(x, WIDEN)
            y = widened(y, WIDEN)
        if DOT:
            acc = tl.dot(x, y, acc, input_precision=PRECISION, max_num_imprecise_acc=IMPRECISE, out_dtype=ACC)
        else:
            acc += tl.sum(x.to(ACC)[:, :, None] * y.to(ACC)[None, :, :], axis=1)
        a_ptrs += step_a
        b_ptrs += step_b
    store(
        out, before, acc, extras, extra_strides, batch, batch_shape, offs_m, offs_n, M, N,
        RANK, MODES, FUNCTION, ACTIVATION, BEFORE,
    )  # fmt: skip


# One program owns BLOCK_M x BLOCK_N elements of one matrix of the batch: it adds up their SPLIT_K partial sums, which
# lie in x (batch, SPLIT_K, M, N), first to last, and writes the result once.
@jit
def split_k_sum_kernel(
    out, before, x, extras, M, N, batch_shape, extra_strides,
    RANK: tl.constexpr, MODES: tl.constexpr, FUNCTION: tl.constexpr, ACTIVATION: tl.constexpr, BEFORE: tl.constexpr,
    SPLIT_K: tl.constexpr, WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    tiles_n = tl.cdiv(N, BLOCK_N)
    tiles = tl.cdiv(M, BLOCK_M) * tiles_n
    pid = tl.program_id(0)
    batch = pid // tiles
    m = pid % tiles // tiles_n * BLOCK_M + tl.arange(0, BLOCK_M)
    n = pid % tiles % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    if WIDE:
        m = m.to(tl.int64)
        n = n.to(tl.int64)
    size = tl.cast(M, tl.int64) * N
    x += batch * SPLIT_K * size + (m[:, None] * N + n[None, :])
    inside = (m[:, None] < M) & (n[None, :] < N)
    acc = tl.load(x, mask=inside, other=0)
    for _ in tl.static_range(SPLIT_K - 1):
        x += size
        acc += tl.load(x, mask=inside, other=0)
    out += batch * size
    if BEFORE:
        before += batch * size
    store(
        out, before, acc, extras, extra_strides, batch, batch_shape, m, n, M, N,
        RANK, MODES, FUNCTION, ACTIVATION, BEFORE,
    )  # fmt: skip


# x (K) @ w (K, N) of one matrix of the batch. One program owns BLOCK_N elements, or, with SPLIT_K > 1, one of SPLIT_K
# partial sums of them: then out is (batch, SPLIT_K, 1, N). It reads BLOCK_N x K of w once, which is all that counts,
# keeps BLOCK_N x BLOCK_K sums in registers, and adds these up at the end. No matrix unit: the products are exact in the
# dtype of the sums.
@jit
def gemv_kernel(
    out, before, x, w, extras, N, K, batch_shape, x_strides, w_strides, extra_strides, stride_xk, stride_wk, stride_wn,
    RANK: tl.constexpr, MODES: tl.constexpr, FUNCTION: tl.constexpr, ACTIVATION: tl.constexpr, BEFORE: tl.constexpr,
    EVEN_K: tl.constexpr, WIDE: tl.constexpr, ACC: tl.constexpr, SPLIT_K: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tiles_n = tl.cdiv(N, BLOCK_N)
    pid = tl.program_id(0)
    part = pid // tiles_n
    batch = part // SPLIT_K
    out += tl.cast(part, tl.int64) * N
    if BEFORE:
        before += tl.cast(part, tl.int64) * N
    x += of_batch(batch, batch_shape, x_strides, RANK)
    w += of_batch(batch, batch_shape, w_strides, RANK)
    step_x = tl.cast(stride_xk, tl.int64) * BLOCK_K
    step_w = tl.cast(stride_wk, tl.int64) * BLOCK_K
    last = K
    if SPLIT_K > 1:
        steps = tl.cdiv(tl.cdiv(K, BLOCK_K), SPLIT_K)
        first = part % SPLIT_K * steps
        x += step_x * first
        w += step_w * first
        last = tl.maximum(tl.minimum(K - first * BLOCK_K, steps * BLOCK_K), 0)
    n = pid % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_k = tl.arange(0, BLOCK_K)
    if WIDE:
        n = n.to(tl.int64)
        offs_k = offs_k.to(tl.int64)
    mask_n = n[:, None] < N
    x_ptrs = x + offs_k * stride_xk
    w_ptrs = w + (n[:, None] * stride_wn + offs_k[None, :] * stride_wk)
    acc = tl.zeros((BLOCK_N, BLOCK_K), dtype=ACC)
    for k in range(0, last, BLOCK_K):
        if EVEN_K:
            u = tl.load(x_ptrs)
            v = tl.load(w_ptrs, mask=mask_n, other=0.0)
        else:
            u = tl.load(x_ptrs, mask=offs_k < last - k, other=0.0)
            v = tl.load(w_ptrs, mask=mask_n & (offs_k[None, :] < last - k), other=0.0)
        acc += widened(v, ACC) * widened(u, ACC)[None, :]
        x_ptrs += step_x
        w_ptrs += step_w
    store(
        out, before, tl.sum(acc, 1)[None, :], extras, extra_strides, batch, batch_shape, tl.arange(0, 1), n, 1, N,
        RANK, MODES, FUNCTION, ACTIVATION, BEFORE,
    )  # fmt: skip


# Persistent: each program makes every num_programs-th tile of BLOCK_M x BLOCK_N, and reads and writes what
# `matmul_kernel` does for it. Blocks of a and b are moved by descriptors (TMA from sm_90 on) from where their rows, or
# with A_COLUMNS and B_COLUMNS their columns, lie one after the other. With WARP_SPECIALIZE some warps load, others
# multiply (sm_100). SUBTILE stores the tile in two halves, which need half the shared memory.
@jit
def matmul_descriptor_kernel(
    out, before, a, b, extras, M, N, K, extra_strides, stride_a, stride_b,
    MODES: tl.constexpr, FUNCTION: tl.constexpr, ACTIVATION: tl.constexpr, BEFORE: tl.constexpr,
    A_COLUMNS: tl.constexpr, B_COLUMNS: tl.constexpr, MAPPED: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
    IMPRECISE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr, SUBTILE: tl.constexpr, WARP_SPECIALIZE: tl.constexpr,
):  # fmt: skip
    if A_COLUMNS:
        a_blocks = tl.make_tensor_descriptor(a, [K, M], [stride_a, 1], [BLOCK_K, BLOCK_M])
    else:
        a_blocks = tl.make_tensor_descriptor(a, [M, K], [stride_a, 1], [BLOCK_M, BLOCK_K])
    if B_COLUMNS:
        b_blocks = tl.make_tensor_descriptor(b, [N, K], [stride_b, 1], [BLOCK_N, BLOCK_K])
    else:
        b_blocks = tl.make_tensor_descriptor(b, [K, N], [stride_b, 1], [BLOCK_K, BLOCK_N])
    HALF_N: tl.constexpr = BLOCK_N // 2 if SUBTILE else BLOCK_N
    if MAPPED:
        out_blocks = tl.make_tensor_descriptor(out, [M, N], [N, 1], [BLOCK_M, HALF_N])
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    steps = tl.cdiv(K, BLOCK_K)
    for pid in tl.range(
        tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=not WARP_SPECIALIZE,
        warp_specialize=WARP_SPECIALIZE,
    ):  # fmt: skip
        pid_m, pid_n = place_of(pid, tiles_m, tiles_n, GROUP_M)
        first_m = pid_m * BLOCK_M
        first_n = pid_n * BLOCK_N
        acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=ACC)
        for k in range(steps):
            if A_COLUMNS:
                x = a_blocks.load([k * BLOCK_K, first_m]).T
            else:
                x = a_blocks.load([first_m, k * BLOCK_K])
            if B_COLUMNS:
                y = b_blocks.load([first_n, k * BLOCK_K]).T
            else:
                y = b_blocks.load([k * BLOCK_K, first_n])
            acc = tl.dot(x, y, acc, input_precision=PRECISION, max_num_imprecise_acc=IMPRECISE, out_dtype=ACC)
        m = first_m + tl.arange(0, BLOCK_M)
        if SUBTILE:
            halves = tl.permute(tl.reshape(acc, (BLOCK_M, 2, HALF_N)), (0, 2, 1))
            left, right = tl.split(halves)
            parts = (left, right)
        else:
            parts = (acc,)
        for part in tl.static_range(len(parts)):
            at_n = first_n + part * HALF_N
            n = at_n + tl.arange(0, HALF_N)
            if MAPPED:
                zero = tl.cast(0, tl.int64)
                v = finish(parts[part], extras, extra_strides, zero, (1,), m, n, M, N, 1, MODES, FUNCTION)
                if BEFORE:
                    at = m.to(tl.int64)[:, None] * N + n[None, :]
                    inside = (m[:, None] < M) & (n[None, :] < N)
                    tl.store(before + at, v.to(before.dtype.element_ty), mask=inside)
                if ACTIVATION is not None:
                    v = ACTIVATION(v)
                out_blocks.store([first_m, at_n], v.to(out.dtype.element_ty))
            else:
                store(
                    out, before, parts[part], extras, extra_strides, tl.cast(0, tl.int64), (1,), m.to(tl.int64),
                    n.to(tl.int64), M, N, 1, MODES, FUNCTION, ACTIVATION, BEFORE,
                )  # fmt: skip


def accumulator(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that products of ``dtype`` are summed in."""
    if dtype.kind in "iu":
        return _INT64 if dtype.itemsize == 8 else _INT32
    return _FLOAT64 if dtype == _FLOAT64 else _FLOAT32


def precision(dtype: np.dtype[Any], device: Device) -> str:
    """``input_precision`` of tl.dot for operands of this dtype: what was asked for, where the device has it."""
    how = asked.float32[0]
    return how if how != "ieee" and dtype == _FLOAT32 and how in hardware(device).float32_modes else "ieee"


def contiguous(x: DeviceArray) -> DeviceArray:
    """A contiguous copy."""
    out: DeviceArray = empty(x.shape, x.dtype, x.device)
    copy(out, x)
    return out


def rows(x: DeviceArray, n: int | None = None) -> DeviceArray:
    """(…, n) as (rows, n), n the last size for None: a view where the strides allow one, else of a copy."""
    n = x.shape[-1] if n is None else n
    shape = (x.size // n if n else math.prod(x.shape[:-1]), n)
    try:
        return x.reshape(shape)
    except ValueError:
        return contiguous(x).reshape(shape)


def matmul(out: DeviceArray, input: DeviceArray, other: DeviceArray) -> None:
    """out = input @ other with leading dimensions broadcast; 1-D operands as a row and as a column."""
    a = input[None] if input.ndim == 1 else input
    b = other[:, None] if other.ndim == 1 else other
    product(out, a, b)


def linear(
    out: DeviceArray, input: DeviceArray, weight: DeviceArray, bias: DeviceArray | None, activation: Any = None,
    before: DeviceArray | None = None,
) -> None:  # fmt: skip
    """out = activation(input @ weight.T + bias): one product over all rows of input. before takes what goes into it."""
    n = weight.shape[0] if weight.ndim == 2 else 1
    epilogue = PLAIN
    if bias is not None:
        epilogue = Epilogue(add_to, (rows(expand(bias, out.shape), n),), activation, before)
    elif activation is not None:
        epilogue = Epilogue(None, (), activation, before)
    product(out, rows(input), weight.T if weight.ndim == 2 else weight[:, None], epilogue)


def scaled_product(
    out: DeviceArray, before: DeviceArray | None, input: DeviceArray | None, mat1: DeviceArray, mat2: DeviceArray,
    beta: float, alpha: float, activation: Any, turned: bool,
) -> None:  # fmt: skip
    """out = activation(beta * input + alpha * (mat1 @ mat2)); turned: by mat2.T. before takes what goes into it."""
    if turned:
        mat2 = mat2.T
    a = mat1[None] if mat1.ndim == 1 else mat1
    b = mat2[:, None] if mat2.ndim == 1 else mat2
    if input is not None:
        input = expand(input, out.shape)
        if mat2.ndim == 1:
            input = input[..., None]
        if mat1.ndim == 1:
            input = input[..., None, :]
    number = float if accumulator(a.dtype).kind == "f" else int
    if input is None:
        function, values = (None, ()) if alpha == 1 else (scaled, (number(alpha),))
    elif beta == 1 and alpha == 1:
        function, values = add_to, (input,)
    else:
        function, values = scaled_sum, (input, number(beta), number(alpha))
    product(out, a, b, Epilogue(function, values, activation, before))


def gram(out: DeviceArray, input: DeviceArray, other: DeviceArray) -> None:
    """out = rows(input).T @ rows(other)."""
    product(out, rows(input).T, rows(other))


_NO_E4M3 = ("sm_75", "sm_80", "sm_86", "sm_87")  # targets for which Triton does not convert it


def _widened(a: DeviceArray, b: DeviceArray, gpu: Hardware) -> np.dtype[Any] | None:
    """What operands become in registers: int8 weights the other's dtype, float8 float16 where no unit multiplies it."""
    if a.dtype in _FLOAT8:
        return None if a.dtype == b.dtype and gpu.float8 else _FLOAT16
    return None if a.dtype == b.dtype else a.dtype


def product(
    out: DeviceArray, a: DeviceArray, b: DeviceArray, epilogue: Epilogue | None = None, fast: bool = True
) -> None:
    """out = epilogue(a @ b): a (…, M, K), b (…, K, N), contiguous out of M*N elements for each matrix of the batch.

    b has a's dtype, or is int8 beside floats. Not ``fast``: sums of float8 products in float32 after each 128.
    """
    if not out.size:
        return
    epilogue = epilogue or PLAIN
    made = _Product(a, b, epilogue, fast)
    outs = (out,) if epilogue.before is None else (out, epilogue.before)
    made.run(MATMUL.choose(made.problem, a.device, made.run, outs), *outs)


class _Product:
    """One product as its kernels take it: sizes, strides, the batch collapsed, the epilogue laid out."""

    def __init__(self, a: DeviceArray, b: DeviceArray, epilogue: Epilogue, fast: bool) -> None:
        lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        shape = (*lead, a.shape[-2], b.shape[-1])
        merged = False
        if b.ndim == 2 and a.ndim > 2:
            try:  # one tall matrix instead of a batch
                a = a.reshape((math.prod(a.shape[:-1]), a.shape[-1]))
                lead, merged = (), True
            except ValueError:
                pass
        self.acc = accumulator(a.dtype)
        values, strides = laid_out(epilogue.values, shape, merged, self.acc == _FLOAT64)
        self.M, self.K = a.shape[-2:]
        self.N = b.shape[-1]
        a, b = expand(a, (*lead, self.M, self.K)), expand(b, (*lead, self.K, self.N))
        self.batch_shape, batches = collapse(
            lead, [a.strides[:-2], b.strides[:-2], *[None if s is None else s[:-2] for s in strides]]
        )
        self.a_batch, self.b_batch = batches[:2]
        rank, self.matrices = len(self.batch_shape), math.prod(lead)
        self.extra = lay(values, batches[2:], rank)
        self.gpu, self.how = hardware(a.device), precision(a.dtype, a.device)
        self.wider = _widened(a, b, self.gpu)
        self.slow_sums = a.dtype in _FLOAT8 and self.wider is None and not fast
        self.on_units = tiles.on_matrix_units(a.dtype)
        finishing = epilogue.function, epilogue.activation, epilogue.before is not None
        self.storing = _storing(rank, self.extra.modes, *finishing)
        self.plain = _storing(rank)

        layout = tiles.layout(*a.strides[-2:], a.itemsize, a.ptr) + tiles.layout(*b.strides[-2:], b.itemsize, b.ptr)
        if b.itemsize != a.itemsize:
            layout += f"/{b.dtype}"
        if TILE in self.extra.modes:
            layout += "+"
        how = "sums" if self.slow_sums else self.how
        self.problem = Problem(self.M, self.N, self.K, self.matrices, a.dtype, how, layout)
        if self.gpu.target in _NO_E4M3:
            a, b = (x.view(np.uint8) if x.dtype == _FLOAT8[0] else x for x in (a, b))
        self.a, self.b = a, b

    def run(self, config: Config, out: DeviceArray, before: DeviceArray | None = None) -> None:
        """Make the product with a configuration."""
        split = config.constants.get("SPLIT_K", 1)
        if tiles.by_descriptor(config):
            self._by_descriptor(config, out, before)
        elif split == 1:
            self._tiles(config, out, before, self.extra, self.storing)
        else:
            sums: DeviceArray = empty((self.matrices, split, self.M, self.N), self.acc, out.device)
            self._tiles(config, sums, None, NONE, self.plain)
            add_parts(out, sums, before, self.extra, self.batch_shape, self.storing)

    def _tiles(
        self, config: Config, out: DeviceArray, before: DeviceArray | None, extra: Laid, storing: dict[str, Any]
    ) -> None:
        if tiles.is_vector(config):
            self._vector(config, out, before, extra, storing)
            return
        M, N, K = self.M, self.N, self.K
        m, n, k = config["BLOCK_M"], config["BLOCK_N"], config["BLOCK_K"]
        (stride_am, stride_ak), (stride_bk, stride_bn) = self.a.strides[-2:], self.b.strides[-2:]
        span = max(
            abs(stride_am) * (M + m) + abs(stride_ak) * (K + k), abs(stride_bk) * (K + k) + abs(stride_bn) * (N + n),
            N * (M + m) + n, extra.span,
        )  # fmt: skip
        launch(
            matmul_kernel, (cdiv(M, m) * cdiv(N, n) * self.matrices * config["SPLIT_K"],), out, before, self.a, self.b,
            extra.extras, M, N, K, self.batch_shape, self.a_batch, self.b_batch, extra.strides,
            stride_am, stride_ak, stride_bk, stride_bn,
            EVEN_K=K % k == 0, WIDE=span >= 1 << 31, DOT=self.on_units, ACC=self.acc, PRECISION=self.how,
            IMPRECISE=min(k, 128) if self.slow_sums else None, WIDEN=self.wider, **storing, **config.launch,
        )  # fmt: skip

    def _vector(
        self, config: Config, out: DeviceArray, before: DeviceArray | None, extra: Laid, storing: dict[str, Any]
    ) -> None:
        x, w, x_batch, w_batch = self.a, self.b, self.a_batch, self.b_batch
        count, (step_w, stride_wn), step_x = self.N, w.strides[-2:], x.strides[-1]
        if self.N == 1 and self.M > 1:  # a column: (b.T @ a.T).T
            x, w, x_batch, w_batch = w, x, w_batch, x_batch
            count, (stride_wn, step_w), step_x = self.M, w.strides[-2:], x.strides[-2]
            extra = extra.swapped
            storing = {**storing, "MODES": extra.modes}
        K, n, k = self.K, config["BLOCK_N"], config["BLOCK_K"]
        span = max(abs(stride_wn) * (count + n) + abs(step_w) * (K + k), abs(step_x) * (K + k), count + n, extra.span)
        launch(
            gemv_kernel, (cdiv(count, n) * self.matrices * config["SPLIT_K"],), out, before, x, w, extra.extras, count,
            K, self.batch_shape, x_batch, w_batch, extra.strides, step_x, step_w, stride_wn,
            EVEN_K=K % k == 0, WIDE=span >= 1 << 31, ACC=self.acc, **storing, **config.launch,
        )  # fmt: skip

    def _by_descriptor(self, config: Config, out: DeviceArray, before: DeviceArray | None) -> None:
        count = cdiv(self.M, config["BLOCK_M"]) * cdiv(self.N, config["BLOCK_N"])
        (stride_am, stride_ak), (stride_bk, stride_bn) = self.a.strides[-2:], self.b.strides[-2:]
        storing = {name: value for name, value in self.storing.items() if name != "RANK"}
        launch(
            matmul_descriptor_kernel, (min(count, self.gpu.multiprocessors),), out, before, self.a, self.b,
            self.extra.extras, self.M, self.N, self.K, self.extra.strides,
            stride_am if stride_ak == 1 else stride_ak, stride_bk if stride_bn == 1 else stride_bn,
            A_COLUMNS=stride_ak != 1, B_COLUMNS=stride_bn != 1,
            MAPPED=self.N * out.itemsize % 16 == 0 and out.ptr % 16 == 0, ACC=self.acc, PRECISION=self.how,
            IMPRECISE=min(config["BLOCK_K"], 128) if self.slow_sums else None, **storing, **config.launch,
        )  # fmt: skip


def _storing(
    rank: int = 1, modes: tuple[int, ...] = (), function: Jit | None = None, activation: Jit | None = None,
    before: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The constants of `store`."""
    return {"RANK": rank, "MODES": modes, "FUNCTION": function, "ACTIVATION": activation, "BEFORE": before}


def add_parts(
    out: DeviceArray, sums: DeviceArray, before: DeviceArray | None = None, extra: Laid = NONE,
    batch_shape: tuple[int, ...] = (1,), storing: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """out = the epilogue of the sums over the second dimension of partial sums (batch, parts, M, N)."""
    matrices, split, M, N = sums.shape
    gpu = hardware(out.device)
    lanes = 128 if gpu.on_host else 4 * gpu.warp_size
    n = min(next_power_of_2(N), 256)
    m = min(next_power_of_2(M), max(1, 4 * lanes // n))  # 16 bytes a lane
    launch(
        split_k_sum_kernel, (cdiv(M, m) * cdiv(N, n) * matrices,), out, before, sums, extra.extras, M, N,
        batch_shape, extra.strides, SPLIT_K=split, WIDE=max(M * N, extra.span) + m * n >= 1 << 31, BLOCK_M=m,
        BLOCK_N=n, num_warps=4 if m * n >= 4 * lanes else 1, **(storing or _storing()),
    )  # fmt: skip


def noise(shape: tuple[int, ...], dtype: np.dtype[Any], device: Device) -> DeviceArray:
    """Normal numbers that repeat after some thousands: zeros would be multiplied faster, and compare equal."""
    made: DeviceArray
    if device.compile_only:
        made = empty(shape, dtype, device)
    else:
        numbers = np.random.default_rng(0).standard_normal(65521).astype(dtype)
        made = to_device(np.resize(numbers, shape), device)
    return made


def _examples(device: Device) -> Iterator[tuple[str, Callable[[], None]]]:
    """Products of transformers: projections and their gradients, and one token at a time."""
    for dtype in (np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16), _FLOAT32):
        for tokens, width in ((4096, 768), (8192, 1024), (8192, 4096), (16, 4096), (1, 4096)):
            for M, N, K in ((tokens, width, width), (tokens, 4 * width, width), (tokens, width, 4 * width)):
                text = f"({M}, {K}) @ ({K}, {N}) {dtype}"
                yield text, lambda M=M, N=N, K=K, dtype=dtype: _example(M, N, K, dtype, device, False)
                if tokens > 16:  # the gradient of the weight
                    text = f"({K}, {M}) @ ({M}, {N}) {dtype}"
                    yield text, lambda M=K, N=N, K=M, dtype=dtype: _example(M, N, K, dtype, device, True)


def _example(M: int, N: int, K: int, dtype: np.dtype[Any], device: Device, gradient: bool) -> None:
    """A product of made-up numbers, as a layer (its weight transposed) or its weight's gradient does it."""
    a = noise((K, M), dtype, device).T if gradient else noise((M, K), dtype, device)
    b = noise((K, N), dtype, device) if gradient else noise((N, K), dtype, device).T
    matmul(empty((M, N), dtype, device), a, b)


MATMUL = Tunable(
    "matmul", (matmul_kernel, split_k_sum_kernel, gemv_kernel, matmul_descriptor_kernel), tiles.candidates, tiles.key,
    tiles.cost, fit=tiles.fit, examples=_examples, version=2,
)  # fmt: skip
