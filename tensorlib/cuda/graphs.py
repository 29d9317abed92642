"""Graphs: a stretch of GPU work recorded once and launched again as a whole, for one call of the driver.

What is recorded is addresses, so the tensors that a graph reads and writes are always the same ones: fill its inputs
with ``copy_``, read its outputs where they lie. Memory that is allocated during the capture comes from a pool of the
graph's own. Random numbers are those that the same calls would draw at the time of the replay: an operator that draws
reads its place in the stream from a table on the GPU, which each replay writes first.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from tensorlib import autograd, nn, ops
from tensorlib._array import DeviceArray
from tensorlib._core import Tensor, modes
from tensorlib.cuda.devices import gpu_of, synchronize
from tensorlib.cuda.memory import empty_cache
from tensorlib.cuda.streams import Stream, StreamContext, _on, current_stream
from tensorlib.errors import ArgumentError, CaptureError, DeviceError
from tensorlib.kernels.random import write_draws
from tensorlib.random import Generator
from tensorlib.runtime import driver, gpu
from tensorlib.utils._pytree import tree_flatten, tree_unflatten

__all__ = ["CUDAGraph", "graph", "graph_pool_handle", "is_current_stream_capturing", "make_graphed_callables"]

_MODES = ("global", "thread_local", "relaxed")
_ROWS = 256  # draws that one table of a graph holds
_pools = itertools.count(1)


def is_current_stream_capturing() -> bool:
    """Whether this thread's work on the current GPU is being recorded into a graph."""
    return gpu.kind() is not None and bool(gpu.used()) and current_stream().is_capturing()


def graph_pool_handle() -> tuple[int, int]:
    """The name of a new pool of memory, which graphs captured with ``pool=`` share."""
    return 0, next(_pools)


class _Draws:
    """What a graph draws from one generator: draw ``i`` reads row ``i % _ROWS`` of table ``i // _ROWS``."""

    def __init__(self, generator: Generator, seed: int, first: int) -> None:
        self.generator, self.seed = generator, seed
        self.first = first  # the generator's offset when the capture began
        self.count = 0
        self.tables: dict[int, DeviceArray] = {}  # each (_ROWS, 2): seed and offset

    def row(self, i: int, owner: gpu.GPU) -> DeviceArray:
        """The two numbers that draw ``i`` reads."""
        number, row = divmod(i, _ROWS)
        table = self.tables.get(number)
        if table is None:  # not by `empty`, whose poison would be recorded
            ptr, block = owner.allocate(_ROWS * 2 * 8)
            table = DeviceArray(ptr, (_ROWS, 2), (2, 1), np.dtype(np.int64), owner.device, block)
            self.tables[number] = table
        self.count = max(self.count, i + 1)
        return table[row]

    def give_back(self) -> None:
        """Put the generator where it stood: what was recorded is drawn at the replays."""
        self.count = max(self.count, self.generator._give_back(self.seed, self.first))

    def advance(self) -> None:
        """Write the tables from the generator's state, which then is behind the draws of this replay."""
        seed, first = self.generator._take(self.count)
        for number, table in self.tables.items():
            write_draws(table, seed, first + number * _ROWS)


