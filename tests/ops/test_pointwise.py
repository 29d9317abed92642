"""Elementwise operators: what no declaration implies. Stored numbers are PyTorch's."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.nn import functional as F
from tensorlib.ops import _pointwise_numpy
from tensorlib.runtime import launch
from tensorlib.testing import assert_close

NAN, INF = math.nan, math.inf


def _ulps(got: np.ndarray, exact: np.ndarray) -> float:
    return float(np.max(np.abs(got - exact) / np.spacing(np.abs(exact).astype(got.dtype))))


@pytest.mark.parametrize(("dtype", "bound"), [(np.float32, 3.0), (np.float64, 1.5)])
def test_erf_is_accurate(dtype: type, bound: float) -> None:
    x = np.concatenate([np.linspace(-6, 6, 20001), np.geomspace(1e-30, 1, 500)]).astype(dtype)
    exact = np.array([math.erf(v) for v in x.tolist()])
    assert _ulps(_pointwise_numpy.erf(x), exact) < bound
    far = np.array([-INF, INF, 0.0], dtype)
    assert _pointwise_numpy.erf(far).tolist() == [-1.0, 1.0, 0.0]
    assert np.isnan(_pointwise_numpy.erf(np.array([NAN], dtype)))


def test_erfc_keeps_its_relative_accuracy() -> None:
    x = np.linspace(-6, 26, 20001)
    exact = np.array([math.erfc(v) for v in x.tolist()])
    assert _ulps(_pointwise_numpy.erfc(x), exact) < 8
    for v in np.float32([0.1, 1.0, 3.0, 9.0]):
        assert _ulps(_pointwise_numpy.erfc(np.array([v])), np.array([math.erfc(float(v))])) <= 0.5


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_select_is_where(dtype: type) -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((40, 30)) < 0.5
    x, y = (rng.standard_normal((40, 30)) * 9).astype(dtype), (rng.standard_normal(30) * 9).astype(dtype)
    if dtype is not np.int64:
        x[0, :3] = NAN, INF, -0.0
    for a, b in ((x, y), (y, x), (x, dtype(0)), (dtype(2), x), (x.T.copy().T, np.asarray(dtype(3)))):
        a, b = np.asarray(a), np.asarray(b)
        np.testing.assert_array_equal(_pointwise_numpy.select(mask, a, b), np.where(mask, a, b))


def test_divisions_with_signs() -> None:
    a, b = tl.tensor([-5.0, 5.0, -5.0, 5.0]), tl.tensor([2.0, 2.0, -2.0, -2.0])
    for x, y in ((a, b), (a.long(), b.long())):
        assert tl.remainder(x, y).tolist() == [1, 1, -1, -1]
        assert tl.fmod(x, y).tolist() == [-1, 1, -1, 1]
        assert tl.floor_divide(x, y).tolist() == [-3, 2, 2, -3]
        assert tl.div(x, y, rounding_mode="trunc").tolist() == [-2, 2, 2, -2]
        assert tl.div(x, y, rounding_mode="floor").tolist() == [-3, 2, 2, -3]


@pytest.mark.parametrize("name", ["floor_divide", "remainder", "fmod"])
def test_integers_are_not_divided_by_zero(name: str) -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        getattr(tl, name)(tl.tensor([1, 2]), tl.tensor([1, 0]))


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 4, 5, 6, -1, -2, 0.5, -0.5, 1.5])
def test_special_powers_equal_the_general_one(exponent: float) -> None:
    x = tl.tensor([0.3, 1.0, 2.5], dtype=tl.float64, requires_grad=True)
    y = tl.tensor([0.3, 1.0, 2.5], dtype=tl.float64, requires_grad=True)
    a, b = x**exponent, y ** tl.full((3,), exponent, dtype=tl.float64)
    assert_close(a.detach(), b.detach(), rtol=1e-14, atol=0.0)
    a.sum().backward()
    b.sum().backward()
    assert_close(x.grad, y.grad, rtol=1e-14, atol=1e-15)


def test_powers_of_integers() -> None:
    x = tl.tensor([-2, -1, 0, 1, 3])
    assert (x**3).tolist() == [-8, -1, 0, 1, 27]
    assert tl.pow(x, tl.tensor([-1, -3, 2, -5, -1])).tolist() == [0, -1, 0, 1, 0]
    assert (2 ** tl.tensor([0, 1, 5])).tolist() == [1, 2, 32]
    with pytest.raises(RuntimeError, match="Integers to negative integer powers"):
        x**-1


def test_gradient_at_ties() -> None:
    m = tl.tensor([1.0, 2.0, NAN, 0.0], requires_grad=True)
    n = tl.tensor([1.0, 1.0, 1.0, 2.0], requires_grad=True)
    tl.maximum(m, n).sum().backward()
    assert m.grad.tolist() == [0.5, 1.0, 1.0, 0.0]
    assert n.grad.tolist() == [0.5, 0.0, 1.0, 1.0]
    x = tl.tensor([-2.0, -1.0, 0.0, 0.5, 1.0, 2.0], requires_grad=True)
    x.clamp(-1, 1).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, 0.0]


def test_where_in_its_forms() -> None:
    x = tl.tensor([1.0, -1.0, 0.0])
    assert tl.where(x > 0, x, 7).tolist() == [1.0, 7.0, 7.0]
    assert x.where(x > 0, tl.tensor(5.0)).tolist() == [1.0, 5.0, 5.0]
    (found,) = tl.where(x)
    assert found.tolist() == [0, 1]
    with pytest.raises(RuntimeError, match="boolean tensor"):
        tl.where(tl.tensor([1, 0]), 1.0, 2.0)


def test_masked_fill_keeps_the_dtype() -> None:
    x = tl.tensor([1, 2, 3])
    assert x.masked_fill(x > 1, 7.9).tolist() == [1, 7, 7]
    h = tl.ones(2, dtype=tl.bfloat16)
    assert h.masked_fill(h > 0, tl.tensor(2.0, dtype=tl.float64)).dtype is tl.bfloat16
    with pytest.raises(RuntimeError, match="boolean masks"):
        x.masked_fill(x, 0)


def test_comparisons_that_give_python_bools() -> None:
    x = tl.tensor([1.0, NAN, INF])
    assert tl.equal(x, x) is False
    assert tl.equal(tl.ones(2), tl.ones(3)) is False
    assert tl.equal(tl.ones(2), tl.ones(2)) is True
    assert tl.allclose(x, x) is False
    assert tl.allclose(x, x, equal_nan=True) is True
    assert tl.isclose(tl.tensor([1.0, 1.0]), tl.tensor([1.0 + 1e-6, 1.1])).tolist() == [True, False]


ACTIVATIONS = {
    "gelu": [-0.004050225019454956, -0.1542687714099884, 0.0, 0.8413447141647339, 3.999873638153076],
    "silu": [-0.14227761328220367, -0.1887703388929367, 0.0, 0.7310585975646973, 3.9280550479888916],
    "mish": [-0.14564746618270874, -0.22074376046657562, 0.0, 0.8650983572006226, 3.997412919998169],
    "softplus": [0.04858735203742981, 0.4740769863128662, 0.6931471824645996, 1.31326162815094, 4.0181498527526855],
    "selu": [-1.6705687046051025, -0.6917581558227539, 0.0, 1.0507010221481323, 4.202804088592529],
    "hardswish": [-0.0, -0.2083333283662796, 0.0, 0.6666666865348816, 4.0],
    "logsigmoid": [-3.0485873222351074, -0.9740769863128662, -0.6931471824645996, -0.3132616877555847,
                   -0.018149929121136665],
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_values(name: str) -> None:
    x = tl.tensor([-3.0, -0.5, 0.0, 1.0, 4.0])
    assert_close(getattr(F, name)(x), tl.tensor(ACTIVATIONS[name]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["relu", "relu6", "elu", "selu", "celu", "silu", "mish", "hardtanh", "leaky_relu"])
def test_activation_in_place(name: str) -> None:
    """The input's memory holds the result, and the gradient is that of the input as it was."""
    leaf = tl.tensor([-2.0, -0.5, 0.25, 3.0], requires_grad=True)
    x = leaf * 1
    pointer = x.data_ptr()
    y = getattr(F, name)(x, inplace=True)
    assert y is x and y.data_ptr() == pointer
    y.sum().backward()
    other = tl.tensor([-2.0, -0.5, 0.25, 3.0], requires_grad=True)
    z = getattr(F, name)(other)
    z.sum().backward()
    assert_close(y.detach(), z.detach())
    assert_close(leaf.grad, other.grad)


