"""Tensor and dtype basics: construction, conversion, NumPy, copies, pickling. Semantics are PyTorch's."""

import copy
import pickle
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import tensorlib as tl


def test_construction_infers_dtypes():
    assert tl.tensor([1, 2]).dtype is tl.int64
    assert tl.tensor([1, 2.0]).dtype is tl.float32
    assert tl.tensor([True]).dtype is tl.bool
    assert tl.tensor([True, 2]).dtype is tl.int64
    assert tl.tensor(1j).dtype is tl.complex64
    assert tl.tensor(np.ones(2)).dtype is tl.float64
    assert tl.tensor([]).dtype is tl.float32
    assert tl.tensor([tl.tensor(1), 2.5]).tolist() == [1.0, 2.5]
    assert tl.tensor([1.7], dtype=tl.int32).tolist() == [1]
    assert tl.Tensor([1, 2]).dtype is tl.float32 and tl.Tensor(2, 3).shape == (2, 3)


@pytest.mark.parametrize(
    "bad, error",
    [([[1], [1, 2]], ValueError), ("text", TypeError), ([object()], TypeError), (["a"], (TypeError, ValueError))],
)
def test_construction_refuses(bad, error):
    with pytest.raises(error, match="tensor"):
        tl.tensor(bad)


def test_numpy_shares_memory():
    a = np.zeros(3, np.float32)
    t = tl.from_numpy(a)
    t += 1
    assert a.tolist() == [1.0, 1.0, 1.0] and t.numpy() is a
    assert np.asarray(t).base is a or np.asarray(t) is a
    copied = tl.tensor(a)
    copied += 1
    assert a[0] == 1.0
    with pytest.raises(RuntimeError, match="requires grad"):
        tl.ones(1, requires_grad=True).numpy()
    assert tl.ones(2).to(tl.bfloat16).numpy().dtype == ml_dtypes.bfloat16


def test_arithmetic_with_numpy_and_numbers():
    t, a = tl.ones(3), np.arange(3, dtype=np.float32)
    for r in (t + a, a + t, np.float32(2) * t, t * np.float64(2), 2 - t, np.add(a, t), np.exp(t)):
        assert isinstance(r, tl.Tensor) and r.dtype is tl.float32
    assert (a - t).tolist() == [-1.0, 0.0, 1.0]
    assert np.arctan2(t, a).shape == (3,)
    with pytest.raises(TypeError):
        t + "1"


def test_item_and_python_protocols():
    assert tl.tensor([3]).item() == 3 and float(tl.tensor(2.5)) == 2.5 and int(tl.tensor(2)) == 2
    assert list(range(5))[tl.tensor(2)] == 2
    assert f"{tl.tensor(1.23456):.2f}" == "1.23"
    assert f"{tl.tensor(0.5, requires_grad=True)}, {tl.tensor([0.5])}" == "0.5, tensor([0.5000])"
    assert f"{tl.nn.Parameter(tl.tensor(0.5))} {tl.tensor(0.5, device='meta')}".startswith("Parameter containing")
    with pytest.raises(ValueError, match="cannot be converted to Scalar"):
        tl.ones(2).item()
    with pytest.raises(RuntimeError, match="ambiguous"):
        bool(tl.ones(2))
    assert len(tl.ones(3, 2)) == 3 and [r.tolist() for r in tl.tensor([[1], [2]])] == [[1], [2]]
    assert 1.0 in tl.ones(2) and 5.0 not in tl.ones(2)
    assert {tl.ones(1): 1}


