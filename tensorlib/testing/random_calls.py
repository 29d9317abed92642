"""Calls drawn at random around a declaration's samples: other shapes, dtypes, layouts, attributes, forms of the call.

A call is determined by (operator, seed, index), so a report names these and anyone can make the same call again. Not
every call is valid: what a peer refuses, the library has to refuse with an error of the same type.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np

from tensorlib import _dtypes
from tensorlib._dtypes import OF_NUMPY
from tensorlib._samples import Draw, Sample
from tensorlib.op import Op, names_in
from tensorlib.testing.cases import Declared, proposed, writes_first
from tensorlib.testing.compare import is_float

#: The dtypes drawn, and how often.
DTYPES: dict[str, float] = {
    "float32": 0.38, "float64": 0.12, "bfloat16": 0.08, "float16": 0.08, "int64": 0.1, "int32": 0.06, "uint8": 0.05,
    "bool": 0.06, "complex64": 0.07,
}  # fmt: skip
#: Sizes of dimensions drawn.
SIZES = (0, 1, 1, 2, 3, 3, 4, 5, 7)
#: Python numbers in the place of a tensor, or of a number.
NUMBERS: tuple[Any, ...] = (0, 1, 2, -1, 3, 0.5, -1.5, 2.0, True, False, 1e10, 1 + 2j)
#: What only IEEE arithmetic settles, sprinkled over some of the inputs.
SPECIAL = (float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1.0, -1.0, 1e30, 1e-30)
#: Memory that one call may take, in elements of its inputs.
LARGEST = 20_000


def numpy_dtype(name: str) -> np.dtype[Any]:
    """A dtype by its name, bfloat16 included."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


@dataclass(frozen=True)
class RandomCall:
    """One call, of any library that has these names: arrays stand for tensors, tensorlib's dtypes for its dtypes."""

    space: str  # of tensorlib.op.SPACES
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    writes: bool = False  # an in-place form: the first argument is written
    out: np.ndarray | tuple[np.ndarray, ...] | None = None  # what ``out=`` gets
    sprinkled: bool = False  # infinities and NaN among the inputs

    def __str__(self) -> str:
        """The call as a program for PyTorch has it, long arrays by shape and dtype."""
        given = [_shown(a) for a in self.args]
        named = [f"{k}={_shown(v)}" for k, v in self.kwargs.items()]
        if self.out is not None:
            named.append(f"out={_shown(self.out)}")
        if self.space == "method":
            return f"{given[0]}.{self.name}({', '.join(given[1:] + named)})"
        home = {"function": "", "functional": "nn.functional."}.get(self.space, f"{self.space}.")
        return f"torch.{home}{self.name}({', '.join(given + named)})"


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        name = OF_NUMPY[value.dtype].name
        if value.size <= 12:
            text = np.array2string(value.astype(np.complex128 if value.dtype.kind == "c" else np.float64)
                                   if value.dtype.kind not in "iub" else value, separator=", ", precision=9,
                                   floatmode="unique", max_line_width=10**6).replace("\n", "")  # fmt: skip
            made = f"torch.tensor({text}, dtype=torch.{name})"
            if not value.size:
                made = f"torch.empty({value.shape}, dtype=torch.{name})"
        else:
            made = f"<{name} {value.shape}>"
        return made if value.flags.c_contiguous else f"<strides {value.strides} of {made}>"
    if isinstance(value, (list, tuple)) and any(isinstance(v, np.ndarray) for v in value):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, _dtypes.dtype):
        return f"torch.{value.name}"
    return repr(value)


# ------------------------------------------------------------------------------------------------------- one operator


