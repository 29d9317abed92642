"""Products of float8 matrices with scales whose layout is named: ``scaled_mm`` and its grouped form."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np

from tensorlib._core import Tensor
from tensorlib._dtypes import OF_NUMPY, bfloat16, float8_e4m3fn, float8_e5m2, float32
from tensorlib._samples import Draw, draw, each, values
from tensorlib.errors import ArgumentError, DtypeError, ShapeError, UnsupportedError
from tensorlib.op import composite
from tensorlib.ops.grouped_products import grouped_mm
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


def _blocks(name: str, x: Any, scale: Any, recipe: ScalingType, rows: int) -> Any:
    """x in float32 times its scales, each for 128 terms of ``rows`` rows, terms being x's last dimension."""
    m, k = x.shape
    want = -(-m // rows), -(-k // _BLOCK)
    if tuple(scale.shape) != want:
        raise ArgumentError(
            f"{name}: Invalid scaling configuration: {recipe.name} of {tuple(x.shape)} takes scales of {want}, got "
            f"{tuple(scale.shape)}"
        )
    wide = scale.repeat_interleave(_BLOCK, 1)[:, :k]
    return x.float() * (wide if rows == 1 else wide.repeat_interleave(rows, 0)[:m])


_BF16 = OF_NUMPY[np.dtype("bfloat16")]
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
    scale is that scale. Sums in float32, rounded once to ``output_dtype`` (None: mat_a's). Blocks are multiplied as
    float32 matrices; the others in one kernel, where ``use_fast_accum`` lets Hopper add up in fewer bits.
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
        left = _blocks(name, mat_a, sa, ra, rows[ra])
        right_hand = _blocks(name, mat_b.mT, sb.mT, rb, rows[rb]).mT
        out = left @ right_hand
        return (out if bias is None else out + bias).to(mat_a.dtype if output_dtype is None else output_dtype)
    if {ra, rb} & {ScalingType.BlockWise1x16, ScalingType.BlockWise1x32}:
        raise UnsupportedError(f"{name}: {ra.name} and {rb.name}: expected scales of tensors, rows or blocks of 128")
    raise ArgumentError(
        f"{name}: Invalid scaling configuration: {ra.name} {tuple(sa.shape)} and {rb.name} {tuple(sb.shape)} for "
        f"{tuple(mat_a.shape)} by {tuple(mat_b.shape)}: expected TensorWise scales of one element, RowWise ones of "
        f"(m, 1) and (1, n), or blocks of 128"
    )


_EIGHTS = values([8, 8, 16], dtype="int32")


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
    the groups divide the terms, (G m,) and (G n,), one for each row and column of each group's product. Sums in
    float32, rounded once to ``output_dtype`` (None: mat_a's). Computed as float32 matrices. ``bias`` has to be None.
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
    a: Any = mat_a.float()  # type: ignore[attr-defined]
    b: Any = mat_b.float()  # type: ignore[attr-defined]
    if groups:
        out = grouped_mm(a, b, offs=offs)
        return (out * sa.reshape(*groups, -1, 1) * sb.reshape(*groups, 1, -1)).to(dtype)  # type: ignore[no-any-return]
    return grouped_mm(a * sa.unsqueeze(-1), b * sb.unsqueeze(-2), offs=offs).to(dtype)  # type: ignore[no-any-return, attr-defined]
