"""Numbers that are on a GPU stay there: what needs only their value asks nothing of the host."""

from __future__ import annotations

import pytest
from simulated import Simulation

import tensorlib as tl
from tensorlib.nn import functional as F


def test_numbers_of_a_gpu_are_not_read(nvidia: Simulation) -> None:
    three, half = tl.tensor(3, device="cuda"), tl.tensor(0.5, device="cuda")
    log_probs = tl.randn(7, 2, 4).log_softmax(-1)
    labels = tl.tensor([1, 2, 2, 3, 1])
    cases = [
        (lambda n, h, d: tl.full((2, 3), n, device=d), tl.int64),
        (lambda n, h, d: tl.full((2,), h, device=d, dtype=tl.float64), tl.float64),
        (lambda n, h, d: tl.full((4,), h > 0, device=d), tl.bool),
        (lambda n, h, d: tl.linspace(h, n, 7, device=d), tl.float32),
        (lambda n, h, d: tl.linspace(h, 4, 1, device=d), tl.float32),
        (lambda n, h, d: tl.logspace(0, n, 4, base=2.0, device=d, dtype=tl.float64), tl.float64),
        (lambda n, h, d: F.ctc_loss(log_probs.to(d), labels.to(d), [7, 5], [3, 2], reduction="none"), tl.float32),
    ]
    wanted = [make(three.cpu(), half.cpu(), "cpu") for make, _ in cases]
    tl.cuda.set_sync_debug_mode("error")
    found = [make(three, half, "cuda") for make, _ in cases]
    tl.cuda.set_sync_debug_mode("default")
    for mine, theirs, (_, dtype) in zip(found, wanted, cases, strict=True):
        assert mine.device.type == "cuda" and mine.dtype is theirs.dtype is dtype
        assert tl.allclose(mine.cpu().double(), theirs.double(), rtol=1e-6)


def test_numbers_are_written_into_tensors_that_are_given(nvidia: Simulation) -> None:
    out = tl.empty(3, device="cuda")
    half = tl.tensor(0.5, device="cuda")
    assert tl.full((3,), half, out=out) is out and out.tolist() == [0.5] * 3
    assert tl.linspace(half, 1.5, 3, out=out) is out and out.tolist() == [0.5, 1.0, 1.5]
    with pytest.raises(TypeError, match="argument 'out' must be Tensor"):
        tl.linspace(half, 1.5, 3, out=3)
