"""Products of float8 matrices with scales whose layout is named: ``scaled_mm`` and its grouped form."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dtypes import OF_NUMPY, bfloat16, float8_e4m3fn, float8_e5m2, float32
from tensorlib._samples import Draw, draw, each, fails, values
from tensorlib.errors import ArgumentError, DtypeError, ShapeError, UnsupportedError
from tensorlib.kernels import block_scaled_matmul as kernels
from tensorlib.kernels import grouped_matmul as grouped_kernels
from tensorlib.op import Array, composite, op
from tensorlib.ops.grouped_products import _grouped_product, _grouped_spec
from tensorlib.ops.quantized_products import _float8, _scale, _scaled_mm

_FLOAT8 = (float8_e4m3fn, float8_e5m2)
_BLOCK = 128


class ScalingType(IntEnum):
    """What a scale belongs to: the matrix, a row, or a block of one row or 128 rows."""

    TensorWise = 0
    RowWise = 1
    BlockWise1x16 = 2
    BlockWise1x32 = 3
    BlockWise1x128 = 4
    BlockWise128x128 = 5


class SwizzleType(IntEnum):
    """In which order the scales lie in memory."""

    NO_SWIZZLE = 0
    SWIZZLE_32_4_4 = 1


def _only(name: str, what: str, x: Any) -> Any:
    """What came, or the one element of what came as a list."""
    if not isinstance(x, (list, tuple)):
        return x
    if len(x) != 1:
        raise UnsupportedError(
            f"{name}: {what}: expected one for the matrix, got {len(x)}: apply a second scale to the result"
        )
    return x[0]


def _checked(name: str, a: Any, b: Any, scales: Any, recipes: Any, swizzles: Any) -> tuple[Any, Any, Any, Any]:
    """(scale of a, its recipe, scale of b, its recipe), after the checks that both functions make."""
    for which, x in (("mat_a", a), ("mat_b", b)):
        if x.dtype not in _FLOAT8:
            raise DtypeError(f"{name}: expected {which} to be a float8 matrix, got {x.dtype}")
    for which, x in (("swizzle_a", swizzles[0]), ("swizzle_b", swizzles[1])):
        if _only(name, which, x) not in (None, SwizzleType.NO_SWIZZLE):
            raise UnsupportedError(f"{name}: {which}: expected NO_SWIZZLE, got {x!r}: bring the scales into rows")
    found = []
    for which, scale, recipe in zip("ab", scales, recipes, strict=True):
        scale, recipe = _only(name, f"scale_{which}", scale), _only(name, f"scale_recipe_{which}", recipe)
        if scale.dtype is not float32:
            raise ArgumentError(
                f"{name}: Invalid scaling configuration: scale_{which} is {scale.dtype}: expected float32"
            )
        found += [scale, ScalingType(int(recipe))]
    return tuple(found)  # type: ignore[return-value]


def _block_spec(
    input: Any, mat2: Any, scale_a: Any, scale_b: Any, bias: Any, rows_a: int, rows_b: int, out_dtype: Any
) -> Any:
    (m, k), n = input.shape, mat2.shape[1]
    names = {1: ScalingType.BlockWise1x128.name, _BLOCK: ScalingType.BlockWise128x128.name}
    for x, scale, rows, want in (
        (input, scale_a, rows_a, (-(-m // rows_a), -(-k // _BLOCK))),
        (mat2, scale_b, rows_b, (-(-k // _BLOCK), -(-n // rows_b))),
    ):
        if tuple(scale.shape) != want:
            raise ArgumentError(
                f"scaled_mm: Invalid scaling configuration: {names[rows]} of {tuple(x.shape)} takes scales of {want}, "
                f"got {tuple(scale.shape)}"
            )
    if bias is not None and tuple(bias.shape) != (n,):
        raise ShapeError(f"scaled_mm: Bias must be size {n} but got shape {tuple(bias.shape)}")
    return (m, n), out_dtype.numpy


def _block_kernel(
    out: Any, input: Any, mat2: Any, scale_a: Any, scale_b: Any, bias: Any, rows_a: int, rows_b: int, out_dtype: Any
) -> None:
    kernels.block_scaled_matmul(out, input, mat2, scale_a, scale_b, bias, rows_a, rows_b)


_F32 = OF_NUMPY[np.dtype(np.float32)]


@op(
    spec=_block_spec,
    promote=None,
    kernel=_block_kernel,
    on="",
    samples=each(
        draw(_float8(40, 256), _float8(256, 33, layout="transposed"), _scale(40, 2), _scale(2, 1), None, 1, 128, _F32),
        draw(_float8(9, 140), _float8(140, 24), _scale(9, 2), _scale(2, 24),
             Draw((24,), dtype="bfloat16", grad=False), 1, 1, OF_NUMPY[np.dtype("bfloat16")]),
        draw(_float8(130, 20), _float8(20, 140, dtype="float8_e5m2", layout="transposed"), _scale(2, 1), _scale(1, 2),
             None, 128, 128, _F32),
    ),
    errors=[
        fails(_float8(9, 140), _float8(140, 24), _scale(9, 1), _scale(2, 24), None, 1, 1, _F32,
              match="Invalid scaling configuration: BlockWise1x128", error=ArgumentError),
    ],
    bench=[draw(_float8(4096, 4096), _float8(4096, 4096, layout="transposed"), _scale(4096, 32), _scale(32, 32), None,
                1, 128, OF_NUMPY[np.dtype("bfloat16")])],
    flops=lambda input, mat2, *rest, **_: 2.0 * input.size * mat2.shape[1],
)  # fmt: skip
def _block_scaled_mm(
    input: Array, mat2: Array, scale_a: Array, scale_b: Array, bias: Array | None, rows_a: Any, rows_b: Any,
    out_dtype: Any,
):  # fmt: skip
    """(input scale_a) @ (mat2 scale_b) + bias, each scale for 128 terms of ``rows_a`` rows or ``rows_b`` columns."""
    left = _widely(input, scale_a, rows_a)
    return left @ _widely(mat2.T, scale_b.T, rows_b).T + (0 if bias is None else bias.astype(np.float32))


def _widely(x: np.ndarray, scale: np.ndarray, rows: int) -> np.ndarray:
    """x in float32 times its scales, each for 128 terms, x's last dimension, of ``rows`` rows."""
    m, k = x.shape
    made: np.ndarray = x.astype(np.float32) * scale.repeat(_BLOCK, 1)[:, :k].repeat(rows, 0)[:m]
    return made


