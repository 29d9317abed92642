"""DLPack beside NumPy, and against a producer that counts: memory shared, lifetimes, flags, refusals."""

import ctypes
import gc
import sys
import weakref

import ml_dtypes
import numpy as np
import pytest

import tensorlib as tl
from tensorlib import _dlpack
from tensorlib._dtypes import ALL

NUMPYS = [d for d in ALL if d.numpy.kind in "biufc" and d.numpy.isbuiltin == 1]


def base(t):
    """The NumPy array under a tensor."""
    return t.numpy()


class Producer:
    """A library of its own: makes capsules over a NumPy array by hand and counts how often they are deleted."""

    def __init__(self, array, kind, flags=0, code=None, device=(1, 0), offset=0, version=(1, 0)):
        self.array, self.deleted, self.device = array, 0, device
        n = array.ndim
        self.managed = kind()
        self.deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._delete)
        self.managed.deleter = ctypes.cast(self.deleter, ctypes.c_void_p)
        if kind is _dlpack._Versioned:
            self.managed.major, self.managed.minor = version
            self.managed.flags = flags
        t = self.managed.tensor
        t.data, t.byte_offset = array.ctypes.data - offset, offset
        t.device_type, t.device_id = device
        t.ndim, t.lanes, t.bits = n, 1, array.itemsize * 8
        t.code = {"f": 2, "i": 0, "u": 1, "c": 5, "b": 6}[array.dtype.kind] if code is None else code
        self.shape = (ctypes.c_int64 * n)(*array.shape)
        self.strides = (ctypes.c_int64 * n)(*(s // array.itemsize for s in array.strides))
        t.shape = ctypes.cast(self.shape, ctypes.POINTER(ctypes.c_int64))
        t.strides = ctypes.cast(self.strides, ctypes.POINTER(ctypes.c_int64))
        self.name = b"dltensor_versioned" if kind is _dlpack._Versioned else b"dltensor"

    def _delete(self, _):
        self.deleted += 1

    def __dlpack__(self, stream=None):  # of the time before versions
        new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
            ("PyCapsule_New", ctypes.pythonapi)
        )
        return new(ctypes.addressof(self.managed), self.name, None)

    def __dlpack_device__(self):
        return self.device


@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 3)], ids=str)
@pytest.mark.parametrize("versioned", [False, True])
def test_a_round_trip_shares_the_memory(dtype, shape, versioned):
    x = tl.ones(shape).to(dtype)
    capsule = x.__dlpack__(max_version=(1, 0) if versioned else None)
    assert ("versioned" in repr(capsule)) is versioned
    y = tl.from_dlpack(capsule)
    assert y.dtype is dtype and y.shape == x.shape and tl.equal(x, y)
    if x.numel():
        assert y.data_ptr() == x.data_ptr()
        y.zero_()
        assert not x.to(tl.bool).any()


@pytest.mark.parametrize("dtype", NUMPYS, ids=str)
def test_numpy_takes_and_gives(dtype):
    x = tl.arange(6).reshape(2, 3).to(dtype)
    a = np.from_dlpack(x)
    assert a.dtype == dtype.numpy and a.ctypes.data == x.data_ptr() and np.array_equal(a, base(x))
    assert tl.from_dlpack(a).data_ptr() == x.data_ptr()


def test_strides_survive_both_ways():
    x = tl.arange(24.0).reshape(2, 3, 4)
    for v in (x.transpose(0, 2), x[:, 1:, ::2], x[1, 2, 3], x.to(tl.bfloat16).mT[1:], x.expand(5, 2, 3, 4)):
        y = tl.from_dlpack(v)
        assert y.stride() == v.stride() and y.data_ptr() == v.data_ptr()


@pytest.mark.parametrize("kind", [_dlpack._Managed, _dlpack._Versioned])
def test_a_producer_is_told_once_that_its_memory_is_free(kind):
    p = Producer(np.arange(6.0).reshape(2, 3).T, kind, offset=16)
    x = tl.from_dlpack(p)
    assert x.tolist() == [[0, 3], [1, 4], [2, 5]] and x.data_ptr() == p.array.ctypes.data and p.deleted == 0
    view = x[1:]
    x[1, 0] = 7
    assert p.array[1, 0] == 7
    del x
    gc.collect()
    assert p.deleted == 0  # the view still looks at it
    del view
    gc.collect()
    assert p.deleted == 1


