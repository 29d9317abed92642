"""The repaired interpreter itself: imported by interpreter.py at the first launch, as it imports triton.

`Builder` computes the operations, `interpretable` turns a kernel into a Python function over them, and `patched` puts
what such functions call in the place of Triton's compiler, for as long as a launch runs.
"""

from __future__ import annotations

import ast
import dataclasses
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
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter as stock
from triton.runtime.jit import JITFunction

from tensorlib import _dtypes
from tensorlib.runtime import _libdevice, compiler, memory
from tensorlib.runtime.compiler import Jit

_NARROW = frozenset(
    np.dtype(d) for d in (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)
)
_CHAINS = hasattr(stock, "_InterpreterComparison")  # since 3.9: a < b < c
_COMPARISONS = frozenset((np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal))

_ATOMICS: dict[str, Callable[[Any, Any], Any]] = {
    "ADD": np.add, "FADD": np.add, "MIN": np.minimum, "UMIN": np.minimum, "MAX": np.maximum, "UMAX": np.maximum,
    "AND": np.bitwise_and, "OR": np.bitwise_or, "XOR": np.bitwise_xor, "XCHG": lambda old, new: new,
}  # fmt: skip


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
            raise IndexError(
                f"{what} out of bounds at {int(bad.sum())} of {used.size} lanes, "
                f"the first at address {int(used[bad][0]):#x}"
            )

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
        combine = _ATOMICS[self.ir_rmw_op_to_interpreter_rmw_op[op].name]
        used, dtype = mask.data, val.data.dtype
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
        if data.dtype in _NARROW or dtype in _NARROW:  # ml_dtypes has no direct cast between some pairs
            data = data.astype(np.float64 if data.dtype.itemsize > 4 else np.float32)
        return Handle(data.astype(dtype), dst_type.scalar)

    def create_fp_to_fp(self, src: Any, dst_type: Any, rounding_mode: Any) -> Any:
        if rounding_mode == stock._ir.ROUNDING_MODE.RTZ:
            return Handle(_truncated(_wide(src.data), numpy_type(dst_type)), dst_type.scalar)
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
        wider = np.longdouble if z.data.dtype == np.float64 else np.float64
        product = x.data.astype(wider) * y.data.astype(wider)
        return Handle((product + z.data.astype(wider)).astype(z.data.dtype), z.dtype.scalar)

    def create_ashr(self, lhs: Any, rhs: Any) -> Any:
        signed = np.dtype(f"i{lhs.data.itemsize}")
        out = np.right_shift(lhs.data.view(signed), rhs.data.astype(signed)).view(lhs.data.dtype)
        return Handle(out, lhs.dtype.scalar)

    def create_lshr(self, lhs: Any, rhs: Any) -> Any:
        raw = np.dtype(f"u{lhs.data.itemsize}")
        out = np.right_shift(lhs.data.view(raw), rhs.data.astype(raw)).view(lhs.data.dtype)
        return Handle(out, lhs.dtype.scalar)

    def create_umulhi(self, lhs: Any, rhs: Any) -> Any:
        bits = lhs.data.itemsize * 8
        raw, double = np.dtype(f"u{bits // 8}"), np.dtype(object if bits == 64 else f"u{bits // 4}")
        high = (lhs.data.view(raw).astype(double) * rhs.data.view(raw).astype(double)) >> bits
        return Handle(high.astype(raw).view(lhs.data.dtype), lhs.dtype.scalar)

    def create_fabs(self, arg: Any) -> Any:
        return Handle(np.abs(arg.data), arg.dtype.scalar)

    def create_erf(self, arg: Any) -> Any:
        return Handle(_libdevice.erf(arg.data).astype(arg.data.dtype), arg.dtype.scalar)

    def create_dot(self, a: Any, b: Any, d: Any, *options: Any) -> Any:
        wide = np.result_type(d.data.dtype, np.float32) if d.dtype.is_floating() else d.data.dtype
        out = np.matmul(a.data.astype(wide), b.data.astype(wide)) + d.data.astype(wide)
        return Handle(out.astype(d.data.dtype), d.dtype.scalar)

    def create_histogram(self, data: Any, bins: int, mask: Any) -> Any:
        values = data.data if mask is None else data.data[mask.data]
        values = values[(values >= 0) & (values < bins)]
        return Handle(np.bincount(values, minlength=bins).astype(np.int32), tl.int32)


builder = Builder()
# Without debug the interpreter drops tl.device_assert, which stops a GPU.
builder.options = dataclasses.replace(builder.options, debug=True, sanitize_overflow=False)
semantic = TritonSemantic(builder)


# -- reductions and scans
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
    if combine is known("_sum_combine"):
        wide = _wide(arrays[0])
        out = [np.sum(wide, axis=at, dtype=wide.dtype).astype(arrays[0].dtype)]
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
    if combine is known("_sum_combine"):
        wide = _wide(out[0])
        out = [np.cumsum(wide, axis=0, dtype=wide.dtype).astype(out[0].dtype)]
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
    """libdevice's functions on NumPy, checked for the dtypes that the GPU's have."""

    def __getattr__(self, name: str) -> Any:
        if not hasattr(stock_libdevice, name):
            raise AttributeError(f"libdevice has no function {name!r}")
        compute = _libdevice.FUNCTIONS.get(name)
        if compute is None:
            raise AttributeError(f"libdevice.{name} has no NumPy version in tensorlib's interpreter")

        def call(*args: Any, **_: Any) -> Any:
            tensors = [semantic.to_tensor(a) for a in args]
            floats = {t.dtype for t in tensors if t.dtype.is_floating()}
            if not floats <= {tl.float32, tl.float64} or not floats:
                raise TypeError(
                    f"libdevice.{name} takes float32 or float64, got {', '.join(str(t.dtype) for t in tensors)}; "
                    f"cast the argument first"
                )
            dtype = tl.float64 if tl.float64 in floats else tl.float32
            out = np.asarray(compute(*(data_of(t).astype(numpy_type(dtype)) for t in tensors)))
            result = tl.int1 if out.dtype == np.bool_ else tl.int32 if out.dtype.kind == "i" else dtype
            return tensor(out.astype(numpy_type(result)), result)

        setattr(self, name, call)
        return call


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
        rewrite(fn.fn, compiler.names_used(fn.fn), lambda f: rewritten.__setitem__(id(fn), (fn, f)))
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
        if _CHAINS:
            return super().visit_Compare(node)
        if len(node.ops) > 1:
            raise SyntaxError("Triton before 3.9 takes no a < b < c: write (a < b) & (b < c)")
        return self.generic_visit(node)

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
        "_InterpreterComparison": getattr(stock, "_InterpreterComparison", None),
        "_tensorlib_logic": logic,
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