_BF16 = OF_NUMPY[np.dtype("bfloat16")]
_grouped_body = _grouped_product.__wrapped__  # type: ignore[attr-defined]
_T, _R = ScalingType.TensorWise, ScalingType.RowWise


@composite(
    on="functional",
    samples=each(
        draw(_float8(16, 32), _float8(32, 16, layout="transposed"), _scale(1), _T, _scale(1), _T),
        draw(_float8(16, 32), _float8(32, 16, layout="transposed"), _scale(1), _T, _scale(1), _T,
             output_dtype=OF_NUMPY[np.dtype(np.float32)]),
        draw(_float8(16, 32), _float8(32, 16, layout="transposed"), [_scale(1)], [_T], [_scale(1)], [_T], None, None,
             Draw((16,), dtype="bfloat16", grad=False), _BF16),
    ),
)  # fmt: skip
def scaled_mm(
    mat_a: Tensor, mat_b: Tensor, scale_a: Any, scale_recipe_a: Any, scale_b: Any, scale_recipe_b: Any,
    swizzle_a: Any = None, swizzle_b: Any = None, bias: Tensor | None = None, output_dtype: Any = bfloat16,
    contraction_dim: Any = (), use_fast_accum: bool = False,
) -> Tensor:  # fmt: skip
    """Σ_k mat_a[m, k] scale_a mat_b[k, n] scale_b + bias of float8 matrices: (m, k), (k, n) -> (m, n).

    The recipes say what the float32 scales belong to: ``TensorWise`` () or (1,); ``RowWise`` (m, 1) and (1, n);
    ``BlockWise1x128`` (m, k/128) and (k/128, n); ``BlockWise128x128`` (m/128, k/128) and (k/128, n/128). A list of one
    scale is that scale. One kernel; sums in float32, rounded once to ``output_dtype`` (None: mat_a's). Of tensors and
    rows ``use_fast_accum`` lets Hopper add up in fewer bits; of blocks each 128 products are added up so.
    UnsupportedError for two levels of scales, for blocks of 16 and 32, which take float8_e8m0 scales, and swizzles.
    """
    name = "scaled_mm"
    sa, ra, sb, rb = _checked(name, mat_a, mat_b, (scale_a, scale_b), (scale_recipe_a, scale_recipe_b),
                              (swizzle_a, swizzle_b))  # fmt: skip
    if mat_a.ndim != 2 or mat_b.ndim != 2 or mat_a.shape[1] != mat_b.shape[0]:
        raise ShapeError(
            f"{name}: mat_a and mat_b shapes cannot be multiplied: {tuple(mat_a.shape)} and {tuple(mat_b.shape)}: "
            f"expected (m, k) and (k, n)"
        )
    if ra == rb and ra in (ScalingType.TensorWise, ScalingType.RowWise):
        right = (sa.numel() == 1 and sb.numel() == 1) if ra is ScalingType.TensorWise else (
            tuple(sa.shape) == (mat_a.shape[0], 1) and tuple(sb.shape) == (1, mat_b.shape[1])
        )  # fmt: skip
        if right:
            return _scaled_mm(mat_a, mat_b, sa, sb, bias, None, output_dtype, use_fast_accum)  # type: ignore[no-any-return]
    rows = {ScalingType.BlockWise1x128: 1, ScalingType.BlockWise128x128: _BLOCK}
    if ra in rows and rb in rows:
        made: Any = mat_a.dtype if output_dtype is None else output_dtype
        return _block_scaled_mm(mat_a, mat_b, sa, sb, bias, rows[ra], rows[rb], made)  # type: ignore[no-any-return]
    if {ra, rb} & {ScalingType.BlockWise1x16, ScalingType.BlockWise1x32}:
        raise UnsupportedError(f"{name}: {ra.name} and {rb.name}: expected scales of tensors, rows or blocks of 128")
    raise ArgumentError(
        f"{name}: Invalid scaling configuration: {ra.name} {tuple(sa.shape)} and {rb.name} {tuple(sb.shape)} for "
        f"{tuple(mat_a.shape)} by {tuple(mat_b.shape)}: expected TensorWise scales of one element, RowWise ones of "
        f"(m, 1) and (1, n), or blocks of 128"
    )


