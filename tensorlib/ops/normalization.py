"""Layer, RMS, batch, group and instance normalization: fused forwards and gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlib._core import Tensor, listening, modes, version_of
from tensorlib._dtypes import HALF, OF_NUMPY, finfo
from tensorlib._promotion import PROMOTE, category
from tensorlib._samples import between, draw, each, fails, ints, strided, transposed
from tensorlib.errors import ArgumentError, DtypeError, ShapeError
from tensorlib.kernels import normalization as kernels
from tensorlib.op import Array, Ints, composite, into, op
from tensorlib.ops import _few_numpy as few
from tensorlib.ops._reduction import _ones, column_sums, row_sums
from tensorlib.ops.arithmetic import addcmul
from tensorlib.ops.create import ones, zeros
from tensorlib.ops.joining import pad
from tensorlib.ops.norms import vector_norm
from tensorlib.ops.pooling import avg_pool2d
from tensorlib.ops.selection import clamp_min

_F32 = np.dtype(np.float32)


def _statistics_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return _F32 if dtype in HALF else dtype


def _floating(name: str, input: Any) -> None:
    if category(input.dtype) != 2:
        raise DtypeError(
            f"{name}: takes floating-point tensors, got {OF_NUMPY[input.dtype]}: convert it, as in input.float()"
        )


def _like(weight: Any, x: np.ndarray) -> Any:
    """A weight in the dtype of the computation."""
    return weight if weight is None or weight.dtype == x.dtype else weight.astype(x.dtype)


# ------------------------------------------------------------------------------------------------ layer and RMS norm


def _layer_shapes(name: str, input: Any, normalized_shape: tuple[int, ...], weight: Any, bias: Any) -> tuple[int, ...]:
    """The shape of the statistics, or what does not fit."""
    _floating(name, input)
    columns = len(normalized_shape)
    if not columns:
        raise ShapeError(f"{name}: Expected normalized_shape to be at least 1-dimensional, got {normalized_shape}")
    for label, w in (("weight", weight), ("bias", bias)):
        if w is not None and tuple(w.shape) != normalized_shape:
            raise ShapeError(
                f"{name}: Expected {label} to be of same shape as normalized_shape, but got {label} of shape "
                f"{tuple(w.shape)} and normalized_shape = {normalized_shape}"
            )
    if tuple(input.shape[-columns:]) != normalized_shape:
        raise ShapeError(
            f"{name}: Given normalized_shape={list(normalized_shape)}, expected input with shape "
            f"{['*', *normalized_shape]}, but got input of size {tuple(input.shape)}"
        )
    return tuple(input.shape[: input.ndim - columns])


def _rows(x: np.ndarray, normalized_shape: tuple[int, ...]) -> np.ndarray:
    n = math.prod(normalized_shape)
    return x.reshape(x.size // n if n else math.prod(x.shape[: x.ndim - len(normalized_shape)]), n)


def normalize_rows(x: np.ndarray, eps: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """((x - mean) rstd, mean, rstd) of the rows of a 2-D array."""
    n = x.dtype.type(x.shape[1])
    mean = row_sums(x)
    mean /= n
    out = np.subtract(x, mean[:, None])
    rstd = np.vecdot(out, out)
    rstd /= n
    rstd += x.dtype.type(eps)
    np.sqrt(rstd, out=rstd)
    np.reciprocal(rstd, out=rstd)
    out *= rstd[:, None]
    return out, mean, rstd


def _layer_norm_spec(input: Any, weight: Any, bias: Any, normalized_shape: Any, eps: float) -> Any:
    rows = _layer_shapes("layer_norm", input, normalized_shape, weight, bias)
    kind = _statistics_dtype(input.dtype)
    return [(input.shape, input.dtype), (rows, kind), (rows, kind)]


def _layer_norm_kernel(
    out: Any, mean: Any, rstd: Any, input: Any, weight: Any, bias: Any, normalized_shape: Any, eps: float
) -> None:
    kernels.layer_norm(out, mean, rstd, input, weight, bias, len(normalized_shape), eps)


def _layer_norm_vjp(
    g: Tensor, input: Tensor, weight: Any, bias_shape: Any, mean: Tensor, rstd: Tensor, normalized_shape: Any,
    needs: Any,
) -> Any:  # fmt: skip
    return layer_norm_grad(
        g, input, weight, mean, rstd, normalized_shape, needs["weight"], needs["bias"] and bias_shape is not None
    )


def _layer_norm_composite(input: Any, weight: Any, bias: Any, normalized_shape: Any, eps: float) -> Tensor:
    work = input.float() if input._array.dtype in HALF else input
    dims = tuple(range(-len(normalized_shape), 0))
    centered = work - work.mean(dims, True)
    out = centered * ((centered * centered).mean(dims, True) + eps).rsqrt()
    out = out if weight is None else out * weight
    return (out if bias is None else out + bias).to(input.dtype)


_LAYERS = each(
    draw((3, 4), (4,), (4,), normalized_shape=(4,)), draw((3, 4), None, None, normalized_shape=(4,)),
    draw((2, 3, 4), (3, 4), None, normalized_shape=(3, 4)),
    draw((2, 3, 4), None, (4,), normalized_shape=(4,), eps=1e-3),
    draw((4,), (4,), (4,), normalized_shape=(4,)), draw((0, 4), (4,), (4,), normalized_shape=(4,)),
    draw(transposed(5, 6), (6,), (6,), normalized_shape=(6,)),
    draw(strided(3, 7), (7,), strided(7), normalized_shape=(7,)),
    draw((70, 33), (33,), (33,), normalized_shape=(33,)), draw((2, 9000), (9000,), (9000,), normalized_shape=(9000,)),
    draw((2, 1), (1,), (1,), normalized_shape=(1,)),
)  # fmt: skip


@op(
    spec=_layer_norm_spec,
    kernel=_layer_norm_kernel,
    promote=PROMOTE.over("input"),
    vjp=_layer_norm_vjp,
    aux=("mean", "rstd"),
    composite=_layer_norm_composite,
    on="",
    samples=[type(s)(s.args, {"eps": 1e-5, **s.attrs}) for s in _LAYERS],
    errors=[
        fails((3, 4), None, None, normalized_shape=(3,), eps=1e-5, match=r"expected input with shape"),
        fails((3, 4), None, None, normalized_shape=(), eps=1e-5, match=r"at least 1-dimensional"),
        fails((3, 4), (3,), None, normalized_shape=(4,), eps=1e-5, match=r"same shape as normalized_shape"),
        fails(ints(3, 4), None, None, normalized_shape=(4,), eps=1e-5, match="floating-point", error=DtypeError),
    ],
    bench=[draw((4096, 1024), (1024,), (1024,), normalized_shape=(1024,), eps=1e-5)],
    bytes=lambda input, weight, bias, normalized_shape, eps: 2 * input.nbytes,
)
def _layer_norm(input: Array, weight: Array | None, bias: Array | None, normalized_shape: Ints, eps: Any):
    """(input - mean) / √(var + eps) · weight + bias over the last dims."""
    found = few.layer_norm(input, weight, bias, len(normalized_shape), eps)
    if found is not None:
        return found
    out, mean, rstd = normalize_rows(_rows(input, normalized_shape), eps)
    if weight is not None:
        out *= _like(weight, out).reshape(-1)
    if bias is not None:
        out += _like(bias, out).reshape(-1)
    rows = input.shape[: input.ndim - len(normalized_shape)]
    return out.reshape(input.shape), mean.reshape(rows), rstd.reshape(rows)


@composite(on="function functional", samples=each(
    draw((3, 4), [4]), draw((3, 4), [4], (4,), (4,)), draw((2, 3, 4), [3, 4], (3, 4), None, 1e-3),
    draw((2, 3, 4), [4], None, (4,)),
))  # fmt: skip
def layer_norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:  # fmt: skip
    """(input - mean) / √(var + eps) · weight + bias over the last dims, ``normalized_shape``.

    input (*, *normalized_shape) -> the same; weight and bias of normalized_shape. var is the biased variance;
    statistics in float32 or wider, half types rounded once. ShapeError names both shapes. ``cudnn_enable`` changes
    nothing. Ba et al. 2016, eq. 4.
    """
    return _layer_norm(input, weight, bias, normalized_shape, eps)


def _layer_norm_grad_spec(
    grad: Any, input: Any, weight: Any, mean: Any, rstd: Any, normalized_shape: Any, needs_weight: bool,
    needs_bias: bool,
) -> Any:  # fmt: skip
    kind = input.dtype if weight is None else weight.dtype
    none = (0,), kind
    full = tuple(normalized_shape), kind
    return [(input.shape, input.dtype), full if needs_weight else none, full if needs_bias else none]


def _layer_norm_grad_kernel(
    out: Any, g_weight: Any, g_bias: Any, grad: Any, input: Any, weight: Any, mean: Any, rstd: Any,
    normalized_shape: Any, needs_weight: bool, needs_bias: bool,
) -> None:  # fmt: skip
    weight_out, bias_out = _flat(g_weight) if needs_weight else None, _flat(g_bias) if needs_bias else None
    kernels.layer_norm_grad(out, weight_out, bias_out, grad, input, weight, mean, rstd, len(normalized_shape))


def _flat(a: Any) -> Any:
    return a.reshape((a.size,))


_BLOCK = 1 << 16  # elements at a time: four work arrays of them stay in the second-level cache


def rows_grad(
    g: np.ndarray, x: np.ndarray, mean: Any, rstd: np.ndarray, weight: Any, needs_weight: bool, needs_bias: bool
) -> tuple[np.ndarray, Any, Any]:
    """Gradients of normalized rows for the input, weight and bias, some rows at a time; ``mean`` None: of RMS norm."""
    m, n = g.shape
    g_weight, g_bias = (np.zeros(n if needed else 0, g.dtype) for needed in (needs_weight, needs_bias))
    out = np.empty(g.shape, g.dtype)
    if not g.size:
        return out, g_weight, g_bias
    w = _ones(n, g.dtype) if weight is None else weight
    step = min(max(_BLOCK // n, 1), m)
    work = np.empty((2, step, n), g.dtype)
    for i in range(0, m, step):
        rows, r, target = g[i : i + step], rstd[i : i + step], out[i : i + step]
        product, centered = work[:, : len(rows)]
        if mean is None:
            np.copyto(centered, x[i : i + step])
        else:
            np.subtract(x[i : i + step], mean[i : i + step, None], out=centered)
        np.multiply(rows, centered, out=product)
        if needs_weight:
            g_weight += r @ product
        if needs_bias:
            g_bias += _ones(len(rows), g.dtype) @ rows
        centered *= ((product @ w) * (r * r * r / g.dtype.type(n)))[:, None]
        if mean is not None:
            centered += ((rows @ w) * (r / g.dtype.type(n)))[:, None]
        np.multiply(rows, r[:, None], out=target)
        if weight is not None:
            target *= weight
        target -= centered
    return out, g_weight, g_bias


def _grad_samples() -> Any:
    """Arguments of the gradient for the samples above: any mean will do, and any positive rstd."""
    for s in _LAYERS:
        x, normalized = s.args[0], s.attrs["normalized_shape"]
        shape = x if isinstance(x, tuple) else x.shape
        rows = shape[: len(shape) - len(normalized)]
        yield draw(
            shape, x, s.args[1], rows, between(0.5, 2.0, *rows), normalized_shape=normalized,
            needs_weight=s.args[1] is not None, needs_bias=s.args[2] is not None,
        )  # fmt: skip


_GRADS = list(_grad_samples())


@op(
    spec=_layer_norm_grad_spec,
    kernel=_layer_norm_grad_kernel,
    promote=PROMOTE.over("grad", "input"),
    outputs=("input", "weight", "bias"),
    on="",
    samples=_GRADS,
)
def layer_norm_grad(
    grad: Array, input: Array, weight: Array | None, mean: Array, rstd: Array, normalized_shape: Ints,
    needs_weight: Any, needs_bias: Any,
):  # fmt: skip
    """Gradients of layer_norm for input, weight and bias from its statistics; empty ones where they are not wanted."""
    g, x = _rows(grad, normalized_shape), _rows(input, normalized_shape)
    w = None if weight is None else _like(weight, x).reshape(-1)
    mean, rstd = _like(mean, x).reshape(-1), _like(rstd, x).reshape(-1)
    out, g_weight, g_bias = rows_grad(g, x, mean, rstd, w, needs_weight, needs_bias)
    return out.reshape(input.shape), _shaped(g_weight, normalized_shape), _shaped(g_bias, normalized_shape)


def _shaped(g: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return g.reshape(shape) if g.size == math.prod(shape) else g


def _rms_norm_spec(input: Any, weight: Any, normalized_shape: Any, eps: float) -> Any:
    rows = _layer_shapes("rms_norm", input, normalized_shape, weight, None)
    return [(input.shape, input.dtype), (rows, _statistics_dtype(input.dtype))]


def _rms_norm_composite(input: Any, weight: Any, normalized_shape: Any, eps: float) -> Tensor:
    work = input.float() if input._array.dtype in HALF else input
    out = work * ((work * work).mean(tuple(range(-len(normalized_shape), 0)), True) + eps).rsqrt()
    return (out if weight is None else out * weight).to(input.dtype)  # type: ignore[no-any-return]


@op(
    spec=_rms_norm_spec,
    kernel=lambda out, rstd, input, weight, normalized_shape, eps: kernels.layer_norm(
        out, None, rstd, input, weight, None, len(normalized_shape), eps
    ),
    promote=PROMOTE.over("input"),
    vjp=lambda g, input, weight, rstd, normalized_shape, needs: rms_norm_grad(
        g, input, weight, rstd, normalized_shape, needs["weight"]
    ),
    aux=("rstd",),
    composite=_rms_norm_composite,
    on="",
    samples=[type(s)(s.args[:2], {"eps": 1e-6, **s.attrs}) for s in _LAYERS],
    bench=[draw((4096, 1024), None, normalized_shape=(1024,), eps=1e-6)],
    bytes=lambda input, weight, normalized_shape, eps: 2 * input.nbytes,
)
def _rms_norm(input: Array, weight: Array | None, normalized_shape: Ints, eps: Any):
    """input / √(mean(input²) + eps) · weight over the last dims."""
    x = _rows(input, normalized_shape)
    rstd = np.vecdot(x, x)
    rstd /= x.dtype.type(x.shape[1])
    rstd += x.dtype.type(eps)
    np.sqrt(rstd, out=rstd)
    np.reciprocal(rstd, out=rstd)
    out = np.multiply(x, rstd[:, None])
    if weight is not None:
        out *= _like(weight, out).reshape(-1)
    return out.reshape(input.shape), rstd.reshape(input.shape[: input.ndim - len(normalized_shape)])


def _rms_norm_grad_spec(
    grad: Any, input: Any, weight: Any, rstd: Any, normalized_shape: Any, needs_weight: bool
) -> Any:
    return _layer_norm_grad_spec(grad, input, weight, None, rstd, normalized_shape, needs_weight, False)[:2]


def _rms_norm_grad_kernel(
    out: Any, g_weight: Any, grad: Any, input: Any, weight: Any, rstd: Any, normalized_shape: Any, needs_weight: bool
) -> None:
    kernels.layer_norm_grad(
        out, _flat(g_weight) if needs_weight else None, None, grad, input, weight, None, rstd, len(normalized_shape)
    )


@op(
    spec=_rms_norm_grad_spec,
    kernel=_rms_norm_grad_kernel,
    promote=PROMOTE.over("grad", "input"),
    outputs=("input", "weight"),
    on="",
    samples=[
        type(s)((*s.args[:3], s.args[4]), {k: v for k, v in s.attrs.items() if k != "needs_bias"}) for s in _GRADS
    ],
)
def rms_norm_grad(
    grad: Array, input: Array, weight: Array | None, rstd: Array, normalized_shape: Ints, needs_weight: Any
):
    """Gradients of rms_norm for input and weight; an empty one where it is not wanted."""
    x = _rows(input, normalized_shape)
    w = None if weight is None else _like(weight, x).reshape(-1)
    g = _rows(grad, normalized_shape)
    out, g_weight, _ = rows_grad(g, x, None, _like(rstd, x).reshape(-1), w, needs_weight, False)
    return out.reshape(input.shape), _shaped(g_weight, normalized_shape)


@composite(on="function functional", samples=each(
    draw((3, 4), [4]), draw((3, 4), [4], (4,)), draw((2, 3, 4), [3, 4], (3, 4), 1e-3),
))  # fmt: skip
def rms_norm(input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """input / √(mean(input²) + eps) · weight over the last dims, ``normalized_shape``. input (*, *normalized_shape).

    ``eps`` None: the dtype's machine epsilon. Statistics in float32 or wider, half types rounded once. ShapeError names
    both shapes. Zhang & Sennrich 2019.
    """
    if eps is None:
        eps = finfo(_statistics_dtype(input._array.dtype)).eps if input.dtype.is_floating_point else 0.0
    return _rms_norm(input, weight, normalized_shape, eps)


# ------------------------------------------------------------------------------------------------------- batch norm


def _channels(a: Any, ndim: int) -> Any:
    """One number a channel, to broadcast over (N, C, …)."""
    return None if a is None else a.reshape((-1, *(1,) * (ndim - 2)))


def _over(ndim: int) -> tuple[int, ...]:
    return (0, *range(2, ndim))


def _check_channels(name: str, input: Any, **per_channel: Any) -> None:
    _floating(name, input)
    if input.ndim < 2:
        raise ShapeError(f"{name}: expected an input of shape (N, C, …), got {tuple(input.shape)}")
    for label, a in per_channel.items():
        if a is not None and tuple(a.shape) != (input.shape[1],):
            raise ShapeError(
                f"{name}: {label} should contain {input.shape[1]} elements not {a.size}: got {tuple(a.shape)}"
            )


def _batch_norm_spec(input: Any, weight: Any, bias: Any, eps: float) -> Any:
    _check_channels("batch_norm", input, weight=weight, bias=bias)
    stat = (input.shape[1],), _statistics_dtype(input.dtype)
    return [(input.shape, input.dtype), stat, stat]


def _batch_norm_composite(input: Any, weight: Any, bias: Any, eps: float) -> Any:
    work = input.float() if input._array.dtype in HALF else input
    dims = _over(input.ndim)
    mean = work.mean(dims, True)
    centered = work - mean
    var = (centered * centered).mean(dims, True)
    out = centered * (var + eps).rsqrt()
    out = out if weight is None else out * _channels(weight, input.ndim)
    out = out if bias is None else out + _channels(bias, input.ndim)
    return out.to(input.dtype), mean.reshape((-1,)), var.reshape((-1,))


_BATCHES = each(
    draw((3, 4), (4,), (4,), eps=1e-5), draw((3, 4), None, None, eps=1e-5), draw((2, 3, 5), (3,), None, eps=1e-3),
    draw((2, 3, 4, 5), (3,), (3,), eps=1e-5), draw(transposed(3, 4), None, (4,), eps=1e-5),
    draw(strided(2, 3, 5), strided(3), (3,), eps=1e-5), draw((40, 3, 9, 17), (3,), (3,), eps=1e-5),
)  # fmt: skip


@op(
    spec=_batch_norm_spec,
    kernel=kernels.batch_norm,
    promote=PROMOTE.over("input"),
    vjp=lambda g, g_mean, g_var, input, weight, mean, var, eps: batch_norm_grad(
        g, input, weight, mean, var, g_mean, g_var, eps
    ),
    outputs=("out", "mean", "var"),
    composite=_batch_norm_composite,
    on="",
    samples=_BATCHES,
    bench=[draw((64, 64, 56, 56), None, None, eps=1e-5)],
    bytes=lambda input, weight, bias, eps: 3 * input.nbytes,
)
def _batch_norm(input: Array, weight: Array | None, bias: Array | None, eps: Any):
    """(out, mean, biased variance) with the statistics of the batch."""
    x, kind = _by_channel(input), input.dtype.type
    n = kind(input.size // max(input.shape[1], 1))
    mean = channel_sums(x) / n
    out = np.subtract(x, mean[:, None])
    var = channel_dots(out, out) / n
    scale = np.reciprocal(np.sqrt(var + kind(eps)))
    if weight is not None:
        scale *= _like(weight, out)
    out *= scale[:, None]
    if bias is not None:
        out += _like(bias, out)[:, None]
    return out.reshape(input.shape), mean, var


def _by_channel(x: np.ndarray) -> np.ndarray:
    """(N, C, …) as contiguous (N, C, L)."""
    return np.ascontiguousarray(x).reshape(*x.shape[:2], math.prod(x.shape[2:]))


def channel_sums(x: np.ndarray) -> np.ndarray:
    """Sums a channel of contiguous (N, C, L): rows of a sample's channel first, then over samples."""
    n, c, length = x.shape
    rows = x.reshape(n, c) if length == 1 else row_sums(x.reshape(n * c, length)).reshape(n, c)
    return column_sums(rows)