def test_to_and_casts():
    t = tl.tensor([1.7, -1.7])
    assert t.to(tl.float32) is t and t.to("cpu") is t and t.float() is t
    assert t.int().tolist() == [1, -1] and t.half().dtype is tl.float16 and t.bool().tolist() == [True, True]
    assert t.to(tl.ones(1, dtype=tl.float64)).dtype is tl.float64
    assert t.to("interpret").device.type == "interpret" and t.to("interpret").cpu().tolist() == t.tolist()
    assert t.type() == "tensorlib.float32" or "FloatTensor" in t.type()
    with pytest.raises(RuntimeError, match="unknown device"):
        t.to("nowhere")
    x = tl.ones(2, requires_grad=True)
    (x.double() * 3).sum().backward()
    assert x.grad.tolist() == [3.0, 3.0] and x.grad.dtype is tl.float32


def test_cuda_tells_the_truth():
    assert tl.cuda.is_available() is False and tl.cuda.device_count() == 0
    with pytest.raises(RuntimeError, match="cuda"):
        tl.ones(1).cuda()


def test_copy_and_pickle():
    x = tl.ones(2, 3, requires_grad=True)
    y = copy.deepcopy(x)
    assert y.requires_grad and y.data_ptr() != x.data_ptr()
    for dtype in (tl.float32, tl.bfloat16, tl.bool, tl.int8, tl.complex64, tl.float8_e4m3fn):
        t = tl.ones(3).to(dtype)
        again = pickle.loads(pickle.dumps(t))
        assert again.dtype is dtype and again.float().tolist() == [1.0] * 3 if dtype is not tl.complex64 else True
    assert pickle.loads(pickle.dumps(x)).requires_grad
    assert pickle.loads(pickle.dumps(tl.float32)) is tl.float32
    assert pickle.loads(pickle.dumps(tl.device("cpu"))) is tl.device("cpu")
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(x * 2)
    both = copy.deepcopy([x, x])
    assert both[0] is both[1]
    z = tl.tensor(1.0)
    z += 0
    assert copy.copy(z).item() == 1.0


def test_finfo_iinfo_and_size():
    assert tl.finfo(tl.float32).eps == np.finfo(np.float32).eps and tl.iinfo(tl.int8).max == 127
    assert tl.finfo(tl.bfloat16).bits == 16
    s = tl.ones(2, 3).shape
    assert repr(s) == "tensorlib.Size([2, 3])" and s.numel() == 6 and isinstance(s[:1], tl.Size) and s == (2, 3)


def test_numpys_spellings():
    t = tl.ones(2, 3)
    assert t.sum(axis=0).tolist() == [2.0] * 3 and tl.sum(t, axis=1, keepdims=True).shape == (2, 1)
    with pytest.raises(TypeError, match="unexpected keyword"):
        t.sum(axes=0)
    with pytest.raises(TypeError, match="multiple values"):
        tl.softmax(t, 0, axis=1)


def test_out():
    out = tl.empty(2)
    assert tl.add(tl.ones(2), 1, out=out) is out and out.tolist() == [2.0, 2.0]
    with pytest.raises(RuntimeError, match="don't support automatic differentiation"):
        tl.exp(tl.ones(2, requires_grad=True), out=out)


