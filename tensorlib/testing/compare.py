"""Comparing numbers: how far two results may lie apart, derived from the dtype, the length and the conditioning.

A computed value may be off by the rounding of the result, by a multiple of the working precision, and by what rounding
errors of the same size in the inputs would have changed: the last is measured, by evaluating again in float64 on
inputs perturbed by one rounding error each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from tensorlib._dtypes import HALF
from tensorlib.errors import TensorlibError

Array = np.ndarray


class CheckError(TensorlibError, AssertionError):
    """A check found a difference."""


_finfo: Callable[..., Any] = ml_dtypes.finfo


def eps(dtype: Any) -> float:
    """The distance from 1 to the next number of a floating-point dtype; 0 for integers and bools."""
    dtype = np.dtype(dtype)
    return 0.0 if dtype.kind in "iub" else float(_finfo(dtype).eps)


def smallest_normal(dtype: Any) -> float:
    """The smallest number of a floating-point dtype with all its digits; 0 for integers and bools."""
    dtype = np.dtype(dtype)
    return 0.0 if dtype.kind in "iub" else float(_finfo(dtype).smallest_normal)


def working_eps(dtype: Any) -> float:
    """``eps`` of the dtype a result of ``dtype`` is computed in: float32 for the half types."""
    dtype = np.dtype(dtype)
    return eps(np.float32) if dtype in HALF else eps(dtype)


def is_float(dtype: Any) -> bool:
    """Whether it is real floating point, ml_dtypes' types included."""
    dtype = np.dtype(dtype)
    return dtype.kind == "f" or dtype in HALF


def is_differentiable(dtype: Any) -> bool:
    """Whether numbers of it may want a gradient: real or complex floating point."""
    return is_float(dtype) or np.dtype(dtype).kind == "c"


def exact64(array: Array) -> Array:
    """The same numbers in float64 (complex128 for complex); integers and bools as they are."""
    if is_float(array.dtype):
        return array.astype(np.float64)
    return array.astype(np.complex128) if array.dtype.kind == "c" else array


def perturbed(array: Array, size: float, rng: np.random.Generator) -> Array:
    """Each float multiplied by 1 + size or 1 - size."""
    if array.dtype.kind not in "fc":
        return array
    return array * (1 + size * rng.choice((-1.0, 1.0), array.shape))


def bounds(
    function: Callable[..., Sequence[Array]],
    inputs: Sequence[Array],
    dtype: Any,
    terms: int,
    working: float | None = None,
) -> tuple[Sequence[Array], list[Array]]:
    """(float64 results, how far each element of the same results in ``dtype`` may be off).

    ``function`` takes the inputs as float64 arrays. ``terms`` is how many numbers one result accumulates; rounding
    errors of a sum grow with its square root. ``working``: the precision computed in, else that of ``dtype``.
    """
    rng = np.random.default_rng(20)
    unit = working_eps(dtype) if working is None else working
    wide = [exact64(x) for x in inputs]
    results = [np.asarray(r) for r in function(*wide)]
    moved = [np.zeros(r.shape) for r in results]
    for _ in range(3):
        again = function(*[perturbed(x, max(unit, 1e-12), rng) for x in wide])
        for m, r, other in zip(moved, results, again, strict=True):
            if r.dtype.kind in "fc":
                np.fmax(m, np.abs(np.asarray(other) - r), out=m, where=np.isfinite(r))
    factor = 8.0 + 2.0 * float(np.sqrt(max(terms, 1)))
    found = []
    for m, r in zip(moved, results, strict=True):
        if r.dtype.kind not in "fc":
            found.append(np.zeros(r.shape))
            continue
        size = np.abs(np.where(np.isfinite(r), r, 0))
        norm = float(size.max(initial=0.0))
        m[~np.isfinite(m)] = 0
        smallest = smallest_normal(dtype) * eps(dtype)
        found.append((eps(dtype) + factor * unit) * size + factor * m + 4 * unit * norm + 2 * smallest)
    return results, found


def largest(dtype: Any) -> float:
    """The largest finite number of a floating-point dtype."""
    return float(_finfo(dtype).max)


