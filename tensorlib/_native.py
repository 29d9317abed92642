"""The native engine behind ``cpu``: which operators run there as machine code instead of NumPy, and from which size on.

Where there is a compiler (`runtime/native/codegen`), an operator of ``least`` runs its Triton kernel, compiled for this
processor, on NumPy's own memory, as soon as an operand or a result has that many elements. The numbers are measured:
those of ``MEASURED`` on the machine it names, those of `tensorlib tune --device cpu` on the user's, kept beside the
compiled kernels. Nothing is timed while a program runs, so that the same program takes the same way, and rounds in the
same way, every time. ``backends.native.enabled = False`` or TENSORLIB_NATIVE=off leaves all to NumPy.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tensorlib import _array, _native_plans
from tensorlib._array import DeviceArray, contiguous_strides
from tensorlib._core import listening, observers
from tensorlib._device import device as Device
from tensorlib._dtypes import bfloat16, float16
from tensorlib._plans import NO_PLAN
from tensorlib.errors import DeviceError
from tensorlib.runtime import engine, environment, tables
from tensorlib.runtime.native import settings

if TYPE_CHECKING:
    from tensorlib.op import Op

ndarray = np.ndarray
_NATIVE = Device("native")
_KINDS = "biufV"  # of the dtypes that kernels know; V: ml_dtypes'

_K = 1 << 10
#: Elements from which the kernel takes clearly less time than the NumPy body, by `tensorlib tune --device cpu` on an
#: Intel Xeon with AVX-512 (Sapphire Rapids), one thread, NumPy 2.4 with OpenBLAS, float32. None below 16 Ki, though
#: many win from 4 Ki on: a program of small tensors should not wait for a compiler.
MEASURED: dict[str, int] = {
    **dict.fromkeys((
        "_attention", "scaled_dot_product_attention_grad", "_attention_mask_grad", "_cross_entropy",
        "cross_entropy_grad", "_dropout", "_normal", "_gelu", "gelu_grad", "_silu", "silu_grad", "sigmoid",
        "logsigmoid", "_mish", "_elu", "_hardswish", "erf", "log1p", "softmax", "softmax_grad", "log_softmax",
        "log_softmax_grad", "_layer_norm", "layer_norm_grad", "_rms_norm", "rms_norm_grad", "cumsum",
        "_cumsum_reversed", "_batch_norm", "batch_norm_grad", "_group_norm", "group_norm_grad", "xlogy", "softplus",
        "_smooth_abs", "cast", "lerp", "_where", "_power", "_threshold", "hardshrink", "_softshrink", "_hardsigmoid",
        "swiglu", "_geglu", "_bce", "hypot", "copysign", "heaviside", "angle", "nextafter", "logaddexp", "logaddexp2",
        "sinc", "special_entr", "special_xlog1py", "logical_and", "logical_or", "logical_xor", "logical_not",
        "bitwise_left_shift", "bitwise_right_shift", "_uniform", "_randint", "_bernoulli", "_multinomial",
        "_searchsorted", "prod", "_var", "_std", "_var_mean", "_std_mean", "logsumexp", "_max_dim", "_min_dim",
        "argmax", "argmin", "cumprod", "_cumprod_reversed", "cummax", "cummin", "logcumsumexp",
    ), 16 * _K),
    # Of these NumPy makes hundreds of passes.
    **dict.fromkeys((
        "erfc", "erfinv", "lgamma", "digamma", "_polygamma_of", "igamma", "igammac", "i0", "special_i0e", "special_i1",
        "special_i1e", "special_bessel_j0", "special_bessel_j1", "special_bessel_y0", "special_bessel_y1",
        "special_modified_bessel_k0", "special_modified_bessel_k1", "special_scaled_modified_bessel_k0",
        "special_scaled_modified_bessel_k1", "special_spherical_bessel_j0", "special_airy_ai", "special_erfcx",
        "special_ndtr", "special_log_ndtr", "special_ndtri", "special_chebyshev_polynomial_t",
        "special_shifted_chebyshev_polynomial_t", "special_chebyshev_polynomial_u",
        "special_shifted_chebyshev_polynomial_u", "special_chebyshev_polynomial_v",
        "special_shifted_chebyshev_polynomial_v", "special_chebyshev_polynomial_w",
        "special_shifted_chebyshev_polynomial_w", "special_hermite_polynomial_h", "special_hermite_polynomial_he",
        "special_laguerre_polynomial_l", "special_legendre_polynomial_p",
    ), 4 * _K),
    **dict.fromkeys((
        "_leaky_relu", "sgn", "exp", "sin", "cos", "relu_grad", "_hardtanh", "addcmul", "_clone",
        "addcdiv", "sign", "softsign", "frac", "_cube", "logit", "log", "atan2", "_gather", "histc", "count_nonzero",
        "sum",
    ), 64 * _K),
    **dict.fromkeys(("adam_", "embedding_grad", "clamp", "_nan_to_num", "amax", "amin"), 256 * _K),
}  # fmt: skip
#: The same of two threads and more, besides: what waits for memory, and NumPy does on one thread. Both are exact.
SHARED: dict[str, int] = dict.fromkeys(
    ("add", "sub", "mul", "true_divide", "neg", "abs", "sqrt", "square", "maximum", "minimum", "_relu",
     "eq", "ne", "lt", "le", "gt", "ge"), 256 * _K,
)  # fmt: skip


#: Elements of half types from which the kernel is faster, which reads and writes them as they are: NumPy widens them
#: first and rounds after, in passes of their own. That holds for all pointwise operators, and for these.
HALVES, LEAST_HALVES = frozenset((
    "softmax", "softmax_grad", "log_softmax", "log_softmax_grad", "_dropout", "vector_norm", "_layer_norm",
    "layer_norm_grad", "_rms_norm", "rms_norm_grad", "_batch_norm", "batch_norm_grad", "_group_norm", "group_norm_grad",
    "add_norm_grad", "_add_layer_norm", "_add_rms_norm", "_cross_entropy", "cross_entropy_grad", "cumsum",
    "_cumsum_reversed", "logsumexp", "sum", "mean", "prod", "amax", "amin", "_max_all", "_min_all", "_max_dim",
    "_min_dim", "argmax", "argmin", "_var", "_std", "swiglu_grad", "geglu_grad",
)), 16 * _K  # fmt: skip
_F16, _BF16 = float16.numpy, bfloat16.numpy


class _Unread(dict[str, int]):
    """Stands in for the numbers until an operator is first looked for: importing the library reads no file."""

    def __contains__(self, name: object) -> bool:
        enable(asked())
        return name in state.least


class _State:
    """Which operators run natively."""

    def __init__(self) -> None:
        #: Elements from which each does, by its name; empty where none does. `_dispatch.execute` looks here.
        self.least: dict[str, int] = _Unread()
        self.made: dict[str, int] | None = None  #: what `enable` made of it, for some number of threads


state = _State()


def available() -> bool:
    """Whether kernels can be compiled for this processor."""
    return engine.codegen().available()


def asked() -> bool:
    """Whether TENSORLIB_NATIVE leaves the engine on."""
    return environment.switch("TENSORLIB_NATIVE", True)


def enable(on: bool) -> None:
    """What ``backends.native.enabled = on`` does. Where it is not available nothing changes."""
    state.least = _table() if on and available() else {}
    state.made = state.least if state.least else None


def least() -> dict[str, int]:
    """Elements from which each operator runs natively; empty where none does."""
    if isinstance(state.least, _Unread):
        enable(asked())
    return state.least


def _again() -> None:
    """The table for another number of threads."""
    if state.least is state.made:
        enable(True)


settings.threads_changed.append(_again)


def _path() -> Any:
    folder = tables.folder()
    return None if folder is None else folder / "cpu-native.json"


def _table() -> dict[str, int]:
    """The user's numbers if they are of this processor, else the library's. A damaged file is told of, not trusted."""
    path, measured = _path(), MEASURED | SHARED if settings.get_num_threads() > 1 else dict(MEASURED)
    if path is None or not path.exists():
        return measured
    try:
        stored = json.loads(path.read_text())
        of, numbers = stored["processor"], {str(name): int(n) for name, n in stored["least"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        warnings.warn(
            f"{path} cannot be read ({type(error).__name__}: {error}): the library's own numbers say which operators "
            f"run natively; `tensorlib tune --device cpu` measures yours again",
            stacklevel=2,
        )
        return measured
    return numbers if of == processor() else measured


def processor() -> str:
    """Which processor numbers were measured on, with its threads."""
    return f"{engine.native().machine.features().text} {os.cpu_count()} processors"


# -------------------------------------------------------------------------------------------------------------- running


class _Span:
    """NumPy's memory as the owner of a DeviceArray: from ``start``, ``nbytes`` long."""

    __slots__ = ("__weakref__", "array", "nbytes", "ptr", "start")

    def __init__(self, array: ndarray, start: int, nbytes: int) -> None:
        self.array = array
        self.start = self.ptr = start
        self.nbytes = nbytes