class _Capture:
    """A capture while it goes on: the runtime sees that the thread captures, and keeps here what must stay alive."""

    def __init__(self, owner: gpu.GPU) -> None:
        self.gpu = owner
        self.keep: list[Any] = []
        self.draws: dict[int, _Draws] = {}  # by the generator's id

    def records(self, operands: Sequence[Any], attrs: dict[str, Any]) -> bool:
        """Whether an operator on these operands, or that makes a tensor from nothing, runs on the capturing GPU."""
        device: Any = None
        for x in operands:
            if isinstance(x, Tensor):
                device = x.device  # type: ignore[attr-defined]
                break
        else:
            device = attrs.get("device") or modes.device
        return device is not None and device.type in ("cuda", "hip") and gpu.resolve(device) is self.gpu.device

    def draw(self, generator: Generator, seed: int, offset: int) -> tuple[DeviceArray, DeviceArray]:
        """A draw as the operator will read it at each replay: seed and offset, one-element arrays on the GPU."""
        if type(offset) is not int:
            raise CaptureError(
                "a random operator: vmap(randomness='different') draws on the host for each element, which a graph "
                "cannot repeat: expected randomness='same', or numbers drawn outside of vmap"
            )
        found = self.draws.get(id(generator))
        if found is None:
            found = self.draws[id(generator)] = _Draws(generator, seed, offset)
        row = offset - found.first
        if seed != found.seed or row < 0:
            raise CaptureError(
                "a random operator: the generator was seeded or set back while a graph is captured: seed it before; "
                "a replay continues the generator where it then stands"
            )
        numbers = found.row(row, self.gpu)
        return numbers[0], numbers[1]


