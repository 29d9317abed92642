"""Which GPUs there are, the current one of each thread, and tensors that name them."""

from __future__ import annotations

import copy
import os
import pickle
import threading

import numpy as np
import pytest
from simulated import Simulation, simulated

import tensorlib as tl
from tensorlib.errors import DeviceError


def test_what_is_there(sim: Simulation) -> None:
    amd = sim.kind == "hip"
    assert tl.cuda.is_available() and tl.cuda.device_count() == 2 and not tl.cuda.is_initialized()
    tl.cuda.init()
    assert tl.cuda.is_initialized() and tl.cuda.current_device() == 0
    properties = tl.cuda.get_device_properties("cuda:1")
    assert tl.cuda.get_device_name(1) == properties.name == ("Simulated MI300X" if amd else "Simulated H100")
    assert tl.cuda.get_device_capability() == (9, 4 if amd else 0)
    assert properties.total_memory == 1 << 30 and properties.multi_processor_count == (304 if amd else 132)
    assert ("gfx942" if amd else "sm_90") in tl.cuda.get_arch_list()
    assert ("code=sm_90" in tl.cuda.get_gencode_flags()) is not amd
    assert tl.cuda.is_bf16_supported() and tl.cuda.is_bf16_supported(including_emulation=False)
    assert tl.cuda.is_tf32_supported() and tl.cuda.can_device_access_peer(0, 1)
    assert (tl.version.cuda is None) is amd and (tl.version.hip is None) is not amd
    assert len(tl.cuda.default_generators) == 2
    for wrong in (2, "cuda:7"):
        with pytest.raises(DeviceError, match="invalid device ordinal: this machine has cuda:0 to cuda:1"):
            tl.cuda.get_device_name(wrong)
    with pytest.raises(ValueError, match="Expected a cuda device, but got: cpu"):
        tl.cuda.get_device_name("cpu")


def test_an_older_gpu() -> None:
    with simulated("cuda", arch="sm_80"):
        assert tl.cuda.get_device_capability() == (8, 0) and tl.cuda.is_bf16_supported(including_emulation=False)


def test_the_current_device(sim: Simulation) -> None:
    assert tl.ones(1, device="cuda").device == tl.device("cuda:0") != tl.device("cuda")
    tl.cuda.set_device(1)
    assert tl.cuda.current_device() == 1 and tl.ones(1).cuda().get_device() == 1
    assert tl.ones(1, device=0).get_device() == 0
    with tl.cuda.device(0):
        assert tl.cuda.current_device() == 0
        with tl.cuda.device(None), tl.cuda.device(-1):
            assert tl.cuda.current_device() == 0
        with tl.cuda.device_of(tl.ones(1, device="cuda:1")):
            assert tl.cuda.current_device() == 1
        with tl.cuda.device_of(tl.ones(1)):
            assert tl.cuda.current_device() == 0
    assert tl.cuda.current_device() == 1
    tl.cuda.set_device(-1)
    assert tl.cuda.current_device() == 1
    with pytest.raises(DeviceError, match="invalid device ordinal"):
        tl.cuda.set_device(2)
    with pytest.raises(ValueError, match="specified index"):
        tl.cuda.set_device("cuda")
    found: list[object] = []

    def other() -> None:
        found.append(tl.cuda.current_device())
        found.append(tl.zeros(2, device="cuda").device)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert found == [0, tl.device("cuda:0")] and tl.cuda.current_device() == 1


def test_default_devices(sim: Simulation) -> None:
    with tl.device("cuda"):
        assert tl.zeros(2).device == tl.device("cuda:0") == tl.get_default_device()
        with tl.device("cpu"):
            assert tl.arange(2).device == tl.device("cpu")
        with pytest.raises(ZeroDivisionError), tl.device("cuda:1"):
            assert tl.rand(2).get_device() == 1 and 1 / 0
        assert tl.tensor([1.0]).is_cuda

    @tl.device("cuda:1")
    def make() -> tl.Tensor:
        return tl.full((2,), 3.0)

    assert make().get_device() == 1 and tl.ones(1).device == tl.device("cpu")
    tl.set_default_device("cuda:1")
    try:
        assert tl.ones(1).get_device() == 1 and tl.get_default_device() == tl.device("cuda:1")
    finally:
        tl.set_default_device(None)


def test_tensors_know_their_device(sim: Simulation) -> None:
    x = tl.arange(6.0, device="cuda:1").view(2, 3)
    assert x.is_cuda and not x.is_cpu and x.device.type == "cuda" and str(x.device) == "cuda:1"
    assert repr(tl.ones(2, device="cuda:1")) == "tensor([1., 1.], device='cuda:1')"
    assert x.type() == "tensorlib.cuda.FloatTensor" and x.cpu().type("torch.cuda.DoubleTensor").is_cuda
    assert x.untyped_storage().data_ptr() == x[1].untyped_storage().data_ptr() and len(x.untyped_storage()) == 24
    assert x.new_zeros(2).device is x.device and tl.empty_like(x).device is x.device
    again = pickle.loads(pickle.dumps(x))
    assert again.device is x.device and again.tolist() == x.tolist()
    assert copy.deepcopy(x).device is x.device and x.to("cuda:1") is x and x.cuda(1) is x
    moved = tl.nn.Linear(3, 2).cuda(1)
    assert moved(x).device is x.device and all(p.is_cuda for p in moved.parameters())
    with pytest.raises(DeviceError, match="expected all tensors on the same device, got cuda:1 and cuda:0"):
        x + tl.ones(2, 3, device="cuda:0")
    assert (x + tl.tensor(1.0)).device is x.device


def test_gradients_between_devices(sim: Simulation) -> None:
    x = tl.arange(3.0, requires_grad=True)
    y = x.cuda(0) * 2
    (y.to("cuda:1") * tl.arange(3.0, device="cuda:1")).sum().cpu().backward()
    assert x.grad is not None and x.grad.device == tl.device("cpu") and x.grad.tolist() == [0.0, 2.0, 4.0]


def test_random_state(sim: Simulation) -> None:
    tl.cuda.manual_seed_all(5)
    on_cpu = tl.rand(8)
    tl.manual_seed(5)
    on_gpu = tl.rand(8, device="cuda:1")
    assert on_gpu.tolist() == on_cpu.tolist() and tl.cuda.initial_seed() == 5
    state, every = tl.cuda.get_rng_state(), tl.cuda.get_rng_state_all()
    first = tl.randn(4, device="cuda")
    tl.cuda.set_rng_state(state)
    assert tl.randn(4, device="cuda").tolist() == first.tolist() and len(every) == 2
    tl.cuda.set_rng_state_all(every)
    assert tl.randn(4, device="cuda").tolist() == first.tolist()
    tl.cuda.seed()
    assert tl.cuda.initial_seed() != 5


def test_a_forked_child_is_told_what_to_do(nvidia: Simulation) -> None:
    x = tl.ones(3, device="cuda")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        said = "nothing"
        try:
            tl.zeros(2, device="cuda").sum().item()
        except DeviceError as error:
            said = str(error)
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    os.waitpid(child, 0)
    assert "Cannot re-initialize CUDA in forked subprocess" in said and "'spawn'" in said
    assert np.array_equal(x.cpu().numpy(), np.ones(3))
