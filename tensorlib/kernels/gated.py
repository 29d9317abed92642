"""The gradient of activation(x) y, both parts of it in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorlib._array import DeviceArray, expand
from tensorlib.kernels.indexing import contiguous
from tensorlib.kernels.pointwise import collapse
from tensorlib.kernels.reduction import compute_dtype
from tensorlib.runtime.compiler import Jit, jit
from tensorlib.runtime.hardware import vector_warps
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 1024


# One program owns BLOCK elements of a row: reads g, x and y, writes g y activation'(x) and g activation(x); without
# fusion each would be made in a pass of its own, from a stored activation(x): 5 instead of 8 numbers an element moved.
@jit
def gated_grad_kernel(
    dx, dy, g, x, y, N, stride_gm, stride_gn, stride_xm, stride_xn, stride_ym, stride_yn,
    ACTIVATION: tl.constexpr, DERIVATIVE: tl.constexpr, COMPUTE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(N, BLOCK)
    m = tl.program_id(0) // tiles
    n = tl.program_id(0) % tiles
    if WIDE:
        m = m.to(tl.int64)
        n = n.to(tl.int64)
    n = n * BLOCK + tl.arange(0, BLOCK)
    mask = n < N
    dv = tl.load(g + m * stride_gm + n * stride_gn, mask=mask, other=0.0).to(COMPUTE)
    v = tl.load(x + m * stride_xm + n * stride_xn, mask=mask, other=0.0).to(COMPUTE)
    w = tl.load(y + m * stride_ym + n * stride_yn, mask=mask, other=0.0).to(COMPUTE)
    to = m * N + n
    tl.store(dx + to, DERIVATIVE(dv * w, v).to(dx.dtype.element_ty), mask=mask)
    tl.store(dy + to, (dv * ACTIVATION(v)).to(dy.dtype.element_ty), mask=mask)


def gated_grad(
    dx: DeviceArray, dy: DeviceArray, g: DeviceArray, x: DeviceArray, y: DeviceArray, activation: Jit, derivative: Jit
) -> None:
    """dx = g y activation'(x), dy = g activation(x), of g's shape; ``derivative(g, x)`` is g activation'(x)."""
    if not g.size:
        return
    given = [g, expand(x, g.shape), expand(y, g.shape)]
    shape, strides = collapse(g.shape, [a.strides for a in given])
    if len(shape) > 2:
        given = [contiguous(a) for a in given]
        shape, strides = collapse(g.shape, [a.strides for a in given])
    N = shape[-1]
    M = g.size // N
    steps = [step for s in strides for step in ((0, *s)[-2:])]
    block = min(BLOCK, next_power_of_2(N))
    reach = max(abs(a) * (M - 1) + abs(b) * (N + block) for a, b in zip(steps[::2], steps[1::2], strict=True))
    launch(
        gated_grad_kernel, (M * cdiv(N, block),), dx, dy, *given, N, *steps, ACTIVATION=activation,
        DERIVATIVE=derivative, COMPUTE=compute_dtype(g.dtype), WIDE=max(reach, g.size + block) >= 1 << 31, BLOCK=block,
        num_warps=vector_warps(g.device, block, g.itemsize),
    )  # fmt: skip