class CUDAGraph:
    """Recorded GPU work: ``with tensorlib.cuda.graph(g): ...`` records it, ``g.replay()`` does it again.

    keep_graph: keep what was recorded as the driver has it (``raw_cuda_graph``), and make it launchable only at
    ``instantiate`` or the first ``replay``. Graphs are of the device and the addresses that were captured.
    """

    def __init__(self, keep_graph: bool = False) -> None:
        self._keep_graph, self._debug = keep_graph, False
        self._gpu: gpu.GPU | None = None
        self._graph: driver.Graph | None = None
        self._exec: driver.GraphExec | None = None
        self._capture: _Capture | None = None
        self._stream: Stream | None = None
        self._draws: list[_Draws] = []
        self._kept: list[Any] = []
        self._pool: tuple[int, int] | None = None

    def capture_begin(
        self,
        pool: tuple[int, int] | None = None,
        capture_error_mode: str = "global",
        check_input_liveness: bool = False,
    ) -> None:
        """Record this thread's work on the current stream from now on. Called by ``graph``.

        DeviceError on the default stream, and where this graph holds a recording already (``reset`` drops it).
        """
        if check_input_liveness:
            raise ArgumentError(
                "check_input_liveness=True: expected False: a graph here does not know the tensors that it reads; "
                "keep them alive while it is replayed"
            )
        if capture_error_mode not in _MODES:
            raise ArgumentError(
                f"Unknown capture error mode. Expected `global`, `thread_local`, or `relaxed`, got {capture_error_mode}"
            )
        if self._gpu is not None:
            raise DeviceError(
                "This CUDAGraph instance already owns a captured graph. To capture a new graph, create a new instance "
                "or call reset() on it"
            )
        owner, stream = gpu_of(None), current_stream()
        if not stream.cuda_stream:
            raise DeviceError(
                "CUDA graphs must be captured on a non-default stream. (However, after capture, it's ok to replay them "
                "on the default stream.) tensorlib.cuda.graph(g) chooses one"
            )
        if owner.local.capture is not None:
            raise CaptureError("capture_begin: this thread captures a graph already: end that one first")
        handle, me = pool or (next(_pools), 0), threading.get_ident()
        capture = _Capture(owner)
        owner.memory.begin_pool(handle, lambda stream: threading.get_ident() == me)
        try:
            _on(owner).capture_begin(stream.cuda_stream, capture_error_mode)
        except BaseException:
            owner.memory.end_pool(handle)
            owner.memory.release_pool(handle)
            raise
        self._gpu, self._pool, self._capture, self._stream = owner, handle, capture, stream
        owner.local.capture = modes.capture = capture
        gpu.captures[0] += 1

    def capture_end(self) -> None:
        """End the recording. DeviceError where the driver could not record what was done; the graph is empty then."""
        try:
            self._graph = self._stop()
            if not self._keep_graph:
                self.instantiate()
        except BaseException:
            self.reset()
            raise

    def _stop(self) -> driver.Graph:
        """The recording as the driver has it; the thread works as before."""
        owner, capture, stream = self._gpu, self._capture, self._stream
        if owner is None or capture is None or stream is None:
            raise DeviceError("capture_end: no capture was begun on this graph")
        self._capture = self._stream = None
        owner.local.capture = modes.capture = None
        gpu.captures[0] -= 1
        try:
            for draws in capture.draws.values():
                draws.give_back()
            self._draws, self._kept = list(capture.draws.values()), capture.keep
        finally:
            try:
                made = driver.Graph(owner.driver, owner.index, _on(owner).capture_end(stream.cuda_stream))
            finally:
                owner.memory.end_pool(self._pool)
        return made

    def _abandon(self) -> None:
        """End a recording in which something failed, and drop it."""
        with contextlib.suppress(DeviceError):  # the driver says again that the capture is not valid
            self._stop()
        self.reset()

    def instantiate(self) -> None:
        """Make the recording launchable. Called by ``capture_end``, or with ``keep_graph`` by the first ``replay``."""
        if self._graph is None or self._gpu is None:
            raise DeviceError("instantiate: called without a preceding successful capture")
        owner = self._gpu
        self._exec = driver.GraphExec(owner.driver, owner.index, _on(owner).graph_instantiate(self._graph.handle))
        if not (self._keep_graph or self._debug):
            self._graph = None

    def replay(self) -> None:
        """Do the recorded work again, on the current stream, with the random numbers that come now."""
        if self._exec is None and self._graph is not None:
            self.instantiate()
        if self._exec is None or self._gpu is None:
            raise DeviceError("Called CUDAGraph.replay without a preceding successful capture.")
        for draws in self._draws:
            draws.advance()
        owner = self._gpu
        _on(owner).graph_launch(self._exec.handle, owner.stream)

    def reset(self) -> None:
        """Drop the recording, and give the memory of its pool back where nothing else uses it."""
        if self._capture is not None:
            self._abandon()
            return
        owner, pool = self._gpu, self._pool
        self._gpu = self._pool = self._graph = self._exec = None
        self._draws, self._kept = [], []
        if owner is not None and pool is not None:
            owner.memory.release_pool(pool)

    def __del__(self) -> None:
        # At the interpreter's end the modules that this needs may be gone.
        with contextlib.suppress(Exception):
            self.reset()

    def pool(self) -> tuple[int, int]:
        """The name of the pool of its memory, for ``pool=`` of another capture that shares it."""
        if self._pool is None:
            raise DeviceError("Called CUDAGraph.pool() without a preceding successful capture.")
        return self._pool

    def enable_debug_mode(self) -> None:
        """Keep the recording for ``debug_dump``: to be called before the capture."""
        self._debug = True

    def debug_dump(self, debug_path: str) -> None:
        """Write the recording to a file in Graphviz's format; ``enable_debug_mode`` comes before the capture."""
        if self._graph is None or self._gpu is None:
            warnings.warn(
                "CUDA Graphs debug not enabled, set with CUDAGraph::enable_debug_mode() before the capture",
                stacklevel=2,
            )
            return
        _on(self._gpu).graph_debug_dot(self._graph.handle, str(debug_path))

    def raw_cuda_graph(self) -> int:
        """The driver's handle of the recording, with ``keep_graph=True``."""
        if self._graph is None or not self._keep_graph:
            raise DeviceError(
                "You cannot access the raw cudaGraph_t instance unless CUDAGraph was initialized with keep_graph=True"
            )
        return self._graph.handle

    def raw_cuda_graph_exec(self) -> int:
        """The driver's handle of the launchable graph."""
        if self._exec is None:
            raise DeviceError("raw_cuda_graph_exec: the graph is not instantiated: call instantiate() first")
        return self._exec.handle


