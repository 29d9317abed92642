"""The repaired interpreter itself: imported by interpreter.py at the first launch, as it imports triton.

`Builder` computes the operations, `interpretable` turns a kernel into a Python function over them, and `patched` puts
what such functions call in the place of Triton's compiler, for as long as a launch runs.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import functools
import inspect
import textwrap
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import triton.language as tl
from triton.language.extra import libdevice as stock_libdevice
from triton.language.extra.cuda import libdevice as cuda_libdevice
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter as stock
from triton.runtime.jit import JITFunction

from tensorlib import _dtypes
from tensorlib.errors import KernelError
from tensorlib.runtime import _libdevice, compiler, fingerprint, memory, versions
from tensorlib.runtime.compiler import Jit
from tensorlib.runtime.descriptors import TensorDescriptor

_FLOAT8 = {
    np.dtype(ml_dtypes.float8_e4m3fn): 448.0,
    np.dtype(ml_dtypes.float8_e5m2): 57344.0,
}  # dtype -> its largest value
_NARROW = frozenset((np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), *_FLOAT8))
_CHAIN = versions.chained_comparison(stock)
_COMPARISONS = frozenset((np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal))

_ATOMICS: dict[str, Callable[[Any, Any], Any]] = {
    "ADD": np.add, "FADD": np.add, "MIN": np.minimum, "UMIN": np.minimum, "MAX": np.maximum, "UMAX": np.maximum,
    "AND": np.bitwise_and, "OR": np.bitwise_or, "XOR": np.bitwise_xor, "XCHG": lambda old, new: new,
}  # fmt: skip
_REDUCE_KINDS = {getattr(stock._ir.DESCRIPTOR_REDUCE_KIND, k): k for k in ("ADD", "MIN", "MAX", "AND", "OR", "XOR")}


class OutOfBoundsError(IndexError):
    """An access outside every live allocation; interpreter.run says which argument lies nearest."""

    def __init__(self, text: str, address: int) -> None:
        super().__init__(text)
        self.address = address


def _wide(x: np.ndarray) -> np.ndarray:
    """Half types as float32, everything else as it is."""
    return x.astype(np.float32) if x.dtype in _NARROW else x


def _truncated(x: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """x converted to a narrower float type, rounded toward zero."""
    near = x.astype(dtype)
    bits = near.view(f"u{dtype.itemsize}")
    return np.where(np.abs(near.astype(x.dtype)) > np.abs(x), bits - 1, bits).astype(bits.dtype).view(dtype)


Handle = stock.TensorHandle
_NUMPY_TYPES = {compiler.language_dtype(d).name: d for d in compiler.TYPES}
_stock_numpy_type = stock._get_np_dtype


def numpy_type(ty: Any) -> np.dtype[Any]:
    """The NumPy dtype that carries values of a Triton type: addresses are uint64."""
    found = _NUMPY_TYPES.get(ty.scalar.name)
    return np.dtype(_stock_numpy_type(ty)) if found is None else found


def tensor(data: np.ndarray, dtype: Any) -> Any:
    """A tl.tensor of NumPy data; a 0-d array is a scalar."""
    if data.ndim:
        return tl.core.tensor(Handle(data, dtype), tl.block_type(dtype, list(data.shape)))
    return tl.core.tensor(Handle(data.reshape(1), dtype), dtype)


def data_of(t: Any) -> np.ndarray:
    """A tl.tensor's NumPy data, 0-d for a scalar."""
    data: np.ndarray = t.handle.data
    return data if t.type.is_block() else data.reshape(())


