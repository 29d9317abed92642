"""Convolution beyond what its declaration says: every way through NumPy, PyTorch's numbers, determinism."""

from functools import partial
from itertools import product

import numpy as np
import pytest

import tensorlib as tl
from tensorlib._device import TARGETS
from tensorlib.ops import _convolution_numpy as host
from tensorlib.runtime.launch import observers

CASES = [  # input, weight, stride, padding, dilation, groups
    ((8, 2, 6, 9), (4, 2, 3, 2), (1, 1), (1, 2), (1, 1), 1),  # rows
    ((70, 1, 3, 9), (2, 1, 2, 3), (2, 1), (0, 1), (1, 2), 1),  # rows, images last
    ((4, 4, 7, 40), (6, 2, 5, 3), (3, 2), (2, 1), (1, 3), 2),  # rows of strides longer than taps
    ((2, 3, 5, 5), (2, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1),  # patches: few columns
    ((40, 2, 9, 9), (2, 1, 2, 3), (2, 1), (2, 0), (3, 2), 2),  # patches: dilated rows
    ((2, 4, 3, 5), (6, 2, 1, 1), (1, 1), (0, 0), (1, 1), 2),  # neither: a product
    ((5, 2, 8, 30), (2, 2, 1, 1), (2, 3), (0, 0), (1, 1), 1),  # what strides leave out
    ((8, 2, 9, 12), (4, 2, 3, 2), (1, 1), (2, 1), (2, 1), 1),  # dilated rows: interleaved images
    ((9, 2, 4, 12), (2, 2, 2, 2), (1, 1), (4, 3), (5, 2), 1),  # the same, some of them nothing but padding
    ((2, 3, 6, 7), (3, 1, 3, 2), (1, 1), (2, 1), (2, 1), 3),  # a kernel for each channel
    ((3, 40, 30, 40), (40, 1, 2, 3), (1, 1), (3, 0), (1, 1), 40),  # the same in pieces, with more padding than reach
]


def direct(x, weight, stride, padding, dilation, groups):
    """The definition: one kernel element at a time."""
    (sh, sw), (dh, dw) = stride, dilation
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    n, _, h, w = x.shape
    out, per_group, kh, kw = weight.shape
    oh, ow = (h - dh * (kh - 1) - 1) // sh + 1, (w - dw * (kw - 1) - 1) // sw + 1
    total = np.zeros((n, groups, out // groups, oh, ow))
    for i, j in product(range(kh), range(kw)):
        part = x[:, :, i * dh :: sh, j * dw :: sw][:, :, :oh, :ow].reshape(n, groups, per_group, oh, ow)
        total += np.einsum("ngchw,goc->ngohw", part, weight[:, :, i, j].reshape(groups, -1, per_group))
    return total.reshape(n, out, oh, ow)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_way_is_the_definition_and_its_adjoint(case):
    x_shape, w_shape, *rest = case
    rng = np.random.default_rng(0)
    x, w, v, u = (rng.standard_normal(s) for s in (x_shape, w_shape, x_shape, w_shape))
    tx, tw = tl.tensor(x, requires_grad=True), tl.tensor(w, requires_grad=True)
    y = tl.conv2d(tx, tw, None, *rest)
    want = direct(x, w, *rest)
    np.testing.assert_allclose(y.detach().numpy(), want, rtol=1e-12, atol=1e-12)
    g = rng.standard_normal(want.shape)
    gx, gw = tl.autograd.grad(y, [tx, tw], tl.tensor(g))
    # <g, conv(v, w)> = <gx, v> and <g, conv(x, u)> = <gw, u>: the convolution is linear in each of the two.
    np.testing.assert_allclose((gx.numpy() * v).sum(), (g * direct(v, w, *rest)).sum(), rtol=1e-10)
    np.testing.assert_allclose((gw.numpy() * u).sum(), (g * direct(x, u, *rest)).sum(), rtol=1e-10)


def test_the_cases_take_every_way():
    plans = [host._plan(host.geometry(*case)) for case in CASES]
    ways = {(p.by_rows, p.by_rows and p.images_last, p.pointwise) for p in plans}
    assert ways == {(True, False, False), (True, True, False), (False, False, False), (False, False, True)}
    sizes = [host.geometry(*case) for case in CASES]
    assert sum(host._dilated(s) is not None for s in sizes) == 2
    assert [len(list(host._parts(s, host._flat(s)))) > 1 for s in sizes if host._depthwise(s)] == [False, True]


def test_what_pytorch_gives():
    x = tl.tensor([[[[-2.0, -1, 0, 1], [2, 3, -3, -2], [-1, 0, 1, 2], [3, -3, -2, -1]]]], requires_grad=True)
    w = tl.tensor([[[[1.0, -2], [3, 0.5]]], [[[0.0, 1], [-1, 2]]]], requires_grad=True)
    y = tl.conv2d(x, w, tl.tensor([0.5, -1.0]), stride=(2, 1), padding=1, dilation=(1, 2))
    assert y.tolist() == [[[[0, -5.5, -2, 0.5], [-5.5, 6, 8.5, 0.5], [6.5, 7.5, -0.5, -1.5]],
                           [[-3, 1, 2, -1], [2, -1, 1, -2], [-4, -3, -2, -1]]]]  # fmt: skip
    gx, gw = tl.autograd.grad(y, [x, w], tl.arange(1.0, 25.0).reshape(y.shape))
    assert gx.tolist() == [[[[-8, 20.5, 25, 31.5], [6, 14, 14, 5], [0, 38.5, 43, 41.5], [10, 14, 14, 1]]]]
    assert gw.tolist() == [[[[-18, -75], [-5, 22]]], [[[-18, -171], [-41, 58]]]]


def test_a_transposed_input_is_not_written_and_gives_the_same():
    x = tl.tensor(np.random.default_rng(1).standard_normal((8, 9, 3, 2), dtype=np.float32)).permute(3, 2, 1, 0)
    w = tl.ones(2, 3, 3, 3)
    before = x.clone()
    assert tl.equal(tl.conv2d(x, w, padding=1), tl.conv2d(x.contiguous(), w, padding=1))
    assert tl.equal(x, before)


def test_half_types_accumulate_in_float32():
    x, w = tl.ones(1, 300, 2, 2, dtype=tl.bfloat16), tl.ones(1, 300, 2, 2, dtype=tl.bfloat16)
    assert tl.conv2d(x, w).item() == 1200  # 256 + 1 is 256 in bfloat16


def test_long_weight_gradients_are_summed_in_parts_in_order():
    rng = np.random.default_rng(2)
    x, g = (tl.tensor(rng.standard_normal(s, dtype=np.float32)) for s in ((9, 1, 9, 9), (9, 2, 8, 8)))
    grads = []
    for device in ("cpu", "interpret", "interpret"):
        w = tl.zeros(2, 1, 2, 2, requires_grad=True, device=device)
        grads.append(tl.autograd.grad(tl.conv2d(x.to(device), w), w, g.to(device))[0].cpu().numpy())
    np.testing.assert_allclose(grads[1], grads[0], rtol=1e-4, atol=1e-4)
    assert grads[1].tobytes() == grads[2].tobytes()


@pytest.mark.parametrize(("target", "dtype"), list(zip(TARGETS, [tl.float32, tl.bfloat16, tl.float16] * 3)))
def test_the_largest_tiles_compile(target, dtype):
    empty = partial(tl.empty, dtype=dtype, device=target)
    x, w = empty(32, 64, 56, 56).requires_grad_(), empty(64, 64, 3, 3).requires_grad_()
    launches = []
    observers.append(launches.append)
    try:
        tl.autograd.grad(tl.conv2d(x, w, padding=1), [x, w], empty(32, 64, 56, 56))
    finally:
        observers.remove(launches.append)
    tiles = [launch.constants["BLOCK_M"] for launch in launches if launch.kernel.__name__.startswith("channels")]
    assert len(tiles) == 3 and min(tiles) >= 32


def test_no_channels_give_the_bias():
    assert tl.conv2d(tl.ones(1, 0, 3, 3), tl.ones(2, 0, 2, 2), tl.tensor([1.0, 2.0]))[0, :, 0, 0].tolist() == [1, 2]


@pytest.mark.parametrize("dims", [1, 3])
def test_dims_of_one_element_do_not_matter(dims):
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((2, 4, 7, 9)), rng.standard_normal((6, 2, 3, 1) if dims == 1 else (6, 2, 3, 2))
    x = x[..., :1] if dims == 1 else x
    want = tl.conv2d(tl.tensor(x), tl.tensor(w), None, (2, 1), (1, 0), 1, 2)
    at = -1 if dims == 1 else 2
    x, w = (np.squeeze(a, -1) if dims == 1 else np.expand_dims(a, 2) for a in (x, w))
    steps = ((2,), (1,)) if dims == 1 else ((5, 2, 1), (0, 1, 0))
    got = (tl.conv1d if dims == 1 else tl.conv3d)(tl.tensor(x), tl.tensor(w), None, *steps, 1, 2)
    np.testing.assert_allclose(got.unsqueeze(-1).numpy() if dims == 1 else got.squeeze(at).numpy(), want.numpy(), 1e-12)


@pytest.mark.parametrize("device", ["cpu", "interpret"])
def test_three_dims_are_the_sum_of_their_planes(device):
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal((2, 2, 6, 5, 4)), rng.standard_normal((3, 2, 2, 3, 2))
    got = tl.conv3d(tl.tensor(x, device=device), tl.tensor(w, device=device), None, (2, 1, 1), (1, 1, 0), (3, 1, 1))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0), (0, 0)))
    planes = {z: padded[:, :, z] for z in range(8)}
    want = [sum(direct(planes[z + 3 * k], w[:, :, k], (1, 1), (1, 0), (1, 1), 1) for k in (0, 1)) for z in (0, 2, 4)]
    np.testing.assert_allclose(got.cpu().numpy(), np.stack(want, 2), rtol=1e-12, atol=1e-12)


