"""Blocks of rows, reductions and convolutions: every GPU's choices compute the same, and fit what they are for."""

from __future__ import annotations

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.kernels import convolution, normalization, pointwise, reduction, rows, softmax
from tensorlib.runtime import launch
from tensorlib.runtime.autotune import Tunable
from tensorlib.runtime.hardware import nominal

pytest.importorskip("llvmlite")

F = tl.nn.functional
TARGETS = ("sm_80", "sm_90", "sm_100", "sm_120", "gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201")
ROWS = (softmax.SOFTMAX, softmax.SOFTMAX_GRAD, normalization.LAYER_NORM, normalization.LAYER_NORM_GRAD)


@pytest.fixture
def of_a_gpu(monkeypatch):
    """Has the native engine run what a GPU would be given."""

    def choose(target: str, *tunables: Tunable) -> None:
        for made in tunables:
            monkeypatch.setattr(made, "choose", lambda p, *_, made=made: made.ranking(p, nominal(target))[0][0])

    return choose


@pytest.fixture
def launched():
    """The constants of what was launched, by the kernel's name."""
    found: dict[str, list[dict]] = {}

    def note(record):
        found.setdefault(record.kernel.__name__, []).append(record.constants)

    launch.observers.append(note)
    yield found
    launch.observers.remove(note)


def on(place: str, *arrays: np.ndarray) -> list[tl.Tensor]:
    made = (tl.from_numpy(a.astype(np.float64 if place == "cpu" else np.float32)).to(place) for a in arrays)
    return [t.requires_grad_() for t in made]


def near(a: tl.Tensor, b: tl.Tensor, bound: float = 1e-5) -> None:
    x, y = a.detach().cpu().numpy().astype(np.float64), b.detach().cpu().numpy()
    assert x.shape == y.shape
    assert np.linalg.norm(x - y) <= bound * (np.linalg.norm(y) + 1e-9)


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
@pytest.mark.parametrize("shape", [(3, 1000), (37, 72), (2, 16384), (1, 50257), (2, 50264)])
def test_a_gpu_s_blocks_of_rows_compute_the_same(of_a_gpu, target, shape):
    of_a_gpu(target, *ROWS)
    rng = np.random.default_rng(3)
    x, g = rng.standard_normal(shape) * 3, rng.standard_normal(shape)
    w, b = rng.standard_normal(shape[1]), rng.standard_normal(shape[1])
    for call in (
        lambda x, w, b: F.softmax(x, -1),
        lambda x, w, b: F.log_softmax(x, -1),
        lambda x, w, b: F.layer_norm(x, shape[1:], w, b),
        lambda x, w, b: F.rms_norm(x, shape[1:], w, 1e-6),
    ):
        results = []
        for place in ("native", "cpu"):
            inputs = on(place, x, w, b)
            out = call(*inputs)
            out.backward(on(place, g)[0].detach())
            results.append([out, *(t.grad for t in inputs if t.grad is not None)])
        for found, expected in zip(*results, strict=True):
            near(found, expected)


@pytest.mark.parametrize("target", TARGETS)
def test_rows_are_in_one_block_while_registers_hold_them(target):
    gpu = nominal(target)
    for dtype, itemsize in ((np.dtype(np.float32), 2), (np.dtype(np.float32), 4), (np.dtype(np.float64), 8)):
        for made in ROWS:
            for n in (1, 3, 100, 1000, 8192, 16384, 32768, 262144):
                problem = rows.Rows(4096, n, itemsize, dtype, False, False)
                kept, _ = made.ranking(problem, gpu)
                assert made.candidates(problem, gpu) == made.candidates(made.key(problem), gpu)
                assert all(c.num_warps * gpu.warp_size <= 1024 for c in kept)
                if n <= 8192 and itemsize < 8:
                    assert kept[0]["ONE"]
                if n >= 1 << 17:
                    assert not kept[0]["ONE"]


@pytest.mark.parametrize("target", TARGETS)
def test_reductions_and_convolutions_have_a_block_for_every_size(target):
    gpu = nominal(target)
    for dtype in map(np.dtype, (np.float16, np.float32, np.float64)):
        for n in (1, 3, 16, 100, 1000, 16500):
            for made, problem in (
                (reduction.REDUCE, reduction.Problem(n, 4096, True, 1, 1, dtype.itemsize, dtype)),
                (reduction.REDUCE, reduction.Problem(n, 777, False, 3, 1, dtype.itemsize, dtype)),
                (reduction.REDUCE, reduction.Problem(1, 1 << 24, True, 2, 1, dtype.itemsize, dtype)),
                (convolution.CONVOLUTION_CHANNELS, convolution.Problem(n, 4096, 60, 1, dtype, "ieee", 9)),
                (convolution.CONVOLUTION_CHANNELS_WEIGHT, convolution.Problem(n, 60, 4096, 1, dtype, "ieee", 9)),
            ):
                kept, _ = made.ranking(problem, gpu)
                assert all(made.judged(c, problem, gpu)[0] is None for c in kept)
                assert made.candidates(problem, gpu) == made.candidates(made.key(problem), gpu)


