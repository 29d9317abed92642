"""A residual's sum and its layer or RMS normalization, in one kernel each way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dtypes import finfo
from tensorlib._promotion import FLOATS
from tensorlib._samples import between, draw, each, fails, strided, transposed
from tensorlib.errors import ShapeError
from tensorlib.kernels import add_norm as kernels
from tensorlib.op import Array, Ints, composite, op, result_type
from tensorlib.ops._reduction import row_sums
from tensorlib.ops.normalization import (
    _layer_norm_composite,
    _layer_shapes,
    _rms_norm_composite,
    _rows,
    _shaped,
    _statistics_dtype,
    normalize_rows,
    rows_grad,
)

AddLayerNorm = result_type("add_layer_norm", ("output", "sum"))
AddRmsNorm = result_type("add_rms_norm", ("output", "sum"))


def _checked(name: str, input: Any, residual: Any, normalized_shape: Any, weight: Any, bias: Any) -> tuple[int, ...]:
    if tuple(input.shape) != tuple(residual.shape):
        raise ShapeError(
            f"{name}: input {tuple(input.shape)} and residual {tuple(residual.shape)}: expected one shape"
        )
    return _layer_shapes(name, input, normalized_shape, weight, bias)


def _spec(input: Any, residual: Any, weight: Any, bias: Any, normalized_shape: Any, eps: float) -> Any:
    rows = _checked("add_layer_norm", input, residual, normalized_shape, weight, bias)
    kind = _statistics_dtype(input.dtype)
    return [(input.shape, input.dtype)] * 2 + [(rows, kind)] * 2


def _rms_spec(input: Any, residual: Any, weight: Any, normalized_shape: Any, eps: float) -> Any:
    rows = _checked("add_rms_norm", input, residual, normalized_shape, weight, None)
    return [(input.shape, input.dtype)] * 2 + [(rows, _statistics_dtype(input.dtype))]


def _grad_spec(
    g: Any, g_total: Any, total: Any, weight: Any, mean: Any, rstd: Any, normalized_shape: Any, needs_weight: bool,
    needs_bias: bool,
) -> Any:  # fmt: skip
    full = tuple(normalized_shape)
    return [(total.shape, total.dtype), *((full if n else (0,), total.dtype) for n in (needs_weight, needs_bias))]


def _grad_kernel(
    out: Any, g_weight: Any, g_bias: Any, g: Any, g_total: Any, total: Any, weight: Any, mean: Any, rstd: Any,
    normalized_shape: Any, needs_weight: bool, needs_bias: bool,
) -> None:  # fmt: skip
    kernels.add_norm_grad(
        out, g_weight if needs_weight else None, g_bias if needs_bias else None, g, g_total, total, weight, mean, rstd
    )


_SHAPES = each(
    draw((3, 4), (3, 4), (4,), (4,), normalized_shape=(4,)), draw((3, 4), (3, 4), None, None, normalized_shape=(4,)),
    draw((2, 3, 4), (2, 3, 4), (3, 4), None, normalized_shape=(3, 4)),
    draw(transposed(5, 6), strided(5, 6), None, (6,), normalized_shape=(6,)),
    draw((70, 33), (70, 33), (33,), strided(33), normalized_shape=(33,)),
    draw((2, 9000), (2, 9000), (9000,), (9000,), normalized_shape=(9000,)),
    draw((0, 4), (0, 4), (4,), (4,), normalized_shape=(4,)), draw((4,), (4,), (4,), (4,), normalized_shape=(4,)),
)  # fmt: skip


def _grad_samples() -> Any:
    for s in _SHAPES:
        x, weight, bias = (3, 4) if not isinstance(s.args[0], tuple) else s.args[0], s.args[2], s.args[3]
        normalized = s.attrs["normalized_shape"] if isinstance(s.args[0], tuple) else (4,)
        if not isinstance(s.args[0], tuple):
            weight, bias = None, (4,)
        rows = x[: len(x) - len(normalized)]
        for mean in (rows, None):
            yield draw(
                x, x, x, weight, mean, between(0.5, 2.0, *rows), normalized_shape=normalized,
                needs_weight=weight is not None, needs_bias=bias is not None and mean is not None,
            )  # fmt: skip


@op(
    spec=_grad_spec,
    kernel=_grad_kernel,
    promote=FLOATS.over("g", "g_total", "total", "weight"),
    outputs=("total", "weight", "bias"),
    on="",
    samples=list(_grad_samples()),
    bytes=lambda g, *_, **__: 4 * g.nbytes,
)
def add_norm_grad(
    g: Array, g_total: Array, total: Array, weight: Array | None, mean: Array | None, rstd: Array,
    normalized_shape: Ints, needs_weight: Any, needs_bias: Any,
):  # fmt: skip
    """Gradients of the sum (and so of both its terms), weight and bias; ``mean`` None: of the RMS normalization."""
    x = _rows(total, normalized_shape)
    mean, rstd = (None if a is None else a.reshape(-1).astype(x.dtype, copy=False) for a in (mean, rstd))
    w = None if weight is None else weight.reshape(-1)
    out, g_weight, g_bias = rows_grad(_rows(g, normalized_shape), x, mean, rstd, w, needs_weight, needs_bias)
    out += _rows(g_total, normalized_shape)
    return out.reshape(total.shape), _shaped(g_weight, normalized_shape), _shaped(g_bias, normalized_shape)


def _vjp(
    g_output: Tensor, g_sum: Tensor, sum: Tensor, weight: Any, bias_shape: Any, mean: Tensor, rstd: Tensor,
    normalized_shape: Any, needs: Any,
) -> Any:  # fmt: skip
    d, d_weight, d_bias = add_norm_grad(
        g_output, g_sum, sum, weight, mean, rstd, normalized_shape, needs["weight"],
        needs["bias"] and bias_shape is not None,
    )  # fmt: skip
    return d, d, d_weight, d_bias


def _rms_vjp(
    g_output: Tensor, g_sum: Tensor, sum: Tensor, weight: Any, rstd: Tensor, normalized_shape: Any, needs: Any
) -> Any:
    d, d_weight, _ = add_norm_grad(
        g_output, g_sum, sum, weight, None, rstd, normalized_shape, needs["weight"], False
    )
    return d, d, d_weight


def _composed(normalize: Callable[..., Tensor]) -> Callable[..., Any]:
    def composite(input: Any, residual: Any, *weights: Any, normalized_shape: Any, eps: float) -> Any:
        total = input + residual
        return normalize(total, *weights, normalized_shape, eps), total

    return composite


_ERRORS = [
    fails((3, 4), (4,), None, None, normalized_shape=(4,), eps=1e-5, match="expected one shape"),
    fails((3, 4), (3, 4), None, None, normalized_shape=(3,), eps=1e-5, match="expected input with shape"),
]


@op(
    spec=_spec,
    kernel=lambda out, total, mean, rstd, input, residual, weight, bias, normalized_shape, eps: kernels.add_norm(
        out, total, mean, rstd, input, residual, weight, bias, eps
    ),
    promote=FLOATS.over("input", "residual", "weight", "bias"),
    vjp=_vjp,
    outputs=("output", "sum"),
    aux=("mean", "rstd"),
    composite=_composed(_layer_norm_composite),
    on="",
    samples=[type(s)(s.args, {"eps": 1e-5, **s.attrs}) for s in _SHAPES],
    errors=_ERRORS,
    bench=[draw((8192, 4096), (8192, 4096), (4096,), (4096,), normalized_shape=(4096,), eps=1e-5)],
    bytes=lambda input, *_, **__: 4 * input.nbytes,
)  # fmt: skip
def _add_layer_norm(
    input: Array, residual: Array, weight: Array | None, bias: Array | None, normalized_shape: Ints, eps: Any
):
    """(layer_norm(input + residual), input + residual)."""
    total = np.add(input, residual)
    out, mean, rstd = normalize_rows(_rows(total, normalized_shape), eps)
    mean += row_sums(out) / (rstd * rstd.dtype.type(max(out.shape[1], 1)))  # what rounding left of it
    if weight is not None:
        out *= weight.reshape(-1)
    if bias is not None:
        out += bias.reshape(-1)
    rows = input.shape[: input.ndim - len(normalized_shape)]
    return out.reshape(input.shape), total, mean.reshape(rows), rstd.reshape(rows)


@op(
    spec=_rms_spec,
    kernel=lambda out, total, rstd, input, residual, weight, normalized_shape, eps: kernels.add_norm(
        out, total, None, rstd, input, residual, weight, None, eps
    ),
    promote=FLOATS.over("input", "residual", "weight"),
    vjp=_rms_vjp,
    outputs=("output", "sum"),
    aux=("rstd",),
    composite=_composed(_rms_norm_composite),
    on="",
    samples=[type(s)(s.args[:3], {"eps": 1e-6, **s.attrs}) for s in _SHAPES],
    bench=[draw((8192, 4096), (8192, 4096), (4096,), normalized_shape=(4096,), eps=1e-6)],
    bytes=lambda input, *_, **__: 4 * input.nbytes,
)  # fmt: skip
def _add_rms_norm(input: Array, residual: Array, weight: Array | None, normalized_shape: Ints, eps: Any):
    """(rms_norm(input + residual), input + residual)."""
    total = np.add(input, residual)
    x = _rows(total, normalized_shape)
    rstd = np.vecdot(x, x)
    rstd /= x.dtype.type(max(x.shape[1], 1))
    rstd += x.dtype.type(eps)
    np.reciprocal(np.sqrt(rstd, out=rstd), out=rstd)
    out = np.multiply(x, rstd[:, None])
    if weight is not None:
        out *= weight.reshape(-1)
    return out.reshape(input.shape), total, rstd.reshape(input.shape[: input.ndim - len(normalized_shape)])


def _shape_of(normalized_shape: Any) -> tuple[int, ...]:
    return (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)


@composite(on="functional", samples=each(
    draw((3, 4), (3, 4), [4]), draw((3, 4), (3, 4), [4], (4,), (4,)),
    draw((2, 3, 4), (2, 3, 4), [3, 4], (3, 4), None, 1e-3),
))  # fmt: skip
def add_layer_norm(
    input: Tensor, residual: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:  # fmt: skip
    """(output, sum): sum = input + residual, output = layer_norm(sum, ...). An extension beyond PyTorch.

    input and residual (*, *normalized_shape), of one dtype with weight and bias (*normalized_shape) -> the same twice,
    a named tuple: the residual stream for the next block, and what this block is given. One kernel forward and one
    backward, in which the gradient of the sum is added. Sum and statistics are in float32 or wider, and each result is
    rounded once. ShapeError names both shapes. Ba et al. 2016, eq. 4.
    """
    return AddLayerNorm(*_add_layer_norm(input, residual, weight, bias, _shape_of(normalized_shape), eps))


@composite(on="functional", samples=each(
    draw((3, 4), (3, 4), [4]), draw((3, 4), (3, 4), [4], (4,)), draw((2, 3, 4), (2, 3, 4), [3, 4], (3, 4), 1e-3),
))  # fmt: skip
def add_rms_norm(
    input: Tensor, residual: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None
) -> Any:
    """(output, sum): sum = input + residual, output = rms_norm(sum, ...). An extension beyond PyTorch.

    As ``add_layer_norm``, without the mean and the bias; ``eps`` None is the epsilon of input's dtype, float32's for
    half types. Zhang & Sennrich 2019.
    """
    if eps is None:
        eps = finfo(_statistics_dtype(input._array.dtype)).eps if input.dtype.is_floating_point else 0.0
    return AddRmsNorm(*_add_rms_norm(input, residual, weight, _shape_of(normalized_shape), float(eps)))
