"""Kernels without a GPU: interpreted and held to the CPU, compiled for every target, watched for what they reach."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal
from unittest import mock

import numpy as np

from tensorlib import _array
from tensorlib._device import TARGETS
from tensorlib._device import device as Device
from tensorlib.errors import DeviceError
from tensorlib.op import Op
from tensorlib.runtime import abi, ahead, compiler, interpreter, launch
from tensorlib.runtime.compiler import Jit
from tensorlib.runtime.launch import Coverage, Launch
from tensorlib.testing import calls
from tensorlib.testing.cases import FLOAT64, KERNEL_DTYPES, Case, cases, depends_on_dtype, dtypes, usual

INTERPRET, NATIVE = Device("interpret"), Device("native")


@contextmanager
def poisoned() -> Iterator[None]:
    """New arrays hold NaN or large odd integers, so that an element nobody wrote is noticed."""
    before = _array.poison(True)
    try:
        yield
    finally:
        _array.poison(before)


@contextmanager
def dry() -> Iterator[None]:
    """Launches are observed and go no further: nothing is compiled, nothing is interpreted."""
    with (
        mock.patch.object(compiler, "compile_kernel", lambda *a, **k: None),
        mock.patch.object(abi, "check", lambda *a, **k: None),
        mock.patch.object(interpreter, "run", lambda *a, **k: None),
    ):
        yield


def launched(op: Op, case: Case, dtype: Any, device: Device) -> Coverage:
    """What one call's host function launches on a device."""
    with Coverage() as seen:
        apply(op, case, dtype, device)
    return seen


def apply(op: Op, case: Case, dtype: Any, device: Device) -> None:
    """The host function of one call, through the dispatcher's binding."""
    args, attrs = case.arguments(dtype)
    bound = calls.bind(op, args, attrs, device)
    if bound.device is not device:  # every operand is a number: it is computed on the CPU
        return
    try:
        calls.on_kernel(op, bound)
    except DeviceError as error:
        # A shape that depends on the data ends a compile-only call: nothing was computed that could be read.
        if not (op.dynamic and device.compile_only and "compile-only" in str(error)):
            raise


def interpreted(op: Op) -> Iterator[tuple[Case, np.dtype[Any]]]:
    """The calls that are interpreted: all in the usual dtype, a few in each other one."""
    first = usual(op)
    for case in cases(op):
        yield case, first
    ordinary = [c for c in cases(op) if depends_on_dtype(c)]
    few = [c for c in ordinary if not c.special][:3] + [c for c in ordinary if c.special]
    for dtype in dtypes(op):
        if dtype != first and dtype.kind != "c":  # complex numbers are on the CPU only
            # Half types are what kernels are for; integers and bools share their code with them. float64 does too, but
            # an accumulator or a number that is always float32 shows in nothing else.
            for case in few if dtype in KERNEL_DTYPES else _telling(few)[:2] if dtype == FLOAT64 else few[:1]:
                yield case, dtype


def natively(op: Op) -> Iterator[tuple[Case, np.dtype[Any]]]:
    """The calls that are compiled for the processor: a few in the usual dtype, one in a half type and in float64.

    A compilation takes as long as a hundred small interpretations do, so that the half types take turns.
    """
    first, ordinary = usual(op), _telling(cases(op))
    for case in ordinary[:_NATIVE] + [c for c in ordinary[_NATIVE:] if c.special][:1]:
        yield case, first
    others = [d for d in dtypes(op) if d in KERNEL_DTYPES and d != first]
    turn = others[zlib.crc32(op.name.encode()) % len(others)] if others else first
    for dtype in (turn, FLOAT64):
        if dtype != first and dtype in dtypes(op):
            for case in [c for c in ordinary if depends_on_dtype(c)][:1]:
                yield case, dtype


_NATIVE = 4  # calls in the usual dtype


def _telling(chosen: Sequence[Case]) -> list[Case]:
    """The calls, those first that have elements in every tensor and no special values."""
    return sorted(chosen, key=lambda c: c.special or any(0 in d.shape for d in c.draws()))


@cache
def representatives(op: Op) -> tuple[Case, ...]:
    """The fewest calls whose launches reach every function that any call of the operator reaches, at least one."""
    with dry():
        reach: list[tuple[Case, frozenset[Jit], int]] = []
        for case in cases(op):
            if op.dynamic:
                with _running():
                    seen = launched(op, case, usual(op), INTERPRET)
            else:
                seen = launched(op, case, usual(op), Device("sm_90"))
            if seen.reached:
                reach.append((case, frozenset(seen.reached), len(seen.variants)))
    chosen: list[Case] = []
    covered: set[Jit] = set()
    while reach:
        # Calls that go with any dtype first, then the one that adds most.
        case, found, _ = max(reach, key=lambda r: (len(r[1] - covered), depends_on_dtype(r[0]), not r[0].special, r[2]))
        if chosen and not found - covered:
            break
        chosen.append(case)
        covered |= found
    return tuple(chosen)


