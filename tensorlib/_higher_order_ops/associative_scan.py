"""Prefix sums by any associative function of trees of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tensorlib import ops
from tensorlib._core import Tensor
from tensorlib.utils._pytree import tree_flatten, tree_unflatten

__all__ = ["associative_scan"]


def associative_scan(
    combine_fn: Callable[[Any, Any], Any], xs: Any, dim: int, reverse: bool = False, combine_mode: str = "pointwise"
) -> Any:
    """y[i] = combine_fn(y[i - 1], x[i]) along ``dim``, for an associative function: 2 log2(n) calls on halves.

    ``xs`` is a tensor or a tree of tensors of one length along ``dim``; ``combine_fn`` takes two such trees and gives
    one. ``reverse`` goes from the end on. Blelloch 1990, "Prefix sums and their applications".
    """
    leaves, spec = tree_flatten(xs)
    if not leaves or not all(isinstance(x, Tensor) for x in leaves):
        raise ValueError("associative_scan: expected at least one tensor, and nothing else, in xs")
    at = range(leaves[0].ndim)[dim]
    count = leaves[0].shape[at]
    if any(x.shape[at] != count for x in leaves):
        raise ValueError(f"associative_scan: expected one length along dim {dim}, got "
                         f"{[x.shape[at] for x in leaves]}")  # fmt: skip

    def combined(left: Sequence[Tensor], right: Sequence[Tensor]) -> list[Tensor]:
        found, kind = tree_flatten(combine_fn(tree_unflatten(left, spec), tree_unflatten(right, spec)))
        if kind != spec:
            raise ValueError(f"associative_scan: combine_fn gave {kind}: expected the structure of xs, {spec}")
        return found

    def part(xs: Sequence[Tensor], start: int, stop: int, step: int = 1) -> list[Tensor]:
        index = (slice(None),) * at + (slice(start, stop, step),)
        return [x[index] for x in xs]

    def scan(xs: Sequence[Tensor]) -> list[Tensor]:
        n = xs[0].shape[at]
        if n < 2:
            return list(xs)
        odd = scan(combined(part(xs, 0, n - 1, 2), part(xs, 1, n, 2)))  # results at 1, 3, 5, …
        rest = (n - 1) // 2
        even = combined(part(odd, 0, rest), part(xs, 2, n, 2)) if rest else []
        out = []
        for i, x in enumerate(xs):
            evens = ops.cat([x.narrow(at, 0, 1), *([even[i]] if even else [])], at)
            pairs = ops.stack([evens.narrow(at, 0, odd[i].shape[at]), odd[i]], at + 1).flatten(at, at + 1)
            out.append(ops.cat([pairs, evens.narrow(at, n // 2, 1)], at) if n % 2 else pairs)
        return out

    if reverse:
        return tree_unflatten([x.flip(at) for x in scan([x.flip(at) for x in leaves])], spec)
    return tree_unflatten(scan(leaves), spec)
