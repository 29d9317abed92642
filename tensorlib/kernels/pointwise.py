"""One kernel for every pointwise operator: any arity, rank, broadcast and dtype; the operator is a constexpr function.

Reads each input once and writes the output once. float16 and bfloat16 are computed in float32 and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib._array import DeviceArray, empty, expand
from tensorlib._dtypes import HALF, bfloat16, float16
from tensorlib.runtime.compiler import Jit, jit
from tensorlib.runtime.hardware import vector_warps
from tensorlib.runtime.launch import cdiv, launch, next_power_of_2
from tensorlib.runtime.recording import float64

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 1024
MANY = 1 << 20  # elements that leave work for every multiprocessor in larger blocks
TURNED = 64  # rows and columns of a tile that is turned in shared memory
_FLOAT32, _FLOAT64, _BOOL = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.bool_)
_UINT8, _INT64 = np.dtype(np.uint8), np.dtype(np.int64)
_FLOATING = frozenset([float16.numpy, bfloat16.numpy, _FLOAT32, _FLOAT64])

ARRAY, NUMBER, CONSTANT, ONE = 0, 1, 2, 3  # what a value handed to the scalar function is; ONE: an array of one element


# Input k at its offsets, in the dtype the scalar function wants it in; of a number, the number.
@jit
def _value(inputs, offsets, mask, k: tl.constexpr, KINDS: tl.constexpr, VIA: tl.constexpr, TYPES: tl.constexpr):
    if KINDS[k] == 1:
        if TYPES[k] is None:
            v = inputs[k]
        else:
            v = tl.cast(inputs[k], TYPES[k])
    elif KINDS[k] == 2:
        v = 0  # a tuple cannot hold None or a string
    else:
        if KINDS[k] == 3:
            v = tl.load(inputs[k])
        else:
            v = tl.load(inputs[k] + offsets, mask=mask)
        if VIA[k] is not None:
            v = v.to(VIA[k])
        if TYPES[k] is not None:
            v = v.to(TYPES[k])
    return v


# fn of the values, the constants of the kernel in their places.
@jit
def _call(fn: tl.constexpr, values, KINDS: tl.constexpr, CONSTANTS: tl.constexpr):
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
    return result


# out = fn(inputs) at element numbers i of contiguous arrays.
@jit
def _flat(out, inputs, i, mask, fn: tl.constexpr, KINDS: tl.constexpr, VIA: tl.constexpr, TYPES: tl.constexpr,
          CONSTANTS: tl.constexpr):  # fmt: skip
    values = ()
    for k in tl.static_range(len(KINDS)):
        values = values + (_value(inputs, i, mask, k, KINDS, VIA, TYPES),)
    tl.store(out + i, tl.cast(_call(fn, values, KINDS, CONSTANTS), out.dtype.element_ty), mask=mask)


# One program owns BLOCK consecutive elements of the output in C order. RANK 0: every array is contiguous and of the
# output's shape; otherwise the element number is split into RANK indices, each array with its own strides. A mask that
# ends within 16 elements would leave loads of one element: the last n % 16 (TAIL) are the last program's, apart.
@jit
def pointwise_kernel(
    out, inputs, n, shape, out_strides, in_strides,
    fn: tl.constexpr, KINDS: tl.constexpr, VIA: tl.constexpr, TYPES: tl.constexpr, CONSTANTS: tl.constexpr,
    RANK: tl.constexpr, TAIL: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0)
    if WIDE:
        i = i.to(tl.int64)
    i = i * BLOCK + tl.arange(0, BLOCK)
    if RANK == 0:
        if TAIL:
            whole = n // 16 * 16
            _flat(out, inputs, i, i < whole, fn, KINDS, VIA, TYPES, CONSTANTS)
            if tl.program_id(0) == tl.num_programs(0) - 1:
                rest = whole + tl.arange(0, 16)
                _flat(out, inputs, rest, rest < n, fn, KINDS, VIA, TYPES, CONSTANTS)
        else:
            _flat(out, inputs, i, i < n, fn, KINDS, VIA, TYPES, CONSTANTS)
    else:
        mask = i < n
        rest = i
        at = tl.zeros_like(i)
        offsets = ()
        for _ in tl.static_range(len(KINDS)):
            offsets = offsets + (at,)
        for d in tl.static_range(RANK - 1, -1, -1):
            index = rest
            if d > 0:
                index = rest % shape[d]
                rest = rest // shape[d]
            at += index * out_strides[d]
            moved = ()
            for k in tl.static_range(len(KINDS)):
                moved = moved + (offsets[k] + index * in_strides[k][d],)
            offsets = moved
        values = ()
        for k in tl.static_range(len(KINDS)):
            values = values + (_value(inputs, offsets[k], mask, k, KINDS, VIA, TYPES),)
        tl.store(out + at, tl.cast(_call(fn, values, KINDS, CONSTANTS), out.dtype.element_ty), mask=mask)


# One program owns BLOCK_M rows of BLOCK_N neighbours along the last dim of the output; a row is one of the M elements
# of the other RANK dims, numbered in C order, so that indices are divided once a row and not once an element. VARIES: 1
# for an input that varies along a row, 2 from row to row; it is read only so often. Inputs whose neighbours lie along
# the dim before the last are read in their own order and turned in shared memory. UNIT divides N and every other stride
# of the output and of the inputs marked 4 in VARIES, which have neighbours along a row.
@jit
def pointwise_tile_kernel(
    out, inputs, M, N, shape, out_strides, in_strides,
    fn: tl.constexpr, KINDS: tl.constexpr, VIA: tl.constexpr, TYPES: tl.constexpr, CONSTANTS: tl.constexpr,
    VARIES: tl.constexpr, RANK: tl.constexpr, UNIT: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    N = N // UNIT * UNIT
    tiles = tl.cdiv(N, BLOCK_N)
    m = tl.program_id(0) // tiles
    n = tl.program_id(0) % tiles
    if WIDE:
        m = m.to(tl.int64)
        n = n.to(tl.int64)
    m = m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = n * BLOCK_N + tl.arange(0, BLOCK_N)
    rows, columns = (m < M)[:, None], (n < N)[None, :]
    at = tl.zeros_like(m)
    offsets = ()
    for _ in tl.static_range(len(KINDS)):
        offsets = offsets + (at,)
    rest = m
    for d in tl.static_range(RANK - 1, -1, -1):
        index = rest
        if d > 0:
            index = rest % shape[d]
            rest = rest // shape[d]
        at += index * out_strides[d]
        moved = ()
        for k in tl.static_range(len(KINDS)):
            moved = moved + (offsets[k] + index * in_strides[k][d],)
        offsets = moved
    values = ()
    for k in tl.static_range(len(KINDS)):
        if KINDS[k] == 0:
            if VARIES[k] & 3 == 3:
                row = offsets[k][:, None]
                if VARIES[k] & 4 and UNIT > 1:
                    row = row // UNIT * UNIT
                at_k = row + (n * in_strides[k][RANK])[None, :]
                v = _value(inputs, at_k, rows & columns, k, KINDS, VIA, TYPES)
            elif VARIES[k] & 3 == 2:
                v = _value(inputs, offsets[k], m < M, k, KINDS, VIA, TYPES)[:, None]
            elif VARIES[k] & 3 == 1:
                v = _value(inputs, n * in_strides[k][RANK], n < N, k, KINDS, VIA, TYPES)[None, :]
            else:
                v = _value(inputs, tl.zeros((1, 1), tl.int32), None, k, KINDS, VIA, TYPES)
            values = values + (tl.broadcast_to(v, (BLOCK_M, BLOCK_N)),)
        else:
            values = values + (_value(inputs, None, None, k, KINDS, VIA, TYPES),)
    row = at[:, None]
    if UNIT > 1:
        row = row // UNIT * UNIT
    result = tl.cast(_call(fn, values, KINDS, CONSTANTS), out.dtype.element_ty)
    tl.store(out + (row + (n * out_strides[RANK])[None, :]), result, mask=rows & columns)


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
            whole = expand(v, out.shape) if v.shape != out.shape else v
            one = n > 1 and not any(t for t, m in zip(whole.strides, out.shape, strict=True) if m > 1)
            arrays.append(None if one else whole)
            inputs.append(v)
            kinds.append(ONE if one else ARRAY)
            types.append(c if first is not None or v.dtype != c else None)
            constants.append(None)
        elif isinstance(v, (int, float)) and not isinstance(v, bool):
            wide = c is not None and c == _FLOAT64  # NumPy finds float64 equal to None
            inputs.append(float64(v) if wide and isinstance(v, float) else v)
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
    shape, strides = _ordered(out.shape, [out.strides, *[None if a is None else a.strides for a in arrays]])
    flat = len(shape) == 1 and all(s is None or s == (1,) for s in strides)
    # Offsets fit 32 bits while no array's span, nor the padded element count, passes 2**31.
    span = max(sum(abs(t) * (m - 1) for t, m in zip(s, shape, strict=True)) for s in strides if s is not None)
    common = dict(
        fn=fn, KINDS=tuple(kinds), VIA=tuple(via), TYPES=tuple(types),
        CONSTANTS=tuple(constants) if CONSTANT in kinds else None,
    )  # fmt: skip
    tile = None if flat or len(shape) == 1 else _tile(shape, strides, out.itemsize)
    if tile is not None:
        shape, strides, block_m, block_n = tile
        m, N = n // shape[-1], shape[-1]
        launch(
            pointwise_tile_kernel, (cdiv(m, block_m) * cdiv(N, block_n),), out, tuple(inputs), m, N, shape[:-1],
            strides[0], tuple((0,) * len(shape) if s is None else s for s in strides[1:]), **common,
            **_layout(N, strides), RANK=len(shape) - 1, WIDE=max(span, m + block_m, N + block_n) >= 1 << 31,
            BLOCK_M=block_m, BLOCK_N=block_n,
        )  # fmt: skip
        return
    if flat:
        shape, strides = (), [None if s is None else () for s in strides]
    zero = (0,) * len(shape)
    # Two vectors of 16 bytes a thread where there are enough programs: a load has to be under way while others wait.
    least = min(out.itemsize, *(a.itemsize for a in arrays if a is not None), 4)
    block = 2 * BLOCK if flat and least < 4 and n >= MANY else BLOCK
    launch(
        pointwise_kernel, (cdiv(n, block),), out, tuple(inputs), n, shape, strides[0],
        tuple(zero if s is None else s for s in strides[1:]), **common, RANK=len(shape), TAIL=n % 16 != 0 and flat,
        WIDE=max(span, n + block) >= 1 << 31, BLOCK=block, num_warps=vector_warps(out.device, block, max(least, 2)),
    )  # fmt: skip


def _ordered(shape: Sequence[int], strides: Sequence[Any]) -> tuple[tuple[int, ...], list[Any]]:
    """`collapse` with the dims in the order of the output's memory: its neighbours last."""
    to = strides[0]
    order = sorted(range(len(shape)), key=lambda d: -abs(to[d]) if shape[d] > 1 else -1 << 62)
    if order != list(range(len(shape))):
        shape = [shape[d] for d in order]
        strides = [None if s is None else [s[d] for d in order] for s in strides]
    return collapse(shape, strides)


