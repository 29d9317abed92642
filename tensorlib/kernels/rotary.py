"""Rotary position embedding: pairs of features turned by angles whose cosines and sines are given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorlib._array import DeviceArray, expand
from tensorlib.kernels.pointwise import collapse
from tensorlib.kernels.reduction import compute_dtype, strided
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2

if TYPE_CHECKING:
    import triton.language as tl

TILE = 1024  # pairs of features a program holds


# One program owns BLOCK_M vectors of D features, of which the first 2 H are turned: pair i by angle i, and what is left
# is copied. Pairs are (i, i + H), or with INTERLEAVED neighbours, (2 i, 2 i + 1). BACK turns the other way. Reads x,
# the cosines and the sines once each (those of a position are in the cache for the heads that share them), writes as
# much as x. Su et al. 2021.
@jit
def rotary_kernel(
    out, x, cos, sin, M, H, D, kept_shape, stride_xm, stride_cm, stride_sm, stride_xd, stride_cd, stride_sd,
    INTERLEAVED: tl.constexpr, BACK: tl.constexpr, REST: tl.constexpr, COMPUTE: tl.constexpr, KEPT: tl.constexpr,
    WIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0)
    i = tl.arange(0, BLOCK_H)[None, :]
    if WIDE:
        m = m.to(tl.int64)
        i = i.to(tl.int64)
    m = m * BLOCK_M + tl.arange(0, BLOCK_M)
    rows = (m < M)[:, None]
    mask = rows & (i < H)
    from_ = x + strided(m, kept_shape, stride_xm, KEPT)[:, None]
    to = out + (m * D)[:, None]
    c = tl.load(cos + strided(m, kept_shape, stride_cm, KEPT)[:, None] + i * stride_cd, mask=mask, other=0.0)
    s = tl.load(sin + strided(m, kept_shape, stride_sm, KEPT)[:, None] + i * stride_sd, mask=mask, other=0.0)
    c = c.to(COMPUTE)
    s = s.to(COMPUTE)
    if BACK:
        s = -s
    if INTERLEAVED:  # pairs are loaded and stored as neighbours, and parted in registers
        near = tl.arange(0, 2 * BLOCK_H)[None, :]
        if WIDE:
            near = near.to(tl.int64)
        both = rows & (near < 2 * H)
        pairs = tl.load(from_ + near * stride_xd, mask=both, other=0.0).to(COMPUTE)
        v, w = tl.split(tl.reshape(pairs, (BLOCK_M, BLOCK_H, 2)))
        turned = tl.reshape(tl.join(v * c - w * s, v * s + w * c), (BLOCK_M, 2 * BLOCK_H))
        tl.store(to + near, turned.to(out.dtype.element_ty), mask=both)
    else:
        v = tl.load(from_ + i * stride_xd, mask=mask, other=0.0).to(COMPUTE)
        w = tl.load(from_ + (i + H) * stride_xd, mask=mask, other=0.0).to(COMPUTE)
        tl.store(to + i, (v * c - w * s).to(out.dtype.element_ty), mask=mask)
        tl.store(to + i + H, (v * s + w * c).to(out.dtype.element_ty), mask=mask)
    if REST:
        for at in range(0, D - 2 * H, BLOCK_H):
            d = 2 * H + at + i
            kept = rows & (d < D)
            tl.store(to + d, tl.load(from_ + d * stride_xd, mask=kept), mask=kept)


def rotary(
    out: DeviceArray, input: DeviceArray, cos: DeviceArray, sin: DeviceArray, interleaved: bool, back: bool
) -> None:
    """out = input with its pairs of features turned; cos and sin broadcast to (…, half of what is turned)."""
    if not out.size:
        return
    lead, D, H = input.shape[:-1], input.shape[-1], cos.shape[-1]
    angles = [expand(a, (*lead, H)) for a in (cos, sin)]
    kept_shape, kept = collapse(lead, [a.strides[:-1] for a in (input, *angles)])
    M = out.size // D
    block_h = next_power_of_2(max(H, 1))
    block_m = min(next_power_of_2(M), max(TILE // block_h, 1))
    spans = [sum(abs(s) * (n - 1) for s, n in zip(a.strides, a.shape, strict=True)) for a in (input, *angles)]
    launch(
        rotary_kernel, (cdiv(M, block_m),), out, input, *angles, M, H, D, kept_shape, *kept, input.strides[-1],
        *(a.strides[-1] for a in angles), INTERLEAVED=bool(interleaved), BACK=bool(back), REST=2 * H < D,
        COMPUTE=compute_dtype(input.dtype), KEPT=len(kept_shape),
        WIDE=max(*spans, out.size + block_m * D + block_h) >= 1 << 31, BLOCK_M=block_m, BLOCK_H=block_h,
    )  # fmt: skip
