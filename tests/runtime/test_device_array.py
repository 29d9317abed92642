"""DeviceArray's views against NumPy's own, with memory and without; the functions that take both kinds of array."""

from __future__ import annotations

import gc
import weakref

import ml_dtypes
import numpy as np
import pytest

from tensorlib._array import (
    DeviceArray,
    as_strided,
    contiguous_strides,
    device_of,
    empty,
    expand,
    is_contiguous,
    strides_of,
    to_device,
    to_host,
)
from tensorlib._device import cpu, device
from tensorlib.errors import DeviceError
from tensorlib.runtime import memory

INTERPRET, SM90 = device("interpret"), device("sm_90")
DTYPES = [
    np.dtype(d)
    for d in (bool, np.int8, np.uint16, np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2)
]

VIEWS = {
    "transpose": lambda x: x.transpose(),
    "transpose_axes": lambda x: x.transpose((1, 0, 2)),
    "transpose_varargs": lambda x: x.transpose(2, -3, 1),
    "T": lambda x: x.T,
    "swapaxes": lambda x: x.swapaxes(0, -1),
    "reshape": lambda x: x.reshape((4, -1), copy=False),
    "reshape_varargs": lambda x: x.reshape(2, 12, copy=False),
    "reshape_flat": lambda x: x.reshape(-1, copy=False),
    "reshape_split_of_transposed": lambda x: x.swapaxes(0, 1).reshape((3, 2, 2, 2), copy=False),
    "index": lambda x: x[1],
    "negative_index": lambda x: x[-1, ..., 2],
    "slices": lambda x: x[:, 1:, ::2],
    "backwards": lambda x: x[:, ::-1],
    "newaxis": lambda x: x[None, :, 0, None],
    "ellipsis": lambda x: x[..., 1:3],
    "empty_slice": lambda x: x[:, 3:],
    "numpy_index": lambda x: x[np.int64(1), 2],
    "chain": lambda x: x[1:, ::-1].transpose(2, 1, 0)[::2][1],
}


def agree(ours: DeviceArray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    if theirs.size:
        live = [d for d in range(theirs.ndim) if theirs.shape[d] > 1]
        assert [ours.strides[d] for d in live] == [theirs.strides[d] // theirs.itemsize for d in live]
    assert (ours.ndim, ours.size, ours.itemsize, ours.nbytes) == (
        theirs.ndim,
        theirs.size,
        theirs.itemsize,
        theirs.nbytes,
    )


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_views_are_numpys(name, dtype):
    x = np.arange(24).reshape(2, 3, 4).astype(dtype)
    on, fake = to_device(x, INTERPRET), empty(x.shape, dtype, SM90)
    expected = VIEWS[name](x)
    for array in (VIEWS[name](on), VIEWS[name](fake)):
        agree(array, expected)
    assert VIEWS[name](on).owner is on.owner
    np.testing.assert_array_equal(to_host(VIEWS[name](on)), expected)
    offset = expected.__array_interface__["data"][0] - x.__array_interface__["data"][0]
    if expected.size:
        assert VIEWS[name](fake).ptr - fake.ptr == offset == VIEWS[name](on).data_ptr() - on.ptr


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (1, 1)])
def test_zero_dimensions_and_zero_sizes(shape):
    x = np.zeros(shape, np.float32)
    for on in (INTERPRET, SM90):
        array = to_device(x, on)
        agree(array, x)
        assert array.strides == contiguous_strides(shape)
        agree(array[...], x)
        agree(array[None], x[None])
        agree(array.reshape((x.size,), copy=False), x.reshape(x.size))
        agree(array.transpose(), x.transpose())
        assert is_contiguous(array) and is_contiguous(array.transpose()) == x.transpose().flags.c_contiguous
    np.testing.assert_array_equal(to_host(to_device(x, INTERPRET)), x)


def test_what_cannot_be_a_view_is_numpys_error():
    x = to_device(np.zeros((4, 6), np.float32), INTERPRET)
    fake = empty((4, 6), np.float32, SM90)
    for array in (x, fake):
        with pytest.raises(ValueError, match="copy"):
            array.T.reshape((24,), copy=False)
        with pytest.raises(ValueError, match="reshape"):
            array.reshape((5, 5))
        with pytest.raises(ValueError, match="without a copy"):
            array.reshape((24,), copy=True)
        with pytest.raises(IndexError):
            array[4]
        with pytest.raises(IndexError):
            array[0, 0, 0]
        with pytest.raises(ValueError, match="permutation"):
            array.transpose((0, 0))
        with pytest.raises(ValueError, match="axis"):
            array.swapaxes(0, 2)
        for advanced in ([0, 1], np.array([0]), True, 1.0):
            with pytest.raises(TypeError, match="basic indexing"):
                array[advanced]
        with pytest.raises(ValueError, match="size"):
            array.view(np.float64)


