"""The gradient of what was added to attention's scores: learned biases of positions, of heads, of pairs.

Scores are made again a tile at a time and summed over the heads and batches that share a bias; no array is as large as
the scores unless the bias is. No atomics: the same bits on every run. Raffel et al. 2020, "T5"; Liu et al. 2021,
"Swin Transformer".
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tensorlib._array import DeviceArray, empty, is_contiguous
from tensorlib.kernels.attention import (
    ALL,
    CAUSAL,
    LOG2E,
    _base,
    _by_chunks,
    _keep,
    _load_rows,
    _masked,
    _Problem,
    delta_of,
)
from tensorlib.kernels.attention_tiles import mask_grad_tunable
from tensorlib.kernels.matmul import contiguous
from tensorlib.kernels.pointwise import fill
from tensorlib.kernels.reduction import SUM, reduce
from tensorlib.runtime.autotune import Config
from tensorlib.runtime.compiler import jit
from tensorlib.runtime.hardware import hardware
from tensorlib.runtime.launch import cdiv, launch

if TYPE_CHECKING:
    import triton.language as tl


@jit
def _number(i, sizes, steps, N: tl.constexpr):
    # Which matrix of (batch..., heads) the i-th of some dims of these is: steps count matrices.
    z = tl.cast(i, tl.int64) * 0
    for d in tl.static_range(N - 1, -1, -1):
        z += (i % sizes[d]).to(tl.int64) * steps[d]
        i = i // sizes[d]
    return z


# One program owns BLOCK_M x BLOCK_N of the gradient of one of the ``kept`` matrices of an added mask, or of one of
# PARTS partial sums of it; out is (PARTS, kept, L, S). Of each of the COUNT / PARTS heads and batches to which that
# matrix was added it reads the rows of q and g, the keys and the values: (BLOCK_M + BLOCK_N) * (E + EV) elements.
@jit(do_not_specialize=("seed", "offset"))
def mask_grad_kernel(
    out, g, q, k, v, mask, logsumexp, delta, H, shape, g_strides, q_strides, k_strides, v_strides, mask_strides,
    kept_sizes, kept_steps, added_sizes, added_steps, matrices, count, each, L, S, E, EV, scale, p, rescale, seed,
    offset,
    GROUP: tl.constexpr, RANK: tl.constexpr, KEPT: tl.constexpr, ADDED: tl.constexpr, RIGHT: tl.constexpr,
    DROPOUT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_EV: tl.constexpr, PAD_E: tl.constexpr, PAD_EV: tl.constexpr, WIDE: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    tiles_m = tl.cdiv(L, BLOCK_M)
    tiles_n = tl.cdiv(S, BLOCK_N)
    pid = tl.program_id(0)
    n0 = pid % tiles_n * BLOCK_N
    m0 = pid // tiles_n % tiles_m * BLOCK_M
    line = pid // (tiles_n * tiles_m)
    part = line // matrices
    first = _number(line % matrices, kept_sizes, kept_steps, KEPT)
    rows = m0 + tl.arange(0, BLOCK_M)
    columns = n0 + tl.arange(0, BLOCK_N)
    if WIDE:
        rows = rows.to(tl.int64)
        columns = columns.to(tl.int64)
    mask += _base(first, H, 1, shape, mask_strides, RANK)
    features = tl.arange(0, BLOCK_E)
    values = tl.arange(0, BLOCK_EV)
    scale2 = tl.cast(scale, ACC) * LOG2E
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=ACC)
    last = tl.minimum(count, part * each + each)
    if RIGHT:
        last = tl.where(n0 > m0 + BLOCK_M - 1, 0, last)  # every key comes after every query
    for i in range(part * each, last):
        z = first + _number(i, added_sizes, added_steps, ADDED)
        x = q + _base(z, H, 1, shape, q_strides, RANK)
        dy = g + _base(z, H, 1, shape, g_strides, RANK)
        key = k + _base(z, H, GROUP, shape, k_strides, RANK)
        value = v + _base(z, H, GROUP, shape, v_strides, RANK)
        lse = tl.load(logsumexp + z * L + rows, mask=rows < L, other=float("inf")) * LOG2E
        shared = tl.load(delta + z * L + rows, mask=rows < L, other=0.0)
        if CHUNK:
            s = _by_chunks(
                x, rows, L, q_strides[RANK + 1], q_strides[RANK + 2], key, columns, S, k_strides[RANK + 1],
                k_strides[RANK + 2], E, True, True, PAD_E, ACC, PRECISION, BLOCK_E, CHUNK,
            )  # fmt: skip
            dw = _by_chunks(
                dy, rows, L, g_strides[RANK + 1], g_strides[RANK + 2], value, columns, S, v_strides[RANK + 1],
                v_strides[RANK + 2], EV, True, True, PAD_EV, ACC, PRECISION, BLOCK_EV, CHUNK,
            )  # fmt: skip
        else:
            a = _load_rows(x, rows, L, features, E, q_strides[RANK + 1], q_strides[RANK + 2], True, PAD_E)
            b = _load_rows(key, columns, S, features, E, k_strides[RANK + 1], k_strides[RANK + 2], True, PAD_E)
            s = tl.dot(a, tl.trans(b), input_precision=PRECISION, out_dtype=ACC)
            c = _load_rows(dy, rows, L, values, EV, g_strides[RANK + 1], g_strides[RANK + 2], True, PAD_EV)
            d = _load_rows(value, columns, S, values, EV, v_strides[RANK + 1], v_strides[RANK + 2], True, PAD_EV)
            dw = tl.dot(c, tl.trans(d), input_precision=PRECISION, out_dtype=ACC)
        s = _masked(
            s * scale2, mask, rows[:, None], columns[None, :], L, S, 0, 0, mask_strides[RANK + 1],
            mask_strides[RANK + 2], 2, False, RIGHT, True,
        )  # fmt: skip
        if DROPOUT:
            dw = tl.where(_keep(z, rows, n0, L, S, p, seed, offset, BLOCK_N), dw * rescale, 0.0)
        acc += tl.exp2(s - lse[:, None]) * (dw - shared[:, None])
    to = out + tl.cast(line, tl.int64) * L * S + (tl.cast(rows, tl.int64)[:, None] * S + columns[None, :])
    tl.store(to, acc.to(out.dtype.element_ty), mask=(rows[:, None] < L) & (columns[None, :] < S))


MASK_GRAD = mask_grad_tunable("attention_mask_grad", mask_grad_kernel)


def attention_mask_grad(
    out: DeviceArray, g: DeviceArray, query: DeviceArray, key: DeviceArray, value: DeviceArray, attn_mask: DeviceArray,
    output: DeviceArray, logsumexp: DeviceArray, is_causal: bool, scale: float, dropout_p: float = 0.0, seed: int = 0,
    offset: int = 0,
) -> None:  # fmt: skip
    """out, of the mask's shape, = the gradient of the scores, summed over what the mask was broadcast along."""
    x = _Problem(query, key, value, attn_mask, CAUSAL if is_causal else ALL, scale, dropout_p, seed, offset, g)
    if not out.size:
        return
    if not x.matrices * x.L * x.S:
        fill(out, 0)
        return
    strides_q, strides_k, strides_v, strides_mask, strides_g = x.strides
    logsumexp = logsumexp if is_contiguous(logsumexp) else contiguous(logsumexp)
    delta = delta_of(x, output, logsumexp, None)
    *lead, _, _ = query[None].shape if query.ndim == 2 else query.shape
    given = (1,) * (len(lead) + 2 - attn_mask.ndim) + attn_mask.shape
    kept: list[tuple[int, int]] = []
    added: list[tuple[int, int]] = []
    for d, n in enumerate(lead):
        (kept if given[d] == n else added).append((n, math.prod(lead[d + 1 :])))
    matrices, count = (math.prod(n for n, _ in dims) for dims in (kept, added))
    whole = given[-2:] == (x.L, x.S)
    gpu = hardware(query.device)
    c = x.constants
    taken = {name: c[name] for name in (
        "GROUP", "RANK", "RIGHT", "DROPOUT", "ACC", "PRECISION", "BLOCK_E", "BLOCK_EV", "PAD_E", "PAD_EV", "WIDE",
    )}  # fmt: skip

    def run(config: Config, out: DeviceArray) -> None:
        tiles = cdiv(x.L, config["BLOCK_M"]) * cdiv(x.S, config["BLOCK_N"]) * matrices
        units = 4 if gpu.on_host else gpu.multiprocessors  # the sums do not depend on how many threads there are
        parts = max(1, min(count, 2 * units // tiles))
        each = cdiv(count, parts)
        parts = cdiv(count, each)
        direct = parts == 1 and whole
        sums: DeviceArray = out if direct else empty((parts, matrices, x.L, x.S), x.acc, out.device)
        launch(
            mask_grad_kernel, (parts * tiles,), sums, x.g, x.q, x.k, x.v, x.mask, logsumexp, delta, x.H, x.shape,
            strides_g, strides_q, strides_k, strides_v, strides_mask, *_columns(kept), *_columns(added), matrices,
            count, each, x.L, x.S, x.E, x.EV, *x.numbers, KEPT=len(kept), ADDED=len(added), **taken, **config.launch,
        )  # fmt: skip
        if not direct:
            dims = (0, *(2 + d for d in (0, 1) if given[d - 2] == 1 and sums.shape[2 + d] > 1))
            reduce([out], [sums], dims, SUM)

    problem = x.problem._replace(matrices=matrices, reach=count)
    run(MASK_GRAD.choose(problem, query.device, run, (out,)), out)


def _columns(dims: list[tuple[int, int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes and steps, of at least one dim: tuples without elements are no arguments."""
    return (tuple(n for n, _ in dims) or (1,)), (tuple(t for _, t in dims) or (0,))
