"""The array API standard: where it differs from PyTorch, its errors, and libraries that take any array."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as T
from tensorlib import array_api as xp
from tensorlib.testing import assert_close

NAN, INF = float("nan"), float("inf")
x = T.arange(6.0).reshape(2, 3)
z = T.tensor([1 + 2j, 3 - 1j], dtype=T.complex128)


def equal(one: Any, other: Any) -> bool:
    """The same dtype, shape and values, NaN being NaN."""
    return one.dtype is other.dtype and np.array_equal(one.numpy(), other.numpy(), equal_nan=one.dtype.kind == "float")


def test_the_namespace_of_a_tensor() -> None:
    assert x.__array_namespace__() is xp is x.__array_namespace__(api_version="2024.12")
    assert xp.__array_api_version__ == "2025.12" == T.__array_api_version__
    assert all(hasattr(xp, name) for name in xp.__all__)
    with pytest.raises(ValueError, match="2019"):
        x.__array_namespace__(api_version="2019.12")


def test_it_loads_when_it_is_asked_for() -> None:
    code = (
        "import sys, tensorlib as T; assert 'tensorlib.array_api' not in sys.modules; T.ones(2).__array_namespace__()\n"
        "assert 'tensorlib.array_api' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})


def test_to_device() -> None:
    assert x.to_device("cpu") is x and x.to_device(x.device) is x
    assert x.to_device("interpret").device.type == "interpret"
    with pytest.raises(ValueError, match="stream"):
        x.to_device("cpu", stream=1)


def test_what_the_namespace_says_of_itself() -> None:
    info = xp.__array_namespace_info__()
    assert info.default_device() in info.devices()
    assert info.default_dtypes()["real floating"] is T.float32
    assert set(info.dtypes(kind="unsigned integer")) == {"uint8", "uint16", "uint32", "uint64"}
    assert info.dtypes(kind=("bool", "complex floating")).keys() == {"bool", "complex64", "complex128"}
    assert "complex64" not in info.dtypes(device="interpret") and info.dtypes(device="cpu")["complex64"] is T.complex64
    assert info.capabilities()["data-dependent shapes"]


def test_tensors_without_dimensions_promote_as_others_do() -> None:
    double = T.tensor(2.0, dtype=T.float64)
    assert xp.add(x, double).dtype is T.float64 and T.add(x, double).dtype is T.float32
    assert xp.result_type(x, double) is T.float64 and T.result_type(x, double) is T.float32
    assert xp.where(x > 1, x, double).dtype is T.float64
    assert xp.concat([x, xp.zeros((1, 3), dtype=T.float64)]).dtype is T.float64


@pytest.mark.parametrize(
    ("operands", "expected"),
    [
        ((T.int8, T.uint8), T.int16), ((T.int32, T.uint32, T.int8), T.int64), ((T.float32, T.complex64), T.complex64),
        ((T.float64, T.complex64), T.complex128), ((T.int8, 1), T.int8), ((T.float32, 1.0, 2), T.float32),
        ((T.float64, 1j), T.complex128), ((T.bool, True), T.bool), ((x, 1j), T.complex64),
    ],
)  # fmt: skip
def test_result_type(operands: tuple[Any, ...], expected: Any) -> None:
    assert xp.result_type(*operands) is expected


def test_can_cast_mixes_no_kinds() -> None:
    assert xp.can_cast(T.int8, T.int16) and xp.can_cast(x, T.float64) and xp.can_cast(T.float32, T.complex128)
    assert xp.can_cast(T.float16, T.float32) and not xp.can_cast(T.float16, T.bfloat16)
    assert not xp.can_cast(T.int16, T.int8) and T.can_cast(T.int16, T.int8)
    assert not xp.can_cast(T.int8, T.float32) and not xp.can_cast(T.uint64, T.int64)
    assert not xp.can_cast(T.complex64, T.float64) and not xp.can_cast(T.float8_e5m2, T.float32)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("bool", "bool"), ("signed integer", "int8 int16 int32 int64"),
        ("unsigned integer", "uint8 uint16 uint32 uint64"),
        ("real floating", "float16 bfloat16 float32 float64"), ("complex floating", "complex64 complex128"),
        (("bool", "integral"), "bool int8 uint64"), (T.float32, "float32"),
    ],
)  # fmt: skip
def test_isdtype(kind: Any, names: str) -> None:
    dtypes = [*xp.__array_namespace_info__().dtypes(), "float16", "bfloat16"]
    found = {d for d in dtypes if xp.isdtype(getattr(T, d), kind)}
    if isinstance(kind, tuple):
        assert found == {d for d in dtypes if d == "bool" or "int" in d}
    else:
        assert found == set(names.split())


def test_casts() -> None:
    assert xp.astype(x, T.float32, copy=False) is x and xp.astype(x, T.float32) is not x
    assert xp.astype(z, T.bool).dtype is T.bool
    with pytest.raises(TypeError, match="real"):
        xp.astype(z, T.float32)
    assert xp.finfo(z).dtype is T.float64 and xp.finfo(T.float32).bits == 32 and xp.iinfo(T.int8).min == -128


def test_sums_of_integers_are_wide_and_of_their_sign() -> None:
    small, unsigned = T.ones(3, dtype=T.int8), T.ones(3, dtype=T.uint8)
    for function in (xp.sum, xp.prod, xp.cumulative_sum, xp.cumulative_prod):
        assert function(small).dtype is T.int64 and function(unsigned).dtype is T.uint64
        assert function(unsigned, dtype=T.float64).dtype is T.float64
    assert xp.linalg.trace(T.ones(2, 2, dtype=T.uint16)).dtype is T.uint64
    assert T.sum(unsigned).dtype is T.int64


#: Calls in the standard's spelling, and the same in PyTorch's.
SAME: list[tuple[Callable[[], Any], Callable[[], Any]]] = [
    (lambda: xp.sum(x, axis=()), lambda: x),
    (lambda: xp.max(x, axis=(), keepdims=True), lambda: x),
    (lambda: xp.mean(x, axis=(0, 1), keepdims=True), lambda: T.full((1, 1), 2.5)),
    (lambda: xp.prod(x + 1, axis=(0, 1)), lambda: T.tensor(720.0)),
    (lambda: xp.prod(x + 1, axis=(0, -1), keepdims=True), lambda: T.full((1, 1), 720.0)),
    (lambda: xp.max(x, axis=1), lambda: T.tensor([2.0, 5.0])),
    (lambda: xp.min(x), lambda: T.tensor(0.0)),
    (lambda: xp.var(x), lambda: T.var(x, correction=0)),
    (lambda: xp.std(x, axis=0, correction=1), lambda: T.std(x, 0)),
    (lambda: xp.all(T.ones(2, 2, dtype=T.uint8), axis=0), lambda: T.tensor([True, True])),
    (lambda: xp.any(x, axis=1, keepdims=True), lambda: T.tensor([[True], [True]])),
    (lambda: xp.count_nonzero(x, axis=1, keepdims=True), lambda: T.tensor([[2], [3]])),
    (lambda: xp.cumulative_sum(x, axis=1, include_initial=True), lambda: T.tensor([[0.0, 0, 1, 3], [0, 3, 7, 12]])),
    (lambda: xp.cumulative_prod(x[1], include_initial=True), lambda: T.tensor([1.0, 3, 12, 60])),
    (lambda: xp.argmax(x, keepdims=True), lambda: T.tensor([[5]])),
    (lambda: xp.sort(x, axis=0, descending=True), lambda: x.flip(0)),
    (lambda: xp.argsort(T.tensor([1, 0, 1, 0])), lambda: T.tensor([1, 3, 0, 2])),
    (lambda: xp.argsort(T.tensor([1, 0, 1, 0]), descending=True), lambda: T.tensor([0, 2, 1, 3])),
    (lambda: xp.equal(x, x), lambda: T.ones(2, 3, dtype=T.bool)),
    (lambda: xp.sign(T.tensor([NAN, -2.0, 0.0])), lambda: T.tensor([NAN, -1.0, 0.0])),
    (lambda: xp.imag(x), lambda: T.zeros(2, 3)),
    (lambda: xp.round(T.tensor([0.5 + 1.5j])), lambda: T.tensor([0 + 2j])),
    (lambda: xp.clip(T.tensor([1, 5], dtype=T.uint8), -3, 4), lambda: T.tensor([1, 4], dtype=T.uint8)),
    (lambda: xp.clip(x, None, None), lambda: x),
    (lambda: xp.clip(x, T.tensor(1.0, dtype=T.float64), 4), lambda: T.clamp(x, 1, 4)),
    (lambda: xp.subtract(1, x), lambda: 1 - x),
    (lambda: xp.concat([x, x], axis=None), lambda: T.cat([x.flatten(), x.flatten()])),
    (lambda: xp.expand_dims(x, axis=(0, -1)), lambda: x[None, ..., None]),
    (lambda: xp.flip(x), lambda: x.flip(0, 1)),
    (lambda: xp.repeat(x, 2), lambda: x.repeat_interleave(2)),
    (lambda: xp.repeat(x, T.tensor([1, 2]), axis=0), lambda: x[[0, 1, 1]]),
    (lambda: xp.repeat(x, (2,), axis=-1), lambda: x.repeat_interleave(2, 1)),
    (lambda: xp.roll(x, 1, axis=(0, 1)), lambda: x.roll((1, 1), (0, 1))),
    (lambda: xp.unstack(x, axis=1)[2], lambda: x[:, 2]),
    (lambda: xp.take(x, T.tensor([-1, 0]), axis=1), lambda: x[:, [2, 0]]),
    (lambda: xp.take(x[0], T.tensor([[1], [2]], dtype=T.uint8)), lambda: T.tensor([[1.0], [2.0]])),
    (lambda: xp.take_along_axis(x, T.tensor([[-1], [0]])), lambda: T.tensor([[2.0], [3.0]])),
    (lambda: xp.tile(x[0], (2, 1)), lambda: x[:1].expand(2, 3)),
    (lambda: xp.meshgrid(x[0], x[1])[1], lambda: x[1][:, None].expand(3, 3)),
    (lambda: xp.linspace(0, 1, 4, endpoint=False), lambda: T.tensor([0.0, 0.25, 0.5, 0.75])),
    (lambda: xp.arange(5, 0), lambda: T.zeros(0, dtype=T.int64)),
    (lambda: xp.eye(2, 3, k=1), lambda: T.tensor([[0.0, 1, 0], [0, 0, 1]])),
    (lambda: xp.eye(2, k=-(2**70)), lambda: T.zeros(2, 2)),
    (lambda: xp.triu(x, k=1), lambda: T.triu(x, 1)),
    (lambda: xp.searchsorted(T.tensor([3, 1]), 2, sorter=T.tensor([1, 0])), lambda: T.tensor(1)),
    (lambda: xp.isin(z, T.tensor([3 - 1j])), lambda: T.tensor([False, True])),
    (lambda: xp.isin(1.0, x, invert=True), lambda: T.tensor(False)),
    (lambda: xp.vecdot(z, z), lambda: T.tensor(15 + 0j, dtype=T.complex128)),
    (lambda: xp.vecdot(T.tensor([1, 2]), T.tensor([[3, 4], [5, 6]])), lambda: T.tensor([11, 17])),
    (lambda: xp.tensordot(x, x, axes=((1,), (1,))), lambda: x @ x.T),
    (lambda: xp.matrix_transpose(x), lambda: x.T),
    (lambda: xp.linalg.outer(x[0], x[1]), lambda: T.outer(x[0], x[1])),
    (lambda: xp.linalg.vector_norm(x, axis=(0, 1)), lambda: T.linalg.vector_norm(x)),
    (lambda: xp.linalg.vector_norm(x - 3, axis=()), lambda: (x - 3).abs()),
    (lambda: xp.linalg.trace(x, offset=1), lambda: T.tensor(6.0)),
    (lambda: xp.fft.fft(x, axis=0), lambda: T.fft.fft(x, dim=0)),
    (lambda: xp.fft.fftshift(x, axes=1), lambda: T.fft.fftshift(x, 1)),
    (lambda: xp.asarray(range(3), dtype=T.float64), lambda: T.arange(3, dtype=T.float64)),
    (lambda: xp.asarray(memoryview(b"ab")), lambda: T.tensor([97, 98], dtype=T.uint8)),
    (lambda: xp.linalg.cross(x, x[0] + 1), lambda: T.linalg.cross(x, (x[0] + 1).expand(2, 3))),
    (lambda: xp.arange(-0.5, step=2), lambda: T.zeros(0)),
    # The names that PyTorch lacks are in its namespace too, and NumPy's keywords where its parser takes them.
    (lambda: T.unstack(x)[1], lambda: x[1]),
    (lambda: T.fft.fft(x, axis=0), lambda: T.fft.fft(x, dim=0)),
    (lambda: T.fft.fftn(x, axis=(0,)), lambda: T.fft.fftn(x, dim=(0,))),
    (lambda: T.fft.fftshift(x, axis=1), lambda: T.fft.fftshift(x, 1)),
    (lambda: T.diff(x, axis=0), lambda: T.diff(x, dim=0)),
    (lambda: T.unbind(x=x, axis=1)[0], lambda: x[:, 0]),
    (lambda: x.chunk(3, axis=1)[1], lambda: x[:, 1:2]),
    (lambda: T.gather(x, axis=1, index=T.tensor([[1]])), lambda: T.tensor([[1.0]])),
    (lambda: T.linalg.norm(x, axis=1, keepdims=True), lambda: T.linalg.norm(x, dim=1, keepdim=True)),
    (lambda: T.linalg.vecdot(x, x, axis=0), lambda: T.linalg.vecdot(x, x, dim=0)),
    (lambda: T.repeat_interleave(x, 2, axis=1), lambda: x.repeat_interleave(2, 1)),
    (lambda: T.trapezoid(x, axis=0), lambda: T.trapezoid(x, dim=0)),
    (lambda: T.std(x, axis=1, keepdims=True), lambda: T.std(x, 1, keepdim=True)),
    (lambda: T.linalg.outer(x[0], x[1]), lambda: T.outer(x[0], x[1])),
    (lambda: T.linalg.matrix_transpose(x), lambda: x.T),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(SAME)))
def test_a_call_in_the_standards_spelling(case: int) -> None:
    ours, expected = SAME[case]
    assert equal(ours(), expected())


def test_expm1_of_infinite_complex_numbers() -> None:
    got = xp.expm1(T.tensor([complex(INF, 0), complex(-INF, INF), 1e-9 + 0j], dtype=T.complex128)).numpy()
    assert got[0] == complex(INF, 0) and got[1] == -1
    assert_close(T.tensor(got[2].real), T.tensor(np.expm1(1e-9)))


@pytest.mark.parametrize("dtype", [T.float32, T.int64, T.uint64, T.bool, T.complex64])
@pytest.mark.parametrize("shape", [(), (0,), (2, 3), (40,)])
def test_unique(dtype: T.dtype, shape: tuple[int, ...]) -> None:
    numbers = np.random.default_rng(0).integers(0, 4, shape)
    values = T.asarray(numbers, dtype=dtype)
    if dtype is T.complex64:
        values = values + 1j * (values.real % 2)
    found = xp.unique_all(values)
    expected = np.unique(values.numpy(), return_index=True, return_inverse=True, return_counts=True)
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.numpy(), other.reshape(one.shape))
    assert found.inverse_indices.shape == values.shape
    assert equal(xp.unique_values(values), found.values)
    assert equal(xp.unique_counts(values).counts, found.counts)
    assert equal(xp.unique_inverse(values).inverse_indices, found.inverse_indices)


def test_every_nan_is_a_value_of_its_own() -> None:
    found = xp.unique_all(T.tensor([NAN, 0.0, -0.0, NAN]))
    assert found.values.shape == (3,) and found.counts.tolist() == [2, 1, 1] and found.indices.tolist() == [1, 0, 3]


def test_solve_takes_what_is_not_one_vector_for_matrices() -> None:
    a = T.tensor([[[2.0, 0], [0, 4]], [[1.0, 0], [0, 8]]])
    b = T.tensor([[1.0, 2], [3, 4]])  # for PyTorch two vectors, one for each matrix
    assert_close(xp.linalg.solve(a, b), T.linalg.solve(a, b.expand(2, 2, 2)))
    assert_close(xp.linalg.solve(a, b[0]), T.tensor([[0.5, 0.5], [1, 0.25]]))


def test_copies() -> None:
    array = np.arange(3.0)
    shared = xp.asarray(array, copy=False)
    array[0] = 7
    assert shared[0] == 7 and xp.asarray(shared) is shared
    assert xp.asarray(array, copy=True).data_ptr() != array.ctypes.data
    assert xp.reshape(x, (3, 2), copy=False).data_ptr() == x.data_ptr() != xp.reshape(x, (6,), copy=True).data_ptr()
    assert xp.reshape(x, (-1,)).shape == (6,)
    taken = xp.from_dlpack(array)
    assert taken.data_ptr() == array.ctypes.data


def test_on_a_device_that_runs_kernels() -> None:
    there = T.tensor([[3.0, 1, 2], [1, 3, NAN]], device="interpret")
    index = T.tensor([[0], [-1]], device="interpret")
    for function in (
        lambda v, i: xp.unique_all(v).inverse_indices,
        lambda v, i: xp.take_along_axis(v, i),
        lambda v, i: xp.cumulative_sum(v, axis=1, include_initial=True),
        lambda v, i: xp.repeat(v, xp.asarray([1, 2], device=v.device), axis=0),
        lambda v, i: xp.sign(v) + xp.eye(2, 3, k=1, device=v.device),
    ):
        got = function(there, index)
        assert got.device.type == "interpret"
        assert equal(got.cpu(), function(there.cpu(), index.cpu()))


def test_gradients_flow_through_it() -> None:
    w = x.clone().requires_grad_()
    xp.sum(xp.unstack(xp.clip(w, 1, 4), axis=1)[2] * 2, axis=()).sum().backward()
    assert equal(w.grad, T.tensor([[0.0, 0, 2], [0, 0, 0]]))


ERRORS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: xp.sin(1.0), TypeError, "expected a Tensor"),
    (lambda: xp.add(1, 2), TypeError, "at least one Tensor"),
    (lambda: xp.add(x, "a"), TypeError, "str"),
    (lambda: xp.sum(x, axis=(0, -2)), ValueError, "different"),
    (lambda: xp.sum(x, axis=2), IndexError, "axis 2"),
    (lambda: xp.cumulative_sum(x), ValueError, "no axis"),
    (lambda: xp.take(x, T.tensor([0])), ValueError, "no axis"),
    (lambda: xp.take(x[0], T.tensor([0.0])), TypeError, "integers"),
    (lambda: xp.squeeze(x, 0), ValueError, "size 1"),
    (lambda: xp.expand_dims(x, (0, 0)), ValueError, "different"),
    (lambda: xp.unstack(T.tensor(1.0)), ValueError, "0-d"),
    (lambda: xp.nonzero(T.tensor(1.0)), ValueError, "0-d"),
    (lambda: xp.broadcast_shapes((2,), (3,)), ValueError, "broadcast"),
    (lambda: xp.reshape(x.T, (6,), copy=False), ValueError, "copy=False"),
    (lambda: xp.asarray([1.0], copy=False), ValueError, "copy=False"),
    (lambda: xp.asarray(x, dtype=T.int32, copy=False), ValueError, "copy=False"),
    (lambda: xp.searchsorted(x[0], x, side="middle"), ValueError, "middle"),
    (lambda: xp.repeat(x, T.tensor([1, 2, 3]), axis=0), RuntimeError, "repeats"),
    (lambda: xp.arange(0, 5, 0), ValueError, "step=0"),
    (lambda: xp.result_type(1, 2), ValueError, "at least one"),
    (lambda: xp.result_type(T.uint64, T.int64), RuntimeError, "not defined"),
    (lambda: xp.isdtype(T.int8, "integer"), ValueError, "integer"),
    (lambda: xp.isdtype(T.int8, 3), TypeError, "kind 3"),
    (lambda: xp.mean(T.arange(3)), RuntimeError, "mean"),
    (lambda: xp.matrix_transpose(x[0]), ValueError, "two dimensions"),
    (lambda: xp.linalg.outer(x, x), RuntimeError, "vectors"),
    (lambda: xp.linalg.qr(x, mode="r"), ValueError, "mode"),
    (lambda: xp.vecdot(x, x[:, :1]), RuntimeError, "one size"),
    (lambda: xp.vecdot(x, x[0], axis=0), IndexError, "negative"),
    (lambda: T.fft.fft(x, dim=0, axis=1), TypeError, "multiple values"),
    (lambda: T.fft.fft(x, axes=1), TypeError, "axes"),
    (lambda: T.fft.fft(axis=1), TypeError, "input"),
    (lambda: T.linalg.no_such_thing, AttributeError, "no_such_thing"),
]


@pytest.mark.parametrize("case", range(len(ERRORS)))
def test_errors(case: int) -> None:
    call, error, text = ERRORS[case]
    with pytest.raises(error, match=text):
        call()


def _run(code: str) -> None:
    env = {**os.environ, "SCIPY_ARRAY_API": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, timeout=300)


def test_scipy_computes_with_tensors() -> None:
    pytest.importorskip("scipy")
    _run(
        "import numpy as np, tensorlib as T\n"
        "from scipy import fft, special, stats\n"
        "a = np.random.default_rng(0).normal(size=(20, 3)); x = T.asarray(a)\n"
        "for f in (stats.zscore, stats.skew, lambda v: special.logsumexp(v, axis=0), fft.fft,\n"
        "          lambda v: stats.ttest_1samp(v, 0.0).pvalue):\n"
        "    got = f(x)\n"
        "    assert isinstance(got, T.Tensor), type(got)\n"
        "    np.testing.assert_allclose(got.numpy(), f(a), rtol=1e-9)\n"
    )


def test_scikit_learn_computes_with_tensors() -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("scipy")
    _run(
        "import numpy as np, sklearn, tensorlib as T\n"
        "from sklearn.decomposition import PCA\n"
        "from sklearn.preprocessing import StandardScaler\n"
        "a = np.random.default_rng(0).normal(size=(20, 3)); x = T.asarray(a)\n"
        "for model in (StandardScaler(), PCA(2, svd_solver='full')):\n"
        "    expected = model.fit_transform(a)\n"
        "    with sklearn.config_context(array_api_dispatch=True):\n"
        "        got = model.fit_transform(x)\n"
        "    assert isinstance(got, T.Tensor), type(got)\n"
        "    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9, atol=1e-12)\n"
    )
