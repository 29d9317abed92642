"""Process-wide settings, typed tensors, backends' switches: what programs say at their start."""

from __future__ import annotations

from typing import Any

import pytest

import tensorlib as tl
from tensorlib.op import registry
from tensorlib.runtime import determinism


@pytest.fixture(autouse=True)
def restored():
    before = tl.get_num_threads()
    yield
    tl.set_num_threads(before)
    tl.use_deterministic_algorithms(False)
    tl.set_float32_matmul_precision("highest")
    tl.set_default_dtype(tl.float32)


def test_threads() -> None:
    tl.set_num_threads(1)
    assert tl.get_num_threads() == 1
    with pytest.raises(ValueError, match="positive"):
        tl.set_num_threads(0)
    with pytest.raises(TypeError):
        tl.set_num_threads(1.5)
    tl.set_num_interop_threads(2)
    assert tl.get_num_interop_threads() == 1


def test_deterministic_algorithms_name_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    _scatter_add: Any = registry["_scatter_add"]
    x = tl.zeros(3).to("interpret")
    index = tl.tensor([0, 0, 1]).to("interpret")
    ones = tl.ones(3).to("interpret")
    tl.use_deterministic_algorithms(True)
    assert tl.are_deterministic_algorithms_enabled() and tl.get_deterministic_debug_mode() == 2
    assert x.scatter_add(0, index, ones).tolist() == [2.0, 1.0, 0.0]  # in order
    host = _scatter_add.kernel  # every operator of the library has such a way; one of one's own may not
    monkeypatch.setattr(_scatter_add, "kernel", lambda *args, **attrs: (determinism.atomic(), host(*args, **attrs)))
    with pytest.raises(RuntimeError, match=r"scatter_add.* does not have a deterministic implementation on interpret"):
        x.scatter_add(0, index, ones)
    assert tl.zeros(3).scatter_add(0, index.cpu(), ones.cpu()).tolist() == [2.0, 1.0, 0.0]
    tl.use_deterministic_algorithms(True, warn_only=True)
    assert tl.is_deterministic_algorithms_warn_only_enabled()
    with pytest.warns(UserWarning, match="no fixed order"):
        x.scatter_add(0, index, ones)
    monkeypatch.undo()
    tl.set_deterministic_debug_mode("default")
    assert x.scatter_add(0, index, ones).tolist() == [2.0, 1.0, 0.0]
    with pytest.raises(RuntimeError, match="debug_mode"):
        tl.set_deterministic_debug_mode("sometimes")


def test_precision_and_warnings() -> None:
    assert not tl.backends.cuda.matmul.allow_tf32 and tl.backends.cuda.matmul.fp32_precision in ("none", "ieee")
    for word in ("high", "medium"):
        tl.set_float32_matmul_precision(word)
        assert tl.get_float32_matmul_precision() == word
        assert tl.backends.cuda.matmul.allow_tf32 and tl.backends.cuda.matmul.fp32_precision == "tf32"
    with pytest.raises((ValueError, RuntimeError), match="highest"):
        tl.set_float32_matmul_precision("low")
    tl.set_float32_matmul_precision("highest")
    assert not tl.backends.cuda.matmul.allow_tf32
    tl.set_warn_always(True)
    assert tl.is_warn_always_enabled()
    tl.set_warn_always(False)
    assert tl.set_flush_denormal(True) is False


def test_typed_tensors() -> None:
    x = tl.FloatTensor([[1, 2], [3, 4]])
    assert x.dtype is tl.float32 and x.type() == "tensorlib.FloatTensor"
    assert isinstance(x, tl.FloatTensor) and not isinstance(x, tl.LongTensor)
    assert tl.LongTensor(2, 3).shape == (2, 3) and tl.ByteTensor().shape == (0,)
    assert x.type(tl.DoubleTensor).dtype is tl.float64 and x.type("torch.LongTensor").dtype is tl.int64
    assert x.type(tl.float16).dtype is tl.float16
    assert tl.typename(x) == "tensorlib.FloatTensor" and tl.typename(tl.nn.Linear(1, 1)).endswith("Linear")
    tl.set_default_tensor_type("torch.DoubleTensor")
    assert tl.tensor(1.0).dtype is tl.float64
    with pytest.raises(TypeError, match="LongTensor"):
        tl.set_default_tensor_type(tl.LongTensor)


def test_compile_says_that_it_does_not() -> None:
    model = tl.nn.Linear(2, 2)
    with pytest.warns(UserWarning, match="runs eagerly"):
        assert tl.compile(model) is model
    assert tl.compile(model, backend="eager") is model

    with pytest.warns(UserWarning, match="runs eagerly"):

        @tl.compile
        def function(x):
            return x + 1

    assert function(tl.ones(1)).item() == 2
    with pytest.raises(TypeError, match="callable"):
        tl.compile(3)


def test_backends_switches_are_kept_and_misspellings_seen() -> None:
    tl.backends.cudnn.benchmark = True
    assert tl.backends.cudnn.benchmark and not tl.backends.cudnn.is_available()
    tl.backends.cudnn.benchmark = False
    with pytest.raises(AttributeError, match="benchmak"):
        tl.backends.cudnn.benchmak = True
    tl.backends.cuda.matmul.allow_tf32 = True
    assert tl.get_float32_matmul_precision() == "high"
    with tl.backends.cuda.matmul.flags(fp32_precision="tf32x3"):
        assert tl.backends.cuda.matmul.fp32_precision == "tf32x3"
    assert tl.backends.cuda.matmul.fp32_precision == "tf32"
    with pytest.raises(RuntimeError, match="Unknown precision"):
        tl.backends.cuda.matmul.fp32_precision = "bf17"
    tl.backends.cuda.matmul.allow_tf32 = False
    assert tl.get_float32_matmul_precision() == "highest"
    assert not tl.backends.mps.is_available()
    with tl.backends.cudnn.flags(deterministic=True):
        assert tl.backends.cudnn.deterministic
    assert not tl.backends.cudnn.deterministic
    tl.backends.cuda.enable_flash_sdp(False)
    assert not tl.backends.cuda.flash_sdp_enabled()
    tl.backends.cuda.enable_flash_sdp(True)


def test_fork_rng_leaves_the_stream_where_it_was() -> None:
    tl.manual_seed(3)
    with tl.random.fork_rng():
        inside = tl.rand(3)
        tl.manual_seed(9)
    assert tl.equal(tl.rand(3), inside)


def test_cuda_without_a_gpu() -> None:
    assert not tl.cuda.is_available() and tl.cuda.device_count() == 0
    tl.cuda.empty_cache()
    assert tl.cuda.max_memory_allocated() == 0
    for ask in (tl.cuda.get_device_name, tl.cuda.synchronize):  # PyTorch refuses these too
        with pytest.raises(RuntimeError, match=r"no GPU can be used here: CUDA: .*; HIP: "):
            ask()


def test_every_name_that_loads_late_is_there() -> None:
    for name in (*tl._SUBMODULES, *tl._HOME):
        assert getattr(tl, name) is not None
        assert name in dir(tl)
