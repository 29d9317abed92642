"""tensorlib on a GPU, beside PyTorch where it is installed: kernels, whole operators, the host's share, training steps.

    python bench/gpu.py [--out DIR] [--only REGEX] [--seconds S] [--tiny]

Both libraries with their default settings, in one process, in turns. Three times for each entry and library:

device   of one call replayed as a graph, by events, median; the L2 cache is overwritten before each. No host in it.
call     of one eager call among many, host included: what a loop of such calls costs. The cache is warm.
first    of the first call of all: compilation, tuning, loading.

Ratios are tensorlib's device time over PyTorch's: below 1 is faster. "of peak" compares with what this run itself
measured: the best copy of a gigabyte for what moves bytes, the best large product of that dtype by either library for
what multiplies. The measuring process is replaced when an entry takes it down, and goes on with the next one.

Writes bench.json (with GPU, driver, versions, commit, date, command) and bench.txt. Exit status: 0 all was measured,
1 some entries failed, 2 time ran out, 3 there is no GPU. torch is a peer here, never a dependency.
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
from tensorlib._device import device as Device  # noqa: E402
from tensorlib.op import jit, launch  # noqa: E402
from tensorlib.runtime import gpu  # noqa: E402

GB = 1e9
#: Seconds that one entry may take in one library, compilation not counted.
SECONDS = 0.25
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


# -------------------------------------------------------------------------------------------------------- the libraries


class Library:
    """One of the two: its module, and how to time with it."""

    def __init__(self, T: Any, tiny: bool) -> None:
        self.T, self.name = T, T.__name__
        self.tiny = tiny
        size = 1 << 16 if tiny else max(128 << 20, 2 * _l2())
        self._flushed = T.empty(size, dtype=T.uint8, device="cuda")

    def flush(self) -> None:
        """Overwrite the L2 cache, without waiting for it."""
        if self.T is tensorlib:
            engine = _engine()
            array = self._flushed._array
            engine.driver.fill(array.ptr, 0, array.nbytes, engine.stream)
        else:
            self._flushed.zero_()

    def captured(self, call: Callable[[], Any]) -> Callable[[], Any]:
        """The call as the replay of a graph."""
        cuda = self.T.cuda
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            for _ in range(2):
                call()
        cuda.current_stream().wait_stream(side)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            kept = call()
        graph.kept = kept  # its memory is the graph's
        return graph.replay

    def device_times(self, call: Callable[[], Any], seconds: float) -> list[float]:
        """Seconds of single calls by events, the cache overwritten before each."""
        Event, synchronize = self.T.cuda.Event, self.T.cuda.synchronize
        times: list[float] = []
        stop = time.perf_counter() + seconds
        while len(times) < (2 if self.tiny else 10) or time.perf_counter() < stop:
            pairs = []
            for _ in range(2 if self.tiny else 10):
                begin, end = Event(enable_timing=True), Event(enable_timing=True)
                self.flush()
                begin.record()
                call()
                end.record()
                pairs.append((begin, end))
            synchronize()
            times.extend(begin.elapsed_time(end) * 1e-3 for begin, end in pairs)
            if self.tiny:
                break
        return times

    def call_time(self, call: Callable[[], Any], seconds: float) -> float:
        """Seconds of one eager call among many, until all of them are done."""
        synchronize = self.T.cuda.synchronize
        synchronize()
        n, spent = 1, 0.0
        while True:
            start = time.perf_counter()
            for _ in range(n):
                call()
            synchronize()
            spent = time.perf_counter() - start
            if self.tiny or spent > seconds / 2 or n >= 1 << 14:
                return spent / n
            n = min(1 << 14, max(2 * n, int(n * 0.6 * seconds / max(spent, 1e-9))))

    def host_time(self, call: Callable[[], Any], burst: int = 200) -> float:
        """Seconds the host spends on one call: bursts short enough that the GPU's queue never fills, the fastest."""
        synchronize = self.T.cuda.synchronize
        times = []
        for _ in range(2 if self.tiny else 30):
            synchronize()
            start = time.perf_counter()
            for _ in range(2 if self.tiny else burst):
                call()
            times.append((time.perf_counter() - start) / (2 if self.tiny else burst))
        synchronize()
        return min(times)


def _engine() -> Any:
    return gpu.gpu(Device("cuda", 0))


def _l2() -> int:
    return int(_engine().properties.L2_cache_size)


def tensors(T: Any, dtype: str, *shapes: tuple[int, ...], grad: bool = False) -> list[Any]:
    """Random normal tensors on the GPU: never zeros, which run faster."""
    found = [T.randn(*shape, device="cuda").to(getattr(T, dtype)) for shape in shapes]
    return [x.requires_grad_() for x in found] if grad else found


def integers(T: Any, high: int, *shape: int) -> Any:
    return T.from_numpy(np.random.default_rng(1).integers(0, high, shape)).to("cuda")