class graph:
    """Record the block's GPU work: ``with tensorlib.cuda.graph(g): ...``, then ``g.replay()``.

    On a side stream, after the GPU is done and Python's garbage is collected. pool: the name of a pool to share. An
    exception inside the block ends the capture, and the graph is empty then. What the host would have to wait for
    (``item()``, ``numpy()``, printing, `if tensor:`, operators whose result's shape depends on data) is a CaptureError.
    """

    default_capture_stream: Stream | None = None

    def __init__(
        self,
        cuda_graph: CUDAGraph,
        pool: tuple[int, int] | None = None,
        stream: Stream | None = None,
        capture_error_mode: str = "global",
        enable_annotations: bool = False,
        check_input_liveness: bool = False,
    ) -> None:
        if enable_annotations:
            raise ArgumentError("graph: enable_annotations=True: expected False: kernels are not annotated here")
        self.cuda_graph, self.pool = cuda_graph, pool
        self.capture_error_mode, self.check_input_liveness = capture_error_mode, check_input_liveness
        if stream is None:
            kept = graph.default_capture_stream
            if kept is None or kept._gpu is not gpu_of(None):
                kept = graph.default_capture_stream = Stream()
            stream = kept
        self.capture_stream = stream
        self._context = StreamContext(stream)

    def __enter__(self) -> None:
        synchronize()
        gc.collect()
        empty_cache()
        self._context.__enter__()
        try:
            self.cuda_graph.capture_begin(self.pool, self.capture_error_mode, self.check_input_liveness)
        except BaseException:
            self._context.__exit__(None, None, None)
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is None:
                self.cuda_graph.capture_end()
            else:
                self.cuda_graph._abandon()
        finally:
            self._context.__exit__(kind, error, at)


# ---------------------------------------------------------------------------------------------- functions as graphs


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    for value in values:
        if not isinstance(value, Tensor):
            raise TypeError(
                "In the beta API, sample_args for each callable must contain only Tensors. Other types are not allowed."
            )
    return list(values)


class _Graphed:
    """One function: its forward graph, its backward graph, and the tensors that they read and write."""

    def __init__(self, function: Callable[..., Any], sample: Any, pool: tuple[int, int]) -> None:
        self.function, self.pool = function, pool
        flat, self.structure = tree_flatten(sample)
        self.inputs = _tensors(flat)
        self.module_params: list[Tensor] = (
            [p for p in function.parameters() if p.requires_grad] if isinstance(function, nn.Module) else []
        )
        self.surface = (*self.inputs, *self.module_params)
        self.forward_graph, self.backward_graph = CUDAGraph(), CUDAGraph()

    def warm_up(self, times: int, allow_unused: bool) -> None:
        """Run forward and backward, so that kernels are compiled and nothing is done for the first time later."""
        wanted = [t for t in self.surface if t.requires_grad]
        for _ in range(times):
            outputs = [o for o in tree_flatten(self._call())[0] if o.requires_grad]
            if outputs:
                ones = tuple(ops.ones_like(o) for o in outputs)
                autograd.grad(tuple(outputs), tuple(wanted), ones, allow_unused=allow_unused)

    def _call(self) -> Any:
        return self.function(*tree_unflatten(self.inputs, self.structure))

    def capture_forward(self) -> None:
        """Record the forward pass."""
        with graph(self.forward_graph, pool=self.pool):
            outputs = self._call()
        flat, self.output_structure = tree_flatten(outputs)
        self.outputs = _tensors(flat)

    def capture_backward(self, allow_unused: bool) -> None:
        """Record the gradients of the inputs and parameters for gradients of the outputs."""
        self.gradients_in = [ops.empty_like(o) if o.requires_grad else None for o in self.outputs]
        wanted = [t for t in self.surface if t.requires_grad]
        outputs = tuple(o for o in self.outputs if o.requires_grad)
        found: Iterator[Any] = iter(())
        if outputs:
            with graph(self.backward_graph, pool=self.pool):
                grads = autograd.grad(
                    outputs, tuple(wanted), tuple(g for g in self.gradients_in if g is not None),
                    allow_unused=allow_unused,
                )  # fmt: skip
            found = iter(grads)
        self.gradients = [next(found, None) if t.requires_grad else None for t in self.surface]
        # The recorded history is the backward graph's: what callers get has that of _Replayed.
        self.outputs = [o.detach() for o in self.outputs]

    def __call__(self, *args: Any) -> Any:
        flat = tree_flatten(args)[0]
        if len(flat) != len(self.inputs):
            raise ArgumentError(
                f"make_graphed_callables: got {len(flat)} tensors, the graph was captured with {len(self.inputs)}"
            )
        out = _Replayed.apply(self, *flat, *self.module_params)
        return tree_unflatten(list(out) if isinstance(out, tuple) else [out], self.output_structure)