def test_a_transposed_convolution_is_the_adjoint_and_takes_every_output_padding():
    rng = np.random.default_rng(5)
    for padding in (0, 1, 2):  # 2: below the dilation, beyond the stride
        x, w = rng.standard_normal((2, 3, 4)), rng.standard_normal((3, 2, 3))
        y = tl.conv_transpose1d(tl.tensor(x), tl.tensor(w), None, 2, 1, padding, 1, 3)
        assert y.shape == (2, 2, 3 * 2 - 2 + 3 * 2 + padding + 1)
        v = rng.standard_normal(y.shape)
        back = tl.conv1d(tl.tensor(v), tl.tensor(w), None, 2, 1, 3).numpy()[..., :4]
        np.testing.assert_allclose((y.numpy() * v).sum(), (x * back).sum(), rtol=1e-12)


@pytest.mark.parametrize("groups", [1, 3])
def test_gradients_of_gradients_of_the_transposed_convolution(groups):
    rng = np.random.default_rng(6)
    x, w, b = (tl.tensor(rng.standard_normal(s)).requires_grad_() for s in ((2, 3, 2, 3), (3, 2, 2, 2), (2 * groups,)))
    call = partial(tl.conv_transpose2d, stride=(2, 1), padding=(0, 1), output_padding=(1, 0), groups=groups, dilation=2)
    assert tl.autograd.gradcheck(call, (x, w, b)) and tl.autograd.gradgradcheck(call, (x, w, b))