def test_view_of_another_dtype():
    x = np.array([1.0, -2.0], np.float32)
    np.testing.assert_array_equal(to_host(to_device(x, INTERPRET).view(np.int32)), x.view(np.int32))


def test_len_and_repr():
    x = empty((3, 2), np.float32, SM90)
    assert len(x) == 3
    assert repr(x) == "DeviceArray(shape=(3, 2), strides=(2, 1), dtype=float32, device='sm_90')"
    with pytest.raises(TypeError, match="0-d"):
        len(x[0, 0])


def test_expand():
    x = np.arange(3, dtype=np.float32).reshape(3, 1)
    np.testing.assert_array_equal(to_host(expand(to_device(x, INTERPRET), (2, 3, 4))), expand(x, (2, 3, 4)))
    assert expand(empty((3, 1), np.float32, SM90), (2, 3, 4)).strides == (0, 1, 0)
    assert expand(empty((1,), np.float32, SM90), (0,)).shape == (0,)
    for array in (x, empty((3, 1), np.float32, SM90)):
        for shape in ((4, 4), (3,), (2, 4, 4)):
            with pytest.raises(ValueError, match=r"broadcast|more dimensions"):
                expand(array, shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_as_strided(dtype):
    x = np.arange(10).astype(dtype)
    for array in (x, to_device(x, INTERPRET)):
        window = as_strided(array, (4, 3), (2, 1))
        np.testing.assert_array_equal(to_host(window), [[x[2 * i + j] for j in range(3)] for i in range(4)])
        np.testing.assert_array_equal(to_host(as_strided(array, (5,), (-2,), 9)), x[::-2])
        np.testing.assert_array_equal(to_host(as_strided(array[5:], (2, 2), (1, 0), -5)), [[x[0]] * 2, [x[1]] * 2])
        np.testing.assert_array_equal(to_host(as_strided(array, (), (), 3)), x[3])
        assert strides_of(window) == (2, 1)


def test_is_contiguous():
    x = np.zeros((2, 1, 3), np.float32)
    cases = [
        lambda a: a,
        lambda a: a.T,
        lambda a: a[:, 0],
        lambda a: a[:, :, :2],
        lambda a: a[:1, :, 1:],
        lambda a: a[:0, :, ::2],
    ]
    for make in cases:
        assert is_contiguous(make(to_device(x, INTERPRET))) == make(x).flags.c_contiguous
        assert is_contiguous(make(x)) == make(x).flags.c_contiguous


def test_devices_and_copies():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert device_of(x) is cpu and device_of(to_device(x, INTERPRET)) is INTERPRET
    on_cpu = to_device(x, cpu)
    assert isinstance(on_cpu, np.ndarray) and on_cpu is not x and not np.shares_memory(on_cpu, x)
    assert not np.shares_memory(to_host(x), x)
    copied = to_device(x.T, INTERPRET)
    assert copied.strides == (2, 1)
    x[:] = 0
    np.testing.assert_array_equal(to_host(copied), np.arange(6).reshape(2, 3).T)
    assert isinstance(empty((2,), np.float32), np.ndarray)


def test_a_compile_only_target_has_addresses_and_no_memory():
    a, b, c = (empty((n,), np.float32, SM90) for n in (0, 1000, 1))
    assert a.ptr % 256 == b.ptr % 256 == c.ptr % 256 == 0
    assert a.ptr < b.ptr and b.ptr + b.nbytes <= c.ptr
    for array in (a, b):
        with pytest.raises(DeviceError, match=r"'sm_90': it is a compile-only target.* nothing is run"):
            to_host(array)
    assert to_device(np.zeros((3, 2), np.float32).T, SM90).strides == (3, 1)


def test_host_memory_is_aligned_and_freed_with_its_last_view():
    x = to_device(np.arange(7, dtype=np.int8), INTERPRET)
    assert x.ptr % memory.ALIGNMENT == 0
    view, owner, start = x[3:], weakref.ref(x.owner), x.ptr
    del x
    gc.collect()
    assert owner() is not None
    inside = np.array([start, start + 6], np.uint64)
    assert memory.out_of_bounds(inside, 1) is None
    assert memory.out_of_bounds(inside + np.uint64(1), 1).tolist() == [False, True]
    assert memory.out_of_bounds(inside - np.uint64(1), 1).tolist() == [True, False]
    np.testing.assert_array_equal(to_host(view), [3, 4, 5, 6])
    del view
    gc.collect()
    assert owner() is None
    assert memory.out_of_bounds(inside, 1).all()
