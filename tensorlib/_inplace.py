"""Writing into a tensor: version counters, and the history that follows the new values.

An operator's in-place form is its out-of-place form followed by ``assign``. Written into a view, the history goes
to the base: a node that routes the gradient of the written part to the source and of the rest to what was there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorlib import _array, _native
from tensorlib._core import KINDS, LIFTED, Node, Tensor, listening, modes, version_of, wrap
from tensorlib._dispatch import apply_view, dtype_name, edge, keep_retained, make_node, planned, sync
from tensorlib._dtypes import bfloat16, float16
from tensorlib._promotion import category
from tensorlib.errors import AutogradError, DtypeError, ShapeError
from tensorlib.kernels import pointwise, transfer
from tensorlib.op import OLD_FORMS, old_form, registry

ndarray = np.ndarray
_F32, _F64 = np.dtype(np.float32), np.dtype(np.float64)
native = _native.state


_copy = planned.routine("copy_", pointwise.copy, 2)
_fill = planned.routine("fill_", pointwise.fill, 2)


def write(target: Any, source: Any, op: str, non_blocking: bool = False) -> None:
    """target[...] = source for arrays on any device, broadcast and converted. No autograd."""
    if type(target) in LIFTED or type(source) in LIFTED:
        later = type(target) not in LIFTED or (type(source) in LIFTED and source.order > target.order)
        (source if later else target).write(target, source, op, write)
        return
    if type(target) is ndarray:
        if type(source) is not ndarray and target.flags.writeable and transfer.write(target, source, non_blocking):
            return
        if type(source) is not ndarray:
            source = _array.to_host(source)
        if not target.flags.writeable:
            raise ShapeError(
                f"{op}: unsupported operation: more than one element of the written-to tensor refers to a single "
                f"memory location, or its memory is read-only. Write into a .clone() of it"
            )
        if source.dtype.kind == "c" and target.dtype.kind not in "cb":
            source = source.real
        np.copyto(target, source, casting="unsafe")
        return
    if any(s == 0 and n > 1 for s, n in zip(target.strides, target.shape, strict=True)):
        raise ShapeError(
            f"{op}: unsupported operation: more than one element of the written-to tensor refers to a single memory "
            f"location. Write into a .clone() of it"
        )
    if type(source) is ndarray and not source.ndim and source.dtype.kind != "c":
        _fill(target, source.item())
        return
    if type(source) is ndarray or source.device is not target.device:
        if transfer.write(target, source, non_blocking):
            return
        source = transfer.to(source, target.device, non_blocking)
    _copy(target, source)


class _Identity:
    """The history of ``x.copy_(y)``: y's."""

    name = "CopyBackwards"

    @staticmethod
    def backward(node: Node, grads: list[Any], create: bool) -> Sequence[Any]:
        """The gradient as it is, in the source's dtype and on its device."""
        dtype, device, shape = node.attrs
        g = grads[0].sum_to_size(shape)
        return (g.to(device=device, dtype=dtype),)


class _Overwritten:
    """The history of values that no tensor with a gradient gave: what was there before gets zeros."""

    name = "FillBackward0"

    @staticmethod
    def backward(node: Node, grads: list[Any], create: bool) -> Sequence[Any]:
        """Zeros."""
        return (grads[0].new_zeros(grads[0].shape),)


class _CopySlices:
    """The history of a base of which a view was written."""

    name = "CopySlices"

    @staticmethod
    def backward(node: Node, grads: list[Any], create: bool) -> Sequence[Any]:
        """(gradient of what the base was, gradient of what was written)."""
        steps = node.attrs
        g = grads[0].contiguous()
        written = rest = None
        if node.edges[1] is not None:
            written = g
            for op, attrs in steps:
                written = apply_view(op, written, attrs)
            written = written.clone()
        if node.edges[0] is not None:
            rest = g.clone()
            part = rest
            for op, attrs in steps:
                part = apply_view(op, part, attrs)
            part.zero_()
        return rest, written


#: The name of the Node of a tensor that vmap took the batch dimension of: its memory and history are those outside.
ENTERED = "AddBatchDimBackward0"


def check_writable(target: Tensor, op: str) -> None:
    """AutogradError where a write would lose a leaf's gradient."""
    if not modes.grad:
        return
    sync(target)
    for t in (target,) if target._view is None else (target, target._view.base):
        if t._node is not None and t._node.rule.name == ENTERED:
            raise AutogradError(
                f"{op}: vmap: a mapped tensor that requires grad outside is being used in an in-place operation. "
                f"Do it on a clone"
            )
    if target._needs and target._node is None:
        raise AutogradError(
            f"{op}: a leaf Variable that requires grad is being used in an in-place operation. "
            f"Do it under no_grad(), or on a clone"
        )
    view = target._view
    if view is not None and view.base._needs and view.base._node is None:
        raise AutogradError(
            f"{op}: a view of a leaf Variable that requires grad is being used in an in-place operation. "
            f"Do it under no_grad(), or on a clone"
        )


