"""What programs do when there is a GPU: `tensorlib train` and `doctor`, mixed precision."""

from __future__ import annotations

from pathlib import Path

import pytest
from simulated import Simulation

import tensorlib as tl
from tensorlib import doctor
from tensorlib.errors import DeviceError
from tensorlib.train.config import usable_device
from tensorlib.train.language import LanguageConfig, LanguageRun
from tensorlib.train.vision import VisionConfig


def test_training_takes_the_gpu(sim: Simulation, tmp_path: Path) -> None:
    assert usable_device("auto") == usable_device("cuda") == tl.device("cuda:0")
    assert usable_device("cuda:1") == tl.device("cuda:1") and usable_device("cpu") == tl.device("cpu")
    with pytest.raises(DeviceError, match=r"--device cuda:7: .*this machine has cuda:0 to cuda:1; or --device cpu"):
        usable_device("cuda:7")
    large = LanguageConfig.chosen({"steps": 5})
    assert (large.layers, large.width, large.dtype, large.steps) == (8, 512, "bfloat16", 5)
    assert LanguageConfig.chosen({"device": "cpu"}) == LanguageConfig(device="cpu")
    assert VisionConfig.chosen({"width": 3}).width == 3 and VisionConfig.chosen({}).dtype == "bfloat16"
    text = tmp_path / "text.txt"
    text.write_bytes(bytes(range(256)) * 16)
    shape = {"layers": 1, "heads": 1, "width": 8, "block": 8, "batch": 1, "data": (str(text),)}
    run = LanguageRun(LanguageConfig.chosen(shape), tmp_path / "run")
    assert "bfloat16 on cuda:0 (Simulated" in run.describe()
    assert next(run.model.parameters()).device == tl.device("cuda:0")
    batch = run._on_device(run.corpus.batch(0, 0, 1, 8))
    assert batch.is_cuda and batch.tolist() == run.corpus.batch(0, 0, 1, 8).tolist()


def test_the_doctor_lists_gpus(sim: Simulation) -> None:
    lines = list(doctor.report())
    amd = sim.kind == "hip"
    shown = "\n".join(lines)
    for i in range(2):
        name = "Simulated MI300X, gfx942, 1.0 GiB, 304" if amd else "Simulated H100, sm_90, 1.0 GiB, 132"
        assert f"cuda:{i} {name} multiprocessors, {'HIP' if amd else 'CUDA'} driver" in shown
    assert any(line.startswith("ptxas") and ("AMD's assembler" in line) is amd for line in lines)
    assert any(line.startswith("kernels") for line in lines) and "Nothing to do" in lines[-1]


def test_mixed_precision(nvidia: Simulation) -> None:
    tl.manual_seed(0)
    model = tl.nn.Linear(8, 4).cuda()
    x = tl.randn(3, 8, device="cuda")
    with tl.autocast("cuda"):
        assert model(x).dtype is tl.float16 and tl.is_autocast_enabled("cuda")
    with tl.autocast("cuda", dtype=tl.bfloat16):
        y = model(x)
        assert y.dtype is tl.bfloat16 and y.softmax(-1).dtype is tl.float32
    scaler, optimizer = tl.GradScaler(), tl.optim.SGD(model.parameters(), lr=0.5)
    assert scaler.is_enabled()
    before = model.weight.detach().clone()
    scaler.scale(model(x).sum() * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    assert tl.equal(model.weight, before) and scaler.get_scale() == 2.0**15
    optimizer.zero_grad()
    scaler.scale(model(x).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert tl.allclose(model.weight, before - 0.5 * x.sum(0), atol=1e-5)
