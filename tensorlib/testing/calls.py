"""Calling an operator on plain arrays: on any device, whole (as a user does) or as its kernel's host function alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from tensorlib import _array, _dispatch, random
from tensorlib._core import Tensor, modes, version_of, wrap
from tensorlib._device import cpu
from tensorlib._device import device as Device
from tensorlib.autograd import engine
from tensorlib.op import Composite, Op, composites, registry
from tensorlib.testing.compare import CheckError, is_float

SEED = 17


def declared(what: Any) -> Op | Composite:
    """The declaration of an operator given as itself, as its public function or as its name."""
    if isinstance(what, (Op, Composite)):
        return what
    if isinstance(what, str):
        found: Any = registry.get(what) or composites.get(what)
    else:
        found = getattr(what, "op", None) or next((c for c in composites.values() if c.function is what), None)
    if found is None:
        raise TypeError(f"checks: {what!r} is no declared operator: expected one, its public function or its name")
    return found  # type: ignore[no-any-return]


def place(array: np.ndarray, device: Device) -> Any:
    """A copy on the device with the same strides."""
    if not array.size or (array.flags.c_contiguous and device is not cpu):
        return _array.to_device(array, device)
    strides = _array.strides_of(array)
    low = sum((n - 1) * s for n, s in zip(array.shape, strides, strict=True) if s < 0)
    high = sum((n - 1) * s for n, s in zip(array.shape, strides, strict=True) if s > 0)
    whole = _array.as_strided(array, (high - low + 1,), (1,), low)
    copied = _array.to_device(np.array(whole), device)
    return _array.as_strided(copied, array.shape, strides, -low)


def tensors(
    args: Sequence[Any], device: Device = cpu, needs: bool | Sequence[bool] = False
) -> tuple[list[Any], list[Tensor]]:
    """(arguments with every array a tensor of its own, those tensors in order). ``needs``: floats want gradients, all
    or each.
    """
    made: list[Tensor] = []

    def make(a: Any) -> Any:
        if isinstance(a, np.ndarray):
            t = wrap(place(a, device))
            wants = needs if isinstance(needs, bool) else len(made) >= len(needs) or needs[len(made)]
            t._needs = wants and (is_float(a.dtype) or a.dtype.kind == "c")
            made.append(t)
            return t
        return [make(x) for x in a] if isinstance(a, list) else a

    return [make(a) for a in args], made


def arrays_in(args: Sequence[Any]) -> list[np.ndarray]:
    """The arrays among the arguments, sequences opened, in order."""
    found = []
    for a in args:
        if isinstance(a, np.ndarray):
            found.append(a)
        elif isinstance(a, list):
            found.extend(x for x in a if isinstance(x, np.ndarray))
    return found


def with_arrays(args: Sequence[Any], arrays: Sequence[np.ndarray]) -> tuple[Any, ...]:
    """The arguments with their arrays replaced, in order."""
    following = iter(arrays)

    def put(a: Any) -> Any:
        if isinstance(a, np.ndarray):
            return np.asarray(next(following))  # arithmetic on 0-d arrays gives scalars
        return [put(x) for x in a] if isinstance(a, list) else a

    return tuple(put(a) for a in args)


def opened(result: Any) -> list[Tensor]:
    """The tensors of a result: one, several, none, or a number as a tensor."""
    if result is None:
        return []
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, (tuple, list)):
        return [t for r in result for t in opened(r)]
    return [wrap(np.asarray(result))]


@contextmanager
def stream(seed: int = SEED) -> Iterator[None]:
    """The random stream at a seed within, and where it was afterwards."""
    before = random.get_rng_state()
    random.manual_seed(seed)
    try:
        yield
    finally:
        random.set_rng_state(before)


def call(
    made: Op | Composite, args: Sequence[Any], attrs: dict[str, Any], device: Device = cpu, seed: int = SEED
) -> Any:
    """The public function of tensors as a user calls it; random operators always draw the same numbers."""
    if device is not cpu and "device" in made.signature.parameters and not any(_has_tensor(a) for a in args):
        attrs = {**attrs, "device": device}
    attrs = {k: wrap(place(v, device)) if isinstance(v, np.ndarray) else v for k, v in attrs.items()}
    with stream(seed):
        return made.public(*args, **attrs)


def _has_tensor(a: Any) -> bool:
    return isinstance(a, Tensor) or (isinstance(a, list) and any(isinstance(x, Tensor) for x in a))


def run(
    made: Op | Composite, args: Sequence[Any], attrs: dict[str, Any], device: Device = cpu, seed: int = SEED
) -> list[Any]:
    """The results as arrays; of an operator that mutates its arguments, those afterwards."""
    given, _ = tensors(args, device)
    grad, modes.grad = modes.grad, False
    try:
        result = call(made, given, attrs, device, seed)
    finally:
        modes.grad = grad
    if isinstance(made, Op) and made.mutates:
        return [t._array for t in mutated(made, given)]
    return [t._array for t in opened(result)]


def mutated(op: Op, given: Sequence[Any]) -> list[Tensor]:
    """The tensors that the operator says it writes."""
    position = list(op.signature.parameters)
    found: list[Tensor] = []
    for i in op.mutates:
        at = position.index(op.tensors[i].name)
        value = given[at] if at < len(given) else None
        found.extend(t for t in (value if isinstance(value, list) else [value]) if t is not None)
    return found


def host(values: Sequence[Any]) -> list[np.ndarray]:
    """The arrays on the host."""
    return [v if isinstance(v, np.ndarray) else _array.to_host(v) for v in values]


class Bound(NamedTuple):
    """One application after binding: what the body or the host function gets, and what spec says of its results."""

    arrays: Sequence[Any]
    attrs: dict[str, Any]
    specs: Any  # [(shape, dtype)] or None where they depend on the data
    device: Device


def bind(op: Op, args: Sequence[Any], attrs: dict[str, Any], device: Device = cpu) -> Bound:
    """An application as the dispatcher binds it, not executed: dims from the front, promoted, inferred."""
    given, _ = tensors(args, device)
    bound = op.signature.bind_partial(*given, **attrs)
    bound.apply_defaults()
    values = bound.arguments
    if op.random:
        values["seed"], values["offset"] = SEED, 0
    bound_attrs = {p.name: values[p.name] for p in op.attrs}
    flat, counts = _dispatch.flatten(op, [values[p.name] for p in op.tensors])
    _dispatch.bind_attrs(op, flat, bound_attrs)
    if op.lifts and isinstance(flat[0], Tensor) and not flat[0]._array.ndim:
        flat = [wrap(x._array.reshape((1,))) if isinstance(x, Tensor) and not x._array.ndim else x for x in flat]
    where = _dispatch.common_device(op, flat)
    if where is None:
        where = bound_attrs["device"] = device if "device" in bound_attrs else cpu
        if "device" not in {p.name for p in op.attrs}:
            del bound_attrs["device"]
    arrays, seen, out = _dispatch.promote(op, flat, bound_attrs, where)
    operands, seen = _dispatch.unflatten(arrays, counts), _dispatch.unflatten(seen, counts)
    if op.is_view or op.mutates:
        specs: Any = None
    elif op.broadcasts and op.spec is None:
        specs = [(_dispatch.broadcast(op, seen), out)]
    else:
        specs = op.specs(seen, bound_attrs)
    return Bound(operands, bound_attrs, specs, where)


def on_kernel(op: Op, bound: Bound) -> list[Any]:
    """The outputs and auxiliary outputs of the host function alone."""
    assert op.kernel is not None
    if bound.specs is None:
        result = op.kernel(*bound.arrays, **bound.attrs)
        return list(result) if isinstance(result, tuple) else [result]
    outs = [_array.empty(shape, dtype, bound.device) for shape, dtype in bound.specs]
    op.kernel(*outs, *bound.arrays, **bound.attrs)
    return outs


def gradients(
    made: Op | Composite,
    args: Sequence[Any],
    attrs: dict[str, Any],
    cotangents: Any,
    device: Device = cpu,
    create: bool = False,
    outputs: set[int] | None = None,
    needs: bool | Sequence[bool] = True,
) -> tuple[list[Tensor], list[Tensor], list[Tensor | None], list[Tensor]]:
    """(outputs, tensors that want gradients, their gradients, cotangents) of one call.

    ``cotangents(i, tensor)`` gives the gradient of output i as an array; ``outputs``: of these outputs only.
    ``needs``: of all tensors, or whether of each.
    """
    given, made_tensors = tensors(args, device, needs=needs)
    if isinstance(made, Op) and made.mutates:
        raise CheckError(f"{made.name}: mutates its arguments, and has no gradient")
    leaves = [t for t in made_tensors if t._needs]
    outs = opened(call(made, given, attrs, device))
    live = [(i, t) for i, t in enumerate(outs) if t.requires_grad and (outputs is None or i in outputs)]
    seeds = [wrap(place(cotangents(i, t), device)) for i, t in live]
    if create:
        for s in seeds:
            s._needs = True
    if not live:
        return outs, leaves, [None] * len(leaves), []
    found = engine.grad([t for _, t in live], leaves, seeds, create_graph=create, allow_unused=True)
    return outs, leaves, list(found), seeds


def versions(ts: Sequence[Tensor]) -> list[int]:
    """How often each tensor was written."""
    return [version_of(t)[0] for t in ts]
