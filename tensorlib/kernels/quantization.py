"""Rows of floating-point numbers as int8 with a scale for each row, or for each group of neighbours in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorlib._array import DeviceArray
from tensorlib.kernels.indexing import contiguous
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl
    from triton.language.extra import libdevice

TILE = 4096  # elements a program takes at a time


# One program owns BLOCK_M groups of N neighbours: the largest |x| of each becomes 127. Reads x once where BLOCK_N
# covers a group, otherwise again from the cache; writes a byte an element and a scale a group. Zeros have scale 1.
@jit
def quantize_kernel(
    out, scale, x, M, N, WIDE: tl.constexpr, ONE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    m = tl.program_id(0)
    if WIDE:
        m = m.to(tl.int64)
    m = m * BLOCK_M + tl.arange(0, BLOCK_M)
    lane = tl.arange(0, BLOCK_N)[None, :]
    rows = (m < M)[:, None]
    row = (m * N)[:, None]
    if ONE:
        v = tl.load(x + row + lane, mask=rows & (lane < N), other=0.0).to(tl.float32)
        high = tl.max(tl.abs(v), 1)
    else:
        top = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for at in range(0, N, BLOCK_N):
            n = at + lane
            top = tl.maximum(top, tl.abs(tl.load(x + row + n, mask=rows & (n < N), other=0.0).to(tl.float32)))
        high = tl.max(top, 1)
    step = tl.where(high == 0, 1.0, tl.div_rn(high, 127.0))
    tl.store(scale + m, step, mask=m < M)
    if ONE:
        tl.store(out + row + lane, libdevice.nearbyint(tl.div_rn(v, step[:, None])).to(tl.int8), mask=rows & (lane < N))
    else:
        for at in range(0, N, BLOCK_N):
            n = at + lane
            mask = rows & (n < N)
            v = tl.load(x + row + n, mask=mask, other=0.0).to(tl.float32)
            tl.store(out + row + n, libdevice.nearbyint(tl.div_rn(v, step[:, None])).to(tl.int8), mask=mask)


def quantize_int8(out: DeviceArray, scale: DeviceArray, input: DeviceArray, group_size: int) -> None:
    """out, scale: ``input`` by groups of ``group_size`` neighbours in its last dimension."""
    M, N = scale.size, group_size
    if not out.size:
        return
    one = N <= TILE
    block_n = next_power_of_2(N) if one else TILE
    block_m = min(next_power_of_2(M), max(TILE // 2 // block_n, 1))
    launch(
        quantize_kernel, (cdiv(M, block_m),), out, scale, contiguous(input), M, N,
        WIDE=out.size + block_m * block_n >= 1 << 31, ONE=one, BLOCK_M=block_m, BLOCK_N=block_n,
        num_warps=8 if block_m * block_n > 2048 else 4,
    )  # fmt: skip
