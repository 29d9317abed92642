"""Matrix products: what their declarations do not show."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib._array import empty
from tensorlib._device import TARGETS, device
from tensorlib.errors import DtypeError, ShapeError
from tensorlib.kernels import matmul as kernels
from tensorlib.nn import functional as F
from tensorlib.ops import linalg
from tensorlib.runtime import hardware


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def leaf(*shape: int, seed: int = 0) -> Any:
    return tl.from_numpy(numbers(*shape, seed=seed)).requires_grad_()


def test_the_gradient_of_a_weight_has_its_layout() -> None:
    x, w, b = leaf(2, 5, 3), leaf(7, 3, seed=1), leaf(7, seed=2)
    g = numbers(2, 5, 7, seed=3)
    F.linear(x, w, b).backward(tl.from_numpy(g))
    rows, grads = x.detach().numpy().reshape(-1, 3), g.reshape(-1, 7)
    np.testing.assert_allclose(w.grad.numpy(), grads.T @ rows, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(b.grad.numpy(), grads.sum(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(x.grad.numpy(), g @ w.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert w.grad.is_contiguous() and x.grad.is_contiguous()


def test_operands_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    product = np.matmul
    monkeypatch.setattr(linalg.np, "matmul", lambda a, b, **kw: seen.append((a, b)) or product(a, b, **kw))
    a, b = numbers(2, 4, 3, 5).swapaxes(1, 2), numbers(2, 3, 6, 5, seed=1)
    tl.matmul(tl.from_numpy(a), tl.from_numpy(b).mT)
    tl.matmul(tl.from_numpy(numbers(2, 4, 5)), tl.from_numpy(numbers(6, 5, seed=1)).mT)
    assert np.shares_memory(seen[0][0], a) and np.shares_memory(seen[0][1], b)
    assert seen[1][0].shape == (8, 5)  # one product for a matrix with leading dimensions


def test_a_number_is_no_operand() -> None:
    x = tl.ones(3, 3)
    for call in (lambda: x @ 2.0, lambda: 2.0 @ x, lambda: tl.matmul(x, 2.0), lambda: F.linear(x, 2.0)):
        with pytest.raises(TypeError, match="Tensor"):
            call()


def test_addmm_with_beta_zero_ignores_its_input() -> None:
    nan = tl.full((2, 2), float("nan"))
    a, b = tl.ones(2, 3), tl.ones(3, 2)
    assert tl.addmm(nan, a, b, beta=0, alpha=2).tolist() == [[6.0, 6.0], [6.0, 6.0]]
    assert nan.addmm_(a, b, beta=0).tolist() == [[3.0, 3.0], [3.0, 3.0]]


def test_products_into_a_given_tensor() -> None:
    a, b = tl.from_numpy(numbers(3, 4)), tl.from_numpy(numbers(4, 2, seed=1))
    for call in (tl.mm, tl.matmul):
        out = tl.empty(3, 2)
        assert call(a, b, out=out) is out
        np.testing.assert_array_equal(out.numpy(), (a @ b).numpy())
    out = tl.empty(3, 2)
    assert tl.addmm(tl.ones(2), a, b, beta=2, alpha=0.5, out=out) is out
    np.testing.assert_allclose(out.numpy(), 2 + 0.5 * (a.numpy() @ b.numpy()), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda x: tl.mm(x, tl.ones(4)), ShapeError, "self must be a matrix"),
        (lambda x: tl.mm(x, x), ShapeError, r"mat1 and mat2 shapes cannot be multiplied \(3x4 and 3x4\)"),
        (lambda x: tl.bmm(x, x), ShapeError, "batch1 must be a 3D tensor"),
        (lambda x: tl.bmm(tl.ones(2, 3, 4), tl.ones(3, 4, 4)), ShapeError, r"to be: \[2, 4\] but got: \[3, 4\]"),
        (lambda x: tl.mv(x, tl.ones(3)), ShapeError, r"size mismatch, got input \(3\), mat \(3x4\), vec \(3\)"),
        (lambda x: tl.dot(x, x), ShapeError, "1D tensors expected, but got 2D and 2D"),
        (lambda x: tl.dot(tl.ones(3), tl.ones(4)), ShapeError, "inconsistent tensor size"),
        (lambda x: tl.outer(x, x), ShapeError, "Expected 1-D argument self, but got 2-D"),
        (lambda x: tl.addmm(tl.ones(5), x, x.mT), ShapeError, "expanded size of the tensor must match"),
        (lambda x: tl.addmm(tl.ones(3).double(), x, x.mT), DtypeError, "must have the same dtype"),
        (lambda x: x @ x.mT.double(), DtypeError, "one dtype"),
        (lambda x: x.bool() @ x.mT.bool(), DtypeError, "not implemented for 'Bool'"),
        (lambda x: x @ tl.ones(3, 4), ShapeError, r"did you mean other\.mT\?"),
    ],
)
def test_errors_say_what_came(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call(tl.ones(3, 4))


@pytest.mark.parametrize(
    ("equation", "shapes", "match"),
    [
        ("ij,jk->ik", [(2, 3), (4, 5)], "subscript j has size 4 for operand 1 which does not broadcast"),
        ("ij,jk->ik", [(2, 3)], "fewer operands were provided"),
        ("ij", [(2, 3), (2, 3)], "more operands were provided"),
        ("ijk", [(2, 3)], "does not match the number of dimensions"),
        ("ijk...", [(2, 3)], "is more than the number of dimensions"),
        ("ij->il", [(2, 3)], "output subscript l does not appear"),
        ("ii->i", [(2, 3)], "is repeated for operand 0 but the sizes don't match, 3 != 2"),
        ("i1->i", [(2, 3)], "invalid subscript given at index 1"),
        ("ij->ii", [(2, 3)], "output subscript i appears more than once"),
        ("i...j...", [(2, 3)], "an ellipsis was already found"),
        ("i.j", [(2, 3)], "not part of any ellipsis"),
    ],
)
def test_einsum_errors(equation: str, shapes: list[tuple[int, ...]], match: str) -> None:
    with pytest.raises(ShapeError, match=match):
        tl.einsum(equation, *[tl.ones(*s) for s in shapes])


def test_einsum_identities() -> None:
    x, y = tl.from_numpy(numbers(3, 4)), tl.from_numpy(numbers(4, 5, seed=1))
    np.testing.assert_allclose(tl.einsum("bA", x).numpy(), x.numpy().T)  # capitals sort first
    np.testing.assert_allclose(tl.einsum(x, [0, 1], y, [1, 2]).numpy(), (x @ y).numpy(), rtol=1e-6)
    np.testing.assert_allclose(tl.einsum(x, [0, ...], [..., 0]).numpy(), x.numpy().T)
    np.testing.assert_allclose(tl.einsum("ij,jk->ik", [x, y]).numpy(), (x @ y).numpy(), rtol=1e-6)
    assert tl.einsum("i->", tl.ones(3).bool()).item() == 3
    assert tl.einsum("i,j->ij", tl.ones(2).int(), tl.ones(3)).dtype == tl.float32


def test_einsum_of_many_operands_contracts_in_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(2, 30), (30, 3), (3, 40), (40, 2)]
    xs = [numbers(*s, seed=i) for i, s in enumerate(shapes)]
    sizes: list[int] = []
    contract = linalg._contract

    def watched(*args: Any) -> Any:
        out = contract(*args)
        sizes.append(out[0].numel())
        return out

    monkeypatch.setattr(linalg, "_contract", watched)
    got = tl.einsum("ab,bc,cd,de->ae", *map(tl.from_numpy, xs))
    np.testing.assert_allclose(got.numpy(), np.linalg.multi_dot(xs), rtol=1e-4, atol=1e-4)
    assert max(sizes) <= 6  # (2, 3), (3, 2), (2, 2): never one of the long dimensions


def test_einsum_without_its_extra_goes_from_left_to_right(monkeypatch: pytest.MonkeyPatch) -> None:
    xs = [numbers(2, 3), numbers(3, 4, seed=1), numbers(4, 5, seed=2), numbers(5, 2, seed=3)]
    with_extra = tl.einsum("ab,bc,cd,de->ae", *map(tl.from_numpy, xs))
    monkeypatch.setitem(sys.modules, "opt_einsum", None)
    without = tl.einsum("ab,bc,cd,de->ae", *map(tl.from_numpy, xs))
    np.testing.assert_allclose(without.numpy(), np.linalg.multi_dot(xs), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(without.numpy(), with_extra.numpy(), rtol=1e-4, atol=1e-5)


def test_programs_are_ordered_in_groups_of_tiles() -> None:
    """More than eight rows of tiles, the last group not full, in the interpreter."""
    a, b = numbers(600, 5), numbers(5, 70, seed=1)
    got = (tl.from_numpy(a).to("interpret") @ tl.from_numpy(b).to("interpret")).cpu().numpy()
    np.testing.assert_allclose(got, a @ b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int8"])
def test_tiles_fit_what_tl_dot_takes(target: str, dtype: str) -> None:
    for m in (1, 17, 100, 5000):
        for n in (1, 40, 5000):
            kind = np.dtype(dtype)
            how = kernels.precision(kind, device(target))
            t = kernels.MATMUL.choose(kernels.Problem(m, n, 333, 1, kind, how, "rr"), device(target))
            if "BLOCK_M" not in t.constants:
                assert min(m, n) == 1
                continue
            tile = [t["BLOCK_M"], t["BLOCK_N"], t["BLOCK_K"]]
            assert all(x >= 16 and x & (x - 1) == 0 for x in tile)
            stored = (tile[0] + tile[1]) * tile[2] * kind.itemsize * max(t.num_stages - 1, 1)
            assert stored <= hardware.nominal(target).shared


@pytest.mark.parametrize("target", ["sm_90", "gfx942", "gfx1100"])
def test_the_tile_of_large_products_compiles(target: str) -> None:
    at = device(target)
    a, b, out = (empty((2048, 2048), np.float16, at) for _ in range(3))
    kernels.product(out, a, b.T)
