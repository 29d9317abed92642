"""The same calls by two libraries of the same names, and what differs: a peer is PyTorch, or in tests tensorlib itself.

Compared are values, dtypes, shapes, kinds of results, gradients, what is written, version counters, whose memory the
results share, and errors: both raise, of the same built-in type. Numbers that differ are settled by the peer's own
float64 result and its conditioning: a result that lies no farther from it than the peer's is no difference.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from tensorlib._core import version_of
from tensorlib._dtypes import HALF
from tensorlib.testing.calls import arrays_in, with_arrays
from tensorlib.testing.compare import CheckError, bounds, eps, exact64, is_differentiable, is_float, within
from tensorlib.testing.random_calls import RandomCall


class Peer(Protocol):
    """A library: where its functions are, and its tensors from and to NumPy."""

    module: Any

    def tensor(self, array: np.ndarray) -> Any:
        """A tensor with the array's dtype, shape and strides, over memory of its own."""

    def array(self, tensor: Any) -> np.ndarray:
        """A copy of a tensor's elements, of the same dtype."""

    def value(self, value: Any) -> Any:
        """An attribute as it takes it: its own dtypes."""

    def shares(self, one: Any, other: Any) -> bool:
        """Whether two tensors lie in one memory."""

    def version(self, tensor: Any) -> int:
        """How often it was written."""


class Tensorlib:
    """tensorlib as a peer."""

    def __init__(self, module: Any) -> None:
        """``module``: tensorlib, or what stands in for it in a test."""
        self.module = module

    def tensor(self, array: np.ndarray) -> Any:
        """A tensor of the same strides."""
        return self.module.from_numpy(array)

    def array(self, tensor: Any) -> np.ndarray:
        """Its elements."""
        return np.array(tensor.detach()._array)

    def value(self, value: Any) -> Any:
        """As it is."""
        return value

    def shares(self, one: Any, other: Any) -> bool:
        """By the bounds of their memory."""
        return bool(np.may_share_memory(one._array, other._array))

    def version(self, tensor: Any) -> int:
        """Its counter."""
        return int(version_of(tensor)[0])


HOMES = {"function": "", "method": "Tensor", "functional": "nn.functional", "linalg": "linalg", "fft": "fft",
         "special": "special"}  # fmt: skip


def find(peer: Peer, space: str, name: str) -> Any:
    """The function of that name, or None."""
    place = peer.module
    for part in filter(None, HOMES[space].split(".")):
        place = getattr(place, part)
    return getattr(place, name, None)


@dataclass
class Outcome:
    """What one call gave."""

    error: Exception | None = None
    kind: str = ""
    outputs: list[np.ndarray] = field(default_factory=list)
    wants: list[bool] = field(default_factory=list)  # of each output, whether it requires grad
    shares: list[bool] = field(default_factory=list)  # of each output, whether it lies in the first argument's memory
    gradients: list[np.ndarray | None] | None = None
    gradient_error: Exception | None = None
    written: list[bool] = field(default_factory=list)  # of each argument, whether its version rose
    inputs: list[np.ndarray] = field(default_factory=list)  # the arguments afterwards


