"""Tiles and tiles of pointers that a loop exchanges."""

import triton
import triton.language as tl

GRID = (1,)


@triton.jit
def kernel(in_i32, n5, out_i32):
    i = tl.arange(0, 32)
    p = in_i32 + i
    q = in_i32 + 300 + (i ^ 3)
    a = tl.load(p)
    b = tl.load(q)
    for k in range(n5):
        c = tl.maximum(b, 1) + k
        a, b = b, a + tl.load(p)
        b = b * c
        if k % 2 == 0:
            p += 16
        p, q = q, p
    tl.store(out_i32 + i, a)
    tl.store(out_i32 + 32 + i, b)
    tl.store(out_i32 + 64 + i, tl.load(p))
