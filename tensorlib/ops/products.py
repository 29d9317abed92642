"""Products of tensors built on matmul and mul: inner, tensordot, kron, cross, powers and chains of matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dispatch import wrap_dim
from tensorlib._dtypes import bool_
from tensorlib._promotion import FLOATS
from tensorlib._samples import draw, each, fails, ints, regular, transposed
from tensorlib.errors import ArgumentError, DtypeError, ShapeError
from tensorlib.op import Array, composite, op
from tensorlib.ops import _linalg_numpy as numerics
from tensorlib.ops._linalg import eye_like, floating, square
from tensorlib.ops._out import takes_out
from tensorlib.ops.arithmetic import add, mul
from tensorlib.ops.joining import cat
from tensorlib.ops.linalg import _batched, _fits, _scaled_sum, dot, matmul
from tensorlib.ops.selection import _where
from tensorlib.ops.solvers import linalg_inv

# -------------------------------------------------------------------------------------------------------------- vectors


@composite(on="linalg", samples=each(
    draw((2, 3), (2, 3)), draw((2, 3), (3,)), draw((4, 2), (4, 1), dim=0), draw((0,), (0,)),
))  # fmt: skip
@takes_out
def linalg_vecdot(x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
    """Σ conj(x_i) y_i over ``dim``, the other dimensions broadcast. Floating point or complex."""
    for t in (x, y):
        floating("linalg.vecdot", t._array, half=True)
    a: Any = x.conj() if x.is_complex() else x  # type: ignore[attr-defined]
    b: Any = y
    if max(a.ndim, b.ndim) == 1 and a.shape == b.shape:
        return dot(a, b)
    return (a * b).sum(dim)  # type: ignore[no-any-return]


@composite(samples=each(
    draw((2, 3), (4, 3)), draw((3,), (3,)), draw((2, 2, 3), (4, 3)), draw((), (4, 3)), draw((0, 3), (2, 3)),
))  # fmt: skip
@takes_out
def inner(input: Tensor, other: Tensor) -> Tensor:
    """Σ_k input[…, k] other[…, k]: (…a, k), (…b, k) -> (…a, …b); a product where one has no dimensions."""
    a: Any = input
    b: Any = other
    if not a.ndim or not b.ndim:
        return a * b  # type: ignore[no-any-return]
    if a.shape[-1] != b.shape[-1]:
        raise ShapeError(
            f"inner: the last dimension must match on both input tensors but got shapes {list(a.shape)} and "
            f"{list(b.shape)}"
        )
    return tensordot(a, b, ([-1], [-1]))


@composite(inplace=True, samples=each(
    draw((2, 3), (2,), (3,)), draw((3,), (2,), (3,), beta=0.5, alpha=2.0), draw((2, 1), (2,), (3,), beta=0),
))  # fmt: skip
@takes_out
def addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta * input + alpha * vec1 vec2ᵀ: input broadcast to (m, n), vec1 (m,), vec2 (n,) -> (m, n).

    With beta 0 input is ignored, NaNs and all.
    """
    x: Any = input
    for name, t in (("vec1", vec1), ("vec2", vec2)):
        if t.ndim != 1:
            raise ShapeError(f"addr: Expected 1-D argument {name}, but got {t.ndim}-D")
    product = vec1.unsqueeze(1) * vec2.unsqueeze(0)  # type: ignore[attr-defined]
    dtype = (x[..., None].flatten()[:1] * product.flatten()[:1]).dtype
    x, product = _fits("addr", x.to(dtype), product.shape), product.to(dtype)
    if not dtype.is_floating_point and not dtype.is_complex:
        beta, alpha = int(beta), int(alpha)
    if beta == 0:
        return mul(product, alpha).to(dtype)  # type: ignore[no-any-return]
    return add(product if alpha == 1 else product * alpha, x, alpha=beta).to(dtype)  # type: ignore[no-any-return]