def run(peer: Peer, call: RandomCall, gradients: bool = True, exact: bool = False) -> Outcome:
    """The call by one library. ``exact``: its floating-point arguments in float64."""
    function = find(peer, call.space, call.name)
    leaves: list[Any] = []
    given: list[Any] = []

    def make(value: Any, first: bool = False) -> Any:
        if isinstance(value, np.ndarray):
            array = exact64(value) if exact else value
            t = peer.tensor(_own(array))
            if gradients and is_differentiable(array.dtype):
                t.requires_grad_()
                leaves.append(t)
            if first and call.writes and gradients and is_differentiable(array.dtype):
                t = t.clone()  # a leaf that wants a gradient cannot be written
            given.append(t)
            return t
        if isinstance(value, list):
            return [make(v) for v in value]
        return peer.value(value)

    outcome = Outcome()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            args = [make(a, i == 0) for i, a in enumerate(call.args)]
            kwargs = {k: make(v) for k, v in call.kwargs.items()}
            if call.out is not None:
                given_out = call.out if isinstance(call.out, tuple) else (call.out,)
                places = [_resizable(peer, exact64(o) if exact else o) for o in given_out]
                kwargs["out"] = tuple(places) if isinstance(call.out, tuple) else places[0]
            before = [peer.version(t) for t in given]
            peer.module.manual_seed(0)
            result = function(*args, **kwargs)
        except Exception as error:
            outcome.error = error
            return outcome
        outcome.written = [peer.version(t) != v for t, v in zip(given, before, strict=True)]
        outs = list(_tensors(result))
        outcome.kind = _kind(result, peer.module.Tensor)
        if call.writes and args:
            outcome.kind += " self" if result is args[0] else ""
        if call.out is not None:
            outcome.kind += " out" if all(any(r is o for r in outs) for o in places) else ""
            outs = places
        outcome.outputs = [peer.array(t) if isinstance(t, peer.module.Tensor) else np.asarray(t) for t in outs]
        tensors = [t for t in outs if isinstance(t, peer.module.Tensor)]
        outcome.wants = [bool(t.requires_grad) for t in tensors]
        if given:
            outcome.shares = [bool(t.numel()) and peer.shares(t, given[0]) for t in tensors]
        outcome.inputs = [peer.array(t) for t in given]
        live = [t for t in tensors if t.requires_grad]
        if leaves and live:
            seeds = [peer.tensor(cotangent(i, a)) for i, a in enumerate(map(peer.array, live))]
            try:
                found = peer.module.autograd.grad(live, leaves, seeds, allow_unused=True)
                outcome.gradients = [None if g is None else peer.array(g) for g in found]
            except Exception as error:
                outcome.gradient_error = error
    return outcome


def cotangent(i: int, like: np.ndarray) -> np.ndarray:
    """The gradient of output i: the same numbers for every library."""
    rng = np.random.default_rng([7, i, like.size])
    numbers = rng.standard_normal(like.shape)
    if like.dtype.kind == "c":
        numbers = numbers + 1j * rng.standard_normal(like.shape)
    return np.asarray(numbers.astype(like.dtype))


def _resizable(peer: Peer, array: np.ndarray) -> Any:
    """A tensor in memory of the library's own: PyTorch cannot resize NumPy's."""
    if array.flags.c_contiguous:
        return peer.tensor(array).clone()
    return peer.tensor(np.repeat(array, 2, axis=-1)).clone()[..., ::2]


def _own(array: np.ndarray) -> np.ndarray:
    """A copy of the same strides, as far as a copy can have them: that of a broadcast array is one."""
    if any(s < 0 for s in array.strides):
        return array.copy()
    if 0 in array.strides and array.size:
        base = np.array(array[tuple(slice(0, 1) if s == 0 else slice(None) for s in array.strides)])
        if base.shape != array.shape:
            strides = [0 if s == 0 else t for s, t in zip(array.strides, base.strides, strict=True)]
            return np.lib.stride_tricks.as_strided(base, array.shape, strides)
        return base
    if array.flags.c_contiguous or not array.size:
        return np.array(array, order="C")
    span = sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)) // array.itemsize + 1
    base = np.zeros(span, array.dtype)
    copied = np.lib.stride_tricks.as_strided(base, array.shape, array.strides)
    copied[...] = array
    return copied


def _tensors(result: Any) -> Any:
    if isinstance(result, (tuple, list)):
        for r in result:
            yield from _tensors(r)
    elif result is not None:
        yield result


def _kind(result: Any, tensor: type) -> str:
    """The structure of a result: names of fields, numbers of Python."""
    if isinstance(result, tensor):
        return "tensor"
    if isinstance(result, (tuple, list)):
        fields = getattr(result, "_fields", None) or _fields(result)
        inside = ", ".join(_kind(r, tensor) for r in result)
        return f"{', '.join(fields) or type(result).__name__} ({inside})"
    return type(result).__name__


