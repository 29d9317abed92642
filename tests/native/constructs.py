"""Kernels that use every construct of Triton's language once: what the parser's golden files are made of."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from triton.language.extra import libdevice

from tensorlib.runtime import versions


class Construct(NamedTuple):
    """A kernel, and what it is specialised for."""

    kernel: Any
    keys: tuple[Any, ...]
    constants: dict[str, Any]
    options: dict[str, Any]


CONSTRUCTS: dict[str, Construct] = {}


def construct(*keys: Any, options: dict[str, Any] | None = None, since: tuple[int, int] = (0, 0),
              before: tuple[int, int] = (99, 0), **constants: Any) -> Any:  # fmt: skip
    """Put a kernel in the table, for the versions that have what it uses."""

    def put(kernel: Any) -> Any:
        if since <= versions.require().number < before:
            CONSTRUCTS[kernel.__name__] = Construct(kernel, keys, constants, options or {})
        return kernel

    return put


@construct("*fp32 16", "*fp32 16", "*fp32 16", "i32 16", BLOCK=64)
@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, i < n) + tl.load(y + i, i < n, other=0.5), i < n)


@construct("*fp32", "*fp32", "i64", BLOCK=32)
@triton.jit
def hints(x, out, n, BLOCK: tl.constexpr):
    i = tl.multiple_of(tl.max_contiguous(tl.program_id(1) * BLOCK + tl.arange(0, BLOCK), BLOCK), 8)
    i = tl.max_constancy(i, 1)
    tl.assume(n > 0)
    a = tl.load(x + i, cache_modifier=".cg", eviction_policy="evict_first", volatile=True)
    tl.store(out + i, a, i < n, cache_modifier=".wt", eviction_policy="evict_last")
    tl.debug_barrier()


@construct("*i32", "*u32", "*i64", "*i8", "*u1", "i32", "u32", "u64 16", "u1")
@triton.jit
def integers(x, u, y, b, m, s, t, w, flag):
    i = tl.arange(0, 16)
    a, c = tl.load(x + i), tl.load(u + i)
    tl.store(x + i, a // s + a % s + (a << 3) + (a >> 2) + (a & s | a ^ 5) + (0 - a) + ~a)
    tl.store(u + i, c // t + c % t + (c >> 2) + tl.minimum(c, t) + tl.maximum(c, 7) + tl.umulhi(c, t))
    tl.store(y + i, a.to(tl.int64) * -(2**40) + (c.to(tl.uint64) % w).to(tl.int64))
    tl.store(b + i, (a.to(tl.int8) + tl.abs(a).to(tl.int8)) + (tl.minimum(a, s) + tl.maximum(a, -1)).to(tl.int8))
    tl.store(m + i, (a < s) | (a >= 3) & (c <= t) ^ (c > 4) | (a == 2) | (c != 5) | flag)


@construct("*fp32", "*fp16", "*bf16", "*fp64", "*fp8e4nv", "*fp8e5", "fp32", "fp64")
@triton.jit
def floats(x, h, b, d, e4, e5, s, t):
    i = tl.arange(0, 16)
    a = tl.load(x + i)
    tl.store(h + i, (a + tl.load(h + i).to(tl.float32)).to(tl.float16))
    tl.store(b + i, (a * tl.load(b + i)).to(tl.bfloat16, fp_downcast_rounding="rtz"))
    tl.store(d + i, tl.load(d + i) / a + t)
    tl.store(e4 + i, (a - tl.load(e4 + i).to(tl.float32)).to(tl.float8e4nv))
    tl.store(e5 + i, (0 - a + tl.load(e5 + i).to(tl.float16)).to(tl.float8e5))
    tl.store(x + i, tl.where(a < s, a % s, float("inf")) + a.to(tl.int32) + a.to(tl.uint32).to(tl.float32) + 1e-45)
    tl.store(x + i, tl.clamp(a, 0.0, s) + tl.clamp(a, -s, s, propagate_nan=tl.PropagateNan.ALL))
    tl.store(x + i, tl.maximum(a, s, propagate_nan=tl.PropagateNan.ALL) + tl.minimum(a, float("nan")))
    tl.store(x + i, a.to(tl.int32, bitcast=True).to(tl.float32) + tl.fdiv(a, s) + tl.div_rn(a, s) + tl.sqrt_rn(a))


@construct("*fp32", "*fp64")
@triton.jit
def functions(x, y):
    i = tl.arange(0, 16)
    a, d = tl.load(x + i), tl.load(y + i)
    a = tl.exp(a) + tl.exp2(a) + tl.log(a) + tl.log2(a) + tl.sin(a) + tl.cos(a) + tl.sqrt(a) + tl.rsqrt(a) + tl.erf(a)
    a = a + tl.floor(a) + tl.ceil(a) + tl.abs(a) + tl.fma(a, a, 2.0) + tl.sigmoid(a) + tl.softmax(a)
    a = a + libdevice.tanh(a) + libdevice.pow(a, a) + libdevice.log1p(a) + libdevice.isnan(a).to(tl.float32)
    tl.store(x + i, a + libdevice.rint(a) + libdevice.fast_expf(a))
    tl.store(y + i, tl.exp(d) + libdevice.tanh(d) + libdevice.atan2(d, d))


@triton.jit
def _larger(a, i, b, j):
    take = (a > b) | ((a == b) & (i < j))
    return tl.where(take, a, b), tl.where(take, i, j)


@triton.jit
def _welford(m, s, n, p, t, k):
    total = n + k
    d = p - m
    ratio = tl.where(total == 0, 0.0, k / total)
    return m + d * ratio, s + t + d * d * n * ratio, total


@construct("*fp32", "*i32", "*fp32", M=8, N=16)
@triton.jit
def reductions(x, index, out, M: tl.constexpr, N: tl.constexpr):
    i, j = tl.arange(0, M), tl.arange(0, N)
    a = tl.load(x + i[:, None] * N + j[None, :])
    v, k = tl.reduce((a, tl.broadcast_to(j[None, :], (M, N))), 1, _larger)
    tl.store(index + i, k)
    mean, m2, n = tl.reduce((a, tl.zeros_like(a), tl.full((M, N), 1.0, tl.float32)), 0, _welford)
    tl.store(out + j, mean + m2 + n + tl.sum(a, 0) + tl.max(a, 0) + tl.min(a, 0))
    tl.store(out + i, v + tl.sum(a, 1) + tl.xor_sum(k) + tl.argmax(a, 1) + tl.argmin(a, 1, tie_break_left=False))
    tl.store(out, tl.sum(a) + tl.reduce(a, None, _product) + tl.max(k))
    tl.store(out + j, tl.sum(a, 0, keep_dims=True).reshape(N))


@triton.jit
def _product(a, b):
    return a * b


@triton.jit
def _linear(a, b, c, d):
    return a * c, b * c + d


@construct("*fp32", "*fp32", M=8, N=16)
@triton.jit
def scans(x, out, M: tl.constexpr, N: tl.constexpr):
    at = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    a = tl.load(x + at)
    p, q = tl.associative_scan((a, a + 1), 1, _linear)
    tl.store(out + at, p + q + tl.cumsum(a, 0) + tl.cumprod(a, 1, reverse=True))


@construct("*fp32", "*i32", N=16)
@triton.jit
def sorting(x, y, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(x + i, tl.sort(tl.load(x + i)))
    tl.store(y + i, tl.flip(tl.sort(tl.load(y + i), descending=True), 0))
    tl.store(y + tl.arange(0, 4), tl.topk(tl.load(y + i), 4))


@construct("*fp32", "*i32", "*fp32", N=16)
@triton.jit
def shapes(x, index, out, N: tl.constexpr):
    i = tl.arange(0, N)
    a = tl.load(x + i)
    b = tl.join(a, a + 1)
    c, d = tl.split(b)
    e = tl.cat(c, d, can_reorder=True)
    f = tl.reshape(e, (4, 8)).trans().ravel()
    g = tl.interleave(c, d) + tl.view(f, (2 * N,))
    h = tl.permute(tl.reshape(g, (2, 4, 4)), (2, 0, 1))
    tl.store(out + tl.arange(0, 2 * N), tl.reshape(h, (2 * N,)))
    tl.store(out + i, tl.gather(a, tl.load(index + i), 0) + tl.histogram(tl.load(index + i), N))
    tl.store(out + i, tl.histogram(tl.load(index + i), N, mask=i < 9) + a.expand_dims(0).broadcast_to((N, N)).sum(0))


@construct("*fp32", "*fp16", "*bf16", "*i8", "*i32", "*fp8e5", "*fp64", N=32)
@triton.jit
def dots(x, h, b, c, out, e, d, N: tl.constexpr):
    i = tl.arange(0, N)
    at = i[:, None] * N + i[None, :]
    a = tl.load(x + at)
    a = tl.dot(a, a) + tl.dot(a, a, input_precision="ieee") + tl.dot(a, a, a, input_precision="tf32x3")
    half = tl.load(h + at)
    a = tl.dot(half, half, a) + tl.dot(tl.load(b + at), tl.trans(tl.load(b + at)))
    a += tl.dot(half, half, out_dtype=tl.float16)
    a += tl.dot(tl.load(e + at), tl.load(e + at), max_num_imprecise_acc=32)
    tl.store(x + at, a)
    tl.store(out + at, tl.dot(tl.load(c + at), tl.load(c + at), out_dtype=tl.int32))
    big = tl.load(h + tl.arange(0, 2)[:, None, None] * N * N + at[None])
    tl.store(x + at, tl.sum(tl.dot(big, big), 0))
    double = tl.load(d + at)
    tl.store(d + at, tl.dot(double, double, out_dtype=tl.float64))


@construct("*fp32", "*i32", "*u32", "*fp16", "*i32")
@triton.jit
def atomics(x, y, u, h, w):
    i = tl.arange(0, 16)
    m = i < 11
    a = tl.atomic_add(x + i, 1.5, m) + tl.atomic_max(x + i, 2.5, m, sem="acquire") + tl.atomic_min(x + i, -0.5)
    a += tl.atomic_xchg(x + i, 3.0, m, sem="release", scope="cta")
    tl.store(x + i, a)
    k = tl.atomic_add(y + i, 1, m, sem="relaxed", scope="sys") + tl.atomic_max(y + i, 2) + tl.atomic_min(y + i, 3)
    k += tl.atomic_and(y + i, 7, m) + tl.atomic_or(y + i, 8) + tl.atomic_xor(y + i, 9) + tl.atomic_cas(y + i, k, i)
    tl.store(y + i, k + tl.atomic_max(u + i, 5).to(tl.int32) + tl.atomic_min(u + i, 6).to(tl.int32))
    tl.atomic_add(h + i, 1.0, m)
    while tl.atomic_cas(w, 0, 1) == 1:
        pass
    tl.atomic_xchg(w, 0)


@construct("*i32", "*i32", since=(3, 9))
@triton.jit
def atomic_accesses(x, y):
    i = tl.arange(0, 16)
    tl.atomic_store(y + i, tl.atomic_load(x + i, mask=i < 7, sem="acquire"), mask=i < 9, sem="release", scope="gpu")


@construct("*fp32", "*fp32", "i32", "fp32")
@triton.jit
def control(x, out, n, limit):
    if n == 0:
        return
    i = tl.arange(0, 8)
    a, total = tl.load(x + i), 0.0
    for k in range(0, n):
        a += k
        if k % 2 == 0:
            total += tl.sum(a)
            a = a * 2
        else:
            total -= 1.0
    for k in tl.range(n, 0, -2, num_stages=3, loop_unroll_factor=1):
        tl.store(out + k, total)
    for k in tl.static_range(2):
        a += k
    for k in tl.range(n, flatten=True, disallow_acc_multi_buffer=True, disable_licm=True):
        a += k
    while total < limit and n > 3:
        total = total * 2.0
        n -= 1
    if total > 5:
        tl.store(out, total)
    tl.store(out + i, a if n > 2 else a + 1)


@triton.jit(noinline=True)
def _helper(a, p, n):
    if n > 3:
        tl.store(p, a)
    return a * 2 + n, n + 1


@construct("*fp32", "i32")
@triton.jit
def calls(x, n):
    a, k = _helper(tl.load(x), x, n)
    b, k = _helper(a, x + 1, k)
    tl.store(x + 2, b + k)


@construct("*fp32", "i32", options={"debug": True})
@triton.jit
def messages(x, n):
    i = tl.arange(0, 8)
    a = tl.load(x + i)
    tl.device_assert(a < 1e30, 'too "large": 100%')
    tl.device_assert(n > 0, "n\n")
    tl.device_print("value", a, i, hex=True)
    tl.device_print("only text")
    tl.store(x + i, a)


@construct("*i32", "*fp32", "i32")
@triton.jit
def random(x, out, seed):
    i = tl.arange(0, 16)
    a, b, c, d = tl.randint4x(seed, i)
    tl.store(x + i, (a ^ b ^ c ^ d).to(tl.int32, bitcast=True))
    tl.store(out + i, tl.rand(seed, i) + tl.randn(seed, i, n_rounds=7))


@construct("*fp16 16", "*fp16 16", "i32", "i32", M=16, N=32)
@triton.jit
def descriptors(x, out, rows, columns, M: tl.constexpr, N: tl.constexpr):
    a = tl.make_tensor_descriptor(x, [rows, columns], [columns, 1], [M, N])
    b = tl.make_tensor_descriptor(out, [rows, columns], [columns, 1], [M, N], padding_option="nan")
    for k in range(0, columns, N):
        b.store([tl.program_id(0) * M, k], a.load([tl.program_id(0) * M, k]) + b.load([0, k]))
    b.atomic_add([0, 0], a.load([0, 0]))


@triton.jit
def _pair(a, b):
    return a + b, a - b


@construct("*fp32", "*fp32")
@triton.jit
def elementwise(x, out):
    i = tl.arange(0, 16)
    s, d = tl.map_elementwise(_pair, tl.load(x + i), tl.load(x + 16 + i))
    tl.store(out + i, s * d)


@construct("*fp32", "*i64", ("*fp32 16", "*fp32", "=1", "i32"), "=None", DTYPE=tl.float32)
@triton.jit
def pointers(x, table, pair, nothing, DTYPE: tl.constexpr):
    i = tl.arange(0, 8)
    p = tl.load(table).to(tl.pointer_type(DTYPE))
    many = tl.load(table + i).to(tl.pointer_type(DTYPE))
    tl.store(many + pair[2], tl.load(p + i) + tl.load(pair[0] + i * pair[3]) + (x + i).to(tl.int64).to(tl.float32))
    tl.store(pair[1], tl.load(x))


@construct("*fp16", "*fp16", "i32", "i32", before=(3, 8))
@triton.jit
def block_pointers(x, out, rows, columns):
    p = tl.make_block_ptr(x, (rows, columns), (columns, 1), (0, 0), (16, 8), (1, 0))
    a = tl.load(p, boundary_check=(0, 1), padding_option="zero")
    tl.store(tl.make_block_ptr(out, (rows, columns), (columns, 1), (0, 0), (16, 8), (1, 0)), a, boundary_check=(0,))
    tl.store(tl.advance(p, (16, 8)), a)
