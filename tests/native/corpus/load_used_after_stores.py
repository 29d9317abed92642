"""A load is what memory held when it was made, however late its value is used."""

import triton
import triton.language as tl

GRID = (1,)


@triton.jit
def kernel(io_f32, io_f32_at1, out_f32, n4):
    i = tl.arange(0, 32)
    before = tl.load(io_f32 + i)
    tl.store(io_f32_at1 + i, before * 2.0)
    between = tl.load(io_f32 + i)
    for k in range(n4):
        after = tl.load(io_f32 + i)
        tl.store(io_f32 + 31 - i, after)
        tl.store(out_f32 + k * 32 + i, after)
        before = tl.where(i < k, before, after)
    tl.store(out_f32 + 256 + i, before)
    tl.store(out_f32 + 288 + i, between)