def test_nothing_warns_of_infinities():
    code = (
        "import tensorlib as tl; "
        "print(tl.log(tl.zeros(1)).item(), (tl.zeros(1) / 0).item(), tl.exp(tl.tensor([1e9])).item())"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["-inf", "nan", "inf"]


def test_import_loads_neither_triton_nor_an_extra():
    code = (
        "import sys, tensorlib; "
        "print([m for m in ('triton', 'torch', 'opt_einsum', 'safetensors', 'cffi', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_seeds_give_the_same_numbers_again():
    tl.manual_seed(7)
    a = tl.randn(5)
    state = tl.get_rng_state()
    b = tl.randn(5)
    tl.set_rng_state(state)
    assert tl.equal(tl.randn(5), b) and not tl.equal(a, b)
    tl.manual_seed(7)
    assert tl.equal(tl.randn(5), a)
    g = tl.Generator().manual_seed(7)
    assert tl.equal(tl.randn(5, generator=g), a) and g.initial_seed() == 7


def test_a_write_that_overlaps_its_source_reads_it_first():
    # More elements than one program of a kernel owns: otherwise nothing could go wrong.
    for device in ("cpu", "interpret"):
        x = tl.arange(3000, device=device)
        x[1:] = x[:-1]
        assert x.cpu().tolist() == [0, *range(2999)]
        y = tl.arange(60 * 60, device=device).view(60, 60)
        y.copy_(y.T)
        assert y.cpu().tolist() == tl.arange(60 * 60).view(60, 60).T.tolist()


def test_python_and_numpy_number_types_mean_what_they_mean_in_pytorch():
    assert tl.ones(1, dtype=float).dtype is tl.float64 and tl.ones(1).to(complex).dtype is tl.complex128
    assert tl.tensor([np.float64(0.1)]).dtype is tl.float64 and tl.tensor([np.float32(1), 2]).dtype is tl.float32
    with pytest.raises(RuntimeError, match="does not fit"):
        tl.tensor([-1, 300], dtype=tl.uint8)
    assert tl.tensor([-1], dtype=tl.uint8).item() == 255
    with pytest.raises(TypeError, match="expected a Tensor"):
        tl.ones(1).data = 3
    with pytest.raises(RuntimeError, match="must be a bool"):
        tl.ones(1).requires_grad = 3


@pytest.mark.parametrize(
    "call",
    [
        lambda **out: tl.ldexp(tl.ones(3), tl.ones(3), **out),
        lambda **out: tl.mvlgamma(tl.full((3,), 4.0), 2, **out),
        lambda **out: tl.round(tl.full((3,), 1 / 3), decimals=2, **out),
        lambda **out: tl.nn.functional.normalize(tl.ones(3), dim=0, **out),
        lambda **out: tl.conj_physical(tl.tensor([1 + 2j, 3, 1j]), **out),
        lambda **out: tl.nan_to_num(tl.tensor([1 + 2j, float("nan"), 1j]), **out),
    ],
)
def test_out_of_another_shape_is_resized(call):
    """Composites too; the warning begins as PyTorch's does, for programs that filter it."""
    found = call()
    for size in (0, 5):
        out = tl.ones(size, dtype=found.dtype)
        if size:
            warned = pytest.warns(UserWarning, match="^An output with one or more elements was resized since it had")
            with np.errstate(all="ignore"), warned:
                assert call(out=out) is out
        else:
            assert call(out=out) is out
        assert out.tolist() == found.tolist()


def test_what_is_made_of_integers_counts_in_integers():
    """PyTorch's values."""
    assert tl.arange(0.0, 5.5, 1.5, dtype=tl.int64).tolist() == [0, 1, 2, 3, 4]
    assert tl.arange(0.0, 5.5, 1.5, dtype=tl.int32).tolist() == [0, 1, 2, 3]
    assert tl.arange(0.0, -8.000001, -4.0, dtype=tl.int64).tolist() == [0, -4]
    with pytest.raises(ValueError, match="step must be nonzero"):
        tl.arange(0, 64, 0.5, dtype=tl.int64)
    assert tl.linspace(4.3, 0, 5, dtype=tl.uint8).tolist() == [4, 3, 2, 1, 0]
    assert tl.linspace(-3.7, 5.5, 5, dtype=tl.int32).tolist() == [-3, -1, 1, 3, 5]
    assert tl.logspace(0.6, 2.9, 4, dtype=tl.int64).tolist() == [1, 4, 21, 100]
    with pytest.raises(RuntimeError, match="overflow"):
        tl.linspace(0, 300, 4, dtype=tl.uint8)


def test_empty_takes_out():
    out = tl.ones(5)
    assert tl.empty((2, 3), out=out) is out and out.shape == (2, 3)
    with pytest.raises(RuntimeError, match="does not match dtype of out"):
        tl.empty((2, 3), dtype=tl.int64, out=out)