def within(got: Array, want: Array, bound: Any, what: str) -> None:
    """CheckError unless each element of ``got`` lies within ``bound`` of ``want``: NaN equals NaN, infinities match.

    Integers and bools must be equal where ``bound`` is 0. ``what`` begins the message.
    """
    if got.shape != want.shape:
        raise CheckError(f"{what}: shape {got.shape}, expected {want.shape}")
    if got.dtype.kind == "c" or want.dtype.kind == "c":
        one, other = got.astype(np.complex128), want.astype(np.complex128)
        # A NaN in one part makes a complex number NaN: which part it is is not defined.
        nan = np.isnan(one) & np.isnan(other)
        for part in (np.real, np.imag):
            within(np.where(nan, 0, part(one)), np.where(nan, 0, part(other)), bound, what)
        return
    exactly = not is_float(got.dtype) and not is_float(want.dtype)
    a, b = (got, want) if exactly else (got.astype(np.float64), want.astype(np.float64))
    if exactly:
        bad = a != b
        if np.any(np.asarray(bound) > 0):
            bad &= np.abs(a.astype(np.float64) - b.astype(np.float64)) > bound
    else:
        top = min(largest(x.dtype) for x in (got, want) if is_float(x.dtype))
        nearly = top * (1 - 8 * max(eps(x.dtype) for x in (got, want)))
        finite = np.isfinite(a) & np.isfinite(b)
        difference = np.zeros(a.shape)
        np.subtract(a, b, out=difference, where=finite)
        bad = np.where(finite, np.abs(difference) > bound, False)
        bad |= np.isnan(a) != np.isnan(b)
        # Rounding may overflow on one side only: infinity there, and here a number as large as can be.
        bad |= np.isinf(a) & ~np.isnan(b) & ~((np.sign(a) == np.sign(b)) & (np.abs(b) >= nearly))
        bad |= np.isinf(b) & ~np.isnan(a) & ~((np.sign(a) == np.sign(b)) & (np.abs(a) >= nearly))
    if not bad.any():
        return
    spread = np.broadcast_to(np.asarray(bound, np.float64), a.shape)
    worst = np.where(bad, np.nan_to_num(np.abs(a.astype(np.float64) - b.astype(np.float64)), nan=np.inf), -1)
    at = np.unravel_index(int(worst.argmax()), a.shape) if a.ndim else ()
    place = f" at {tuple(int(i) for i in at)}" if a.ndim else ""
    raise CheckError(
        f"{what}: {int(bad.sum())} of {bad.size} elements differ; the worst{place}: got {got[at]}, "
        f"expected {want[at]}, which may be {spread[at]:.3g} apart"
    )


def same(got: Array, want: Array, what: str) -> None:
    """CheckError unless dtype, shape and every element are equal, NaN equal to NaN."""
    if got.dtype != want.dtype:
        raise CheckError(f"{what}: dtype {got.dtype}, expected {want.dtype}")
    within(got, want, 0.0, what)


#: (rtol, atol) for each dtype, as torch.testing.assert_close has them.
TOLERANCES = {
    "float16": (1e-3, 1e-5),
    "bfloat16": (1.6e-2, 1e-5),
    "float32": (1.3e-6, 1e-5),
    "float64": (1e-7, 1e-7),
    "complex64": (1.3e-6, 1e-5),
    "complex128": (1e-7, 1e-7),
}


#: Bounds of ``assert_allclose``: rtol and atol by dtype.
_OLDER = {"float16": (1e-3, 1e-3), "float32": (1e-4, 1e-5), "float64": (1e-5, 1e-8)}


