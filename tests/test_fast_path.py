"""The fast paths of ufuncs against the slow one, on operands that hypothesis draws: numbers, errors, gradients."""

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