@composite(inplace=True, samples=each(
    draw((2, 4), (3, 2, 5), (3, 5, 4)), draw((4,), (3, 2, 5), (3, 5, 4), beta=0.5, alpha=2.0),
    draw((2, 4), (3, 2, 5), (3, 5, 4), beta=0), draw((2, 4), (0, 2, 5), (0, 5, 4)),
))  # fmt: skip
@takes_out
def addbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta * input + alpha * Σ_b batch1_b @ batch2_b: input broadcast to (m, n), (b, m, k), (b, k, n) -> (m, n)."""
    b, m, n = _batched("addbmm", batch1, batch2)
    k = batch1.shape[2]
    rows, columns = batch1.transpose(0, 1).reshape(m, b * k), batch2.reshape(b * k, n)  # type: ignore[attr-defined]
    return _scaled_sum("addbmm", input, rows, columns, (m, n), beta, alpha, None)


# -------------------------------------------------------------------------------------------------------------- tensors


def _contracted(a: Any, b: Any, dims: Any) -> tuple[list[int], list[int]]:
    """The dimensions of each operand that are summed over."""
    if isinstance(dims, Tensor):
        dims = dims.tolist() if dims.numel() > 1 else int(dims.item())  # type: ignore[attr-defined]
    if isinstance(dims, (tuple, list)):
        first, second = dims
        first = [first] if isinstance(first, int) else list(first)
        second = [second] if isinstance(second, int) else list(second)
    else:
        n = int(dims)
        if n < 0:
            raise ArgumentError(f"tensordot: expects dims >= 0, but got dims={n}")
        if n > min(a.ndim, b.ndim):
            raise ArgumentError(
                f"tensordot: tensordot expects dims < ndim_a or ndim_b, but got dims={n} of {a.ndim}-D and {b.ndim}-D"
            )
        first, second = list(range(-n, 0)), list(range(n))
    if len(first) != len(second):
        raise ShapeError(
            f"tensordot: both dimension lists should have same length, got {len(first)} and {len(second)}"
        )
    one = [wrap_dim("tensordot", d, a.ndim) for d in first]
    two = [wrap_dim("tensordot", d, b.ndim) for d in second]
    for found in (one, two):
        if len(set(found)) != len(found):
            raise ShapeError(f"tensordot: dim {found} appears multiple times in the list of dims")
    return one, two


@composite(on="function", samples=each(
    draw((2, 3, 4), (3, 4, 5)), draw((2, 3, 4), (4, 5), 1), draw((2, 3), (4,), 0),
    draw((2, 3, 4), (4, 5, 3), ([1, 2], [2, 0])), draw((2, 3, 4), (1, 4, 5), ((1, 2), (0, 1))),
    draw(transposed(3, 4), (4, 2), ([-1], [0])), draw((0, 3), (3, 2), 1),
))  # fmt: skip
@takes_out
def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """The sum of products over pairs of dimensions: the last ``dims`` of a with the first of b, or ``(of a, of b)``.

    The other dimensions of a, then those of b. One matrix product, accumulated as matmul. A size of 1 meets any.
    """
    x: Any = a
    y: Any = b
    one, two = _contracted(x, y, dims)
    for d, e in zip(one, two, strict=True):
        m, n = x.shape[d], y.shape[e]
        if m == n:
            continue
        if m == 1:
            y = y.sum(e, True, dtype=y.dtype)
        elif n == 1:
            x = x.sum(d, True, dtype=x.dtype)
        else:
            raise ShapeError(
                f"tensordot: contracted dimensions need to match, but first has size {m} in dim {d} and second has "
                f"size {n} in dim {e}"
            )
    rows = [d for d in range(x.ndim) if d not in one]
    columns = [d for d in range(y.ndim) if d not in two]
    k = math.prod(x.shape[d] for d in one)
    left, right = [x.shape[d] for d in rows], [y.shape[d] for d in columns]
    out = matmul(
        x.permute(rows + one).reshape(math.prod(left), k), y.permute(two + columns).reshape(k, math.prod(right))
    )
    return out.reshape(left + right)  # type: ignore[attr-defined, no-any-return]


@composite(samples=each(
    draw((2, 3), (4, 2)), draw((3,), (2, 2)), draw((2, 1, 2), (3,)), draw((), (2,)), draw((0, 2), (3, 1)),
))  # fmt: skip
@takes_out
def kron(input: Tensor, other: Tensor) -> Tensor:
    """The Kronecker product: out[i s + k, …] = input[i, …] other[k, …], s the size of other. Promoted as mul."""
    a: Any = input
    b: Any = other
    n = max(a.ndim, b.ndim)
    p, q = ((1,) * (n - t.ndim) + tuple(t.shape) for t in (a, b))
    left = a.reshape([m for i in p for m in (i, 1)])
    right = b.reshape([m for i in q for m in (1, i)])
    return (left * right).reshape([i * k for i, k in zip(p, q, strict=True)])  # type: ignore[no-any-return]


def _cross(name: str, input: Any, other: Any, dim: int) -> Any:
    if input.ndim != other.ndim:
        raise ShapeError(
            f"{name}: inputs must have the same number of dimensions, got {tuple(input.shape)} and "
            f"{tuple(other.shape)}"
        )
    at = wrap_dim(name, dim, input.ndim)
    if not input.ndim or input.shape[at] != 3 or other.shape[at] != 3:
        sizes = (input.shape[at], other.shape[at]) if input.ndim else ("none", "none")
        raise ShapeError(f"{name}: inputs dimension {dim} must have length 3. Got {sizes[0]} and {sizes[1]}")
    a, b = ([t.select(at, i) for i in range(3)] for t in (input, other))
    parts = [a[i - 2] * b[i - 1] - a[i - 1] * b[i - 2] for i in range(3)]
    return cat([t.unsqueeze(at) for t in parts], at)


@composite(on="linalg", samples=each(
    draw((4, 3), (4, 3)), draw((3, 4), (3, 1), dim=0), draw((2, 3), (1, 3)), draw((0, 3), (0, 3)), draw((3,), (3,)),
))  # fmt: skip
@takes_out
def linalg_cross(input: Tensor, other: Tensor, *, dim: int = -1) -> Tensor:
    """The cross product of vectors of three elements along ``dim``, the other dimensions broadcast."""
    return _cross("linalg.cross", input, other, dim)  # type: ignore[no-any-return]


@composite(samples=each(draw((4, 3), (4, 3)), draw((3, 2), (3, 2)), draw((2, 3, 3), (2, 3, 3), 1)))
@takes_out
def cross(input: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """``linalg.cross`` along ``dim``, by default the first dimension of size 3."""
    if dim is None:
        shape = np.broadcast_shapes(tuple(input.shape), tuple(other.shape))
        if 3 not in shape:
            raise ShapeError(f"cross: no dimension of size 3 in input {tuple(input.shape)}")
        dim = shape.index(3)
    return _cross("cross", input, other, dim)  # type: ignore[no-any-return]


@composite(on="linalg", samples=each(
    draw((3, 4)), draw((2, 3, 4), offset=1), draw((2, 3, 4), offset=-1, dim1=0, dim2=2),
))  # fmt: skip
def linalg_diagonal(A: Tensor, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """The view A[…, i, i + offset]: ``diagonal`` of the last two dimensions."""
    return A.diagonal(offset, dim1, dim2)  # type: ignore[attr-defined, no-any-return]


@composite(on="linalg", samples=each(draw((4, 3), (3, 5)), draw((2, 4, 3), (3,))))
@takes_out
def linalg_matmul(input: Tensor, other: Tensor) -> Tensor:
    """input @ other: ``matmul``."""
    return matmul(input, other)  # type: ignore[no-any-return]


# --------------------------------------------------------------------------------------------------- powers and chains


def _power(name: str, A: Any, n: int) -> Any:
    square_shape(name, A)
    if not isinstance(n, int):
        raise TypeError(f"{name}(): argument 'n' must be int, not {type(n).__name__}")
    if n == 0:
        eye = eye_like(A, A.shape[-1], A.shape[-1])
        return _where(A.new_ones((), dtype=bool_), eye, A)  # constant, with a gradient of zeros
    if n < 0:
        A, n = linalg_inv(A), -n
    if n == 1:
        return A.clone()
    if n == 3:
        return matmul(matmul(A, A), A)
    out = None
    while n:
        if n & 1:
            out = A if out is None else matmul(out, A)
        n >>= 1
        if n:
            A = matmul(A, A)
    return out


def square_shape(name: str, A: Any) -> None:
    """ShapeError unless A is one square matrix or a batch of them, of any dtype."""
    if A.ndim < 2:
        raise ShapeError(f"{name}: The input tensor A must have at least 2 dimensions, got shape {tuple(A.shape)}")
    if A.shape[-1] != A.shape[-2]:
        raise ShapeError(
            f"{name}: A must be batches of square matrices, but they are {A.shape[-2]} by {A.shape[-1]} matrices"
        )


@composite(on="linalg", alias=("function.matrix_power", "method.matrix_power"), samples=each(
    draw((3, 3), 3), draw((2, 3, 3), 5), draw((3, 3), 0), draw((3, 3), 1), draw(regular(3, 3), -2), draw((3, 3), 6),
))  # fmt: skip
@takes_out
def linalg_matrix_power(input: Tensor, n: int) -> Tensor:
    """input @ input @ … n times, by repeated squaring; of the inverse for n < 0: (…, k, k). The identity for n = 0."""
    return _power("linalg.matrix_power", input, n)  # type: ignore[no-any-return]


def _exp_spec(A: Any) -> Any:
    square("linalg.matrix_exp", A, half=True)
    return A.shape, A.dtype


def _exp_vjp(g: Any, input: Any) -> Any:
    """The corner of the exponential of [[input^H, g], [0, input^H]]: Al-Mohy, Higham 2009, equation 1.2."""
    a, n = input.mH, input._array.shape[-1]
    top = cat([a, g], -1)
    rest = cat([a * 0, a], -1)
    return linalg_matrix_exp(cat([top, rest], -2))[..., :n, n:]


@op(
    spec=_exp_spec,
    promote=FLOATS,
    complex="own",
    vjp=_exp_vjp,
    on="linalg",
    alias=("function.matrix_exp", "method.matrix_exp"),
    samples=each(draw((3, 3)), draw((2, 4, 4)), draw((1, 1)), draw((0, 0)), draw((4, 4)), draw((2, 3, 3))),
    errors=[fails((2, 3), match="square matrices", error=ShapeError)],
)
def linalg_matrix_exp(input: Array):
    """Σ input^k / k!: (…, n, n), float or complex. Scaling and squaring of a Padé approximant: Higham 2005."""
    return numerics.matrix_exp(input)


def _order(sizes: Sequence[int]) -> list[list[int]]:
    """Where to split each product of a chain for the fewest multiplications: Cormen et al., section 15.2."""
    n = len(sizes) - 1
    cost = [[0] * n for _ in range(n)]
    split = [[0] * n for _ in range(n)]
    for length in range(1, n):
        for i in range(n - length):
            j = i + length
            tried = [cost[i][k] + cost[k + 1][j] + sizes[i] * sizes[k + 1] * sizes[j + 1] for k in range(i, j)]
            best = min(range(len(tried)), key=tried.__getitem__)
            cost[i][j], split[i][j] = tried[best], i + best
    return split


def _chain(matrices: Sequence[Any], split: list[list[int]], i: int, j: int) -> Any:
    if i == j:
        return matrices[i]
    k = split[i][j]
    return matmul(_chain(matrices, split, i, k), _chain(matrices, split, k + 1, j))


@composite(on="linalg", samples=each(
    draw([(2, 3), (3, 4), (4, 1)]), draw([(3,), (3, 4), (4,)]), draw([(2, 3), (3, 4)]),
    draw([(2, 3), (3, 8), (8, 2), (2, 5)]), draw([(3,), (3,)]),
))  # fmt: skip
@takes_out
def linalg_multi_dot(tensors: list[Tensor]) -> Tensor:
    """The product of two or more matrices in the cheapest order; the first and the last may be vectors."""
    chain: list[Any] = list(tensors)
    if len(chain) < 2:
        raise ShapeError(f"linalg.multi_dot: multi_dot(): expected at least 2 tensors but got {len(chain)}")
    for i, t in enumerate(chain):
        ends = i in (0, len(chain) - 1)
        if t.ndim != 2 and not (ends and t.ndim == 1):
            expected = "1D or 2D" if ends else "2D"
            raise ShapeError(f"linalg.multi_dot: multi_dot(): tensor {i} must be {expected} but got {t.ndim}D")
        if t.dtype != chain[0].dtype:
            raise DtypeError(
                f"linalg.multi_dot: multi_dot(): all tensors must have be the same dtype but tensor 0 is "
                f"{chain[0].dtype} and tensor {i} {t.dtype}"
            )
    first, last = chain[0].ndim == 1, chain[-1].ndim == 1
    if first:
        chain[0] = chain[0].unsqueeze(0)
    if last:
        chain[-1] = chain[-1].unsqueeze(-1)
    for i in range(len(chain) - 1):
        if chain[i].shape[1] != chain[i + 1].shape[0]:
            raise ShapeError(
                f"linalg.multi_dot: multi_dot(): tensors {i} and {i + 1} with shapes {list(chain[i].shape)} and "
                f"{list(chain[i + 1].shape)} cannot be multiplied"
            )
    out = _chain(chain, _order([t.shape[0] for t in chain] + [chain[-1].shape[1]]), 0, len(chain) - 1)
    if last:
        out = out.squeeze(-1)
    return out.squeeze(0) if first else out  # type: ignore[no-any-return]


@composite(on="function", samples=each(draw((2, 3), (3, 4)), draw((2, 3), (3, 4), (4, 1))))
@takes_out
def chain_matmul(*matrices: Tensor) -> Tensor:
    """The product of matrices in the cheapest order: ``linalg.multi_dot``."""
    given = list(matrices[0]) if len(matrices) == 1 and isinstance(matrices[0], (list, tuple)) else list(matrices)
    for i, t in enumerate(given):
        if t.ndim != 2:
            raise ShapeError(f"chain_matmul: Tensor dimension is {t.ndim}, expected 2 instead (tensor {i})")
    return linalg_multi_dot(given) if len(given) > 1 else given[0]


@composite(on="linalg", samples=each(draw((3,)), draw((2, 3), N=4), draw((3,), N=2), draw(ints(3))))
def linalg_vander(x: Tensor, N: int | None = None) -> Tensor:
    """[x⁰, x¹, …, x^(N-1)] along a new last dimension, N by default the size of the last: (…, n) -> (…, n, N)."""
    if x.ndim == 0:
        x = x.unsqueeze(0)  # type: ignore[attr-defined]
    if N is None and not x.shape[-1]:
        raise ShapeError(f"linalg.vander: Expected dim>0 for the input, got shape {tuple(x.shape)}")
    n = x.shape[-1] if N is None else N
    if n <= 1:
        raise ArgumentError(f"linalg.vander: N must be greater than 1, got {n}")
    if x.dtype.kind == "bool":
        raise DtypeError("linalg.vander: supports floating point, complex, and integer tensors, but got Bool")
    wide: Any = x if x.dtype.is_floating_point or x.is_complex() else x.long()  # type: ignore[attr-defined]
    return cat([wide.new_ones((*x.shape, 1)), wide.unsqueeze(-1).expand(*x.shape, n - 1).cumprod(-1)], -1)
