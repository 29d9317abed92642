"""The profiler, foreach lists, windows, make_tensor, storages, formats: PyTorch's tools around tensors."""

import json

import numpy as np
import pytest

import tensorlib as T
from tensorlib import profiler
from tensorlib.signal import windows
from tensorlib.testing import make_tensor


def test_profile_counts_operators_and_ranges(tmp_path) -> None:
    model = T.nn.Linear(4, 3)
    with T.autograd.profiler.profile(record_shapes=True) as p, profiler.record_function("step"):
        model(T.ones(2, 4)).sum().backward()
    found = {e.key: e for e in p.key_averages()}
    assert found["linear"].count == 1 and found["step"].cpu_time_total >= found["linear"].cpu_time_total > 0
    assert [2, 4] in next(e for e in p.function_events if e.name == "linear").input_shapes
    table = p.key_averages().table(sort_by="cpu_time_total", row_limit=2)
    assert "linear" in str(p) and table.count("\n") == 7 and "Self CPU time total" in table
    p.export_chrome_trace(str(tmp_path / "trace.json"))
    assert {e["name"] for e in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]} >= {"linear", "step"}
    assert not T._core.observers and not T._core.listening[0]


def test_schedule_chooses_steps(tmp_path) -> None:
    ready = []
    plan = profiler.schedule(wait=1, warmup=1, active=2, repeat=1)
    with profiler.profile(schedule=plan, on_trace_ready=lambda p: ready.append((p.step_num, len(p.events())))) as p:
        for _ in range(8):
            T.ones(2) + 1
            p.step()
    assert ready == [(3, 2)]
    assert [plan(i).name for i in range(5)] == ["NONE", "WARMUP", "RECORD", "RECORD_AND_SAVE", "NONE"]
    with profiler.profile(on_trace_ready=profiler.tensorboard_trace_handler(str(tmp_path), "w")):
        T.ones(2) + 1
    assert [f.name.split(".")[0] for f in tmp_path.iterdir()] == ["w"]
    with pytest.raises(ValueError, match="active"):
        profiler.schedule(wait=0, warmup=0, active=0)
    with pytest.raises(RuntimeError, match="nothing was recorded"):
        profiler.profile().key_averages()


def test_foreach_lists() -> None:
    a, b = [T.ones(2), T.full((3,), 2.0)], [T.full((2,), 3.0), T.ones(3)]
    assert [t.tolist() for t in T._foreach_add(a, b, alpha=2)] == [[7.0] * 2, [4.0] * 3]
    assert [t[0].item() for t in T._foreach_mul(a, [2.0, 5.0])] == [2.0, 10.0]
    assert [t.item() for t in T._foreach_norm(a)] == pytest.approx([2**0.5, 12**0.5])
    T._foreach_addcdiv_(a, b, b, [1.0, 2.0])
    T._foreach_sqrt_(a)
    T._foreach_lerp_(a, b, 0.5)
    assert [t[0].item() for t in a] == pytest.approx([(2**0.5 + 3) / 2, 1.5])
    assert [t[0].item() for t in T._foreach_pow(2.0, [T.ones(1), T.zeros(1)])] == [2.0, 1.0]
    assert [t[0].item() for t in T._foreach_addcmul([T.zeros(1)] * 2, [T.ones(1)] * 2, [T.ones(1)] * 2,
                                                    T.tensor([3.0, 4.0]))] == [3.0, 4.0]  # fmt: skip
    with pytest.raises(RuntimeError, match="as many"):
        T._foreach_add(a, [1.0])
    with pytest.raises(AttributeError):
        _ = T._foreach_nothing


@pytest.mark.parametrize(
    ("window", "expected"),
    [  # PyTorch 2.13
        (windows.exponential(4, tau=2.0), [0.4723665527, 0.7788007831, 0.7788007831, 0.4723665527]),
        (windows.exponential(3, center=1.0, sym=False), [0.3678794412, 1.0, 0.3678794412]),
        (windows.cosine(4), [0.3826834324, 0.9238795325, 0.9238795325, 0.3826834324]),
        (windows.gaussian(3, std=0.5), [0.1353352832, 1.0, 0.1353352832]),
        (windows.kaiser(3, beta=2.0, sym=False), [0.438676268, 0.924313903, 0.924313903]),
        (windows.bartlett(4, sym=False), [0.0, 0.5, 1.0, 0.5]),
        (windows.hann(5), [0.0, 0.5, 1.0, 0.5, 0.0]),
        (windows.hamming(3), [0.08, 1.0, 0.08]),
        (windows.blackman(3), [0.0, 1.0, 0.0]),
        (windows.nuttall(3), [0.0003628, 1.0, 0.0003628]),
        (windows.general_cosine(3, a=[0.4, 0.3, 0.2]), [0.3, 0.9, 0.3]),
        (windows.general_hamming(1), [1.0]),
        (windows.hann(0), []),
    ],
)
def test_windows(window, expected) -> None:
    np.testing.assert_allclose(window.numpy(), np.float32(expected), atol=2e-6)


def test_windows_refuse() -> None:
    for error, call in (
        (ValueError, lambda: windows.hann(-1)),
        (ValueError, lambda: windows.gaussian(3, std=0)),
        (ValueError, lambda: windows.exponential(3, center=1.0)),
        (TypeError, lambda: windows.general_cosine(3, a=1)),
        (RuntimeError, lambda: windows.cosine(3, dtype=T.int64)),
    ):
        with pytest.raises(error):
            call()


def test_make_tensor() -> None:
    x = make_tensor((50,), dtype=T.int64, low=-2, high=2, exclude_zero=True)
    assert x.min() == -2 and x.max() == 1 and not (x == 0).any()
    y = make_tensor(4, 3, dtype=T.bfloat16, noncontiguous=True, requires_grad=True)
    assert y.shape == (4, 3) and not y.is_contiguous() and y.requires_grad and y.is_leaf
    assert make_tensor((), dtype=T.bool).dtype is T.bool and make_tensor(2, dtype=T.complex64).is_complex()
    for k in ({"low": 2, "high": 1}, {"low": float("nan")}, {"requires_grad": True, "dtype": T.int32}):
        with pytest.raises(ValueError):
            make_tensor(3, **{"dtype": T.float32, **k})


def test_storage_and_formats() -> None:
    x = T.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    s = x.t().storage()
    assert s.tolist() == [0, 1, 2, 3, 4, 5] and len(s) == 6 and s[2] == 2.0 and s.dtype is T.float32
    assert s == x.storage() and s.data_ptr() == x.untyped_storage().data_ptr() and s.nbytes() == 24
    s[0] = 7
    assert x[0, 0] == 7 and x.t()._is_view() and not x._is_view()
    assert isinstance(T.channels_last, T.memory_format) and isinstance(x.layout, T.layout)
    assert repr(T.channels_last) == "tensorlib.channels_last" and x.layout is T.strided
    assert reversed(x).tolist() == x.flip(0).tolist()
    with pytest.raises(RuntimeError, match="only supports Tensor or scalar"):
        _ = "a" in x
