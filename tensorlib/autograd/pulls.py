"""What one node costs in backward: a function made from an operator's gradient rules, called with the gradient of its
one result.

It finds the kept arrays that the rules name, checks that nobody wrote into them since, and calls the rules of the edges
that want a gradient. Rules that are pure arithmetic run on bare arrays of one float dtype and shape. For everything
else (several results, gradients with a history, kept values that a hook took away or that were written, arrays that
stand for more than their numbers) it returns None, and ``engine.pull`` goes the general way, which has the errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._array import DeviceArray
from tensorlib._core import wrap

if TYPE_CHECKING:
    from tensorlib.op import Op, Vjp

ndarray = np.ndarray
_F32, _F64 = np.dtype(np.float32), np.dtype(np.float64)


def compiled(op: Op) -> Callable[..., Any] | None:
    """``pull(node, g, edges)``: the gradients for the edges, or None where the general way has to go."""
    if op.vjps is None or op.variadic or op.n_public != 1:
        return None
    scope: dict[str, Any] = {
        "_wrap": wrap, "_ndarray": ndarray, "_arrays": frozenset((ndarray, DeviceArray)), "_F32": _F32, "_F64": _F64,
        "_brought_back": brought_back, "__name__": __name__,
    }  # fmt: skip
    rules = [op.vjps] if op.rules is None else op.rules
    scope |= {f"_rule{i}": rule.function for i, rule in enumerate(rules) if rule is not None}
    exec(_code(_source(op)), scope)
    return scope["pull"]  # type: ignore[no-any-return]


@cache
def _code(source: str) -> Any:
    return compile(source, "<gradient>", "exec")


def _source(op: Op) -> str:
    names = [f"e{i}" for i in range(len(op.tensors))]
    lines = [
        "def pull(node, g, edges):",
        "    kept, attrs = node.saved, node.attrs",
        "    if kept is None or g is None: return None",
        "    x = g._array",
        "    if type(x) not in _arrays: return None",
        f"    {''.join(f'{e}, ' for e in names)}= edges",
    ]
    if op.rules is None:
        lines += _call(op, op.vjps, 0, "    ")
        lines.append("    results = list(r0) if isinstance(r0, (tuple, list)) else [r0]")
    else:
        if any(rule is not None and rule.pure for rule in op.rules):
            lines.append("    d = x.dtype if type(x) is _ndarray and (x.dtype is _F32 or x.dtype is _F64) else None")
        for i, rule in enumerate(op.rules):
            lines.append(f"    r{i} = None")
            if rule is not None:
                lines += [f"    if e{i} is not None:", *_call(op, rule, i, "        ")]
        lines.append(f"    results = [{', '.join(f'r{i}' for i in range(len(op.rules)))}]")
    lines.append("    return results if node.inputs is None else _brought_back(results, node.inputs, edges)")
    return "\n".join(lines)


def _call(op: Op, rule: Vjp, i: int, indent: str) -> list[str]:
    """Source that leaves what one rule gives in ``r{i}``."""
    lines, tensors, bare, fits = [], [], [], []
    for name, source, _ in rule.plan:
        v = f"{name}_"
        if source == "grad":
            tensors.append("g")
            bare.append("x")
        elif source == "needs":
            tensors.append(f"{{{', '.join(f'{p.name!r}: e{k} is not None' for k, p in enumerate(op.tensors))}}}")
        elif source == "attr":
            tensors.append(f"attrs[{name!r}]")
            bare.append(f"attrs[{name!r}]")
            fits.append(f"type(attrs[{name!r}]) in (float, int, bool)")
        elif source in ("input", "output"):
            lines += [
                f"{v} = kept[{name!r}]",
                f"if type({v}) is tuple:",
                f"    {v}, counter, version = {v}",
                f"    if counter[0] != version or type({v}) not in _arrays: return None",
                f"elif {v} is not None and type({v}) not in (float, int, bool): return None",
            ]
            tensors.append(f"_wrap({v}) if type({v}) in _arrays else {v}")
            bare.append(v)
            fits.append(f"(type({v}) is _ndarray and {v}.dtype is d and {v}.shape == x.shape "
                        f"or type({v}) in (float, int, bool))")  # fmt: skip
        else:
            tensors.append(f"kept[{name!r}]")
    general = f"r{i} = _rule{i}({', '.join(tensors)})"
    if not rule.pure or len(bare) < len(rule.plan):
        lines.append(general)
    else:
        lines += [
            f"if {' and '.join(['d is not None', *fits])}:",
            f"    r{i} = _rule{i}({', '.join(bare)})",
            f"    if r{i} is x: r{i} = g",
            f"    elif type(r{i}) is _ndarray and r{i}.dtype is d: r{i} = _wrap(r{i})",
            f"    else: {general}",
            f"else: {general}",
        ]
    return [indent + line for line in lines]


def brought_back(results: list[Any], inputs: Sequence[Any], edges: Sequence[Any]) -> list[Any]:
    """Gradients in the shapes and dtypes of the operands, which were broadcast and converted."""
    for i, r in enumerate(results):
        if r is not None and edges[i] is not None:
            shape, dtype = inputs[i]
            if shape is not None and r._array.shape != shape:
                r = r.sum_to_size(shape)
            if r._array.dtype != dtype:
                r = r.to(dtype)
            results[i] = r
    return results
