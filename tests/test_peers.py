"""Calls drawn at random, and their comparison with a peer: here tensorlib itself, whole or with a fault."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tensorlib
import tensorlib.nn.functional
from tensorlib.errors import ShapeError
from tensorlib.testing.calls import declared
from tensorlib.testing.peers import Tensorlib, base, differences, narrower
from tensorlib.testing.random_calls import Around, RandomCall

OURS = Tensorlib(tensorlib)
SAMPLE = "add exp clamp sum sort matmul gather reshape conv2d softmax cat relu where".split()


def altered(**functions: Any) -> Tensorlib:
    """tensorlib with some functions replaced."""
    return Tensorlib(SimpleNamespace(**{**{n: getattr(tensorlib, n) for n in dir(tensorlib)}, **functions}))


def categories(call: RandomCall, peer: Tensorlib, **options: Any) -> set[str]:
    return {d.category for d in differences(OURS, peer, call, **options)}


@pytest.mark.parametrize("name", SAMPLE)
def test_a_library_does_not_differ_from_itself(name: str) -> None:
    around = Around(declared(name))
    drawn = [c for c in (around.call(0, i) for i in range(60)) if c is not None]
    assert len(drawn) > 40
    for call in drawn:
        assert differences(OURS, OURS, call) == [], str(call)


def test_calls_cover_what_they_say() -> None:
    drawn = [c for name in SAMPLE for i in range(150) if (c := Around(declared(name)).call(1, i)) is not None]
    arrays = [a for c in drawn for a in c.args if isinstance(a, np.ndarray)]
    assert {a.dtype.name for a in arrays} >= {"float32", "float64", "bfloat16", "float16", "int64", "int32", "uint8",
                                              "bool", "complex64"}  # fmt: skip
    assert {c.space for c in drawn} >= {"function", "method", "functional"}
    for has in (
        any(a.size == 0 for a in arrays), any(a.ndim == 0 for a in arrays), any(0 in a.strides for a in arrays),
        any(not a.flags.c_contiguous for a in arrays), any(c.writes for c in drawn),
        any(c.out is not None for c in drawn), any(c.sprinkled for c in drawn),
        any(isinstance(a, float) for c in drawn for a in c.args), any(c.kwargs.get("dim", 0) < 0 for c in drawn
                                                                      if isinstance(c.kwargs.get("dim", 0), int)),
    ):  # fmt: skip
        assert has


def test_a_call_is_the_same_again() -> None:
    one, other = (Around(declared("add")).call(3, 17) for _ in range(2))
    assert one is not None and other is not None and str(one) == str(other)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one.args, other.args, strict=True)
               if isinstance(a, np.ndarray))  # fmt: skip


X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)


def test_what_differs_is_named() -> None:
    call = RandomCall("function", "exp", (X,), {})
    exp = tensorlib.exp
    assert categories(call, altered()) == set()
    assert categories(call, altered(exp=lambda input: exp(input) * 1.001)) == {"value"}
    assert categories(call, altered(exp=lambda input: exp(input) * 1.001), values=False) == set()
    assert categories(call, altered(exp=lambda input: exp(input).double())) == {"dtype"}
    assert categories(call, altered(exp=lambda input: exp(input)[None])) == {"shape"}
    assert categories(call, altered(exp=lambda input: (exp(input),))) == {"kind"}
    assert categories(call, altered(exp=lambda input: exp(input.detach()))) == {"requires grad"}
    assert categories(call, altered(exp=lambda input: exp(input) + (2 * (input - input.detach())))) == {"gradient"}
    assert categories(call, altered(exp=lambda input: exp(input).detach().requires_grad_())) == {"gradient"}
    integers = RandomCall("function", "neg", (np.arange(3),), {})
    assert categories(integers, altered(neg=lambda input: input.neg_())) == {"memory", "version"}


def test_errors_are_compared_by_their_built_in_type() -> None:
    def refuse(kind: type[Exception], text: str = "no") -> Any:
        def function(*args: Any, **kwargs: Any) -> Any:
            raise kind(text)

        return function

    good, bad = RandomCall("function", "matmul", (X, X.T), {}), RandomCall("function", "matmul", (X, X), {})
    assert categories(good, altered(matmul=refuse(RuntimeError))) == {"accepted"}
    assert categories(good, altered(matmul=refuse(RuntimeError, "not implemented for 'Half'"))) == {"wider"}
    assert categories(bad, altered(matmul=lambda input, other: input)) == {"refused"}
    assert categories(bad, altered(matmul=refuse(RuntimeError))) == set()
    assert categories(bad, altered(matmul=refuse(NotImplementedError))) == set()
    assert categories(bad, altered(matmul=refuse(IndexError))) == {"error type"}
    assert base(ShapeError("")) is RuntimeError and base(NotImplementedError()) is RuntimeError
    assert narrower(TypeError("f() got an unexpected keyword argument 'x'")) and not narrower(TypeError("no"))


def test_rounding_is_no_difference() -> None:
    """A sum that cancels is settled by the peer's float64 result and its conditioning."""
    x = np.array([1e4, -1e4, 1.0, 3e-4] * 8, np.float32)
    reversed_sum = altered(sum=lambda input: tensorlib.sum(input.flip(0)))
    assert categories(RandomCall("function", "sum", (x,), {}), reversed_sum) == set()
    wrong = altered(sum=lambda input: tensorlib.sum(input) + 1)
    assert categories(RandomCall("function", "sum", (x,), {}), wrong) == {"value"}


def test_a_call_reads_as_a_program() -> None:
    call = RandomCall("functional", "relu", (np.array([1.5, -2], np.float16),), {"inplace": True})
    assert str(call) == "torch.nn.functional.relu(torch.tensor([ 1.5, -2. ], dtype=torch.float16), inplace=True)"
