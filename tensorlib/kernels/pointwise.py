"""One kernel for every pointwise operator: any arity, rank, broadcast and dtype; the operator is a constexpr function.

Reads each input once and writes the output once. float16 and bfloat16 are computed in float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._array import DeviceArray, empty, expand
from tensorlib._dtypes import HALF
from tensorlib.runtime.compiler import Jit, jit
from tensorlib.runtime.launch import cdiv, launch
from tensorlib.runtime.recording import float64

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 1024
_FLOAT32, _FLOAT64, _BOOL = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.bool_)

ARRAY, NUMBER, CONSTANT = 0, 1, 2  # what a value handed to the scalar function is


@jit
def _value(inputs, offsets, mask, k: tl.constexpr, KINDS: tl.constexpr, VIA: tl.constexpr, TYPES: tl.constexpr):
    if KINDS[k] == 1:
        if TYPES[k] is None:
            v = inputs[k]
        else:
            v = tl.cast(inputs[k], TYPES[k])
    else:
        v = tl.load(inputs[k] + offsets[k], mask=mask)
        if VIA[k] is not None:
            v = v.to(VIA[k])
        if TYPES[k] is not None:
            v = v.to(TYPES[k])
    return v


# One program owns BLOCK consecutive elements of the output in C order. RANK 0: every array is contiguous and of the
# output's shape; otherwise the element number is split into RANK indices, each array with its own strides.
@jit
def pointwise_kernel(
    out, inputs, n, shape, out_strides, in_strides,
    fn: tl.constexpr, KINDS: tl.constexpr, VIA: tl.constexpr, TYPES: tl.constexpr, CONSTANTS: tl.constexpr,
    RANK: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0)
    if WIDE:
        i = i.to(tl.int64)
    i = i * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    offsets = ()
    if RANK == 0:
        at = i
        for _ in tl.static_range(len(KINDS)):
            offsets = offsets + (i,)
    else:
        rest = i
        at = tl.zeros_like(i)
        for _ in tl.static_range(len(KINDS)):
            offsets = offsets + (at,)
        for d in tl.static_range(RANK - 1, -1, -1):
            index = rest % shape[d]
            rest = rest // shape[d]
            at += index * out_strides[d]
            moved = ()
            for k in tl.static_range(len(KINDS)):
                moved = moved + (offsets[k] + index * in_strides[k][d],)
            offsets = moved
    values = ()
    for k in tl.static_range(len(KINDS)):
        if KINDS[k] == 2:
            values = values + (0,)  # a tuple cannot hold None or a string
        else:
            values = values + (_value(inputs, offsets, mask, k, KINDS, VIA, TYPES),)
    if CONSTANTS is None:
        result = fn(*values)
    elif len(KINDS) == 2:
        result = fn(
            values[0],
            CONSTANTS[1] if KINDS[1] == 2 else values[1],
        )
    elif len(KINDS) == 3:
        result = fn(
            values[0],
            CONSTANTS[1] if KINDS[1] == 2 else values[1],
            CONSTANTS[2] if KINDS[2] == 2 else values[2],
        )
    elif len(KINDS) == 4:
        result = fn(
            values[0],
            CONSTANTS[1] if KINDS[1] == 2 else values[1],
            CONSTANTS[2] if KINDS[2] == 2 else values[2],
            CONSTANTS[3] if KINDS[3] == 2 else values[3],
        )
    elif len(KINDS) == 5:
        result = fn(
            values[0],
            CONSTANTS[1] if KINDS[1] == 2 else values[1],
            CONSTANTS[2] if KINDS[2] == 2 else values[2],
            CONSTANTS[3] if KINDS[3] == 2 else values[3],
            CONSTANTS[4] if KINDS[4] == 2 else values[4],
        )
    elif len(KINDS) == 6:
        result = fn(
            values[0],
            CONSTANTS[1] if KINDS[1] == 2 else values[1],
            CONSTANTS[2] if KINDS[2] == 2 else values[2],
            CONSTANTS[3] if KINDS[3] == 2 else values[3],
            CONSTANTS[4] if KINDS[4] == 2 else values[4],
            CONSTANTS[5] if KINDS[5] == 2 else values[5],
        )
    else:
        tl.static_assert(False, "a scalar function with constants takes at most six arguments, the first no constant")
    tl.store(out + at, tl.cast(result, out.dtype.element_ty), mask=mask)


@jit
def identity(x):
    return x


def run(
    fn: Jit, out: DeviceArray, values: Sequence[Any], compute: Sequence[Any], via: Sequence[Any] | None = None
) -> None:
    """out = fn(*values), elementwise. ``values`` are arrays (broadcast to out), numbers, or constants of the kernel
    (None, strings, bools); ``compute`` gives for each the dtype it is brought to before fn, None: as it is;
    ``via`` one that arrays are rounded to before that.
    """
    n = out.size
    if n == 0:
        return
    inputs, kinds, types, constants, arrays = [], [], [], [], []
    via = via if via is not None else (None,) * len(values)
    for v, c, first in zip(values, compute, via, strict=True):
        if isinstance(v, DeviceArray):
            arrays.append(expand(v, out.shape) if v.shape != out.shape else v)
            inputs.append(v)
            kinds.append(ARRAY)
            types.append(c if first is not None or v.dtype != c else None)
            constants.append(None)
        elif isinstance(v, (int, float)) and not isinstance(v, bool):
            inputs.append(float64(v) if c == _FLOAT64 and isinstance(v, float) else v)
            kinds.append(NUMBER)
            types.append(c)
            constants.append(None)
            arrays.append(None)
        else:
            inputs.append(None)
            kinds.append(CONSTANT)
            types.append(None)
            constants.append(v)
            arrays.append(None)
    shape, strides = collapse(out.shape, [out.strides, *[None if a is None else a.strides for a in arrays]])
    flat = len(shape) == 1 and all(s is None or s == (1,) for s in strides)
    if flat:
        shape, strides = (), [None if s is None else () for s in strides]
    rank = len(shape)
    zero = (0,) * rank
    # Offsets fit 32 bits while no array's span, nor the padded element count, passes 2**31.
    span = max(sum(abs(t) * (m - 1) for t, m in zip(s, shape, strict=True)) for s in strides if s is not None)
    launch(
        pointwise_kernel,
        (cdiv(n, BLOCK),),
        out,
        tuple(inputs),
        n,
        shape,
        strides[0],
        tuple(zero if s is None else s for s in strides[1:]),
        fn=fn,
        KINDS=tuple(kinds),
        VIA=tuple(via),
        TYPES=tuple(types),
        CONSTANTS=tuple(constants) if CONSTANT in kinds else None,
        RANK=rank,
        WIDE=max(span, n + BLOCK) >= 1 << 31,
        BLOCK=BLOCK,
    )


def collapse(shape: Sequence[int], strides: Sequence[Any]) -> tuple[tuple[int, ...], list[Any]]:
    """Fewest dimensions that address the same elements in the same order, at least one. None strides are kept."""
    live = [s for s in strides if s is not None]
    dims: list[tuple[int, list[int]]] = []
    for d, m in enumerate(shape):
        if m == 1:
            continue
        here = [s[d] for s in live]
        if dims and all(outer == inner * m for outer, inner in zip(dims[-1][1], here, strict=True)):
            dims[-1] = (dims[-1][0] * m, here)
        else:
            dims.append((m, here))
    if not dims:
        dims = [(1, [1] * len(live))]
    merged = iter(zip(*[d[1] for d in dims], strict=True))
    return tuple(d[0] for d in dims), [None if s is None else next(merged) for s in strides]


class Host:
    """The host function of one pointwise operator."""

    def __init__(self, fn: Jit, name: str, promote: Any, promoted: Any) -> None:
        self.fn = fn
        self.name = name
        self.promote = promote
        self.promoted = promoted

    def __call__(self, out: DeviceArray, *inputs: Any, **attrs: Any) -> None:
        """out = fn(inputs, attributes in the order of the declaration), elementwise."""
        inputs = tuple([int(x) if isinstance(x, bool) else x for x in inputs])  # a number, where an attribute is a flag
        where = range(len(inputs)) if self.promoted is None else self.promoted
        chosen = [inputs[i] for i in where if inputs[i] is not None]
        compute = self.promote(self.name, chosen, attrs)[0] if self.promote is not None else out.dtype
        work = _FLOAT32 if compute in HALF else compute
        types: list[Any] = [None] * len(inputs)
        for i in where:
            types[i] = work
        for i, x in enumerate(inputs):  # outside the promotion 16-bit floats are still computed in float32
            if types[i] is None and isinstance(x, DeviceArray) and x.dtype in HALF:
                types[i] = _FLOAT32
        # A wider operand (0-d, or of integers) joins half ones as a half, and only then is computed with in float32.
        via: list[Any] = [None] * (len(inputs) + len(attrs))
        for i in where if compute in HALF else ():
            x = inputs[i]
            if isinstance(x, DeviceArray) and x.dtype not in HALF:
                via[i] = compute
        # Number attributes take part in the arithmetic at its precision; integers stay integers.
        numbers = [_FLOAT64 if work == _FLOAT64 and isinstance(v, float) else None for v in attrs.values()]
        run(self.fn, out, (*inputs, *attrs.values()), (*types, *numbers), via)


def copy(out: DeviceArray, x: DeviceArray) -> None:
    """out[...] = x, broadcast and converted to out's dtype; x may be another view of out's memory."""
    run(identity, out, (apart(x, out),), (None,))


def fill(out: DeviceArray, value: Any) -> None:
    """out[...] = value, a number."""
    value = int(value) if isinstance(value, bool) else value
    run(identity, out, (value,), (_FLOAT32 if out.dtype in HALF else out.dtype,))


def apart(x: DeviceArray, out: DeviceArray) -> DeviceArray:
    """x, or a copy of it where a program that writes out could overwrite what another one still has to read."""
    if x.owner is not out.owner or x.owner is None or not (x.size and out.size):
        return x
    if x.ptr == out.ptr and x.shape == out.shape and x.strides == out.strides and x.itemsize == out.itemsize:
        return x  # each element is read and written by one program
    (x_first, x_end), (out_first, out_end) = _extent(x), _extent(out)
    if x_end <= out_first or out_end <= x_first:
        return x
    own: DeviceArray = empty(x.shape, x.dtype, x.device)
    run(identity, own, (x,), (None,))
    return own


def _extent(x: DeviceArray) -> tuple[int, int]:
    """The first byte of x, and the one behind its last."""
    steps = [(n - 1) * s for n, s in zip(x.shape, x.strides, strict=True)]
    below, above = sum(s for s in steps if s < 0), sum(s for s in steps if s > 0)
    return x.ptr + below * x.itemsize, x.ptr + (above + 1) * x.itemsize
