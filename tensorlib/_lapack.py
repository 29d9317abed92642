"""The LAPACK inside the OpenBLAS that NumPy brings, called directly: what NumPy has no function for.

Matrices lie column by column there. One that lies row by row is its own transpose, so that most routines can be asked
for the transposed problem, and nothing is copied but what is overwritten.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from tensorlib import _blas

#: How symbols are spelled, before and after the routine's name, and the integers of such a library.
_SPELLINGS = (
    ("scipy_", "_64_", ctypes.c_int64),
    ("", "_64_", ctypes.c_int64),
    ("scipy_", "_", ctypes.c_int32),
    ("", "_", ctypes.c_int32),
)
#: The letter of a dtype: real matrices, complex matrices.
_LETTERS = {"f": "s", "d": "d", "F": "c", "D": "z"}
#: What is called, for every dtype; a real matrix has sytrf for hetrf, orgqr for ungqr.
_ROUTINES = ("getrf", "getrs", "getri", "trsm", "sytrf", "sytrs", "geqrf")
#: What OpenBLAS has written in C, where characters have no length.
_IN_C = ("trsm", "getrf", "getrs")
_COMPLEX = {"orgqr": "ungqr", "ormqr": "unmqr"}


class Lapack:
    """The routines of one library."""

    def __init__(self, path: str, before: str, after: str, integer: Any) -> None:
        library = ctypes.CDLL(path)
        self.integer = integer
        self.integers = np.dtype(integer)
        self._routines: dict[tuple[str, str], Any] = {}
        for char, letter in _LETTERS.items():
            names = [*_ROUTINES, *_COMPLEX, *(["hetrf", "hetrs"] if char in "FD" else [])]
            for name in names:
                spelled = _COMPLEX.get(name, name) if char in "FD" else name
                function = getattr(library, f"{before}{letter}{spelled}{after}")
                function.restype = None
                self._routines[name, char] = function

    def run(self, name: str, dtype: np.dtype[Any], count: int, *args: Any) -> np.ndarray:
        """One call for each of ``count`` matrices; the infos, where the routine has one.

        An argument is a character, an integer, or what differs from call to call: an array, whose first dimension
        counts the calls, or a list of addresses. Work space has one address for all.
        """
        routine = self._routines[name, dtype.char]
        infos = np.zeros(count, self.integers)
        call: list[Any] = []
        moving: list[tuple[Any, Sequence[int]]] = []
        for a in (*args, infos) if name != "trsm" else args:
            if type(a) is str:
                call.append(ctypes.c_char_p(a.encode()))
            elif type(a) is int:
                call.append(ctypes.byref(self.integer(a)))
            elif isinstance(a, (np.ndarray, list)):
                moving.append((ctypes.c_void_p(), _steps(a, count) if isinstance(a, np.ndarray) else a))
                call.append(moving[-1][0])
            else:
                call.append(a)
        if name not in _IN_C:  # Fortran's compilers pass the lengths of characters after everything else
            call += [ctypes.c_size_t(1) for a in args if type(a) is str]
        moving += [(ctypes.c_void_p(), range(count))] * (4 - len(moving))
        (p, q, r, t), places = zip(*moving, strict=True)
        for p.value, q.value, r.value, t.value in zip(*places, strict=True):
            routine(*call)
        return infos

    def work(self, dtype: np.dtype[Any], n: int) -> tuple[Any, int]:
        """Work space of ``n`` columns for routines that take blocks of up to 64 of them, and its size."""
        size = 64 * (n + 65)
        space = np.empty(size, dtype)
        return _Kept(space), size


class _Kept(ctypes.c_void_p):
    """The address of an array, which stays alive with it."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(address(array))
        self.array = array


@cache
def library() -> Lapack | None:
    """The LAPACK to call; None where NumPy has another library, or one without what is needed."""
    used = _blas.openblas()
    if used is None:
        return None
    for before, after, integer in _SPELLINGS:
        try:
            return Lapack(used.path, before, after, integer)
        except AttributeError:
            continue
    return None


def address(a: np.ndarray) -> int:
    """Where the first element lies."""
    return int(a.__array_interface__["data"][0])


