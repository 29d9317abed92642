"""The inputs a declaration is tried on: what ``samples=``, ``errors=`` and ``bench=`` are written with."""

from __future__ import annotations

import inspect
import math
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Draw:
    """One tensor to draw: its shape, what its numbers are, and how it lies in memory."""

    shape: tuple[int, ...]
    kind: str = "normal"  # normal, uniform, integers, bools, distinct, shuffled, values, regular, positive
    low: float = -3.0
    high: float = 3.0
    dtype: str | None = None  # None: the dtype under test
    values: Any = None
    layout: str = "contiguous"  # contiguous, transposed, strided, expanded
    grad: bool | str = True  # whether its gradient is compared; "real": not that of complex numbers

    def array(self, rng: np.random.Generator, dtype: np.dtype[Any]) -> np.ndarray:
        """The array, of ``dtype`` unless the drawing names one."""
        want = np.dtype(self.dtype) if self.dtype is not None else dtype
        shape = self.shape
        if self.layout == "transposed" and len(shape) >= 2:
            shape = (*shape[:-2], shape[-1], shape[-2])
        elif self.layout == "strided" and shape:
            shape = (*shape[:-1], shape[-1] * 2)
        elif self.layout == "expanded" and shape:
            shape = (1, *shape[1:])
        if self.layout == "strided" and self.kind in ("regular", "positive"):
            return np.repeat(self._numbers(rng, self.shape, want), 2, axis=-1)[..., ::2]
        a = self._numbers(rng, shape, want)
        if self.layout == "transposed" and len(shape) >= 2:
            a = a.swapaxes(-1, -2)
        elif self.layout == "strided" and shape:
            a = a[..., ::2]
        elif self.layout == "expanded" and shape:
            a = np.broadcast_to(a, self.shape)
        return a

    def _numbers(self, rng: np.random.Generator, shape: tuple[int, ...], want: np.dtype[Any]) -> np.ndarray:
        if self.kind == "values":
            return np.array(self.values).astype(want)
        if self.kind == "shuffled":  # the same numbers in every sample
            n = math.prod(shape)
            return (np.random.default_rng(n).permutation(n) - min(n // 2, 3)).reshape(shape).astype(want)
        if self.kind == "bools" or want == np.bool_:
            return rng.random(shape) < 0.5
        if self.kind == "integers" or want.kind in "iu":
            low = int(self.low) if want.kind != "u" else max(0, int(self.low))
            return rng.integers(low, max(int(self.high), low + 1), shape).astype(want)
        if self.kind == "distinct":  # no ties: a permutation, spread over the range
            n = int(np.prod(shape))
            return (rng.permutation(n).reshape(shape) / max(n, 1) * (self.high - self.low) + self.low).astype(want)
        if self.kind == "uniform":
            a = rng.uniform(self.low, self.high, shape)
            if want.kind == "c":
                a = a + 1j * rng.uniform(self.low, self.high, shape)
            return a.astype(want)
        a = rng.standard_normal(shape)
        if want.kind == "c":
            a = a + 1j * rng.standard_normal(shape)
        if self.kind == "regular":
            a = a + 2 * max(shape[-2:]) ** 0.5 * np.eye(shape[-2], shape[-1])
        elif self.kind == "positive":
            a = a @ a.conj().swapaxes(-1, -2) / max(shape[-1], 1) + np.eye(shape[-1])
        return a.astype(want)


def ints(*shape: int, low: int = 0, high: int = 10, dtype: str = "int64") -> Draw:
    """Integers in [low, high)."""
    return Draw(shape, "integers", low, high, dtype, grad=False)


def bools(*shape: int) -> Draw:
    """Booleans, true or false with equal chance."""
    return Draw(shape, "bools", dtype="bool", grad=False)


def between(low: float, high: float, *shape: int) -> Draw:
    """Uniform numbers in [low, high)."""
    return Draw(shape, "uniform", low, high)


def distinct(*shape: int) -> Draw:
    """Numbers without ties, for operators whose gradient jumps at a tie."""
    return Draw(shape, "distinct")


def values(data: Any, dtype: str | None = None) -> Draw:
    """These very numbers."""
    a = np.array(data)
    return Draw(a.shape, "values", values=data, dtype=dtype, grad=dtype is None)


def shuffled(*shape: int) -> Draw:
    """Different whole numbers, few of them negative, in samples whose results depend on ties in every dtype."""
    return Draw(shape, "shuffled")


def regular(*shape: int) -> Draw:
    """Matrices far from singular."""
    return Draw(shape, "regular")


def positive(*shape: int) -> Draw:
    """Symmetric positive definite matrices. A gradient is compared along symmetric directions only."""
    return Draw(shape, "positive")


def without_gradient(drawn: Draw, of: str = "all") -> Draw:
    """The same numbers; their gradient is not compared, ``of="complex"``: only that of complex ones is not."""
    return replace(drawn, grad="real" if of == "complex" else False)


def transposed(*shape: int) -> Draw:
    """Normal numbers, the last two dimensions swapped in memory."""
    return Draw(shape, layout="transposed")


def strided(*shape: int) -> Draw:
    """Normal numbers, every second of the last dimension in memory."""
    return Draw(shape, layout="strided")


@dataclass(frozen=True)
class Sample:
    """Arguments of one call. ``match``: the call must fail, with this pattern in its message."""

    args: tuple[Any, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    match: str | None = None
    error: type[Exception] = RuntimeError

    def arrays(self, dtype: Any = np.float32) -> tuple[Any, ...]:
        """The arguments with every Draw made an array. The same sample gives the same numbers everywhere."""
        seed = zlib.crc32(repr((self.args, sorted(self.attrs.items(), key=str))).encode())
        rng = np.random.Generator(np.random.PCG64(seed))
        dtype = np.dtype(dtype)

        def make(a: Any) -> Any:
            if isinstance(a, Draw):
                return a.array(rng, dtype)
            if isinstance(a, list):
                return [make(x) for x in a]
            return a

        return tuple(make(a) for a in self.args)

    def __repr__(self) -> str:
        def show(a: Any) -> str:
            if isinstance(a, list):
                return f"[{', '.join(map(show, a))}]"
            if isinstance(a, Draw):
                return f"{a.shape}{'' if a.layout == 'contiguous' else a.layout}{'' if a.kind == 'normal' else a.kind}"
            return repr(a)

        shown = [show(a) for a in self.args] + [f"{k}={v!r}" for k, v in self.attrs.items()]
        return f"({', '.join(shown)})"


def resolve(samples: Iterable[Sample], signature: inspect.Signature) -> tuple[Sample, ...]:
    """The samples of a declaration: where a parameter takes tensors, a tuple of ints is a tensor of that shape."""
    params = list(signature.parameters.values())

    def of(i: int, a: Any) -> Any:
        p = next((q for q in params[: i + 1] if q.kind is q.VAR_POSITIONAL), params[min(i, len(params) - 1)])
        tensors = any(word in str(p.annotation) for word in ("Array", "Tensor"))
        return _drawn(a) if tensors else a

    return tuple(replace(s, args=tuple(of(i, a) for i, a in enumerate(s.args))) for s in samples)


def _drawn(a: Any) -> Any:
    if isinstance(a, tuple) and all(isinstance(n, int) for n in a):
        return Draw(a)
    return [_drawn(x) for x in a] if isinstance(a, list) else a


def draw(*args: Any, **attrs: Any) -> Sample:
    """One call. Where the operator takes a tensor, a tuple of ints is one of that shape; all else is passed on."""
    return Sample(args, attrs)


def fails(*args: Any, match: str, error: type[Exception] = RuntimeError, **attrs: Any) -> Sample:
    """One call that must raise ``error`` (or a subclass) with ``match`` in its message."""
    return Sample(args, attrs, match, error)


def each(*samples: Sample | Iterable[Sample]) -> list[Sample]:
    """Samples and lists of samples in one list."""
    out: list[Sample] = []
    for s in samples:
        out.extend([s] if isinstance(s, Sample) else s)
    return out


def with_attrs(samples: Iterable[Sample], **attrs: Any) -> list[Sample]:
    """The samples with these attributes besides their own."""
    return [replace(s, attrs={**s.attrs, **attrs}) for s in samples]


def grid(make: Callable[..., Sample], **axes: Iterable[Any]) -> list[Sample]:
    """``make(**point)`` for every point of a grid: ``grid(lambda n: draw((n, n)), n=[256, 1024])``."""
    return [make(**dict(zip(axes, point, strict=True))) for point in product(*axes.values())]


#: A function of one tensor: at and on both sides of every bend of the activations, without dimensions or elements, and
#: not contiguous.
ELEMENTWISE = (
    draw((3, 4)),
    draw(values([-7.0, -3.5, -3.0, -1.0, -0.75, -0.5, -0.0, 0.0, 0.25, 0.5, 1.0, 3.0, 6.0, 7.0])),
    draw(()),
    draw((0, 3)),
    draw(transposed(4, 5)),
)
