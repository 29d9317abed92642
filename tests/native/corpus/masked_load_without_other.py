"""What a masked load without `other` is filled with was an integer in the text of a float vector."""

import triton
import triton.language as tl

GRID = (2,)


@triton.jit
def kernel(tm_f32, in_f32, n2, n5, out_f32):
    pid = tl.program_id(0)
    i = tl.arange(0, 16)
    x = tl.where(pid >= 1, tl.load(tm_f32 + pid * 16 + i * n5, mask=pid >= 1), 1.0)
    y = tl.load(in_f32 + (4096 - n2) + i, mask=i < n2, other=x)
    z = tl.where(pid < 1, tl.load(tm_f32 + 879 + i, mask=pid < 1), 2.0)
    tl.store(out_f32 + pid * 64 + i, y)
    tl.store(out_f32 + pid * 64 + 16 + i, tl.abs(tl.fma(z, z, z)))
