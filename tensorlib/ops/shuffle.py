"""Channels rearranged among themselves and with the pixels of an image."""

from __future__ import annotations

from typing import Any

from tensorlib._core import Tensor
from tensorlib._dispatch import as_int
from tensorlib._samples import draw, each, ints, transposed
from tensorlib.errors import ArgumentError, ShapeError
from tensorlib.op import composite


def _factor(name: str, input: Tensor, label: str, value: Any) -> int:
    factor = as_int(name, label, value)
    if input.ndim < 3:
        raise ShapeError(f"{name}: expects input to have at least 3 dimensions, but got input with {input.ndim}")
    if factor <= 0:
        raise ArgumentError(f"{name}: expects a positive {label}, but got {factor}")
    return factor


@composite(
    on="function functional",
    samples=each(draw((1, 4, 2, 3), 2), draw((9, 1, 2), 3), draw((2, 1, 4, 2, 2), 2), draw(transposed(4, 2, 3), 2),
                 draw(ints(4, 2, 2), 2)),
)  # fmt: skip
def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """out[…, c, h r + i, w r + j] = input[…, (c r + i) r + j, h, w]: (…, C r², H, W) -> (…, C, H r, W r).

    ShapeError where r² does not divide the channels. Shi et al. 2016.
    """
    r = _factor("pixel_shuffle", input, "upscale_factor", upscale_factor)
    x: Any = input
    *batch, c, h, w = x.shape
    if c % (r * r):
        raise ShapeError(
            f"pixel_shuffle: expects its input's 'channel' dimension to be divisible by the square of upscale_factor, "
            f"but input.size(-3)={c} is not divisible by {r * r}"
        )
    n = len(batch)
    parts = x.reshape((*batch, c // (r * r), r, r, h, w))
    order = (*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return parts.permute(order).reshape((*batch, c // (r * r), h * r, w * r))  # type: ignore[no-any-return]


@composite(
    on="function functional",
    samples=each(draw((1, 1, 4, 6), 2), draw((2, 3, 6), 3), draw((2, 1, 2, 2, 4), 2), draw(transposed(2, 4, 6), 2),
                 draw(ints(2, 4, 2), 2)),
)  # fmt: skip
def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """out[…, (c r + i) r + j, h, w] = input[…, c, h r + i, w r + j]: (…, C, H r, W r) -> (…, C r², H, W)."""
    r = _factor("pixel_unshuffle", input, "downscale_factor", downscale_factor)
    x: Any = input
    *batch, c, h, w = x.shape
    if h % r or w % r:
        raise ShapeError(
            f"pixel_unshuffle: expects height and width to be divisible by downscale_factor, but {(h, w)} are not "
            f"divisible by {r}"
        )
    n = len(batch)
    parts = x.reshape((*batch, c, h // r, r, w // r, r))
    order = (*range(n), n, n + 2, n + 4, n + 1, n + 3)
    return parts.permute(order).reshape((*batch, c * r * r, h // r, w // r))  # type: ignore[no-any-return]


@composite(
    on="function functional",
    alias=("native_channel_shuffle",),
    samples=each(draw((1, 4, 2, 3), 2), draw((2, 6, 3), 3), draw(transposed(2, 4, 3), 2), draw(ints(1, 4, 2, 2), 4)),
)
def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """out[n, k g + i] = input[n, i (C / g) + k]: the channels of ``groups`` groups in turn. (N, C, …) -> the same.

    ShapeError where groups does not divide C. Zhang et al. 2018.
    """
    g = _factor("channel_shuffle", input, "groups", groups)
    x: Any = input
    n, c, *rest = x.shape
    if c % g:
        raise ShapeError(f"channel_shuffle: Number of channels must be divisible by groups. Got {c} channels and {g}")
    return x.reshape((n, g, c // g, *rest)).transpose(1, 2).reshape(x.shape)  # type: ignore[no-any-return]
