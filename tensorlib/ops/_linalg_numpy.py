"""Factorisations that NumPy has no function for, over batches of matrices: LU with its pivots, LDL, triangular solves.

All work on (…, m, n) arrays of a float or complex dtype. By LAPACK where the library behind NumPy has it (`_lapack`);
what is written out here serves everywhere else.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorlib import _lapack

_BLOCK = 32  # columns of a panel: below it the steps are rank-1 updates, above it matrix products
_DIRECT = 64  # rows of a triangle that one call of LAPACK solves whole


def adjoint(x: np.ndarray) -> np.ndarray:
    """The conjugate transpose."""
    t = x.swapaxes(-1, -2)
    return t.conj() if x.dtype.kind == "c" else t


# ------------------------------------------------------------------------------------------------------------ triangles


def solve_upper(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """x with a x = b for upper triangular a, zeros below its diagonal: LAPACK on blocks, products between them.

    The LU factorisation of an upper triangular matrix is itself, so that LAPACK's general solver substitutes backwards.
    """
    n = a.shape[-1]
    if n <= _DIRECT:
        try:
            return np.linalg.solve(a, b)
        except np.linalg.LinAlgError:  # a zero on a diagonal: infinities where it divides
            return _substitute(a, b)
    h = n // 2 // _BLOCK * _BLOCK
    low = solve_upper(a[..., h:, h:], b[..., h:, :])
    high = solve_upper(a[..., :h, :h], b[..., :h, :] - a[..., :h, h:] @ low)
    return np.concatenate((high, low), axis=-2)


def _substitute(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    n = a.shape[-1]
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    x = np.array(np.broadcast_to(b, (*lead, *b.shape[-2:])))
    for i in reversed(range(n)):
        x[..., i, :] /= a[..., i, i, None]
        x[..., :i, :] -= a[..., :i, i, None] * x[..., i, None, :]
    return x


def solve_triangular(a: np.ndarray, b: np.ndarray, upper: bool, left: bool = True, unit: bool = False) -> np.ndarray:
    """x with a x = b (x a = b); the other triangle of a is not read, and with ``unit`` its diagonal is not."""
    lapack = _lapack.library()
    if lapack is not None and a.size and b.size:
        return _lapack.solve_triangular(lapack, a, b, upper, left, unit)
    if not left:
        return solve_triangular(a.swapaxes(-1, -2), b.swapaxes(-1, -2), not upper, True, unit).swapaxes(-1, -2)
    if not upper:  # both orders reversed, it is upper triangular
        return solve_triangular(a[..., ::-1, ::-1], b[..., ::-1, :], True, True, unit)[..., ::-1, :]
    n = a.shape[-1]
    if not b.size:
        return np.zeros((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), *b.shape[-2:]), b.dtype)
    if unit:
        a = np.triu(a, 1) + np.eye(n, dtype=a.dtype)
    else:
        a = np.triu(a)
    return solve_upper(a, b)


# ------------------------------------------------------------------------------------------------------------------- LU


def _size(x: np.ndarray) -> np.ndarray:
    """What LAPACK compares when it looks for a pivot."""
    return np.abs(x.real) + np.abs(x.imag) if x.dtype.kind == "c" else np.abs(x)


def _panel(x: np.ndarray, pivots: np.ndarray, start: int, stop: int, pivot: bool) -> None:
    """Columns ``start`` to ``stop`` of one matrix, as a batch has them, with fewer steps of NumPy."""
    m = len(x)
    panel = np.array(x[start:, start:stop].T)  # its rows are the columns, one after the other in memory
    order = np.arange(start, m)
    for i in range(stop - start):
        column = panel[i]
        if pivot:
            p = i + int(_size(column[i:]).argmax())
            pivots[start + i] = start + p + 1
            if p != i:
                panel[:, [i, p]] = panel[:, [p, i]]
                order[i], order[p] = order[p], order[i]
        if column[i] != 0:
            column[i + 1 :] /= column[i]
        if start + i + 1 < stop:
            panel[i + 1 :, i + 1 :] -= panel[i + 1 :, i, None] * column[i + 1 :]
    if pivot:
        x[start:] = x[order]
    x[start:, start:stop] = panel.T


def lu_factor(a: np.ndarray, pivot: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(L below and U on and above the diagonal, pivots from 1, info) of a = P L U; info: where U's diagonal is first 0.

    Right-looking by panels of columns (Golub and Van Loan, algorithm 3.4.1 and section 3.2.11).
    """
    lapack = _lapack.library()
    if lapack is not None and pivot and a.size:
        return _lapack.lu_factor(lapack, a)
    lead, (m, n) = a.shape[:-2], a.shape[-2:]
    k = min(m, n)
    x = np.array(a, order="C").reshape(math.prod(lead), m, n)
    batch = np.arange(len(x))
    pivots = np.broadcast_to(np.arange(1, k + 1, dtype=np.int32), (len(x), k)).copy()
    if len(x) == 0:
        return x.reshape(a.shape), pivots.reshape(*lead, k), np.zeros(lead, np.int32)
    for start in range(0, k, _BLOCK):
        stop = min(start + _BLOCK, k)
        if len(x) == 1:
            _panel(x[0], pivots[0], start, stop, pivot)
        for j in range(start, stop) if len(x) > 1 else ():
            if pivot:
                p = np.argmax(_size(x[:, j:, j]), axis=1) + j
                pivots[:, j] = p + 1
                row = x[batch, p]
                x[batch, p] = x[:, j]
                x[:, j] = row
            if j + 1 < m:
                d = x[:, j, j, None]
                column = x[:, j + 1 :, j]
                np.divide(column, d, out=column, where=d != 0)
                if j + 1 < stop:
                    x[:, j + 1 :, j + 1 : stop] -= column[:, :, None] * x[:, j, None, j + 1 : stop]
        if stop < n:
            x[:, start:stop, stop:] = solve_triangular(
                x[:, start:stop, start:stop], x[:, start:stop, stop:], False, unit=True
            )
            if stop < m:
                x[:, stop:, stop:] -= x[:, stop:, start:stop] @ x[:, start:stop, stop:]
    zero = np.diagonal(x, axis1=1, axis2=2) == 0
    info = np.where(zero.any(axis=1), zero.argmax(axis=1) + 1, 0) if k else np.zeros(len(x))
    return x.reshape(a.shape), pivots.reshape(*lead, k), info.astype(np.int32).reshape(lead)