def backward(T: Any, function: Callable[..., Any], inputs: list[Any]) -> Callable[[], Any]:
    """Forward and the gradients of all floating-point inputs."""
    wanted = [t for t in inputs if t.requires_grad]
    with T.no_grad():
        seed = T.randn_like(function(*inputs))
    return lambda: T.autograd.grad(function(*inputs), wanted, seed)


# ---------------------------------------------------------------------------------------------------------- the entries


SIZES = {"float32": 4, "bfloat16": 2, "float16": 2, "tf32": 4}


def _both(name: str, dtype: str, shapes: list[tuple[int, ...]], function: Callable[[Any], Callable[..., Any]],
          forward_bytes: float, backward_bytes: float, flops: float = 0.0, backward_flops: float = 0.0,
          extra: Callable[[Any], list[Any]] | None = None) -> Iterator[Entry]:  # fmt: skip
    """An operator forward, and forward with backward: ``function(T)`` of tensors of ``shapes``, and of ``extra(T)``."""

    def plain(T: Any) -> Callable[[], Any]:
        inputs, f, more = tensors(T, dtype, *shapes), function(T), extra(T) if extra else []
        return lambda: f(*inputs, *more)

    def both(T: Any) -> Callable[[], Any]:
        more = extra(T) if extra else []
        f = function(T)
        return backward(T, lambda *a: f(*a, *more), tensors(T, dtype, *shapes, grad=True))

    yield Entry(name, plain, forward_bytes, flops, dtype)
    yield Entry(f"{name}, both ways", both, forward_bytes + backward_bytes, flops + backward_flops, dtype)


def entries(tiny: bool) -> Iterator[Entry]:
    """Everything that is measured, in order of importance: time may run out."""

    def size(full: int, small: int = 16) -> int:
        return small if tiny else full

    yield from _training(size, tiny)
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


Size = Callable[..., int]


def _elementwise(dtype: str, size: Size) -> Iterator[Entry]:
    n, e = size(1 << 26), SIZES[dtype]
    yield Entry(f"copy {n}", lambda T: (lambda x, y: lambda: y.copy_(x))(*tensors(T, dtype, (n,), (n,))), 2.0 * n * e,
                dtype=dtype)  # fmt: skip
    yield Entry(f"add {n}", lambda T: (lambda x, y: lambda: x + y)(*tensors(T, dtype, (n,), (n,))), 3.0 * n * e,
                dtype=dtype)  # fmt: skip
    yield Entry(f"exp {n}", lambda T: (lambda x: lambda: x.exp())(*tensors(T, dtype, (n,))), 2.0 * n * e, dtype=dtype)
    yield from _both(f"gelu {n}", dtype, [(n,)], lambda T: T.nn.functional.gelu, 2.0 * n * e, 3.0 * n * e)
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
            lambda T, n=n: lambda x, w: T.nn.functional.rms_norm(x, (n,), w), 2 * b, 3 * b,
        )  # fmt: skip
    m, n = size(8192), size(50257, 50)
    b = 1.0 * m * n * e
    yield from _both(f"cross_entropy {m}×{n}", dtype, [(m, n)], lambda T: T.nn.functional.cross_entropy, b, 2 * b,
                     extra=lambda T: [integers(T, n, m)])  # fmt: skip


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
        params = list(gpt2.gpt(T, shape).to("cuda").parameters())
        for p in params:
            p.grad = tensors(T, "float32", tuple(p.shape))[0]
        optimizer = T.optim.AdamW(params, lr=1e-4, **options)
        return lambda: optimizer.step()

    n = _parameters(shape)
    yield Entry(f"AdamW, {n / 1e6:.0f}M parameters of GPT-2", make, 28.0 * n, captured=partial(make, capturable=True))


def _parameters(shape: gpt2.Shape) -> int:
    layers, width, _, length, vocabulary = shape
    return layers * (12 * width**2 + 13 * width) + 2 * width + (2 * vocabulary + length) * width


