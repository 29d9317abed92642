"""Embeddings: rows of a table, and the deterministic sum of gradients into them."""

from __future__ import annotations

from tensorlib._array import DeviceArray
from tensorlib.kernels.indexing import contiguous, rows, zero
from tensorlib.kernels.segments import join


def embedding(
    out: DeviceArray, input: DeviceArray, weight: DeviceArray, padding_idx: int, scale_grad_by_freq: bool
) -> None:
    """out = weight[input]."""
    rows(out, contiguous(weight), contiguous(input), False)


def embedding_grad(
    out: DeviceArray, g: DeviceArray, input: DeviceArray, num_weights: int, padding_idx: int, scale_grad_by_freq: bool
) -> None:
    """out[input] += g in the order of the tokens; rows of ``padding_idx`` stay 0."""
    zero(out)
    if not g.size or not out.size:
        return
    index = contiguous(input)
    keys = DeviceArray(index.ptr, (index.size,), (1,), index.dtype, index.device, index.owner)
    join(
        out, keys, contiguous(g), [(num_weights, out.shape[1])], [(out.shape[1], 1)], fresh=True,
        scale=scale_grad_by_freq, skip=padding_idx,
    )  # fmt: skip
