"""tensorlib on a GPU, beside PyTorch where it is installed: kernels, whole operators, the host's share, training steps.

    python bench/gpu.py [--out DIR] [--only REGEX] [--seconds S] [--tiny]

Both libraries with their default settings, in one process, in turns; some entries with torch.compile as well. Three
times for each entry and library:

device   of one call replayed as a graph, by events, median; the L2 cache is overwritten before each. No host in it.
call     of one eager call among many, host included: what a loop of such calls costs. The cache is warm.
first    of the first call of all: compilation, tuning, loading.

Ratios are tensorlib's device time over PyTorch's: below 1 is faster. "of peak" compares with what this run itself
measured: the best copy of a gigabyte for what moves bytes, the best large product of that dtype by either library for
what multiplies. Peak memory is that of two eager calls, inputs included. Before anything is measured all processors
compile the kernels of all entries. The measuring process is replaced when an entry takes it down, and goes on with the
next one. `tensorlib bench` times single operators at the sizes that they declare.

Writes bench.json (with GPU, driver, versions, commit, date, command), bench.txt and bench.png, a roofline. Exit status:
0 all was measured, 1 some entries failed, 2 time ran out, 3 there is no GPU. torch is a peer here, never a dependency.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout that this file belongs to

import gpt2  # noqa: E402
import numpy as np  # noqa: E402

import tensorlib  # noqa: E402
from tensorlib import report  # noqa: E402
from tensorlib.bench import Library, engine, roofline  # noqa: E402
from tensorlib.op import jit, launch  # noqa: E402
from tensorlib.runtime import ahead, gpu  # noqa: E402

GB = 1e9
#: Seconds that one entry may take in one library, compilation not counted.
SECONDS = 0.25
#: Seconds that compiling everything ahead may take, and no more than three tenths of the time that there is.
AHEAD = 90.0
#: Seconds without news after which the measuring process is taken for hung.
PATIENCE = 150.0


class Entry(NamedTuple):
    """What is measured: ``make(T)`` gives the call for a library, its inputs made already."""

    name: str
    make: Callable[[Any], Callable[[], Any]]
    bytes: float = 0.0  # the fewest that it moves
    flops: float = 0.0
    dtype: str = "float32"
    captured: Callable[[Any], Callable[[], Any]] | None = None  # makes the call to capture, where it is another one
    tokens: int = 0
    compiled: Callable[..., Callable[[], Any]] | None = None  # (T, wrap): the same with wrap=torch.compile around it


# -------------------------------------------------------------------------------------------------------- the libraries


#: Where tensors are made: "cuda", or a target while its kernels are compiled ahead.
DEVICE = ["cuda"]


def tensors(T: Any, dtype: str, *shapes: tuple[int, ...], grad: bool = False) -> list[Any]:
    """Random normal tensors on the GPU: never zeros, which run faster."""
    found = [T.randn(*shape, device=DEVICE[0]).to(getattr(T, dtype)) for shape in shapes]
    return [x.requires_grad_() for x in found] if grad else found


def integers(T: Any, high: int, *shape: int) -> Any:
    return T.from_numpy(np.random.default_rng(1).integers(0, high, shape)).to(DEVICE[0])


def backward(T: Any, function: Callable[..., Any], inputs: list[Any]) -> Callable[[], Any]:
    """Forward and the gradients of all floating-point inputs."""
    wanted = [t for t in inputs if t.requires_grad]
    with T.no_grad():
        seed = T.randn_like(function(*inputs))
    return lambda: T.autograd.grad(function(*inputs), wanted, seed)


# ---------------------------------------------------------------------------------------------------------- the entries


Wrap = Callable[[Any], Any]


def _as_is(f: Any) -> Any:
    return f


SIZES = {"float32": 4, "bfloat16": 2, "float16": 2, "tf32": 4}


def _both(name: str, dtype: str, shapes: list[tuple[int, ...]], function: Callable[[Any], Callable[..., Any]],
          forward_bytes: float, backward_bytes: float, flops: float = 0.0, backward_flops: float = 0.0,
          extra: Callable[[Any], list[Any]] | None = None, compiled: bool = False) -> Iterator[Entry]:  # fmt: skip
    """An operator forward, and forward with backward: ``function(T)`` of tensors of ``shapes``, and of ``extra(T)``."""

    def plain(T: Any, wrap: Wrap = _as_is) -> Callable[[], Any]:
        inputs, f, more = tensors(T, dtype, *shapes), wrap(function(T)), extra(T) if extra else []
        return lambda: f(*inputs, *more)

    def both(T: Any, wrap: Wrap = _as_is) -> Callable[[], Any]:
        more = extra(T) if extra else []
        f = wrap(function(T))
        return backward(T, lambda *a: f(*a, *more), tensors(T, dtype, *shapes, grad=True))

    yield Entry(name, plain, forward_bytes, flops, dtype, compiled=plain if compiled else None)
    yield Entry(f"{name}, both ways", both, forward_bytes + backward_bytes, flops + backward_flops, dtype,
                compiled=both if compiled else None)  # fmt: skip


#: What there are goals for: measured before everything else.
FIRST = re.compile(
    r"training step.* 16×|^copy|^matmul (4096|8192)×\d+ by .*|^(softmax|layer_norm|rms_norm) 16384×4096|^chain"
    r"|^causal attention (4×16×4096×128|1×16×16384×128|16×12×1024×64)|^linear, cross_entropy|^AdamW|^gelu \d+"
)


def entries(tiny: bool) -> list[Entry]:
    """Everything that is measured, in order of importance: time may run out. In bfloat16 first."""
    found = list(_entries(tiny))

    def rank(entry: Entry) -> int:
        return (0 if entry.dtype == "bfloat16" else 1) if FIRST.search(entry.name) else 2

    return sorted(found, key=rank)


def _entries(tiny: bool) -> Iterator[Entry]:

    def size(full: int, small: int = 16) -> int:
        return small if tiny else full

    yield from _training(size, tiny, (16,))
    for dtype in ("bfloat16", "float32"):
        yield from _elementwise(dtype, size)
    yield from _products(size)
    for dtype in ("bfloat16", "float32"):
        yield from _rows(dtype, size)
    yield from _attention(size)
    yield from _vocabulary(size)
    yield from _optimizer(size, tiny)
    yield from _convolutions(size)
    yield from _embedding(size)
    yield from _reductions("float32", size)
    yield from _reductions("bfloat16", size)
    yield from _training(size, tiny, (64, 32))
    yield from _indexing(size)
    yield from _sorting(size)
    yield from _transformers(size)
    yield from _more_products(size)
    yield from _more_attention(size)
    yield from _layers(size)


Size = Callable[..., int]


def _elementwise(dtype: str, size: Size) -> Iterator[Entry]:
    n, e = size(1 << 26), SIZES[dtype]
    yield Entry(f"copy {n}", lambda T: (lambda x, y: lambda: y.copy_(x))(*tensors(T, dtype, (n,), (n,))), 2.0 * n * e,
                dtype=dtype)  # fmt: skip
    yield Entry(f"add {n}", lambda T: (lambda x, y: lambda: x + y)(*tensors(T, dtype, (n,), (n,))), 3.0 * n * e,
                dtype=dtype)  # fmt: skip
    yield Entry(f"exp {n}", lambda T: (lambda x: lambda: x.exp())(*tensors(T, dtype, (n,))), 2.0 * n * e, dtype=dtype)
    yield from _both(f"gelu {n}", dtype, [(n,)], lambda T: T.nn.functional.gelu, 2.0 * n * e, 3.0 * n * e)
    yield from _both(f"chain: x * sigmoid(y) + z, squared, {n}", dtype, [(n,)] * 3,
                     lambda T: lambda x, y, z: (x * y.sigmoid() + z).square(), 4.0 * n * e, 7.0 * n * e,
                     compiled=True)  # fmt: skip
    m = size(8192)
    yield Entry(f"transposed copy {m}²", lambda T: (lambda x: lambda: x.mT.contiguous())(*tensors(T, dtype, (m, m))),
                2.0 * m * m * e, dtype=dtype)  # fmt: skip
    rows, columns = size(16384), size(4096)
    yield Entry(f"add a row {rows}×{columns}",
                lambda T: (lambda x, y: lambda: x + y)(*tensors(T, dtype, (rows, columns), (columns,))),
                2.0 * rows * columns * e, dtype=dtype)  # fmt: skip


def _reductions(dtype: str, size: Size) -> Iterator[Entry]:
    m, n, e = size(16384), size(4096), SIZES[dtype]

    def one(name: str, function: Callable[[Any], Any]) -> Entry:
        return Entry(f"{name} {m}×{n}", lambda T: (lambda x: lambda: function(x))(*tensors(T, dtype, (m, n))),
                     1.0 * m * n * e, dtype=dtype)  # fmt: skip

    yield one("sum of rows", lambda x: x.sum(-1))
    yield one("sum of columns", lambda x: x.sum(0))
    yield one("sum of all", lambda x: x.sum())
    yield one("argmax of rows", lambda x: x.argmax(-1))
    yield one("variance of rows", lambda x: x.var(-1))
    yield Entry(f"cumsum of rows {m}×{n}", lambda T: (lambda x: lambda: x.cumsum(-1))(*tensors(T, dtype, (m, n))),
                2.0 * m * n * e, dtype=dtype)  # fmt: skip


def _rows(dtype: str, size: Size) -> Iterator[Entry]:
    e = SIZES[dtype]
    for m, n in ((size(16384), size(4096)), (size(32768), size(1024)), (size(256), size(262144, 64))):
        b = 1.0 * m * n * e
        yield from _both(f"softmax {m}×{n}", dtype, [(m, n)], lambda T: lambda x: T.softmax(x, -1), 2 * b, 3 * b)
        yield from _both(
            f"layer_norm {m}×{n}", dtype, [(m, n), (n,), (n,)],
            lambda T, n=n: lambda x, w, s: T.nn.functional.layer_norm(x, (n,), w, s), 2 * b, 3 * b,
        )  # fmt: skip
        yield from _both(
            f"rms_norm {m}×{n}", dtype, [(m, n), (n,)],
            lambda T, n=n: lambda x, w: T.nn.functional.rms_norm(x, (n,), w), 2 * b, 3 * b, compiled=n == size(4096),
        )  # fmt: skip
    m, n = size(8192), size(50257, 50)
    b = 1.0 * m * n * e
    yield from _both(f"cross_entropy {m}×{n}", dtype, [(m, n)], lambda T: T.nn.functional.cross_entropy, b, 2 * b,
                     extra=lambda T: [integers(T, n, m)], compiled=True)  # fmt: skip


def _products(size: Size) -> Iterator[Entry]:
    squares = [(size(n), size(n), size(n)) for n in (4096, 8192, 2048, 1024)]
    skinny = [
        (size(16384), size(768), size(3072)), (size(8192), size(50257, 33), size(768)),
        (1, size(4096), size(4096)), (size(16), size(4096), size(4096)), (size(4096), size(64), size(4096)),
    ]  # fmt: skip
    for dtype, shapes in (("bfloat16", squares + skinny), ("float16", squares[:2] + skinny[:1]),
                          ("tf32", squares[:2]), ("float32", squares[:1] + skinny[:1])):  # fmt: skip
        for m, n, k in dict.fromkeys(shapes):
            yield Entry(f"matmul {m}×{k} by {k}×{n}", lambda T, m=m, n=n, k=k, d=dtype: _product(T, m, n, k, d),
                        SIZES[dtype] * (m * k + k * n + m * n), 2.0 * m * n * k, dtype)  # fmt: skip
    m, n, k = size(16384), size(3072), size(768)
    yield from (x for x in _both(f"linear {m}×{k} to {n}", "bfloat16", [(m, k), (n, k), (n,)],
                                 lambda T: T.nn.functional.linear, 2.0 * (m * k + k * n + m * n),
                                 4.0 * (m * k + k * n + m * n), 2.0 * m * n * k, 4.0 * m * n * k))  # fmt: skip


def _product(T: Any, m: int, n: int, k: int, dtype: str) -> Callable[[], Any]:
    x, y = tensors(T, "float32" if dtype == "tf32" else dtype, (m, k), (k, n))
    if dtype != "tf32":
        return lambda: x @ y

    def call() -> Any:
        before = T.get_float32_matmul_precision()
        T.set_float32_matmul_precision("high")
        try:
            return x @ y
        finally:
            T.set_float32_matmul_precision(before)

    return call


def _attention(size: Size) -> Iterator[Entry]:
    for dtype in ("bfloat16", "float16"):
        for b, h, t, d in ((size(4, 1), size(16, 2), size(4096), 128), (size(1), size(16, 2), size(16384), 128),
                           (size(16, 1), size(12, 2), size(1024), 64)):  # fmt: skip
            d = size(d)
            shape, moved = (b, h, t, d), 4.0 * b * h * t * d * SIZES[dtype]
            flops = 4.0 * b * h * t * t * d / 2

            def attend(T: Any) -> Callable[..., Any]:
                return lambda q, k, v: T.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

            yield from _both(f"causal attention {b}×{h}×{t}×{d}", dtype, [shape] * 3, attend, moved, 2 * moved, flops,
                             2.5 * flops)  # fmt: skip
        if dtype == "bfloat16":
            continue
        return


def _vocabulary(size: Size) -> Iterator[Entry]:
    """A language model's loss from its last layer's features: fused, and as two operators. See "peak memory" too."""
    m, k, v = size(8192), size(2048), size(131072, 64)
    flops = 2.0 * m * k * v

    def two(T: Any) -> Callable[..., Any]:
        F = T.nn.functional
        return lambda x, w, target: F.cross_entropy(F.linear(x, w).float(), target)

    for name, function in (("in two", two), ("fused", lambda T: T.nn.functional.linear_cross_entropy)):
        yield from _both(
            f"linear, cross_entropy {name} {m}×{k} to {v}", "bfloat16", [(m, k), (v, k)], function,
            2.0 * (m * k + v * k), 4.0 * (m * k + v * k), flops, 2 * flops, lambda T: [integers(T, v, m)],
        )  # fmt: skip


def _convolutions(size: Size) -> Iterator[Entry]:
    for dtype in ("bfloat16", "float32"):
        for n, c, hw, k, r in ((size(64, 1), size(64, 4), size(56, 8), size(64, 4), 3),
                               (size(64, 1), size(256, 4), size(14, 6), size(256, 4), 3),
                               (size(64, 1), size(256, 4), size(56, 6), size(64, 4), 1)):  # fmt: skip
            flops = 2.0 * n * hw * hw * k * c * r * r
            moved = SIZES[dtype] * (n * hw * hw * (c + k) + k * c * r * r)
            yield from _both(f"conv2d {n}×{c}×{hw}², {k} of {r}²", dtype, [(n, c, hw, hw), (k, c, r, r)],
                             lambda T, r=r: lambda x, w: T.nn.functional.conv2d(x, w, padding=r // 2), moved, 2 * moved,
                             flops, 2 * flops)  # fmt: skip


def _embedding(size: Size) -> Iterator[Entry]:
    v, w, n = size(50257), size(768), size(16384)
    for dtype in ("float32", "bfloat16"):
        e = SIZES[dtype]
        yield from _both(f"embedding {n} of {v}×{w}", dtype, [(v, w)],
                         lambda T: lambda table, ids: T.nn.functional.embedding(ids, table), 2.0 * n * w * e,
                         (n * w + v * w) * e, extra=lambda T: [integers(T, v, n)])  # fmt: skip


def _optimizer(size: Size, tiny: bool) -> Iterator[Entry]:
    shape = gpt2.Shape(1, 16, 2, 8, 32) if tiny else gpt2.GPT2

    def make(T: Any, **options: Any) -> Callable[[], Any]:
        params = list(gpt2.gpt(T, shape).to(DEVICE[0]).parameters())
        for p in params:
            p.grad = tensors(T, "float32", tuple(p.shape))[0]
        optimizer = T.optim.AdamW(params, lr=1e-4, **options)
        return lambda: optimizer.step()

    n = _parameters(shape)
    yield Entry(f"AdamW, {n / 1e6:.0f}M parameters of GPT-2", make, 28.0 * n, captured=partial(make, capturable=True))


def _parameters(shape: gpt2.Shape) -> int:
    layers, width, _, length, vocabulary = shape
    return layers * (12 * width**2 + 13 * width) + 2 * width + (2 * vocabulary + length) * width


def _training(size: Size, tiny: bool, batches: tuple[int, ...]) -> Iterator[Entry]:
    shape = gpt2.Shape(1, 16, 2, 8, 32) if tiny else gpt2.GPT2
    for number, full in enumerate(batches):
        batch = size(full, 2 + len(batches) + number)
        tokens = batch * shape.length

        def make(T: Any, wrap: Wrap = _as_is, batch: int = batch, **options: Any) -> Callable[[], Any]:
            T.manual_seed(0)
            F, model = T.nn.functional, gpt2.gpt(T, shape).to(DEVICE[0])
            optimizer = T.optim.AdamW(model.parameters(), lr=1e-4, **options)
            ids = integers(T, shape.vocabulary, batch, shape.length + 1)
            x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
            logits = wrap(model)

            def step() -> Any:
                optimizer.zero_grad(set_to_none=True)
                with T.autocast(DEVICE[0], dtype=T.bfloat16, cache_enabled=False):
                    loss = F.cross_entropy(logits(x).view(-1, shape.vocabulary), y.view(-1))
                loss.backward()
                optimizer.step()
                return loss.detach()

            return step

        yield Entry(f"training step, GPT-2 124M, {batch}×{shape.length}, bfloat16", make,
                    flops=gpt2.gpt_flops(shape, tokens), dtype="bfloat16", tokens=tokens,
                    captured=partial(make, capturable=True),
                    compiled=partial(make, capturable=True) if full in (16, 64) else None)  # fmt: skip


def _indexing(size: Size) -> Iterator[Entry]:
    m, n = size(16384), size(1024)
    for dtype in ("float32", "bfloat16"):
        e = SIZES[dtype]
        b = 1.0 * m * n * e
        yield from _both(f"gather {m}×{n}", dtype, [(m, n)], lambda T: lambda x, i: x.gather(1, i), 2 * b + 8.0 * m * n,
                         2 * b + 8.0 * m * n, extra=lambda T: [integers(T, n, m, n)])  # fmt: skip
        yield from _both(f"index_select of rows {m}×{n}", dtype, [(m, n)], lambda T: lambda x, i: x.index_select(0, i),
                         2 * b, 2 * b, extra=lambda T: [integers(T, m, m)])  # fmt: skip
        yield from _both(f"index_add of rows {m}×{n}", dtype, [(m, n), (m, n)],
                         lambda T: lambda x, y, i: x.index_add(0, i, y), 4 * b, 2 * b,
                         extra=lambda T: [integers(T, m, m)])  # fmt: skip
        yield from _both(f"cat of two {m}×{n}", dtype, [(m, n), (m, n)], lambda T: lambda x, y: T.cat([x, y], 1), 4 * b,
                         4 * b)  # fmt: skip
        yield from _both(f"dropout {m}×{n}", dtype, [(m, n)], lambda T: lambda x: T.nn.functional.dropout(x, 0.1),
                         2 * b, 2 * b)  # fmt: skip
        yield from _both(f"where {m}×{n}", dtype, [(m, n), (m, n)], lambda T: lambda x, y: T.where(x > y, x, y),
                         5 * b, 4 * b)  # fmt: skip
    k = size(1 << 26)
    yield Entry(f"randn {k}", lambda T: lambda: T.randn(k, device=DEVICE[0]), 4.0 * k)


def _sorting(size: Size) -> Iterator[Entry]:
    for title, shape, moved, function in (
        ("sort", (size(1 << 24),), 12, lambda T: lambda x: x.sort(-1)),
        ("sort", (size(8192), size(1024)), 12, lambda T: lambda x: x.sort(-1)),
        ("topk 50 of", (size(256), size(50257, 64)), 4, lambda T: lambda x: x.topk(size(50, 5))),
        ("multinomial", (size(256), size(50257, 64)), 4, lambda T: lambda x: T.multinomial(x.abs(), 1)),
        ("cumsum of one row", (size(1 << 26),), 8, lambda T: lambda x: x.cumsum(0)),
    ):  # fmt: skip

        def make(T: Any, shape: tuple[int, ...] = shape, function: Any = function) -> Callable[[], Any]:
            (x,), f = tensors(T, "float32", shape), function(T)
            return lambda: f(x)

        yield Entry(f"{title} {'×'.join(map(str, shape))}", make, float(moved * np.prod(shape)))


def _layers(size: Size) -> Iterator[Entry]:
    n, c, hw = size(64, 2), size(64, 4), size(56, 8)
    for dtype in ("bfloat16", "float32"):
        b = 1.0 * n * c * hw * hw * SIZES[dtype]
        image = (n, c, hw, hw)
        yield from _both(f"group_norm {n}×{c}×{hw}²", dtype, [image, (c,), (c,)],
                         lambda T: lambda x, w, s: T.nn.functional.group_norm(x, c // 2, w, s), 3 * b,
                         4 * b)  # fmt: skip
        yield from _both(f"batch_norm {n}×{c}×{hw}²", dtype, [image, (c,), (c,)],
                         lambda T: lambda x, w, s: T.nn.functional.batch_norm(x, None, None, w, s, training=True),
                         3 * b, 4 * b)  # fmt: skip
        yield from _both(f"max_pool2d {n}×{c}×{hw}², 3²", dtype, [image],
                         lambda T: lambda x: T.nn.functional.max_pool2d(x, 3, 2, 1), 1.25 * b, 1.25 * b)  # fmt: skip
        yield from _both(f"avg_pool2d {n}×{c}×{hw}², 2²", dtype, [image],
                         lambda T: lambda x: T.nn.functional.avg_pool2d(x, 2), 1.25 * b, 1.25 * b)  # fmt: skip
        yield from _both(f"interpolate {n}×{c}×{hw}², bilinear", dtype, [image],
                         lambda T: lambda x: T.nn.functional.interpolate(x, scale_factor=2, mode="bilinear"), 5 * b,
                         5 * b)  # fmt: skip
        flops = 2.0 * n * c * hw * hw * 9
        yield from _both(f"depthwise conv2d {n}×{c}×{hw}², 3²", dtype, [image, (c, 1, 3, 3)],
                         lambda T: lambda x, w: T.nn.functional.conv2d(x, w, padding=1, groups=c), 2 * b, 4 * b, flops,
                         2 * flops)  # fmt: skip
        flops = 2.0 * n * hw * hw * c * c * 16
        yield from _both(f"conv_transpose2d {n}×{c}×{hw}², 4²", dtype, [image, (c, c, 4, 4)],
                         lambda T: lambda x, w: T.nn.functional.conv_transpose2d(x, w, stride=2, padding=1), 5 * b,
                         10 * b, flops, 2 * flops)  # fmt: skip
        length = size(3000, 32)
        flops = 2.0 * size(16, 2) * length * size(512, 8) ** 2 * 3
        b = 1.0 * size(16, 2) * length * size(512, 8) * SIZES[dtype]
        yield from _both(f"conv1d {size(16, 2)}×{size(512, 8)}×{length}, 3", dtype,
                         [(size(16, 2), size(512, 8), length), (size(512, 8), size(512, 8), 3)],
                         lambda T: lambda x, w: T.nn.functional.conv1d(x, w, padding=1), 2 * b, 4 * b, flops,
                         2 * flops)  # fmt: skip


def _transformers(size: Size) -> Iterator[Entry]:
    """What PyTorch's users write with several operators, and compile."""
    m, n, e = size(8192), size(4096), 2

    def add_rms_norm(T: Any) -> Callable[..., Any]:
        F = T.nn.functional
        if T is tensorlib:
            return lambda x, y, w: F.add_rms_norm(x, y, (n,), w)[1]
        return lambda x, y, w: F.rms_norm(x + y, (n,), w)

    b = 1.0 * m * n * e
    yield from _both(f"add_rms_norm {m}×{n}", "bfloat16", [(m, n), (m, n), (n,)], add_rms_norm, 4 * b, 4 * b,
                     compiled=True)  # fmt: skip

    def swiglu(T: Any) -> Callable[..., Any]:
        F = T.nn.functional
        return F.swiglu if T is tensorlib else lambda x, y: F.silu(x) * y

    yield from _both(f"swiglu {m}×{n}", "bfloat16", [(m, n), (m, n)], swiglu, 3 * b, 5 * b, compiled=True)
    batch, heads, t, d = size(4, 1), size(32, 2), size(4096), size(128)

    def rotary(T: Any) -> Callable[..., Any]:
        cos, sin = tensors(T, "float32", (t, d // 2), (t, d // 2))
        if T is tensorlib:
            return lambda x: T.nn.functional.rotary_embedding(x, cos, sin)

        def turned(x: Any) -> Any:
            a, b = x.float().chunk(2, -1)
            return T.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)

        return turned

    b = 1.0 * batch * heads * t * d * e
    yield from _both(f"rotary embedding {batch}×{heads}×{t}×{d}", "bfloat16", [(batch, heads, t, d)], rotary, 2 * b,
                     2 * b, compiled=True)  # fmt: skip


def _more_products(size: Size) -> Iterator[Entry]:
    n = size(8192)
    flops = 2.0 * n**3

    def of_int8(T: Any) -> Callable[[], Any]:
        drawn = np.random.default_rng(1).integers(-128, 128, (2, n, n), np.int8)
        x, y = (T.from_numpy(a).to(DEVICE[0]) for a in drawn)
        return lambda: T._int_mm(x, y)

    def of_float8(T: Any) -> Callable[[], Any]:
        x, y = (t.to(T.float8_e4m3fn) for t in tensors(T, "float32", (n, n), (n, n)))
        (scale,) = tensors(T, "float32", (1,))
        other = y.t()
        return lambda: T._scaled_mm(x, other, scale, scale, out_dtype=T.bfloat16)

    yield Entry(f"int8 product {n}³", of_int8, 6.0 * n * n, flops, "int8")
    yield Entry(f"float8 product {n}³", of_float8, 4.0 * n * n, flops, "float8_e4m3fn")
    m, k, groups = size(16384, 32), size(2048), 8

    def grouped(T: Any) -> Callable[..., Any]:
        ends = T.from_numpy((np.arange(1, groups + 1) * (m // groups)).astype(np.int32)).to(DEVICE[0])
        return lambda x, w: T._grouped_mm(x, w, ends)

    flops, moved = 2.0 * m * k * k, 2.0 * (2 * m * k + groups * k * k)
    yield from _both(f"grouped product of {groups}, {m}×{k} to {k}", "bfloat16", [(m, k), (groups, k, k)], grouped,
                     moved, 2 * moved, flops, 2 * flops)  # fmt: skip


def _more_attention(size: Size) -> Iterator[Entry]:
    """Grouped queries, a mask of numbers, dropout, one query to a long cache."""
    b, h, t, d = size(4, 1), size(32, 4), size(4096), size(128)
    few, e = h // 4, 2
    flops = 4.0 * b * h * t * t * d / 2

    def of(**options: Any) -> Callable[[Any], Callable[..., Any]]:
        return lambda T: partial(T.nn.functional.scaled_dot_product_attention, **options)

    yield from _both(f"causal attention {b}×{h} of {few}×{t}×{d}", "bfloat16", [(b, h, t, d), *[(b, few, t, d)] * 2],
                     of(is_causal=True, enable_gqa=True), e * b * t * d * (2.0 * h + 2 * few),
                     e * b * t * d * (4.0 * h + 4 * few), flops, 2.5 * flops)  # fmt: skip
    b, h, t, d = size(8, 1), size(12, 2), size(512), size(64)
    flops, moved = 4.0 * b * h * t * t * d, e * b * h * t * (4.0 * d + t)
    yield from _both(f"attention with a bias {b}×{h}×{t}×{d}", "bfloat16", [*[(b, h, t, d)] * 3, (b, h, t, t)], of(),
                     moved, 2 * moved, flops, 2.5 * flops)  # fmt: skip
    yield from _both(f"causal attention with dropout {b}×{h}×{t}×{d}", "bfloat16", [(b, h, t, d)] * 3,
                     of(is_causal=True, dropout_p=0.1), 4.0 * e * b * h * t * d, 8.0 * e * b * h * t * d, flops / 2,
                     1.25 * flops)  # fmt: skip
    b, h, t, d = size(16, 2), size(32, 2), size(8192, 64), size(128)

    def decode(T: Any) -> Callable[[], Any]:
        q, k, v = tensors(T, "bfloat16", (b, h, 1, d), (b, h, t, d), (b, h, t, d))
        return lambda: T.nn.functional.scaled_dot_product_attention(q, k, v)

    yield Entry(f"attention of one query {b}×{h}×1×{d} to {t}", decode, 2.0 * e * b * h * t * d, dtype="bfloat16")
    count, length, h, d = size(8, 2), size(2048), size(12, 2), size(64)

    def sequences(T: Any) -> Callable[..., Any]:
        varlen = importlib.import_module(f"{T.__name__}.nn.attention.varlen").varlen_attn
        ends = T.from_numpy((np.arange(count + 1) * length).astype(np.int32)).to(DEVICE[0])
        return lambda q, k, v: varlen(q, k, v, ends, ends, length, length, window_size=(-1, 0))

    flops, moved = 4.0 * count * h * length * length * d / 2, 4.0 * e * count * length * h * d
    yield from _both(f"causal attention of {count} sequences of {length}×{h}×{d}", "bfloat16",
                     [(count * length, h, d)] * 3, sequences, moved, 2 * moved, flops, 2.5 * flops)  # fmt: skip
    b, heads, few, d, page, pages = size(16, 2), size(32, 4), size(8, 2), size(128), size(128), size(64, 2)

    def paged(T: Any) -> Callable[[], Any]:
        varlen = importlib.import_module(f"{T.__name__}.nn.attention.varlen").varlen_attn
        (q,) = tensors(T, "bfloat16", (b, heads, d))
        k, v = tensors(T, "bfloat16", (b * pages, page, few, d), (b * pages, page, few, d))
        ends = T.from_numpy(np.arange(b + 1).astype(np.int32)).to(DEVICE[0])
        used = T.from_numpy(np.full(b, page * pages, np.int32)).to(DEVICE[0])
        table = T.from_numpy(np.random.default_rng(0).permutation(b * pages).astype(np.int32).reshape(b, pages))
        table = table.to(DEVICE[0])
        return lambda: varlen(q, k, v, ends, None, 1, page * pages, seqused_k=used, block_table=table, enable_gqa=True)

    yield Entry(f"attention of one query {b}×{heads} of {few}×{d} to {pages} pages", paged,
                2.0 * e * b * pages * page * few * d, dtype="bfloat16")  # fmt: skip


# ----------------------------------------------------------------------------------------------------- the host's share


@jit
def scaled_sum_kernel(out, x, y, N, scale, BLOCK: tl.constexpr):  # noqa: F821
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # noqa: F821
    a, b = tl.load(x + i, mask=i < N), tl.load(y + i, mask=i < N)  # noqa: F821
    tl.store(out + i, a + b * scale, mask=i < N)  # noqa: F821


def host_costs(libraries: list[Library]) -> dict[str, dict[str, float]]:
    """Seconds of the host's time for one call, by what is called and by whom."""
    found: dict[str, dict[str, float]] = {}
    ours = libraries[0]
    x, y, out = (t._array for t in tensors(tensorlib, "float32", (1000,), (1000,), (1000,)))
    name = "launch of 5 arguments"
    found[name] = {"tensorlib": ours.host_time(lambda: launch(scaled_sum_kernel, 4, out, x, y, 1000, 0.5, BLOCK=256))}
    if len(libraries) > 1:
        found[name] |= _triton_launch(libraries[1])
    for library in libraries:
        T = library.T
        a, b = tensors(T, "float32", (8,), (8,))
        (wanted,) = tensors(T, "float32", (8,), grad=True)
        calls: dict[str, Callable[[], Any]] = {
            "add of 8": lambda a=a, b=b: a + b,
            "mul of 8, recorded": lambda w=wanted, b=b: w * b,
            "mul, sum, backward of 8": lambda w=wanted, b=b: (w * b).sum().backward(),
            "softmax 8×8": lambda T=T, a=a: T.softmax(a, 0),
            "view of 8": lambda a=a: a.view(2, 4),
            "empty of 8": lambda T=T: T.empty(8, device="cuda"),
        }
        for title, call in calls.items():
            call()
            found.setdefault(title, {})[library.name] = library.host_time(call, 50 if "backward" in title else 200)
    return found


def _triton_launch(library: Library) -> dict[str, float]:
    """The same kernel through Triton's own launcher, which torch's tensors and driver are for."""
    try:
        import triton
        import triton.language as tl

        ours = scaled_sum_kernel.fn
        plain = types.FunctionType(ours.__code__, {**ours.__globals__, "tl": tl}, ours.__name__)
        plain.__annotations__.update(ours.__annotations__)
        kernel = triton.jit(plain)
        x, y, out = tensors(library.T, "float32", (1000,), (1000,), (1000,))
        kernel[(4,)](out, x, y, 1000, 0.5, BLOCK=256)
        return {"triton": library.host_time(lambda: kernel[(4,)](out, x, y, 1000, 0.5, BLOCK=256))}
    except Exception as error:  # what is compared with is missing; what is measured is there
        print(f"Triton's own launcher could not be timed: {error!r}"[:300])
        return {}


# ------------------------------------------------------------------------------------------------------------ measuring


def copy_bandwidth(library: Library) -> float:
    """Bytes read and written in a second by the driver's own copy of a gigabyte."""
    used = engine()
    n = (1 << 16) if library.tiny else min(1 << 30, used.driver.memory_info()[0] // 8)
    x, y = (tensorlib.empty(n, dtype=tensorlib.uint8, device="cuda")._array for _ in range(2))
    call = lambda: used.driver.copy(y.ptr, x.ptr, n, used.stream)  # noqa: E731
    call()
    return 2 * n / median(library.device_times(call, SECONDS))


def one(entry: Entry, libraries: list[Library]) -> dict[str, Any]:
    """Every time of an entry; the libraries in turns, twice, so that a drift of the clocks shows."""
    result: dict[str, Any] = {"dtype": entry.dtype, "bytes": entry.bytes, "flops": entry.flops}
    if entry.tokens:
        result["tokens"] = entry.tokens
    ready: list[tuple[Library, Callable[[], Any], Callable[[], Any], dict[str, Any]]] = []
    makers = [(x.name, x, entry.make, entry.captured) for x in libraries]
    for library in libraries:
        if library.T is not tensorlib and entry.compiled is not None:
            compiled = partial(entry.compiled, wrap=_fresh_compile(library.T))
            makers.append(("torch.compile", library, compiled, None))
    for name, library, make, captured in makers:
        times: dict[str, Any] = {}
        result[name] = times
        try:
            library.T.cuda.reset_peak_memory_stats()
            before = library.T.cuda.memory_allocated()
            start = time.perf_counter()
            call = make(library.T)
            library.synchronize()
            made = time.perf_counter()
            call()
            library.synchronize()
            times["inputs"], times["first"] = made - start, time.perf_counter() - made
            call()
            library.synchronize()
            times["peak memory"] = library.T.cuda.max_memory_allocated() - before
            replay = call
            try:
                replay = library.captured(call if captured is None else captured(library.T))
            except Exception as error:
                times["no graph"] = f"{type(error).__name__}: {error}"[:300]
                library.synchronize()
            ready.append((library, call, replay, times))
        except Exception as error:
            times["error"] = f"{type(error).__name__}: {error}"[:1000]
    for turn in range(2):
        for library, call, replay, times in ready:
            found = median(library.device_times(replay, SECONDS / 2))
            times["device"] = min(found, times.get("device", found))
            times["spread"] = abs(found - times["device"]) / max(found, 1e-12)
            if turn:
                times["call"] = library.call_time(call, SECONDS)
    return result


def _fresh_compile(torch: Any) -> Wrap:
    """torch.compile, with nothing left of what other entries compiled."""
    torch._dynamo.reset()
    return torch.compile  # type: ignore[no-any-return]


def compile_ahead(chosen: list[Entry], tell: Callable[..., None], seconds: float) -> dict[str, float]:
    """Compile in parallel what the entries launch on this GPU's target, into the cache on disk.

    A dry run of each entry on the target says what that is. Which configurations a kernel gets is chosen by the usual
    GPU of the target there, by this one when it is measured: where the two differ, the first call compiles after all.
    """
    start = time.perf_counter()
    target = engine().properties.target
    requests: dict[Any, Any] = {}
    DEVICE[0] = target
    try:
        for entry in chosen:
            for make in filter(None, (entry.make, entry.captured)):
                with contextlib.suppress(Exception):  # it reads what is not computed there: compiled at its first call
                    for request in ahead.collect(lambda make=make: make(tensorlib)()):  # type: ignore[misc]
                        requests.setdefault(request.hashable, request)
    finally:
        DEVICE[0] = "cuda"

    class Late(Exception):
        pass

    def progress(outcome: Any, number: int, total: int) -> None:
        tell(ahead=number, of=total)
        if time.perf_counter() - start > seconds:
            raise Late

    found = {"kernels": float(len(requests))}
    with contextlib.suppress(Late, tensorlib.errors.KernelError):
        outcomes = ahead.compile_all(requests.values(), progress=progress)
        found["failed"] = float(sum(o.status == "failed" for o in outcomes))
    return {**found, "seconds": time.perf_counter() - start}


def child(options: argparse.Namespace) -> None:
    """Measure the entries that are not in --skip; one JSON line each on the channel."""
    channel = os.fdopen(options.channel, "w", buffering=1)

    def say(**message: Any) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    if gpu.kind() is None:
        say(why_not=gpu.why_not())
        return
    libraries = [Library(tensorlib, "cuda", options.tiny)]
    if importlib.util.find_spec("torch") is not None and not _simulated():
        torch = importlib.import_module("torch")
        if torch.cuda.is_available():
            libraries.append(Library(torch, "cuda", options.tiny))
    say(gpu=engine().properties.name, libraries=[x.name for x in libraries])
    if "copy bandwidth" not in options.skip:
        say(start="copy bandwidth")
        say(end="copy bandwidth", result=copy_bandwidth(libraries[0]))
    if "host" not in options.skip and re.search(options.only, "host"):
        say(start="host")
        say(end="host", result=host_costs(libraries))
    chosen = {f"{entry.name}, {entry.dtype}": entry for entry in entries(options.tiny)}
    chosen = {k: v for k, v in chosen.items() if k not in options.skip and re.search(options.only, k)}
    if "ahead" not in options.skip:
        say(start="ahead")
        say(end="ahead", result=compile_ahead(list(chosen.values()), say, options.ahead))
    for name, entry in chosen.items():
        say(start=name)
        for library in libraries:
            library.T.cuda.empty_cache()
        say(end=name, result=one(entry, libraries))
    say(finished=True)


def _simulated() -> str:
    return os.environ.get("TENSORLIB_TEST_SIMULATED", "")


@contextlib.contextmanager
def machine() -> Iterator[None]:
    """The GPUs of this machine; with TENSORLIB_TEST_SIMULATED the simulated driver, whose kernels do nothing."""
    if not _simulated():
        yield
        return
    sys.path.insert(0, str(ROOT / "tests"))
    with importlib.import_module("simulated").simulated(_simulated(), launcher="none", strict=False):
        yield


# ----------------------------------------------------------------------------------------------------------- the parent


def parent(options: argparse.Namespace) -> int:
    """Drive the measuring process, replace it when it is lost, and write down what it said after every entry."""
    stop = time.monotonic() + options.seconds
    record: dict[str, Any] = {**report.environment(), "simulated": bool(_simulated()), "tiny": options.tiny,
                              "results": {}, "lost": {}, "finished": False}  # fmt: skip
    skip: list[str] = []
    while time.monotonic() < stop:
        running = _one_child(options, record, skip, stop)
        if not running:
            break
        skip = [*record["results"], *record["lost"], *(["host"] if "host" in record else []),
                *(name for name in ("copy bandwidth", "ahead") if name in record)]  # fmt: skip
        if len(record["lost"]) > 20:
            break
    text = table(record)
    _write(options.out, record, text)
    if options.out:
        _draw(options.out, record)
    print(text)
    if "gpu" not in record:
        return 3
    failed = record["lost"] or any("error" in r.get("tensorlib", {}) for r in record["results"].values())
    return 1 if failed else 0 if record["finished"] else 2


def _one_child(options: argparse.Namespace, record: dict[str, Any], skip: list[str], stop: float) -> str:
    """Run a measuring process to its end. Returns the entry it was lost in, "" when there is nothing more to do."""
    read, write = os.pipe()
    command = [*options.measure, "--channel", str(write), "--only", options.only]
    command += ["--ahead", f"{min(AHEAD, 0.3 * (stop - time.monotonic())):.0f}"]
    command += ["--tiny"] * options.tiny + ["--skip", *skip]
    running = "start"
    with tempfile.TemporaryFile() as log, subprocess.Popen(
        command, pass_fds=(write,), stdin=subprocess.DEVNULL, stdout=log, stderr=log
    ) as process:  # fmt: skip
        os.close(write)
        os.set_blocking(read, False)
        rest, heard = b"", time.monotonic()
        while True:
            try:
                piece = os.read(read, 1 << 16)
                if not piece:
                    break
            except BlockingIOError:
                if time.monotonic() > stop or time.monotonic() - heard > PATIENCE:
                    process.kill()
                    break
                time.sleep(0.02)
                continue
            heard = time.monotonic()
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                message = json.loads(line)
                running = message.get("start", "" if "end" in message else running)
                if _take(record, message):
                    running = ""
                if "end" in message:
                    _write(options.out, record, table(record))
        os.close(read)
        status = process.wait()
        if record["finished"] or "no gpu" in record:
            return ""
        if time.monotonic() > stop:
            return ""
        log.seek(0)
        noise = log.read()[-1500:].decode(errors="replace")
        name = running or "between entries"
        record["lost"][name] = f"the process ended with status {status}, {time.monotonic() - heard:.0f} s after its "
        record["lost"][name] += f"last word\n{noise}"
        return "" if name in ("start", "between entries") else name


def _take(record: dict[str, Any], message: dict[str, Any]) -> bool:
    """Put what the measuring process says where it belongs; whether it was its last word."""
    if "gpu" in message:
        record["gpu"], record["libraries"] = message["gpu"], message["libraries"]
    elif "why_not" in message:
        record["no gpu"] = message["why_not"]
    elif message.get("end") in ("host", "copy bandwidth", "ahead"):
        record[message["end"]] = message["result"]
    elif "end" in message:
        record["results"][message["end"]] = message["result"]
    elif message.get("finished"):
        record["finished"] = True
        return True
    return False


def _write(out: Path | None, record: dict[str, Any], text: str) -> None:
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "bench.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        (out / "bench.txt").write_text(text + "\n")


def _draw(out: Path, record: dict[str, Any]) -> None:
    """bench.png: every entry under the roofs that this run measured."""
    best = peaks(record)
    rows = [
        {"operator": name.split(",")[0].split(" ")[0], "bytes": r["bytes"] or r["flops"] / 1e3, "flops": r["flops"],
         "backward": "both ways" in name, "seconds": {"tensorlib": r["tensorlib"]["device"]}}
        for name, r in record["results"].items() if "device" in r.get("tensorlib", {})
    ]  # fmt: skip
    if rows and best["bytes"]:
        limits = {"bytes": best["bytes"], "flops": {k: v for k, v in best.items() if k != "bytes"}}
        (out / "bench.png").write_bytes(roofline({"device": record["gpu"], "limits": limits, "results": rows}))


def peaks(record: dict[str, Any]) -> dict[str, float]:
    """The best rates of this run: "bytes", and operations by dtype."""
    best = {"bytes": float(record.get("copy bandwidth") or 0.0)}
    for name, result in record["results"].items():
        if name.startswith(("matmul", "copy", "int8 product", "float8 product")):
            kind, amount = (result["dtype"], result["flops"]) if result["flops"] else ("bytes", result["bytes"])
            for library in record.get("libraries", ()):
                seconds = result.get(library, {}).get("device")
                if seconds:
                    best[kind] = max(best.get(kind, 0.0), amount / seconds)
    return best


def table(record: dict[str, Any]) -> str:
    """The results as text."""
    if "gpu" not in record:
        return "NO GPU: nothing was measured. " + " ".join(record.get("no gpu", [])) + "".join(record["lost"].values())
    best = peaks(record)
    versions = record["versions"]
    lines = [
        f"{record['gpu']}{' (simulated driver: the times say nothing)' if record['simulated'] else ''}, "
        f"tensorlib {versions['tensorlib']} at {record['commit'][:12]}, triton {versions.get('triton')}, "
        f"torch {versions.get('torch')}, {record['date']}",
        f"copies of a gigabyte: {best['bytes'] / GB:,.0f} GB/s; products: "
        + (", ".join(f"{d} {r / 1e12:,.0f} TFLOP/s" for d, r in best.items() if d != "bytes") or "not measured"),
        "",
        f"{'the time of the host, µs':62}{'tensorlib':>10}{'torch':>10}{'triton':>10}",
    ]
    for name, times in record.get("host", {}).items():
        lines.append(f"{name:62}" + "".join(_us(times.get(k)) for k in ("tensorlib", "torch", "triton")))
    header = "".join(f"{h:>10}" for h in ("device", "torch", "ratio", "rate", "of peak", "call", "torch", "first s"))
    lines += ["", f"{'µs; rates in GB/s, or TFLOP/s (T)':62}{header}"]
    for name, result in record["results"].items():
        ours, theirs = result.get("tensorlib", {}), result.get("torch", {})
        if "error" in ours:
            lines.append(f"{name:62}  FAILED: {ours['error'][:120]}")
            continue
        seconds, other = ours["device"], theirs.get("device")
        rate, share = _rate(result, seconds, best)
        first = f"{ours['first']:10.2f}"
        lines.append(
            f"{name:62}{_us(seconds)}{_us(other)}{_number(seconds / other if other else None)}{rate}{share}"
            f"{_us(ours.get('call'))}{_us(theirs.get('call'))}{first}"
            + ("  not captured" if "no graph" in ours else "")
        )
        compiled = result.get("torch.compile", {})
        sides = {"tensorlib": ours, "torch": theirs, "torch.compile": compiled}
        if compiled.get("device"):
            lines.append(f"    torch.compile: {_us(compiled['device']).strip()} µs, ratio to it "
                         f"{seconds / compiled['device']:.2f}")  # fmt: skip
        elif compiled:
            lines.append(f"    torch.compile: {compiled.get('error', 'not measured')[:120]}")
        if result["flops"] or "tokens" in result:
            most = {name: t.get("peak memory", 0.0) / GB for name, t in sides.items()}
            text = ", ".join(f"{name} {n:.2f} GB" for name, n in most.items() if n > 0.5)
            lines += [f"    peak memory: {text}"] if text else []
        if "tokens" in result:
            for title, key in (("captured", "device"), ("eager", "call")):
                parts = [f"{name} {result['tokens'] / t[key]:,.0f}" for name, t in sides.items() if t.get(key)]
                lines.append(f"    tokens/s {title}: {', '.join(parts)}")
    for name, why in record["lost"].items():
        lines.append(f"{name:62}  LOST: {why.splitlines()[0]}")
    if not record["finished"]:
        lines.append("\nnot everything was measured: time ran out")
    return "\n".join(lines)


def _rate(result: dict[str, Any], seconds: float, best: dict[str, float]) -> tuple[str, str]:
    """(rate, share of the peak) as text: of bytes or of operations, whichever bounds it here."""
    moved = result["bytes"] / best["bytes"] if best["bytes"] else 0.0
    peak = best.get(result["dtype"], 0.0)
    computed = result["flops"] / peak if peak else 0.0
    if computed > moved or (result["flops"] and not peak and not result["bytes"]):
        return f"{result['flops'] / seconds / 1e12:9.0f}T", f"{100 * computed / seconds:9.0f}%" if peak else f"{'':10}"
    return f"{result['bytes'] / seconds / GB:10.0f}", f"{100 * moved / seconds:9.0f}%"


def _us(seconds: float | None) -> str:
    if seconds is None:
        return f"{'-':>10}"
    return f"{seconds * 1e6:10.2f}" if seconds < 1e-3 else f"{seconds * 1e6:10,.0f}"


def _number(x: float | None) -> str:
    return f"{'-':>10}" if x is None else f"{x:10.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for bench.json, bench.txt and bench.png")
    parser.add_argument("--only", default="", metavar="REGEX", help="entries whose name matches ('host' is one)")
    parser.add_argument("--seconds", type=float, default=900.0, help="for everything (900)")
    parser.add_argument("--tiny", action="store_true", help="sizes of a few elements: whether it runs, not how fast")
    parser.add_argument("--channel", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--ahead", type=float, default=AHEAD, help=argparse.SUPPRESS)
    parser.add_argument("--skip", nargs="*", default=[], help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.measure = [sys.executable, __file__]
    if options.channel is None:
        return parent(options)
    with machine():
        child(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
