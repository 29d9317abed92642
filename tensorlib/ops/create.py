"""Tensors from nothing: filled, counted, and copied from Python and NumPy data."""

from __future__ import annotations

import array
import builtins
import math
import warnings
from typing import Any

import numpy as np

from tensorlib import _array
from tensorlib._arguments import outside
from tensorlib._core import Tensor, modes, wrap
from tensorlib._device import cpu
from tensorlib._device import device as Device
from tensorlib._dispatch import as_ints
from tensorlib._dtypes import OF_NUMPY, as_dtype, finfo
from tensorlib._promotion import default_complex, default_dtype, of_number
from tensorlib._samples import bools, draw, each, ints
from tensorlib.autograd.batched import with_batches
from tensorlib.errors import ArgumentError, DtypeError
from tensorlib.kernels import create as kernels
from tensorlib.kernels import transfer
from tensorlib.op import Ints, Scalar, composite, into, op
from tensorlib.ops import memory


def numpy_dtype(dtype: Any, default: np.dtype[Any] | None = None) -> np.dtype[Any]:
    """The NumPy dtype of a ``dtype=`` argument; ``default`` (else the default float dtype) for None."""
    if dtype is None:
        return default if default is not None else default_dtype()
    return as_dtype(dtype).numpy


def device_of(device: Any) -> Device:
    """The device of a ``device=`` argument; the default device for None."""
    if device is None:
        return modes.device or cpu
    return Device(device)


def _size(name: str, size: tuple[Any, ...]) -> tuple[int, ...]:
    """Sizes given one by one or as one sequence."""
    shape = as_ints(name, "size", size[0] if len(size) == 1 and isinstance(size[0], (tuple, list)) else size)
    for n in shape:
        if n < 0:
            raise ArgumentError(f"{name}: a size cannot be negative, got {shape}")
    return shape


def sizes_given(name: str, args: tuple[Any, ...], size: Any, called: str = "size") -> tuple[Any, ...]:
    """The sizes of a function that takes them one by one, as a sequence, or as ``size=`` a sequence."""
    if size is None:
        if not args:
            raise TypeError(f"{name}() missing required argument: '{called}'")
        return args
    if args or not isinstance(size, (tuple, list)):
        raise TypeError(f"{name}(): expected sizes one by one, or `{called}` a sequence; got {args} and {size!r}")
    return (size,)


def pinned(t: Tensor) -> Tensor:
    """The tensor in page-locked memory, as ``pin_memory=True`` asks; without a GPU nothing is to be pinned for."""
    return memory.pin(t) if transfer.available() else t


def _finish(t: Tensor, requires_grad: bool, pin_memory: bool = False) -> Tensor:
    if pin_memory:
        t = pinned(t)
    if requires_grad:
        t.requires_grad_()
    return t


# ------------------------------------------------------------------------------------------------ declared operators


@op(
    spec=lambda size, fill_value, dtype, device: (size, dtype),
    kernel=kernels.full,
    on="",
    samples=each(
        draw(size=(3, 4), fill_value=2.5, dtype=np.dtype(np.float32), device=None),
        draw(size=(), fill_value=7, dtype=np.dtype(np.int64), device=None),
        draw(size=(0, 2), fill_value=True, dtype=np.dtype(np.bool_), device=None),
    ),
)
def _full(size: Ints, fill_value: Scalar, dtype: Any, device: Any):
    """A tensor of ``size`` with every element ``fill_value``."""
    return np.full(size, np.asarray(fill_value).astype(dtype), dtype)


def _arange_spec(start: Any, step: Any, length: int, dtype: Any, device: Any) -> Any:
    return (length,), dtype


