"""Without a GPU: what can be answered is answered as by PyTorch, the rest is an error that says why."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import tensorlib as tl
from tensorlib import doctor
from tensorlib.errors import DeviceError
from tensorlib.runtime.engine import gpus

# What PyTorch 2.13 answers where there is no GPU.
ANSWERS = {
    "is_available()": False, "device_count()": 0, "is_initialized()": False, "get_arch_list()": [],
    "get_gencode_flags()": "", "is_bf16_supported()": False, "is_tf32_supported()": False, "empty_cache()": None,
    "get_rng_state_all()": [], "memory_allocated()": 0, "max_memory_allocated()": 0, "memory_reserved()": 0,
    "max_memory_reserved()": 0, "memory_stats()": {}, "memory_stats_as_nested_dict()": {}, "host_memory_stats()": {},
    "host_memory_stats_as_nested_dict()": {}, "memory_allocated('cpu')": 0, "manual_seed(3)": None,
    "manual_seed_all(3)": None, "seed()": None, "seed_all()": None, "set_device(-1)": None, "set_stream(None)": None,
    "default_generators": (), "has_half": True, "device(-1).__enter__()": None, "stream(None).__enter__()": None,
    "set_rng_state_all([])": None, "device_of(torch.ones(1)).__enter__()": None,
}  # fmt: skip

# What it refuses: by an AssertionError where it was built without CUDA, by a RuntimeError where it was built with it.
REFUSED = [
    "init()", "current_device()", "set_device(0)", "get_device_name()", "get_device_properties()",
    "get_device_capability()", "synchronize()", "ipc_collect()", "current_stream()", "default_stream()", "Stream()",
    "graph(None)", "get_rng_state()", "initial_seed()", "mem_get_info()", "memory_summary()",
    "reset_peak_memory_stats()", "reset_accumulated_memory_stats()", "set_per_process_memory_fraction(0.5)",
    "get_per_process_memory_fraction()", "caching_allocator_alloc(3)", "can_device_access_peer(0, 1)",
    "device(0).__enter__()", "ExternalStream(0)", "reset_peak_host_memory_stats()",
    "use_mem_pool(MemPool()).__enter__()", "CUDAGraph().capture_begin()",
]  # fmt: skip


@pytest.mark.parametrize("asked", ANSWERS)
def test_answers(asked: str) -> None:
    assert eval(f"torch.cuda.{asked}", {"torch": tl}) == ANSWERS[asked]


@pytest.mark.parametrize("asked", REFUSED)
def test_refusals(asked: str) -> None:
    names = {name: getattr(tl.cuda, name) for name in ("MemPool",)}
    with pytest.raises(RuntimeError) as raised:
        eval(f"torch.cuda.{asked}", {"torch": tl, **names})
    text = str(raised.value)
    assert "no GPU can be used here: CUDA: " in text and "; HIP: " in text


def test_tensors() -> None:
    x = tl.ones(2)
    for act in (x.cuda, lambda: x.to("cuda"), lambda: tl.ones(1, device="cuda"), lambda: tl.zeros(1, device=0),
                lambda: tl.nn.Linear(1, 1).cuda(), x.pin_memory):  # fmt: skip
        with pytest.raises(DeviceError, match="no GPU can be used here"):
            act()
    with pytest.raises(DeviceError, match="expected a tensor on a GPU"):
        x.record_stream(tl.Stream())
    assert x.get_device() == -1 and not x.is_cuda and not x.is_pinned() and not tl.zeros(2, pin_memory=True).is_pinned()
    assert tl.version.cuda is None and tl.version.hip is None and tl.version.__version__ == tl.__version__
    assert tl.device("cuda") != tl.device("cuda:0") and tl.device(1) == tl.device("cuda:1")
    assert not tl.cuda.is_current_stream_capturing()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not tl.amp.GradScaler().is_enabled()


def test_ranges_for_profilers_do_nothing() -> None:
    nvtx = tl.cuda.nvtx
    assert nvtx.range_push("outer") == 0 and nvtx.range_push("inner") == 1
    assert nvtx.range_pop() == 1 and nvtx.range_pop() == 0 and nvtx.range_pop() == -1
    nvtx.range_end(nvtx.range_start("one"))
    nvtx.mark("here")
    with nvtx.range("step {}", 3):
        assert nvtx.range_push("x") == 1
        nvtx.range_pop()


def test_importing_loads_no_driver() -> None:
    code = (
        "import sys, tensorlib as tl\n"
        "tl.cuda.memory_allocated, tl.accelerator, tl.Stream\n"
        "assert not {'cffi', 'triton', 'torch'} & set(sys.modules), set(sys.modules)\n"
        "assert not tl.cuda.is_available() and 'cffi' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_library_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libcuda.so.1").write_text("not a library")
    monkeypatch.setenv("TENSORLIB_CUDA_DRIVER", str(tmp_path / "libcuda.so.1"))
    gpus().reset()
    try:
        assert not tl.cuda.is_available()
        with pytest.raises(DeviceError, match="cannot be loaded"):
            tl.cuda.init()
    finally:
        monkeypatch.undo()
        gpus().reset()


def test_the_doctor_says_why(tmp_path: Path) -> None:
    lines = list(doctor.report())
    at = next(i for i, line in enumerate(lines) if line.startswith("devices"))
    assert "no GPU can be used" in lines[at] and "CUDA: " in lines[at + 1] and "HIP: " in lines[at + 2]
    assert doctor.hint("CUDA", tmp_path) == "" == doctor.hint("HIP", tmp_path)
    card = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    card.mkdir(parents=True)
    (card / "vendor").write_text("0x10de\n")
    (card / "class").write_text("0x030200\n")
    assert doctor.hint("CUDA", tmp_path) == "there is 1 NVIDIA card in the machine: install the driver"
    (tmp_path / "dev/dri").mkdir(parents=True)
    (tmp_path / "dev/nvidia0").touch()
    assert doctor.hint("CUDA", tmp_path).endswith("nvidia0 is there: what lacks is the library")
    (tmp_path / "dev/dri/renderD128").touch()
    assert doctor.hint("HIP", tmp_path) == ""  # any graphics card has one
    (tmp_path / "dev/kfd").touch()
    assert "are there" in doctor.hint("HIP", tmp_path)
    if os.geteuid():
        (tmp_path / "dev/kfd").chmod(0)
        assert "add the user to the groups render and video" in doctor.hint("HIP", tmp_path)
        (tmp_path / "dev/kfd").chmod(stat.S_IRUSR | stat.S_IWUSR)
