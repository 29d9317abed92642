"""Rotary position embedding."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dtypes import OF_NUMPY
from tensorlib._promotion import PROMOTE
from tensorlib._samples import Draw, between, draw, each, fails, ints, strided, transposed
from tensorlib.errors import DtypeError, ShapeError
from tensorlib.kernels import rotary as kernels
from tensorlib.op import Array, composite, op
from tensorlib.ops.joining import cat, stack


def _spec(input: Any, cos: Any, sin: Any, interleaved: bool, back: bool) -> Any:
    name = "rotary_embedding"
    for label, x in (("input", input), ("cos", cos), ("sin", sin)):
        if not OF_NUMPY[x.dtype].is_floating_point:
            raise DtypeError(f"{name}: {label} is {OF_NUMPY[x.dtype]}: expected floating-point numbers")
    x, c, s = tuple(input.shape), tuple(cos.shape), tuple(sin.shape)
    if not x or not c or c != s or 2 * c[-1] > x[-1]:
        raise ShapeError(
            f"{name}: input {x}, cos {c}, sin {s}: expected cos and sin of one shape (…, r / 2) for input (…, d), "
            f"d >= r"
        )
    fits = len(c) <= len(x) and all(n in (1, m) for n, m in zip(c[-2::-1], x[-2::-1], strict=False))
    if not fits:
        raise ShapeError(
            f"{name}: cos and sin {c} do not broadcast to the leading sizes of input {x}: for input (batch, heads, "
            f"positions, d) they are (positions, r / 2), for (batch, positions, heads, d) cos[:, None]"
        )
    return x, input.dtype


def _parts(x: Any, half: int, interleaved: bool) -> Any:
    """The first and the second features of the pairs."""
    turned = x.narrow(-1, 0, 2 * half)
    if interleaved:
        pairs = turned.unflatten(-1, (half, 2))
        return pairs.select(-1, 0), pairs.select(-1, 1)
    return turned.narrow(-1, 0, half), turned.narrow(-1, half, half)


def _angle_vjp(g: Any, input: Any, cos_shape: Any, interleaved: bool, sine: bool, back: bool) -> Any:
    """The gradient of the cosines, or of the sines."""
    v, w = _parts(input, cos_shape[-1], interleaved)
    a, b = _parts(g, cos_shape[-1], interleaved)
    if not sine:
        return (a * v + b * w).sum_to_size(cos_shape)
    slope = b * v - a * w
    return (-slope if back else slope).sum_to_size(cos_shape)


def _composite(input: Any, cos: Any, sin: Any, interleaved: bool, back: bool) -> Tensor:
    half = cos.shape[-1]
    v, w = _parts(input, half, interleaved)
    sin = -sin if back else sin
    turned = v * cos - w * sin, v * sin + w * cos
    out: Any = stack(turned, -1).flatten(-2) if interleaved else cat(turned, -1)
    rest = input.narrow(-1, 2 * half, input.shape[-1] - 2 * half)
    return cat([out.to(input.dtype), rest], -1)


_HALVES: Any = dict(interleaved=False, back=False)


@op(
    spec=_spec,
    kernel=kernels.rotary,
    promote=PROMOTE.over("input"),
    vjp=dict(
        input=lambda g, cos, sin, interleaved, back: _rotary(g, cos, sin, interleaved, not back),
        cos=lambda g, input, cos_shape, interleaved, back: _angle_vjp(g, input, cos_shape, interleaved, False, back),
        sin=lambda g, input, sin_shape, interleaved, back: _angle_vjp(g, input, sin_shape, interleaved, True, back),
    ),
    composite=_composite,
    on="",
    samples=each(
        draw((2, 3, 8), (3, 4), (3, 4), **_HALVES), draw((2, 3, 8), (3, 4), (3, 4), interleaved=True, back=False),
        draw((2, 5, 3, 11), (5, 1, 4), (5, 1, 4), **_HALVES),
        draw((2, 5, 3, 11), (2, 1, 3, 5), (2, 1, 3, 5), interleaved=True, back=True),
        draw(transposed(5, 6), (3,), (3,), **_HALVES), draw(strided(7, 6), strided(7, 2), (7, 2), **_HALVES),
        draw((0, 3, 8), (3, 4), (3, 4), **_HALVES), draw((70, 130), (70, 65), (70, 65), interleaved=False, back=True),
        draw((3, 2), (3, 1), (3, 1), interleaved=True, back=False),
    ),
    errors=[
        fails((3, 8), (3, 5), (3, 5), match="d >= r", **_HALVES),
        fails((3, 8), (4, 4), (4, 4), match="do not broadcast", **_HALVES),
        fails(ints(3, 8), (3, 4), (3, 4), match="floating-point", error=DtypeError, **_HALVES),
    ],
    bench=[draw((8, 32, 2048, 128), (2048, 64), (2048, 64), **_HALVES)],
    bytes=lambda input, cos, sin, **_: 2 * input.nbytes + cos.nbytes + sin.nbytes,
)  # fmt: skip
def _rotary(input: Array, cos: Array, sin: Array, interleaved: bool, back: bool):
    """The pairs (v, w) of input's features as (v cos - w sin, v sin + w cos); ``back``: turned the other way."""
    half = cos.shape[-1]
    c, s = cos.astype(input.dtype, copy=False), sin.astype(input.dtype, copy=False)
    s = -s if back else s
    out = np.empty(input.shape, input.dtype)
    first, second = slice(half), slice(half, 2 * half)
    if interleaved:
        first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
    v, w = input[..., first], input[..., second]
    np.multiply(v, c, out=out[..., first])
    out[..., first] -= w * s
    np.multiply(w, c, out=out[..., second])
    out[..., second] += v * s
    out[..., 2 * half :] = input[..., 2 * half :]
    return out


@composite(
    on="functional",
    samples=each(
        draw((2, 3, 8), (3, 4), (3, 4)), draw((2, 3, 8), (3, 4), (3, 4), interleaved=True),
        draw((2, 5, 3, 11), between(-1, 1, 5, 1, 4), between(-1, 1, 5, 1, 4)),
        draw((3, 8), Draw((3, 4), grad=False), Draw((3, 4), grad=False)),
    ),
)  # fmt: skip
def rotary_embedding(input: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    """(v, w) -> (v cos - w sin, v sin + w cos) for pairs of features. An extension beyond PyTorch. Su et al. 2021.

    input (…, d); cos and sin (…, r / 2) with r <= d, which broadcast to input's leading sizes: for input (batch, heads,
    positions, d) they are (positions, r / 2), for (batch, positions, heads, d) ``cos[:, None]``. The pairs are
    (i, i + r / 2), the halves of the first r features (GPT-NeoX, Llama of Hugging Face), or with ``interleaved``
    neighbours, (2 i, 2 i + 1) (GPT-J, Meta's Llama). The features from r on stay. Computed in float32 or wider, and
    rounded once to input's dtype; the gradient turns back. ShapeError names the shapes.
    """
    return _rotary(input, cos, sin, bool(interleaved), False)