_EIGHTS = values([8, 8, 16], dtype="int32")


def _grouped_scaled_spec(
    input: Any, mat2: Any, scale_a: Any, scale_b: Any, offs: Any, fast: bool, out_dtype: Any
) -> Any:
    shape, _ = _grouped_spec(_Wide(input.shape), _Wide(mat2.shape), offs)
    return shape, out_dtype.numpy


class _Wide:
    """An operand as if it were of float32, for the checks that grouped products share."""

    dtype = np.dtype(np.float32)

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape


def _grouped_scaled_kernel(
    out: Any, input: Any, mat2: Any, scale_a: Any, scale_b: Any, offs: Any, fast: bool, out_dtype: Any
) -> None:
    grouped_kernels.grouped_matmul(out, input, mat2, offs, grouped_kernels.Scales(scale_a, scale_b, fast))


@op(
    spec=_grouped_scaled_spec,
    promote=None,
    kernel=_grouped_scaled_kernel,
    on="",
    samples=each(
        draw(_float8(16, 40), _float8(3, 40, 8), _scale(16), _scale(3, 8), _EIGHTS, False, _F32),
        draw(_float8(70, 40, dtype="float8_e5m2"), _float8(3, 40, 33, layout="transposed"), _scale(70), _scale(3, 33),
             values([1, 66, 70], dtype="int32"), True, _BF16),
        draw(_float8(3, 9, 40), _float8(40, 16), _scale(3, 9), _scale(16), _EIGHTS, False, _F32),
        draw(_float8(9, 70), _float8(70, 17), _scale(3, 9), _scale(3, 17), values([1, 66, 70], dtype="int32"), False,
             _F32),
        draw(_float8(2, 9, 40), _float8(2, 40, 17), _scale(2, 9), _scale(2, 17), None, False, _F32),
    ),
    bench=[draw(_float8(16384, 2048), _float8(8, 2048, 2048, layout="transposed"), _scale(16384), _scale(8, 2048),
                values([2048 * i for i in range(1, 9)], dtype="int32"), True, _BF16)],
    flops=lambda input, mat2, *rest, **_: 2.0 * input.size * mat2.shape[-1],
)  # fmt: skip
def _grouped_scaled_mm(
    input: Array, mat2: Array, scale_a: Array, scale_b: Array, offs: Array | None, fast: Any, out_dtype: Any
):
    """Grouped products of float8: scale_a of each row (of each group's), scale_b of each column."""
    input, mat2 = input.astype(np.float32), mat2.astype(np.float32)
    if input.ndim == 2 and mat2.ndim == 2:
        return _grouped_body(input, mat2, offs) * scale_a[..., None] * scale_b[..., None, :]
    return _grouped_body(input * scale_a[..., None], mat2 * scale_b[..., None, :], offs)


