"""From operands to results: bind (coerce, check, promote), execute (NumPy or a kernel), record (a Node).

``execute`` is the one place below autograd through which every computation goes, gradients included.
"""

from __future__ import annotations

import operator
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import _array, _native
from tensorlib._core import (
    KINDS,
    LIFTED,
    Node,
    Packed,
    Tensor,
    View,
    listening,
    modes,
    new,
    next_seq,
    node_class,
    observers,
    version_of,
    wrap,
)
from tensorlib._device import cpu, meta
from tensorlib._dtypes import HALF, OF_NUMPY, bool_, float32, float64
from tensorlib._plans import NO_PLAN, Planner
from tensorlib.errors import DeviceError, DimError, DtypeError, RangeError, UnsupportedError
from tensorlib.runtime import determinism, launch
from tensorlib.runtime.engine import planning

if TYPE_CHECKING:
    from tensorlib.op import Op

ndarray = np.ndarray
native = _native.state
NUMBERS = (bool, int, float, complex)
_FLOAT32, _FLOAT64, _BOOL = float32.numpy, float64.numpy, bool_.numpy


class Meta:
    """Shape and dtype of an input as ``spec`` sees it where the array itself has another dtype."""

    __slots__ = ("dtype", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.dtype = dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        n = 1
        for s in self.shape:
            n *= s
        return n


# --------------------------------------------------------------------------------------------------------- bind


def kind_of(value: Any) -> str:
    """How an error names what came."""
    return "Tensor" if isinstance(value, Tensor) else type(value).__name__


def operand(op: Op, name: str, value: Any) -> Any:
    """A Tensor, a Python number or None for what the caller passed where a tensor is expected."""
    if isinstance(value, Tensor) or type(value) in NUMBERS:
        return value
    if isinstance(value, ndarray):
        return wrap(value)
    if isinstance(value, np.generic):
        return value.item() if not value.dtype.hasobject else value
    if isinstance(value, NUMBERS):  # a subclass, such as an IntEnum
        plain: Any = next(kind for kind in NUMBERS if isinstance(value, kind))
        return plain(value)
    if hasattr(value, "__array__"):
        return wrap(np.asarray(value))
    raise TypeError(f"{op.name}(): argument '{name}' must be Tensor or number, not {kind_of(value)}")


def flatten(op: Op, operands: Sequence[Any]) -> tuple[list[Any], list[int] | None]:
    """Tensor arguments in one list; for an operator with sequences also how many each argument gave (-1: one)."""
    flat: list[Any] = []
    counts: list[int] | None = [] if op.variadic else None
    for param, value in zip(op.tensors, operands, strict=True):
        if param.kind == "arrays":
            if isinstance(value, Tensor) or not isinstance(value, (list, tuple)):
                raise TypeError(
                    f"{op.name}(): argument '{param.name}' must be tuple of Tensors, not {kind_of(value)}"
                )
            assert counts is not None
            counts.append(len(value))
            for i, v in enumerate(value):
                if not isinstance(v, Tensor):
                    raise TypeError(
                        f"{op.name}(): expected Tensor as element {i} in argument '{param.name}', but got {kind_of(v)}"
                    )
                flat.append(v)
            continue
        if counts is not None:
            counts.append(-1)
        if value is None:
            if param.kind != "optional":
                raise TypeError(f"{op.name}(): argument '{param.name}' must be Tensor, not NoneType")
            flat.append(None)
        elif isinstance(value, Tensor):
            flat.append(value)
        else:
            flat.append(operand(op, param.name, value))
    return flat, counts


def unflatten(flat: Sequence[Any], counts: list[int] | None) -> Sequence[Any]:
    """The inverse of ``flatten``: sequences are lists again."""
    if counts is None:
        return flat
    out: list[Any] = []
    at = 0
    for n in counts:
        if n < 0:
            out.append(flat[at])
            at += 1
        else:
            out.append(list(flat[at : at + n]))
            at += n
    return out


def as_int(op: str, name: str, value: Any) -> int:
    """An integer attribute; tensors and NumPy integers of one element are taken."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{op}(): argument '{name}' must be int, not {kind_of(value)}") from None


def wrap_dim(op: str, dim: Any, ndim: int, new_dim: bool = False) -> int:
    """``dim`` counted from the front, or a DimError. ``new_dim``: a dimension about to be made."""
    if type(dim) is not int:
        dim = as_int(op, "dim", dim)
    n = ndim + 1 if new_dim else max(ndim, 1)
    if not -n <= dim < n:
        raise DimError(
            f"{op}: dim {dim} is out of range for a {ndim}-D tensor: expected a dim in {-n} .. {n - 1} "
            f"(Dimension out of range)"
        )
    return dim % n


#: Operators to which no dims are none of them. To the other reductions they are all, as in PyTorch.
_NONE_OF_THEM = frozenset({"squeeze", "all", "any"})


def wrap_dims(op: str, dims: Any, ndim: int) -> tuple[int, ...]:
    """All dims for None; otherwise each counted from the front, without repetition."""
    if dims is None:
        return tuple(range(ndim))
    if type(dims) is int:
        wrapped: tuple[int, ...] = (wrap_dim(op, dims, ndim),)
    elif isinstance(dims, (tuple, list)):
        every = not dims and op not in _NONE_OF_THEM
        wrapped = tuple(range(ndim)) if every else tuple(wrap_dim(op, d, ndim) for d in dims)
    else:
        wrapped = (wrap_dim(op, dims, ndim),)
    if len(set(wrapped)) != len(wrapped):
        raise RangeError(f"{op}: dim {dims} names a dimension twice")
    return wrapped if ndim else ()


def as_ints(op: str, name: str, value: Any) -> tuple[int, ...]:
    """A shape: an int or a sequence of ints."""
    if type(value) is tuple:
        for v in value:
            if type(v) is not int:
                break
        else:
            return value
    if isinstance(value, (tuple, list)):
        return tuple(as_int(op, name, v) for v in value)
    return (as_int(op, name, value),)


def bind_attrs(op: Op, flat: Sequence[Any], attrs: dict[str, Any]) -> None:
    """Normalise attributes in place: dims count from the front, shapes are tuples of ints, numbers are numbers."""
    first = flat[0] if flat else None
    ndim = first._array.ndim if isinstance(first, Tensor) else 0
    for name, style in op.styled:
        value = attrs[name]
        if style == "dims":
            attrs[name] = wrap_dims(op.name, value, ndim)
        elif style == "dim":
            attrs[name] = value if value is None else wrap_dim(op.name, value, ndim)
        elif style == "newdim":
            attrs[name] = wrap_dim(op.name, value, ndim, new_dim=True)
        elif style == "ints":
            attrs[name] = value if value is None else as_ints(op.name, name, value)
        elif style == "scalar" and value is not None and type(value) not in NUMBERS:
            if isinstance(value, Tensor):
                value = value.item()
            attrs[name] = operand(op, name, value)
            if not isinstance(attrs[name], NUMBERS):
                raise TypeError(f"{op.name}(): argument '{name}' must be Number, not {kind_of(value)}")


def common_device(op: Op, flat: list[Any]) -> Any:
    """The device of the tensors. A 0-d CPU tensor may join tensors of another device, as a number."""
    device: Any = None
    mixed = False
    for x in flat:
        if isinstance(x, Tensor):
            at = cpu if type(x._array) is ndarray else x._array.device
            if device is None:
                device = at
            elif at is not device:
                mixed = True
                if device is cpu:
                    device = at
    if not mixed:
        return device
    for i, x in enumerate(flat):
        if isinstance(x, Tensor) and type(x._array) is ndarray:
            if op.promote is None or x._array.ndim:
                where = ", ".join(
                    f"{p} on {_array.device_of(t._array)}" for p, t in zip(op.names(flat), flat, strict=True)
                    if isinstance(t, Tensor)
                )  # fmt: skip
                raise DeviceError(
                    f"{op.name}: expected all tensors on the same device, got {where}: "
                    f"move one with .to(device)"
                )
            flat[i] = x._array.item()
        elif isinstance(x, Tensor) and x._array.device is not device:
            raise DeviceError(
                f"{op.name}: expected all tensors on the same device, got {device} and {x._array.device}: "
                f"move one with .to(device)"
            )
    return device


def refuse_complex(op: str, dtype: np.dtype[Any]) -> None:
    """DtypeError where the dtype is a complex one."""
    if dtype.kind == "c":
        name = "ComplexFloat" if dtype.itemsize == 8 else "ComplexDouble"
        raise DtypeError(
            f"{op}: \"{op}\" not implemented for '{name}': takes real numbers; "
            f"use the parts x.real and x.imag, or the size x.abs()"
        )


def promote(
    op: Op, flat: Sequence[Any], attrs: dict[str, Any], device: Any, halves: bool = False
) -> tuple[Sequence[Any], Sequence[Any], Any]:
    """(arrays, what spec sees, the result's dtype) with the promoted inputs in one dtype; half ones in float32.

    ``halves``: those stay as they are.
    """
    arrays: list[Any] = [x._array if isinstance(x, Tensor) else x for x in flat]
    rule = op.promote
    if rule is None:
        if not op.complex:
            for x in arrays:
                if type(x) is ndarray:
                    refuse_complex(op.name, x.dtype)
        return arrays, arrays, None
    where = op.promoted if op.promoted is not None else range(len(arrays))
    chosen = [i for i in where if arrays[i] is not None]
    if not chosen:  # an empty sequence: spec has the message
        return arrays, arrays, None
    compute, out = rule(op.name, [arrays[i] for i in chosen], attrs)
    if not op.complex:
        refuse_complex(op.name, compute)
    work = _FLOAT32 if compute in HALF and not op.exact and not halves else compute
    seen = arrays
    for i in chosen:
        x = arrays[i]
        if type(x) is ndarray:
            if x.dtype != work or x.dtype != compute:
                if seen is arrays:
                    seen = list(arrays)
                seen[i] = Meta(x.shape, compute)
                order: Any = "C" if 0 in x.strides else "K"  # K would order an expanded array's dims otherwise
                x = x if x.dtype == compute else x.astype(compute, order)
                arrays[i] = x.astype(work, order, copy=False)
        elif isinstance(x, NUMBERS):
            if device is None or device is cpu:
                if compute in HALF:
                    if seen is arrays:
                        seen = list(arrays)
                    seen[i] = Meta((), compute)
                    arrays[i] = np.asarray(x, _FLOAT32 if halves else work)
                elif compute.kind in "iub":
                    arrays[i] = np.asarray(x).astype(compute)  # wraps, where np.asarray(x, compute) would raise
                else:
                    arrays[i] = np.asarray(x, compute)
            elif not op.pointwise:
                arrays[i] = execute(op.registry["_full"], [], dict(size=(), fill_value=x, dtype=compute, device=device),
                                    [((), compute)], device)[0]  # fmt: skip
        elif not op.pointwise and x.dtype != compute:
            arrays[i] = execute(op.registry["cast"], [x], {"dtype": compute}, [(x.shape, compute)], device)[0]
    return arrays, seen, out


# ------------------------------------------------------------------------------------------------------ execute


def execute(op: Op, arrays: Sequence[Any], attrs: dict[str, Any], specs: Any, device: Any) -> Sequence[Any]:
    """Run one operator on bound arrays: its NumPy body on the CPU, its kernel elsewhere. The outputs as arrays."""
    if device is cpu:
        if op.name in native.least:
            done = _native.run(op, arrays, attrs, specs)
            if done is not None:
                return _observed(op, arrays, attrs, done)
        result = op.cpu(*arrays, **attrs)
        if op.mutates:
            outs: Sequence[Any] = ()
        else:
            outs = result if type(result) is tuple else (result,)
            fixed = None
            for i, out in enumerate(outs):
                want = out.dtype if specs is None else specs[i][1]
                if type(out) is not ndarray or out.dtype != want:
                    if fixed is None:
                        fixed = list(outs)
                    fixed[i] = np.asarray(out).astype(want, copy=False)
            if fixed is not None:
                outs = fixed
    elif device is meta:
        if specs is None and not op.mutates:
            raise UnsupportedError(
                f"{op.name}: the shape of its result depends on numbers, which a tensor on 'meta' does not have"
            )
        outs = [] if op.mutates else [_array.empty(shape, dtype, meta) for shape, dtype in specs]
    else:
        if op.kernel is None:
            raise DeviceError(
                f"{op.name}: runs on the CPU only, and came with a tensor on {device}: "
                f"move it with .cpu() and the result back with .to('{device}')"
            )
        launch.operator[0] = op.name
        try:
            if specs is None:  # the shapes depend on the data: the host function makes its outputs
                result = op.kernel(*arrays, **attrs)
                outs = result if type(result) is tuple else (result,)
            else:
                outs = [] if op.mutates else [_array.empty(shape, dtype, device) for shape, dtype in specs]
                op.kernel(*outs, *arrays, **attrs)
        except determinism.Unordered:
            raise RuntimeError(
                f"{op.name} does not have a deterministic implementation on {device}, and "
                f"'use_deterministic_algorithms(True)' was called: call it with warn_only=True, or use the CPU"
            ) from None
        finally:
            launch.operator[0] = ""
    return _observed(op, arrays, attrs, outs)


def narrow(op: Op, arrays: Sequence[Any], attrs: dict[str, Any], specs: Any) -> Sequence[Any]:
    """``execute`` on the CPU for operands of a half type: by the kernel that reads them, or in float32.

    A number that stands for a tensor is in float32 already.
    """
    if _native.halves(op, arrays):
        done = _native.run_halves(op, arrays, attrs, specs)
        if done is not None:
            return _observed(op, arrays, attrs, done)
    wide = list(arrays)
    for i in range(len(wide)) if op.promoted is None else op.promoted:
        x = wide[i]
        if type(x) is ndarray:
            wide[i] = x.astype(_FLOAT32, "C" if 0 in x.strides else "K", copy=False)
        elif type(x) is list:
            wide[i] = [y.astype(_FLOAT32, copy=False) for y in x]
    return execute(op, wide, attrs, specs, cpu)


def _observed(op: Op, arrays: Sequence[Any], attrs: dict[str, Any], outs: Sequence[Any]) -> Sequence[Any]:
    if listening[0]:
        for observe in observers:
            observe(op, arrays, attrs, outs)
    return outs


# ------------------------------------------------------------------------------------------------------- record


def sync(t: Tensor) -> None:
    """Bring a view's history up to date after its base was written in place."""
    view = t._view
    if view is None or view.stamp < 0 or t._writes is None or view.stamp == t._writes[0]:
        return
    base = view.base
    if base._needs and base is not t:
        grad, modes.grad = modes.grad, True
        try:
            again: Any = base
            for op, attrs in view.steps:
                again = apply_view(op, again, attrs)
        finally:
            modes.grad = grad
        keep_retained(t, again._node, again._index)
        t._node, t._index, t._needs = again._node, again._index, again._needs
    view.stamp = t._writes[0]


def keep_retained(t: Tensor, node: Any, index: int) -> None:
    """``retain_grad`` follows a tensor to its new Node."""
    old = t._node
    if old is not None and old.hooks is not None and node is not None and ("retain", t._index) in old.hooks:
        if node.hooks is None:
            node.hooks = {}
        node.hooks["retain", index] = old.hooks.pop(("retain", t._index))


def edge(t: Any) -> Any:
    """Where the gradient of an input goes: (Node, index), the leaf itself, or None."""
    if not isinstance(t, Tensor) or not t._needs:
        return None
    return t if t._node is None else (t._node, t._index)


def saved(t: Any) -> Any:
    """An input as a Node keeps it: (array, version counter, version now); numbers and None as they are."""
    if isinstance(t, Tensor):
        if listening[0] and modes.pack is not None:
            pack, unpack, _ = modes.pack
            count = version_of(t)
            before = count[0]
            packed = pack(t)
            if count[0] != before:
                raise RuntimeError(
                    "saved_tensors_hooks: A saved tensor pack hook is modifying its input in place: pack a clone"
                )
            return Packed(packed, unpack)
        counter = version_of(t)
        return t._array, counter, counter[0]
    return [saved(x) for x in t] if type(t) is list else t


def keep(x: Any) -> Any:
    """``saved`` for the fast paths: one operand, while nothing listens, so that no hook takes kept tensors away."""
    if type(x) not in KINDS:
        return x
    counter = x._writes
    if counter is None:
        counter = x._writes = [0]
    return x._array, counter, counter[0]


def make_node(rule: Any, edges: tuple[Any, ...], kept: Any = None, attrs: Any = None) -> Node:
    """A Node with the next sequence number."""
    node = new(node_class(rule))
    node.rule = rule
    node.edges = edges
    node.saved = kept
    node.attrs = attrs
    node.inputs = None
    node.outputs = ()
    node.hooks = None
    node.seq = next_seq()
    node.trace = traceback.extract_stack() if listening[0] and modes.anomaly else None
    return node


def record(op: Op, flat: Sequence[Any], counts: Any, attrs: dict[str, Any], outs: Sequence[Any]) -> Node:
    """The Node of one application: what the wanted gradients name is kept alive, and nothing else."""
    edges = tuple([edge(x) for x in flat])
    if type(outs[0]) in LIFTED:
        edges = outs[0].edges(edges, flat)
    if counts is None:
        inputs: Sequence[Any] = flat
        wanted = tuple([e is not None for e in edges])
    else:
        inputs = unflatten(flat, counts)
        wanted = tuple(
            [any(e is not None for e in v) if type(v) is list else v is not None for v in unflatten(edges, counts)]
        )
    kept: dict[str, Any] = {}
    for name, source, index in op.keeps(wanted):
        if source == "input":
            kept[name] = saved(inputs[index])
        elif source == "output":
            kept[name] = None  # filled in by the caller once it is wrapped
        else:
            v = inputs[index]
            if type(v) is list:
                kept[name] = [getattr(x._array, source) for x in v]
            else:
                kept[name] = getattr(v._array, source) if isinstance(v, Tensor) else None
    node = make_node(op, edges, kept, attrs)
    if counts is not None:
        node.outputs = (counts,)
    if op.promote is not None:
        out, broadcasts = outs[0], op.broadcasts
        dtype, shape = out.dtype, out.shape
        for e, x in zip(edges, flat, strict=True):
            if e is not None:
                a = x._array
                if a.dtype is not dtype or (broadcasts and a.shape != shape):
                    node.inputs = tuple(
                        [(x._array.shape if broadcasts else None, x._array.dtype) if isinstance(x, Tensor) else None
                         for x in flat]
                    )  # fmt: skip
                    break
    return node


def apply(op: Op, operands: Sequence[Any], attrs: dict[str, Any]) -> Any:
    """Bind, execute and record one application; the public results."""
    if op.autocast is not None and modes.autocast is not None:
        operands, touched = modes.autocast.cast(op.autocast, operands)
        if touched and op.takes_dtype and attrs["dtype"] is None:  # a sum in float32 of what came narrow
            attrs["dtype"] = np.dtype(np.float32)
    if planning[0]:
        out = planned(op, operands, attrs)
        if out is not NO_PLAN:
            return out
    return _general(op, operands, attrs)


def _general(op: Op, operands: Sequence[Any], attrs: dict[str, Any], done: Any = None) -> Any:
    """``apply`` without a shortcut. ``done`` is told what was bound and computed: see ``_plans``."""
    flat, counts = flatten(op, operands)
    for x in flat:
        if isinstance(x, Tensor) and x._view is not None:
            sync(x)
    if op.styled:
        bind_attrs(op, flat, attrs)
        if op.lifts and isinstance(flat[0], Tensor) and flat[0]._array.ndim == 0:
            return _lifted(op, operands, attrs)
    if op.composite is not None and not op.random:
        for x in flat:
            if isinstance(x, Tensor) and type(x._array) in LIFTED and x._array.decomposes(op):
                return op.composite(*unflatten(flat, counts), **attrs)
    if done is not None:
        done.bound(flat, counts, attrs)
    outs = compute(op, flat, counts, attrs)
    if done is not None:
        done.computed(flat, attrs, outs)
    if op.mutates:
        targets = unflatten(flat, counts)
        for i in op.mutates:
            target = targets[i]
            for t in target if type(target) is list else (target,):
                if t is not None:
                    version_of(t)[0] += 1
        return None
    return results(op, flat, counts, attrs, outs)


def compute(op: Op, flat: list[Any], counts: Any, attrs: dict[str, Any]) -> Sequence[Any]:
    """The outputs and auxiliary outputs, as arrays, of one application to bound operands. No history."""
    top = None
    for x in flat:
        if isinstance(x, Tensor) and type(x._array) in LIFTED and (top is None or x._array.order > top.order):
            top = x._array
    if "offset" in attrs and type(attrs["offset"]) in LIFTED:  # random numbers that differ along hidden dimensions
        return attrs["offset"].compute(op, flat, counts, attrs, top)  # type: ignore[no-any-return]
    if top is not None:
        return top.compute(op, flat, counts, attrs)  # type: ignore[no-any-return]
    device = common_device(op, flat)
    if device is None:
        device = attrs.get("device") or modes.device or cpu
    elif op.promote is not None and not any(isinstance(x, Tensor) for x in flat):
        device = cpu
    halves = device is cpu and counts is None and _native.halves(op, [getattr(x, "_array", None) for x in flat])
    arrays, seen, out_dtype = promote(op, flat, attrs, device, halves)
    arrays, seen = unflatten(arrays, counts), unflatten(seen, counts)
    if op.broadcasts and op.spec is None:
        specs = [(broadcast(op, seen), out_dtype)]
    else:
        specs = op.specs(seen, attrs)
    return narrow(op, arrays, attrs, specs) if halves else execute(op, arrays, attrs, specs, device)


def results(op: Op, flat: Sequence[Any], counts: Any, attrs: dict[str, Any], outs: Sequence[Any]) -> Any:
    """Wrap the public outputs, with a Node where a gradient is wanted."""
    needs = False
    for x in flat:
        if isinstance(x, Tensor) and x._needs:
            needs = True
            break
    if op.n_public == 1:
        out = outs[0]
        t = wrap(out)
        if needs and modes.grad and op.differentiable and (kind := out.dtype.kind) not in "iub":
            t._node = node = record(op, flat, counts, attrs, outs)
            t._needs = True
            if kind == "c":
                node.rule = op.conjugated
            kept = node.saved
            for name, i in op.output_names.items():
                if name in kept and kept[name] is None:
                    kept[name] = saved(t if i == 0 else wrap(outs[i]))
        return t
    public = [wrap(out) for out in outs[: op.n_public]]
    if needs and modes.grad and op.differentiable:
        node = record(op, flat, counts, attrs, outs)
        node.outputs = (counts, tuple([(o.shape, o.dtype, _array.device_of(o)) for o in outs[: op.n_public]]))
        for i, t in enumerate(public):
            if outs[i].dtype.kind in "iub":
                continue
            t._node = node
            t._index = i
            t._needs = True
            if outs[i].dtype.kind == "c":
                node.rule = op.conjugated
        kept = node.saved
        for name, i in op.output_names.items():
            if name in kept and kept[name] is None:
                kept[name] = saved(public[i] if i < op.n_public else wrap(outs[i]))
    return op.result_type(*public)


#: Applies an operator by its plan, where it has one.
planned = Planner(_general, sync, results)


def broadcast(op: Op, inputs: Sequence[Any]) -> tuple[int, ...]:
    """The broadcast shape of the inputs, or a ShapeError that names them."""
    shape: tuple[int, ...] | None = None
    for x in inputs:
        s = getattr(x, "shape", None)
        if s is None or s == shape:
            continue
        shape = s if shape is None else _broadcast_two(op, shape, s, inputs)
    return () if shape is None else shape


def _broadcast_two(op: Op, a: tuple[int, ...], b: tuple[int, ...], inputs: Sequence[Any]) -> tuple[int, ...]:
    if len(a) < len(b):
        a, b = b, a
    out = list(a)
    lead = len(a) - len(b)
    for i, (m, n) in enumerate(zip(a[lead:], b, strict=True)):
        if m != n and m != 1 and n != 1:
            shapes = " and ".join(str(tuple(x.shape)) for x in inputs if hasattr(x, "shape"))
            raise op.shape_error(
                f"cannot broadcast {shapes}: The size of tensor a ({m}) must match the size of tensor b ({n}) at "
                f"non-singleton dimension {lead + i}; expected sizes that are equal or 1"
            )
        out[lead + i] = n if m == 1 else m
    return tuple(out)


def _lifted(op: Op, operands: Sequence[Any], attrs: dict[str, Any]) -> Any:
    """A 0-d input to an operator along a dimension is a tensor of one element, and its results are 0-d again."""
    reshape: Callable[..., Tensor] = op.registry["view"].public
    lifted = [
        reshape(x, (1,)) if isinstance(x, Tensor) and x._array.ndim == 0 else x for x in operands
    ]  # fmt: skip
    out = apply(op, lifted, attrs)
    if isinstance(out, Tensor):
        return reshape(out, ()) if out._array.shape == (1,) else out
    return op.result_type(*[reshape(t, ()) if t._array.shape == (1,) else t for t in out])


def apply_view(op: Op, input: Any, attrs: dict[str, Any]) -> Tensor:
    """A view: the same memory under another shape and strides, sharing the version counter."""
    if not isinstance(input, Tensor):
        input = operand(op, "input", input)
        if not isinstance(input, Tensor):
            raise TypeError(f"{op.name}(): argument 'input' must be Tensor, not {kind_of(input)}")
    view = input._view
    if view is not None:
        sync(input)
    x = input._array
    if op.styled:
        attrs = dict(attrs)
        bind_attrs(op, (input,), attrs)
    try:
        out = op.reference(x, **attrs) if type(x) not in LIFTED else x.viewed(op, attrs)
    except (ValueError, IndexError, OverflowError):
        if op.spec is not None:
            op.spec(x, **attrs)  # raises the message that every device gives
        raise
    t = wrap(out)
    counter = t._writes = version_of(input)
    step = (op, attrs)
    grad = modes.grad
    stamp = counter[0] if grad else -1
    if view is None:
        t._view = View(input, (step,), stamp)
    else:
        t._view = View(view.base, (*view.steps, step), stamp)
    if grad and input._needs:
        viewed(t, op, input, attrs)
    if listening[0]:
        for observe in observers:
            observe(op, (x,), attrs, (out,))
    return t


def viewed(t: Tensor, op: Op, input: Tensor, attrs: dict[str, Any]) -> None:
    """Give the view ``t`` of an input that wants a gradient its Node."""
    if t._array.dtype.kind in "iub":
        return
    x = input._array
    kept = {}
    for name, source, _ in op.keeps((True,)):
        kept[name] = x.shape if source == "shape" else x.dtype
    t._node = make_node(op, (edge(input),), kept, attrs)
    t._needs = True


def dtype_name(dtype: np.dtype[Any]) -> str:
    """A NumPy dtype as users know it, for messages."""
    return str(OF_NUMPY.get(dtype, dtype))