def test_relu_gradient_of_infinity_is_masked() -> None:
    x = tl.tensor([-1.0, 2.0], requires_grad=True)
    F.relu(x).backward(tl.tensor([INF, 1.0]))
    assert x.grad.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("dtype", [tl.float32, tl.bool, tl.int64, tl.bfloat16])
def test_results_of_expanded_tensors_are_contiguous(dtype: tl.dtype) -> None:
    """Also where the operands are converted before."""
    x = tl.ones(3, dtype=dtype).expand(4, 3)
    assert all(t.is_contiguous() for t in (tl.cos(x), x + x, x / x, x > x, x.double(), x + 1.5))


@pytest.mark.parametrize("dtype", [tl.float16, tl.bfloat16, tl.float32, tl.float64])
def test_floats_wrap_around_in_uint8(dtype: tl.dtype) -> None:
    """Through int64, as in PyTorch, on every device and at every size; a GPU's own conversion would give 0 and 255."""
    x = tl.tensor([-3.5, 300.0, -0.5, 2.9]).to(dtype)
    for device in ("cpu", "interpret", "native"):
        assert x.to(device).byte().tolist() == [253, 44, 0, 2]
        assert tl.zeros(4, dtype=tl.uint8, device=device).copy_(x.to(device)).tolist() == [253, 44, 0, 2]
    assert tl.full((20000,), -3.5, dtype=dtype).byte().unique().tolist() == [253]


def test_a_kernel_gets_its_numbers_in_the_precision_it_computes_in() -> None:
    """A Python float is float32 to a launch: of float64 attributes all arithmetic with them would be float64 too."""
    kinds: list[set[type]] = []

    def note(seen: launch.Launch) -> None:
        kinds.append({type(v) for v in seen.args[1] if not hasattr(v, "strides") or isinstance(v, np.generic)})

    for dtype in (tl.float32, tl.bfloat16, tl.float64):
        x = tl.ones(5, dtype=dtype, device="interpret")
        launch.observers.append(note)
        try:
            F.softplus(x, 2.0)
        finally:
            launch.observers.pop()
    assert kinds == [{float}, {float}, {np.float64}]
