"""The in-place form of a pointwise operator as one kernel that writes into its first tensor's own memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from tensorlib import _native
from tensorlib._core import Tensor, modes
from tensorlib._dispatch import apply, bind_attrs, flatten, results
from tensorlib.kernels.pointwise import Elsewhere, Host, InPlace
from tensorlib.op import Op, _compile, _late


def written(op: Op) -> Callable[..., Any] | None:
    """``op`` with its result in its first tensor's memory; None where it has no such form.

    For tensors of other devices than the CPU, and large ones on it. Returns None, or, where a gradient is wanted, a
    tensor over the same memory with the new history; raises ``Elsewhere`` before anything is written where another
    way has to be gone.
    """
    kernel = op.kernel
    if type(kernel) is not Host or op.promote is None or op.random or not op.pointwise:
        return None
    if op.mutates or op.outputs != ("out",) or op.aux:
        return None
    twin = copy.copy(op)
    specs = None if op.spec is None else op.specs
    twin.kernel = InPlace(kernel.fn, kernel.name, kernel.promote, kernel.promoted, specs)
    twin.mutates, twin.n_public = (0,), 0
    twin.fast = twin.quick = twin.composite = twin.autocast = None  # type: ignore[misc, assignment]

    def on_cpu(*arrays: Any, **attrs: Any) -> None:
        if not _native.write(twin, arrays, attrs):
            raise Elsewhere

    twin.cpu = on_cpu

    def write(_: Op, operands: Sequence[Any], attrs: dict[str, Any]) -> Any:
        if not modes.grad or not any(isinstance(x, Tensor) and x._needs for x in operands):
            return apply(twin, operands, attrs)
        flat, counts = flatten(op, operands)
        needs = tuple([isinstance(x, Tensor) and x._needs for x in flat])
        # No view, whose base has the history; nothing that the gradient needs as it was before.
        if flat[0]._view is not None or any(s == "input" and i == 0 for _, s, i in op.keeps(needs)):
            raise Elsewhere
        if op.styled:
            bind_attrs(op, flat, attrs)
        result = results(op, flat, counts, dict(attrs), [flat[0]._array])  # first: it notes what is kept as it is now
        modes.grad = False
        try:
            apply(twin, operands, attrs)
        finally:
            modes.grad = True
        return result

    def make() -> Any:
        function = _compile(twin)
        function.__globals__["_apply"] = write
        return function

    return _late(op.name, make)  # type: ignore[no-any-return]