def assign(target: Tensor, source: Tensor, op: str, own: bool = False, non_blocking: bool = False) -> Tensor:
    """target[...] = source, with autograd. ``own``: source is a fresh result whose Node may become target's."""
    check_writable(target, op)
    if type(source._array) in LIFTED:
        source._array.prepare(target)
    x, y = target._array, source._array
    if x.shape != y.shape:
        if own:
            raise ShapeError(
                f"{op}: output with shape {list(x.shape)} doesn't match the broadcast shape {list(y.shape)}: an "
                f"in-place operator keeps the shape of its tensor"
            )
        try:
            fits = np.broadcast_shapes(x.shape, y.shape) == x.shape
        except ValueError:
            fits = False
        if not fits:
            raise ShapeError(
                f"{op}: cannot write a tensor of shape {tuple(y.shape)} into one of shape {tuple(x.shape)}"
            )
    if own and x.dtype != y.dtype and category(y.dtype) > category(x.dtype):
        raise DtypeError(
            f"{op}: result type {dtype_name(y.dtype)} can't be cast to the desired output type {dtype_name(x.dtype)}: "
            f"use the out-of-place operator"
        )
    if own and x.dtype.kind == "c" and y.dtype.kind == "f":
        raise DtypeError(f"{op}: In-place {op[:-1]} is not supported for complex tensors: its result is real")
    write(x, y, op, non_blocking)
    follow(target, source, own)
    return target


def follow(target: Tensor, source: Tensor, own: bool) -> None:
    """After ``source`` was written into ``target``: count the write, and give target (or its base) source's history."""
    x, y = target._array, source._array
    version_of(target)[0] += 1
    if not modes.grad:
        return
    view = target._view
    base = view.base if view is not None else target
    if not (source._needs or base._needs):
        return
    if x.dtype.kind in "iub":
        return
    origin = edge(source)
    if type(x) in LIFTED:
        (origin,) = x.edges((origin,), (source,))
    plain = own and x.dtype == y.dtype and isinstance(origin, tuple)
    if origin is not None and not plain:
        origin = (
            make_node(_Identity, (origin,), None, (y.dtype, _array.device_of(y), y.shape)),
            0,
        )  # fmt: skip
    if view is None:
        node, index = origin if origin is not None else (make_node(_Overwritten, (edge(target),)), 0)
        keep_retained(target, node, 0)
        target._node, target._index, target._needs = node, index, True
        return
    before = edge(base)
    base._node, base._index, base._needs = make_node(_CopySlices, (before, origin), None, view.steps), 0, True
    if view.stamp < 0:  # a view made under no_grad has a history from now on
        view.stamp = 0
    sync(target)


def _before_write(t: Tensor) -> Tensor:
    """The same values and history in other memory, for an operator that keeps what is about to be overwritten."""
    x = t._array
    if type(x) is ndarray:
        copied: Any = np.array(x)
    elif type(x) in LIFTED:
        before, modes.grad = modes.grad, False
        try:
            copied = wrap(x).clone()._array  # type: ignore[attr-defined]
        finally:
            modes.grad = before
    else:
        copied = _array.empty(x.shape, x.dtype, x.device)
        _copy(copied, x)
    out = wrap(copied)
    out._node, out._index, out._needs = t._node, t._index, t._needs
    return out


def _new_history(target: Tensor, result: Tensor) -> None:
    """The history of ``result``, over target's own memory, becomes target's; what it keeps of it has target's count."""
    node, own = result._node, result._writes
    count = version_of(target)
    count[0] -= 1  # the write was counted, and `follow` counts it
    follow(target, result, own=True)
    if node is not None and own is not None:
        for name, kept in node.saved.items():
            if type(kept) is tuple and kept[1] is own:
                node.saved[name] = (kept[0], count, count[0])


#: Elements from which the in-place form of a pointwise operator is one kernel on the CPU too: a pass, no copy.
MANY = 1 << 17
_ALIKE = frozenset((_F32, _F64, float16.numpy, bfloat16.numpy))


def writes_plainly(target: Tensor) -> bool:
    """Whether writing into ``target`` is writing into an array and counting it: it has no history, nor gets any."""
    x = target._array
    if type(x) is not ndarray or type(target) not in KINDS or not x.flags.writeable:
        return False
    view = target._view
    return not modes.grad or not (target._needs or (view is not None and view.base._needs))