def channel_dots(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Σ x y a channel of contiguous (N, C, L)."""
    return column_sums(np.multiply(x, y)[..., 0] if x.shape[2] == 1 else np.vecdot(x, y))


def _batch_norm_grad_spec(
    grad: Any, input: Any, weight: Any, mean: Any, var: Any, grad_mean: Any, grad_var: Any, eps: float
) -> Any:
    kind = _statistics_dtype(input.dtype) if weight is None else weight.dtype
    per = (input.shape[1],), kind
    return [(input.shape, input.dtype), per, per]


@op(
    spec=_batch_norm_grad_spec,
    kernel=kernels.batch_norm_grad,
    promote=PROMOTE.over("grad", "input"),
    outputs=("input", "weight", "bias"),
    on="",
    samples=each(
        draw((3, 4), (3, 4), (4,), (4,), between(0.5, 2, 4), (4,), (4,), eps=1e-5),
        draw((2, 3, 5), (2, 3, 5), None, (3,), between(0.5, 2, 3), (3,), (3,), eps=1e-5),
        draw((2, 3, 4, 5), transposed(2, 3, 4, 5), (3,), (3,), between(0.5, 2, 3), (3,), (3,), eps=1e-5),
    ),
)
def batch_norm_grad(
    grad: Array, input: Array, weight: Array | None, mean: Array, var: Array, grad_mean: Array, grad_var: Array,
    eps: Any,
):  # fmt: skip
    """Gradients of batch_norm with the statistics of the batch, for input, weight and bias."""
    x, g, kind = _by_channel(input), _by_channel(grad), input.dtype.type
    n = kind(input.size // max(input.shape[1], 1))
    rstd = np.reciprocal(np.sqrt(_like(var, input) + kind(eps)))
    out = np.subtract(x, _like(mean, input)[:, None])
    sum_g, sum_gh = channel_sums(g), channel_dots(g, out) * rstd
    scale = rstd if weight is None else rstd * _like(weight, input)
    out *= ((2 * _like(grad_var, input) - scale * rstd * sum_gh) / n)[:, None]
    out += np.multiply(g, scale[:, None])
    out += ((_like(grad_mean, input) - scale * sum_g) / n)[:, None]
    return out.reshape(input.shape), sum_gh, sum_g


@composite(on="functional", samples=each(
    draw((4, 3), None, None, training=True), draw((2, 3, 5), None, None, (3,), (3,), True, eps=1e-3),
    draw((2, 3, 4, 5), None, None, (3,), None, True),
))  # fmt: skip
def batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """(input - mean) / √(var + eps) · weight + bias a channel (dim 1). input (N, C, *) -> the same.

    ``training``: the mean and biased variance of the batch, and the running ones become
    (1 - momentum) running + momentum · batch, with the unbiased variance, in place. Otherwise the running ones.
    Statistics in float32 or wider. ShapeError for a parameter that is not of C elements, ArgumentError for training on
    one value a channel. Ioffe & Szegedy 2015.
    """
    x = input._array
    if eps < 0 or (training and eps == 0):
        raise ArgumentError(f"batch_norm: eps must be positive during training and never negative, but got {eps}")
    if not training:
        if running_mean is None or running_var is None:
            raise ShapeError("batch_norm: Expected running_mean and running_var to be defined when training=False")
        given = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
        _check_channels("batch_norm", x, **{k: v._array for k, v in given.items() if v is not None})
        return _batch_norm_eval(input, running_mean, running_var, weight, bias, eps)
    n = x.size // x.shape[1] if x.ndim > 1 and x.shape[1] else 0
    if n == 1:
        raise ArgumentError(
            f"batch_norm: Expected more than 1 value per channel when training, got input size {tuple(x.shape)}"
        )
    if n == 0 and x.ndim > 1:  # no values, no statistics: the running ones stay as they are
        like = {"dtype": input.dtype, "device": input.device}  # type: ignore[attr-defined]
        return _batch_norm_eval(input, zeros(x.shape[1], **like), ones(x.shape[1], **like), weight, bias, eps)
    out, mean, var = _batch_norm(input, weight, bias, eps)
    grad, modes.grad = modes.grad, False
    try:
        for running, batch, factor in ((running_mean, mean, 1.0), (running_var, var, n / max(n - 1, 1))):
            if running is not None:
                _move(running, batch, 1 - momentum, momentum * factor)
    finally:
        modes.grad = grad
    return out  # type: ignore[no-any-return]


def _move(running: Any, batch: Any, keep: float, alpha: float) -> None:
    """running = keep running + alpha batch, in place."""
    to, new = running._array, batch._array
    plain = type(to) is np.ndarray and type(new) is np.ndarray and to.dtype is new.dtype and to.shape == new.shape
    if plain and type(running) is Tensor and running._view is None and not running._needs and not listening[0]:
        to *= keep
        to += new * alpha
        version_of(running)[0] += 1
        return
    running.mul_(keep).add_(batch.to(running.dtype), alpha=alpha)


def _batch_norm_eval(input: Any, mean: Any, var: Any, weight: Any, bias: Any, eps: float) -> Tensor:
    """The affine map that fixed statistics make."""
    scale = (var + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean * scale
    shift = shift if bias is None else shift + bias
    shape = (1, -1, *(1,) * (input.ndim - 2))
    return addcmul(shift.reshape(shape), input, scale.reshape(shape)).to(input.dtype)  # type: ignore[no-any-return]


# ---------------------------------------------------------------------------------------------- group, instance norm


def _group_norm_spec(input: Any, weight: Any, bias: Any, num_groups: int, eps: float) -> Any:
    _check_channels("group_norm", input, weight=weight, bias=bias)
    if num_groups < 1 or input.shape[1] % num_groups:
        raise ShapeError(
            f"group_norm: Expected number of channels in input to be divisible by num_groups, but got input of shape "
            f"{tuple(input.shape)} and num_groups={num_groups}"
        )
    stat = (input.shape[0], num_groups), _statistics_dtype(input.dtype)
    return [(input.shape, input.dtype), stat, stat]


def _group_norm_composite(input: Any, weight: Any, bias: Any, num_groups: int, eps: float) -> Tensor:
    work = input.float() if input._array.dtype in HALF else input
    rows = work.reshape((input.shape[0], num_groups, math.prod(input.shape[1:]) // num_groups))
    centered = rows - rows.mean(-1, True)
    out = (centered * ((centered * centered).mean(-1, True) + eps).rsqrt()).reshape(input.shape)
    out = out if weight is None else out * _channels(weight, input.ndim)
    return (out if bias is None else out + _channels(bias, input.ndim)).to(input.dtype)  # type: ignore[no-any-return]


_GROUPS = each(
    draw((3, 4), (4,), (4,), num_groups=2), draw((2, 6, 5), None, None, num_groups=3),
    draw((2, 4, 3, 5), (4,), None, num_groups=1),
    draw((2, 4, 3, 5), None, (4,), num_groups=4), draw(transposed(2, 4, 3, 5), (4,), (4,), num_groups=2),
    draw((0, 4, 3), (4,), (4,), num_groups=2),
    draw((2, 6, 30, 31), (6,), (6,), num_groups=2),
)  # fmt: skip


@op(
    spec=_group_norm_spec,
    kernel=lambda out, mean, rstd, input, weight, bias, num_groups, eps: kernels.group_norm(
        out, mean, rstd, input, weight, bias, num_groups, eps
    ),
    promote=PROMOTE.over("input"),
    vjp=lambda g, input, weight, mean, rstd, num_groups: group_norm_grad(g, input, weight, mean, rstd, num_groups),
    aux=("mean", "rstd"),
    composite=_group_norm_composite,
    on="",
    samples=[type(s)(s.args, {"eps": 1e-5, **s.attrs}) for s in _GROUPS],
    errors=[
        fails((2, 5, 3), None, None, num_groups=2, eps=1e-5, match="divisible by num_groups"),
        fails((2, 4, 3), (3,), None, num_groups=2, eps=1e-5, match="should contain 4 elements"),
    ],
    bench=[draw((64, 64, 56, 56), None, None, num_groups=32, eps=1e-5)],
    bytes=lambda input, weight, bias, num_groups, eps: 3 * input.nbytes,
)
def _group_norm(input: Array, weight: Array | None, bias: Array | None, num_groups: Any, eps: Any):
    """(input - mean) / √(var + eps) · weight + bias, with the statistics of each sample's groups of channels."""
    n, ndim = input.shape[0], input.ndim
    rows = math.prod(input.shape[1:]) // num_groups
    out, mean, rstd = normalize_rows(input.reshape(n * num_groups, rows), eps)
    out = out.reshape(input.shape)
    if weight is not None:
        out *= _channels(_like(weight, out), ndim)
    if bias is not None:
        out += _channels(_like(bias, out), ndim)
    return out, mean.reshape(n, num_groups), rstd.reshape(n, num_groups)


@composite(on="function functional", samples=each(
    draw((3, 6), 2), draw((2, 6, 5), 3, (6,), (6,)), draw((2, 4, 3, 5), 1, (4,), None, 1e-3),
    draw((2, 4, 3, 5), 4, None, (4,)),
))  # fmt: skip
def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:  # fmt: skip
    """(input - mean) / √(var + eps) · weight + bias, with the statistics of each sample's groups of channels.

    input (N, C, *) -> the same; weight and bias (C,). var is the biased variance; statistics in float32 or wider.
    ShapeError where num_groups does not divide C, ArgumentError where a group is one value. ``cudnn_enabled`` changes
    nothing. Wu & He 2018.
    """
    shape = tuple(input.shape)
    if num_groups > 0 and len(shape) > 1 and shape[0] * shape[1] // num_groups * math.prod(shape[2:]) == 1:
        raise ArgumentError(f"group_norm: Expected more than 1 value per channel when training, got input size {shape}")
    return _group_norm(input, weight, bias, num_groups, eps)


def _group_norm_grad_spec(grad: Any, input: Any, weight: Any, mean: Any, rstd: Any, num_groups: int) -> Any:
    return _batch_norm_grad_spec(grad, input, weight, mean, rstd, None, None, 0.0)


@op(
    spec=_group_norm_grad_spec,
    kernel=kernels.group_norm_grad,
    promote=PROMOTE.over("grad", "input"),
    outputs=("input", "weight", "bias"),
    on="",
    samples=each(
        draw((3, 4), (3, 4), (4,), (3, 2), between(0.5, 2, 3, 2), num_groups=2),
        draw((2, 6, 5), transposed(2, 6, 5), None, (2, 3), between(0.5, 2, 2, 3), num_groups=3),
        draw((2, 4, 3, 5), (2, 4, 3, 5), (4,), (2, 1), between(0.5, 2, 2, 1), num_groups=1),
    ),
)
def group_norm_grad(grad: Array, input: Array, weight: Array | None, mean: Array, rstd: Array, num_groups: Any):
    """Gradients of group_norm for input, weight and bias from its statistics."""
    rows = input.shape[0] * num_groups, math.prod(input.shape[1:]) // num_groups
    rstd = _like(rstd, input).reshape(-1)
    x, g = _by_channel(input), _by_channel(grad)
    centered = np.subtract(x.reshape(rows), _like(mean, input).reshape(-1, 1))
    hats = np.vecdot(g, centered.reshape(x.shape)) * np.repeat(rstd, x.shape[1] // num_groups).reshape(x.shape[:2])
    d = g if weight is None else g * _like(weight, input)[:, None]
    out, _, _ = rows_grad(d.reshape(rows), x.reshape(rows), _like(mean, input).reshape(-1), rstd, None, False, False)
    return out.reshape(input.shape), column_sums(hats), channel_sums(g)


@composite(on="functional", samples=each(
    draw((2, 3, 5)), draw((2, 3, 4, 5), None, None, (3,), (3,)), draw((2, 3, 5), None, None, (3,), eps=1e-3),
))  # fmt: skip
def instance_norm(
    input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None, weight: Tensor | None = None,
    bias: Tensor | None = None, use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """(input - mean) / √(var + eps) · weight + bias, with the statistics of each sample's channels.

    input (N, C, *) -> the same; weight and bias (C,).

    ``use_input_stats`` False: the running statistics. Otherwise they become (1 - momentum) running + momentum · the
    mean over the batch of the samples' statistics, with the unbiased variance, in place. Ulyanov et al. 2016.
    """
    x = input._array
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    n = math.prod(x.shape[2:])
    if n == 1:
        raise ArgumentError(
            f"instance_norm: Expected more than 1 spatial element when training, got input size {tuple(x.shape)}"
        )
    grad, modes.grad = modes.grad, False
    try:
        if running_mean is not None or running_var is not None:
            dims = tuple(range(2, x.ndim))
            for running, batch in ((running_mean, input.mean(dims)), (running_var, input.var(dims))):  # type: ignore[attr-defined]
                if running is not None:
                    running.mul_(1 - momentum).add_(batch.mean(0).to(running.dtype), alpha=momentum)  # type: ignore[attr-defined]
    finally:
        modes.grad = grad
    return group_norm(input, x.shape[1], weight, bias, eps)


# ----------------------------------------------------------------------------------------- by a norm, by neighbours


@composite(on="functional", samples=each(
    draw((3, 4)), draw((3, 4), 1.0, 0), draw((2, 3, 4), p=3.0, dim=(0, 2)), draw((3, 4), eps=3.0), draw((5,), dim=0),
))  # fmt: skip
def normalize(
    input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Tensor | None = None
) -> Tensor:
    """input / max(‖input‖ₚ, eps) along ``dim``, one or several. Any shape -> the same."""
    x: Any = input
    length: Any = vector_norm(x, p, dim, True) if x.dtype.is_floating_point else x.norm(p, dim, True)
    result = x / clamp_min(length, eps)
    return result if out is None else into("normalize", out, result)  # type: ignore[no-any-return]


@composite(on="functional", samples=each(
    draw((2, 5, 3), 3), draw((2, 4, 3, 2), 2, 0.1, 0.5, 2.0), draw((1, 3, 2, 2, 2), size=5, alpha=1e-2),
))  # fmt: skip
def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """input / (k + alpha · mean of input² over ``size`` neighbouring channels)**beta. (N, C, *) -> the same.

    Channels beyond the first and last count as 0. Krizhevsky et al. 2012.
    """
    x: Any = input
    if x.ndim < 3:
        raise ArgumentError(f"local_response_norm: Expected 3D or higher dimensionality input (got {x.ndim}D)")
    if 0 in x.shape:
        return input
    squares = (x * x).reshape((x.shape[0], 1, x.shape[1], -1))
    squares = pad(squares, (0, 0, size // 2, (size - 1) // 2))
    mean: Any = avg_pool2d(squares, (size, 1), stride=1)
    return x / (mean.reshape(x.shape) * alpha + k) ** beta  # type: ignore[no-any-return]
