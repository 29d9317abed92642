"""`tensorlib bench`: operators at their declared sizes, timed, beside NumPy and PyTorch, as shares of measured limits.

Which sizes, and how many bytes and operations a call is worth, the declarations say (``bench=``, ``bytes=``,
``flops=``); where one says no bytes, they are those of its operands and results. The limits are measured in the same
run: the best copy for what moves bytes, the best product of that dtype for what multiplies. A share is the time that
these limits allow over the time that it took: small operands live in a cache and pass 100%.

PyTorch is a peer here, never a dependency: it is imported when it is asked for and installed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib
import importlib.util
import inspect
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

import tensorlib
from tensorlib import _picture, report
from tensorlib._device import device as Device
from tensorlib._dtypes import HALF
from tensorlib._samples import Draw, Sample
from tensorlib.errors import ArgumentError, TensorlibError
from tensorlib.op import SPACES, Op, declared, names_in
from tensorlib.runtime.engine import gpus
from tensorlib.testing import cases

#: Operations that one call may have on the CPU: about a second on one core.
MOST_FLOPS = 5e10
#: Elements of a pointwise operator that declares no sizes: what one costs the host, and a long one.
ELEMENTS, GPU_ELEMENTS = (8, 1 << 20), (8, 1 << 26)
DTYPES = ("float32", "bfloat16", "float16", "float64")
#: Operations of forward and backward over those of forward: a product's gradient is two products.
_BOTH_WAYS = {"_attention": 3.5}


# ------------------------------------------------------------------------------------------------------------- the work


class Work(NamedTuple):
    """One call to time: an operator, its arguments, a dtype, and whether its gradients are computed as well."""

    op: Op
    sample: Sample
    dtype: np.dtype[Any]
    backward: bool = False

    @property
    def name(self) -> str:
        """``softmax (4096, 1024), float32, both ways``"""
        way = ", both ways" if self.backward else ""
        return f"{self.op.name.strip('_')} {_sizes(self.sample)}, {self.dtype.name}{way}"


def _sizes(sample: Sample) -> str:
    def show(a: Any) -> str:
        return "×".join(map(str, a.shape)) if isinstance(a, Draw) else " ".join(map(show, a))

    tensors = [a for a in sample.args if isinstance(a, Draw) or (isinstance(a, list) and a and isinstance(a[0], Draw))]
    plain = [f"{k}={v}" for k, v in sample.attrs.items() if isinstance(v, (bool, int, str, tuple)) and v is not False]
    text = ", ".join([" ".join(map(show, tensors)), *plain]).strip(", ")
    return text if len(text) <= 60 else text[:59] + "…"


def sizes(op: Op, elements: Sequence[int] = ()) -> tuple[Sample, ...]:
    """The calls that an operator declares to be timed; of a pointwise one that declares none, one of each length."""
    if op.bench or not op.pointwise:
        return op.bench
    for case in cases.cases(op):
        draws = case.draws()
        if draws and not case.special and len({d.shape for d in draws}) == 1 and draws[0].shape:
            if all(d.kind != "values" for d in draws):
                return tuple(_of_length(case.sample, n) for n in elements)
    return ()


def _of_length(sample: Sample, n: int) -> Sample:
    """The sample with n elements in each of its tensors."""
    args = [replace(a, shape=(n,), layout="contiguous") if isinstance(a, Draw) else a for a in sample.args]
    return replace(sample, args=tuple(args))


def chosen(names: Sequence[str], everything: bool = False) -> list[Op]:
    """The operators of these names; without any, all that declare sizes (``everything``: pointwise ones without, too).

    ArgumentError names what is no operator that can be timed.
    """
    known: dict[str, Op] = {}
    for op in declared():
        if isinstance(op, Op):
            for name in (op.name, op.name.strip("_"), *op.alias, *(n for s in SPACES for n in names_in(op, s))):
                known.setdefault(name, op)
    unknown = [name for name in names if name not in known]
    if unknown:
        near = sorted(n for n in known if unknown[0].strip("_") in n)[:8]
        raise ArgumentError(
            f"bench: {unknown[0]} is no operator{': did you mean ' + ', '.join(near) if near else ''}; "
            f"--list shows those that declare sizes"
        )
    found = [known[name] for name in names] if names else [op for op in declared() if isinstance(op, Op)]
    timed = [op for op in dict.fromkeys(found) if op.bench or ((names or everything) and op.pointwise)]
    without = [op.name for op in found if op not in timed] if names else []
    if without:
        raise ArgumentError(f"bench: {without[0]} declares no sizes: expected bench=[draw(...)] in its declaration")
    return timed


def works(
    ops: Iterable[Op], dtypes: Sequence[str], backward: bool, on_gpu: bool, limit: float = MOST_FLOPS
) -> Iterator[Work]:
    """Every call of these operators: forward, and with ``backward`` both ways where there is a gradient."""
    for op in ops:
        for dtype in dtypes:
            for sample in sizes(op, GPU_ELEMENTS if on_gpu else ELEMENTS):
                work = Work(op, sample, _numpy_dtype(dtype))
                if not on_gpu and op.flops is not None and count(op, op.flops, sample, work.dtype) > limit:
                    continue
                yield work
                if backward and op.vjps is not None and not op.mutates:
                    yield work._replace(backward=True)


def _numpy_dtype(name: str) -> np.dtype[Any]:
    found = getattr(tensorlib, name, None)
    if name not in DTYPES or found is None:
        raise ArgumentError(f"bench: dtype {name}: expected one of {', '.join(DTYPES)}")
    return np.dtype(found.numpy)


def count(op: Op, measure: Callable[..., float], sample: Sample, dtype: Any = np.float32) -> float:
    """Bytes or flops of a call, by the function that its declaration gives: called by the names it asks for."""
    known = {p.name: p.default for p in op.params} | sample.attrs
    known |= dict(zip([p.name for p in op.params], (_shaped(a, dtype) for a in sample.args), strict=False))
    asked = inspect.signature(measure).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in asked):
        return float(measure(**known))
    return float(measure(*[known[p.name] for p in asked if p.kind is not p.VAR_POSITIONAL]))


def _shaped(a: Any, dtype: Any) -> Any:
    """An argument as the counts see it: shape, size and bytes, without memory."""
    if isinstance(a, list):
        return [_shaped(x, dtype) for x in a]
    return np.broadcast_to(np.zeros((), a.dtype or dtype), a.shape) if isinstance(a, Draw) else a


def amounts(work: Work, results: Sequence[Any], gradients: Sequence[Any] = ()) -> tuple[float, float]:
    """(bytes, operations) that a call is worth: as declared, else the bytes of operands and results; 0: not known.

    Both ways: besides, what the gradient rule names is read again, the results' gradients are read, and those of the
    operands written.
    """
    op, sample, dtype = work.op, work.sample, work.dtype
    operands = {p.name: _drawn(a, dtype) for p, a in zip(op.params, sample.args, strict=False)}
    outputs = _nbytes(list(results))
    moved = float(sum(operands.values()) + outputs) if op.bytes is None else count(op, op.bytes, sample, dtype)
    flops = 0.0 if op.flops is None else count(op, op.flops, sample, dtype)
    if work.backward:
        rules = op.vjps.values() if isinstance(op.vjps, dict) else [op.vjps]
        named = {name for rule in rules for name in rule.names}
        moved += sum(n for name, n in operands.items() if name in named)
        moved += outputs * (1 + bool(named & {"out", *op.outputs})) + _nbytes(list(gradients))
        flops *= _BOTH_WAYS.get(op.name, 3.0)
    return moved, flops


def _drawn(a: Any, dtype: np.dtype[Any]) -> int:
    if isinstance(a, list):
        return sum(_drawn(x, dtype) for x in a)
    return math.prod(a.shape) * np.dtype(a.dtype or dtype).itemsize if isinstance(a, Draw) else 0


def _nbytes(a: Any) -> int:
    """Bytes of the elements in memory: what is expanded has them once."""
    if isinstance(a, (list, tuple)):
        return sum(map(_nbytes, a))
    array = getattr(a, "_array", a)
    if not hasattr(array, "strides"):
        return 0
    return math.prod(n for n, s in zip(array.shape, array.strides, strict=True) if s) * int(array.dtype.itemsize)


# -------------------------------------------------------------------------------------------------------- the libraries


class Library:
    """tensorlib or PyTorch: its module, and how to time with it on a device. tiny: whether it runs, not how fast."""

    def __init__(self, module: Any, device: str = "cuda", tiny: bool = False) -> None:
        self.T, self.name, self.device, self.tiny = module, module.__name__, device, tiny
        self.on_gpu = device.startswith(("cuda", "hip"))
        self._flushed = None
        if self.on_gpu:
            size = 1 << 16 if tiny else max(128 << 20, 2 * int(engine().properties.L2_cache_size))
            self._flushed = self.T.empty(size, dtype=self.T.uint8, device=device)

    def tensor(self, array: np.ndarray) -> Any:
        """A tensor of it on the device."""
        T = self.T
        if T is tensorlib:
            return T.from_numpy(array).to(self.device)
        if array.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
            return T.from_numpy(array.astype(np.float32)).to(self.device, getattr(T, array.dtype.name))
        return T.from_numpy(np.array(array)).to(self.device)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.on_gpu:
            self.T.cuda.synchronize()

    def flush(self) -> None:
        """Overwrite a GPU's L2 cache, without waiting for it."""
        if self._flushed is None:
            return
        if self.T is tensorlib:
            array, gpu = self._flushed._array, engine()
            gpu.driver.fill(array.ptr, 0, array.nbytes, gpu.stream)
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
        return graph.replay  # type: ignore[no-any-return]

    def device_times(self, call: Callable[[], Any], seconds: float) -> list[float]:
        """Seconds of single calls on a GPU by events, its cache overwritten before each."""
        Event = self.T.cuda.Event
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
            self.synchronize()
            times.extend(begin.elapsed_time(end) * 1e-3 for begin, end in pairs)
            if self.tiny:
                break
        return times

    def call_time(self, call: Callable[[], Any], seconds: float) -> float:
        """Seconds of one call among many, until all of them are done."""
        self.synchronize()
        n, spent = 1, 0.0
        while True:
            start = time.perf_counter()
            for _ in range(n):
                call()
            self.synchronize()
            spent = time.perf_counter() - start
            if self.tiny or spent > seconds / 2 or n >= 1 << 14:
                return spent / n
            n = min(1 << 14, max(2 * n, int(n * 0.6 * seconds / max(spent, 1e-9))))

    def host_time(self, call: Callable[[], Any], burst: int = 200) -> float:
        """Seconds the host spends on one call: bursts short enough that the GPU's queue never fills, the fastest."""
        times = []
        for _ in range(2 if self.tiny else 30):
            self.synchronize()
            start = time.perf_counter()
            for _ in range(2 if self.tiny else burst):
                call()
            times.append((time.perf_counter() - start) / (2 if self.tiny else burst))
        self.synchronize()
        return min(times)