@pytest.mark.parametrize(
    "code,bits,dtype", [(4, np.uint16, tl.bfloat16), (10, np.uint8, tl.float8_e4m3fn), (12, np.uint8, tl.float8_e5m2)]
)
@pytest.mark.parametrize("kind", [_dlpack._Managed, _dlpack._Versioned])
def test_types_that_numpy_lacks(kind, code, bits, dtype):
    p = Producer(np.array([1, 2, -3], dtype.numpy).view(bits), kind, code=code)
    x = tl.from_dlpack(p)
    assert x.dtype is dtype and x.float().tolist() == [1, 2, -3] and x.data_ptr() == p.array.ctypes.data
    del x
    assert p.deleted == 1
    exported = _dlpack._managed(tl.ones(2, dtype=dtype).__dlpack__()).tensor
    assert (exported.code, exported.bits, exported.lanes) == (code, 8 * np.dtype(bits).itemsize, 1)


def test_a_used_capsule_and_things_that_are_none():
    capsule = tl.ones(2).__dlpack__()
    tl.from_dlpack(capsule)
    for thing in (capsule, 5, None):
        with pytest.raises(BufferError, match="expected an object with __dlpack__, or a DLPack capsule"):
            tl.from_dlpack(thing)


def test_memory_lives_as_long_as_somebody_holds_it():
    x = tl.zeros(1000)
    array, freed = base(x), weakref.ref(base(x))
    idle = sys.getrefcount(array)
    taken = np.from_dlpack(x)
    assert sys.getrefcount(array) == idle + 1
    del x, array
    assert taken[0] == 0
    assert freed() is not None
    del taken
    assert freed() is None


@pytest.mark.parametrize("dtype", [tl.float32, tl.bfloat16])
@pytest.mark.parametrize("version", [None, (1, 0)])
def test_a_capsule_that_nobody_takes_frees_its_memory(dtype, version):
    x = tl.zeros(10, dtype=dtype)
    array = base(x)
    idle = sys.getrefcount(array)
    capsule = x.__dlpack__(max_version=version)
    del capsule
    assert sys.getrefcount(array) == idle

    def fails(_):
        raise KeyError("while the capsule goes")

    with pytest.raises(KeyError, match="while the capsule goes"):
        fails(x.__dlpack__(max_version=version))
    gc.collect()
    assert sys.getrefcount(array) == idle


def test_flags():
    managed = lambda t, **kw: _dlpack._managed(t.__dlpack__(max_version=(1, 0), **kw))  # noqa: E731
    x = tl.ones(3)
    assert managed(x).flags == 0 and managed(x, copy=True).flags == _dlpack._IS_COPIED
    wide = tl.ones(1).expand(3)
    assert managed(wide).flags == _dlpack._READ_ONLY
    with pytest.raises(BufferError):
        wide.__dlpack__()  # the older form cannot say that it is read-only
    array = np.ones(3)
    array.flags.writeable = False
    y = tl.from_dlpack(array)
    with pytest.raises(RuntimeError):
        y.add_(1)
    assert tl.from_dlpack(array, copy=True).add_(1).tolist() == [2, 2, 2] and array[0] == 1


def test_copies():
    a = np.ones(3)
    assert tl.from_dlpack(a, copy=True).data_ptr() != a.ctypes.data
    assert tl.from_dlpack(a, copy=False).data_ptr() == a.ctypes.data
    p = Producer(a, _dlpack._Managed)  # cannot be asked for a copy
    x = tl.from_dlpack(p, copy=True)
    assert x.data_ptr() != a.ctypes.data and p.deleted == 1
    assert tl.from_dlpack(a, device="interpret").device == tl.device("interpret")
    with pytest.raises(BufferError, match="without copying"):
        tl.from_dlpack(a, device="interpret", copy=False)


def test_what_cannot_be_handed_over():
    w = tl.ones(2, requires_grad=True)
    for t in (w, w * 2):
        with pytest.raises(BufferError, match="Can't export tensors that require gradient"):
            t.__dlpack__()
    assert np.from_dlpack((w * 2).detach()).tolist() == [2, 2]
    x = tl.ones(2)
    assert x.__dlpack_device__() == (1, 0)
    with pytest.raises(BufferError, match="stream should be None on cpu"):
        x.__dlpack__(stream=1)
    with pytest.raises(BufferError, match="the tensor is on the CPU"):
        x.__dlpack__(dl_device=(2, 0))
    with pytest.raises(BufferError, match="interpret"):
        x.to("interpret").__dlpack__()


def test_what_cannot_be_taken():
    p = Producer(np.ones(2), _dlpack._Managed, device=(2, 1))
    with pytest.raises(BufferError, match="the array is on cuda:1: expected memory that the CPU reads"):
        tl.from_dlpack(p)
    newer = Producer(np.ones(2), _dlpack._Versioned, version=(2, 0))
    with pytest.raises(BufferError, match=r"DLPack version 2\.0"):
        tl.from_dlpack(newer)
    other = Producer(np.ones(2), _dlpack._Managed, code=4)
    with pytest.raises(BufferError, match="dtype"):  # a bfloat of 64 bits
        tl.from_dlpack(other)
    assert np.dtype(ml_dtypes.bfloat16) not in [d.numpy for d in NUMPYS]