def _training(size: Size, tiny: bool) -> Iterator[Entry]:
    shape = gpt2.Shape(1, 16, 2, 8, 32) if tiny else gpt2.GPT2
    batch = size(16, 2)
    tokens = batch * shape.length

    def make(T: Any, **options: Any) -> Callable[[], Any]:
        T.manual_seed(0)
        F, model = T.nn.functional, gpt2.gpt(T, shape).to("cuda")
        optimizer = T.optim.AdamW(model.parameters(), lr=1e-4, **options)
        ids = integers(T, shape.vocabulary, batch, shape.length + 1)
        x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

        def step() -> Any:
            optimizer.zero_grad(set_to_none=True)
            with T.autocast("cuda", dtype=T.bfloat16, cache_enabled=False):
                loss = F.cross_entropy(model(x).view(-1, shape.vocabulary), y.view(-1))
            loss.backward()
            optimizer.step()
            return loss.detach()

        return step

    yield Entry(f"training step, GPT-2 124M, {batch}×{shape.length}, bfloat16", make,
                flops=gpt2.gpt_flops(shape, tokens), dtype="bfloat16", tokens=tokens,
                captured=partial(make, capturable=True))  # fmt: skip


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
    engine = _engine()
    n = (1 << 16) if library.tiny else min(1 << 30, engine.driver.memory_info()[0] // 8)
    x, y = (tensorlib.empty(n, dtype=tensorlib.uint8, device="cuda")._array for _ in range(2))
    call = lambda: engine.driver.copy(y.ptr, x.ptr, n, engine.stream)  # noqa: E731
    call()
    return 2 * n / median(library.device_times(call, SECONDS))


def one(entry: Entry, libraries: list[Library]) -> dict[str, Any]:
    """Every time of an entry; the libraries in turns, twice, so that a drift of the clocks shows."""
    result: dict[str, Any] = {"dtype": entry.dtype, "bytes": entry.bytes, "flops": entry.flops}
    if entry.tokens:
        result["tokens"] = entry.tokens
    ready: list[tuple[Library, Callable[[], Any], Callable[[], Any], dict[str, Any]]] = []
    for library in libraries:
        times: dict[str, Any] = {}
        result[library.name] = times
        try:
            start = time.perf_counter()
            call = entry.make(library.T)
            library.T.cuda.synchronize()
            made = time.perf_counter()
            call()
            library.T.cuda.synchronize()
            times["inputs"], times["first"] = made - start, time.perf_counter() - made
            replay = call
            try:
                replay = library.captured(call if entry.captured is None else entry.captured(library.T))
            except Exception as error:
                times["no graph"] = f"{type(error).__name__}: {error}"[:300]
                library.T.cuda.synchronize()
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
                times["peak memory"] = library.T.cuda.max_memory_allocated()
    return result


def child(options: argparse.Namespace) -> None:
    """Measure the entries that are not in --skip; one JSON line each on the channel."""
    channel = os.fdopen(options.channel, "w", buffering=1)

    def say(**message: Any) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    if gpu.kind() is None:
        say(why_not=gpu.why_not())
        return
    libraries = [Library(tensorlib, options.tiny)]
    if importlib.util.find_spec("torch") is not None and not _simulated():
        torch = importlib.import_module("torch")
        if torch.cuda.is_available():
            libraries.append(Library(torch, options.tiny))
    say(gpu=_engine().properties.name, libraries=[x.name for x in libraries])
    if "copy bandwidth" not in options.skip:
        say(start="copy bandwidth")
        say(end="copy bandwidth", result=copy_bandwidth(libraries[0]))
    if "host" not in options.skip and re.search(options.only, "host"):
        say(start="host")
        say(end="host", result=host_costs(libraries))
    for entry in entries(options.tiny):
        name = f"{entry.name}, {entry.dtype}"
        if name in options.skip or not re.search(options.only, name):
            continue
        say(start=name)
        for library in libraries:
            library.T.cuda.empty_cache()
            library.T.cuda.reset_peak_memory_stats()
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
                *(["copy bandwidth"] if "copy bandwidth" in record else [])]  # fmt: skip
        if len(record["lost"]) > 20:
            break
    text = table(record)
    _write(options.out, record, text)
    print(text)
    if "gpu" not in record:
        return 3
    failed = record["lost"] or any("error" in r.get("tensorlib", {}) for r in record["results"].values())
    return 1 if failed else 0 if record["finished"] else 2


def _one_child(options: argparse.Namespace, record: dict[str, Any], skip: list[str], stop: float) -> str:
    """Run a measuring process to its end. Returns the entry it was lost in, "" when there is nothing more to do."""
    read, write = os.pipe()
    command = [*options.measure, "--channel", str(write), "--only", options.only]
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
    elif message.get("end") in ("host", "copy bandwidth"):
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


def peaks(record: dict[str, Any]) -> dict[str, float]:
    """The best rates of this run: "bytes", and operations by dtype."""
    best = {"bytes": float(record.get("copy bandwidth") or 0.0)}
    for name, result in record["results"].items():
        if name.startswith(("matmul", "copy")):
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
        if "tokens" in result:
            for title, key in (("captured", "device"), ("eager", "call")):
                parts = [f"{k} {result['tokens'] / t[key]:,.0f}" for k, t in (("tensorlib", ours), ("torch", theirs))
                         if t.get(key)]  # fmt: skip
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
    parser.add_argument("--out", type=Path, help="folder for bench.json and bench.txt")
    parser.add_argument("--only", default="", metavar="REGEX", help="entries whose name matches ('host' is one)")
    parser.add_argument("--seconds", type=float, default=900.0, help="for everything (900)")
    parser.add_argument("--tiny", action="store_true", help="sizes of a few elements: whether it runs, not how fast")
    parser.add_argument("--channel", type=int, help=argparse.SUPPRESS)
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