class Around:
    """Draws calls of one declaration."""

    def __init__(self, made: Declared, has: Callable[[str, str], bool] | None = None) -> None:
        """``has(space, name)``: whether the peer has it; names that it lacks are not called."""
        self.made = made
        self.samples = [c.sample for c in proposed(made)]
        self.pointwise = isinstance(made, Op) and made.pointwise and not made.variadic
        self.params = list(made.signature.parameters.values())
        self.tensors = {
            p.name for p in self.params if any(w in str(p.annotation) for w in ("Array", "Tensor"))
            and "Callable" not in str(p.annotation)
        }  # fmt: skip
        self.pools: dict[str, list[Any]] = {}
        for p in self.params:
            if p.name not in self.tensors and p.default is not p.empty:
                self.pools[p.name] = [p.default]
        for s in self.samples:
            for name, value in self._named(s).items():
                if name not in self.tensors and value not in self.pools.setdefault(name, []):
                    self.pools[name].append(value)
        self.forms = [(s, n) for s in sorted(made.where) for n in names_in(made, s) if has is None or has(s, n)]
        self.forms += [
            (s, n) for s in ("special", "linalg", "function", "method", "functional") if s not in made.where
            for n in names_in(made, s) if has is None or has(s, n)
        ]  # fmt: skip
        self.inplace = [(s, f"{n}_") for s, n in self.forms if s == "method" and made.inplace]
        self.inplace = [(s, n) for s, n in self.inplace if has is None or has(s, n)]
        self.takes_out = isinstance(made, Op) and not (made.is_view or made.mutates or made.dynamic)

    def _named(self, s: Sample) -> dict[str, Any]:
        named = {p.name: a for p, a in zip(self.params, s.args, strict=False) if p.kind is not p.VAR_POSITIONAL}
        return {**named, **s.attrs}

    def call(self, seed: int, index: int) -> RandomCall | None:
        """The call of that number, or None where nothing can be called."""
        if not self.samples or not self.forms:
            return None
        rng = np.random.default_rng([zlib.crc32(self.made.name.encode()), seed, index])
        sample = self.samples[int(rng.integers(len(self.samples)))]
        style = rng.random()
        args, attrs = list(sample.args), dict(sample.attrs)
        args, attrs = self._reshaped(rng, args, attrs)
        args, attrs = self._typed(rng, args, attrs)
        rank = next((len(d.shape) for d in _draws(args)), 0)
        attrs, args = self._attributes(rng, args, attrs, rank)
        sprinkle = rng.random() < 0.12
        under = numpy_dtype(str(rng.choice(list(DTYPES), p=list(DTYPES.values()))))

        def make(a: Any) -> Any:
            if isinstance(a, Draw):
                with np.errstate(all="ignore"):
                    made = np.asarray(a.array(rng, under))
                return _sprinkled(rng, made) if sprinkle and a.kind in ("normal", "uniform") else made
            return [make(x) for x in a] if isinstance(a, list) else a

        if sum(int(np.prod(d.shape, dtype=np.int64)) for d in _draws([*args, *attrs.values()])) > LARGEST:
            return None
        args = [make(a) for a in args]
        kwargs = {k: make(v) for k, v in attrs.items()}
        if self.pointwise and len(args) > 1 and style < 0.1:
            at = int(rng.integers(0 if style < 0.02 else 1, len(args)))
            args[at] = NUMBERS[int(rng.integers(len(NUMBERS)))]
        space, name, writes, out = *self.forms[int(rng.integers(len(self.forms)))], False, None
        if self.inplace and 0.1 < style < 0.3:
            (space, name), writes = self.inplace[int(rng.integers(len(self.inplace)))], True
        elif self.takes_out and 0.3 < style < 0.38 and space != "method":
            count = self.made.n_public if isinstance(self.made, Op) else 1
            several = tuple(self._out(rng, args) for _ in range(count))
            out = several[0] if count == 1 or rng.random() < 0.1 else several
        args, kwargs = self._spelled(rng, args, kwargs, space)
        if space == "method" and not (args and isinstance(args[0], np.ndarray)):
            others = [f for f in self.forms if f[0] != "method"]
            if not others:
                return None
            (space, name), writes = others[0], False
        return RandomCall(space, name, tuple(args), kwargs, writes or writes_first(self.made), out, sprinkle)

    # ------------------------------------------------------------------------------------------------- its parts

    def _reshaped(self, rng: np.random.Generator, args: list[Any], attrs: dict[str, Any]) -> Any:
        if self.pointwise and rng.random() < 0.6:
            base = [int(rng.choice(SIZES)) for _ in range(int(rng.choice([0, 1, 2, 2, 3, 4])))]

            def broadcast(d: Draw) -> Draw:
                shape = [1 if rng.random() < 0.2 else n for n in base][int(rng.random() < 0.2) * int(rng.integers(3)) :]
                return _of_shape(d, tuple(shape))

            return [broadcast(a) if isinstance(a, Draw) else a for a in args], attrs
        if rng.random() < 0.45:
            sizes = {n for d in _draws([*args, *attrs.values()]) for n in d.shape}
            other = {n: int(rng.choice(SIZES)) if rng.random() < 0.4 else n for n in sorted(sizes)}

            def resized(d: Draw) -> Draw:
                return _of_shape(d, tuple(other[n] for n in d.shape))

            args = [_each_draw(a, resized) for a in args]
            attrs = {k: _each_draw(v, resized) for k, v in attrs.items()}
        if rng.random() < 0.04:  # a dimension more or fewer, which most operators refuse

            def ranked(d: Draw) -> Draw:
                return _of_shape(d, d.shape[1:] if rng.random() < 0.5 else (2, *d.shape))

            args = [_each_draw(a, ranked) if i == 0 else a for i, a in enumerate(args)]
        return args, attrs

    def _typed(self, rng: np.random.Generator, args: list[Any], attrs: dict[str, Any]) -> Any:
        mixed = rng.random() < 0.2

        def typed(d: Draw) -> Draw:
            if d.dtype is None and mixed and rng.random() < 0.6 and d.kind != "values":
                d = replace(d, dtype=str(rng.choice(list(DTYPES))))
                if d.dtype == "bfloat16":
                    d = replace(d, dtype=None)
            elif d.dtype in ("int64", "int32") and rng.random() < 0.08:
                d = replace(d, dtype=str(rng.choice(["int32", "int64", "uint8", "float32"])))
            if d.layout == "contiguous" and d.kind in ("normal", "uniform", "integers") and rng.random() < 0.35:
                d = replace(d, layout=str(rng.choice(["transposed", "strided", "expanded"])))
            return d

        return [_each_draw(a, typed) for a in args], {k: _each_draw(v, typed) for k, v in attrs.items()}

    def _attributes(self, rng: np.random.Generator, args: list[Any], attrs: dict[str, Any], rank: int) -> Any:
        for p in self.params[len(args) :]:
            if p.name in self.tensors or p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) or p.name in ("seed", "offset"):
                continue
            chance = rng.random()
            if chance < 0.08 and p.default is not p.empty:
                attrs.pop(p.name, None)
            elif chance < 0.25 and p.name in self.pools:
                drawn = self._drawn(rng, p, rank)
                if drawn is not _SAME:
                    attrs[p.name] = drawn
        for i, p in enumerate(self.params[: len(args)]):
            if p.name in self.pools and p.kind is not p.VAR_POSITIONAL and rng.random() < 0.15:
                drawn = self._drawn(rng, p, rank)
                args[i] = args[i] if drawn is _SAME else drawn
        return attrs, args

    def _drawn(self, rng: np.random.Generator, p: Any, rank: int) -> Any:
        pool, kind = self.pools.get(p.name, []), str(p.annotation)
        if pool and rng.random() < 0.5:
            return pool[int(rng.integers(len(pool)))]
        if kind.startswith(("Dim", "NewDim")) or p.name in ("dim", "dim0", "dim1"):
            low, high = (-rank, max(rank, 1)) if rng.random() < 0.9 else (-rank - 2, rank + 2)
            if kind.startswith("Dims") and rank > 1 and rng.random() < 0.4:
                dims = [int(d) for d in rng.permutation(rank)[: int(rng.integers(1, rank + 1))]]
                return tuple(d - rank if rng.random() < 0.4 else d for d in dims)
            return int(rng.integers(min(low, high - 1), high))
        if any(isinstance(v, _dtypes.dtype) for v in pool) or p.name == "dtype":
            return _dtypes.bool_ if rng.random() < 0.1 else OF_NUMPY[numpy_dtype(str(rng.choice(_FEW)))]
        if any(isinstance(v, bool) for v in pool) or kind == "bool":
            return bool(rng.random() < 0.5)
        if kind.startswith("Scalar") or any(isinstance(v, float) for v in pool):
            return NUMBERS[int(rng.integers(len(NUMBERS)))]
        if any(isinstance(v, int) for v in pool):
            return int(rng.integers(-2, 5))
        return _SAME

    def _out(self, rng: np.random.Generator, args: Sequence[Any]) -> np.ndarray:
        arrays = [a for a in args if isinstance(a, np.ndarray)]
        shape = arrays[0].shape if arrays and rng.random() < 0.6 else (0,)
        same = arrays and rng.random() < 0.6
        dtype = arrays[0].dtype if same else numpy_dtype(str(rng.choice(list(DTYPES))))
        made = np.zeros((*shape[:-1], shape[-1] * 2) if shape else shape, dtype)
        return made[..., ::2] if shape and rng.random() < 0.5 else np.zeros(shape, dtype)

    def _spelled(self, rng: np.random.Generator, args: list[Any], kwargs: dict[str, Any], space: str) -> Any:
        """Attributes by position, or tensors by keyword."""
        kinds = [p.kind for p in self.params]
        if any(k in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p, k in zip(self.params, kinds, strict=True)):
            return args, kwargs
        chance = rng.random()
        if chance < 0.2:
            for p in self.params[len(args) :]:
                if p.kind is p.KEYWORD_ONLY or p.name not in kwargs:
                    break
                args = [*args, kwargs[p.name]]
                kwargs = {k: v for k, v in kwargs.items() if k != p.name}
        elif chance < 0.3 and args:
            first = 1 if space == "method" else int(rng.integers(len(args)))
            named = {p.name: a for p, a in zip(self.params[first:], args[first:], strict=False)}
            return args[:first], {**named, **kwargs}
        return args, kwargs


