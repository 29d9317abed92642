"""Products of groups of different sizes: what the experts of a mixture compute."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dtypes import HALF
from tensorlib._promotion import FLOATS
from tensorlib._samples import draw, each, fails, transposed, values
from tensorlib.errors import ArgumentError, DtypeError, ShapeError
from tensorlib.kernels import grouped_matmul as kernels
from tensorlib.op import Array, composite, op
from tensorlib.ops.linalg import matmul


def _grouped_spec(input: Any, mat2: Any, offs: Any) -> Any:
    a, b = input.shape, mat2.shape
    for which, shape in (("mat_a", a), ("mat_b", b)):
        if len(shape) not in (2, 3):
            raise ShapeError(f"grouped_mm: {which} has to be 2 or 3d, got shape {tuple(shape)}")
    if input.dtype.kind in "iub" or input.dtype.kind == "c" or (input.dtype in HALF and input.dtype.itemsize == 1):
        raise DtypeError(f"grouped_mm: expected float16, bfloat16, float32 or float64, got {input.dtype}")
    if (len(a) == 3 and len(b) == 3) != (offs is None):
        raise ShapeError(
            f"grouped_mm: Have to provide offsets if there is a 2d matrix, or no offset if both matrices are 3d: got "
            f"{tuple(a)} and {tuple(b)} {'without' if offs is None else 'with'} offs"
        )
    if a[-1] != b[-2]:
        raise ShapeError(
            f"grouped_mm: contraction dimension of mat_a and mat_b must match, got {tuple(a)} and {tuple(b)}: expected "
            f"(…, k) and (…, k, n)"
        )
    groups = [s[0] for s in (a, b) if len(s) == 3]
    if offs is not None:
        if offs.ndim != 1:
            raise ShapeError(f"grouped_mm: offs has to be 1D, got shape {tuple(offs.shape)}")
        if offs.dtype != np.int32:
            raise DtypeError(f"grouped_mm: Offsets have to be int32, got {offs.dtype}: offs.int()")
        groups.append(offs.shape[0])
    if len(set(groups)) > 1:
        raise ShapeError(
            f"grouped_mm: matrix batch sizes have to match: got {tuple(a)} and {tuple(b)}, "
            + (f"{offs.shape[0]} offsets" if offs is not None else "no offsets")
        )
    if len(a) == len(b):
        return (groups[0], a[-2], b[-1]), input.dtype
    return (a[-2], b[-1]), input.dtype


def _product(a: Any, b: Any, offs: Any) -> Any:
    return matmul(a, b) if offs is None else _grouped_product(a, b, offs)


_ENDS = values([2, 2, 5, 7], dtype="int32")


@op(
    spec=_grouped_spec,
    promote=FLOATS.over("input", "mat2"),
    kernel=kernels.grouped_matmul,
    vjp=dict(
        input=lambda g, mat2, offs: _product(g, mat2.mT, offs),
        mat2=lambda g, input, offs: _product(input.mT, g, offs),
    ),
    on="",
    samples=each(
        draw((7, 5), (4, 5, 6), _ENDS), draw((9, 5), (4, 5, 6), _ENDS), draw((4, 3, 5), (5, 7), _ENDS),
        draw((3, 7), (7, 6), _ENDS), draw((2, 3, 5), (2, 5, 4), None),
        draw((70, 40), (3, 40, 33), values([1, 66, 70], dtype="int32")),
        draw(transposed(7, 5), transposed(4, 5, 6), _ENDS), draw((33, 70), (70, 40), values([3, 68], dtype="int32")),
        draw((0, 5), (2, 5, 6), values([0, 0], dtype="int32")), draw((3, 0), (0, 4), values([0], dtype="int32")),
    ),
    errors=[
        fails((7, 5), (4, 6, 6), _ENDS, match="contraction dimension", error=ShapeError),
        fails((7, 5), (3, 5, 6), _ENDS, match="batch sizes have to match", error=ShapeError),
        fails((7, 5), (4, 5, 6), None, match="Have to provide offsets", error=ShapeError),
        fails((7, 5), (4, 5, 6), values([1, 2, 3, 4], dtype="int64"), match="int32", error=DtypeError),
        fails((5,), (4, 5, 6), _ENDS, match="2 or 3d", error=ShapeError),
    ],
    bench=[draw((8192, 1024), (8, 1024, 4096), values([1024 * i for i in range(1, 9)], dtype="int32"))],
    flops=lambda input, mat2, offs: 2.0 * input.size * mat2.shape[-1],
)  # fmt: skip
def _grouped_product(input: Array, mat2: Array, offs: Array | None):
    """The products of groups of input and mat2, of which those of two dimensions are cut at offs."""
    if offs is None:
        return np.matmul(input, mat2)
    ends = np.minimum(np.maximum.accumulate(offs.astype(np.int64)), input.shape[0 if mat2.ndim == 3 else -1]
                      if input.ndim == 2 else mat2.shape[-1])  # fmt: skip
    cuts = [slice(i, j) for i, j in zip([0, *ends[:-1]], ends, strict=True)] if len(ends) else []
    if input.ndim == 2 and mat2.ndim == 2:
        out = np.zeros((len(cuts), input.shape[0], mat2.shape[1]), input.dtype)
        for g, cut in enumerate(cuts):
            np.matmul(input[:, cut], mat2[cut], out=out[g])
    elif input.ndim == 2:
        out = np.zeros((input.shape[0], mat2.shape[2]), input.dtype)
        for g, cut in enumerate(cuts):
            out[cut] = np.matmul(input[cut], mat2[g])
    else:
        out = np.zeros((input.shape[1], mat2.shape[1]), input.dtype)
        for g, cut in enumerate(cuts):
            out[:, cut] = np.matmul(input[g], mat2[:, cut])
    return out


def _grouped(a: Any, b: Any, offs: Any, bias: Any, out_dtype: Any) -> Any:
    if bias is not None:
        raise ArgumentError("grouped_mm: Bias not supported yet: add it to the result")
    if out_dtype is not None and out_dtype is not a.dtype:
        raise DtypeError(
            f"grouped_mm: Grouped gemm output dtype must match `mat_a` dtype, got out_dtype={out_dtype} for {a.dtype}"
        )
    return _grouped_product(a, b, offs)


_EIGHTS = values([8, 8, 16], dtype="int32")
_SAMPLES = each(
    draw((16, 8), (3, 8, 16), offs=_EIGHTS), draw((3, 8, 16), (16, 16), offs=_EIGHTS),
    draw((8, 16), (16, 8), offs=_EIGHTS), draw((2, 8, 16), (2, 16, 8)),
    draw((16, 8), transposed(3, 8, 16), offs=values([5, 12, 16], dtype="int32")),
)  # fmt: skip


@composite(on="functional", samples=_SAMPLES)
def grouped_mm(
    mat_a: Tensor, mat_b: Tensor, *, offs: Tensor | None = None, bias: Tensor | None = None, out_dtype: Any = None
) -> Tensor:
    """The products of groups of rows, columns or terms, as the experts of a mixture have them: one kernel.

    offs (G,) of int32 are the ends of the groups, in rising order; the first begins at 0. mat_a (T, k), mat_b (G, k, n)
    -> (T, n): rows of group g by mat_b[g], zeros after the last group. (G, m, k), (k, T) -> (m, T): columns. (m, T),
    (T, n) -> (G, m, n): terms, as a weight's gradient sums them. (G, m, k), (G, k, n) -> (G, m, n) without offs.
    Accumulated as matmul. ``bias`` has to be None and ``out_dtype`` mat_a's, as in PyTorch 2.13.
    """
    return _grouped(mat_a, mat_b, offs, bias, out_dtype)  # type: ignore[no-any-return]


@composite(on="function", samples=each(draw((16, 8), (3, 8, 16), _EIGHTS), draw((8, 16), (16, 8), _EIGHTS)))
def _grouped_mm(
    input: Tensor, mat2: Tensor, offs: Tensor | None = None, bias: Tensor | None = None, out_dtype: Any = None
) -> Tensor:
    """``nn.functional.grouped_mm`` under its older name."""
    return _grouped(input, mat2, offs, bias, out_dtype)  # type: ignore[no-any-return]