@op(
    spec=_arange_spec,
    kernel=kernels.arange,
    on="",
    samples=each(
        draw(start=0, step=1, length=5, dtype=np.dtype(np.int64), device=None),
        draw(start=1.5, step=-0.25, length=1500, dtype=np.dtype(np.float32), device=None),
        draw(start=3, step=2, length=0, dtype=np.dtype(np.int32), device=None),
    ),
)
def _arange(start: Scalar, step: Scalar, length: Any, dtype: Any, device: Any):
    """start + i * step for i in 0 … length - 1; floats are computed in float64."""
    work = np.int64 if dtype.kind in "iub" else np.float64
    if not start and step == 1:
        return np.arange(length, dtype=work).astype(dtype, copy=False)
    return (np.asarray(start, work) + np.arange(length, dtype=work) * np.asarray(step, work)).astype(dtype)


# --------------------------------------------------------------------------------------------------- public functions


def number_as(name: str, value: Any, dtype: np.dtype[Any]) -> Any:
    """A Python number as an element of ``dtype``; DtypeError where it does not fit.

    Negative numbers count from the top in unsigned integers, a float loses its fraction in integers, as in PyTorch.
    """
    ours = OF_NUMPY[dtype]
    if isinstance(value, complex) and ours.kind != "complex":
        if value.imag:
            raise DtypeError(f"{name}: value {value} cannot be converted to type {ours} without overflow")
        value = value.real
    if ours.kind == "int":
        limits = np.iinfo(dtype)
        low = -int(limits.max) if limits.min == 0 else int(limits.min)
        if not low <= value <= int(limits.max) or not math.isfinite(value):
            raise DtypeError(f"{name}: value {value} cannot be converted to type {ours} without overflow")
        whole = int(value)
        return whole + int(limits.max) + 1 if whole < 0 and limits.min == 0 else whole
    if ours.kind == "float" and math.isfinite(value) and abs(value) > float(finfo(ours).max):
        raise DtypeError(f"{name}: value {value} cannot be converted to type {ours} without overflow")
    return bool(value) if ours.kind == "bool" else value


def dtype_with(name: str, out: Any, dtype: Any) -> Any:
    """The dtype of what a factory makes: that of ``out``, which a ``dtype`` must agree with."""
    if not isinstance(out, Tensor):
        return dtype
    kind = OF_NUMPY[out._array.dtype]
    if dtype is not None and as_dtype(dtype) is not kind:
        raise DtypeError(f"{name}: dtype {as_dtype(dtype)} does not match dtype of out parameter ({kind}): give one")
    return kind


def _into_row(name: str, out: Any, row: Tensor) -> Any:
    """``out=`` of what makes a row of numbers: one of as many elements keeps its shape, and takes them in its order."""
    same = isinstance(out, Tensor) and out._array.size == row._array.size
    return into(name, out, row.reshape(out._array.shape) if same else row)  # type: ignore[attr-defined]


def _make(name: str, size: tuple[int, ...], value: Any, dtype: Any, device: Any) -> Tensor:
    at = device_of(device)
    if value != 0 and value != 1:
        value = number_as(name, value, dtype)
    if at is cpu:
        if value == 0:
            return wrap(np.zeros(size, dtype))
        return wrap(np.full(size, value, dtype))
    return _full(size, value, dtype, at)


