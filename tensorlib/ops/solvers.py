"""Systems of linear equations and inverses. On the CPU, by LAPACK through NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib._core import Tensor
from tensorlib._promotion import FLOATS
from tensorlib._samples import Draw, draw, each, fails, positive, regular, without_gradient
from tensorlib.errors import ShapeError
from tensorlib.op import Array, composite, op, result_type
from tensorlib.ops import _linalg_numpy as numerics
from tensorlib.ops._linalg import INFO, failed, floating, identity, matrices, square
from tensorlib.ops._out import also_named, takes_out
from tensorlib.ops.linalg import _lead, _to_shape, matmul

# ---------------------------------------------------------------------------------------------------------------- solve


def is_vector(a: Any, b: Any) -> bool:
    """Whether the right side is one vector, or one for each matrix."""
    return len(b) == 1 or (len(a) - 1 == len(b) and tuple(b) == tuple(a[:-1]))


def _incompatible(name: str, a: Any, b: Any, left: bool) -> ShapeError:
    equation = "AX = B" if left else "XA = B"
    sizes = f"{a[-2]}x{a[-1]} and {b[-2]}x{b[-1]}"
    return ShapeError(
        f"{name}: Incompatible shapes of A and B for the equation {equation} ({sizes}): expected A (…, n, n) and B "
        f"{'(…, n, k)' if left else '(…, k, n)'}, got {tuple(a)} and {tuple(b)}"
    )


def _solve_shape(name: str, a: Any, b: Any, left: bool) -> tuple[int, ...]:
    if b[-2 if left else -1] != a[-1]:
        raise _incompatible(name, a, b, left)
    return (*_lead(name, tuple(a[:-2]), tuple(b[:-2])), *b[-2:])


def _solve_spec(A: Any, B: Any, left: bool, check_errors: bool) -> Any:
    square("linalg.solve", A)
    floating("linalg.solve", B)
    if not B.ndim:
        raise ShapeError("linalg.solve: B must have at least 1 dimension, got a tensor without: expected (…, n, k)")
    if not is_vector(A.shape, B.shape):
        return [(_solve_shape("linalg.solve", A.shape, B.shape, left), B.dtype), (A.shape[:-2], INFO)]
    if not left:
        raise ShapeError("linalg.solve: Vector broadcasting of the left hand side is not supported for left=False")
    shape = _solve_shape("linalg.solve", A.shape, (*B.shape, 1), left)
    return [(shape[:-1], B.dtype), (A.shape[:-2], INFO)]


def _solve_grad_b(g: Any, A: Any, B_shape: Any, left: bool) -> Any:
    if is_vector(A._array.shape, B_shape):
        return _to_shape(linalg_solve(A.mH, g.unsqueeze(-1)).squeeze(-1), B_shape)
    return _to_shape(linalg_solve(A.mH, g, left=left), B_shape)


def _solve_grad_a(g: Any, A: Any, B_shape: Any, result: Any, left: bool) -> Any:
    vector = is_vector(A._array.shape, B_shape)
    x = result.unsqueeze(-1) if vector else result
    gb = linalg_solve(A.mH, g.unsqueeze(-1) if vector else g, left=left)
    return _to_shape(-matmul(gb, x.mH) if left else -matmul(x.mH, gb), A._array.shape)


@op(
    spec=_solve_spec,
    promote=FLOATS,
    complex="own",
    outputs=("result", "info"),
    vjp=dict(A=_solve_grad_a, B=_solve_grad_b),
    on="linalg",
    samples=each(
        draw(regular(3, 3), (3, 2)), draw(regular(3, 3), (3,)), draw(regular(2, 3, 3), (2, 3)),
        draw(regular(2, 1, 3, 3), (4, 3, 2)), draw(regular(3, 3), (2, 3), left=False), draw(regular(0, 3, 3), (3, 2)),
        draw(regular(3, 3), (3, 0)), draw((0, 0), (0, 2)), draw(regular(1, 1), (1,)),
    ),
    errors=[
        fails((2, 3), (2,), match="square matrices", error=ShapeError),
        fails((3, 3), (2, 2), match="Incompatible shapes", error=ShapeError),
    ],
    bench=[draw(regular(256, 256), (256, 64))],
    flops=lambda A, B: 2 / 3 * A.size * A.shape[-1] + 2.0 * A.shape[-1] * B.size,
)  # fmt: skip
def linalg_solve_ex(A: Array, B: Array, *, left: bool = True, check_errors: bool = False):
    """(X, info) with A X = B (``left=False``: X A = B): A (…, n, n), B (…, n, k) or (n,) or (…, n); batches broadcast.

    info is the first zero pivot, 0 for none; a LinAlgError with ``check_errors``. float32, float64, complex.
    """
    vector = is_vector(A.shape, B.shape)
    b = B[..., None] if vector else B
    if not left:
        A, b = A.swapaxes(-1, -2), b.swapaxes(-1, -2)
    x, info = numerics.solve(A, b)
    if check_errors:
        failed("linalg.solve_ex", info, _SINGULAR)
    x = x if left else x.swapaxes(-1, -2)
    return (x[..., 0] if vector else x), info


_SINGULAR = "The solver failed because the input matrix is singular."


@composite(on="linalg", samples=each(
    draw(regular(3, 3), (3, 2)), draw(regular(2, 3, 3), (2, 3)), draw(regular(3, 3), (2, 2, 3), left=False),
))  # fmt: skip
@takes_out
def linalg_solve(A: Tensor, B: Tensor, *, left: bool = True) -> Tensor:
    """X with A X = B (``left=False``: X A = B): A (…, n, n), B (…, n, k) or (n,) or (…, n); batches broadcast.

    By LU with partial pivoting. LinAlgError where A is singular.
    """
    result, info = linalg_solve_ex(A, B, left=left)
    failed("linalg.solve", info._array, _SINGULAR)
    return result


# -------------------------------------------------------------------------------------------------------------- inverse


def _inv_spec(A: Any, check_errors: bool) -> Any:
    square("linalg.inv", A)
    return [(A.shape, A.dtype), (A.shape[:-2], INFO)]


_NO_INVERSE = (
    "The diagonal element {} is zero, the inversion could not be completed because the input matrix is singular."
)


@op(
    spec=_inv_spec,
    promote=FLOATS,
    complex="own",
    outputs=("inverse", "info"),
    vjp=lambda g, inverse: -matmul(inverse.mH, matmul(g, inverse.mH)),
    on="linalg",
    samples=each(
        draw(regular(3, 3)), draw(regular(2, 4, 4)), draw(regular(1, 1)), draw(regular(0, 3, 3)), draw((0, 0)),
    ),
    errors=[fails((2, 3), match="square matrices, but they are 2 by 3", error=ShapeError)],
    bench=[draw(regular(256, 256))],
    flops=lambda A: 2.0 * A.size * A.shape[-1],
)  # fmt: skip
def linalg_inv_ex(A: Array, *, check_errors: bool = False):
    """(A^-1, info): (…, n, n). info is the first zero pivot, 0 for none; a LinAlgError with ``check_errors``."""
    found, info = numerics.inverse(A)
    if check_errors:
        failed("linalg.inv_ex", info, _NO_INVERSE)
    return found, info


@composite(on="linalg", samples=each(draw(regular(3, 3)), draw(regular(2, 4, 4))))
@takes_out
def linalg_inv(A: Tensor) -> Tensor:
    """A^-1: (…, n, n), float32, float64 or complex. LinAlgError where A is singular."""
    found, info = linalg_inv_ex(A)
    failed("linalg.inv", info._array, _NO_INVERSE)
    return found


@composite(samples=each(draw(regular(3, 3)), draw(regular(2, 4, 4))))
@takes_out
def inverse(input: Tensor) -> Tensor:
    """input^-1: ``linalg.inv``."""
    return linalg_inv(input)


# ------------------------------------------------------------------------------------------------------------ triangles


def _triangular_spec(A: Any, B: Any, upper: bool, left: bool, unitriangular: bool) -> Any:
    square("linalg.solve_triangular", A)
    matrices("linalg.solve_triangular", B, "B")
    return _solve_shape("linalg.solve_triangular", A.shape, B.shape, left), B.dtype


def _triangular_grad_b(g: Any, input: Any, B_shape: Any, upper: bool, left: bool, unitriangular: bool) -> Any:
    found = linalg_solve_triangular(input.mH, g, upper=not upper, left=left, unitriangular=unitriangular)
    return _to_shape(found, B_shape)


def _triangular_grad_a(g: Any, input: Any, out: Any, upper: bool, left: bool, unitriangular: bool) -> Any:
    gb = linalg_solve_triangular(input.mH, g, upper=not upper, left=left, unitriangular=unitriangular)
    found = _to_shape(-matmul(gb, out.mH) if left else -matmul(out.mH, gb), input._array.shape)
    return found.triu(int(unitriangular)) if upper else found.tril(-int(unitriangular))


@op(
    spec=_triangular_spec,
    promote=FLOATS,
    complex="own",
    vjp=dict(input=_triangular_grad_a, B=_triangular_grad_b),
    on="linalg",
    samples=each(
        draw(regular(3, 3), (3, 2), upper=True), draw(regular(2, 3, 3), (2, 3, 1), upper=False),
        draw(regular(3, 3), (2, 3), upper=True, left=False),
        draw(regular(3, 3), (3, 2), upper=False, unitriangular=True),
        draw(regular(2, 1, 3, 3), (4, 2, 3), upper=False, left=False), draw(regular(3, 3), (3, 0), upper=True),
        draw((0, 0), (0, 2), upper=True), draw(regular(70, 70), (70, 3), upper=False),
        draw(regular(0, 3, 3), (3, 2), upper=True),
    ),
    errors=[
        fails((2, 3), (2, 2), upper=True, match="square matrices", error=ShapeError),
        fails((3, 3), (2, 2), upper=True, match="Incompatible shapes", error=ShapeError),
        fails((3, 3), (3,), upper=True, match="B must have at least 2", error=ShapeError),
    ],
    bench=[draw(regular(256, 256), (256, 64), upper=False)],
    flops=lambda input, B: 1.0 * input.shape[-1] * B.size,
)  # fmt: skip
def linalg_solve_triangular(input: Array, B: Array, *, upper: bool, left: bool = True, unitriangular: bool = False):
    """X with input X = B (``left=False``: X input = B), input triangular: (…, n, n), B (…, n, k); batches broadcast.

    Only the triangle is read, and with ``unitriangular`` not its diagonal, taken as ones. Zeros on the diagonal give
    infinities. float32, float64, complex.
    """
    return numerics.solve_triangular(input, B, upper, left, unitriangular)


_TRIANGULAR = result_type("triangular_solve", ("solution", "cloned_coefficient"))


@composite(samples=each(draw((3, 2), regular(3, 3)), draw((3, 2), regular(2, 3, 3), False, True, True)))
@takes_out
def triangular_solve(
    input: Tensor, A: Tensor, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> Any:  # fmt: skip
    """(X, A) with A X = input, or A^T X = input: ``linalg.solve_triangular`` in the order of old programs."""
    a: Any = A.transpose(-1, -2) if transpose else A  # type: ignore[attr-defined]
    found = linalg_solve_triangular(a, input, upper=upper != transpose, unitriangular=unitriangular)
    return _TRIANGULAR(found, A.broadcast_to((*found.shape[:-2], *A.shape[-2:])).clone())


def _factor(*shape: int) -> Draw:
    """A real diagonal. PyTorch's gradient, which is not compared, has numbers also in the triangle that is not read."""
    return without_gradient(positive(*shape))