class Builder(stock.InterpreterBuilder):  # type: ignore[misc]
    """The operations of the interpreter, on values of every dtype."""

    # -- memory: Triton's C++ helpers know no ml_dtypes, so those go as unsigned integers of their size
    def _check(self, addresses: np.ndarray, mask: np.ndarray, itemsize: int, what: str) -> None:
        used = addresses[mask]
        bad = memory.out_of_bounds(used, itemsize)
        if bad is not None:
            first = int(used[bad][0])
            raise OutOfBoundsError(
                f"{what} out of bounds at {int(bad.sum())} of {used.size} lanes, the first at address {first:#x}", first
            )
        if itemsize > 1 and used.size and int(np.bitwise_or.reduce(used, axis=None)) & (itemsize - 1):
            raise ValueError(f"{what} at an address that is no multiple of its {itemsize} bytes, which a GPU refuses")

    def create_masked_load(self, ptrs: Any, mask: Any, other: Any, *args: Any, **kwargs: Any) -> Any:
        ty = ptrs.get_element_ty()
        dtype = numpy_type(ty)
        mask = np.broadcast_to(np.asarray(mask.data), ptrs.data.shape)
        self._check(ptrs.data, mask, dtype.itemsize, "load")
        raw = np.dtype(f"u{dtype.itemsize}")
        fill = np.array(memory.poison_value(dtype) if other is None else other.data).astype(dtype)
        fill = np.ascontiguousarray(np.broadcast_to(fill, ptrs.data.shape)).view(raw)
        found = stock._interpreter.load(ptrs.data, mask, fill, raw)
        return Handle(found.view(dtype), ty)

    def create_masked_store(self, ptrs: Any, value: Any, mask: Any, *args: Any, **kwargs: Any) -> None:
        dtype = numpy_type(ptrs.get_element_ty())
        mask = np.broadcast_to(np.asarray(mask.data), ptrs.data.shape)
        self._check(ptrs.data, mask, dtype.itemsize, "store")
        data = np.ascontiguousarray(np.broadcast_to(value.data, ptrs.data.shape)).astype(dtype, copy=False)
        stock._interpreter.store(ptrs.data, data.view(f"u{dtype.itemsize}"), mask)

    def create_atomic_rmw(self, op: Any, ptr: Any, val: Any, mask: Any, sem: Any, scope: Any) -> Any:
        return self._atomic(self.ir_rmw_op_to_interpreter_rmw_op[op].name, ptr, val, mask)

    def create_descriptor_reduce(self, kind: Any, desc: Any, value: Any, indices: Any) -> None:
        pointers, mask = desc.materialize_pointers(indices)
        mask = mask if isinstance(mask, Handle) else Handle(mask, tl.int1)  # 3.6 gives the array
        self._atomic(_REDUCE_KINDS[kind], pointers, value, mask)

    def _atomic(self, op: str, ptr: Any, val: Any, mask: Any) -> Any:
        combine = _ATOMICS[op]
        used, dtype = np.broadcast_to(mask.data, val.data.shape), val.data.dtype
        unique, lane = np.unique(ptr.data[used], return_inverse=True)
        addresses, everywhere = Handle(unique, ptr.dtype), Handle(np.ones(unique.shape, bool), tl.int1)
        cells = self.create_masked_load(addresses, everywhere, None)
        seen, given = np.empty(lane.shape, dtype), val.data[used]
        for i, cell in enumerate(lane):  # in lane order: lanes of one address see each other
            seen[i] = cells.data[cell]
            cells.data[cell] = combine(cells.data[cell], given[i])
        self.create_masked_store(addresses, cells, everywhere)
        old = np.full(val.data.shape, memory.poison_value(dtype), dtype)
        old[used] = seen
        return Handle(old, val.dtype.scalar)

    def create_atomic_cas(self, ptr: Any, cmp: Any, val: Any, sem: Any, scope: Any) -> Any:
        self._check(ptr.data, np.ones(ptr.data.shape, bool), val.data.itemsize, "atomic")
        raw = f"u{val.data.itemsize}"
        found = stock._interpreter.atomic_cas(
            ptr.data, cmp.data.view(raw), val.data.view(raw), self.ir_sem_to_interpreter_sem[sem]
        )
        return Handle(found.view(val.data.dtype), val.dtype.scalar)

    # -- constants and casts
    def get_bf16(self, value: Any) -> Any:
        return Handle(np.array([value], ml_dtypes.bfloat16), tl.bfloat16)

    def get_all_ones_value(self, ty: Any) -> Any:
        dtype = numpy_type(ty)
        return Handle(np.full(1, True) if dtype.kind == "b" else np.full(1, -1).astype(dtype), ty.scalar)

    def cast_impl(self, src: Any, dst_type: Any) -> Any:
        dtype = numpy_type(dst_type)
        data = src.data
        if dtype.kind in "iu" and (data.dtype.kind == "f" or data.dtype in _NARROW):
            return Handle(_libdevice.to_integer(_wide(data), dtype), dst_type.scalar)
        if data.dtype in _NARROW or dtype in _NARROW:  # ml_dtypes has no direct cast between some pairs
            data = data.astype(np.float64 if data.dtype.itemsize > 4 else np.float32)
        return Handle(data.astype(dtype), dst_type.scalar)

    def create_fp_to_fp(self, src: Any, dst_type: Any, rounding_mode: Any) -> Any:
        dtype = numpy_type(dst_type)
        if dtype in _FLOAT8:
            if src.data.dtype == np.float64:
                raise TypeError("no GPU casts float64 to float8 in Triton: cast to float32 first")
            # cvt.rn.satfinite: what is beyond the largest value, infinity too, becomes it
            limited = np.clip(_wide(src.data), -_FLOAT8[dtype], _FLOAT8[dtype])
            src = Handle(limited, tl.float32)
        if rounding_mode == stock._ir.ROUNDING_MODE.RTZ:
            return Handle(_truncated(_wide(src.data), dtype), dst_type.scalar)
        return self.cast_impl(src, dst_type)

    def create_bitcast(self, src: Any, dst_type: Any) -> Any:
        return Handle(np.ascontiguousarray(src.data).view(numpy_type(dst_type)), dst_type.scalar)

    create_int_to_ptr = create_bitcast
    create_ptr_to_int = create_bitcast

    # -- arithmetic
    def unary_op(self, arg: Any, op: Any) -> Any:
        return Handle(op(_wide(arg.data)).astype(arg.data.dtype, copy=False), arg.dtype.scalar)

    def binary_op(self, lhs: Any, rhs: Any, op: Any) -> Any:
        a, b = lhs.data, rhs.data
        if a.dtype == np.bool_ and b.dtype == np.bool_ and op not in _COMPARISONS:
            return Handle((op(a.astype(np.int8), b.astype(np.int8)) & 1).astype(np.bool_), tl.int1)  # wraps
        out = op(_wide(a), _wide(b))
        if op in _COMPARISONS:
            return Handle(out, tl.int1)
        return Handle(out.astype(a.dtype, copy=False), lhs.dtype.scalar)

    def create_fneg(self, arg: Any) -> Any:
        return self.unary_op(arg, np.negative)

    def create_minnumf(self, lhs: Any, rhs: Any) -> Any:
        return self.binary_op(lhs, rhs, np.fmin)

    def create_maxnumf(self, lhs: Any, rhs: Any) -> Any:
        return self.binary_op(lhs, rhs, np.fmax)

    def create_clampf(self, arg: Any, lo: Any, hi: Any, propagate_nans: Any) -> Any:
        if propagate_nans == stock._ir.PROPAGATE_NAN.NONE:
            return self.create_minnumf(self.create_maxnumf(arg, lo), hi)
        return self.binary_op(self.binary_op(arg, lo, np.maximum), hi, np.minimum)

    def create_fma(self, x: Any, y: Any, z: Any) -> Any:
        return Handle(_libdevice.fma(*np.broadcast_arrays(x.data, y.data, z.data)), z.dtype.scalar)

    # LLVM leaves a shift by the width or more undefined, and a division of integers by zero: GPUs differ.
    def _shift(self, lhs: Any, rhs: Any, kind: str, op: Any) -> Any:
        dtype = lhs.data.dtype
        width = dtype.itemsize * 8
        amount = rhs.data.astype(np.dtype(f"u{dtype.itemsize}"))  # a negative amount is a large one
        out = op(
            lhs.data.view(f"{kind}{dtype.itemsize}"), np.minimum(amount, width - 1).astype(f"{kind}{dtype.itemsize}")
        )
        return Handle(
            np.where(amount < width, out.view(dtype), memory.poison_value(dtype)).astype(dtype), lhs.dtype.scalar
        )

    def create_shl(self, lhs: Any, rhs: Any) -> Any:
        return self._shift(lhs, rhs, "u", np.left_shift)

    def create_ashr(self, lhs: Any, rhs: Any) -> Any:
        return self._shift(lhs, rhs, "i", np.right_shift)

    def create_lshr(self, lhs: Any, rhs: Any) -> Any:
        return self._shift(lhs, rhs, "u", np.right_shift)

    def _quotient(self, lhs: Any, rhs: Any, remainder: bool) -> Any:
        dtype = lhs.data.dtype
        left = np.fmod(lhs.data, rhs.data)  # C's: with the sign of the dividend
        out = left if remainder else (lhs.data - left) // rhs.data
        zero = rhs.data == 0
        if zero.any():
            out = np.where(zero, memory.poison_value(dtype), out).astype(dtype)
        return Handle(out, lhs.dtype.scalar)

    def create_idiv(self, lhs: Any, rhs: Any) -> Any:
        return self._quotient(lhs, rhs, False)

    def create_srem(self, lhs: Any, rhs: Any) -> Any:
        return self._quotient(lhs, rhs, True)

    create_urem = create_srem

    def create_umulhi(self, lhs: Any, rhs: Any) -> Any:
        raw = np.dtype(f"u{lhs.data.itemsize}")
        high = _libdevice.high_product(*np.broadcast_arrays(lhs.data.view(raw), rhs.data.view(raw)))
        return Handle(high.view(lhs.data.dtype), lhs.dtype.scalar)

    def create_fabs(self, arg: Any) -> Any:
        return Handle(np.abs(arg.data), arg.dtype.scalar)

    def create_erf(self, arg: Any) -> Any:
        return Handle(_libdevice.erf(arg.data).astype(arg.data.dtype), arg.dtype.scalar)

    def create_dot(self, a: Any, b: Any, d: Any, precision: Any, *options: Any) -> Any:
        wide = np.result_type(d.data.dtype, np.float32) if d.dtype.is_floating() else d.data.dtype
        x, y = a.data.astype(wide), b.data.astype(wide)
        if a.data.dtype == np.float32 and precision == stock._ir.INPUT_PRECISION.TF32:
            x, y = _tf32(x), _tf32(y)  # the other modes are within a few units of float32's last place
        return Handle((np.matmul(x, y) + d.data.astype(wide)).astype(d.data.dtype), d.dtype.scalar)

    def create_dot_scaled(
        self, a: Any, a_scale: Any, a_format: Any, b: Any, b_scale: Any, b_format: Any,
        fast_math: bool, a_k_pack: bool, b_k_pack: bool, acc: Any,
    ) -> Any:  # fmt: skip
        x = _scaled(a.data, a_scale, a_format, -1 if a_k_pack else -2)
        y = _scaled(b.data, b_scale, b_format, -2 if b_k_pack else -1, transposed=True)
        return Handle((np.matmul(x, y) + acc.data).astype(acc.data.dtype), acc.dtype.scalar)

    def create_histogram(self, data: Any, bins: int, mask: Any) -> Any:
        values = data.data if mask is None else data.data[mask.data]
        values = values[(values >= 0) & (values < bins)]
        return Handle(np.bincount(values.astype(np.int64), minlength=bins).astype(np.int32), tl.int32)

    def create_gather(self, src: Any, indices: Any, axis: int) -> Any:
        size = src.data.shape[axis]
        outside = (indices.data < 0) | (indices.data >= size)
        if outside.any():
            raise IndexError(f"tl.gather: index {indices.data[outside][0]} of an axis of {size}")
        return super().create_gather(src, indices, axis)

    # -- checks and messages
    def create_assert(self, condition: Any, message: str) -> None:
        if not np.all(condition.data):
            failed = (
                f" in {int(np.sum(~condition.data))} of {condition.data.size} lanes" if condition.data.size > 1 else ""
            )
            raise AssertionError(f"device_assert failed{failed}: {message}")

    def create_assume(self, condition: Any) -> None:
        if not np.all(condition.data):
            raise ValueError("tl.assume: what the compiler is told to assume does not hold")

    def create_print(self, prefix: str, hex: bool, values: Any, signed: Any) -> None:
        where = ", ".join(map(str, self.grid_idx))
        for value in values or [None]:
            shown = "" if value is None else _shown(value.data, hex)
            print(f"pid ({where}){prefix}{shown}")

    def create_inline_asm(self, asm: str, *_: Any) -> Any:
        raise KernelError(f"inline_asm_elementwise runs on a GPU only, not in the interpreter: {asm.strip()!r}")

    def create_grid_dependency_wait(self) -> None:
        """Programs run one after another: nothing to wait for."""

    create_grid_dependency_launch_dependents = create_grid_dependency_wait


