"""What programs written for PyTorch say besides operators: older names, longer paths, decorators, guards."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import nn
from tensorlib.autograd import Variable


def test_modules_are_reached_by_pytorchs_longer_paths() -> None:
    norms = importlib.import_module("tensorlib.nn.modules.batchnorm")
    assert issubclass(nn.BatchNorm2d, norms._BatchNorm) and nn.modules.conv.Conv2d is nn.Conv2d
    assert nn.modules.Linear is nn.Linear and nn.modules.activation.ReLU is nn.ReLU
    assert importlib.import_module("tensorlib.nn.modules.instancenorm").InstanceNorm2d is nn.InstanceNorm2d
    utils = importlib.import_module("tensorlib.nn.modules.utils")
    assert utils._pair(3) == (3, 3) and utils._triple([1, 2]) == (1, 2) and utils._single(4) == (4,)
    assert utils._reverse_repeat_tuple((1, 2), 2) == (2, 2, 1, 1)
    assert importlib.import_module("tensorlib.backends.cudnn") is tl.backends.cudnn
    assert tl.cuda.amp.GradScaler(enabled=False).is_enabled() is False


def test_accelerator_without_a_gpu() -> None:
    assert not tl.accelerator.is_available() and tl.accelerator.device_count() == 0
    assert tl.accelerator.current_accelerator() is None
    with tl.accelerator.device_index(None):
        pass
    for name in ("synchronize", "current_device_index", "empty_cache", "memory_allocated", "max_memory_allocated"):
        with pytest.raises(RuntimeError, match=name):
            getattr(tl.accelerator, name)()
    with pytest.raises(RuntimeError, match="set_device_index"):
        tl.accelerator.set_device_index(0)


def test_script_decorators_leave_python_as_it_is() -> None:
    def double(x: int) -> int:
        return 2 * x

    jit = tl.jit
    for decorate in (jit.script, jit.unused, jit.export, jit.script_if_tracing, jit.script_method, jit.interface):
        assert decorate(double) is double
    assert jit.ignore(double) is double and jit.ignore(drop=True)(double) is double
    assert jit.trace(double, 1) is double and jit.annotate(int, 3) == 3 and jit.isinstance(3, int)
    assert not jit.is_scripting() and not jit.is_tracing()
    tl._assert(True, "no")
    with pytest.raises(AssertionError, match="why"):
        tl._assert(False, "why")


def test_marks_for_a_compiler_say_that_there_is_none() -> None:
    def same() -> None: ...

    c = tl.compiler
    assert not (c.is_compiling() or c.is_dynamo_compiling() or c.is_exporting())
    assert c.disable(same) is c.disable()(same) is c.allow_in_graph(same) is same


def test_older_name_of_the_choice_of_attention() -> None:
    with tl.backends.cuda.sdp_kernel(enable_flash=False):
        assert not tl.backends.cuda.flash_sdp_enabled() and tl.backends.cuda.math_sdp_enabled()
    assert tl.backends.cuda.flash_sdp_enabled()


def test_variable_is_a_detached_tensor() -> None:
    x = tl.ones(2, requires_grad=True)
    assert isinstance(x, Variable) and not isinstance(2, Variable)
    v = Variable(x.data, requires_grad=True)
    assert v.requires_grad and v.is_leaf and v.data_ptr() == x.data_ptr()
    assert not Variable(x * 2).requires_grad and Variable().shape == (0,)
    with pytest.warns(UserWarning, match="volatile"):
        Variable(x, volatile=True)
    with pytest.raises(TypeError, match="has to be a tensor"):
        Variable(np.ones(2))


def test_data_parallel_calls_the_module() -> None:
    m = nn.DataParallel(nn.Linear(2, 3), device_ids=[0])
    x = tl.ones(1, 2)
    assert list(m.state_dict()) == ["module.weight", "module.bias"]
    assert m(x).tolist() == m.module(x).tolist() == nn.parallel.data_parallel(m.module, x).tolist()
    with pytest.raises(RuntimeError, match="at most one device"):
        nn.DataParallel(nn.Linear(2, 3), device_ids=[0, 1])


def test_lists_of_modules_hold_none() -> None:
    """As residual blocks without a downsampling do; such an entry has no parameters and is no child."""
    layer, none = nn.ModuleList([nn.Linear(1, 2), None])
    assert isinstance(layer, nn.Linear) and none is None
    m = nn.ModuleList([nn.ModuleList([nn.ReLU(), None])])
    assert len(m[0]) == 2 and len(list(m[0].children())) == 1 and "(1): None" in repr(m)


@pytest.mark.parametrize("name", ["zeros", "ones", "empty", "rand", "randn"])
def test_sizes_come_under_their_name(name: str) -> None:
    make = getattr(tl, name)
    assert make(size=(2, 3), dtype=tl.float64).shape == make(2, 3).shape == make([2, 3]).shape == (2, 3)
    with pytest.raises(TypeError, match="missing required argument: 'size'"):
        make()
    with pytest.raises(TypeError, match="a sequence"):
        make(2, size=(3,))


def test_other_arguments_by_name() -> None:
    x = tl.arange(6)
    assert [len(p) for p in x.split(split_size=[2, 4], dim=-1)] == [2, 4] and len(x.split(split_size=4)) == 2
    assert len(tl.split(x, split_size_or_sections=2)) == 3
    assert x.repeat(repeats=(2, 1)).shape == (2, 6) and tl.tile(x, dims=(2,)).shape == (12,)
    assert tl.randint(high=5, size=(2,)).shape == (2,)
    with pytest.raises(TypeError, match="'high'"):
        tl.randint(size=(2,))
    assert not (x.is_xpu or x.is_mps)
    assert nn.LSTM(2, 3)._flat_weights_names == ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]


def test_a_process_group_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs for many processes run as one; more than one is refused."""
    dist = tl.distributed
    assert not dist.is_available() and not dist.is_initialized()
    with pytest.raises(ValueError, match="has not been initialized"):
        dist.get_rank()
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ValueError, match="WORLD_SIZE"):
        dist.init_process_group("nccl")
    with pytest.raises(NotImplementedError, match="no communication backend"):
        dist.init_process_group("gloo", world_size=2, rank=0)
    monkeypatch.setenv("WORLD_SIZE", "1")
    dist.init_process_group("gloo")
    try:
        assert (dist.get_rank(), dist.get_world_size(), dist.get_backend()) == (0, 1, "gloo")
        model = nn.parallel.DistributedDataParallel(nn.Linear(2, 2))
        with model.no_sync():
            model(tl.ones(1, 2)).sum().backward()
        g = model.module.weight.grad.clone()
        dist.all_reduce(model.module.weight.grad)
        dist.barrier()
        assert tl.equal(g, model.module.weight.grad)
        assert list(model.state_dict()) == ["module.weight", "module.bias"]
        got = [tl.zeros(2)]
        dist.all_gather(got, tl.ones(2))
        assert got[0].tolist() == [1.0, 1.0]
    finally:
        dist.destroy_process_group()
    assert not dist.is_initialized()