def assert_close(
    actual: Any,
    expected: Any,
    *,
    allow_subclasses: bool = True,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = False,
    check_device: bool = True,
    check_dtype: bool = True,
    check_layout: bool = True,
    check_stride: bool = False,
    msg: Any = None,
) -> None:
    """|actual - expected| <= atol + rtol * |expected|, elementwise; an AssertionError says where it is not.

    Tensors, NumPy arrays, numbers, or sequences and mappings of them. Defaults of ``rtol`` and ``atol`` go by the
    dtype, as PyTorch's do: 1.3e-6 and 1e-5 for float32, 1e-7 for float64, 1e-3 for float16, 1.6e-2 for bfloat16,
    0 for integers and bools. ``check_stride`` compares strides too; ``msg``: a text, or a function of the usual one.
    All tensors are strided, so that ``check_layout`` changes nothing.
    """
    if callable(msg):
        try:
            assert_close(actual, expected, rtol=rtol, atol=atol, equal_nan=equal_nan, check_device=check_device,
                         check_dtype=check_dtype, check_stride=check_stride)  # fmt: skip
        except CheckError as error:
            raise CheckError(msg(str(error))) from None
        return
    if not allow_subclasses and type(actual) is not type(expected):
        raise CheckError(msg or f"assert_close: {type(actual).__name__}, expected {type(expected).__name__}")
    if (rtol is None) != (atol is None):
        raise ValueError("assert_close: give both rtol and atol, or neither")
    if isinstance(expected, dict) or (isinstance(expected, (list, tuple)) and not _numbers(expected)):
        keys = list(expected) if isinstance(expected, dict) else range(len(expected))
        theirs = list(actual) if isinstance(actual, dict) else range(len(actual))
        if sorted(keys, key=str) != sorted(theirs, key=str):
            raise CheckError(msg or f"assert_close: items {list(theirs)}, expected {list(keys)}")
        for key in keys:
            try:
                assert_close(actual[key], expected[key], rtol=rtol, atol=atol, equal_nan=equal_nan,
                             check_device=check_device, check_dtype=check_dtype, check_stride=check_stride,
                             msg=msg)  # fmt: skip
            except CheckError as error:
                raise CheckError(f"item {key!r}: {error}") from None
        return
    a, b = _host(actual), _host(expected)
    if check_device and getattr(actual, "device", None) != getattr(expected, "device", None):
        if hasattr(actual, "device") and hasattr(expected, "device"):
            raise CheckError(msg or f"assert_close: device {actual.device}, expected {expected.device}")
    if check_stride and hasattr(actual, "stride") and hasattr(expected, "stride"):
        if actual.stride() != expected.stride():
            raise CheckError(msg or f"assert_close: strides {actual.stride()}, expected {expected.stride()}")
    if check_dtype and a.dtype != b.dtype:
        raise CheckError(msg or f"assert_close: dtype {a.dtype}, expected {b.dtype}")
    if rtol is None or atol is None:
        pairs = [TOLERANCES.get(x.dtype.name, (0.0, 0.0)) for x in (a, b)]
        rtol, atol = max(p[0] for p in pairs), max(p[1] for p in pairs)
    if not equal_nan and (_has_nan(a) or _has_nan(b)):
        raise CheckError(msg or "assert_close: there are NaN, which equal nothing without equal_nan=True")
    with np.errstate(all="ignore"):
        size = np.abs(exact64(b).astype(np.complex128 if b.dtype.kind == "c" else np.float64))
    try:
        within(a, b, atol + rtol * np.where(np.isfinite(size), size, 0), "assert_close")
    except CheckError as error:
        raise CheckError(msg or str(error)) from None


def assert_allclose(
    actual: Any,
    expected: Any,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = True,
    msg: str = "",
) -> None:
    """``assert_close`` as PyTorch's older programs call it: any dtypes, NaN equals NaN, and wider bounds.

    Those are 1e-4 and 1e-5 for float32, 1e-5 and 1e-8 for float64, 1e-3 for float16; deprecated there.
    """
    if rtol is None and atol is None:
        pairs = [_OLDER.get(_host(x).dtype.name, (0.0, 0.0)) for x in (actual, expected)]
        rtol, atol = max(p[0] for p in pairs), max(p[1] for p in pairs)
    assert_close(
        _host(actual), _host(expected), rtol=rtol, atol=atol, equal_nan=equal_nan, check_dtype=False, msg=msg or None
    )


def _numbers(value: Any) -> bool:
    return all(isinstance(v, (bool, int, float, complex)) for v in value)


def _has_nan(x: Array) -> bool:
    return x.dtype.kind not in "iub" and bool(np.isnan(x).any())


def _host(value: Any) -> Array:
    if hasattr(value, "detach"):
        return value.detach().cpu().numpy()  # type: ignore[no-any-return]
    return np.asarray(value)