def _seen(array: ndarray) -> DeviceArray | None:
    """The array as one of the native device; None for one that kernels cannot read."""
    dtype = array.dtype
    if dtype.kind not in _KINDS or not array.flags.aligned or not dtype.isnative:
        return None
    interface = array.__array_interface__
    ptr, size = interface["data"][0], dtype.itemsize
    if interface["strides"] is None:  # contiguous: most are
        shape = interface["shape"]
        return DeviceArray(ptr, shape, contiguous_strides(shape), dtype, _NATIVE, _Span(array, ptr, array.nbytes))
    strides, low, high = [], ptr, ptr + size
    for s, n in zip(array.strides, array.shape, strict=True):
        if s % size:
            return None
        strides.append(s // size)
        if n > 1:
            low, high = (low + s * (n - 1), high) if s < 0 else (low, high + s * (n - 1))
    return DeviceArray(ptr, array.shape, tuple(strides), dtype, _NATIVE, _Span(array, low, high - low))


def _share(arrays: list[DeviceArray]) -> None:
    """Give one owner to arrays that share memory: what the engine goes by."""
    arrays.sort(key=lambda a: a.owner.start)
    last: Any = None
    for a in arrays:
        own = a.owner
        if last is not None and own.start < last.start + last.nbytes:
            last.nbytes = max(last.nbytes, own.start + own.nbytes - last.start)
            a.owner = last
        else:
            last = own


#: Where NumPy goes through memory in strides, along a dim that is not the last.
_ANY_DIM = frozenset(("_max_dim", "_min_dim", "argmax", "argmin", "_var", "_std", "_gather", "logsumexp"))


def _suits(op: Op, arrays: Sequence[Any], attrs: dict[str, Any]) -> bool:
    """Whether the operands are of the kind that was measured: rows along the last dim, attention of many queries,
    a copy that turns dims."""
    first: Any = next((x for x in arrays if type(x) is ndarray), None)
    if first is None:
        return True
    name, dim = op.name, attrs.get("dim")
    if type(dim) is int and dim != first.ndim - 1 and name not in _ANY_DIM:
        return False
    if name == "sum":  # of what is true; of numbers NumPy's is as fast
        return first.dtype.kind == "b"
    if name.startswith("logical_"):
        return first.dtype.kind != "b"
    if op.name == "_attention":
        return first.shape[-2] >= 16
    if op.name == "_clone":
        return not first.flags.c_contiguous
    if op.name == "cast":  # NumPy widens bfloat16 as fast, and is quick with all else
        return first.dtype is _F16 or attrs["dtype"] is _F16 or attrs["dtype"] is _BF16
    if "cross_entropy" in op.name:  # with more dims the classes are not the last
        return all(x.ndim <= 2 for x in arrays if type(x) is ndarray)
    return True


def run(op: Op, arrays: Sequence[Any], attrs: dict[str, Any], specs: Any) -> Sequence[Any] | None:
    """The operator by its kernel on NumPy's arrays; None where NumPy's body is to do it."""
    threshold = state.least[op.name]
    for x in arrays:
        if type(x) is ndarray:
            if x.size >= threshold:
                break
        elif type(x) is list and sum([y.size for y in x]) >= threshold:
            break
    else:
        for shape, _ in specs or ():
            if math.prod(shape) >= threshold:
                break
        else:
            return None
    if not _suits(op, arrays, attrs):
        return None
    try:
        return force(op, arrays, attrs, specs)
    except DeviceError as error:
        _no_compiler(error)
        return None


def halves(op: Op, arrays: Sequence[Any]) -> bool:
    """Whether the kernel is to compute this: its operands are of one half type, and many."""
    if not (op.pointwise or op.name in HALVES) or op.exact or op.kernel is None or not least():
        return False
    dtype, most = None, 0
    for i in range(len(arrays)) if op.promoted is None else op.promoted:
        x = arrays[i]
        if type(x) is ndarray and x.ndim:
            if dtype is None:
                dtype = x.dtype
                if dtype is not _F16 and dtype is not _BF16:
                    return False
            elif x.dtype is not dtype:
                return False
            most = max(most, x.size)
        elif type(x) is list:
            return False
    return most >= LEAST_HALVES


def run_halves(op: Op, arrays: Sequence[Any], attrs: dict[str, Any], specs: Any) -> Sequence[Any] | None:
    """The operator by its kernel on half types, where ``halves`` says so."""
    try:
        return force(op, arrays, attrs, specs)
    except DeviceError as error:
        _no_compiler(error)
        return None


def write(op: Op, arrays: Sequence[Any], attrs: dict[str, Any]) -> bool:
    """An operator that writes into an operand, by its kernel; False where that cannot be."""
    try:
        return force(op, arrays, attrs, None) is not None
    except DeviceError as error:
        _no_compiler(error)
        return False


def _no_compiler(error: DeviceError) -> None:
    """Nothing compiles here: told once."""
    if not isinstance(error, engine.codegen().NoCompiler):
        raise error
    warnings.warn(f"{error}: operators of the CPU run on NumPy alone", stacklevel=3)
    state.least = {}


def force(op: Op, arrays: Sequence[Any], attrs: dict[str, Any], specs: Any) -> Sequence[Any] | None:
    """``run`` whatever the size: by a plan, or by the operator's host function."""
    outs: Any = _native_plans.run(op, arrays, attrs, specs, _by_host)
    return _by_host(op, arrays, attrs, specs) if outs is NO_PLAN else outs


def _by_host(
    op: Op, arrays: Sequence[Any], attrs: dict[str, Any], specs: Any, begin: Callable[..., Any] | None = None
) -> Sequence[Any] | None:
    """By the operator's host function. ``begin`` is told of the arrays that it gets: see `_native_plans`."""
    operands: list[Any] = []
    wrapped: list[DeviceArray] = []
    for x in arrays:
        if type(x) is ndarray:
            if op.pointwise and not x.ndim and x.dtype.kind != "b":  # Triton takes no number for a condition
                operands.append(x.item())  # a number that promotion made an array
                continue
            seen: Any = _seen(x)
        elif type(x) is list:
            seen = [_seen(y) for y in x]
            if None in seen:
                return None
            wrapped += seen
            operands.append(seen)
            continue
        else:
            operands.append(x)
            continue
        if seen is None:
            return None
        wrapped.append(seen)
        operands.append(seen)
    outs: list[ndarray] = [] if op.mutates else [_array.empty(shape, dtype) for shape, dtype in specs]
    results = [_seen(out) for out in outs]
    if None in results:
        return None
    if op.mutates:
        _share(wrapped)
    if begin is not None:
        attrs = begin(operands, results)
    assert op.kernel is not None
    op.kernel(*results, *operands, **attrs)
    return outs


# ------------------------------------------------------------------------------------------------------------ measuring

GAIN = 0.9  #: of NumPy's time that a kernel may take to be chosen: what is about as fast stays as it is
ALONE = 0.7  #: the same where an operator was measured at one size only
#: What waits for memory, or is BLAS's: one size never decides for these.
BOUND = frozenset(
    ("matmul", "linear", "sum", "mean", "amax", "amin", "add", "sub", "mul", "neg", "abs", "cast", "_full", "square",
     "clamp")
)  # fmt: skip
_REPEAT, _SECONDS = 5, 0.01  # rounds at least, of which the fastest counts, and more of them while they are so short


class Measured(NamedTuple):
    """One operator at one size: seconds of its NumPy body and of its kernel."""

    op: str
    size: int
    numpy: float
    native: float


def measure(call: Callable[[], Any]) -> Iterator[Measured]:
    """Run a call, and time each operator that it executes on the CPU and that has a kernel, both ways."""
    seen: list[tuple[Op, Sequence[Any], dict[str, Any], Sequence[Any]]] = []

    def note(op: Op, arrays: Sequence[Any], attrs: dict[str, Any], outs: Sequence[Any]) -> None:
        if op.kernel is not None and not op.dynamic:
            seen.append((op, list(arrays), attrs, [(out.shape, out.dtype) for out in outs]))

    with numpy_only():
        observers.append(note)
        listening[0] += 1
        try:
            call()
        finally:
            listening[0] -= 1
            observers.remove(note)
        for op, arrays, attrs, specs in seen:
            if force(op, arrays, attrs, specs) is None:
                continue
            flat = [y for x in arrays for y in (x if type(x) is list else [x])]
            sizes = [x.size for x in flat if type(x) is ndarray] + [int(np.prod(shape)) for shape, _ in specs]
            body, kernel = (lambda: op.cpu(*arrays, **attrs)), (lambda: force(op, arrays, attrs, specs))  # noqa: B023
            if sum(sizes):
                yield Measured(op.name, max(sizes), *_seconds(body, kernel))


def _seconds(*runs: Callable[[], Any]) -> list[float]:
    """The least seconds of each. They take turns: what slows the machine for a while slows all of them."""
    best, begin, rounds = [np.inf] * len(runs), time.perf_counter(), 0
    while rounds < _REPEAT or time.perf_counter() - begin < _SECONDS:
        rounds += 1
        for i, run in enumerate(runs):
            start = time.perf_counter()
            run()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def crossovers(found: Sequence[Measured]) -> dict[str, int]:
    """For each operator the least size from which on its kernel was faster at every size; others are left out.

    One size may be luck: two neighbouring ones have to agree, the largest among them. Of an operator that was measured
    at one size only the kernel has to take at most ``ALONE`` of the time, and those of ``BOUND`` are left out.
    """
    least: dict[str, int] = {}
    for name in sorted({m.op for m in found}):
        worst: dict[int, float] = {}
        for m in found:
            if m.op == name:
                worst[m.size] = max(worst.get(m.size, 0.0), m.native / m.numpy)
        faster = list(itertools.takewhile(lambda size: worst[size] <= GAIN, sorted(worst, reverse=True)))  # noqa: B023
        alone = len(worst) == 1 and name not in BOUND and worst[next(iter(worst))] <= ALONE
        if len(faster) > 1 or alone:
            least[name] = faster[-1]
    return least


def keep(least: dict[str, int]) -> Any:
    """Store the numbers for this processor, and use them. The file, or None where nothing is kept."""
    path = _path()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tables.replace(path, json.dumps({"processor": processor(), "least": least}, indent=1) + "\n")
    state.least = dict(least)
    return path


@contextmanager
def numpy_only() -> Iterator[None]:
    """All operators of the CPU by NumPy, for the block."""
    before = state.least
    state.least = {}
    try:
        yield
    finally:
        state.least = before