def _fields(result: Any) -> list[str]:
    """The names of PyTorch's structseq results, in order."""
    if not hasattr(result, "n_sequence_fields"):
        return []
    names = [n for n, v in vars(type(result)).items() if type(v).__name__ == "member_descriptor"]
    return names[: result.n_sequence_fields]


# --------------------------------------------------------------------------------------------------- what differs


class Difference(NamedTuple):
    """One difference: its category, and what each side gave."""

    category: str
    text: str


def base(error: Exception) -> type[BaseException]:
    """The built-in type of an error that programs catch; a missing implementation is a RuntimeError."""
    for kind in type(error).__mro__:
        if kind.__module__ == "builtins" and kind is not NotImplementedError:
            return kind
    return Exception


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:150]}"


def differences(
    ours: Peer, theirs: Peer, call: RandomCall, *, values: bool = True, gradients: bool = True
) -> list[Difference]:
    """What differs between two libraries on one call. ``values``: False for results that are drawn at random."""
    wants = gradients and call.out is None
    a, b = run(ours, call, wants), run(theirs, call, wants)
    if a.error is not None or b.error is not None:
        if a.error is None:
            assert b.error is not None
            return [Difference("wider" if narrower(b.error) else "accepted", f"theirs {_said(b.error)}")]
        if b.error is None:
            return [Difference("refused", f"ours {_said(a.error)}; theirs gives {_outline(b)}")]
        if not isinstance(a.error, base(b.error)) and not narrower(b.error):
            return [Difference("error type", f"ours {_said(a.error)}; theirs {_said(b.error)}")]
        if not isinstance(a.error, Exception) or a.error.__class__.__module__ == "numpy":
            return [Difference("error type", f"ours {_said(a.error)}")]
        return []
    found: list[Difference] = []

    def differs(category: str, x: Any, y: Any) -> None:
        if x != y:
            found.append(Difference(category, f"ours {x}; theirs {y}"))

    differs("kind", a.kind, b.kind)
    differs("dtype", [str(x.dtype) for x in a.outputs], [str(x.dtype) for x in b.outputs])
    if len(a.outputs) != len(b.outputs):
        return found or [Difference("kind", f"ours {len(a.outputs)} results; theirs {len(b.outputs)}")]
    differs("shape", [x.shape for x in a.outputs], [x.shape for x in b.outputs])
    differs("requires grad", a.wants, b.wants)
    differs("version", a.written, b.written)
    differs("memory", a.shares, b.shares)
    if found or not values:
        return found
    found += _numbers("value", theirs, call, a.outputs, b.outputs, False)
    if not found and not call.writes:
        for x, y in zip(a.inputs, b.inputs, strict=True):
            try:
                within(x, y, _rounding(y), "argument afterwards")  # an operator's inplace=True writes it
            except CheckError as error:
                found.append(Difference("argument", str(error)))
    if a.gradient_error is not None or b.gradient_error is not None:
        if a.gradient_error is None:
            found.append(Difference("wider", f"gradient: theirs {_said(b.gradient_error)}"))  # type: ignore[arg-type]
        elif b.gradient_error is None:
            found.append(Difference("gradient", f"ours {_said(a.gradient_error)}"))
    elif not found and a.gradients is not None and b.gradients is not None and not call.sprinkled:
        mine = [x is None for x in a.gradients]
        other = [x is None for x in b.gradients]
        if mine != other:
            return [*found, Difference("gradient", f"None for ours: {mine}; for theirs: {other}")]
        ga = [g for g in a.gradients if g is not None]
        gb = [g for g in b.gradients if g is not None]
        differs("gradient", [f"{g.dtype} {g.shape}" for g in ga], [f"{g.dtype} {g.shape}" for g in gb])
        if not found:
            found += _numbers("gradient", theirs, call, ga, gb, True)
    return found


_MISSING = (
    "not implemented for", "not supported for", "is not supported", "not yet supported", "nsupported", "not support",
    "must be Tensor, not", "Expected out tensor to have dtype", "to have the same dtype", "not implemented on the CPU",
)  # fmt: skip
_UNPARSED = (
    "invalid combination of arguments", "unexpected keyword argument", "multiple values", "unexpected positional",
    "required positional",
    "positional arguments but", "missing required",
)  # fmt: skip


