"""A masked store of bfloat16 wrote a lane next to the one that the mask allows."""

import triton
import triton.language as tl

GRID = (1,)


@triton.jit
def kernel(in_f32, n1, out_bf16):
    i = tl.arange(0, 16)
    x = tl.load(in_f32 + i.to(tl.int64))
    tl.store(out_bf16 + i, tl.fma(x, 1.0, x).to(tl.bfloat16), mask=i < n1)
