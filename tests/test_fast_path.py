"""The fast paths against the slow one: those of ufuncs on operands that hypothesis draws, the others on samples."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorlib import Tensor, _dispatch, _inplace
from tensorlib._core import version_of, wrap
from tensorlib.op import registry
from tensorlib.testing import calls
from tensorlib.testing.cases import cases
from tensorlib.testing.compare import same
from tensorlib.testing.derive import _both

FAST = [op for op in registry.values() if op.fast is not None and op.__module__.startswith("tensorlib.")]
DTYPES = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool"]
SHAPES = [(), (1,), (3,), (4, 3), (4, 1), (2, 4, 3), (0, 3), (2, 1, 3), (5,)]


@st.composite
def operands(draw: Any) -> Any:
    """A tensor of any dtype, shape and layout, a number, an array, or something that is refused."""
    kind = draw(st.sampled_from(["tensor"] * 6 + ["number", "array", "other"]))
    if kind == "number":
        return draw(
            st.one_of(st.booleans(), st.integers(-3, 3), st.sampled_from([0.5, -2.0, float("nan"), float("inf")]))
        )
    if kind == "other":
        return draw(st.sampled_from([None, "text", [1.0], object]))
    shape = draw(st.sampled_from(SHAPES))
    dtype = draw(st.sampled_from(DTYPES))
    rng = np.random.default_rng(draw(st.integers(0, 5)))
    x = rng.uniform(0.25, 2.5, shape if shape else (1,))
    if dtype == "uint8" or dtype.startswith("int"):
        x = rng.integers(1, 5, x.shape)
    x = x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    layout = draw(st.sampled_from(["contiguous", "transposed", "strided", "reversed"]))
    if shape and layout == "transposed":
        x = np.ascontiguousarray(x.T).T
    elif shape and layout == "strided":
        x = np.repeat(x, 2, axis=-1)[..., ::2]
    elif shape and layout == "reversed":
        x = x[::-1]
    x = x.reshape(()) if not shape else x
    if kind == "array" and dtype != "bfloat16":
        return x
    t = wrap(x)
    t._needs = dtype in ("float32", "float64") and draw(st.booleans())
    return t


@pytest.mark.parametrize("op", FAST, ids=lambda op: op.name)
@given(data=st.data())
def test_fast_is_slow(op: Any, data: st.DataObject) -> None:
    _both(op, tuple(data.draw(operands()) for _ in op.tensors))


@pytest.mark.parametrize("op", [op for op in FAST if op.inplace], ids=lambda op: op.name)
@given(data=st.data())
def test_inplace_is_assignment(op: Any, data: st.DataObject) -> None:
    """``x.op_(y)`` against the slow result assigned to x: numbers, dtype, version, errors."""
    given_ = tuple(data.draw(operands()) for _ in op.tensors)
    if not isinstance(given_[0], Tensor):
        return
    outcomes = []
    for slow in (False, True):
        x = wrap(given_[0]._array.copy())
        before = version_of(x)[0]
        try:
            if slow:
                result = _dispatch.apply(op, (x, *given_[1:]), {p.name: p.default for p in op.attrs})
                _inplace.assign(x, result, f"{op.name}_", own=True)
            else:
                assert getattr(x, f"{op.name}_")(*given_[1:]) is x
        except Exception as error:
            outcomes.append((type(error), str(error), None, None))
            continue
        outcomes.append((None, None, x._array, version_of(x)[0] - before))
    (kind, text, array, writes), (kind_, text_, array_, writes_) = outcomes
    assert (kind, text, writes) == (kind_, text_, writes_)
    if array is not None:
        same(array, array_, f"{op.name}_")


# ----------------------------------------------------------------------- the functions made from declarations: compiled

QUICK = [
    op for op in registry.values()
    if op.quick is not None and not op.mutates and op.__module__.startswith("tensorlib.")
]  # fmt: skip


def _outcome(function: Any, op: Any, args: Any, attrs: dict[str, Any]) -> Any:
    """The results, or the error that came instead."""
    tensors = (*args[: len(op.tensors)], *[p.default for p in op.tensors[len(args) :]])
    values = {p.name: p.default for p in op.attrs}
    values |= dict(zip([p.name for p in op.attrs], args[len(op.tensors) :], strict=False)) | attrs
    try:
        out = function(tensors, values)
    except Exception as error:
        return error
    return None if out is None else out if isinstance(out, tuple) else (out,)


def _history(t: Tensor) -> Any:
    """What can be compared of a tensor's history: of its Node, or of its place in another's memory."""
    node = t._node
    view = None if t._view is None else (len(t._view.steps), t._view.stamp, [a for _, a in t._view.steps])
    if node is None:
        return t._needs, view, None
    kept = {name: type(value) for name, value in node.saved.items()}
    edges = [None if e is None else type(e) for e in node.edges]
    inputs = None if node.inputs is None else [e and to for e, to in zip(edges, node.inputs, strict=True)]
    return t._needs, view, (node.rule, edges, kept, node.attrs, inputs, node.outputs)


@pytest.mark.parametrize("op", QUICK, ids=lambda op: op.name)
def test_compiled_is_general(op: Any) -> None:
    """The compiled function, on what it remembers nothing of and on what it does, against the general way."""

    def general(tensors: Any, attrs: dict[str, Any]) -> Any:
        return _dispatch.apply_view(op, *tensors, attrs) if op.is_view else _dispatch.apply(op, tensors, attrs)

    taken = 0
    for case in (c for c in cases(op)[:6] if not c.refusable):
        for dtype in (np.dtype(np.float32), np.dtype(np.int64), np.dtype(np.float16)):
            args, attrs = case.arguments(dtype)
            if op.random:
                attrs = {**attrs, "seed": 3, "offset": taken}
            given_, _ = calls.tensors(args, needs=True)
            want = _outcome(general, op, given_, dict(attrs))
            for _ in range(2):
                got = _outcome(lambda tensors, values: op.quick(*tensors, **values), op, given_, dict(attrs))
                if got is None:
                    continue
                taken += 1
                assert type(got) is type(want)
                if isinstance(want, Exception):
                    assert str(got) == str(want)
                    continue
                for g, w in zip(got, want, strict=True):
                    same(g._array, w._array, f"{op.name}, {case}")
                    assert _history(g) == _history(w), f"{op.name}, {case}"
    assert taken