@composite(on="function", samples=each(draw(2, 3), draw(()), draw(0, 2)))
def zeros(*args: Any, size: Any = None, out: Any = None, dtype: Any = None, layout: Any = None, device: Any = None,
          pin_memory: bool = False, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """A tensor of zeros of ``size``, of ``dtype`` (the default float dtype for None)."""
    dtype = dtype_with("zeros", out, dtype)
    t = _make("zeros", _size("zeros", sizes_given("zeros", args, size)), 0, numpy_dtype(dtype), device)
    return _finish(t if out is None else into("zeros", out, t), requires_grad, pin_memory)


@composite(on="function", samples=each(draw(2, 3), draw((4,))))
def ones(*args: Any, size: Any = None, out: Any = None, dtype: Any = None, layout: Any = None, device: Any = None,
         pin_memory: bool = False, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """A tensor of ones of ``size``, of ``dtype`` (the default float dtype for None)."""
    dtype = dtype_with("ones", out, dtype)
    t = _make("ones", _size("ones", sizes_given("ones", args, size)), 1, numpy_dtype(dtype), device)
    return _finish(t if out is None else into("ones", out, t), requires_grad, pin_memory)


@composite(on="function")
def empty(*args: Any, size: Any = None, out: Any = None, dtype: Any = None, layout: Any = None, device: Any = None,
          pin_memory: bool = False, requires_grad: bool = False, memory_format: Any = None) -> Tensor:  # fmt: skip
    """A tensor of ``size`` whose elements are undefined."""
    dtype = dtype_with("empty", out, dtype)
    shape = _size("empty", sizes_given("empty", args, size))
    if out is not None:
        return _finish(out.resize_(shape), requires_grad, pin_memory)
    return _finish(wrap(_array.empty(shape, numpy_dtype(dtype), device_of(device))), requires_grad, pin_memory)


@composite(on="function", samples=each(draw((2, 3), 2.5), draw((), 7), draw((3,), True)))
def full(size: Any, fill_value: Any, *, out: Any = None, dtype: Any = None, layout: Any = None, device: Any = None,
         pin_memory: bool = False, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """A tensor of ``size`` with every element ``fill_value``; without ``dtype`` that of the value."""
    dtype = dtype_with("full", out, dtype)
    shape = _size("full", (size,))
    if isinstance(fill_value, Tensor):
        if _elsewhere(fill_value) and not fill_value._array.ndim:  # a copy from device to device, with no host read
            kind = numpy_dtype(dtype, of_number(fill_value._array.dtype.type(0).item()))
            value: Any = fill_value.detach()
            t = value.to(device_of(device), OF_NUMPY[kind]).expand(shape).clone()
            return _finish(t if out is None else into("full", out, t), requires_grad, pin_memory)
        fill_value = fill_value.item()
    t = _make("full", shape, fill_value, numpy_dtype(dtype, of_number(fill_value)), device)
    return _finish(t if out is None else into("full", out, t), requires_grad, pin_memory)


def _elsewhere(*values: Any) -> bool:
    """Whether one of these is a tensor that the host would have to wait for."""
    return any(isinstance(x, Tensor) and x.device.type in ("cuda", "hip") for x in values)  # type: ignore[attr-defined]


def _evenly(start: Any, end: Any, steps: int, dtype: Any) -> Tensor:
    """``steps`` numbers from start to end in float64, of which one is a number on a GPU: computed there.

    Of integers the ends are too.
    """
    at = next(x.device for x in (start, end) if _elsewhere(x))
    first, last = (x.to(at, OF_NUMPY[np.dtype(np.float64)]) if isinstance(x, Tensor) else x for x in (start, end))
    if numpy_dtype(dtype).kind in "iu":
        first, last = (x.trunc() if isinstance(x, Tensor) else int(x) for x in (first, last))  # type: ignore[attr-defined]
    i: Any = arange(steps, dtype=OF_NUMPY[np.dtype(np.float64)], device=at)
    before = first + (last - first) * (i / max(steps - 1, 1))
    return before if steps < 2 else before.where(i < steps - 1, last)


def _like(input: Tensor, dtype: Any, device: Any) -> tuple[np.dtype[Any], Any]:
    x = input._array
    return numpy_dtype(dtype, x.dtype), _array.device_of(x) if device is None else device


@composite(on="function", samples=each(draw((2, 3)), draw(ints(3))))
def zeros_like(input: Tensor, *, dtype: Any = None, layout: Any = None, device: Any = None,
               pin_memory: bool = False, requires_grad: bool = False, memory_format: Any = None) -> Tensor:  # fmt: skip
    """Zeros of the shape, dtype and device of ``input``."""
    t = with_batches(_make("zeros_like", input._array.shape, 0, *_like(input, dtype, device)), input)
    return _finish(t, requires_grad, pin_memory)


@composite(on="function", samples=each(draw((2, 3)), draw(bools(3))))
def ones_like(input: Tensor, *, dtype: Any = None, layout: Any = None, device: Any = None,
              pin_memory: bool = False, requires_grad: bool = False, memory_format: Any = None) -> Tensor:  # fmt: skip
    """Ones of the shape, dtype and device of ``input``."""
    t = with_batches(_make("ones_like", input._array.shape, 1, *_like(input, dtype, device)), input)
    return _finish(t, requires_grad, pin_memory)


@composite(on="function")
def empty_like(input: Tensor, *, dtype: Any = None, layout: Any = None, device: Any = None,
               pin_memory: bool = False, requires_grad: bool = False, memory_format: Any = None) -> Tensor:  # fmt: skip
    """A tensor of the shape, dtype and device of ``input`` whose elements are undefined."""
    kind, at = _like(input, dtype, device)
    t = with_batches(wrap(_array.empty(input._array.shape, kind, Device(at))), input)
    return _finish(t, requires_grad, pin_memory)


@composite(on="function", samples=each(draw((2, 3), 2.5), draw(ints(3), 2)))
def full_like(input: Tensor, fill_value: Any, *, dtype: Any = None, layout: Any = None, device: Any = None,
              pin_memory: bool = False, requires_grad: bool = False, memory_format: Any = None) -> Tensor:  # fmt: skip
    """A tensor of the shape, dtype and device of ``input`` with every element ``fill_value``."""
    return _finish(
        with_batches(_make("full_like", input._array.shape, fill_value, *_like(input, dtype, device)), input),
        requires_grad, pin_memory,
    )  # fmt: skip


@composite(on="function", samples=each(draw(5), draw(1, 7, 2), draw(1.0, 0.0, -0.25), draw(0)))
def arange(start: Any = 0, end: Any = None, step: Any = 1, *, out: Any = None, dtype: Any = None, layout: Any = None,
           device: Any = None, pin_memory: bool = False, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """start, start + step, … up to but not including ``end``: ceil((end - start) / step) elements.

    ``arange(end)`` starts at 0. int64 when all arguments are integers, otherwise the default float dtype.
    """
    dtype = dtype_with("arange", out, dtype)
    if end is None:
        start, end = 0, start
    start, end, step = [x.item() if isinstance(x, Tensor) else x for x in (start, end, step)]
    whole = type(start) is type(end) is type(step) is int
    if not whole and any(isinstance(x, complex) for x in (start, end, step)):
        raise DtypeError(f"arange: takes real numbers, got {start}, {end}, {step}: complex numbers have no order")
    whole = whole or all(isinstance(x, int) for x in (start, end, step))
    kind = numpy_dtype(dtype, of_number(0 if whole else 0.0))
    if not whole and kind == np.int64:  # as PyTorch, which counts in the result's dtype
        start, end, step = int(start), int(end), int(step)
    if step == 0:
        raise ArgumentError("arange: step must be nonzero")
    if (end - start) * step < 0:
        raise ArgumentError(
            f"arange: upper bound and lower bound inconsistent with step sign: {start}, {end}, step {step}"
        )
    if kind.kind == "c":
        raise DtypeError(f"arange: not implemented for {OF_NUMPY[kind]}: complex numbers have no order")
    length = math.ceil((end - start) / step)
    if kind.kind in "iu":
        start, step = int(start), int(step)
    t = _arange(start, step, length, kind, device_of(device))
    return _finish(t if out is None else _into_row("arange", out, t), requires_grad, pin_memory)


@composite(on="function", samples=each(draw(-1.0, 2.0, 7), draw(3, 3, 1), draw(0, 1, 0)))
def linspace(start: Any, end: Any, steps: int, *, out: Any = None, dtype: Any = None, layout: Any = None,
             device: Any = None, pin_memory: bool = False, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """``steps`` numbers from ``start`` to ``end``, both included, evenly spaced."""
    dtype = dtype_with("linspace", out, dtype)
    if steps < 0:
        raise ArgumentError(f"linspace: number of steps must be non-negative, got {steps}")
    if _elsewhere(start, end):
        t = _evenly(start, end, steps, dtype).to(device_of(device), OF_NUMPY[numpy_dtype(dtype)])  # type: ignore[attr-defined]
        return _finish(t if out is None else _into_row("linspace", out, t), requires_grad, pin_memory)
    start, end = (x.item() if isinstance(x, Tensor) else x for x in (start, end))
    of_complex = isinstance(start, complex) or isinstance(end, complex)
    kind = numpy_dtype(dtype, default_complex() if of_complex else None)
    if of_complex and kind.kind != "c":
        raise DtypeError(f"linspace: of complex numbers takes a complex dtype, got {OF_NUMPY[kind]}")
    if kind.kind in "iu":
        start, end = number_as("linspace", start, kind), number_as("linspace", end, kind)
    t = wrap(np.linspace(start, end, steps, dtype=np.complex128 if of_complex else np.float64).astype(kind))
    t = t.to(device_of(device))  # type: ignore[attr-defined]
    return _finish(t if out is None else _into_row("linspace", out, t), requires_grad, pin_memory)


@composite(on="function", samples=each(draw(-1.0, 2.0, 7), draw(3, 3, 1), draw(0, 1, 0), draw(0, 4, 5, base=2.0)))
def logspace(start: Any, end: Any, steps: int, base: float = 10.0, *, out: Any = None, dtype: Any = None,
             layout: Any = None, device: Any = None, pin_memory: bool = False,
             requires_grad: bool = False) -> Tensor:  # fmt: skip
    """base**start … base**end: ``steps`` numbers whose logarithms are evenly spaced, computed in float64."""
    dtype = dtype_with("logspace", out, dtype)
    if steps < 0:
        raise ArgumentError(f"logspace: number of steps must be non-negative, got {steps}")
    if _elsewhere(start, end):
        powers: Any = base ** _evenly(start, end, steps, dtype)  # type: ignore[operator]
        t = powers.to(device_of(device), OF_NUMPY[numpy_dtype(dtype)])
        return _finish(t if out is None else _into_row("logspace", out, t), requires_grad, pin_memory)
    start, end = (x.item() if isinstance(x, Tensor) else x for x in (start, end))
    kind = numpy_dtype(dtype)
    if kind.kind in "iu":
        start, end = number_as("logspace", start, kind), number_as("logspace", end, kind)
    numbers = np.power(np.float64(base), np.linspace(start, end, steps, dtype=np.float64)).astype(kind)
    t = wrap(numbers).to(device_of(device))
    return _finish(t if out is None else _into_row("logspace", out, t), requires_grad, pin_memory)


@composite(on="function")
def range(start: Any = 0, end: Any = None, step: Any = 1, *, out: Any = None, dtype: Any = None, layout: Any = None,
          device: Any = None, pin_memory: bool = False, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """start, start + step, … up to and including ``end``: floor((end - start) / step) + 1 elements. Use ``arange``.

    Of the default float dtype, whatever the arguments are, as in PyTorch, where it is deprecated.
    """
    dtype = dtype_with("range", out, dtype)
    warnings.warn("range: is deprecated, because it includes its end: use arange", UserWarning, stacklevel=outside())
    if end is None:
        start, end = 0, start
    if step == 0:
        raise ArgumentError("range: step must be nonzero")
    if (end - start) * step < 0:
        raise ArgumentError(
            f"range: upper bound and lower bound inconsistent with step sign: {start}, {end}, step {step}"
        )
    t = _arange(start, step, math.floor((end - start) / step) + 1, numpy_dtype(dtype), device_of(device))
    return _finish(t if out is None else _into_row("range", out, t), requires_grad, pin_memory)


@composite(on="function", samples=each(draw(2.5), draw(True), draw(7)))
def scalar_tensor(s: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: bool = False,
                  requires_grad: bool = False) -> Tensor:  # fmt: skip
    """A 0-d tensor of a number, of the default float dtype unless ``dtype`` names one."""
    return _finish(_make("scalar_tensor", (), s, numpy_dtype(dtype), device), requires_grad, pin_memory)


@composite(on="function method")
def new_empty_strided(input: Tensor, size: Any, stride: Any, *, dtype: Any = None, layout: Any = None,
                      device: Any = None, pin_memory: bool = False, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """``empty_strided`` with this tensor's dtype and device."""
    kind, at = _like(input, dtype, device)
    return empty_strided(
        size, stride, dtype=OF_NUMPY[kind], device=at, requires_grad=requires_grad, pin_memory=pin_memory
    )


@composite(on="function")
def empty_strided(size: Any, stride: Any, *, dtype: Any = None, layout: Any = None, device: Any = None,
                  pin_memory: bool = False, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """A tensor of ``size`` whose neighbours along each dimension are ``stride`` elements apart; values undefined."""
    shape, steps = _size("empty_strided", (size,)), as_ints("empty_strided", "stride", stride)
    if len(shape) != len(steps):
        raise ArgumentError(f"empty_strided: dimensionality of sizes ({len(shape)}) must match that of strides "
                            f"({len(steps)})")  # fmt: skip
    if any(n < 0 for n in steps):
        raise ArgumentError(f"empty_strided: negative strides are not supported, got {steps}")
    count = 0 if 0 in shape else 1 + sum((n - 1) * s for n, s in zip(shape, steps, strict=True))
    memory = _array.empty((count,), numpy_dtype(dtype), device_of(device))
    return _finish(wrap(_array.as_strided(memory, shape, steps)), requires_grad, pin_memory)


@composite(on="function")
def empty_permuted(size: Any, physical_layout: Any, *, dtype: Any = None, layout: Any = None, device: Any = None,
                   pin_memory: bool = False, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """A tensor of ``size`` whose dimensions lie in memory in the order ``physical_layout``; values undefined."""
    shape, order = _size("empty_permuted", (size,)), as_ints("empty_permuted", "physical_layout", physical_layout)
    if sorted(order) != list(builtins.range(len(shape))):
        raise ArgumentError(f"empty_permuted: expected a permutation of the dimensions of {shape}, got {order}")
    steps, step = [0] * len(shape), 1
    for d in reversed(order):
        steps[d] = step
        step *= max(shape[d], 1)
    return empty_strided(
        shape, tuple(steps), dtype=dtype, device=device, requires_grad=requires_grad, pin_memory=pin_memory
    )


@composite(on="function")
def frombuffer(buffer: Any, *, dtype: Any, count: int = -1, offset: int = 0, requires_grad: bool = False) -> Tensor:
    """A 1-D CPU tensor over the memory of an object with the buffer protocol: ``count`` elements from byte ``offset``.

    ArgumentError where the buffer does not hold them. Writes reach the buffer; a read-only one stays read-only.
    """
    kind = numpy_dtype(dtype)
    try:
        view = memoryview(buffer)
    except TypeError:
        raise ArgumentError(
            f"frombuffer: object does not implement Python buffer protocol: got {type(buffer).__name__}"
        ) from None
    if view.readonly:
        warnings.warn("frombuffer: The given buffer is not writable, and neither is the tensor over it", UserWarning,
                      stacklevel=outside())  # fmt: skip
    have = view.nbytes
    if have == 0 or count == 0:
        raise ArgumentError(f"frombuffer: both buffer length ({have}) and count ({count}) must not be 0")
    if not 0 <= offset < have:
        raise ArgumentError(
            f"frombuffer: offset ({offset} bytes) must be non-negative and no greater than buffer length ({have} bytes)"
            " - 1"
        )
    if count < 0 and (have - offset) % kind.itemsize:
        raise ArgumentError(
            f"frombuffer: buffer length ({have} bytes) after offset ({offset} bytes) must be a multiple of element "
            f"size ({kind.itemsize})"
        )
    if count > 0 and offset + count * kind.itemsize > have:
        raise ArgumentError(
            f"frombuffer: requested buffer length ({count} * {kind.itemsize} bytes) after offset ({offset} bytes) must "
            f"not be greater than actual buffer length ({have} bytes)"
        )
    n = count if count > 0 else (have - offset) // kind.itemsize
    raw = np.frombuffer(buffer, np.uint8, n * kind.itemsize, offset)
    return _finish(wrap(raw.view(kind)), requires_grad)


@composite(on="function", samples=each(draw(3), draw(2, 4), draw(4, 2)))
def eye(n: int, m: int | None = None, *, out: Any = None, dtype: Any = None, layout: Any = None, device: Any = None,
        pin_memory: bool = False, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """The n × m matrix with ones on the diagonal and zeros elsewhere; m is n for None."""
    dtype = dtype_with("eye", out, dtype)
    at = device_of(device)
    if at is cpu and out is None and type(n) is int and n >= 0 and (m is None or (type(m) is int and m >= 0)):
        return _finish(wrap(np.eye(n, m, dtype=numpy_dtype(dtype))), requires_grad, pin_memory)
    for name, size in (("n", n), ("m", 0 if m is None else m)):
        if size < 0:
            raise ArgumentError(f"eye: {name} must be greater or equal to 0, got {size}")
    rows, columns = arange(n, device=at), arange(n if m is None else m, device=at)
    t = (rows.unsqueeze(1) == columns).to(OF_NUMPY[numpy_dtype(dtype)])
    return _finish(t if out is None else into("eye", out, t), requires_grad, pin_memory)


_NUMBERS: set[type[Any]] = {bool, int, float, complex}


def _infer(data: Any) -> np.dtype[Any] | None:
    """The dtype of nested Python data: bool, int64, the default float or complex; None when it holds no numbers."""
    if isinstance(data, (np.ndarray, np.generic)):  # before float: np.float64 is one
        return data.dtype
    if isinstance(data, bool):
        return np.dtype(np.bool_)
    if isinstance(data, int):
        return np.dtype(np.int64)
    if isinstance(data, float):
        return default_dtype()
    if isinstance(data, complex):
        return default_complex()
    if isinstance(data, Tensor):
        return data._array.dtype
    if not isinstance(data, (list, tuple)):
        raise TypeError(data)
    best = None
    rank = {"b": 0, "i": 1, "u": 1, "f": 2, "V": 2, "c": 3}
    kinds = set(map(type, data))
    if kinds <= _NUMBERS:  # one number of each type stands for all: a corpus is a list of a million ints
        data = [kind() for kind in kinds]
    for x in data:
        d = _infer(x)
        if d is not None and (best is None or rank[d.kind] > rank[best.kind]):
            best = d
    return best


def _nested(data: Any) -> Any:
    """Nested Python data with the tensors in it as lists or numbers."""
    if isinstance(data, Tensor):
        return data.tolist()
    if isinstance(data, (list, tuple)):
        return data if set(map(type, data)) <= _NUMBERS else [_nested(x) for x in data]
    return data


def host_array(data: Any, dtype: Any, copy: bool = True) -> np.ndarray:
    """NumPy array of anything ``tensor`` takes: numbers, nested sequences, arrays."""
    if isinstance(data, (np.ndarray, np.generic)):
        array = np.asarray(data)
        if dtype is None and array.dtype not in OF_NUMPY:
            native = array.dtype.newbyteorder("=")
            if native not in OF_NUMPY:
                raise TypeError(
                    f"tensor: can't convert np.ndarray of type {array.dtype}; supported are numbers and bool"
                )
            array = array.astype(native)
        want = array.dtype if dtype is None else numpy_dtype(dtype)
        return array.astype(want, copy=copy)
    if isinstance(data, (str, bytes)):
        raise TypeError(f"tensor: new(): invalid data type '{type(data).__name__}': expected numbers")
    if hasattr(data, "__array__") and not isinstance(data, (list, tuple)):
        return host_array(np.asarray(data), dtype, copy)
    if not isinstance(data, (list, tuple, bool, int, float, complex)):
        if not hasattr(data, "__len__") or isinstance(data, (dict, set, frozenset)):
            raise TypeError(f"tensor: could not infer dtype of {type(data).__name__}")
        data = list(data)
    try:
        inferred = _infer(data)
    except (TypeError, KeyError):
        raise TypeError("tensor: expected numbers, or nested sequences of numbers of equal length") from None
    want = numpy_dtype(dtype, inferred)
    if inferred is not None and inferred.kind == "c" and want.kind not in "cb":
        raise TypeError(f"tensor: must be real number, not complex, for {OF_NUMPY[want]}")
    try:
        with np.errstate(all="ignore"):
            array = np.array(_nested(data), dtype=want if want.kind not in "V" and want.itemsize > 1 else None)
            if want.kind in "iu" and want.itemsize == 1 and array.dtype.kind in "iu":
                top = np.iinfo(want).max  # negative numbers count from the top in uint8, as in PyTorch
                if array.size and not (-top - 1 <= array.min() and array.max() <= top):
                    raise OverflowError(f"{array.min()} to {array.max()}")
            return array.astype(want, copy=False)
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"tensor: expected nested sequences of numbers of equal length ({error})") from None
    except OverflowError as error:
        raise DtypeError(f"tensor: a value does not fit {OF_NUMPY[want]} ({error})") from None


@composite(on="function")
def tensor(data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False,
           pin_memory: bool = False) -> Tensor:  # fmt: skip
    """A new tensor with a copy of ``data``: numbers, nested sequences, NumPy arrays, tensors.

    Python floats take the default float dtype, ints int64, bools bool; NumPy arrays keep theirs.
    """
    if isinstance(data, Tensor):
        t = data.detach().clone()
        t = t.to(device=device, dtype=dtype)
        return _finish(t, requires_grad, pin_memory)
    at = device_of(device)
    array = host_array(data, dtype)
    return _finish(wrap(array if at is cpu else _array.to_device(array, at)), requires_grad, pin_memory)


@composite(on="function")
def asarray(
    obj: Any, *, dtype: Any = None, device: Any = None, copy: bool | None = None, requires_grad: bool | None = None
) -> Tensor:
    """``obj`` as a tensor, over its memory where dtype and device allow it; ``copy`` True: never, False: or an error.

    The bytes of a buffer (bytes, memoryview, array.array) are taken as elements of ``dtype``, as by ``frombuffer``.
    A tensor's history goes on, unless ``requires_grad`` is False. ValueError where ``copy=False`` cannot be kept.
    """
    raw = isinstance(obj, (bytes, bytearray, memoryview, array.array))
    t = frombuffer(obj, dtype=dtype).to(device_of(device)) if raw else as_tensor(obj, dtype, device)  # type: ignore[attr-defined]
    if isinstance(obj, Tensor):
        shared = t is obj
    elif raw:
        shared = isinstance(t._array, np.ndarray)
    else:
        made = t._array
        shared = isinstance(obj, np.ndarray) and isinstance(made, np.ndarray) and np.may_share_memory(obj, made)
    if copy is False and not shared:
        raise ArgumentError(
            "asarray: can't alias arbitrary sequence into a tensor, nor what is of another dtype or device: expected "
            "copy=None"
        )
    if copy and shared:
        t = t.clone()
    if requires_grad is False and t.requires_grad:
        t = t.detach()
    return t.requires_grad_() if requires_grad and t.is_leaf else t


@composite(on="function")
def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """``data`` as a tensor, without a copy where dtype and device allow it."""
    if isinstance(data, Tensor):
        return data.to(device=device, dtype=dtype)
    at = device_of(device)
    array = host_array(data, dtype, copy=False)
    return wrap(array if at is cpu else _array.to_device(array, at))


@composite(on="function")
def from_numpy(ndarray: np.ndarray) -> Tensor:
    """A CPU tensor over the memory of a NumPy array: writes to one are seen in the other."""
    if not isinstance(ndarray, np.ndarray):
        raise TypeError(f"from_numpy: expected np.ndarray (got {type(ndarray).__name__})")
    if ndarray.dtype not in OF_NUMPY:
        raise TypeError(f"from_numpy: can't convert np.ndarray of type {ndarray.dtype}; supported are numbers and bool")
    return wrap(ndarray)