@composite(samples=each(
    draw((3, 2), _factor(3, 3)), draw((2, 3, 2), _factor(3, 3), True), draw((3, 1), _factor(2, 3, 3)),
))  # fmt: skip
@takes_out
@also_named(input2="L")
def cholesky_solve(input: Tensor, L: Tensor, upper: bool = False) -> Tensor:
    """X with L L^H X = input (``upper``: L^H L X = input): input (…, n, k), L (…, n, n) triangular."""
    matrices("cholesky_solve", input._array, "B")
    square("cholesky_solve", L._array)
    lower: Any = L.mH if upper else L
    half = linalg_solve_triangular(lower, input, upper=False)
    return linalg_solve_triangular(lower.mH, half, upper=True)


@composite(samples=each(draw(_factor(3, 3)), draw(_factor(2, 3, 3), True)))
@takes_out
def cholesky_inverse(input: Tensor, upper: bool = False) -> Tensor:
    """(L L^H)^-1 of L = input, lower triangular (``upper``: (L^H L)^-1): (…, n, n)."""
    square("cholesky_inverse", input._array)
    zero = np.diagonal(_array.numbers(input._array), axis1=-2, axis2=-1) == 0
    failed("cholesky_inverse", np.where(zero.any(-1), zero.argmax(-1) + 1 if input.shape[-1] else 0, 0), _NO_INVERSE)
    return cholesky_solve(identity(input.shape[-1], input), input, upper)