def engine() -> Any:
    """The GPU in use."""
    return gpus().gpu(Device("cuda", 0))


def in_turns(runs: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Median seconds of each of some calls of the host, in turns, so that a drift of the clock is everybody's."""
    loops = {}
    for name, run in runs.items():
        run()
        start = time.perf_counter()
        run()
        loops[name] = max(1, int(0.01 / max(time.perf_counter() - start, 1e-7))) if seconds else 1
    times: dict[str, list[float]] = {name: [] for name in runs}
    stop = time.perf_counter() + seconds * len(runs)
    while time.perf_counter() < stop or len(next(iter(times.values()))) < (3 if seconds else 1):
        for name, run in runs.items():
            start = time.perf_counter()
            for _ in range(loops[name]):
                run()
            times[name].append((time.perf_counter() - start) / loops[name])
    return {name: median(t) for name, t in times.items()}


# --------------------------------------------------------------------------------------------------------- what is peer


def _peers(torch: Any) -> dict[str, Callable[..., Any]]:
    """PyTorch's call for operators whose public function takes other arguments than the operator itself."""
    F = torch.nn.functional

    def by_rank(name: str) -> Callable[..., Any]:
        return lambda *a, **k: getattr(F, f"{name}{a[0].ndim - 2}d")(*a, **k)

    return {
        "_convolution": by_rank("conv"),
        "_gelu": lambda x, tangent=False: F.gelu(x, approximate="tanh" if tangent else "none"),
        "_max_pool": lambda x, k, s, p, d, ceil_mode=False: F.max_pool2d(x, k, s, p, d, ceil_mode, True),
        "_avg_pool": by_rank("avg_pool"),
        "_adaptive_avg_pool": lambda x, size, adjoint=False: by_rank("adaptive_avg_pool")(x, size),
        "_attention": lambda q, k, v, mask=None, is_causal=False, scale=None: F.scaled_dot_product_attention(
            q, k, v, mask, is_causal=is_causal, scale=scale),
        "_batch_norm": lambda x, w, b, eps: F.batch_norm(x, None, None, w, b, True, 0.1, eps),
        "_embedding": lambda i, w, *_, **__: F.embedding(i, w),
        "_rms_norm": lambda x, w, normalized_shape, eps: F.rms_norm(x, normalized_shape, w, eps),
        "_layer_norm": lambda x, w, b, normalized_shape, eps: F.layer_norm(x, normalized_shape, w, b, eps),
        "_group_norm": lambda x, w, b, num_groups, eps: F.group_norm(x, num_groups, w, b, eps),
        "_var": lambda x, dim, correction: torch.var(x, dim, correction=correction),
        "_topk": torch.topk,
        "_multinomial": lambda x, num_samples, replacement=False: torch.multinomial(x, num_samples, replacement),
        "_randperm": lambda n, dtype, device: torch.randperm(n),
        "vector_norm": torch.linalg.vector_norm,
    }  # fmt: skip


def torch_function(torch: Any, op: Op) -> Callable[..., Any] | None:
    """PyTorch's function of an operator's name; None where it has none that takes these arguments."""
    own = _peers(torch).get(op.name)
    if own is not None:
        return own
    spaces = {"functional": torch.nn.functional, "function": torch, "method": torch.Tensor, "linalg": torch.linalg,
              "fft": torch.fft, "special": torch.special}  # fmt: skip
    for space, place in spaces.items():
        for name in names_in(op, space):
            if hasattr(place, name):
                return getattr(place, name)  # type: ignore[no-any-return]
    plain = op.name.strip("_")
    return next((getattr(p, plain) for p in (torch.nn.functional, torch) if hasattr(p, plain)), None)


def torch_module() -> Any:
    """PyTorch; None where it is not installed."""
    return importlib.import_module("torch") if importlib.util.find_spec("torch") is not None else None


# ------------------------------------------------------------------------------------------------------------ measuring


class Limits(NamedTuple):
    """What the machine was measured to do at best: bytes a second, and operations a second of each dtype."""

    bytes: float
    flops: dict[str, float]

    def share(self, moved: float, flops: float, dtype: str, seconds: float) -> float | None:
        """The share of the nearest limit that a call reaches; None where neither limit is known."""
        peak = self.flops.get(dtype, 0.0)
        least = max(moved / self.bytes if self.bytes else 0.0, flops / peak if peak else 0.0)
        return least / seconds if least and seconds else None


def limits(library: Library, dtypes: Sequence[str] = ("float32",), quick: bool = False) -> Limits:
    """Measured now: a copy of 128 MB (by one thread or all) and products of 1024²; on a GPU a gigabyte and 8192²."""
    flops: dict[str, float] = {}
    if not library.on_gpu:
        n, m, times = (1 << 20, 256, 3) if quick else (1 << 25, 1024, 7)
        source, target = np.ones(n, np.float32), np.ones(n, np.float32)
        with concurrent.futures.ThreadPoolExecutor(_threads()) as pool:
            parts = list(zip(np.array_split(target, _threads()), np.array_split(source, _threads()), strict=True))
            copies = [_seconds(lambda: np.copyto(target, source)) for _ in range(times)]
            copies += [_seconds(lambda: list(pool.map(lambda p: np.copyto(*p), parts))) for _ in range(times)]
        for name in dtypes:
            kind = np.dtype(np.float64 if name == "float64" else np.float32)  # half types compute in float32
            x = np.ones((m, m), kind)
            flops[name] = 2.0 * m**3 / min(_seconds(partial(np.matmul, x, x)) for _ in range(times))
        return Limits(2 * source.nbytes / min(copies), flops)
    gpu = engine()
    n, m = (1 << 16, 64) if library.tiny else (min(1 << 30, gpu.driver.memory_info()[0] // 8), 8192)
    x, y = (tensorlib.empty(n, dtype=tensorlib.uint8, device=library.device)._array for _ in range(2))
    moved = 2 * n / min(library.device_times(lambda: gpu.driver.copy(y.ptr, x.ptr, n, gpu.stream), 0.2))
    for name in dtypes:
        a = library.T.randn(m, m, device=library.device).to(getattr(library.T, name))
        flops[name] = 2.0 * m**3 / min(library.device_times(partial(library.T.matmul, a, a), 0.2))
    return Limits(moved, flops)


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def arguments(work: Work, library: Library) -> tuple[list[Any], dict[str, Any]]:
    """The call's arguments for a library, its tensors on the library's device."""
    def make(a: Any) -> Any:
        if isinstance(a, list):
            return [make(x) for x in a]
        return library.tensor(np.array(a)) if isinstance(a, np.ndarray) else a

    attrs = {k: v for k, v in work.sample.attrs.items() if not (work.op.random and k in ("seed", "offset"))}
    if "device" in attrs:
        attrs["device"] = tensorlib.device(library.device) if library.T is tensorlib else library.device
    if library.T is not tensorlib:
        attrs = {k: getattr(library.T, v.name) if isinstance(v, np.dtype) else v for k, v in attrs.items()}
    return [make(a) for a in work.sample.arrays(work.dtype)], attrs


def prepared(
    work: Work, library: Library, function: Callable[..., Any]
) -> tuple[Callable[[], Any], list[Any], Sequence[Any]]:
    """(the call, the results of its first run, the gradients). Both ways: those of every floating-point operand."""
    args, attrs = arguments(work, library)
    tensors = [t for a in args for t in (a if isinstance(a, list) else [a]) if hasattr(t, "requires_grad_")]
    leaves = [t for t in tensors if t.dtype.is_floating_point] if work.backward else []
    for t in leaves:
        t.requires_grad_()
    first = function(*args, **attrs)
    outs = list(first) if isinstance(first, (list, tuple)) else [first]
    if not work.backward:
        return lambda: function(*args, **attrs), outs, ()
    wanted = [i for i, out in enumerate(outs) if out.requires_grad]
    if not wanted:
        raise TensorlibError(f"{work.op.name} has no gradient")
    seeds = [library.T.ones_like(outs[i]).detach() for i in wanted]

    def both() -> Any:
        again = function(*args, **attrs)
        again = list(again) if isinstance(again, (list, tuple)) else [again]
        return library.T.autograd.grad([again[i] for i in wanted], leaves, seeds, allow_unused=True)

    return both, outs, both()


def measure(
    work: Work, libraries: Sequence[Library], compare: Sequence[str], best: Limits, seconds: float
) -> dict[str, Any]:
    """Time a call by every library that can do it, in turns: a row of the table. What failed says why."""
    row: dict[str, Any] = {"name": work.name, "operator": work.op.name, "dtype": work.dtype.name,
                           "backward": work.backward, "seconds": {}, "errors": {}}  # fmt: skip
    calls: dict[str, Callable[[], Any]] = {}
    where: dict[str, Library] = {}
    shapes: list[Any] = []
    for library in libraries:
        ours = library.T is tensorlib
        function = work.op.public if ours else torch_function(library.T, work.op)
        if function is None:
            continue
        try:
            call, outs, gradients = prepared(work, library, function)
            found = [tuple(o.shape) for o in outs if hasattr(o, "shape")]
            if ours:
                shapes = found
                row["bytes"], row["flops"] = amounts(work, outs, gradients)
            elif found[: len(shapes)] != shapes[: len(found)]:
                raise TensorlibError(f"its result is {found}, ours {shapes}")
            calls[library.name], where[library.name] = call, library
        except Exception as error:
            row["errors"][library.name] = f"{type(error).__name__}: {error}"[:300]
            if ours:
                return row
    if "numpy" in compare and not work.backward and not libraries[0].on_gpu and not work.op.mutates:
        calls["numpy"] = _by_numpy(work)
    if libraries[0].on_gpu:
        for name, call in calls.items():
            try:
                replay = where[name].captured(call)
            except Exception:  # it reads from the GPU, or allocates what a graph may not: timed with the host in it
                where[name].synchronize()
                replay = call
            row["seconds"][name] = median(where[name].device_times(replay, seconds))
    else:
        try:
            row["seconds"] = in_turns(calls, seconds)
        except Exception as error:
            row["errors"]["numpy"] = f"{type(error).__name__}: {error}"[:300]
            row["seconds"] = in_turns({k: v for k, v in calls.items() if k != "numpy"}, seconds)
    row["share"] = best.share(row["bytes"], row["flops"], work.dtype.name, row["seconds"]["tensorlib"])
    return row


def _by_numpy(work: Work) -> Callable[[], Any]:
    """The declaration's NumPy function on plain arrays, half types as float32: no tensors, no dispatch."""
    op = work.op
    args = list(work.sample.arrays(work.dtype))
    if not op.exact:
        args = [a.astype(np.float32) if isinstance(a, np.ndarray) and a.dtype in HALF else a for a in args]
    attrs = dict(work.sample.attrs)
    for name, style in op.styled:
        if style in ("dim", "dims") and name in attrs:
            attrs[name] = _counted(attrs[name], np.ndim(args[0]), style)
        elif style in ("dim", "dims") and op.signature.parameters[name].default is not inspect.Parameter.empty:
            attrs[name] = _counted(op.signature.parameters[name].default, np.ndim(args[0]), style)
    if op.random:
        attrs = {**attrs, "seed": 0, "offset": 0}
    return lambda: op.reference(*args, **attrs)


def _counted(dim: Any, ndim: int, style: str) -> Any:
    """A dim or dims as a body sees them."""
    if style == "dim":
        return None if dim is None else dim % ndim
    if dim is None or dim == ():
        return tuple(range(ndim))
    return tuple(d % ndim for d in (dim if isinstance(dim, tuple) else (dim,)))


def run(
    ops: Sequence[Op], *, device: str = "cpu", dtypes: Sequence[str] = ("float32",), backward: bool = False,
    compare: Sequence[str] = ("numpy", "torch"), seconds: float = 0.2,
    tell: Callable[[dict[str, Any], Limits], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Time operators and return the record: limits, rows. ``tell`` is called with each row as it is made.

    compare: "numpy" (on the CPU), "torch" (where it is installed). seconds: of each library and row.
    """
    where = tensorlib.device(device)
    if where.compile_only or where.type == "interpret":
        raise ArgumentError(f"bench: --device {device} runs nothing at speed: expected cpu, native, cuda or hip")
    ours = Library(tensorlib, device)
    libraries = [ours]
    torch = torch_module() if "torch" in compare else None
    if torch is not None and (not ours.on_gpu or torch.cuda.is_available()):
        libraries.append(Library(torch, "cuda" if ours.on_gpu else "cpu"))
    best = limits(ours, dtypes, quick=seconds < 0.02)
    for other in libraries[1:] if ours.on_gpu else ():  # the best product by either
        peer = limits(other, dtypes)
        best = best._replace(flops={name: max(rate, peer.flops[name]) for name, rate in best.flops.items()})
    rows = []
    for work in works(ops, dtypes, backward, ours.on_gpu):
        row = measure(work, libraries, compare, best, seconds)
        rows.append(row)
        if tell is not None:
            tell(row, best)
    return {"device": device, "limits": {"bytes": best.bytes, "flops": best.flops}, "results": rows}


# -------------------------------------------------------------------------------------------------------------- showing


def header() -> str:
    """The table's first line."""
    columns = ("tensorlib", "NumPy", "PyTorch", "GB/s", "GFLOP/s", "of limit")
    return f"{'':64}" + "".join(f"{c:>11}" for c in columns)


def line(row: dict[str, Any]) -> str:
    """A row as text: times; what is moved and computed a second; the share of the nearest measured limit."""
    times, name = row["seconds"], row["name"]
    name = name if len(name) < 64 else name[:62] + "…"
    if "tensorlib" not in times:
        return f"{name:64}  {next(iter(row['errors'].values()), 'not measured')}"
    seconds = times["tensorlib"]
    cells = [_time(times.get(k)) for k in ("tensorlib", "numpy", "torch")]
    cells.append(f"{row['bytes'] / seconds / 1e9:.1f}" if row["bytes"] else "")
    cells.append(f"{row['flops'] / seconds / 1e9:.1f}" if row["flops"] else "")
    cells.append(f"{100 * row['share']:.0f}%" if row["share"] else "")
    return f"{name:64}" + "".join(f"{c:>11}" for c in cells)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e6:.2f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def save(path: Path, record: dict[str, Any]) -> None:
    """The record as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


_WIDTH, _HEIGHT = 1200, 760
_LEFT, _RIGHT, _TOP, _BOTTOM = 100, 1160, 60, 690
_LEAST = 1 << 16  # bytes of a call that is drawn: under it the time is that of the call itself
_GRID, _ROOF, _POINT, _BACK = (228, 231, 236), (71, 80, 96), (208, 74, 44), (126, 170, 222)


def roofline(record: dict[str, Any]) -> bytes:
    """A PNG: operations a byte to the right, operations a second upwards, both by decades, under the measured roofs.

    What declares no operations counts one for every 4 bytes, an element's worth. Red is forward, blue both ways.
    """
    best = record["limits"]
    rows = [r for r in record["results"] if r.get("bytes", 0) > _LEAST and "tensorlib" in r["seconds"]]
    points = []
    for row in rows:
        flops = row["flops"] or row["bytes"] / 4
        points.append((flops / row["bytes"], flops / row["seconds"]["tensorlib"], row))
    roof = max(best["flops"].values(), default=best["bytes"])
    ridge = roof / best["bytes"]
    x_low, x_high = _decades([p[0] for p in points] + [ridge, 1.0])
    y_low, y_high = _decades([p[1] for p in points] + [roof, best["bytes"] * 10.0**x_low])
    image = np.full((_HEIGHT, _WIDTH, 3), _picture.BACKGROUND, np.float64)

    def place(x: float, y: float) -> np.ndarray:
        along = (math.log10(x) - x_low) / (x_high - x_low), (math.log10(y) - y_low) / (y_high - y_low)
        return np.array([_LEFT + (_RIGHT - _LEFT) * along[0], _BOTTOM - (_BOTTOM - _TOP) * along[1]])

    for decade in range(x_low, x_high + 1):
        column = round(place(10.0**decade, 10.0**y_low)[0])
        image[_TOP:_BOTTOM, column] = _GRID
        _picture.write(image, f"{10.0**decade:g}", column, _BOTTOM + 18, align=0.5)
    for decade in range(y_low, y_high + 1):
        row_at = round(place(10.0**x_low, 10.0**decade)[1])
        image[row_at, _LEFT:_RIGHT] = _GRID
        _picture.write(image, f"{10.0 ** (decade - 9):g}", _LEFT - 10, row_at, align=1.0)
    _picture.write(image, "GFLOP/s", 20, 26, align=0.0)
    text = f"FLOP a byte, on {record['device']}, copies {best['bytes'] / 1e9:.0f} GB/s"
    _picture.write(image, _drawable(text), _RIGHT, _HEIGHT - 18, align=1.0)
    for peak in best["flops"].values():
        start = max(10.0**x_low, 10.0**y_low / best["bytes"])
        corner = [place(start, best["bytes"] * start), place(peak / best["bytes"], peak), place(10.0**x_high, peak)]
        _picture.line(image, np.array(corner), 2.0, _ROOF)
    for x, y, row in points:
        at = place(x, y)
        _picture.line(image, at[None], 7.0, _BACK if row["backward"] else _POINT)
    taken: list[tuple[float, float, float]] = []
    for x, y, row in sorted(points, key=lambda p: -p[1]):  # names where there is room for them
        at, name = place(x, y), _drawable(row["operator"].strip("_").replace("_", " "))
        width = 6 * _picture.PIXEL * len(name)
        if at[0] + width + 12 < _WIDTH and all(abs(at[1] - v) > 16 or at[0] + 8 > u1 or at[0] + 8 + width < u0
                                               for u0, u1, v in taken):  # fmt: skip
            _picture.write(image, name, at[0] + 8, at[1], align=0.0)
            taken.append((at[0] + 8, at[0] + 8 + width, at[1]))
    return _picture.png(np.rint(image).astype(np.uint8))


def _drawable(text: str) -> str:
    """The text without the letters that the font lacks."""
    return "".join(c for c in text if c in _picture.GLYPHS)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """The powers of ten around some numbers."""
    low, high = min(values), max(values)
    return math.floor(math.log10(low) - 0.05), math.ceil(math.log10(high) + 0.05)


# ----------------------------------------------------------------------------------------------------- the command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `tensorlib bench`."""
    parser.add_argument("operators", nargs="*", metavar="OPERATOR", help="by name (all that declare sizes)")
    parser.add_argument("--all", action="store_true", help="pointwise operators without sizes of their own, too")
    parser.add_argument("--list", action="store_true", help="print the operators and their sizes, time nothing")
    parser.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, native, cuda or hip")
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=DTYPES, metavar="NAME",
                        help=f"of {', '.join(DTYPES)} (float32)")  # fmt: skip
    parser.add_argument("--backward", action="store_true", help="also forward with backward, where there is a gradient")
    parser.add_argument("--compare", nargs="*", default=None, choices=("numpy", "torch"), metavar="NAME",
                        help="of numpy (on the CPU) and torch, or none of them (both, where installed)")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=0.2, metavar="S", help="for each call and library (0.2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the record")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a roofline of what was measured, as PNG")


def main(options: argparse.Namespace) -> int:
    """`tensorlib bench`. Exit status: 0 all was timed, 1 some calls failed, 130 it was stopped."""
    ops = chosen(options.operators, options.all)
    device = options.device
    if device == "auto":
        device = "cuda" if gpus().kind() is not None else "cpu"
    if options.list:
        for work in works(ops, options.dtype, False, device.startswith(("cuda", "hip")), math.inf):
            print(work.name)
        return 0
    compare = ("numpy", "torch") if options.compare is None else tuple(options.compare)

    def tell(row: dict[str, Any], best: Limits) -> None:
        if not said:
            record["limits"] = {"bytes": best.bytes, "flops": best.flops}
            rates = ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in best.flops.items())
            print(f"{device}: copies {best.bytes / 1e9:.1f} GB/s; products: {rates}\n{header()}")
        said.append(row)
        print(line(row), flush=True)

    said: list[dict[str, Any]] = []
    record: dict[str, Any] = {"device": device, "limits": {"bytes": 0.0, "flops": {}}, "results": said}
    stopped = False
    try:
        run(ops, device=device, dtypes=options.dtype, backward=options.backward, compare=compare,
            seconds=options.seconds, tell=tell)  # fmt: skip
    except KeyboardInterrupt:
        print("stopped: what is above was measured and is kept", file=sys.stderr)
        stopped = True
    if options.json:
        save(options.json, {**report.environment(), **record})
    if options.plot and said:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        options.plot.write_bytes(roofline(record))
    return 130 if stopped else 1 if any("tensorlib" in row["errors"] for row in said) else 0
