"""Kernels as other packages have them: decorated by Triton itself."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def shift_kernel(out, x, n, by, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n) + by, mask=i < n)


@triton.heuristics({"EVEN": lambda args: args["n"] % args["BLOCK"] == 0})
@triton.jit
def even_kernel(out, n, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, i * 0 + EVEN, mask=i < n)


@triton.jit(do_not_specialize=["by"])
def unspecialised_kernel(out, by):
    tl.store(out, by)


def tuned():
    """A kernel with configurations: made when asked for, as Triton wants a GPU for it in some versions."""
    configs = [triton.Config({"BLOCK": b}, num_warps=w) for b, w in ((16, 1), (64, 2), (256, 4))]
    return triton.autotune(configs=configs, key=["n"])(shift_kernel)