class _Replayed(autograd.Function):
    """The graphs of a function as one differentiable operator."""

    @staticmethod
    def forward(ctx: Any, graphed: _Graphed, *values: Any) -> Any:
        """Fill the inputs and replay the forward graph."""
        ctx.graphed = graphed
        for mine, theirs in zip(graphed.inputs, values, strict=False):
            if mine.data_ptr() != theirs.data_ptr():
                mine.copy_(theirs)
        graphed.forward_graph.replay()
        return tuple(o.detach() for o in graphed.outputs)

    @staticmethod
    @autograd.once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        """Fill the gradients of the outputs and replay the backward graph."""
        graphed = ctx.graphed
        for mine, theirs in zip(graphed.gradients_in, grads, strict=True):
            if mine is not None and theirs is not None and mine.data_ptr() != theirs.data_ptr():
                mine.copy_(theirs)
        graphed.backward_graph.replay()
        return (None, *(g.detach() if g is not None else None for g in graphed.gradients))


def make_graphed_callables(
    callables: Any, sample_args: Any, num_warmup_iters: int = 3, allow_unused_input: bool = False, pool: Any = None
) -> Any:
    """Functions or modules whose forward and backward passes are each one graph: one, or a tuple of them.

    sample_args: a tuple of tensors like those of the calls to come, in shape, dtype, device and requires_grad (a tuple
    of such tuples for several callables, in the order in which they will be called). A graphed module is the module
    itself with a graphed ``forward``, in training mode as it was captured; in the other mode it runs as before. The
    results of a call are overwritten by the next one.
    """
    if modes.autocast is not None and modes.autocast.caching:
        raise RuntimeError(
            "make_graphed_callables does not support the autocast caching. Please set `cache_enabled=False`."
        )
    one = not isinstance(callables, tuple)
    functions = (callables,) if one else callables
    samples = (sample_args,) if one else sample_args
    if len(functions) != len(samples):
        raise ArgumentError(f"make_graphed_callables: got {len(functions)} callables and {len(samples)} sample_args")
    for function in functions:
        if isinstance(function, nn.Module):
            if function._backward_hooks or function._forward_hooks or function._forward_pre_hooks:
                raise AssertionError(
                    "Modules must not have hooks registered at the time they are passed. However, registering hooks on "
                    "modules after passing them through make_graphed_callables is allowed."
                )
            if any(b.requires_grad for b in function.buffers()):
                raise AssertionError("In any Module passed to make_graphed_callables(), buffers must not require grad.")
    handle = graph_pool_handle() if pool is None else pool
    made = [_Graphed(f, s, handle) for f, s in zip(functions, samples, strict=True)]
    synchronize()
    with StreamContext(Stream()):
        for graphed in made:
            graphed.warm_up(num_warmup_iters, allow_unused_input)
    synchronize()
    # Forward passes in the order of the calls, backward passes in reverse: as the pool's memory will be used.
    for graphed in made:
        graphed.capture_forward()
    for graphed in reversed(made):
        graphed.capture_backward(allow_unused_input)
    out = tuple(_as_given(g) for g in made)
    return out[0] if one else out


def _as_given(graphed: _Graphed) -> Any:
    """The graphed function, or the module with a graphed ``forward``."""
    module = graphed.function
    if not isinstance(module, nn.Module):
        return graphed
    training, plain = module.training, module.forward

    def forward(*args: Any) -> Any:
        return graphed(*args) if module.training == training else plain(*args)

    module.forward = forward  # type: ignore[method-assign]
    return module