@composite(
    on="functional",
    samples=each(
        draw(_float8(16, 32), _float8(3, 32, 8), _scale(16), _R, _scale(3, 8), _R, offs=_EIGHTS),
        draw(_float8(3, 8, 32), _float8(3, 32, 16), _scale(3, 8), _R, _scale(3, 16), _R),
        draw(_float8(8, 16), _float8(16, 8), _scale(24), _R, _scale(24), _R, offs=_EIGHTS, output_dtype=_BF16),
        draw(_float8(3, 8, 32), _float8(32, 16), _scale(3, 8), _R, _scale(16), _R, offs=_EIGHTS),
    ),
)
def scaled_grouped_mm(
    mat_a: Tensor, mat_b: Tensor, scale_a: Any, scale_recipe_a: Any, scale_b: Any, scale_recipe_b: Any,
    swizzle_a: Any = None, swizzle_b: Any = None, bias: Tensor | None = None, offs: Tensor | None = None,
    output_dtype: Any = bfloat16, contraction_dim: Any = (), use_fast_accum: bool = False,
) -> Tensor:  # fmt: skip
    """``grouped_mm`` of float8 matrices, each of whose rows (columns of mat_b) has a scale in float32.

    scale_a: (T,) or (G, m), one for each row of mat_a; scale_b: (G, n) or (T,), one for each column of mat_b; where
    the groups divide the terms, (G m,) and (G n,), one for each row and column of each group's product. One kernel;
    sums in float32, rounded once to ``output_dtype`` (None: mat_a's); ``use_fast_accum`` lets Hopper add up in fewer
    bits. ``bias`` has to be None.
    """
    name = "scaled_grouped_mm"
    sa, ra, sb, rb = _checked(name, mat_a, mat_b, (scale_a, scale_b), (scale_recipe_a, scale_recipe_b),
                              (swizzle_a, swizzle_b))  # fmt: skip
    if ra is not ScalingType.RowWise or rb is not ScalingType.RowWise:
        raise UnsupportedError(f"{name}: {ra.name} and {rb.name}: expected RowWise scales of both")
    if bias is not None:
        raise ArgumentError(f"{name}: Bias not supported yet: add it to the result")
    dtype: Any = mat_a.dtype if output_dtype is None else output_dtype
    terms = mat_a.ndim == 2 and mat_b.ndim == 2 and offs is not None
    groups = (offs.shape[0],) if terms and offs is not None else ()
    rows, columns = (*mat_a.shape[:-2], mat_a.shape[-2]), (*mat_b.shape[:-2], mat_b.shape[-1])
    for which, scale, want in (("a", sa, rows), ("b", sb, columns)):
        need = (groups[0] * want[0],) if groups else want
        if tuple(scale.shape) != need:
            raise ArgumentError(
                f"{name}: Invalid scaling configuration: scale_{which} of shape {tuple(scale.shape)}: expected {need}"
            )
    if groups:
        sa, sb = sa.reshape(*groups, -1), sb.reshape(*groups, -1)
    return _grouped_scaled_mm(mat_a, mat_b, sa, sb, offs, use_fast_accum, dtype)  # type: ignore[no-any-return]
