"""Matrix products: matmul and its named cases, the affine map of a linear layer, and einsum over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from tensorlib import _products
from tensorlib._core import KINDS, Tensor, modes
from tensorlib._dtypes import OF_NUMPY, bfloat16, float16, float32
from tensorlib._promotion import FLOATS
from tensorlib._samples import draw, each, fails, transposed
from tensorlib.errors import ArgumentError, DtypeError, ShapeError
from tensorlib.kernels import matmul as kernels
from tensorlib.op import Array, Scalar, composite, into, jit, op
from tensorlib.ops._out import takes_out
from tensorlib.ops.activation import (
    _gelu,
    _gelu_scalar,
    _relu,
    _relu_scalar,
    _silu,
    _silu_scalar,
    gelu_grad,
    relu_grad,
    silu_grad,
)
from tensorlib.ops.arithmetic import mul

# ------------------------------------------------------------------------------------------------------------- matmul


def _cannot_multiply(name: str, a: Sequence[int], b: Sequence[int], expected: str, hint: str = "") -> ShapeError:
    """The one message about sizes that do not meet; in brackets PyTorch's own words, which users search for."""
    m, k = (1, *a)[-2:]
    rows, columns = b[-2:] if len(b) > 1 else (*b, 1)
    return ShapeError(
        f"{name}: cannot multiply {tuple(a)} by {tuple(b)}: expected {expected}{hint} "
        f"(mat1 and mat2 shapes cannot be multiplied ({m}x{k} and {rows}x{columns}))"
    )


def _not_bool(name: str, x: Any) -> None:
    if x.dtype == np.bool_:
        raise DtypeError(f"{name}: not implemented for 'Bool': expected numbers; convert, as in input.float()")


