"""A float64 NaN as a 32-bit integer is the top bit alone, as PTX has it; it was zero."""

import triton
import triton.language as tl

GRID = (1,)


@triton.jit
def kernel(in_f64, in_f32, out_u32, out_i32, out_i64):
    i = tl.arange(0, 512)
    x = tl.load(in_f64 + i)
    y = tl.load(in_f32 + i)
    tl.store(out_u32 + i, x.to(tl.uint32))
    tl.store(out_i32 + i, x.to(tl.int32))
    tl.store(out_i64 + i, x.to(tl.int64))
    tl.store(out_u32 + 512 + i, y.to(tl.uint32))
    tl.store(out_i32 + 512 + i, y.to(tl.int32))
    tl.store(out_i64 + 512 + i, y.to(tl.int64))