@pytest.mark.parametrize("target", ["sm_90", "gfx1100"])
@pytest.mark.parametrize(
    ("shape", "dims"), [((1000003,), (0,)), ((4, 50000), (1,)), ((528, 768), (0,)), ((60, 1000), (0,)),
                        ((8, 24, 30, 30), (0, 2, 3)), ((3000, 40), (1,))]
)  # fmt: skip
def test_a_gpu_s_blocks_of_reductions_compute_the_same(of_a_gpu, monkeypatch, target, shape, dims):
    of_a_gpu(target, reduction.REDUCE)
    monkeypatch.setattr(reduction, "hardware", lambda device: nominal(target))
    x = np.random.default_rng(5).standard_normal(shape) + 3
    (a,), (b,) = on("native", x), on("cpu", x)
    near(a.sum(dims), b.sum(dims))
    near(a.var(dims), b.var(dims), 1e-4)
    near(a.logsumexp(dims), b.logsumexp(dims))
    if len(dims) == 1:
        x32 = x.astype(np.float32)
        x32.reshape(-1)[7::11] = 9.0  # ties: the first counts
        axis = dims[0]
        np.testing.assert_array_equal(tl.from_numpy(x32).to("native").argmax(axis).cpu().numpy(), x32.argmax(axis))
        x32.reshape(-1)[1::101] = np.nan
        np.testing.assert_array_equal(tl.from_numpy(x32).to("native").argmin(axis).cpu().numpy(), x32.argmin(axis))


def test_the_last_elements_of_an_odd_number_are_taken_apart(launched):
    for n in (1, 15, 16, 1000, 1003, 4099):
        x = np.arange(n, dtype=np.float32)
        np.testing.assert_array_equal((tl.from_numpy(x).to("native") * 2 + 1).cpu().numpy(), x * 2 + 1)
    assert {c["TAIL"] for c in launched["pointwise_kernel"]} == {False, True}


@pytest.mark.parametrize("place", ["native", "interpret"])
def test_tiles_of_strided_arrays(place, launched):
    """Broadcasting and transposition by tiles: each input is read as often as it varies, and in its own order."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((70, 40)).astype(np.float32)
    row, column = rng.standard_normal(40).astype(np.float32), rng.standard_normal((70, 1)).astype(np.float32)
    at = [tl.from_numpy(a).to(place) for a in (x, row, column)]
    np.testing.assert_array_equal((at[0] + at[1]).cpu().numpy(), x + row)
    np.testing.assert_array_equal((at[0] * at[2]).cpu().numpy(), x * column)
    np.testing.assert_array_equal((at[1] - at[2]).cpu().numpy(), row - column)
    np.testing.assert_array_equal(at[0].T.contiguous().cpu().numpy(), x.T)
    image = rng.standard_normal((2, 3, 9, 33)).astype(np.float32)
    last = tl.from_numpy(image).to(place).permute(0, 2, 3, 1).contiguous()
    np.testing.assert_array_equal(last.cpu().numpy(), image.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(last.permute(0, 3, 1, 2).contiguous().cpu().numpy(), image)
    constants = launched["pointwise_tile_kernel"]
    assert {1, 2, 3} <= {v & 3 for c in constants for v in c["VARIES"]}
    assert {8, 1} <= {c["UNIT"] for c in constants}
    at[0].T.add_(1)  # neighbours of the output first: nothing is turned twice
    np.testing.assert_array_equal(at[0].cpu().numpy(), x + 1)


def test_pointwise_blocks_grow_with_narrow_elements(launched):
    n = pointwise.MANY
    for dtype, block in ((tl.float32, 1024), (tl.bfloat16, 2048), (tl.bool, 2048)):
        tl.zeros(n, dtype=dtype, device="native").logical_not()
        assert launched["pointwise_kernel"][-1]["BLOCK"] == (2048 if dtype is tl.float32 else block)  # bool results
        tl.zeros(n, dtype=tl.float32, device="native").exp()
        assert launched["pointwise_kernel"][-1]["BLOCK"] == 1024


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("x", "w", "given", "kernels"),
    [((2, 24, 9, 10), (20, 24, 3, 3), {"padding": 1}, {"channels_kernel", "channels_weight_kernel"}),
     ((2, 32, 8, 8), (16, 16, 2, 3), {"stride": (2, 1), "groups": 2}, {"channels_kernel", "channels_weight_kernel"}),
     ((3, 16, 7, 7), (18, 16, 1, 1), {}, {"channels_kernel", "channels_weight_kernel"}),
     ((2, 6, 11, 9), (12, 1, 3, 2), {"groups": 6, "dilation": 2}, {"depthwise_kernel", "depthwise_weight_kernel"}),
     ((2, 5, 40), (5, 1, 17), {"groups": 5, "padding": 8}, {"depthwise_kernel", "depthwise_weight_kernel"}),
     ((1, 16, 5, 6, 4), (17, 16, 2, 1, 3), {"padding": (1, 0, 1)}, {"channels_kernel", "channels_weight_kernel"})],
)  # fmt: skip
def test_convolutions_by_channels_and_depthwise(launched, x, w, given, kernels, last):
    rng = np.random.default_rng(2)
    arrays = [rng.standard_normal(s) for s in (x, w, w[:1])]
    convolve = getattr(F, f"conv{len(x) - 2}d")
    results = []
    for place in ("native", "cpu"):
        inputs = on(place, *arrays)
        source = inputs[0].movedim(1, -1).contiguous().movedim(-1, 1) if last else inputs[0]
        out = convolve(source, inputs[1], inputs[2], **given)
        out.backward(on(place, np.random.default_rng(4).standard_normal(out.shape))[0].detach())
        results.append([out, *(t.grad for t in inputs)])
    for found, expected in zip(*results, strict=True):
        near(found, expected)
    assert kernels <= launched.keys()