def _lead(name: str, a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
    """The broadcast shape of two batches."""
    if a == b or not b:
        return tuple(a)
    if not a:
        return tuple(b)
    n = max(len(a), len(b))
    out = []
    for i, (p, q) in enumerate(zip((1,) * (n - len(a)) + tuple(a), (1,) * (n - len(b)) + tuple(b), strict=True)):
        if p != q and p != 1 and q != 1:
            raise ShapeError(
                f"{name}: cannot broadcast the leading dimensions {tuple(a)} and {tuple(b)}: The size of tensor a "
                f"({p}) must match the size of tensor b ({q}) at non-singleton dimension {i}; expected sizes that are "
                f"equal or 1"
            )
        out.append(q if p == 1 else p)
    return tuple(out)


def _matmul_spec(input: Any, other: Any) -> Any:
    a, b = input.shape, other.shape
    if not a or not b:
        raise ShapeError(
            f"matmul: both arguments to matmul need to be at least 1D, but they are {len(a)}D and {len(b)}D: "
            f"multiply by a number with *"
        )
    _not_bool("matmul", input)
    k = b[-2] if len(b) > 1 else b[0]
    if a[-1] != k:
        hint = ""
        if len(b) > 1 and b[-1] == a[-1]:
            hint = "; did you mean other.mT?"
        elif len(a) > 1 and a[-2] == k:
            hint = "; did you mean input.mT?"
        raise _cannot_multiply("matmul", a, b, "(…, m, k) and (…, k, n)", hint)
    rows = a[-2:-1]
    columns = b[-1:] if len(b) > 1 else ()
    if len(a) <= 2 and len(b) <= 2:
        return (*rows, *columns), input.dtype
    return (*_lead("matmul", a[:-2], b[:-2]), *rows, *columns), input.dtype


def _to_shape(x: Any, shape: tuple[int, ...]) -> Any:
    return x if x._array.shape == shape else x.sum_to_size(shape)


def _matmul_grad_input(g: Any, input_shape: Any, other: Any) -> Any:
    if len(other.shape) == 1:  # every row of input met the one vector
        return g.unsqueeze(-1) * other
    if len(input_shape) == 1:  # the one row met every matrix: (…, k, n) by (…, n, 1)
        return _to_shape(matmul(other, g.unsqueeze(-1)).squeeze(-1), input_shape)
    return _to_shape(matmul(g, other.mT), input_shape)


def _matmul_grad_other(g: Any, input: Any, other_shape: Any) -> Any:
    if len(other_shape) == 1:
        if input._array.ndim == 1:
            return g * input
        return _gram(input, g.unsqueeze(-1)).squeeze(-1)
    if input._array.ndim == 1:
        return _to_shape(input.unsqueeze(-1) * g.unsqueeze(-2), other_shape)
    if len(other_shape) == 2:
        return _gram(input, g)
    return _to_shape(matmul(input.mT, g), other_shape)


def _matmul_flops(input: Any, other: Any) -> float:
    return 2.0 * input.size * (other.shape[-1] if other.ndim > 1 else 1)


@op(
    spec=_matmul_spec,
    promote=FLOATS,
    complex=True,
    kernel=kernels.matmul,
    vjp=dict(input=_matmul_grad_input, other=_matmul_grad_other),
    samples=each(
        draw((4, 3), (3, 5)), draw((1, 1), (1, 1)), draw((65, 33), (33, 70)),
        draw(transposed(17, 20), transposed(20, 9)), draw((5,), (5,)), draw((3, 5), (5,)), draw((5,), (5, 4)),
        draw((2, 3, 5), (5,)), draw((5,), (2, 5, 4)),
        draw((2, 1, 4, 3), (7, 3, 5)), draw((2, 5, 3), (3, 4)), draw((4, 3), (2, 3, 5)), draw((0, 3), (3, 5)),
        draw((4, 0), (0, 5)), draw((2, 0, 3), (2, 3, 4)),
    ),
    errors=[
        fails((4, 3), (5, 4), match=r"cannot multiply \(4, 3\) by \(5, 4\).*mat1 and mat2 shapes", error=ShapeError),
        fails((4, 3), (5, 3), match=r"did you mean other\.mT\?", error=ShapeError),
        fails((), (3,), match="at least 1D", error=ShapeError),
        fails((2, 4, 3), (3, 3, 4), match=r"size of tensor a \(2\) must match", error=ShapeError),
    ],
    bench=[draw((n, n), (n, n)) for n in (256, 1024, 4096, 8192)],
    flops=_matmul_flops,
)  # fmt: skip
def matmul(input: Array, other: Array):
    """input @ other: (…, m, k) @ (…, k, n) -> (…, m, n), leading dimensions broadcast; 1-D as in NumPy.

    Both of one dtype. float16, bfloat16 and float32 accumulate in float32, float64 in float64, integers wrap around.
    ShapeError where k differs, DtypeError for two dtypes or bool.
    """
    if other.ndim == 2 and input.ndim > 2 and input.size and input.flags.c_contiguous:  # one product, not a batch
        rows = _products.matmul(input.reshape(-1, input.shape[-1]), other)
        return rows.reshape(*input.shape[:-1], other.shape[-1])
    return _products.matmul(input, other)


def _gram_spec(input: Any, other: Any) -> Any:
    return (input.shape[-1], other.shape[-1]), input.dtype


@op(
    spec=_gram_spec,
    promote=FLOATS,
    complex=True,
    kernel=kernels.gram,
    vjp=dict(
        input=lambda g, other: matmul(other, g.mT),
        other=lambda g, input: matmul(input, g),
    ),
    on="",
    samples=each(
        draw((4, 3), (4, 5)), draw((2, 40, 3), (2, 40, 5)), draw(transposed(7, 4), (7, 2)), draw((0, 3), (0, 2)),
        draw((3,), (4,)), draw((2, 1), (2, 1)),
    ),
    flops=lambda input, other: 2.0 * input.size * other.shape[-1],
)  # fmt: skip
def _gram(input: Array, other: Array):
    """The sum of outer products over all leading dimensions: (…, m), (…, n) -> (m, n). The gradient of a weight."""
    m, n = input.shape[-1], other.shape[-1]
    if not input.size or not other.size:
        return np.zeros((m, n), input.dtype)
    return _products.matmul(input.reshape(-1, m).T, other.reshape(-1, n))


# ------------------------------------------------------------------------------------------------------------- linear


def _linear_spec(input: Any, weight: Any, bias: Any) -> Any:
    x, w = input.shape, weight.shape
    if not x or not w:
        raise ShapeError(
            f"linear: both arguments to linear need to be at least 1D, but they are {len(x)}D and {len(w)}D: "
            f"expected input (…, in) and weight (out, in)"
        )
    if len(w) > 2:
        raise ShapeError(
            f"linear: t() expects a tensor with <= 2 dimensions, but weight is {len(w)}D {tuple(w)}: expected (out, in)"
        )
    _not_bool("linear", input)
    if x[-1] != w[-1]:
        hint = "; did you mean weight.mT?" if w[0] == x[-1] else ""
        raise _cannot_multiply("linear", x, w[::-1], f"input (…, in) and weight (out, in), got weight {tuple(w)}", hint)
    shape = (*x[:-1], *w[:-1])
    if bias is not None and bias.shape != w[:-1]:
        missing = len(shape) - bias.ndim
        if missing < 0 or any(n not in (1, m) for n, m in zip(bias.shape, shape[missing:], strict=True)):
            raise ShapeError(
                f"linear: bias of shape {tuple(bias.shape)} does not fit a result of shape {shape}: expected {w[:-1]} "
                f"(The expanded size of the tensor must match the existing size)"
            )
    return shape, input.dtype


def _linear_grad_input(g: Any, weight: Any) -> Any:
    return matmul(g, weight) if weight._array.ndim == 2 else g.unsqueeze(-1) * weight


def _linear_grad_bias(g: Any, bias_shape: Any) -> Any:
    lead = g._array.ndim - 1
    if len(bias_shape) == 1 and lead > 0 and bias_shape[0] == g._array.shape[-1]:
        return g.sum(0) if lead == 1 else g.sum(tuple(range(lead)))
    return _to_shape(g, bias_shape)


def _linear_grad_weight(g: Any, input: Any, weight_shape: Any) -> Any:
    if len(weight_shape) == 1:
        return _gram(g.unsqueeze(-1), input).squeeze(0)
    return _gram(g, input)


@op(
    spec=_linear_spec,
    promote=FLOATS,
    complex=True,
    kernel=kernels.linear,
    vjp=dict(
        input=_linear_grad_input,
        weight=_linear_grad_weight,
        bias=_linear_grad_bias,
    ),
    on="functional",
    samples=each(
        draw((4, 3), (5, 3), (5,)), draw((4, 3), (5, 3), None), draw((3,), (5, 3), (5,)),
        draw((2, 35, 33), (70, 33), (70,)), draw(transposed(6, 4), transposed(5, 4), (5,)),
        draw((4, 3), (5, 3), (1,)), draw((2, 2, 3), (4, 3), (2, 4)),
        draw((4, 3), (3,), None), draw((0, 3), (5, 3), (5,)), draw((4, 0), (5, 0), (5,)), draw((1, 1), (1, 1), (1,)),
    ),
    errors=[
        fails((2, 3), (4, 5), match="mat1 and mat2 shapes cannot be multiplied", error=ShapeError),
        fails((2, 3), (4, 3), (5,), match="does not fit", error=ShapeError),
        fails((2, 3), (2, 4, 3), match="<= 2 dimensions", error=ShapeError),
        fails((), (4, 3), match="at least 1D", error=ShapeError),
    ],
    bench=[draw((512, 128), (128, 128), (128,)), draw((8192, 1024), (4096, 1024), (4096,))],
    flops=lambda input, weight, bias: 2.0 * input.size * weight.shape[0],
)  # fmt: skip
def linear(input: Array, weight: Array, bias: Array | None = None):
    """input @ weight.T + bias. input (…, in), weight (out, in), bias (out,) -> (…, out).

    All of one dtype; accumulated as matmul, the bias added before the one rounding. A weight (in,) gives (…).
    ShapeError where sizes differ, DtypeError for several dtypes.
    """
    if input.ndim > 2 and weight.ndim == 2 and input.size and input.flags.c_contiguous:
        flat = bias is None or bias.ndim == 1
        rows = _products.matmul(input.reshape(-1, input.shape[-1]), weight.T, bias=bias if flat else None)
        out = rows.reshape(*input.shape[:-1], weight.shape[0])
        if not flat:
            out += bias
        return out
    return _products.matmul(input, weight.T, bias=bias)


# ------------------------------------------------------------------------------------- products with an epilogue


class _Activation(NamedTuple):
    """An activation after a product: in the kernel, in NumPy, as an operator, and g times its derivative."""

    scalar: Any
    numpy: Callable[[np.ndarray], np.ndarray]
    operator: Callable[[Any], Any]
    grad: Callable[[Any, Any], Any]
    of_result: bool = False  #: whether the derivative is a function of the result; else of what goes in


@jit
def _gelu_exact(x):
    return _gelu_scalar(x, False)


@jit
def _gelu_tanh(x):
    return _gelu_scalar(x, True)


def _body(operator: Any, *attrs: Any) -> Callable[[np.ndarray], np.ndarray]:
    """An operator's NumPy body, as a function of the array."""
    return lambda x: operator.__wrapped__(x, *attrs)


_ACTIVATIONS = {
    "relu": _Activation(_relu_scalar, lambda x: np.maximum(x, 0), _relu, relu_grad, True),
    "gelu": _Activation(
        _gelu_exact, _body(_gelu, False), lambda x: _gelu(x, False),
        lambda g, x: gelu_grad(g, x, False),
    ),
    "gelu_tanh": _Activation(
        _gelu_tanh, _body(_gelu, True), lambda x: _gelu(x, True), lambda g, x: gelu_grad(g, x, True)
    ),
    "silu": _Activation(_silu_scalar, _body(_silu), _silu, silu_grad),
}  # fmt: skip


def _addmm_spec(
    input: Any, mat1: Any, mat2: Any, beta: Any, alpha: Any, activation: str, turned: bool, kept: bool, dtype: Any
) -> Any:
    if turned:
        shape, made = _linear_spec(mat1, mat2, input)
    else:
        shape, made = _matmul_spec(mat1, mat2)
    if dtype is not None:
        made = dtype.numpy
    if input is not None and input.dtype not in (made, mat1.dtype):
        raise DtypeError(
            f"addmm: expected tensors of one dtype, got input {OF_NUMPY[input.dtype]} and mat1 {OF_NUMPY[mat1.dtype]}: "
            f"convert them, as in input.to(mat1.dtype)"
        )
    if activation and (made.kind == "c" or (made.kind in "iu" and activation != "relu")):
        raise DtypeError(f"{activation} after a product: not implemented for {OF_NUMPY[made]}: expected floating point")
    return [(shape, made), (shape if kept else (0,), made)]


def _addmm_kernel(
    out: Any, before: Any, input: Any, mat1: Any, mat2: Any, beta: Any, alpha: Any, activation: str, turned: bool,
    kept: bool, dtype: Any,
) -> None:  # fmt: skip
    scalar = _ACTIVATIONS[activation].scalar if activation else None
    kernels.scaled_product(out, before if kept else None, input, mat1, mat2, beta, alpha, scalar, turned)


def _addmm_vjp(
    g: Any, out: Any, before: Any, mat1: Any, mat2: Any, input_shape: Any, input_dtype: Any, beta: Any, alpha: Any,
    activation: str, turned: bool, needs: Any,
) -> Any:  # fmt: skip
    if activation:
        what = _ACTIVATIONS[activation]
        g = what.grad(g, out if what.of_result else before)
    g_input = _to_shape(g if beta == 1 else g * beta, input_shape).to(input_dtype) if needs["input"] else None
    g = g if alpha == 1 else g * alpha
    if g._array.dtype != mat1._array.dtype:  # the sums went to a wider dtype
        g = g.to(mat1.dtype)
    g_mat1 = g_mat2 = None
    if needs["mat1"]:
        g_mat1 = _linear_grad_input(g, mat2) if turned else _matmul_grad_input(g, mat1._array.shape, mat2)
    if needs["mat2"]:
        shape = mat2._array.shape
        g_mat2 = _linear_grad_weight(g, mat1, shape) if turned else _matmul_grad_other(g, mat1, shape)
    return g_input, g_mat1, g_mat2


def _addmm_composite(
    input: Any, mat1: Any, mat2: Any, beta: Any, alpha: Any, activation: str, turned: bool, kept: bool, dtype: Any
) -> Any:
    if dtype is not None:
        mat1, mat2 = mat1.to(dtype), mat2.to(dtype)
    out = linear(mat1, mat2) if turned else matmul(mat1, mat2)
    if alpha != 1:
        out = out * alpha
    if input is not None:
        out = out + (input if beta == 1 else input * beta)
    return _ACTIVATIONS[activation].operator(out) if activation else out


_PLAIN = {"beta": 1, "alpha": 1, "activation": "", "turned": False, "kept": False, "dtype": None}


@op(
    spec=_addmm_spec,
    promote=FLOATS.over("mat1", "mat2"),
    complex=True,
    kernel=_addmm_kernel,
    vjp=_addmm_vjp,
    aux=("before",),
    composite=_addmm_composite,
    on="",
    samples=each(
        draw((5,), (4, 3), (3, 5), **_PLAIN), draw((4, 1), (4, 3), (3, 5), **{**_PLAIN, "beta": 0.5, "alpha": -2.0}),
        draw(None, (33, 40), (40, 70), **{**_PLAIN, "alpha": 3.0}), draw((4,), (4, 3), (3,), **_PLAIN),
        draw((2, 1, 5), (2, 4, 3), (2, 3, 5), **{**_PLAIN, "beta": 2.0}),
        draw((5,), (2, 3, 4), (5, 4), **{**_PLAIN, "turned": True, "activation": "relu"}),
        *(draw((7,), (2, 9, 4), (7, 4), **{**_PLAIN, "turned": True, "activation": name, "kept": True})
          for name in _ACTIVATIONS if name != "relu"),
        draw(None, (3, 4), (4, 5), **{**_PLAIN, "activation": "silu", "kept": True, "alpha": 0.5}),
        draw((1, 6), (1, 40), (40, 6), **{**_PLAIN, "beta": 0.5, "activation": "gelu", "kept": True}),
        draw((6, 1), (6, 40), (40, 1), **{**_PLAIN, "alpha": 0.5}),
        draw((5,), (0, 3), (3, 5), **_PLAIN), draw((5,), (4, 0), (0, 5), **_PLAIN),
    ),
    bench=[draw((4096,), (8192, 1024), (4096, 1024),
                **{**_PLAIN, "turned": True, "activation": "gelu_tanh", "kept": False})],
    flops=lambda input, mat1, mat2, beta, alpha, activation, turned, kept, dtype: (
        2.0 * mat1.size * mat2.shape[0 if turned else -1]
    ),
)  # fmt: skip
def _addmm(
    input: Array | None, mat1: Array, mat2: Array, beta: Scalar, alpha: Scalar, activation: Any, turned: Any,
    kept: Any, dtype: Any,
):  # fmt: skip
    """activation(beta * input + alpha * (mat1 @ mat2)), rounded once, and with ``kept`` what the activation is given.

    mat1, mat2 as matmul's; ``turned``: mat2 (n, k) is a weight. input broadcasts to the product. ``dtype``: of the
    result, by default the operands'.
    """
    other = mat2.T if turned else mat2
    if other.ndim == 2 and mat1.ndim > 2 and mat1.size and mat1.flags.c_contiguous:
        rows = _products.matmul(mat1.reshape(-1, mat1.shape[-1]), other)
        out = rows.reshape(*mat1.shape[:-1], other.shape[-1])
    else:
        out = np.asarray(_products.matmul(mat1, other))
    if alpha != 1:
        out *= alpha
    if input is not None:
        added = input.astype(out.dtype, copy=False)
        out += added if beta == 1 else added * beta
    before = out if kept else np.empty(0, out.dtype)
    return (_ACTIVATIONS[activation].numpy(out) if activation else out), before


@composite(on="functional", samples=each(
    draw((4, 3), (5, 3), (5,)), draw((2, 4, 3), (5, 3), (5,), "relu"), draw((4, 3), (5, 3), None, "gelu_tanh"),
    draw((3,), (5, 3), (5,), activation="silu"),
))  # fmt: skip
def linear_activation(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "gelu"
) -> Tensor:
    """activation(input @ weight.T + bias) in one kernel: input (…, in), weight (out, in), bias (out,) -> (…, out).

    ``activation``: "relu", "gelu", "gelu_tanh" or "silu". As ``linear`` and the activation after it, but that the sums
    are rounded once, after both. ArgumentError for another activation.
    """
    if activation not in _ACTIVATIONS:
        raise ArgumentError(
            f"linear_activation: got activation {activation!r}: expected one of {', '.join(_ACTIVATIONS)}"
        )
    wanted = modes.grad and any(t is not None and t.requires_grad for t in (input, weight, bias))
    kept = bool(wanted) and not _ACTIVATIONS[activation].of_result
    return _addmm(bias, input, weight, 1, 1, activation, True, kept, None)  # type: ignore[no-any-return]


# -------------------------------------------------------------------------------------------------- the named products


def _dims(name: str, message: str, *expected: tuple[Any, int]) -> None:
    """ShapeError unless each tensor has its number of dimensions."""
    if any([t._array.ndim != n for t, n in expected]):
        got = ", ".join(str(tuple(t.shape)) for t, _ in expected)
        raise ShapeError(f"{name}: {message}, got {got}")


@composite(samples=each(draw((4, 3), (3, 5)), draw((1, 17), (17, 1)), draw((0, 3), (3, 2))))
def mm(input: Tensor, mat2: Tensor, out_dtype: Any = None, *, out: Tensor | None = None) -> Tensor:
    """input @ mat2 for two matrices: (m, k), (k, n) -> (m, n). No broadcasting; see matmul.

    ``out_dtype=float32`` keeps the sums of float16 and bfloat16 operands as they are.
    """
    _dims("mm", "self must be a matrix: expected (m, k) and (k, n)", (input, 2), (mat2, 2))
    return _into_dtype("mm", input, mat2, out_dtype, out)


@composite(samples=each(draw((2, 4, 3), (2, 3, 5)), draw((1, 1, 3), (1, 3, 1)), draw((0, 4, 3), (0, 3, 5))))
def bmm(input: Tensor, mat2: Tensor, out_dtype: Any = None, *, out: Tensor | None = None) -> Tensor:
    """input @ mat2 for two batches of matrices: (b, m, k), (b, k, n) -> (b, m, n). No broadcasting; see matmul.

    ``out_dtype`` as in mm.
    """
    _batched("bmm", input, mat2)
    return _into_dtype("bmm", input, mat2, out_dtype, out)


def _batched(name: str, batch1: Tensor, batch2: Tensor) -> tuple[int, ...]:
    """The shape of the product of two batches of matrices."""
    a, b = batch1._array.shape, batch2._array.shape
    if len(a) == len(b) == 3 and a[0] == b[0] and a[2] == b[1]:
        return (a[0], a[1], b[2])
    for which, t in (("batch1", batch1), ("batch2", batch2)):
        _dims(name, f"{which} must be a 3D tensor: expected (b, m, k) and (b, k, n)", (t, 3))
    wanted = (batch1.shape[0], batch1.shape[2])
    if tuple(batch2.shape[:2]) != wanted:
        raise ShapeError(
            f"{name}: cannot multiply {tuple(batch1.shape)} by {tuple(batch2.shape)}: Expected size for first two "
            f"dimensions of batch2 tensor to be: {list(wanted)} but got: {list(batch2.shape[:2])}"
        )
    return (*batch1.shape[:2], batch2.shape[2])


@composite(samples=each(draw((4, 3), (3,))))
def mv(input: Tensor, vec: Tensor, *, out: Tensor | None = None) -> Tensor:
    """input @ vec: (m, k), (k,) -> (m,). See matmul."""
    _mat_by_vec("mv", input, vec)
    return matmul(input, vec, out=out)


def _mat_by_vec(name: str, input: Tensor, vec: Tensor) -> None:
    _dims(name, "vector + matrix @ vector expected: (m, k) and (k,)", (input, 2), (vec, 1))
    if input.shape[1] != vec.shape[0]:
        raise ShapeError(
            f"{name}: size mismatch, got input ({input.shape[0]}), mat ({input.shape[0]}x{input.shape[1]}), "
            f"vec ({vec.shape[0]}): expected (m, k) and (k,)"
        )


@composite(samples=each(draw((5,), (5,)), draw((0,), (0,))))
def dot(input: Tensor, tensor: Tensor, *, out: Tensor | None = None) -> Tensor:
    """sum_i input_i tensor_i of two vectors of one length and dtype: (k,), (k,) -> ()."""
    x, y = input._array, tensor._array
    if x.ndim == 1 and x.shape == y.shape:
        return matmul(input, tensor, out=out)
    if input.ndim != 1 or tensor.ndim != 1:
        raise ShapeError(f"dot: 1D tensors expected, but got {input.ndim}D and {tensor.ndim}D tensors")
    raise ShapeError(
        f"dot: inconsistent tensor size, expected tensor [{input.shape[0]}] and src [{tensor.shape[0]}] to have "
        f"the same number of elements, but got {input.shape[0]} and {tensor.shape[0]} elements respectively"
    )


@composite(samples=each(draw((3,), (4,)), draw((0,), (4,))), alias=("ger",))
def outer(input: Tensor, vec2: Tensor, *, out: Tensor | None = None) -> Tensor:
    """out_ij = input_i vec2_j: (m,), (n,) -> (m, n). Promoted as mul."""
    for name, t in (("self", input), ("vec2", vec2)):
        if t.ndim != 1:
            raise ShapeError(f"outer: Expected 1-D argument {name}, but got {t.ndim}-D")
    return mul(input.unsqueeze(1), vec2.unsqueeze(0), out=out)


def _scaled_sum(
    name: str, input: Tensor, mat1: Tensor, mat2: Tensor, shape: tuple[int, ...], beta: Scalar, alpha: Scalar,
    out: Tensor | None, out_dtype: Any = None, activation: str = "",
) -> Tensor:  # fmt: skip
    """activation(beta * input + alpha * mat1 @ mat2), of this shape; with beta 0 input takes no part, nor its NaNs."""
    _fits(name, input, shape)
    dtype = _wider(name, mat1, out_dtype)
    if input.dtype != mat1.dtype and input.dtype is not dtype:
        raise DtypeError(
            f"{name}: self and mat2 must have the same dtype, but got {input.dtype} and {mat1.dtype}: "
            f"convert them, as in input.to(mat2.dtype)"
        )
    for which, number in (("beta", beta), ("alpha", alpha)):
        if isinstance(number, complex) and not mat1.dtype.is_complex:
            raise DtypeError(
                f"{name}: result type ComplexFloat can't be cast to the desired output type {mat1.dtype}: got {which} "
                f"= {number}, expected a real number"
            )
    if not mat1.dtype.is_floating_point and not mat1.dtype.is_complex:
        beta, alpha = int(beta), int(alpha)  # type: ignore[arg-type]
    elif not mat1.dtype.is_complex:
        beta, alpha = float(beta), float(alpha)  # type: ignore[arg-type]
    kept = activation == "gelu" and modes.grad and any(t.requires_grad for t in (input, mat1, mat2))
    added = None if beta == 0 else input
    result: Tensor = _addmm(added, mat1, mat2, beta, alpha, activation, False, kept, dtype)
    return result if out is None else into(name, out, result)  # type: ignore[no-any-return]


def _fits(name: str, input: Tensor, shape: Sequence[int]) -> Tensor:
    """The tensor. ShapeError unless it broadcasts to the shape."""
    own = input._array.shape
    if own == shape or own == shape[-1:]:
        return input
    lead = len(shape) - input.ndim
    if lead < 0 or any(n not in (1, m) for n, m in zip(input.shape, shape[lead:], strict=True)):
        raise ShapeError(
            f"{name}: input of shape {tuple(input.shape)} does not broadcast to {tuple(shape)} "
            f"(The expanded size of the tensor must match the existing size)"
        )
    return input


def _wider(name: str, operand: Tensor, out_dtype: Any) -> Any:
    """``out_dtype`` where it is not the operands' own. PyTorch takes float32, for float16 and bfloat16."""
    if out_dtype is None or out_dtype is operand.dtype:
        return None
    if out_dtype is not float32 or operand.dtype not in (float16, bfloat16):
        raise DtypeError(
            f"{name}: out_dtype must be the same as input dtype or fp32 for fp16/bf16 inputs, got {out_dtype} for "
            f"{operand.dtype}"
        )
    return out_dtype


def _into_dtype(name: str, input: Tensor, mat2: Tensor, out_dtype: Any, out: Tensor | None) -> Tensor:
    """input @ mat2, of ``out_dtype`` where it is given."""
    dtype = _wider(name, input, out_dtype)
    if dtype is None:
        return matmul(input, mat2, out=out)
    result: Tensor = _addmm(None, input, mat2, 1, 1, "", False, False, dtype)
    return result if out is None else into(name, out, result)  # type: ignore[no-any-return]


@composite(
    inplace=True,
    samples=each(
        draw((5,), (4, 3), (3, 5)), draw((4, 5), (4, 3), (3, 5), beta=0.5, alpha=2.0),
        draw((4, 1), (4, 3), (3, 5), beta=0),
    ),
)  # fmt: skip
def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, out_dtype: Any = None, *, beta: Scalar = 1, alpha: Scalar = 1,
          out: Tensor | None = None) -> Tensor:  # fmt: skip
    """beta * input + alpha * (mat1 @ mat2): input broadcast to (m, n), mat1 (m, k), mat2 (k, n) -> (m, n).

    One kernel: the sum is rounded once. With beta 0 input is ignored, NaNs and all. ``out_dtype`` as in mm.
    """
    shape = _two_matrices("addmm", mat1, mat2)
    return _scaled_sum("addmm", input, mat1, mat2, shape, beta, alpha, out, out_dtype)