def permutation(pivots: np.ndarray, m: int) -> np.ndarray:
    """The order of rows that successive interchanges give: row i of P^T a is row order[i] of a."""
    lead, k = pivots.shape[:-1], pivots.shape[-1]
    flat = pivots.reshape(math.prod(lead), k).astype(np.int64) - 1
    if len(flat) == 1:
        one = list(range(m))
        for j, p in enumerate(flat[0].tolist()):
            one[j], one[p] = one[p], one[j]
        return np.array(one, np.int64).reshape(*lead, m)
    order = np.broadcast_to(np.arange(m), (len(flat), m)).copy()
    batch = np.arange(len(flat))
    for j in range(k):
        other = order[batch, flat[:, j]]
        order[batch, flat[:, j]] = order[:, j]
        order[:, j] = other
    return order.reshape(*lead, m)


def solve(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(x, info) with a x = b; info: the first zero pivot, 0 for none. What is divided by it is infinite."""
    lapack = _lapack.library()
    if lapack is not None and a.size and b.size:
        found, info = _lapack.solve(lapack, a, b)
        if not info.any():
            return found, info
    else:
        try:
            return np.linalg.solve(a, b), np.zeros(a.shape[:-2], np.int32)
        except np.linalg.LinAlgError:
            pass
    return _solve_singular(a, b)  # by the factors of a itself: which pivot is zero differs in its transpose


def _solve_singular(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lu, pivots, info = lu_factor(a)
    order = permutation(pivots, a.shape[-1])
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    order = np.broadcast_to(order[..., None], (*lead, a.shape[-1], 1))
    rows = np.take_along_axis(np.broadcast_to(b, (*lead, *b.shape[-2:])), order, axis=-2)
    return solve_triangular(lu, solve_triangular(lu, rows, False, unit=True), True), info


def inverse(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(a^-1, info); info: the first zero pivot, 0 for none."""
    lapack = _lapack.library()
    if lapack is not None and a.size:
        found, info = _lapack.inverse(lapack, a)
        if not info.any():
            return found, info
    else:
        try:
            return np.linalg.inv(a), np.zeros(a.shape[:-2], np.int32)
        except np.linalg.LinAlgError:
            pass
    return _solve_singular(a, np.broadcast_to(np.eye(a.shape[-1], dtype=a.dtype), a.shape))


def _odd(pivots: np.ndarray) -> np.ndarray:
    """Whether the interchanges change the sign of a determinant."""
    return np.count_nonzero(pivots != np.arange(1, pivots.shape[-1] + 1), axis=-1) % 2 == 1


def det(a: np.ndarray) -> np.ndarray:
    """The determinants."""
    if _lapack.library() is None or not a.size:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(np.linalg.det(a))
    lu, pivots, _ = lu_factor(a)
    with np.errstate(over="ignore", invalid="ignore"):
        out = np.diagonal(lu, axis1=-2, axis2=-1).prod(axis=-1)
    return np.asarray(np.where(_odd(pivots), -out, out))


def slogdet(a: np.ndarray) -> tuple[Any, Any]:
    """(the determinants' signs, the logarithms of their sizes)."""
    if _lapack.library() is None or not a.size:
        return tuple(np.linalg.slogdet(a))
    lu, pivots, _ = lu_factor(a)
    d = np.diagonal(lu, axis1=-2, axis2=-1)
    size = np.abs(d)
    with np.errstate(divide="ignore"):
        log = np.log(size).sum(axis=-1)
    sign = (d / np.where(size == 0, 1, size)).prod(axis=-1)
    return np.where(_odd(pivots), -sign, sign), log


# ------------------------------------------------------------------------------------------------------------------- QR


def qr(a: np.ndarray, complete: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(Q, R) with a = Q R by Householder reflections: Q (…, m, k), R (…, k, n), k = m or the lesser of m and n."""
    lapack = _lapack.library()
    if lapack is not None and a.size:
        return _lapack.qr(lapack, a, complete)
    return tuple(np.linalg.qr(a, mode="complete" if complete else "reduced"))  # type: ignore[return-value]


def geqrf(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(R on and above the diagonal, the reflectors below it; their factors)."""
    lapack = _lapack.library()
    if lapack is not None and a.size:
        f, tau = _lapack.geqrf(lapack, a)
        return f.reshape(*a.shape[:-2], *a.shape[:-3:-1]).swapaxes(-1, -2), tau.reshape(*a.shape[:-2], -1)
    h, tau = np.linalg.qr(a, mode="raw")
    return h.swapaxes(-1, -2), tau


# ------------------------------------------------------------------------------------------------------------- Cholesky


def cholesky(a: np.ndarray, upper: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(the factor, info); info: the order of the first leading minor that is not positive definite, 0 for none."""
    lead = a.shape[:-2]
    try:
        out = np.linalg.cholesky(a, upper=upper)
        if np.isfinite(out).all():  # LAPACK's may go on past a NaN
            return out, np.zeros(lead, np.int32)
    except np.linalg.LinAlgError:
        pass
    out = np.empty(a.shape, a.dtype)
    info = np.zeros(lead, np.int32)
    for i in np.ndindex(lead):
        try:
            out[i] = np.linalg.cholesky(a[i], upper=upper)
            failed = not np.isfinite(out[i]).all()
        except np.linalg.LinAlgError:
            failed = True
        if failed:
            out[i], info[i] = _failed_cholesky(a[i], upper)
    return out, info


def _failed_cholesky(a: np.ndarray, upper: bool) -> tuple[np.ndarray, int]:
    """As far as it goes: the columns before the minor that is not positive definite, the rest as it stands then."""
    x = np.tril(adjoint(a) if upper else a)
    info = 0
    for j in range(len(x)):
        row = x[j, :j]
        d = (x[j, j] - row @ row.conj()).real
        x[j, j] = d
        if not d > 0:
            info = j + 1
            break
        x[j, j] = root = math.sqrt(d)
        x[j + 1 :, j] = (x[j + 1 :, j] - x[j + 1 :, :j] @ row.conj()) / root
    return (adjoint(x) if upper else x), info


# ------------------------------------------------------------------------------------------------------------------ LDL

_ALPHA = (1 + math.sqrt(17)) / 8  # bounds the growth of the elements: Bunch and Kaufman 1977


def ldl_factor(a: np.ndarray, hermitian: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(L below D, pivots, info) of P^T a P = L D L^T (L^H), D of 1 by 1 and 2 by 2 blocks, as LAPACK's sytf2 (hetf2).

    A negative pivot marks the rows of a 2 by 2 block.
    """
    lapack = _lapack.library()
    if lapack is not None and a.size:
        return _lapack.ldl_factor(lapack, a, hermitian)
    lead, n = a.shape[:-2], a.shape[-1]
    out = np.tril(a)
    pivots = np.zeros((*lead, n), np.int32)
    info = np.zeros(lead, np.int32)
    for i in np.ndindex(lead):
        info[i] = _ldl(out[i], pivots[i], hermitian and a.dtype.kind == "c")
    return np.tril(out), pivots, info


def _ldl(x: np.ndarray, pivots: np.ndarray, hermitian: bool) -> int:
    """In place, in the lower triangle; the other one is left with whatever the updates of whole squares give."""
    n = len(x)
    conj: Any = np.conj if hermitian else np.asarray
    info = k = 0
    while k < n:
        if hermitian:
            x[k, k] = x[k, k].real
        size = _size(x[k + 1 :, k])
        at = k + 1 + int(size.argmax()) if k + 1 < n else k
        most = float(size.max(initial=0))
        diagonal = float(abs(x[k, k].real) if hermitian else _size(x[k : k + 1, k])[0])
        step, p = 1, k
        if max(diagonal, most) == 0:
            info = info or k + 1
            pivots[k] = k + 1
            k += 1
            continue
        if diagonal < _ALPHA * most:
            row = max(_size(x[at, k:at]).max(initial=0), _size(x[at + 1 :, at]).max(initial=0))
            own = abs(x[at, at].real) if hermitian else _size(x[at : at + 1, at])[0]
            if diagonal < _ALPHA * most * (most / row):
                p = at
                if own < _ALPHA * row:
                    step = 2
        q = k + step - 1
        if p != q:
            x[p + 1 :, [q, p]] = x[p + 1 :, [p, q]]
            middle = conj(x[q + 1 : p, q]).copy()
            x[q + 1 : p, q] = conj(x[p, q + 1 : p])
            x[p, q + 1 : p] = middle
            x[p, q] = conj(x[p, q])
            x[q, q], x[p, p] = x[p, p], x[q, q]
            if step == 2:
                x[q, k], x[p, k] = x[p, k], x[q, k]
        if step == 1:
            if k + 1 < n:
                column = x[k + 1 :, k].copy()
                scaled = column / x[k, k]
                x[k + 1 :, k + 1 :] -= np.outer(scaled, conj(column))
                x[k + 1 :, k] = scaled
            pivots[k] = p + 1
        else:
            if k + 2 < n:
                block = np.array([[x[k, k], conj(x[k + 1, k])], [x[k + 1, k], x[k + 1, k + 1]]])
                columns = x[k + 2 :, k : k + 2].copy()
                scaled = columns @ np.linalg.inv(block)
                x[k + 2 :, k + 2 :] -= scaled @ conj(columns).T
                x[k + 2 :, k : k + 2] = scaled
            pivots[k] = pivots[k + 1] = -(p + 1)
        k += step
    return info


def ldl_solve(ld: np.ndarray, pivots: np.ndarray, b: np.ndarray, hermitian: bool) -> np.ndarray:
    """x with a x = b, of a factored by ``ldl_factor``."""
    lapack = _lapack.library()
    if lapack is not None and ld.size and b.size:
        return _lapack.ldl_solve(lapack, ld, pivots, b, hermitian)
    lead = np.broadcast_shapes(ld.shape[:-2], b.shape[:-2])
    ld, b = np.broadcast_to(ld, (*lead, *ld.shape[-2:])), np.broadcast_to(b, (*lead, *b.shape[-2:]))
    pivots = np.broadcast_to(pivots, (*lead, pivots.shape[-1]))
    out = np.array(b)
    for i in np.ndindex(lead):
        _ldl_solve(ld[i], pivots[i], out[i], hermitian and ld.dtype.kind == "c")
    return out


def _ldl_solve(ld: np.ndarray, pivots: np.ndarray, x: np.ndarray, hermitian: bool) -> None:
    n = len(ld)
    conj: Any = np.conj if hermitian else np.asarray
    blocks = []
    k = 0
    while k < n:
        blocks.append((k, 1 if pivots[k] > 0 else 2))
        k += blocks[-1][1]
    for k, step in blocks:
        p, q, end = abs(int(pivots[k])) - 1, k + step - 1, k + step
        if p != q:
            x[[q, p]] = x[[p, q]]
        x[end:] -= ld[end:, k:end] @ x[k:end]
        if step == 1:
            x[k] /= ld[k, k].real if hermitian else ld[k, k]
        else:
            lower = ld[k + 1, k]
            x[k:end] = np.linalg.solve(np.array([[ld[k, k], conj(lower)], [lower, ld[k + 1, k + 1]]]), x[k:end])
    for k, step in reversed(blocks):
        p, q, end = abs(int(pivots[k])) - 1, k + step - 1, k + step
        x[k:end] -= conj(ld[end:, k:end]).T @ x[end:]
        if p != q:
            x[[q, p]] = x[[p, q]]


# ---------------------------------------------------------------------------------------------------------- exponential

# The [13/13] Padé approximant of e^x, and the norm up to which it is exact to rounding: Higham 2005, tables 2.1, 2.3.
_PADE = (64764752532480000, 32382376266240000, 7771770303897600, 1187353796428800, 129060195264000, 10559470521600,
         670442572800, 33522128640, 1323241920, 40840800, 960960, 16380, 182, 1)  # fmt: skip
_THETA = 5.371920351148152


def matrix_exp(a: np.ndarray) -> np.ndarray:
    """e^a by scaling and squaring (Higham 2005, algorithm 2.3); each matrix of a batch by its own power of two."""
    n = a.shape[-1]
    if not a.size:
        return np.array(a)
    wide = a.astype(np.result_type(a.dtype, np.float64), copy=False)
    norm = np.abs(wide).sum(axis=-2).max(axis=-1)
    finite = np.isfinite(norm)
    squarings = np.ceil(np.log2(np.maximum(np.where(finite, norm, 0) / _THETA, 1))).astype(np.int64)
    x = wide / np.exp2(squarings)[..., None, None]
    eye = np.eye(n, dtype=x.dtype)
    x2 = x @ x
    x4 = x2 @ x2
    x6 = x4 @ x2
    b = [c / _PADE[0] for c in _PADE]
    u = x6 @ (b[13] * x6 + b[11] * x4 + b[9] * x2) + b[7] * x6 + b[5] * x4 + b[3] * x2 + b[1] * eye
    v = x6 @ (b[12] * x6 + b[10] * x4 + b[8] * x2) + b[6] * x6 + b[4] * x4 + b[2] * x2 + b[0] * eye
    u = x @ u
    bad = ~np.isfinite(v - u).all(axis=(-1, -2))
    v[bad], u[bad] = np.nan, np.nan
    out = np.full(x.shape, np.nan, x.dtype)
    good = ~bad
    out[good] = np.linalg.solve((v - u)[good], (v + u)[good])
    for i in range(int(squarings.max())):
        left = squarings > i
        out[left] = out[left] @ out[left]
    return out.astype(a.dtype, copy=False)
