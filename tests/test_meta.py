"""Device "meta": shapes and dtypes without numbers."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import nn
from tensorlib.errors import UnsupportedError
from tensorlib.op import declared
from tensorlib.testing import calls, cases

META = tl.device("meta")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_results_have_the_shapes_and_dtypes_that_the_cpu_gives() -> None:
    """Every declared sample of every operator that can be run on meta: one in five of them."""
    tried, wrong, at = 0, [], 0
    for made in declared():
        for case in cases.cases(made):
            at += 1
            if at % 5 or not case.label.startswith("sample") or "strided" in case.label or "transposed" in case.label:
                continue
            args, attrs = case.arguments(np.dtype(np.float32))
            try:
                want = calls.run(made, args, attrs)
            except (tl.errors.TensorlibError, TypeError, ValueError):
                continue
            try:
                got = calls.run(made, args, attrs, META)
            except (UnsupportedError, tl.errors.DeviceError):  # it depends on numbers
                continue
            tried += 1
            same = [(tuple(x.shape), x.dtype) for x in want] == [(tuple(x.shape), x.dtype) for x in got]
            if not same and made.name not in ("is_conj", "is_neg", "is_complex", "equal"):
                wrong.append(f"{made.name} {case}")
    assert tried > 200 and not wrong, wrong


def test_a_model_is_made_and_run_without_memory() -> None:
    with tl.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
        huge = nn.Linear(1 << 20, 1 << 20)
    assert huge.weight.is_meta and huge.weight.numel() == 1 << 40 and huge.weight.data_ptr() == 0
    out = model(tl.ones(2, 3, 8, 8, device="meta"))
    assert out.is_meta and out.shape == (2, 5)
    out.sum().backward()
    assert all(p.grad is not None and p.grad.is_meta and p.grad.shape == p.shape for p in model.parameters())
    tl.optim.AdamW(model.parameters()).step()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    assert tl.get_default_device().type == "cpu"


def test_memory_comes_with_to_empty_or_a_checkpoint() -> None:
    ready = nn.Linear(3, 2)
    model = nn.Linear(3, 2, device="meta")
    with pytest.raises(NotImplementedError, match="no data"):
        model.to("cpu")
    with pytest.warns(UserWarning, match="assign=True"):
        model.load_state_dict(ready.state_dict())
    assert model.weight.is_meta
    model.load_state_dict(ready.state_dict(), assign=True)
    assert tl.equal(model.weight, ready.weight)
    empty = nn.Linear(3, 2, device="meta").to_empty(device="cpu")
    empty.load_state_dict(ready.state_dict())
    assert tl.equal(empty(tl.ones(1, 3)), ready(tl.ones(1, 3)))


@pytest.mark.parametrize("read", ["item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__"])
def test_reading_is_an_error(read: str) -> None:
    with pytest.raises(TypeError if read == "numpy" else NotImplementedError):
        getattr(tl.ones(1, device="meta"), read)()


def test_copies_random_numbers_and_printing() -> None:
    x = tl.ones(2, 3, device="meta")
    assert x.copy_(tl.zeros(2, 3)) is x and copy.deepcopy(x).is_meta and (x + tl.ones(())).shape == (2, 3)
    with pytest.raises(NotImplementedError, match="no data"):
        tl.zeros(2, 3).copy_(x)
    tl.manual_seed(0)
    first = tl.rand(2)
    tl.manual_seed(0)
    tl.rand(3, device="meta"), x.normal_(), nn.functional.dropout(x), tl.randperm(4, device="meta")
    assert tl.equal(tl.rand(2), first)
    assert repr(x) == "tensor(..., device='meta', size=(2, 3))"
    assert repr(x.sort().indices) == "tensor(..., device='meta', size=(2, 3), dtype=tensorlib.int64)"
    assert tl.fft.fft(x).dtype is tl.complex64 and tl.fft.fft(x).real.stride() == (6, 2)
    assert x.t().stride() == (1, 3) and x[:, 1].storage_offset() == 1
