"""Which operators are linear, so that their jvp is the operator applied to the tangent.

A rule is called as ``rule(op, primals, tangents, live, counts, attrs, outs)`` with flattened operands, ``live``
being the places of those that have a tangent; it gives a Tensor (or None for zero) for each public output, or None
where it does not apply: the operator's vjp is then differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tensorlib._core import Tensor, wrap
from tensorlib._dispatch import compute
from tensorlib.op import Op, registry

Rule = Callable[[Op, Sequence[Any], Sequence[Any], list[int], Any, dict[str, Any], Sequence[Any]], Any]


def linear(
    op: Op, primals: Sequence[Any], tangents: Sequence[Any], live: list[int], counts: Any, attrs: dict[str, Any],
    outs: Sequence[Any],
) -> Any:  # fmt: skip
    """Linear, together, in all operands that have a gradient; a number that is written beside them has no tangent."""
    if attrs.get("value") is not None:
        attrs = {**attrs, "value": 0}
    flat: list[Any] = []
    for x, t, name in zip(primals, tangents, _names(op, counts), strict=True):
        if not isinstance(x, Tensor) or (type(op.vjps) is dict and name not in op.vjps):
            flat.append(x)
        else:
            flat.append(x.new_zeros(x._array.shape) if t is None else t)  # type: ignore[attr-defined]
    return [wrap(compute(op, flat, counts, attrs)[0])]


def _names(op: Op, counts: Any) -> list[str]:
    """The parameter of each flattened operand."""
    if counts is None:
        return [p.name for p in op.tensors]
    return [p.name for p, n in zip(op.tensors, counts, strict=True) for _ in range(n if n >= 0 else 1)]


def multilinear(
    op: Op, primals: Sequence[Any], tangents: Sequence[Any], live: list[int], counts: Any, attrs: dict[str, Any],
    outs: Sequence[Any],
) -> Any:  # fmt: skip
    """Linear in each operand; a third one, ``bias``, is added along the channels (the last dimension of ``linear``)."""
    total: Any = None
    for i in live:
        if i == 2:
            t = tangents[2]
            if op.name != "linear":
                t = t.reshape((-1, *(1,) * (primals[1]._array.ndim - 2)))
            term: Any = t.expand(outs[0].shape)
        else:
            flat = [t if k == i else x for k, (x, t) in enumerate(zip(primals, tangents, strict=True))]
            if len(flat) > 2:
                flat[2] = None
            term = wrap(compute(op, flat, counts, attrs)[0])
        total = term if total is None else total + term
    return [total]


def copied(
    op: Op, primals: Sequence[Any], tangents: Sequence[Any], live: list[int], counts: Any, attrs: dict[str, Any],
    outs: Sequence[Any],
) -> Any:  # fmt: skip
    """Padding and the like with a constant: the tangent is padded with zeros."""
    changed = {**attrs, "value": 0} if "value" in attrs else {**attrs, "fill": 0}
    return [wrap(compute(op, list(tangents), counts, changed)[0])]


def logcumsumexp(
    op: Op, primals: Sequence[Any], tangents: Sequence[Any], live: list[int], counts: Any, attrs: dict[str, Any],
    outs: Sequence[Any],
) -> Any:  # fmt: skip
    """Σ exp(input - out) t over k up to each place: in logarithms, positive and negative t apart."""
    x, t, out = primals[0], tangents[0], wrap(outs[0])
    dim = attrs["dim"]

    where = registry["_where"].public

    def part(size: Any) -> Any:
        some = size > 0  # the logarithm of 0 is of no weight, and must not be differentiated
        logs = (where(some, where(some, size, 1.0).log(), -math.inf) + x).logcumsumexp(dim)
        any_ = logs != -math.inf
        return where(any_, where(any_, logs - out, 0.0).exp(), 0.0)

    return [part(t) - part(-t)]


_LINEAR = """
    sum mean cumsum _cumsum_reversed cat stack cast _clone _conjugate tril triu _flip _roll _gather _scatter_add
    _index _index_grad _index_put _scatter _slice_grad _as_strided_grad _unfold_grad _diagonal_grad _embedding
    embedding_grad _avg_pool _avg_pool_grad _adaptive_avg_pool _max_pool_take _max_pool_grad _dropout _unfold _fold
    _fft_c2c _fft_r2c _fft_c2r
""".split()
_MULTILINEAR = """matmul _gram linear _convolution _convolution_transposed _convolution_grad_weight""".split()

RULES: dict[str, Rule] = {
    **dict.fromkeys(_LINEAR, linear), **dict.fromkeys(_MULTILINEAR, multilinear), "_constant_pad": copied,
    "_shift": copied, "logcumsumexp": logcumsumexp,
}  # fmt: skip


def rule_of(op: Op) -> Rule | None:
    """The rule of an operator that is linear."""
    return RULES.get(op.name)