def _two_matrices(name: str, mat1: Tensor, mat2: Tensor) -> tuple[int, ...]:
    """The shape of the product of two matrices."""
    a, b = mat1._array.shape, mat2._array.shape
    if len(a) == len(b) == 2 and a[1] == b[0]:
        return (a[0], b[1])
    for which, t in (("mat1", mat1), ("mat2", mat2)):
        if t.ndim != 2:
            raise ShapeError(f"{name}: {which} must be a matrix, got {t.ndim}-D tensor")
    if mat1.shape[1] != mat2.shape[0]:
        raise _cannot_multiply(name, mat1.shape, mat2.shape, "(m, k) and (k, n)")
    return mat1.shape[0], mat2.shape[1]


@composite(on="function", samples=each(
    draw((5,), (4, 3), (3, 5)), draw((4, 5), (4, 3), (3, 5), beta=0.5, alpha=2.0, use_gelu=True),
    draw((5,), (4, 3), (3, 5), beta=0),
))  # fmt: skip
@takes_out
def _addmm_activation(
    input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1, use_gelu: bool = False
) -> Tensor:
    """relu(beta * input + alpha * (mat1 @ mat2)), or gelu of it, in one kernel; shapes as in addmm."""
    shape = _two_matrices("_addmm_activation", mat1, mat2)
    name = "gelu" if use_gelu else "relu"
    return _scaled_sum("_addmm_activation", input, mat1, mat2, shape, beta, alpha, None, None, name)


