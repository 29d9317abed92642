"""store(x + i, load(x + N - 1 - i)), at once and through another name of the same memory."""

import triton
import triton.language as tl

GRID = (1,)


@triton.jit
def kernel(io_f32, io_f32_at0, io_i32, io_i32_at5):
    i = tl.arange(0, 64)
    tl.store(io_f32 + i, tl.load(io_f32 + 63 - i))
    tl.store(io_f32_at0 + 64 + i, tl.load(io_f32 + 100 - i))
    tl.store(io_i32 + 1 + i, tl.load(io_i32 + i) + tl.load(io_i32_at5 + i))
    tl.store(io_i32_at5 + 63 - i, tl.load(io_i32 + 8 + i))