# -------------------------------------------------------------------------------------------------------------- tensors


@composite(on="linalg", samples=each(
    draw((6, 2, 3), (6,)), draw((2, 3, 6), (2, 3)), draw((3, 2, 4, 6), (2, 6), (0, 2)),
))  # fmt: skip
@takes_out
@also_named(input="A", other="B")
def linalg_tensorsolve(A: Tensor, B: Tensor, dims: Any = None) -> Tensor:
    """X with tensordot(A, X, X.ndim) = B; ``dims`` of A go to its end first. As many equations as unknowns."""
    a: Any = A
    if dims is not None:
        moved = [d % a.ndim for d in ([dims] if isinstance(dims, int) else dims)]
        a = a.permute([d for d in range(a.ndim) if d not in moved] + moved)
    unknowns = tuple(a.shape[B.ndim :])
    n = math.prod(unknowns)
    if n != B.numel():
        raise ShapeError(
            f"linalg.tensorsolve: Expected self to satisfy the requirement prod(self.shape[other.ndim:]) == "
            f"prod(self.shape[:other.ndim]), but got {n} != {B.numel()}"
        )
    return linalg_solve(a.reshape(n, n), B.reshape(n)).reshape(unknowns)


@composite(on="linalg", samples=each(draw((4, 6, 8, 3)), draw((6, 2, 3), 1)))
@takes_out
@also_named(input="A")
def linalg_tensorinv(A: Tensor, ind: int = 2) -> Tensor:
    """The inverse for tensordot(·, ·, ind): A.shape[ind:] + A.shape[:ind], both of the same number of elements."""
    if ind <= 0:
        raise ShapeError(f"linalg.tensorinv: Expected a strictly positive integer for 'ind', got {ind}")
    if ind > A.ndim:
        raise ShapeError(f"linalg.tensorinv: ind={ind} is more than the {A.ndim} dimensions of A")
    rows, columns = tuple(A.shape[:ind]), tuple(A.shape[ind:])
    m, n = math.prod(rows), math.prod(columns)
    if m != n:
        raise ShapeError(
            f"linalg.tensorinv: Expected self to satisfy the requirement prod(self.shape[ind:]) == "
            f"prod(self.shape[:ind]), but got {n} != {m}"
        )
    found = linalg_inv(A.reshape(m, n))  # type: ignore[attr-defined]
    return found.reshape((*columns, *rows))


