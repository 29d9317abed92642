"""Resizing, sampling, padding and blocks: what holds whatever the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlib as tl

F = tl.nn.functional


def image(*shape: int) -> Any:
    return tl.from_numpy(np.random.default_rng(3).standard_normal(shape))


@pytest.mark.parametrize("name", ["upsample", "upsample_nearest", "upsample_bilinear"])
def test_old_names_warn_and_interpolate(name: str) -> None:
    x = image(1, 2, 3, 4)
    mode, corners = ("bilinear", True) if name.endswith("bilinear") else ("nearest", None)
    with pytest.warns(UserWarning, match="deprecated"):
        old = getattr(F, name)(x, scale_factor=2)
    assert tl.equal(old, F.interpolate(x, scale_factor=2, mode=mode, align_corners=corners))


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "area", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(7, 3), (4, 11)])
def test_resizing_keeps_constants_and_its_gradient_is_its_adjoint(mode: str, size: tuple[int, int]) -> None:
    constant = tl.full((1, 1, 5, 6), 2.5, dtype=tl.float64)
    np.testing.assert_allclose(F.interpolate(constant, size, mode=mode).numpy(), 2.5, rtol=1e-6)
    x, y = image(2, 1, 5, 6).requires_grad_(), image(2, 1, *size)
    out = F.interpolate(x, size, mode=mode)
    (g,) = tl.autograd.grad(out, x, y)
    np.testing.assert_allclose((out.detach() * y).sum().item(), (x.detach() * g).sum().item(), rtol=1e-10)


def test_a_bad_pixel_spoils_only_its_neighbours() -> None:
    x = np.zeros((1, 1, 1, 100))
    x[0, 0, 0, 50] = np.nan
    out = F.interpolate(tl.from_numpy(x), size=(1, 210), mode="bilinear").numpy()
    assert 2 <= np.isnan(out).sum() <= 6


def test_the_identity_grid_gives_the_image() -> None:
    x = image(2, 3, 4, 5)
    theta = tl.eye(2, 3, dtype=tl.float64).expand(2, 2, 3)
    for corners in (True, False):
        grid = F.affine_grid(theta, [2, 3, 4, 5], align_corners=corners)
        for mode in ("bilinear", "nearest", "bicubic"):
            np.testing.assert_allclose(
                F.grid_sample(x, grid, mode, align_corners=corners).numpy(), x.numpy(), rtol=1e-9, atol=1e-9
            )


def test_fold_counts_the_blocks_that_unfold_made() -> None:
    x = image(1, 2, 6, 7)
    ones = tl.ones_like(x)
    counts = F.fold(F.unfold(ones, 3, padding=1), (6, 7), 3, padding=1)
    again = F.fold(F.unfold(x, 3, padding=1), (6, 7), 3, padding=1)
    np.testing.assert_allclose((again / counts).numpy(), x.numpy(), rtol=1e-12)


def test_shuffles_are_undone() -> None:
    x = image(2, 8, 3, 4)
    assert tl.equal(F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2), x)
    assert tl.equal(F.channel_shuffle(F.channel_shuffle(x, 2), 4), x)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_agrees_with_numpy(mode: str) -> None:
    x = image(2, 3, 4, 5)
    names = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    want = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 2), (3, 0)), names[mode])  # type: ignore[call-overload]
    np.testing.assert_array_equal(F.pad(x, (3, 0, 1, 2), mode).numpy(), want)
    if mode != "circular":  # what is mirrored is what was there before the cut
        cut = np.pad(x.numpy()[0], ((0, 0), (0, 0), (2, 0)), names[mode])[..., :-2]  # type: ignore[call-overload]
        np.testing.assert_array_equal(F.pad(x[0], (2, -2), mode).numpy(), cut)