def _shown(data: np.ndarray, hex: bool) -> str:
    if hex:
        raw = data.astype(np.uint8) if data.dtype == np.bool_ else data.view(f"u{data.itemsize}")
        return np.array2string(raw, formatter={"int": lambda v: f"0x{int(v):0{2 * data.itemsize}x}"})
    return str(data)


def _tf32(x: np.ndarray) -> np.ndarray:
    """float32 rounded to the 10 bits of mantissa that tensor cores multiply, to nearest even."""
    bits = x.view(np.uint32)
    rounded = (bits + (0xFFF + (bits >> 13 & 1))) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(x), rounded.view(np.float32), x)


_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def _scaled(data: np.ndarray, scale: Any, format: Any, packed: int, transposed: bool = False) -> np.ndarray:
    """An operand of dot_scaled in float32: two e2m1 values a byte unpacked along an axis, each group times its scale.

    A scale is a power of two (e8m0 in uint8) for every 32 values of K; it comes as (rows, groups) for both operands.
    """
    if format == stock._ir.ScaleDotElemTypeTY.E2M1:
        raw = np.moveaxis(data.view(np.uint8), packed, -1)
        pairs = np.stack([raw & 15, raw >> 4], axis=-1).reshape(*raw.shape[:-1], -1)
        values = np.moveaxis(np.where(pairs & 8, -1, 1).astype(np.float32) * _E2M1[pairs & 7], -1, packed)
    else:
        values = data.astype(np.float32)
    if scale is None:
        return values
    if scale.dtype.is_floating():
        factors = scale.data.astype(np.float32)
    else:
        exponent = scale.data.view(np.uint8).astype(np.int32)
        factors = np.where(exponent == 255, np.float32(np.nan), np.ldexp(np.float32(1), exponent - 127))
    size = values.shape[-2 if transposed else -1]
    factors = np.repeat(factors, size // factors.shape[-1], axis=-1)
    return values * (np.swapaxes(factors, -1, -2) if transposed else factors)


builder = Builder()
# Without debug the interpreter drops tl.device_assert, which stops a GPU.
builder.options = dataclasses.replace(builder.options, debug=True, sanitize_overflow=False)


class Semantic(TritonSemantic):  # type: ignore[misc]
    """Triton's, which takes ``other`` of a load for absent where it is false: a zero, of one element."""

    def load(self, ptr: Any, mask: Any, other: Any, *args: Any, **kwargs: Any) -> Any:
        if mask is None or other is None or other:
            return super().load(ptr, mask, other, *args, **kwargs)
        found = super().load(ptr, mask, None, *args, **kwargs)
        return self.where(mask, found, self.cast(other, found.dtype))


semantic = Semantic(builder)


# -- reductions and scans
_ROUNDS = _NARROW | {np.dtype(np.bool_)}  # a sum of these rounds, or wraps, at every step, as on a GPU


def function_of(combine: Any) -> Callable[..., Any]:
    """The Python function behind a combine function, which may have been rewritten already."""
    return combine if isinstance(combine, types.FunctionType) else interpretable(combine)


def combined(combine: Any, dtypes: list[Any], *operands: list[np.ndarray]) -> list[np.ndarray]:
    """combine applied to whole blocks of each operand's arrays; its results cast to dtypes and broadcast."""
    flat = [tensor(x, ty) for arrays in operands for x, ty in zip(arrays, dtypes, strict=True)]
    out = combine(*flat)
    out = out if isinstance(out, tuple) else (out,)
    shape = operands[0][0].shape
    found = [data_of(semantic.to_tensor(o)) for o in out]
    return [np.broadcast_to(x, shape).astype(numpy_type(ty)) for x, ty in zip(found, dtypes, strict=True)]


@cache
def known(name: str) -> Callable[..., Any]:
    """The rewritten function of one of Triton's own combine functions, for recognition by identity."""
    return function_of(getattr(tl.standard, name))


def reduce(input: Any, axis: Any, combine_fn: Any, keep_dims: bool = False, **_: Any) -> Any:
    inputs = input if isinstance(input, tuple) else (input,)
    axis, keep_dims = unwrap(axis), unwrap(keep_dims)
    dtypes = [t.dtype for t in inputs]
    arrays = [t.handle.data for t in inputs]
    ndim = arrays[0].ndim
    if axis is None:
        arrays, at = [x.reshape(-1) for x in arrays], 0
    else:
        at = axis % ndim
    combine = function_of(combine_fn)
    if combine is known("_sum_combine") and arrays[0].dtype not in _ROUNDS:
        out = [np.sum(arrays[0], axis=at, dtype=arrays[0].dtype)]
    elif combine in (known("_elementwise_max"), known("_elementwise_min")):
        extreme = np.fmax if combine is known("_elementwise_max") else np.fmin
        out = [extreme.reduce(_wide(arrays[0]), axis=at).astype(arrays[0].dtype)]
    else:
        out = [np.moveaxis(x, at, 0) for x in arrays]
        while len(out[0]) > 1:  # neighbours, so that the order of the elements is kept
            out = combined(combine, dtypes, [x[0::2] for x in out], [x[1::2] for x in out])
        out = [x[0] for x in out]
    if keep_dims:
        out = [np.asarray(x).reshape((1,) * ndim) if axis is None else np.expand_dims(x, at) for x in out]
    results = tuple(tensor(np.asarray(x), ty) for x, ty in zip(out, dtypes, strict=True))
    return results if isinstance(input, tuple) else results[0]


def associative_scan(input: Any, axis: Any, combine_fn: Any, reverse: bool = False, **_: Any) -> Any:
    inputs = input if isinstance(input, tuple) else (input,)
    dtypes = [t.dtype for t in inputs]
    at = unwrap(axis) % inputs[0].handle.data.ndim
    out = [np.moveaxis(t.handle.data, at, 0) for t in inputs]
    if unwrap(reverse):
        out = [x[::-1] for x in out]
    combine = function_of(combine_fn)
    if combine is known("_sum_combine") and out[0].dtype not in _ROUNDS:
        out = [np.cumsum(out[0], axis=0, dtype=out[0].dtype)]
    else:
        step = 1
        while step < len(out[0]):  # after it, each element holds the last 2 * step up to itself
            before = [np.roll(x, step, axis=0) for x in out]
            joined = combined(combine, dtypes, before, out)
            out = [np.concatenate([x[:step], y[step:]]) for x, y in zip(out, joined, strict=True)]
            step *= 2
    if unwrap(reverse):
        out = [x[::-1] for x in out]
    results = tuple(tensor(np.ascontiguousarray(np.moveaxis(x, 0, at)), ty) for x, ty in zip(out, dtypes, strict=True))
    return results if isinstance(input, tuple) else results[0]


def unwrap(value: Any) -> Any:
    """A constexpr's value."""
    return value.value if isinstance(value, tl.constexpr) else value


# -- libdevice
class Libdevice:
    """libdevice's functions on NumPy, for the dtypes that the GPU's have: Triton's own tables of CUDA's say which."""

    called = ""  #: the function that is being called

    def __getattr__(self, name: str) -> Any:
        if not hasattr(stock_libdevice, name):
            raise AttributeError(f"libdevice has no function {name!r}")
        if name not in _libdevice.FUNCTIONS:
            raise AttributeError(f"libdevice.{name} has no NumPy version in tensorlib's interpreter")
        stock = getattr(cuda_libdevice, name, None) or _of_amd_only

        def call(*args: Any, **_: Any) -> Any:
            self.called = name
            try:
                return stock(*args, _semantic=semantic)
            finally:
                self.called = ""

        setattr(self, name, call)
        return call


def _of_amd_only(x: Any, **_: Any) -> Any:
    return extern_elementwise("", "", [x], {(tl.float32,): ("", tl.float32)})


def extern_elementwise(name: Any, path: Any, args: list[Any], table: dict[Any, Any], *_: Any, **__: Any) -> Any:
    """Triton's dispatch on the dtypes of the arguments, and NumPy's function for it."""
    if not libdevice.called:
        symbols = ", ".join(symbol for symbol, _ in table.values())
        raise KernelError(f"extern_elementwise runs on a GPU only, not in the interpreter: {symbols}")
    tensors = [semantic.to_tensor(a) for a in args]
    given = tuple(t.dtype for t in tensors)
    if given not in table:
        expected = " or ".join(", ".join(map(str, types)) for types in table)
        raise TypeError(
            f"libdevice.{libdevice.called} takes {expected}, got {', '.join(map(str, given))}; cast the argument first"
        )
    result, dtype = table[given][1], numpy_type(table[given][1])
    out = np.asarray(_libdevice.FUNCTIONS[libdevice.called](*(data_of(t) for t in tensors)))
    bits = out.dtype.kind in "iu" and out.dtype.itemsize == dtype.itemsize
    return tensor(out.view(dtype) if bits else out.astype(dtype), result)


libdevice = Libdevice()


# -- functions: each is rewritten once, over globals of its own
def resolved(value: Any) -> Any:
    """A global of an interpreted function: what it stands for in the interpreter."""
    if isinstance(value, (Jit, JITFunction)):
        return interpretable(value)
    if value is stock_libdevice:
        return libdevice
    if getattr(value, "__module__", None) == stock_libdevice.__name__ and hasattr(stock_libdevice, value.__name__):
        return getattr(libdevice, value.__name__)
    if isinstance(value, (tuple, np.dtype, _dtypes.dtype)):
        return constant(value)
    if tl.core.is_builtin(value):
        return builtin(value)
    return value


def builtin(member: Any) -> Any:
    """A function of triton.language that computes at once."""

    def call(*args: Any, **kwargs: Any) -> Any:
        kwargs["_semantic"] = semantic
        return member(*args, **kwargs)

    return call


rewritten: dict[int, tuple[Any, Any]] = {}  # id of a stock JITFunction -> (it, its rewritten function)


def interpretable(fn: Any) -> Any:
    """The plain Python function that interprets a Jit or a stock JITFunction."""
    if isinstance(fn, Jit):
        if fn.interpreted is None:
            fn.interpreted = rewrite(fn.fn, fn.names, lambda f: setattr(fn, "interpreted", f))
        return fn.interpreted
    found = rewritten.get(id(fn))
    if found is None:
        rewrite(fn.fn, fingerprint.names_used(fn.fn), lambda f: rewritten.__setitem__(id(fn), (fn, f)))
        found = rewritten[id(fn)]
    return found[1]


class Transformer(stock.ASTTransformer):  # type: ignore[misc]
    """Assignments and comparisons as Triton has them; `and`, `or`, `not`, which Python decides by a truth value."""

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        self.generic_visit(node)  # 3.6 leaves the value as it is
        if len(node.targets) > 1:
            raise SyntaxError("a kernel takes no a = b = c")
        to_tensor = ast.Attribute(ast.Name("interpreter_semantic", ast.Load()), "to_tensor", ast.Load())
        node.value = ast.Call(to_tensor, [node.value, ast.Constant(False)], [])
        return node

    def visit_Compare(self, node: ast.Compare) -> Any:
        if _CHAIN is not None:
            return super().visit_Compare(node)
        if len(node.ops) > 1:
            raise SyntaxError("Triton before 3.9 takes no a < b < c: write (a < b) & (b < c)")
        return self.generic_visit(node)

    def _conditional(self, node: Any) -> ast.AST:
        self.generic_visit(node)
        node.test = ast.Call(ast.Name("_tensorlib_truth", ast.Load()), [node.test], [])
        return node  # type: ignore[no-any-return]

    visit_If = visit_While = visit_IfExp = _conditional

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        self.generic_visit(node)
        check = ast.Name("_tensorlib_check", ast.Load())
        return ast.Expr(ast.Call(check, [node.test, *([node.msg] if node.msg else [])], []))

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        lazy = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
        operands = [ast.Lambda(args=lazy, body=value) for value in node.values]
        return self._call("and" if isinstance(node.op, ast.And) else "or", *operands)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return self._call("not", node.operand) if isinstance(node.op, ast.Not) else node

    def _call(self, kind: str, *operands: Any) -> ast.AST:
        return ast.Call(ast.Name("_tensorlib_logic", ast.Load()), [ast.Constant(kind), *operands], [])


def logic(kind: str, *operands: Any) -> Any:
    """`and`, `or` (of functions, as Python may not evaluate all) and `not`: elementwise where an operand is a block."""
    if kind == "not":
        return semantic.not_(operands[0]) if is_block(operands[0]) else not operands[0]
    result = operands[0]()
    for operand in operands[1:]:
        if is_block(result):
            result = getattr(semantic, f"logical_{kind}")(result, semantic.to_tensor(operand()))
        elif bool(result) is (kind == "or"):
            return result
        else:
            other = operand()
            result = (
                getattr(semantic, f"logical_{kind}")(semantic.to_tensor(result), other) if is_block(other) else other
            )
    return result


def check(condition: Any, message: Any = "") -> None:
    """`assert` in a kernel: a device_assert."""
    semantic.device_assert(semantic.to_tensor(condition), str(unwrap(message)), None)


def truth(condition: Any) -> bool:
    """What a kernel's if and while decide by: on a GPU it must be one value."""
    if isinstance(condition, tl.core.tensor) and condition.handle.data.size != 1:
        shape = list(condition.handle.data.shape)
        raise ValueError(f"a block of shape {shape} has no truth value: if and while take a scalar")
    return bool(condition)


def loop(*bounds: Any, **_: Any) -> Iterator[Any]:
    """range and tl.range in a kernel: the index is a scalar of the bounds' integer type, not Python's."""
    tensors = [semantic.to_tensor(unwrap(b)) for b in bounds]
    ty = functools.reduce(semantic.integer_promote_impl, [t.dtype for t in tensors])
    dtype = numpy_type(ty)
    for i in range(*(int(data_of(t)) for t in tensors)):
        yield tl.core.tensor(Handle(np.array([i], dtype), ty), ty)


def keyword_loop(arg1: Any, arg2: Any = None, step: Any = None, **_: Any) -> Iterator[Any]:
    return loop(*(b for b in (arg1, arg2, step) if unwrap(b) is not None))


def smallest(*args: Any, **kwargs: Any) -> Any:
    """min of a kernel: of compile-time numbers, or tl.minimum."""
    return _extreme(builtins.min, semantic.minimum, args, kwargs)


def largest(*args: Any, **kwargs: Any) -> Any:
    """max of a kernel."""
    return _extreme(builtins.max, semantic.maximum, args, kwargs)


def _extreme(plain: Any, of_tensors: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    args = tuple(map(unwrap, args))
    if not any(isinstance(a, tl.core.tensor) for a in args):
        return plain(*args)
    propagate = unwrap(kwargs.get("propagate_nan", tl.PropagateNan.NONE))
    return functools.reduce(lambda a, b: of_tensors(a, b, propagate), map(semantic.to_tensor, args))


def map_elementwise(scalar_fn: Any, *args: Any, pack: int = 1, **_: Any) -> Any:
    """scalar_fn of each element, or of pack neighbours, one call at a time."""
    tensors = [semantic.to_tensor(a) for a in args]
    function, pack = function_of(scalar_fn), unwrap(pack)
    arrays = np.broadcast_arrays(*map(data_of, tensors))
    flat = [x.reshape(-1) for x in arrays]
    calls = []
    for i in range(0, flat[0].size, pack):
        given = [tensor(np.asarray(x[i + j]), t.dtype) for x, t in zip(flat, tensors, strict=True) for j in range(pack)]
        out = function(*given)
        calls.append([semantic.to_tensor(o) for o in (out if isinstance(out, tuple) else (out,))])
    results = []
    for k in range(0, len(calls[0]), pack):
        column = np.concatenate([call[k + j].handle.data for call in calls for j in range(pack)])
        results.append(tensor(column.reshape(arrays[0].shape), calls[0][k].dtype))
    return results[0] if len(results) == 1 else tuple(results)


def dot_scaled(*args: Any, **kwargs: Any) -> Any:
    """tl.dot_scaled, whose formats 3.6 wants as constexpr."""
    args = tuple(tl.constexpr(a) if isinstance(a, str) else a for a in args)
    kwargs = {k: tl.constexpr(v) if isinstance(v, str) else v for k, v in kwargs.items()}
    return _stock_dot_scaled(*args, **kwargs)


_stock_dot_scaled = builtin(tl.core.dot_scaled)


# -- hints: a false one miscompiles on a GPU
def hinted(name: str, holds: Callable[[np.ndarray, int, int], bool]) -> Callable[..., Any]:
    """tl.<name>(x, values), checked along every axis by holds(data, value, unit): unit is a neighbour's distance."""

    def hint(x: Any, values: Any, **_: Any) -> Any:
        if not isinstance(x, tl.core.tensor):
            return x
        values = unwrap(values)
        values = [unwrap(v) for v in (values if isinstance(values, (list, tuple, tl.tuple)) else [values])]
        if len(values) != max(1, len(x.shape)):
            raise ValueError(f"tl.{name}: {len(values)} values for a block of {len(x.shape)} axes")
        unit = max(1, x.dtype.element_ty.primitive_bitwidth // 8) if x.dtype.is_ptr() else 1
        for axis, value in enumerate(values):
            if value > 1 and not holds(np.moveaxis(x.handle.data, axis, -1), value, unit):
                raise ValueError(f"tl.{name}(..., {values}) does not hold: {x.handle.data}")
        return x

    return hint


def _steps(data: np.ndarray) -> np.ndarray:
    return np.diff(data.astype(np.int64), axis=-1)


def _divisible(data: np.ndarray, value: int, unit: int) -> bool:
    """Whether the first of every run of neighbours is a multiple: what the compiler takes tt.divisibility for.

    A run along any axis: of row-major pointers only the rows' beginnings can be multiples, along every axis.
    """
    first = np.ones(data.shape, bool)
    for axis in range(data.ndim):
        begins = np.moveaxis(first, axis, -1)  # a view
        begins[..., 1:] &= _steps(np.moveaxis(data, axis, -1)) != unit
    return not np.any(data[first] % data.dtype.type(value))


def _grouped(data: np.ndarray, value: int, step: int) -> bool:
    """Whether each group of value neighbours advances by step."""
    steps = _steps(data)
    inside = np.arange(1, data.shape[-1]) % value != 0
    return bool(np.all(steps[..., inside] == step))


HINTS = {
    "multiple_of": hinted("multiple_of", _divisible),
    "max_contiguous": hinted("max_contiguous", _grouped),
    "max_constancy": hinted("max_constancy", lambda data, value, unit: _grouped(data, value, 0)),
}


def is_value(returned: Any) -> bool:
    """Whether a kernel returned what it computed: numbers of its source alone are nothing to Triton either."""
    values = returned if isinstance(returned, (tuple, tl.core.tuple)) else (returned,)
    return any(isinstance(value, tl.core.tensor) for value in values)


def is_block(value: Any) -> bool:
    return isinstance(value, tl.core.tensor) and value.type.is_block()


def rewrite(fn: Any, names: dict[str, Any], keep: Callable[[Any], None]) -> Any:
    """fn with Triton's transformation of its source, over resolved globals. keep is told first: names may recur."""
    lines, first = inspect.getsourcelines(fn)
    tree = ast.parse(textwrap.dedent("".join(lines)))
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list = []
    definition.args.defaults, definition.args.kw_defaults = [], [None] * len(definition.args.kwonlyargs)
    Transformer().visit(definition)
    ast.fix_missing_locations(tree)
    ast.increment_lineno(tree, first - 1)
    scope: dict[str, Any] = {
        "__name__": fn.__module__,
        "tl": tl,
        "libdevice": libdevice,
        "interpreter_semantic": semantic,
        "_InterpreterComparison": _CHAIN,
        "_tensorlib_logic": logic,
        "_tensorlib_check": check,
        "_tensorlib_truth": truth,
        "range": loop,
        "min": smallest,
        "max": largest,
        "print": builtin(tl.core.device_print),
    }
    exec(compile(tree, fn.__code__.co_filename, "exec"), scope)
    made = scope[fn.__name__]
    made.__defaults__, made.__kwdefaults__ = fn.__defaults__, fn.__kwdefaults__
    keep(made)
    scope.update({name: resolved(value) for name, value in names.items()})
    return made


def constant(value: Any) -> Any:
    """A constexpr as the interpreted function sees it."""
    if isinstance(value, (Jit, JITFunction)):
        return interpretable(value)
    if isinstance(value, tuple):
        return tuple(constant(v) for v in value)
    return compiler.constant(value)


def argument(value: Any) -> Any:
    """A run-time argument as the interpreted function sees it: a scalar tl.tensor, None, or a tuple."""
    if value is None:
        return None
    if isinstance(value, tuple):
        return tuple(argument(v) for v in value)
    if type(value) is TensorDescriptor:
        *strides, _ = map(argument, value.strides)
        made = semantic.make_tensor_descriptor(
            base=argument(value.base), shape=[argument(n) for n in value.shape],
            strides=[*strides, tl.core.constexpr(1)], block_shape=[tl.core.constexpr(b) for b in value.block_shape],
            padding_option=value.padding,
        )  # fmt: skip
        made.handle.round_f32_to_tf32 = value.round_f32_to_tf32
        return made
    name = compiler.runtime_types(compiler.specialise(value, plain=True))[0]
    ty = tl.str_to_ty(name, None)
    if name[0] == "*":
        return tl.core.tensor(Handle(np.array([value.data_ptr()], np.uint64), ty), ty)
    return tl.core.tensor(Handle(np.array([value]).astype(numpy_type(ty)), ty), ty)


# -- what is replaced in triton while a launch runs: collected once, set and restored by each launch
class Recorder:
    """Stands in for Triton's patch scope, to learn what its functions would patch."""

    def __init__(self) -> None:
        self.found: dict[tuple[int, str], tuple[Any, str, Any]] = {}

    def set_attr(self, obj: Any, name: str, value: Any) -> None:
        self.found[id(obj), name] = obj, name, value


def transposed(self: Any) -> Any:
    return semantic.permute(self, (*range(len(self.shape) - 2), len(self.shape) - 1, len(self.shape) - 2))


def call_nested(self: Any, *args: Any, **kwargs: Any) -> Any:
    return interpretable(self)(*args, **{k: v for k, v in kwargs.items() if k != "_semantic"})


patches = Recorder()
for space in (tl, tl.core, tl.math, tl.core.tensor, tl.core.tensor_descriptor_base):
    for name, member in inspect.getmembers(space):
        if tl.core.is_builtin(member):
            patches.set_attr(space, name, builtin(member))
stock._patch_lang_tensor(tl.core.tensor, patches)
for space in (tl, tl.core):
    stock._patch_lang_core(space, patches)
for space in (tl, tl.core):  # after Triton's own have been noted for both
    patches.set_attr(space, "reduce", reduce)
    patches.set_attr(space, "associative_scan", associative_scan)
    patches.set_attr(space, "map_elementwise", map_elementwise)
    patches.set_attr(space, "dot_scaled", dot_scaled)
    patches.set_attr(space, "range", keyword_loop)
    for name, hint in HINTS.items():
        patches.set_attr(space, name, hint)
for name in ("gdc_wait", "gdc_launch_dependents"):  # launches follow each other: nothing to wait for
    patches.set_attr(tl.extra.cuda, name, lambda *_, **__: None)
patches.set_attr(tl.core, "extern_elementwise", extern_elementwise)
patches.set_attr(tl.core.tensor, "__index__", lambda self: int(self.handle.data.item()))
patches.set_attr(tl.core.tensor, "T", property(transposed))
patches.set_attr(JITFunction, "__call__", call_nested)
patches.set_attr(stock, "_get_np_dtype", numpy_type)
patches.set_attr(stock, "interpreter_semantic", semantic)
patches.set_attr(stock, "interpreter_builder", builder)
missing = object()


@contextmanager
def patched() -> Iterator[None]:
    """Triton's language replaced by the interpreter's, for a launch. The caller holds the compiler's lock."""
    before = []
    try:
        for obj, name, value in patches.found.values():
            before.append((obj, name, vars(obj).get(name, missing)))
            setattr(obj, name, value)
        yield
    finally:
        for obj, name, value in reversed(before):
            if value is missing:
                delattr(obj, name)
            else:
                setattr(obj, name, value)