@composite(inplace=True, samples=each(draw((4,), (4, 3), (3,)), draw((1,), (4, 3), (3,), beta=0.5, alpha=2.0)))
def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1,
          out: Tensor | None = None) -> Tensor:  # fmt: skip
    """beta * input + alpha * (mat @ vec): input broadcast to (m,), mat (m, k), vec (k,) -> (m,)."""
    _mat_by_vec("addmv", mat, vec)
    return _scaled_sum("addmv", input, mat, vec, (mat.shape[0],), beta, alpha, out)


@composite(
    inplace=True,
    samples=each(
        draw((2, 4, 5), (2, 4, 3), (2, 3, 5)), draw((5,), (2, 4, 3), (2, 3, 5), beta=0.5, alpha=2.0)
    ),
)  # fmt: skip
def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, out_dtype: Any = None, *, beta: Scalar = 1,
            alpha: Scalar = 1, out: Tensor | None = None) -> Tensor:  # fmt: skip
    """beta * input + alpha * (batch1 @ batch2): input broadcast to (b, m, n), (b, m, k), (b, k, n) -> (b, m, n).

    One kernel: the sum is rounded once. With beta 0 input is ignored, NaNs and all. ``out_dtype`` as in mm.
    """
    shape = _batched("baddbmm", batch1, batch2)
    return _scaled_sum("baddbmm", input, batch1, batch2, shape, beta, alpha, out, out_dtype)


