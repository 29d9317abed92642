"""The CPU fast path of ufuncs: pointwise operators that are one NumPy ufunc, on float32 or float64 arrays of one dtype.

A closure per operator goes straight to the ufunc and makes the Node inline. What is unusual for it (attributes, other
dtypes) goes to the operator's compiled function (`_quick`), and from there, or where that does not take it (promotion,
devices, subclasses, observers, a ufunc that raises), the one slow path in ``_dispatch``, whose results and errors are
the definition; a property test holds them together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._core import KINDS, Tensor, listening, modes, new, next_seq, node_class
from tensorlib._dispatch import apply, keep, sync
from tensorlib._native import state as native

if TYPE_CHECKING:
    from tensorlib.op import Op

_F32, _F64 = np.dtype(np.float32), np.dtype(np.float64)
ndarray = np.ndarray


def closure(op: Op) -> Callable[..., Any] | None:
    """The fast function of an operator, or None where it has no ufunc of its own."""
    if not op.pointwise or op.ufunc is None or op.ufunc.nout != 1 or op.ufunc.nin != len(op.tensors):
        return None
    return _unary(op) if len(op.tensors) == 1 else _binary(op)


def _otherwise(op: Op, operands: Sequence[Any], attrs: dict[str, Any]) -> Any:
    """What is not for a closure: integers and other dtypes that need no conversion are for the compiled function."""
    if op.quick is not None:
        out = op.quick(*operands, **attrs)
        if out is not None:
            return out
    return apply(op, operands, dict(attrs))


def _defaults(op: Op) -> dict[str, Any]:
    return {p.name: p.default for p in op.attrs}


def _named(op: Op, wanted: tuple[bool, ...]) -> tuple[tuple[str, int], ...]:
    """(name, index) of what the vjps need: index of an input, or -1 for the output."""
    out = []
    for name, source, index in op.keeps(wanted):
        if source not in ("input", "output"):
            raise TypeError(f"{op.name}: the vjp of a ufunc may name inputs and out, not {name}")
        out.append((name, index if source == "input" else -1))
    return tuple(out)


def _unary(op: Op) -> Callable[[Any], Any]:
    ufunc, attrs, name = op.ufunc, _defaults(op), op.name
    to_bool = op.is_integral()
    kept = _named(op, (True,)) if op.vjps else ()

    node_type = node_class(op)

    def fast(input: Any) -> Any:
        if type(input) in KINDS and not listening[0]:
            x = input._array
            if (
                type(x) is ndarray
                and ((d := x.dtype) is _F32 or d is _F64)
                and (name not in native.least or x.size < native.least[name])
            ):
                if input._view is not None:
                    sync(input)
                r = ufunc(x)
                if type(r) is not ndarray:
                    r = np.asarray(r)
                t = new(Tensor)
                t._array = r
                t._index = 0
                t._writes = None
                t._view = None
                if input._needs and modes.grad and not to_bool:
                    node = new(node_type)
                    node.rule = op
                    node.edges = (input if input._node is None else (input._node, input._index),)
                    node.saved = values = {}
                    for what, at in kept:
                        values[what] = keep(input if at == 0 else t)
                    node.attrs = attrs
                    node.inputs = None
                    node.outputs = ()
                    node.hooks = None
                    node.seq = next_seq()
                    node.trace = None
                    t._node = node
                    t._needs = True
                else:
                    t._node = None
                    t._needs = False
                return t
        return _otherwise(op, (input,), attrs)

    return fast


def _binary(op: Op) -> Callable[[Any, Any], Any]:
    ufunc, attrs, name = op.ufunc, _defaults(op), op.name
    to_bool = op.is_integral()
    kept = {w: _named(op, w) if op.vjps else () for w in ((True, False), (False, True), (True, True))}

    node_type = node_class(op)

    def fast(input: Any, other: Any) -> Any:
        if type(input) in KINDS and not listening[0]:
            x = input._array
            if (
                type(x) is ndarray
                and ((d := x.dtype) is _F32 or d is _F64)
                and (name not in native.least or x.size < native.least[name])
            ):
                if input._view is not None:
                    sync(input)
                needs = input._needs
                kind = type(other)
                if kind in KINDS:
                    y = other._array
                    if type(y) is not ndarray or y.dtype is not d:
                        return _otherwise(op, (input, other), attrs)
                    if other._view is not None:
                        sync(other)
                    also = other._needs
                elif kind is float or kind is int:
                    y = other
                    also = False
                else:
                    return _otherwise(op, (input, other), attrs)
                try:
                    r = ufunc(x, y)
                except (ValueError, OverflowError):
                    r = None
                if r is None:  # outside the handler, so that the proper error does not drag NumPy's along
                    return _otherwise(op, (input, other), attrs)
                if type(r) is not ndarray:
                    r = np.asarray(r)
                t = new(Tensor)
                t._array = r
                t._index = 0
                t._writes = None
                t._view = None
                if (needs or also) and modes.grad and not to_bool:
                    node = new(node_type)
                    node.rule = op
                    node.edges = (
                        None if not needs else input if input._node is None else (input._node, input._index),
                        None if not also else other if other._node is None else (other._node, other._index),
                    )
                    node.saved = values = {}
                    for what, at in kept[needs, also]:
                        values[what] = keep(input if at == 0 else other if at == 1 else t)
                    node.attrs = attrs
                    if (needs and x.shape != r.shape) or (also and y.shape != r.shape):
                        node.inputs = ((x.shape, d), (y.shape, d) if kind in KINDS else None)
                    else:
                        node.inputs = None
                    node.outputs = ()
                    node.hooks = None
                    node.seq = next_seq()
                    node.trace = None
                    t._node = node
                    t._needs = True
                else:
                    t._node = None
                    t._needs = False
                return t
        return _otherwise(op, (input, other), attrs)

    return fast