_SAME = object()
_FEW = ("float32", "float64", "int64", "float16", "bfloat16", "complex64")


def _draws(values: Any) -> Iterator[Draw]:
    for v in values:
        if isinstance(v, Draw):
            yield v
        elif isinstance(v, list):
            yield from _draws(v)


def _each_draw(value: Any, change: Callable[[Draw], Draw]) -> Any:
    if isinstance(value, Draw):
        return change(value)
    return [_each_draw(v, change) for v in value] if isinstance(value, list) else value


def _of_shape(d: Draw, shape: tuple[int, ...]) -> Draw:
    if shape == d.shape:
        return d
    if d.kind in ("regular", "positive") and (len(shape) < 2 or (shape[-1] != shape[-2] and d.kind == "positive")):
        d = replace(d, kind="normal")
    if d.kind == "values":
        given = np.asarray(d.values)
        if given.dtype.kind in "iub" and d.dtype is not None:
            top = int(given.max(initial=0))
            return replace(d, shape=shape, kind="integers", values=None, low=min(0, int(given.min(initial=0))),
                           high=top + 1)  # fmt: skip
        d = replace(d, kind="normal", values=None)
    return replace(d, shape=shape)


def _sprinkled(rng: np.random.Generator, a: np.ndarray) -> np.ndarray:
    if not (is_float(a.dtype) and a.flags.c_contiguous and a.flags.writeable and a.size):
        return a
    with np.errstate(all="ignore"):
        a[rng.random(a.shape) < 0.3] = np.asarray(SPECIAL[int(rng.integers(len(SPECIAL)))]).astype(a.dtype)
        some = rng.random(a.shape) < 0.2
        a[some] = rng.choice(SPECIAL, int(some.sum())).astype(a.dtype)
    return a