@contextmanager
def _running() -> Iterator[None]:
    """Within ``dry``, interpret after all: shapes that depend on the data need the data."""
    with mock.patch.object(interpreter, "run", _RUN):
        yield


_RUN = interpreter.run


#: NVIDIA's targets, and AMD's with wavefronts of 64 and of 32: what is compiled alike but for the last steps.
FAMILIES = tuple(
    tuple(t for t in TARGETS if t.startswith(start)) for start in ("sm_", "gfx9", ("gfx10", "gfx11", "gfx12"))
)


#: How much the check ``compile`` compiles: one target of each family, others for another operator; each target, in one
#: dtype; each target in each dtype.
Extent = Literal["turn", "each", "all"]


def targets(op: Op, extent: Extent) -> Iterator[tuple[str, np.dtype[Any]]]:
    """The targets an operator is compiled for, and the dtypes: they take turns but in "all"."""
    if extent == "all":
        yield from ((t, d) for t in TARGETS for d in dtypes(op) if d.kind != "c")
        return
    takes = [d for d in KERNEL_DTYPES if d in dtypes(op)] or [usual(op)]
    start = zlib.crc32(op.name.encode())
    for i, target in enumerate(TARGETS if extent == "each" else (f[start % len(f)] for f in FAMILIES)):
        yield target, takes[(start + i) % len(takes)]


def compile_for(op: Op, extent: Extent) -> None:
    """Compile what the operator's representative calls launch, and hold the parameter block to each binary."""
    for target, dtype in targets(op, extent):
        for request in _requests(op, target, dtype):
            abi.check(compiler.compile_kernel(*request))


def left_out(operators: Sequence[Op], target: str) -> list[compiler.Request]:
    """One compilation of each Triton kernel that these operators launch on a target that is not the turn of any."""
    found: dict[Jit, compiler.Request] = {}
    compiled: set[Jit] = set()
    for op in operators:
        if op.kernel is not None:
            turn = dict(targets(op, "turn"))
            if target in turn:
                compiled.update(request.kernel for request in _requests(op, target, turn[target]))
            for request in _requests(op, target, usual(op)):
                found.setdefault(request.kernel, request)
    return [request for kernel, request in found.items() if kernel not in compiled]


def _requests(op: Op, target: str, dtype: Any) -> Iterator[compiler.Request]:
    """What the representative calls compile for a target."""
    chosen = representatives(op)
    for case in chosen:
        if case is not chosen[0] and case.fixed and dtype != usual(op):
            continue
        if op.dynamic:
            yield from _recorded(op, case, dtype, target)
        else:
            yield from ahead.collect(lambda: apply(op, case, dtype, Device(target)))  # noqa: B023


def _recorded(op: Op, case: Case, dtype: Any, target: str) -> Iterator[compiler.Request]:
    """What was launched in the interpreter, for a target: the host function needs its data to go on."""
    records: list[Launch] = []
    launch.observers.append(records.append)
    try:
        apply(op, case, dtype, INTERPRET)
    finally:
        launch.observers.remove(records.append)
    for r in records:
        amd = target.startswith("gfx")
        keys = tuple(
            compiler.specialise(value, amd, name in r.kernel.do_not_specialize)
            for name, value in zip(r.kernel.arguments, r.args, strict=True)
        )
        yield compiler.Request(r.kernel, keys, r.constants, target, r.num_warps, r.num_stages)


def unreached(operators: Sequence[Op], packages: tuple[str, ...]) -> list[str]:
    """The Triton functions declared in these packages that no check of these operators runs or compiles."""
    found = reached(operators)
    return sorted(
        f"{f.__module__}.{f.__qualname__}"
        for f in compiler.registry.values()
        if f.__module__.startswith(packages) and f not in found
    )


def reached(operators: Sequence[Op]) -> set[Jit]:
    """Every Triton function that the checks ``kernel`` or ``compile`` of these operators run or compile.

    The host functions run as they do in the checks; launches are observed only.
    """
    found: set[Jit] = set()
    for op in operators:
        if op.kernel is None:
            continue
        with Coverage() as seen, dry():
            for case, dtype in interpreted(op):
                if op.dynamic:
                    with _running():
                        apply(op, case, dtype, INTERPRET)
                else:
                    apply(op, case, dtype, INTERPRET)
            if not op.dynamic:
                for target, dtype in targets(op, "each"):
                    for case in representatives(op):
                        apply(op, case, dtype, Device(target))
        found |= seen.reached
    return found