def _alike(x: ndarray, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether a native kernel can write into x: all tensors among the arguments are of its float dtype."""
    if x.dtype not in _ALIKE or not _native.least():
        return False
    for a in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(a, Tensor) and a._array.dtype is not x.dtype:
            return False
    return True


def _fit(x: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether tensors among the arguments are of x's dtype, or 0-d, and x and they on a device other than the CPU."""
    if type(x) is not _array.DeviceArray:
        return False
    for a in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(a, Tensor):
            y = a._array
            if y.ndim and (type(y) is not _array.DeviceArray or y.dtype is not x.dtype):
                return False
            if type(y) in LIFTED:
                return False
    return True


def method(
    public: Callable[..., Any], name: str, ufunc: Any, keeps_input: bool, written: Any = None
) -> Callable[..., Tensor]:
    """The in-place method of an operator: ``x.add_(y)`` writes ``add(x, y)`` into x.

    ``keeps_input``: its gradient may need x as it was, which is then computed with (and kept) as a copy.
    ``written``: the operator whose kernel writes into x, for devices and where nothing is recorded: see ``op.written``.
    """

    def inplace(self: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        if self is None:  # the function of that name, with all its arguments by keyword
            self = kwargs.pop("input", None)
            if self is None:
                raise TypeError(f"{name}_() missing required argument: 'input'")
        if (
            ufunc is not None
            and not kwargs
            and len(args) == ufunc.nin - 1
            and not listening[0]
            and not (modes.grad and self._needs)
            and self._view is None
        ):
            x = self._array
            if (
                type(x) is ndarray
                and (x.dtype is _F32 or x.dtype is _F64)
                and x.flags.writeable
                and (x.size < MANY or name not in native.least)
            ):
                done = False
                if not args:
                    ufunc(x, out=x)
                    done = True
                elif type(args[0]) in KINDS:
                    other = args[0]
                    y = other._array
                    if (
                        type(y) is ndarray
                        and y.dtype is x.dtype
                        and (y.shape == x.shape or not y.ndim)
                        and not (modes.grad and (other._needs or other._view is not None))
                    ):
                        ufunc(x, y, out=x)
                        done = True
                elif type(args[0]) is float or type(args[0]) is int:
                    ufunc(x, args[0], out=x)
                    done = True
                if done:
                    if self._writes is not None:
                        self._writes[0] += 1
                    return self
        if name in OLD_FORMS and len(args) == len(registry[name].tensors):
            (_, *args), kwargs[OLD_FORMS[name]] = old_form(name, (self, *args))  # type: ignore[assignment]
        if not listening[0] and writes_plainly(self):
            x = self._array
            for a in (*args, *kwargs.values()) if kwargs else args:
                if isinstance(a, Tensor) and ((a._needs and modes.grad) or type(a._array) is not ndarray):
                    break
            else:
                if written is not None and x.size >= MANY and _alike(x, args, kwargs):
                    try:
                        written(self, *args, **kwargs)
                    except pointwise.Elsewhere:
                        pass
                    else:
                        return self
                result = public(self, *args, **kwargs)
                r = result._array
                if type(r) is ndarray and r.dtype is x.dtype and r.shape == x.shape:
                    np.copyto(x, r)
                    version_of(self)[0] += 1
                    return self
                return assign(self, result, f"{name}_", own=True)
        check_writable(self, f"{name}_")
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        recorded = modes.grad and (self._needs or any(a._needs for a in tensors))
        if written is not None and not listening[0] and _fit(self._array, args, kwargs):
            view = self._view
            if not (modes.grad and view is not None and view.base._needs):
                autocast, modes.autocast = modes.autocast, None
                try:
                    result = written(self, *args, **kwargs)
                except pointwise.Elsewhere:
                    pass
                else:
                    if result is not None:
                        _new_history(self, result)
                    return self
                finally:
                    modes.autocast = autocast
        before = _before_write(self) if keeps_input and recorded else self
        autocast = modes.autocast
        if autocast is None:
            return assign(self, public(before, *args, **kwargs), f"{name}_", own=True)
        modes.autocast = None  # what is written into a tensor is computed in its dtype
        try:
            return assign(self, public(before, *args, **kwargs), f"{name}_", own=True)
        finally:
            modes.autocast = autocast

    inplace.__name__ = inplace.__qualname__ = f"{name}_"
    inplace.__module__ = "tensorlib"  # where the function of that name is: pickle looks there
    inplace.__doc__ = f"In-place form of ``{name}``: the result is written into this tensor, which is returned."
    return inplace


def relayout(public: Callable[..., Any], name: str) -> Callable[..., Tensor]:
    """The in-place method of a view: ``x.unsqueeze_(0)`` gives x itself another shape over the same memory."""

    def inplace(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if modes.grad and self._needs and self._node is None:
            raise AutogradError(
                f"{name}_: a leaf Variable that requires grad is being used in an in-place operation. "
                f"Use the out-of-place {name}"
            )
        viewed = public(self, *args, **kwargs)
        version_of(self)[0] += 1
        self._array, self._node, self._index = viewed._array, viewed._node, viewed._index
        if self._view is not None:
            self._view = viewed._view
            self._view.stamp = version_of(self)[0] if self._view.stamp >= 0 else -1
        return self

    inplace.__name__ = inplace.__qualname__ = f"{name}_"
    inplace.__doc__ = f"In-place form of ``{name}``: this tensor itself takes the other shape."
    return inplace
