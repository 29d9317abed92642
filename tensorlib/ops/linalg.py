"""Matrix products: matmul and its named cases, the affine map of a linear layer, and einsum over them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._promotion import FLOATS
from tensorlib._samples import draw, each, fails, transposed
from tensorlib.errors import ArgumentError, DtypeError, ShapeError
from tensorlib.kernels import matmul as kernels
from tensorlib.op import Array, Scalar, composite, op
from tensorlib.ops.arithmetic import add, mul

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
        rows = np.matmul(input.reshape(-1, input.shape[-1]), other)
        return rows.reshape(*input.shape[:-1], other.shape[-1])
    return np.matmul(input, other)


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
)  # fmt: skip
def _gram(input: Array, other: Array):
    """The sum of outer products over all leading dimensions: (…, m), (…, n) -> (m, n). The gradient of a weight."""
    m, n = input.shape[-1], other.shape[-1]
    if not input.size or not other.size:
        return np.zeros((m, n), input.dtype)
    return np.matmul(input.reshape(-1, m).T, other.reshape(-1, n))


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
        rows = np.matmul(input.reshape(-1, input.shape[-1]), weight.T)
        out = rows.reshape(*input.shape[:-1], weight.shape[0])
    else:
        out = np.matmul(input, weight.T)
    if bias is not None:
        out += bias
    return out


# -------------------------------------------------------------------------------------------------- the named products


def _dims(name: str, message: str, *expected: tuple[Any, int]) -> None:
    """ShapeError unless each tensor has its number of dimensions."""
    if any(t.ndim != n for t, n in expected):
        got = ", ".join(str(tuple(t.shape)) for t, _ in expected)
        raise ShapeError(f"{name}: {message}, got {got}")


@composite(samples=each(draw((4, 3), (3, 5)), draw((1, 17), (17, 1)), draw((0, 3), (3, 2))))
def mm(input: Tensor, mat2: Tensor, *, out: Tensor | None = None) -> Tensor:
    """input @ mat2 for two matrices: (m, k), (k, n) -> (m, n). No broadcasting; see matmul."""
    _dims("mm", "self must be a matrix: expected (m, k) and (k, n)", (input, 2), (mat2, 2))
    return matmul(input, mat2, out=out)


@composite(samples=each(draw((2, 4, 3), (2, 3, 5)), draw((1, 1, 3), (1, 3, 1)), draw((0, 4, 3), (0, 3, 5))))
def bmm(input: Tensor, mat2: Tensor, *, out: Tensor | None = None) -> Tensor:
    """input @ mat2 for two batches of matrices: (b, m, k), (b, k, n) -> (b, m, n). No broadcasting; see matmul."""
    return _batched("bmm", input, mat2, out)


def _batched(name: str, batch1: Tensor, batch2: Tensor, out: Tensor | None = None) -> Tensor:
    for which, t in (("batch1", batch1), ("batch2", batch2)):
        _dims(name, f"{which} must be a 3D tensor: expected (b, m, k) and (b, k, n)", (t, 3))
    wanted = (batch1.shape[0], batch1.shape[2])
    if tuple(batch2.shape[:2]) != wanted:
        raise ShapeError(
            f"{name}: cannot multiply {tuple(batch1.shape)} by {tuple(batch2.shape)}: Expected size for first two "
            f"dimensions of batch2 tensor to be: {list(wanted)} but got: {list(batch2.shape[:2])}"
        )
    return matmul(batch1, batch2, out=out)


@composite(samples=each(draw((4, 3), (3,))))
def mv(input: Tensor, vec: Tensor, *, out: Tensor | None = None) -> Tensor:
    """input @ vec: (m, k), (k,) -> (m,). See matmul."""
    _dims("mv", "vector + matrix @ vector expected: (m, k) and (k,)", (input, 2), (vec, 1))
    if input.shape[1] != vec.shape[0]:
        raise ShapeError(
            f"mv: size mismatch, got input ({input.shape[0]}), mat ({input.shape[0]}x{input.shape[1]}), "
            f"vec ({vec.shape[0]}): expected (m, k) and (k,)"
        )
    return matmul(input, vec, out=out)


@composite(samples=each(draw((5,), (5,)), draw((0,), (0,))))
def dot(input: Tensor, tensor: Tensor, *, out: Tensor | None = None) -> Tensor:
    """sum_i input_i tensor_i of two vectors of one length and dtype: (k,), (k,) -> ()."""
    if input.ndim != 1 or tensor.ndim != 1:
        raise ShapeError(f"dot: 1D tensors expected, but got {input.ndim}D and {tensor.ndim}D tensors")
    if input.shape != tensor.shape:
        raise ShapeError(
            f"dot: inconsistent tensor size, expected tensor [{input.shape[0]}] and src [{tensor.shape[0]}] to have "
            f"the same number of elements, but got {input.shape[0]} and {tensor.shape[0]} elements respectively"
        )
    return matmul(input, tensor, out=out)


@composite(samples=each(draw((3,), (4,)), draw((0,), (4,))), alias=("ger",))
def outer(input: Tensor, vec2: Tensor, *, out: Tensor | None = None) -> Tensor:
    """out_ij = input_i vec2_j: (m,), (n,) -> (m, n). Promoted as mul."""
    for name, t in (("self", input), ("vec2", vec2)):
        if t.ndim != 1:
            raise ShapeError(f"outer: Expected 1-D argument {name}, but got {t.ndim}-D")
    return mul(input.unsqueeze(1), vec2.unsqueeze(0), out=out)


def _scaled_sum(name: str, input: Tensor, product: Tensor, beta: Scalar, alpha: Scalar, out: Tensor | None) -> Tensor:
    """beta * input + alpha * product; input takes no part when beta is 0, so that its NaNs do not."""
    lead = product.ndim - input.ndim
    if lead < 0 or any(n not in (1, m) for n, m in zip(input.shape, product.shape[lead:], strict=True)):
        raise ShapeError(
            f"{name}: input of shape {tuple(input.shape)} does not broadcast to {tuple(product.shape)} "
            f"(The expanded size of the tensor must match the existing size)"
        )
    if input.dtype != product.dtype:
        raise DtypeError(
            f"{name}: self and mat2 must have the same dtype, but got {input.dtype} and {product.dtype}: "
            f"convert them, as in input.to(mat2.dtype)"
        )
    if not product.dtype.is_floating_point and not product.dtype.is_complex:
        beta, alpha = int(beta), int(alpha)  # type: ignore[arg-type]
    if beta == 0:
        return mul(product, alpha, out=out)
    if alpha != 1:
        product = product * alpha
    return add(product, input, alpha=beta, out=out)


@composite(
    inplace=True,
    samples=each(
        draw((5,), (4, 3), (3, 5)), draw((4, 5), (4, 3), (3, 5), beta=0.5, alpha=2.0),
        draw((4, 1), (4, 3), (3, 5), beta=0),
    ),
)  # fmt: skip
def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1,
          out: Tensor | None = None) -> Tensor:  # fmt: skip
    """beta * input + alpha * (mat1 @ mat2): input broadcast to (m, n), mat1 (m, k), mat2 (k, n) -> (m, n).

    With beta 0 input is ignored, NaNs and all.
    """
    for name, t in (("mat1", mat1), ("mat2", mat2)):
        if t.ndim != 2:
            raise ShapeError(f"addmm: {name} must be a matrix, got {t.ndim}-D tensor")
    return _scaled_sum("addmm", input, matmul(mat1, mat2), beta, alpha, out)


@composite(inplace=True, samples=each(draw((4,), (4, 3), (3,)), draw((1,), (4, 3), (3,), beta=0.5, alpha=2.0)))
def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1,
          out: Tensor | None = None) -> Tensor:  # fmt: skip
    """beta * input + alpha * (mat @ vec): input broadcast to (m,), mat (m, k), vec (k,) -> (m,)."""
    return _scaled_sum("addmv", input, mv(mat, vec), beta, alpha, out)


@composite(
    inplace=True,
    samples=each(
        draw((2, 4, 5), (2, 4, 3), (2, 3, 5)), draw((5,), (2, 4, 3), (2, 3, 5), beta=0.5, alpha=2.0)
    ),
)  # fmt: skip
def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Scalar = 1, alpha: Scalar = 1,
            out: Tensor | None = None) -> Tensor:  # fmt: skip
    """beta * input + alpha * (batch1 @ batch2): input broadcast to (b, m, n), (b, m, k), (b, k, n) -> (b, m, n).

    With beta 0 input is ignored, NaNs and all.
    """
    return _scaled_sum("baddbmm", input, _batched("baddbmm", batch1, batch2), beta, alpha, out)


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
    out = matmul(x, y)
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