def narrower(error: Exception) -> bool:
    """Whether an error says that a dtype, a Python number or a way of passing arguments is not taken there."""
    text = str(error)
    if isinstance(error, TypeError) and any(part in text for part in _UNPARSED):
        return True
    return isinstance(error, NotImplementedError) or any(part in text for part in _MISSING)


def _outline(outcome: Outcome) -> str:
    shown = [f"{x.dtype}{x.shape}" if x.size > 4 else f"{x.dtype}{x.shape} {x.tolist()}" for x in outcome.outputs]
    return ", ".join(shown) or "nothing"


def _rounding(array: np.ndarray) -> Any:
    """How far a result may be off by a few roundings of its numbers."""
    if not is_differentiable(array.dtype):
        return 0.0
    wide = exact64(array)
    with np.errstate(all="ignore"):
        parts = (wide.real, wide.imag) if wide.dtype.kind == "c" else (wide,)
        size = sum(np.abs(np.where(np.isfinite(part), part, 0)) for part in parts)
    return eps(array.dtype) * (4 * size + 8 * np.max(size, initial=0.0))


def _numbers(
    category: str, theirs: Peer, call: RandomCall, a: Sequence[np.ndarray], b: Sequence[np.ndarray],
    of_gradient: bool,
) -> list[Difference]:  # fmt: skip
    """Elements that differ by more than roundings of the result, where ours is the one farther from the truth."""
    found: list[tuple[int, str]] = []
    with np.errstate(all="ignore"):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            try:
                within(x, y, _rounding(y), f"{category} {i}")
            except CheckError as error:
                found.append((i, str(error)))
        if not found:
            return []
        try:
            settled = _settled(theirs, call, a, b, of_gradient)
        except Exception:  # the peer does not take it in float64: nothing settles it
            settled = [False] * len(a)
    return [Difference(category, f"{text}; ours first, theirs expected") for i, text in found if not settled[i]]


def _settled(
    peer: Peer, call: RandomCall, a: Sequence[np.ndarray], b: Sequence[np.ndarray], of_gradient: bool
) -> list[bool]:
    """Of each result, whether ours is as near to the peer's float64 result as its conditioning asks, or as theirs."""
    inputs = arrays_in(call.args)
    floats = [x.dtype for x in (*inputs, *a) if is_differentiable(x.dtype)]
    coarsest = max(floats, key=eps) if floats else np.dtype(np.float64)

    def evaluate(*arrays: np.ndarray) -> list[np.ndarray]:
        moved = RandomCall(call.space, call.name, with_arrays(call.args, arrays), call.kwargs, call.writes, call.out)
        outcome = run(peer, moved, of_gradient, exact=True)
        if outcome.error is not None:
            raise outcome.error
        if of_gradient:
            return [g for g in outcome.gradients or [] if g is not None]
        return outcome.outputs

    terms = max((x.size for x in inputs), default=1)
    # Half types round between the steps of what is one operator elsewhere.
    working = eps(coarsest) if coarsest in HALF else None
    truth, allowed = bounds(evaluate, inputs, coarsest, terms, working)
    answers = []
    for x, y, t, bound in zip(a, b, truth, allowed, strict=True):
        if not (is_float(x.dtype) or x.dtype.kind == "c") or x.shape != t.shape:
            answers.append(False)
            continue
        x64, y64, t64 = exact64(x), exact64(y), exact64(t)
        same = (x64 == t64) | (np.isnan(x64) & np.isnan(t64))
        off, other = np.abs(x64 - t64), np.abs(y64 - t64)
        other = np.where(np.isfinite(other), other, np.inf)
        least = 64 * eps(x.dtype) * (1 + np.max(np.abs(np.where(np.isfinite(t64), t64, 0)), initial=0.0))
        near = same | (off <= bound) | (off <= other) | (off <= least)
        answers.append(bool(near.all()))
    return answers