def _steps(a: np.ndarray, count: int) -> range:
    step = a.strides[0] or a.itemsize
    start = address(a)
    return range(start, start + step * count, step)


def addresses(a: np.ndarray) -> list[int]:
    """Where each matrix of an array (…, m, n) lies, in order; a broadcast one more than once."""
    offsets = np.full((1,) * (a.ndim - 2), address(a), np.int64)
    for d, n in enumerate(a.shape[:-2]):
        offsets = offsets + (np.arange(n) * a.strides[d]).reshape(-1, *[1] * (a.ndim - 3 - d))
    return offsets.ravel().tolist()  # type: ignore[no-any-return]


def columns(a: np.ndarray) -> np.ndarray:
    """A copy of the matrices (…, m, n), column by column: (count, n, m)."""
    t = a.swapaxes(-1, -2)
    return np.array(t, order="C").reshape(-1, *t.shape[-2:])


def layout(a: np.ndarray) -> tuple[np.ndarray, bool, int]:
    """(the array, whether its matrices lie row by row, their leading dimension), copied where neither holds."""
    m, n = a.shape[-2:]
    row, column = a.strides[-2:]
    item = a.itemsize
    if column == item and row % item == 0 and row >= n * item:
        return a, True, max(row // item, 1)
    if row == item and column % item == 0 and column >= m * item:
        return a, False, max(column // item, 1)
    return np.ascontiguousarray(a), True, max(n, 1)


# ------------------------------------------------------------------------------------------------------------ triangles


def solve_triangular(lapack: Lapack, a: np.ndarray, b: np.ndarray, upper: bool, left: bool, unit: bool) -> np.ndarray:
    """x with a x = b (x a = b), as ``_linalg_numpy.solve_triangular``: the transposed system in the memory of b."""
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    m, n = b.shape[-2:]
    x = np.array(np.broadcast_to(b, (*lead, m, n)), order="C")
    count = x.size // (m * n)
    a, rows, lda = layout(a)
    a = np.broadcast_to(a, (*lead, *a.shape[-2:]))
    lapack.run(
        "trsm", x.dtype, count, "R" if left else "L", "U" if upper != rows else "L", "N" if rows else "T",
        "U" if unit else "N", n, m, _Kept(np.ones(1, x.dtype)), addresses(a), lda, x.reshape(count, m, n), n,
    )  # fmt: skip
    return x


# ------------------------------------------------------------------------------------------------------------------- LU


def lu_factor(lapack: Lapack, a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(LU, pivots, info), as ``_linalg_numpy.lu_factor``; LU column by column, as in PyTorch."""
    m, n = a.shape[-2:]
    lead = a.shape[:-2]
    f = columns(a)
    pivots = np.zeros((len(f), min(m, n)), lapack.integers)
    info = lapack.run("getrf", a.dtype, len(f), m, n, f, m, pivots)
    out = f.reshape(*lead, n, m).swapaxes(-1, -2)
    return out, pivots.astype(np.int32).reshape(*lead, -1), info.astype(np.int32).reshape(lead)


def _factored(lapack: Lapack, a: np.ndarray) -> tuple[np.ndarray, bool, np.ndarray, np.ndarray]:
    """The LU factors of the matrices, or where these lie row by row and are real of their transposes."""
    n = a.shape[-1]
    transposed = a.flags.c_contiguous and a.dtype.kind != "c"
    f = np.array(a).reshape(-1, n, n) if transposed else columns(a)
    pivots = np.zeros((len(f), n), lapack.integers)
    return f, transposed, pivots, lapack.run("getrf", a.dtype, len(f), n, n, f, n, pivots)


def solve(lapack: Lapack, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(x, info) with a x = b, right where every info is 0. Lies column by column, as in PyTorch."""
    n = a.shape[-1]
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    f, transposed, pivots, info = _factored(lapack, a)
    k = b.shape[-1]
    x = columns(np.broadcast_to(b, (*lead, n, k)))
    factors = np.broadcast_to(f.reshape(*a.shape[:-2], n, n), (*lead, n, n))
    order = np.broadcast_to(pivots.reshape(*a.shape[:-2], 1, n), (*lead, 1, n))
    lapack.run(
        "getrs", a.dtype, len(x), "T" if transposed else "N", n, k, addresses(factors), n, addresses(order), x, n
    )  # fmt: skip
    return x.reshape(*lead, k, n).swapaxes(-1, -2), info.astype(np.int32).reshape(a.shape[:-2])


def inverse(lapack: Lapack, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(a^-1, info); where info is not 0, the factors."""
    n = a.shape[-1]
    f, transposed, pivots, info = _factored(lapack, a)
    if not info.any():
        lapack.run("getri", a.dtype, len(f), n, f, n, pivots, *lapack.work(a.dtype, n))
    out = f.reshape(a.shape)
    return (out if transposed else out.swapaxes(-1, -2)), info.astype(np.int32).reshape(a.shape[:-2])


# ------------------------------------------------------------------------------------------------------------------ LDL


def ldl_factor(lapack: Lapack, a: np.ndarray, hermitian: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(LD, pivots, info), as ``_linalg_numpy.ldl_factor``."""
    n = a.shape[-1]
    f = columns(np.tril(a))
    pivots = np.zeros((len(f), n), lapack.integers)
    name = "hetrf" if hermitian and a.dtype.kind == "c" else "sytrf"
    info = lapack.run(name, a.dtype, len(f), "L", n, f, n, pivots, *lapack.work(a.dtype, n))
    out = f.reshape(a.shape).swapaxes(-1, -2)
    return out, pivots.astype(np.int32).reshape(a.shape[:-1]), info.astype(np.int32).reshape(a.shape[:-2])


def ldl_solve(lapack: Lapack, ld: np.ndarray, pivots: np.ndarray, b: np.ndarray, hermitian: bool) -> np.ndarray:
    """x with a x = b, as ``_linalg_numpy.ldl_solve``."""
    n, k = b.shape[-2:]
    lead = np.broadcast_shapes(ld.shape[:-2], b.shape[:-2])
    x = columns(np.broadcast_to(b, (*lead, n, k)))
    ld, rows, ldld = layout(ld)
    if rows:
        ld, ldld = columns(ld).reshape(ld.shape).swapaxes(-1, -2), n
    order = np.ascontiguousarray(pivots, lapack.integers)[..., None, :]
    name = "hetrs" if hermitian and ld.dtype.kind == "c" else "sytrs"
    lapack.run(
        name, ld.dtype, len(x), "L", n, k, addresses(np.broadcast_to(ld, (*lead, n, n))), ldld,
        addresses(np.broadcast_to(order, (*lead, 1, n))), x, n,
    )  # fmt: skip
    return x.reshape(*lead, k, n).swapaxes(-1, -2)


# ------------------------------------------------------------------------------------------------------------------- QR


def geqrf(lapack: Lapack, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(R on and above the diagonal and the reflectors below it, column by column (count, n, m); their factors)."""
    m, n = a.shape[-2:]
    f = columns(a)
    tau = np.zeros((len(f), min(m, n)), a.dtype)
    lapack.run("geqrf", a.dtype, len(f), m, n, f, m, tau, *lapack.work(a.dtype, n))
    return f, tau


def qr(lapack: Lapack, a: np.ndarray, complete: bool) -> tuple[np.ndarray, np.ndarray]:
    """(Q, R) with a = Q R."""
    m, n = a.shape[-2:]
    lead = a.shape[:-2]
    f, tau = geqrf(lapack, a)
    k = m if complete else min(m, n)
    r = np.triu(f[:, :, :k].swapaxes(-1, -2)).reshape(*lead, k, n)
    return product(lapack, f, tau, k).reshape(*lead, k, m).swapaxes(-1, -2), r


def product(lapack: Lapack, f: np.ndarray, tau: np.ndarray, k: int) -> np.ndarray:
    """The first k columns of H_1 H_2 … of what ``geqrf`` returns, (count, k, m), in its memory where they fit."""
    count, n, m = f.shape
    q = f
    if k > n:
        q = np.zeros((count, k, m), f.dtype)
        q[:, :n] = f
    elif k < n:
        q = np.ascontiguousarray(f[:, :k])
    lapack.run("orgqr", f.dtype, count, m, k, tau.shape[-1], q, m, tau, *lapack.work(f.dtype, k))
    return q
