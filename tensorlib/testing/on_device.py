"""``device_checks(op, device)``: what an operator is put through on a device that computes, held to the CPU.

The calls are those of ``checks(op)``, so that nothing is declared twice:

===========  =======================================================================================================
values       outputs (auxiliary ones too) in every dtype, inputs of any layout, into memory that was poisoned
gradient     the gradient of every input, in float32 and bfloat16
inplace      ``x.op_()`` and ``out=``
rerun        the same call again: bit-equal with deterministic algorithms on, or an error that names the operator
===========  =======================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from tensorlib._core import Tensor, version_of, wrap
from tensorlib._device import device as Device
from tensorlib.errors import DeviceError, DtypeError
from tensorlib.op import Composite, Op
from tensorlib.runtime import determinism, engine
from tensorlib.testing import calls, derive, gradients, kernels
from tensorlib.testing.cases import (
    BFLOAT16,
    FLOAT32,
    FLOAT64,
    Case,
    Declared,
    cases,
    dtypes,
    each_case,
    is_random,
    usual,
    writes_first,
)
from tensorlib.testing.compare import CheckError, bounds, eps, exact64, is_float, same, within
from tensorlib.testing.derive import Check

#: The checks, in the order in which they are made.
NAMES = ("values", "gradient", "inplace", "rerun")


def device_checks(op: Any, device: Any) -> Iterator[Check]:
    """The checks of a declared operator (itself, its public function or its name) on a device such as "cuda:0".

    Which ones depends on the declaration, as in ``checks``. Called, each raises CheckError or what the operator raised.
    """
    made, where = calls.declared(op), engine.resolve(Device(device))
    for name in names(made):
        run: Callable[[Any, Device], None] = {"values": values, "gradient": gradient, "inplace": inplace,
                                              "rerun": rerun}[name]  # fmt: skip
        yield Check(made.name, name, partial(run, made, where))


def names(made: Declared) -> tuple[str, ...]:
    """Which of NAMES an operator has. Nothing is drawn and nothing is run to tell."""
    if made.samples == () and not (isinstance(made, Op) and made.pointwise):
        return ()
    found = ["values"]
    if isinstance(made, Composite):
        differentiable = not writes_first(made)
    else:
        differentiable = made.vjps is not None and not made.mutates
    if differentiable:
        found.append("gradient")
    if made.inplace or (isinstance(made, Op) and derive.has_out(made)):
        found.append("inplace")
    if isinstance(made, Op) and made.kernel is not None and not made.mutates:
        found.append("rerun")
    return tuple(found)


def values(made: Declared, device: Device) -> None:
    """Results on the device against those on the CPU."""
    if isinstance(made, Composite) or made.kernel is None:
        derive.whole_on(made, device)
        return
    derive.kernel_on(made, device)
    if made.mutates:
        for case in cases(made):
            derive.mutates_on(made, case, device)


def _host(t: Tensor) -> np.ndarray:
    return calls.host([t._array])[0]


def _refused(error: Exception) -> bool:
    """Whether an operator, or its gradient, says that it is on the CPU only, or that it does not take a dtype."""
    return isinstance(error, DtypeError) or (isinstance(error, DeviceError) and "on the CPU only" in str(error))


def gradient(made: Declared, device: Device) -> None:
    """Gradients on the device against those on the CPU: every call in float32, two in bfloat16."""
    takes = dtypes(made)
    ordinary = [c for c in cases(made) if not c.special and not c.refusable and any(c.needs())]
    chosen = [(c, FLOAT32) for c in ordinary if FLOAT32 in takes]
    chosen += [(c, BFLOAT16) for c in ordinary[:2] if BFLOAT16 in takes and not c.fixed]
    for case, dtype in chosen:
        args, attrs = case.arguments(dtype)
        make = _cotangents(case)
        here = calls.gradients(made, args, attrs, make, needs=case.needs())
        try:
            there = calls.gradients(made, args, attrs, make, device, needs=case.needs())
        except (DeviceError, DtypeError) as error:
            if not _refused(error):
                raise
            continue
        allowed = None
        if FLOAT64 in takes and not is_random(made):
            function, arrays = gradients.gradient_function(made, args, attrs, make, case.needs())
            working = eps(dtype) if dtype == BFLOAT16 else None  # a rule rounds between its steps
            allowed = bounds(function, arrays, dtype, max((a.size for a in arrays), default=1), working)[1]
        for i, (g, w) in enumerate(zip(there[2], here[2], strict=True)):
            what = f"{made.name}, {case}, {dtype}: gradient {i} on {device} against the CPU"
            if g is None or w is None:
                given = w if g is None else g
                if given is not None and np.any(_host(given) != 0):
                    raise CheckError(f"{what}: only one of them gives a gradient")
                continue
            got, want = _host(g), w._array
            if got.dtype != want.dtype:
                raise CheckError(f"{what}: dtype {got.dtype}, expected {want.dtype}")
            size = np.abs(np.where(np.isfinite(exact64(want)), exact64(want), 0))
            # Cotangents are near 1; what cancels may have been hundreds, as 1 / std of a constant row is.
            least = max(1024 * eps(FLOAT32), 4 * eps(want.dtype))
            limit = 32 * eps(want.dtype) * (size + size.max(initial=0.0)) + least
            if allowed is not None and i < len(allowed) and allowed[i].shape == want.shape:
                limit = np.maximum(limit, 2 * allowed[i])
            within(got, want, limit + derive.approximate(device, want, made), what)


def _cotangents(case: Case) -> Callable[[int, Tensor], np.ndarray]:
    """Random gradients of the outputs, whatever device the outputs are on."""

    def make(i: int, t: Tensor) -> np.ndarray:
        return np.random.default_rng([5, i]).standard_normal(t._array.shape).astype(t._array.dtype)

    return make


def inplace(made: Declared, device: Device) -> None:
    """``x.op_(...)`` and ``out=`` on the device: the same tensor, counted, its numbers those of the operator itself."""
    for case, dtype in each_case(made, (FLOAT32,)):
        args, attrs = case.arguments(dtype)
        if not calls.arrays_in(args) or any(a.dtype.kind == "c" for a in calls.arrays_in(args)):
            continue
        try:
            want = calls.host(calls.run(made, args, attrs, device))
        except (DeviceError, DtypeError) as error:
            if not _refused(error):
                raise
            continue
        what = f"{made.name}, {case}, {dtype}, on {device}"
        if isinstance(made, Op) and derive.has_out(made) and not is_random(made):
            given, _ = calls.tensors(args, device)
            outs = tuple(wrap(calls.place(np.empty(w.shape, w.dtype), device)) for w in want)
            asked = {**attrs, "out": outs[0] if len(outs) == 1 else outs}
            result = calls.opened(calls.call(made, given, asked, device))
            for i, (r, out, w) in enumerate(zip(result, outs, want, strict=True)):
                if r is not out:
                    raise CheckError(f"{what}: out= returns another tensor than was given")
                same(_host(out), w, f"{what}: out= {i}")
        first = args[0] if args else None
        if not made.inplace or not isinstance(first, np.ndarray) or first.shape != want[0].shape or 0 in first.strides:
            continue
        given, _ = calls.tensors(args, device)
        before = version_of(given[0])[0]
        try:
            with calls.stream():
                result = getattr(Tensor, f"{made.name}_")(*given, **attrs)
        except DtypeError:  # the result's dtype does not go into x, on the CPU as here: derive._inplace looks at which
            continue
        if result is not given[0] or version_of(given[0])[0] <= before:
            raise CheckError(f"{what}: in place returns another tensor, or did not raise the version counter")
        with np.errstate(all="ignore"):
            wanted = want[0].astype(first.dtype, copy=False)
        same(_host(given[0]), wanted, f"{what}: in place")


def rerun(op: Op, device: Device) -> None:
    """The kernel twice on the same arguments, with deterministic algorithms asked for: bit for bit the same."""
    before, determinism.level[0] = determinism.level[0], "error"
    try:
        for case in [c for c in cases(op) if not c.special][:4]:
            args, attrs = case.arguments(usual(op))
            bound = calls.bind(op, args, attrs, device)
            if bound.device is not device:
                continue
            try:
                with kernels.poisoned():
                    one, other = (calls.host(calls.on_kernel(op, bound)) for _ in range(2))
            except determinism.Unordered:  # it says so instead, as it should
                continue
            for i, (a, b) in enumerate(zip(one, other, strict=True)):
                if a.tobytes() != b.tobytes():
                    raise CheckError(
                        f"{op.name}, {case}: output {i} of two runs differs on {device}, "
                        f"although deterministic algorithms were asked for"
                    )
    finally:
        determinism.level[0] = before


def large(made: Declared, args: tuple[Any, ...], attrs: dict[str, Any], device: Any, what: str) -> None:
    """One call at a real size and its gradients, on the device against the CPU; bounds from the length alone.

    Evaluating at perturbed inputs, as ``values`` does, would take seconds at these sizes.
    """
    device = engine.resolve(Device(device))
    seeds: dict[int, np.ndarray] = {}

    def make(i: int, t: Tensor) -> np.ndarray:
        if i not in seeds:
            seeds[i] = np.random.default_rng([5, i]).standard_normal(t._array.shape).astype(np.float32)
        return seeds[i].astype(t._array.dtype)

    floats = [a for a in calls.arrays_in(args) if is_float(a.dtype)]
    unit = max((eps(a.dtype) for a in floats), default=0.0)
    wide = calls.with_arrays(args, [a.astype(np.float32) if is_float(a.dtype) and a.dtype.itemsize < 4 else a
                                    for a in calls.arrays_in(args)])  # fmt: skip
    differentiable = bool(floats) and "gradient" in names(made)
    here = calls.gradients(made, wide, attrs, make, needs=differentiable)
    there = calls.gradients(made, args, attrs, make, device, needs=differentiable)
    for kind, ours, theirs in (("output", there[0], here[0]), ("gradient", there[2], here[2])):
        for i, (g, w) in enumerate(zip(ours, theirs, strict=True)):
            if g is None or w is None:
                if g is not w:
                    raise CheckError(f"{what}: only one of them gives gradient {i}")
                continue
            got, want = _host(g), w._array
            if not is_float(want.dtype):
                same(got, want, f"{what}: {kind} {i}")
                continue
            # Of the size of the whole: one number of a long sum may cancel.
            scale = float(np.sqrt(np.mean(np.square(exact64(want))))) if want.size else 0.0
            size = np.abs(np.where(np.isfinite(exact64(want)), exact64(want), 0))
            limit = (4 * unit + 64 * eps(FLOAT32)) * (size + 4 * scale)
            within(got.astype(want.dtype), want, limit, f"{what}: {kind} {i} on {device} against float32 on the CPU")