@composite(
    on="function functional",
    samples=each(draw((4, 3), (4, 5), (2, 3, 5), (2,)), draw((2, 1, 3), (2, 1, 5), (2, 3, 5), None)),
)
def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x1^T W_k x2 + b_k. input1 (…, in1), input2 (…, in2), weight (out, in1, in2), bias (out,) -> (…, out)."""
    sizes = (input1.shape[-1], input2.shape[-1])
    if weight.ndim != 3 or input1.shape[:-1] != input2.shape[:-1] or weight.shape[1:] != sizes:
        raise ShapeError(
            f"bilinear: input1 {tuple(input1.shape)}, input2 {tuple(input2.shape)}, weight {tuple(weight.shape)}: "
            f"expected (…, in1), (…, in2), (out, in1, in2)"
        )
    n, in1, in2 = weight.shape
    left = linear(input1, weight.permute(0, 2, 1).reshape(n * in2, in1)).reshape(*input1.shape[:-1], n, in2)
    out = matmul(left, input2.unsqueeze(-1)).squeeze(-1)
    return out if bias is None else out + bias


# ------------------------------------------------------------------------------------------------------------- einsum

# Labels are numbers: A-Z and a-z are 0 .. 51 (upper case first, as PyTorch sorts an implicit output), the dimensions
# of the ellipsis follow, the last of them highest.
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ELLIPSIS = -1


def _error(message: str) -> ShapeError:
    return ShapeError(f"einsum(): {message}")


def _letters(text: str, start: int, where: str) -> list[int]:
    """The labels of one term of the equation."""
    labels: list[int] = []
    i = 0
    while i < len(text):
        c = text[i]
        if c == ".":
            if _ELLIPSIS in labels:
                raise _error(f"found '.' for {where} for which an ellipsis was already found")
            if text[i : i + 3] != "...":
                raise _error(f"found '.' for {where} that is not part of any ellipsis")
            labels.append(_ELLIPSIS)
            i += 3
            continue
        if c != " ":
            if c not in _LETTERS:
                raise _error(
                    f"invalid subscript given at index {start + i} in the equation string, subscripts must be in "
                    f"[a-zA-Z]"
                )
            labels.append(_LETTERS.index(c))
        i += 1
    return labels


def _parse_equation(equation: str) -> tuple[list[list[int]], list[int] | None]:
    """The labels of each operand and of the result; None where the equation has no arrow."""
    left, arrow, right = equation.partition("->")
    terms, at = [], 0
    for i, text in enumerate(left.split(",")):
        terms.append(_letters(text, at, f"operand {i}"))
        at += len(text) + 1
    return terms, _letters(right, len(left) + 2, "the output") if arrow else None


def _parse_sublists(args: Sequence[Any]) -> tuple[list[Any], list[list[int]], list[int] | None]:
    """Operands and labels of ``einsum(x, [0, 1], y, [1, 2], [0, 2])``."""

    def labels(sublist: Iterable[Any]) -> list[int]:
        out = []
        for s in sublist:
            if s is not Ellipsis and not 0 <= int(s) < len(_LETTERS):
                raise ArgumentError("einsum(): subscript in subscript list is not within the valid range [0, 52)")
            out.append(_ELLIPSIS if s is Ellipsis else int(s))
        return out

    n = len(args) // 2 * 2
    return list(args[:n:2]), [labels(s) for s in args[1:n:2]], labels(args[-1]) if len(args) % 2 else None


def _spelled(label: int) -> str:
    return _LETTERS[label] if label < len(_LETTERS) else "..."


@composite(
    on="function",
    samples=each(
        draw("ij,jk->ik", (3, 4), (4, 5)), draw("bij,bjk->bik", (2, 3, 4), (2, 4, 5)), draw("ii->i", (4, 4)),
        draw("ii", (4, 4)), draw("...ij->...ji", (2, 3, 4)), draw("...i,...i->...", (2, 3), (3,)),
        draw("ij->j", (3, 4)), draw("i,j->ij", (3,), (4,)), draw("bhld,bhsd->bhls", (2, 2, 3, 4), (2, 2, 5, 4)),
        draw("iij,j->i", (3, 3, 4), (4,)),
        draw("ijk,lkj->il", (2, 3, 4), (5, 4, 3)), draw("ij,ij->", (3, 4), (1, 4)),
    ),
)  # fmt: skip
def einsum(equation: Any, *operands: Tensor) -> Tensor:
    """The sum of products that ``equation`` names: ``einsum("bij,bjk->bik", x, y)``; Einstein's convention.

    Letters a-z, A-Z name dimensions; a letter missing from the result is summed over, a repeated one takes a diagonal;
    "..." stands for the dimensions not named, which broadcast. Without "->" the result has the letters that occur once,
    in order. Also ``einsum(x, [0, 1], y, [1, 2], [0, 2])``. Two operands are one batched matrix product, accumulated as
    matmul; more are taken in pairs, in the order that the package opt_einsum (the extra ``einsum``) finds cheapest, or
    from left to right where it is not installed.
    """
    if type(equation) is str and 0 < len(operands) <= 2 and all([type(x) in KINDS for x in operands]):
        program = _program(equation, tuple([x._array.shape for x in operands]))
        if program is not None:
            done: list[Any] = []
            for name, places, args in program:
                first, *others = [operands[p] if p >= 0 else done[-p - 1] for p in places]
                done.append(getattr(first, name)(*others, *args))
            return done[-1]  # type: ignore[no-any-return]
    if isinstance(equation, Tensor):
        inputs, terms, result = _parse_sublists((equation, *operands))
    elif not isinstance(equation, str) or not operands:
        raise ArgumentError(
            "einsum(): must specify the equation string and at least one operand, or at least one operand and its "
            "subscripts list"
        )
    else:
        if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
            operands = tuple(operands[0])
        inputs, (terms, result) = list(operands), _parse_equation(equation)
    if len(inputs) != len(terms):
        which = "fewer" if len(inputs) < len(terms) else "more"
        raise _error(f"{which} operands were provided than specified in the equation")
    for x in inputs:
        if not isinstance(x, Tensor):
            raise TypeError(f"einsum(): argument 'operands' must be tuple of Tensors, not {type(x).__name__}")
    return _contracted(inputs, terms, result)


class _Traced:
    """An operand of which only the shape is known: what is done to it is noted, to be done again to tensors."""

    def __init__(self, shape: Sequence[int], steps: list[tuple[str, Sequence[int], Any]], place: int) -> None:
        self.shape, self.steps, self.place = tuple(shape), steps, place

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def _then(self, shape: Sequence[int], name: str, *args: Any) -> _Traced:
        others = [a.place for a in args if isinstance(a, _Traced)]
        self.steps.append((name, (self.place, *others), () if others else args))
        return _Traced(shape, self.steps, -len(self.steps))

    def permute(self, order: Sequence[int]) -> _Traced:
        """Dimensions in another order."""
        if list(order) == list(range(self.ndim)):
            return self
        return self._then([self.shape[d] for d in order], "permute", tuple(order))

    def reshape(self, shape: Sequence[int]) -> _Traced:
        """The same elements in another shape."""
        return self if tuple(shape) == self.shape else self._then(shape, "reshape", tuple(shape))

    def sum(self, dims: Any) -> _Traced:
        """Summed over dims."""
        gone = (dims,) if isinstance(dims, int) else tuple(dims)
        return self._then([n for d, n in enumerate(self.shape) if d not in gone], "sum", gone)

    def squeeze(self, dim: int) -> _Traced:
        """Without a dimension of size 1."""
        return self._then(self.shape[:dim] + self.shape[dim + 1 :], "squeeze", dim)

    def unsqueeze(self, dim: int) -> _Traced:
        """With a dimension of size 1."""
        return self._then((*self.shape[:dim], 1, *self.shape[dim:]), "unsqueeze", dim)

    def diagonal(self, offset: int, first: int, second: int) -> _Traced:
        """The diagonal of two dimensions of one size, as the last."""
        rest = [n for d, n in enumerate(self.shape) if d not in (first, second)]
        return self._then([*rest, self.shape[first]], "diagonal", offset, first, second)

    def __matmul__(self, other: _Traced) -> _Traced:
        batch = np.broadcast_shapes(self.shape[:-2], other.shape[:-2])
        return self._then((*batch, self.shape[-2], other.shape[-1]), "__matmul__", other)

    def __mul__(self, other: _Traced) -> _Traced:
        return self._then(np.broadcast_shapes(self.shape, other.shape), "__mul__", other)


@lru_cache(maxsize=256)
def _program(equation: str, shapes: tuple[tuple[int, ...], ...]) -> tuple[tuple[str, Sequence[int], Any], ...] | None:
    """What an equation does to operands of these shapes: (method, the places of its operands, its arguments) each.

    A place counts the operands from 0, results from -1 downwards. None where the result is none of these.
    """
    terms, result = _parse_equation(equation)
    if len(terms) != len(shapes):
        return None
    steps: list[tuple[str, Sequence[int], Any]] = []
    out = _contracted([_Traced(shape, steps, i) for i, shape in enumerate(shapes)], terms, result)
    return tuple(steps) if out.place == -len(steps) and steps else None


def _contracted(inputs: list[Any], terms: list[list[int]], result: list[int] | None) -> Any:
    """The contraction of operands with these labels."""
    terms, result = _expand_ellipsis(inputs, terms, result)
    sizes: dict[int, int] = {}
    for i, (x, labels) in enumerate(zip(inputs, terms, strict=True)):
        _check_sizes(i, x, labels, sizes)
    for s in result:
        if s not in sizes:
            raise _error(f"output subscript {_spelled(s)} does not appear in the equation for any input operand")
        if result.count(s) > 1:
            raise _error(f"output subscript {_spelled(s)} appears more than once in the output")
    pairs = [_diagonals(x, labels) for x, labels in zip(inputs, terms, strict=True)]
    for i, j in _order(terms, result, inputs):
        (b, lb), (a, la) = pairs.pop(j), pairs.pop(i)
        keep = set(result).union(*[labels for _, labels in pairs])
        pairs.append(_contract(a, la, b, lb, keep))
    x, labels = pairs[0]
    left = [d for d, s in enumerate(labels) if s not in result]
    if left:
        x = x.sum(left)
        labels = [s for s in labels if s in result]
    order = [labels.index(s) for s in result]
    return x if order == list(range(len(order))) else x.permute(order)


def _expand_ellipsis(
    inputs: list[Any], terms: list[list[int]], result: list[int] | None
) -> tuple[list[list[int]], list[int]]:
    """Labels without the ellipsis: its dimensions are labelled from the right. The result in full."""
    widths = []
    for i, (x, labels) in enumerate(zip(inputs, terms, strict=True)):
        named = len(labels) - (_ELLIPSIS in labels)
        if named > x.ndim or (named != x.ndim and _ELLIPSIS not in labels):
            raise _error(
                f"the number of subscripts in the equation ({named}) "
                + (f"does not match the number of dimensions ({x.ndim}) for operand {i} and no ellipsis was given"
                   if _ELLIPSIS not in labels else f"is more than the number of dimensions ({x.ndim}) for operand {i}")
            )  # fmt: skip
        widths.append(x.ndim - named)
    most = max([w for w, labels in zip(widths, terms, strict=True) if _ELLIPSIS in labels], default=0)
    dots = [len(_LETTERS) + i for i in range(most)]

    def full(labels: list[int], width: int) -> list[int]:
        if _ELLIPSIS not in labels:
            return labels
        at = labels.index(_ELLIPSIS)
        return labels[:at] + dots[most - width :] + labels[at + 1 :]

    seen = [s for labels in terms for s in labels if s != _ELLIPSIS]
    if result is None:
        result = [_ELLIPSIS, *sorted(s for s in set(seen) if seen.count(s) == 1)]
    return [full(labels, w) for labels, w in zip(terms, widths, strict=True)], full(result, most)


def _check_sizes(i: int, x: Any, labels: list[int], sizes: dict[int, int]) -> None:
    """Note the size of each label; sizes of 1 broadcast between operands, not within one."""
    own: dict[int, int] = {}
    for s, n in zip(labels, x.shape, strict=True):
        if own.setdefault(s, n) != n:
            raise _error(
                f"subscript {_spelled(s)} is repeated for operand {i} but the sizes don't match, {n} != {own[s]}"
            )
    for s, n in own.items():
        have = sizes.setdefault(s, n)
        if have != n and have != 1 and n != 1:
            raise _error(
                f"subscript {_spelled(s)} has size {n} for operand {i} which does not broadcast with previously seen "
                f"size {have}"
            )
        if have == 1:
            sizes[s] = n


def _diagonals(x: Any, labels: list[int]) -> tuple[Any, list[int]]:
    """The operand with each repeated label once."""
    labels = list(labels)
    for s in dict.fromkeys(labels):
        while labels.count(s) > 1:
            first = labels.index(s)
            second = labels.index(s, first + 1)
            x = x.diagonal(0, first, second)  # the diagonal becomes the last dimension
            del labels[second], labels[first]
            labels.append(s)
    return x, labels


def _order(terms: list[list[int]], result: list[int], inputs: list[Any]) -> list[tuple[int, int]]:
    """Which two operands to contract next, as positions i < j among those left; the product goes to their end."""
    if len(terms) <= 2:
        return [(0, 1)] * (len(terms) - 1)
    try:
        import opt_einsum  # an extra, and slow to import: only where there is an order to find
    except ImportError:  # as PyTorch: from left to right
        return [(0, 1), *[(0, left - 1) for left in range(len(terms) - 1, 1, -1)]]

    def text(labels: Iterable[int]) -> str:
        return "".join(opt_einsum.get_symbol(s) for s in labels)

    sizes = [
        dict(zip(labels, x.shape, strict=True)) for labels, x in zip(terms, inputs, strict=True)
    ]  # each label once
    equation = ",".join(map(text, sizes)) + "->" + text(result)
    path, _ = opt_einsum.contract_path(equation, *[tuple(s.values()) for s in sizes], shapes=True)
    steps = []
    left = len(terms)
    for group in path:  # a group of more than two is taken from its end, the product each time last
        taken = sorted(group)
        while len(taken) > 1:
            steps.append((taken[-2], taken[-1]))
            left -= 1
            taken = [*taken[:-2], left - 1]
    return steps


def _contract(a: Any, la: list[int], b: Any, lb: list[int], keep: set[int]) -> tuple[Any, list[int]]:
    """The product of two operands, summed over the labels that nothing else needs: one batched matrix product."""
    (a, la), (b, lb) = _sum_own(a, la, lb, b, keep), (b, lb)
    b, lb = _sum_own(b, lb, la, a, keep)
    for s in [s for s in la if s in lb and s not in keep]:  # a size of 1 on one side: the other is summed, 1 dropped
        i, j = la.index(s), lb.index(s)
        if a.shape[i] != b.shape[j]:
            a, b = (a.squeeze(i), b.sum(j)) if a.shape[i] == 1 else (a.sum(i), b.squeeze(j))
            la, lb = la[:i] + la[i + 1 :], lb[:j] + lb[j + 1 :]
    batch = [s for s in la if s in lb and s in keep]
    summed = [s for s in la if s in lb and s not in keep]
    rows, columns = [s for s in la if s not in lb], [s for s in lb if s not in la]
    if not summed:
        labels = batch + rows + columns
        return _aligned(a, la, labels) * _aligned(b, lb, labels), labels
    x = a.permute([la.index(s) for s in batch + rows + summed])
    y = b.permute([lb.index(s) for s in batch + summed + columns])
    n = len(batch)
    row_sizes, column_sizes = x.shape[n : n + len(rows)], y.shape[n + len(summed) :]
    # Dimensions that stand alone keep their strides; several become one, which may take a copy.
    if len(rows) != 1 or len(summed) != 1:
        k = y.shape[n : n + len(summed)]
        x = x.reshape((*x.shape[:n], _product(row_sizes), _product(k)))
        y = y.reshape((*y.shape[:n], _product(k), *y.shape[n + len(summed) :]))
    if len(columns) != 1:
        y = y.reshape((*y.shape[: n + 1], _product(column_sizes)))
    out = x @ y
    if len(rows) != 1 or len(columns) != 1:
        out = out.reshape((*out.shape[:n], *row_sizes, *column_sizes))
    return out, batch + rows + columns


def _product(sizes: Sequence[int]) -> int:
    n = 1
    for s in sizes:
        n *= s
    return n


def _sum_own(a: Any, la: list[int], lb: list[int], b: Any, keep: set[int]) -> tuple[Any, list[int]]:
    """An operand summed over the labels that it alone has."""
    own = [d for d, s in enumerate(la) if s not in lb and s not in keep]
    return (a.sum(own), [s for d, s in enumerate(la) if d not in own]) if own else (a, la)


def _aligned(x: Any, labels: list[int], to: list[int]) -> Any:
    """The operand with its dimensions in the order ``to``, of size 1 where it has none."""
    x = x.permute([labels.index(s) for s in to if s in labels])
    for d, s in enumerate(to):
        if s not in labels:
            x = x.unsqueeze(d)
    return x
