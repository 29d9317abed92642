"""``_foreach_add`` and its kin: an operator for each tensor of a list, as optimizers written for PyTorch call them.

They are PyTorch's private names and no faster than a loop here; the library's own optimizers fuse their updates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tensorlib import ops
from tensorlib._core import Tensor

_UNARY = (
    "abs acos asin atan ceil cos cosh erf erfc exp expm1 floor frac lgamma log log10 log1p log2 neg reciprocal round "
    "rsqrt sigmoid sign sin sinh sqrt tan tanh trunc"
).split()


def _listed(name: str, values: Any, count: int) -> list[Any]:
    """One value for each tensor: of a list its elements, of anything else itself."""
    if isinstance(values, (list, tuple)):
        if len(values) != count:
            raise RuntimeError(f"{name}: got lists of {count} and {len(values)}: expected as many tensors in each")
        return list(values)
    if isinstance(values, Tensor) and values.dim() == 1 and name.startswith("_foreach_addc"):
        return values.unbind()  # type: ignore[attr-defined, no-any-return]
    return [values] * count


def _unary(word: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    apply = getattr(ops, word)

    def new(self: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(apply(t) for t in self)

    def inplace(self: Sequence[Tensor]) -> None:
        for t in self:
            getattr(t, f"{word}_")()

    return new, inplace


def _binary(word: str, compute: Callable[..., Tensor]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """``other`` is a number, a tensor, or a list of either; ``alpha`` multiplies it in sums and differences."""

    def new(self: Any, other: Any = None, *, scalar: Any = None, scalars: Any = None, exponent: Any = None,
            alpha: Any = 1) -> tuple[Tensor, ...]:  # fmt: skip
        given: Any = next((v for v in (other, scalar, scalars, exponent) if v is not None), None)
        if not isinstance(self, (list, tuple)):  # pow of one number
            return tuple(compute(self, o, alpha) for o in given)
        pairs = zip(self, _listed(f"_foreach_{word}", given, len(self)), strict=True)
        return tuple(compute(t, o, alpha) for t, o in pairs)

    def inplace(self: Any, other: Any = None, **kwargs: Any) -> None:
        for t, value in zip(self, new(self, other, **kwargs), strict=True):
            t.copy_(value)

    return new, inplace


def _ternary(word: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    apply = getattr(ops, word)

    def new(self: Any, tensor1: Any, tensor2: Any, value: Any = 1, *, scalars: Any = None) -> tuple[Tensor, ...]:
        factors = _listed(f"_foreach_{word}", value if scalars is None else scalars, len(self))
        factors = [v.item() if isinstance(v, Tensor) else v for v in factors]
        return tuple(
            apply(t, a, b, value=v) for t, a, b, v in zip(self, tensor1, tensor2, factors, strict=True)
        )

    def inplace(self: Any, tensor1: Any, tensor2: Any, value: Any = 1, *, scalars: Any = None) -> None:
        for t, result in zip(self, new(self, tensor1, tensor2, value, scalars=scalars), strict=True):
            t.copy_(result)

    return new, inplace


def _foreach_lerp(self: Any, tensors1: Any, weight: Any = None, *, weights: Any = None) -> tuple[Tensor, ...]:
    """input + weight (end - input) of each."""
    given = _listed("_foreach_lerp", weight if weights is None else weights, len(self))
    return tuple(ops.lerp(t, e, w) for t, e, w in zip(self, tensors1, given, strict=True))


def _foreach_lerp_(self: Any, tensors1: Any, weight: Any = None, *, weights: Any = None) -> None:
    """In place."""
    for t, value in zip(self, _foreach_lerp(self, tensors1, weight, weights=weights), strict=True):
        t.copy_(value)


def _foreach_norm(self: Any, ord: Any = 2, dtype: Any = None) -> tuple[Tensor, ...]:
    """The vector norm of each."""
    return tuple(ops.vector_norm(t, ord, dtype=dtype) for t in self)


def _foreach_clone(self: Any) -> tuple[Tensor, ...]:
    """A copy of each."""
    return tuple(t.clone() for t in self)


def _foreach_mm(self: Any, mat2: Any) -> tuple[Tensor, ...]:
    """The matrix product of each pair."""
    return tuple(ops.mm(a, b) for a, b in zip(self, mat2, strict=True))


def _foreach_max(self: Any) -> tuple[Tensor, ...]:
    """The largest element of each."""
    return tuple(t.max() for t in self)


def _foreach_copy_(self: Any, src: Any, non_blocking: bool = False) -> None:
    """Each from its source."""
    for t, s in zip(self, src, strict=True):
        t.copy_(s, non_blocking)


def _foreach_zero_(self: Any) -> None:
    """Zeros."""
    for t in self:
        t.zero_()


_BINARY: dict[str, Callable[..., Tensor]] = {
    "add": lambda t, o, alpha: ops.add(t, o, alpha=alpha),
    "sub": lambda t, o, alpha: ops.sub(t, o, alpha=alpha),
    "mul": lambda t, o, alpha: ops.mul(t, o),
    "div": lambda t, o, alpha: ops.div(t, o),
    "pow": lambda t, o, alpha: ops.pow(t, o),
    "maximum": lambda t, o, alpha: ops.clamp(t, min=o),
    "minimum": lambda t, o, alpha: ops.clamp(t, max=o),
    "clamp_min": lambda t, o, alpha: ops.clamp(t, min=o),
    "clamp_max": lambda t, o, alpha: ops.clamp(t, max=o),
}

_made = {w: _unary(w) for w in _UNARY} | {w: _binary(w, f) for w, f in _BINARY.items()}
_made |= {w: _ternary(w) for w in ("addcmul", "addcdiv")}
for _word, (_new, _inplace) in _made.items():
    _new.__name__ = _new.__qualname__ = f"_foreach_{_word}"
    _inplace.__name__ = _inplace.__qualname__ = f"_foreach_{_word}_"
    globals()[_new.__name__], globals()[_inplace.__name__] = _new, _inplace