def test_complex_numbers_and_their_gradients():
    rng = np.random.default_rng(7)
    x, w = (tl.tensor(rng.standard_normal((*s, 2)).view(np.complex128)[..., 0]) for s in ((1, 2, 4), (3, 2, 2)))
    x, w = x.requires_grad_(), w.requires_grad_()
    assert tl.autograd.gradcheck(tl.conv1d, (x, w)) and tl.autograd.gradgradcheck(tl.conv1d, (x, w))


def test_more_groups_than_a_grid_has_rows():
    groups = 70_000  # the second dim of a CUDA grid ends at 65,535
    x, w = tl.empty(1, groups, 1, 1, device="sm_90"), tl.empty(groups, 1, 1, 1, device="sm_90")
    grids = []
    observers.append(lambda launch: grids.append(launch.grid))
    try:
        tl.conv2d(x, w, groups=groups)
    finally:
        observers.pop()
    assert all(n < 1 << 16 for grid in grids for n in grid[1:])


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        (((2, 3, 4), (2, 3, 2)), {}, RuntimeError, "expected input.* to have 2 channels, but got 3"),
        (((2, 2, 4), (2, 3, 2)), {"output_padding": 1}, RuntimeError, "output padding must be smaller than either"),
        (((2, 2, 4), (2, 3, 2), (2,)), {}, RuntimeError, "1-dimensional with 3 elements"),
        (((2, 2, 1), (2, 3, 1)), {"padding": 1}, RuntimeError, "Output size is too small"),
        (((2, 2, 4, 4), (2, 3, 2)), {}, RuntimeError, r"Expected 2D \(unbatched\) or 3D"),
        (((2, 2, 4), (2, 3, 2)), {"stride": 0}, RuntimeError, "non-positive stride"),
    ],
)
def test_what_a_transposed_convolution_refuses(arguments, options, error, match):
    with pytest.raises(error, match=f"conv_transpose1d: .*{match}"):
        tl.conv_transpose1d(*map(tl.ones, arguments), **options)
