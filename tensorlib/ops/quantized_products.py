"""Products with quantised operands: int8, scaled float8, and weights of 8 and 4 bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dtypes import OF_NUMPY, float8_e4m3fn, float8_e5m2, uint8
from tensorlib._promotion import FLOATS
from tensorlib._samples import Draw as _Draw
from tensorlib._samples import between, draw, each, fails, ints, without_gradient
from tensorlib.errors import ArgumentError, DtypeError, ShapeError
from tensorlib.kernels import matmul as products
from tensorlib.kernels import quantized_matmul as kernels
from tensorlib.op import Array, composite, op

_FLOAT8 = (float8_e4m3fn.numpy, float8_e5m2.numpy)


def _matrices(name: str, **given: Any) -> None:
    for which, x in given.items():
        if x.ndim != 2:
            raise ShapeError(f"{name}: Expected {which} to be of dimension 2 but got {x.ndim}: shape {tuple(x.shape)}")


def _meet(name: str, input: Any, mat2: Any) -> None:
    if input.shape[1] != mat2.shape[0]:
        raise ShapeError(
            f"{name}: self.size(1) needs to match mat2.size(0) but got {input.shape[1]} and {mat2.shape[0]}"
        )


def _of(name: str, what: str, x: Any, *dtypes: Any) -> None:
    if x.dtype not in dtypes:
        wanted = " or ".join(OF_NUMPY[np.dtype(d)].name for d in dtypes)
        raise DtypeError(f"{name}: expected {what} of {wanted}, got {OF_NUMPY[x.dtype].name}")


# --------------------------------------------------------------------------------------------------------------- int8


def _int_mm_spec(input: Any, mat2: Any) -> Any:
    _matrices("_int_mm", self=input, mat2=mat2)
    _of("_int_mm", "self", input, np.int8)
    _of("_int_mm", "mat2", mat2, np.int8)
    _meet("_int_mm", input, mat2)
    return (input.shape[0], mat2.shape[1]), np.dtype(np.int32)


def _int8(*shape: int, layout: str = "contiguous") -> Any:
    return _Draw(shape, "integers", -128, 128, "int8", layout=layout, grad=False)


@op(
    spec=_int_mm_spec,
    promote=None,
    kernel=lambda out, input, mat2: products.product(out, input, mat2),
    on="function",
    samples=each(
        draw(_int8(4, 3), _int8(3, 5)), draw(_int8(33, 70), _int8(70, 40)), draw(_int8(1, 40), _int8(40, 9)),
        draw(_int8(17, 20, layout="transposed"), _int8(20, 9, layout="transposed")), draw(_int8(9, 300), _int8(300, 1)),
        draw(_int8(3, 0), _int8(0, 4)), draw(_int8(0, 3), _int8(3, 4)),
    ),
    errors=[
        fails(_int8(4, 3), _int8(4, 5), match=r"needs to match mat2\.size\(0\)", error=ShapeError),
        fails(_int8(4, 3, 1), _int8(3, 5), match="dimension 2 but got 3", error=ShapeError),
        fails(ints(4, 3), _int8(3, 5), match="of int8, got int64", error=DtypeError),
    ],
    bench=[draw(_int8(n, n), _int8(n, n)) for n in (1024, 4096)],
    flops=lambda input, mat2: 2.0 * input.size * mat2.shape[1],
)  # fmt: skip
def _int_mm(input: Array, mat2: Array):
    """input @ mat2 of int8 with sums of int32: (m, k), (k, n) -> (m, n) of int32. On a GPU, by its matrix units."""
    # float64 holds every sum of fewer than 2^39 products of int8, and has a BLAS.
    return np.matmul(input.astype(np.float64), mat2.astype(np.float64)).astype(np.int64).astype(np.int32)


# ------------------------------------------------------------------------------------------------------------- float8


def _scaled_spec(
    input: Any, mat2: Any, scale_a: Any, scale_b: Any, bias: Any, scale_result: Any, out_dtype: Any,
    use_fast_accum: bool,
) -> Any:  # fmt: skip
    name = "_scaled_mm"
    _matrices(name, mat1=input, mat2=mat2)
    for which, x in (("mat1", input), ("mat2", mat2)):
        if x.dtype not in _FLOAT8:
            raise DtypeError(f"{name}: Expected {which} to be Float8 matrix got {OF_NUMPY[x.dtype]}")
    if input.shape[1] != mat2.shape[0]:
        raise ShapeError(
            f"{name}: mat1 and mat2 shapes cannot be multiplied ({input.shape[0]}x{input.shape[1]} and "
            f"{mat2.shape[0]}x{mat2.shape[1]})"
        )
    m, n = input.shape[0], mat2.shape[1]
    one = scale_a.size == 1 and scale_b.size == 1
    if not (one or (scale_a.shape == (m, 1) and scale_b.shape == (1, n))) or {scale_a.dtype, scale_b.dtype} != {
        np.dtype(np.float32)
    }:
        raise ArgumentError(
            f"{name}: Invalid scaling configuration: scales of shapes {tuple(scale_a.shape)} and "
            f"{tuple(scale_b.shape)}, {OF_NUMPY[scale_a.dtype]} and {OF_NUMPY[scale_b.dtype]}: expected float32 ones, "
            f"both of one element or of ({m}, 1) and (1, {n})"
        )
    if bias is not None and tuple(bias.shape) != (n,):
        raise ShapeError(f"{name}: Bias must be size {n} but got {bias.size}: shape {tuple(bias.shape)}")
    if scale_result is not None and (scale_result.size != 1 or scale_result.dtype != np.float32):
        raise ShapeError(f"{name}: scale_result must be a float scalar, got shape {tuple(scale_result.shape)}")
    if out_dtype is not None and not out_dtype.is_floating_point:
        raise DtypeError(f"{name}: expected a floating-point out_dtype, got {out_dtype.name}")
    return (m, n), input.dtype if out_dtype is None else out_dtype.numpy


def _float8(*shape: int, dtype: str = "float8_e4m3fn", layout: str = "contiguous") -> Any:
    return _Draw(shape, dtype=dtype, layout=layout, grad=False)


def _scale(*shape: int) -> Any:
    return _Draw(shape, "uniform", 0.25, 2.0, "float32", grad=False)


def _scaled_kernel(
    out: Any, input: Any, mat2: Any, scale_a: Any, scale_b: Any, bias: Any, scale_result: Any, out_dtype: Any,
    use_fast_accum: bool,
) -> None:  # fmt: skip
    result = scale_result if out.dtype in _FLOAT8 else None
    kernels.scaled_matmul(out, input, mat2, scale_a, scale_b, bias, result, use_fast_accum)


_BF16, _F32 = OF_NUMPY[np.dtype("bfloat16")], OF_NUMPY[np.dtype(np.float32)]


@op(
    spec=_scaled_spec,
    promote=None,
    kernel=_scaled_kernel,
    on="function",
    samples=each(
        draw(_float8(16, 32), _float8(32, 24, layout="transposed"), _scale(), _scale(), out_dtype=_F32),
        draw(_float8(33, 70), _float8(70, 40), _scale(1), _scale(1), _Draw((40,), dtype="float32", grad=False),
             out_dtype=_F32, use_fast_accum=True),
        draw(_float8(3, 5), _float8(5, 7, layout="transposed"), _scale(3, 1), _scale(1, 7), out_dtype=_BF16),
        draw(_float8(17, 40), _float8(40, 9, dtype="float8_e5m2", layout="transposed"), _scale(), _scale(),
             out_dtype=_BF16),
        draw(_float8(1, 40), _float8(40, 9, layout="transposed"), _scale(), _scale(), out_dtype=_BF16),
        draw(_float8(16, 32, dtype="float8_e5m2"), _float8(32, 24, layout="transposed"), _scale(), _scale(), None,
             _scale()),
        draw(_float8(16, 32, dtype="float8_e5m2"), _float8(32, 24, layout="transposed"), _scale(), _scale(),
             _Draw((24,), dtype="float32", grad=False), _scale()),
    ),
    errors=[
        fails((4, 3), _float8(3, 5), _scale(), _scale(), match="to be Float8 matrix", error=DtypeError),
        fails(_float8(4, 3), _float8(3, 5), _scale(4), _scale(), match="Invalid scaling", error=ArgumentError),
        fails(_float8(4, 3), _float8(4, 5), _scale(), _scale(), match="cannot be multiplied", error=ShapeError),
    ],
    bench=[draw(_float8(n, n), _float8(n, n, layout="transposed"), _scale(), _scale(), out_dtype=_BF16)
           for n in (1024, 4096)],
    flops=lambda input, mat2, *rest: 2.0 * input.size * mat2.shape[1],
)  # fmt: skip
def _scaled_mm(
    input: Array, mat2: Array, scale_a: Array, scale_b: Array, bias: Array | None = None,
    scale_result: Array | None = None, out_dtype: Any = None, use_fast_accum: bool = False,
):  # fmt: skip
    """(input @ mat2) scale_a scale_b + bias of float8: (m, k), (k, n) -> (m, n); sums in float32, rounded once.

    scale_a, scale_b: float32 of one element each, or (m, 1) and (1, n). The result has ``out_dtype``, by default
    input's; in float8 it is divided by ``scale_result``, as by PyTorch on the CPU. ``use_fast_accum``: Hopper adds up
    in fewer bits, faster. DtypeError, ShapeError and ArgumentError say what does not fit.
    """
    out = np.matmul(input.astype(np.float32), mat2.astype(np.float32))
    out *= scale_a.reshape(1, 1) if scale_a.size == 1 else scale_a
    out *= scale_b.reshape(1, 1) if scale_b.size == 1 else scale_b
    if bias is not None:
        out += bias.astype(np.float32)
    if scale_result is not None and (out_dtype is None or out_dtype.numpy in _FLOAT8):
        out /= scale_result.reshape(1, 1)
    return out


# -------------------------------------------------------------------------------------------------- weights of 8 bits


def _weight_int8_spec(input: Any, mat2: Any, scales: Any) -> Any:
    name = "_weight_int8pack_mm"
    _matrices(name, self=input, mat2=mat2)
    _of(name, "mat2", mat2, np.int8)
    if input.dtype.kind in "iubc":
        raise DtypeError(f"{name}: expected self of floating point, got {OF_NUMPY[input.dtype]}")
    if input.shape[1] != mat2.shape[1]:
        raise ShapeError(
            f"{name}: expect mat2.size(1) == {input.shape[1]}, got {mat2.shape[1]}: expected self (m, k), mat2 (n, k)"
        )
    if tuple(scales.shape) != (mat2.shape[0],):
        raise ShapeError(f"{name}: expect scales to be 1d tensor with size {mat2.shape[0]}, got {tuple(scales.shape)}")
    return (input.shape[0], mat2.shape[0]), input.dtype


@op(
    spec=_weight_int8_spec,
    promote=FLOATS.over("input", "scales"),
    kernel=kernels.int8_weight_matmul,
    on="function",
    samples=each(
        draw((3, 32), _int8(8, 32), between(0.01, 0.1, 8)), draw((1, 40), _int8(33, 40), between(0.01, 0.1, 33)),
        draw((33, 72), _int8(41, 72), between(0.01, 0.1, 41)),
    ),
    errors=[
        fails((3, 8), _int8(6, 7), (6,), match="expect mat2", error=ShapeError),
        fails((3, 8), _int8(6, 8), (5,), match="expect scales", error=ShapeError),
        fails((3, 8), (6, 8), (6,), match="of int8", error=DtypeError),
    ],
    bench=[draw((m, 4096), _int8(4096, 4096), (4096,)) for m in (1, 16)],
    flops=lambda input, mat2, scales: 2.0 * input.size * mat2.shape[0],
)  # fmt: skip
def _weight_int8pack_mm(input: Array, mat2: Array, scales: Array):
    """(input @ mat2.T) scales: input (m, k) of floats, mat2 (n, k) of int8, scales (n,) -> (m, n) of input's dtype.

    Weights are widened in registers and sums are float32: what memory moves is a byte a weight. No gradient.
    """
    return np.matmul(input, mat2.T.astype(input.dtype)) * scales


# -------------------------------------------------------------------------------------------------- weights of 4 bits


def _pack_spec(input: Any, innerKTiles: int) -> Any:
    name = "_convert_weight_to_int4pack"
    _matrices(name, weight=input)
    _of(name, "weight", input, uint8.numpy)
    if innerKTiles not in (2, 4, 8):
        raise ArgumentError(f"{name}: innerKTiles needs to be 2, 4, 8, got {innerKTiles}")
    n, k = input.shape[0], 2 * input.shape[1]
    if n % 8 or k % (16 * innerKTiles):
        raise ShapeError(
            f"{name}: a weight of {n} by {k}: expected a multiple of 8 and one of innerKTiles * 16 = {16 * innerKTiles}"
        )
    return (n // 8, k // (16 * innerKTiles), 32, innerKTiles // 2), np.dtype(np.int32)


@op(
    spec=_pack_spec,
    promote=None,
    kernel=lambda out, input, innerKTiles: kernels.int4_pack(out, input, innerKTiles),
    on="function",
    samples=each(
        draw(ints(8, 16, high=256, dtype="uint8"), innerKTiles=2),
        draw(ints(24, 64, high=256, dtype="uint8"), innerKTiles=4),
        draw(ints(16, 128, high=256, dtype="uint8"), innerKTiles=8),
    ),
    errors=[
        fails(ints(8, 16, dtype="uint8"), innerKTiles=3, match="2, 4, 8", error=ArgumentError),
        fails(ints(7, 16, dtype="uint8"), innerKTiles=2, match="multiple of 8", error=ShapeError),
        fails(ints(8, 16), innerKTiles=2, match="of uint8", error=DtypeError),
    ],
)
def _convert_weight_to_int4pack(input: Array, innerKTiles: int):
    """A weight (n, k/2) of uint8, two terms a byte, the even one above, as ``_weight_int4pack_mm`` takes it.

    -> (n/8, k/(16 innerKTiles), 32, innerKTiles/2) of int32, the layout of PyTorch's CUDA kernels.
    """
    n, half = input.shape
    terms = np.empty((n, half, 2), np.uint32)
    terms[..., 0], terms[..., 1] = input >> 4, input & 15
    # n = 8 N + r, k = 32 (I/2) j + 32 p + 8 a + 2 q + b: bits 4 (a + 4 b) of word (N, j, 4 r + q, p)
    terms = terms.reshape(n // 8, 8, -1, innerKTiles // 2, 4, 4, 2)
    shifts = (4 * (np.arange(4)[:, None, None] + 4 * np.arange(2))).astype(np.uint32)
    words = np.bitwise_or.reduce(terms << shifts, axis=(4, 6))  # N r j p q
    words = words.transpose(0, 2, 1, 4, 3)
    return np.ascontiguousarray(words).reshape(*words.shape[:2], 32, -1).view(np.int32)


def _weight_int4_spec(input: Any, mat2: Any, qScaleAndZeros: Any, qGroupSize: int) -> Any:
    name = "_weight_int4pack_mm"
    _matrices(name, self=input)
    _of(name, "mat2", mat2, np.int32)
    if input.dtype.kind in "iubc":
        raise DtypeError(f"{name}: expected self of floating point, got {OF_NUMPY[input.dtype]}")
    if qGroupSize not in (32, 64, 128, 256):
        raise ArgumentError(f"{name}: qGroupSize must be 32, 64, 128 or 256, got {qGroupSize}")
    if mat2.ndim != 4 or mat2.shape[2] != 32 or mat2.shape[3] not in (1, 2, 4):
        raise ShapeError(
            f"{name}: expected mat2 as _convert_weight_to_int4pack gives it, (n/8, k/(16 i), 32, i/2), got "
            f"{tuple(mat2.shape)}"
        )
    n, k = 8 * mat2.shape[0], 32 * mat2.shape[1] * mat2.shape[3]
    if input.shape[1] != k or k % qGroupSize:
        raise ShapeError(
            f"{name}: self of shape {tuple(input.shape)} by a weight of ({n}, {k}) in groups of {qGroupSize}: expected "
            f"(m, {k}), a multiple of the group"
        )
    if tuple(qScaleAndZeros.shape) != (k // qGroupSize, n, 2):
        raise ShapeError(
            f"{name}: expected qScaleAndZeros ({k // qGroupSize}, {n}, 2), got {tuple(qScaleAndZeros.shape)}"
        )
    return (input.shape[0], n), input.dtype


def _int4_kernel(out: Any, input: Any, mat2: Any, qScaleAndZeros: Any, qGroupSize: int) -> None:
    kernels.int4_weight_matmul(out, input, mat2, qScaleAndZeros, qGroupSize)


def _words(*shape: int) -> Any:
    return ints(*shape, low=-(1 << 31), high=1 << 31, dtype="int32")


@op(
    spec=_weight_int4_spec,
    promote=FLOATS.over("input", "qScaleAndZeros"),
    kernel=_int4_kernel,
    on="",
    samples=each(
        draw((3, 64), _words(2, 2, 32, 1), between(0.01, 0.1, 2, 16, 2), 32),
        draw((1, 256), _words(5, 2, 32, 4), between(0.01, 0.1, 4, 40, 2), 64),
        draw((33, 128), _words(9, 2, 32, 2), between(0.01, 0.1, 1, 72, 2), 128),
        draw((0, 64), _words(2, 2, 32, 1), between(0.01, 0.1, 2, 16, 2), 32),
    ),
    errors=[
        fails((3, 64), _words(2, 2, 32, 1), (4, 16, 2), 16, match="qGroupSize must be", error=ArgumentError),
        fails((3, 60), _words(2, 2, 32, 1), (2, 16, 2), 32, match=r"expected \(m, 64\)", error=ShapeError),
        fails((3, 64), _words(2, 2, 32, 1), (2, 15, 2), 32, match="qScaleAndZeros", error=ShapeError),
    ],
    bench=[draw((m, 4096), _words(512, 32, 32, 4), (32, 4096, 2), 128) for m in (1, 16)],
    flops=lambda input, mat2, qScaleAndZeros, qGroupSize: 2.0 * input.size * 8 * mat2.shape[0],
)  # fmt: skip
def _int4_product(input: Array, mat2: Array, qScaleAndZeros: Array, qGroupSize: int):
    """``_weight_int4pack_mm`` with its operands first."""
    tiles_n, tiles_k, _, pairs = mat2.shape
    words = mat2.view(np.uint32).reshape(tiles_n, tiles_k, 8, 4, pairs)
    shifts = (4 * (np.arange(4)[:, None] + 4 * np.arange(2))).astype(np.uint32)
    q = (words[..., None, None] >> shifts) & np.uint32(15)  # N j r q p a b
    q = q.transpose(0, 2, 1, 4, 5, 3, 6).reshape(8 * tiles_n, -1, qGroupSize).astype(input.dtype) - 8
    w = q * qScaleAndZeros[..., 0].T[..., None] + qScaleAndZeros[..., 1].T[..., None]
    return np.matmul(input, w.reshape(8 * tiles_n, -1).T.astype(input.dtype))


@composite(on="function", samples=each(
    draw(without_gradient(between(-2, 2, 3, 64)), _words(2, 2, 32, 1), 32,
         without_gradient(between(0.01, 0.1, 2, 16, 2))),
))  # fmt: skip
def _weight_int4pack_mm(input: Tensor, mat2: Tensor, qGroupSize: int, qScaleAndZeros: Tensor) -> Tensor:
    """input @ w.T, w = (q - 8) scale + zero: input (m, k), mat2 n·k weights q of 4 bits, packed -> (m, n).

    mat2 comes from ``_convert_weight_to_int4pack``; qScaleAndZeros (k/qGroupSize, n, 2) holds scale and zero of each
    qGroupSize terms of a column: 32, 64, 128 or 256. Sums in float32. No gradient.
    """
    return _int4_product(input, mat2, qScaleAndZeros, qGroupSize)  # type: ignore[no-any-return]