def _tile(
    shape: tuple[int, ...], strides: list[Any], itemsize: int
) -> tuple[tuple[int, ...], list[Any], int, int] | None:
    """(shape, strides, BLOCK_M, BLOCK_N) for tiles of the last dim and of what is before it: of the dim along which an
    input has its neighbours, if that is not the last. None where rows are too short for it.
    """
    N, last = shape[-1], len(shape) - 1
    if N < 16:
        return None
    across = None
    for s in strides[1:]:
        if s is not None and abs(s[-1]) > 1:
            least = min(range(last), key=lambda d: abs(s[d]) or 1 << 62)
            if 0 < abs(s[least]) < abs(s[-1]):
                across = least
    if across is None:
        block_n = min((b for b in (1024, 512, 256, 128, 64, 32, 16)), key=lambda b: (cdiv(N, b) * b * (1 + 16 / b)))
        rows = math.prod(shape[:-1])
        return shape, strides, min(next_power_of_2(rows), 2 * BLOCK // block_n), block_n
    order = [*(d for d in range(last) if d != across), across, last]
    turned = [None if s is None else tuple(s[d] for d in order) for s in strides]
    side = TURNED // 2 if itemsize > 4 else TURNED
    block_m = min(next_power_of_2(shape[across]), side)
    block_n = min(next_power_of_2(N), side * side // block_m)
    block_m = min(next_power_of_2(shape[across]), side * side // block_n)
    return tuple(shape[d] for d in order), turned, block_m, block_n


def _layout(N: int, strides: list[Any]) -> dict[str, Any]:
    """How often each input is read, and the unit in which rows begin: constants of the tile kernel."""
    rows = [strides[0], *(s for s in strides[1:] if s is not None and s[-1] == 1)]
    unit = math.gcd(16, N, *(t for s in rows for t in s[:-1])) if strides[0][-1] == 1 else 1
    varies = tuple(
        0 if s is None else (s[-1] != 0) + 2 * any(s[:-1]) + 4 * (s[-1] == 1) for s in strides[1:]
    )  # fmt: skip
    return {"VARIES": varies, "UNIT": unit if unit in (4, 8) else 1}  # of multiples of 16 the compiler knows


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


class Elsewhere(BaseException):
    """An in-place call whose result does not fit its tensor as it is: it goes by way of a result of its own.

    No ``Exception``, for it is no error, which public functions would explain to users.
    """


class InPlace(Host):
    """The host function of a pointwise operator's in-place form: one kernel that writes where it reads.

    Raises ``Elsewhere`` before anything runs where the result has another shape or dtype than the first operand.
    """

    def __init__(self, fn: Jit, name: str, promote: Any, promoted: Any, specs: Any) -> None:
        super().__init__(fn, name, promote, promoted)
        self.specs = specs

    def __call__(self, target: DeviceArray, *inputs: Any, **attrs: Any) -> None:
        """target = fn(target, inputs, attributes), elementwise; an input may be another view of target's memory."""
        every = (target, *inputs)
        if self.specs is not None:
            shape, result = self.specs(every, attrs)[0]
        else:
            where = range(len(every)) if self.promoted is None else self.promoted
            result = self.promote(self.name, [every[i] for i in where if every[i] is not None], attrs)[1]
            shape = np.broadcast_shapes(*[x.shape for x in every if isinstance(x, DeviceArray)])
        repeats = any(s == 0 and n > 1 for s, n in zip(target.strides, target.shape, strict=True))
        if result != target.dtype or shape != target.shape or repeats:
            raise Elsewhere
        own = [apart(x, target) if isinstance(x, DeviceArray) else x for x in inputs]
        super().__call__(target, target, *own, **attrs)


def copy(out: DeviceArray, x: DeviceArray) -> None:
    """out[...] = x, broadcast and converted to out's dtype; x may be another view of out's memory.

    A float becomes uint8 by way of int64, as PyTorch has it: -3.5 is 253, where a GPU's own conversion gives 0.
    """
    wraps = out.dtype == _UINT8 and x.dtype in _FLOATING
    run(identity, out, (apart(x, out),), (_INT64 if wraps else None,))


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
