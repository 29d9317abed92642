"""The same elements in another order: strided copies."""

from __future__ import annotations

from collections.abc import Sequence

from tensorlib._array import DeviceArray
from tensorlib.kernels import pointwise


def flip(out: DeviceArray, input: DeviceArray, dims: Sequence[int]) -> None:
    """out = input with ``dims`` in reverse order."""
    pointwise.copy(out, input[tuple(slice(None, None, -1) if d in dims else slice(None) for d in range(input.ndim))])


def roll(out: DeviceArray, input: DeviceArray, shifts: Sequence[int], dims: Sequence[int]) -> None:
    """out = input moved along ``dims``, what leaves at one end coming in at the other: one copy a piece."""
    if not out.size:
        return
    pieces: list[tuple[list[slice], list[slice]]] = [([slice(None)] * out.ndim, [slice(None)] * out.ndim)]
    for d, shift in zip(dims, shifts, strict=True):
        n = out.shape[d]
        k = shift % n
        cut = [(slice(k, n), slice(0, n - k)), (slice(0, k), slice(n - k, n))] if k else [(slice(None), slice(None))]
        pieces = [
            ([*to[:d], a, *to[d + 1 :]], [*source[:d], b, *source[d + 1 :]]) for to, source in pieces for a, b in cut
        ]
    for to, source in pieces:
        pointwise.copy(out[tuple(to)], input[tuple(source)])
