"""Complex numbers across operators: what they refuse, promotion, views of the parts, the direction of gradients."""

from __future__ import annotations

import numpy as np
import pytest

import tensorlib
from tensorlib.autograd import gradcheck, gradgradcheck
from tensorlib.errors import AutogradError, DtypeError


def numbers(*shape: int, seed: int = 0) -> tensorlib.Tensor:
    rng = np.random.default_rng(seed)
    return tensorlib.tensor(rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).requires_grad_()


def test_minus_the_gradient_descends() -> None:
    """Of |f(z)|² PyTorch's gradient is 2 f conj(f'): a step against it makes the loss smaller."""
    z = numbers(4)

    def loss(z: tensorlib.Tensor) -> tensorlib.Tensor:
        return ((z.exp() * z + 1j).abs() ** 2).sum()

    before = loss(z)
    before.backward()
    assert z.grad.dtype is tensorlib.complex128
    after = loss(z.detach() - 1e-4 * z.grad)
    expected = before - 1e-4 * (z.grad.abs() ** 2).sum()
    assert after < before
    assert float(after) == pytest.approx(float(expected), rel=1e-4)


def test_a_real_leaf_gets_the_real_part() -> None:
    """The gradient of a real input of a complex computation is real."""
    x = tensorlib.tensor([1.0, 2.0], requires_grad=True)
    (x * 2j).sum().backward(tensorlib.tensor(1 + 3j))
    assert x.grad.dtype is tensorlib.float32
    assert x.grad.tolist() == [6.0, 6.0]


def test_a_complex_result_needs_a_gradient_to_start_from() -> None:
    with pytest.raises(AutogradError, match="only for real scalar outputs"):
        numbers(2).sum().backward()


@pytest.mark.parametrize("power", [2, 3, -1, 0.5, 1.5, 2 + 1j])
def test_powers(power: complex) -> None:
    """Integer powers by multiplication and all others agree with their derivatives."""
    assert gradcheck(lambda z: z**power, (numbers(3),))
    assert gradgradcheck(lambda z: z**power, (numbers(3),), fast_mode=True)


def test_gradcheck_sees_a_missing_conjugate() -> None:
    """A gradient that is right for real numbers only is found out."""

    class Square(tensorlib.autograd.Function):
        @staticmethod
        def forward(ctx, z):  # type: ignore[no-untyped-def]
            ctx.save_for_backward(z)
            return z * z

        @staticmethod
        def backward(ctx, g):  # type: ignore[no-untyped-def]
            (z,) = ctx.saved_tensors
            return g * 2 * z

    assert not gradcheck(Square.apply, (numbers(2),), raise_exception=False)


def test_parts_are_views() -> None:
    """Writing into .real and .imag writes into the numbers, and the history follows."""
    z = tensorlib.zeros(3, dtype=tensorlib.complex64)
    z.real = tensorlib.ones(3)
    z.imag[1] = 5
    assert z.tolist() == [1, 1 + 5j, 1]
    x = numbers(3)
    y = x * 1
    y.imag.mul_(3)
    y.backward(tensorlib.full((3,), 1 + 1j, dtype=tensorlib.complex128))
    assert x.grad.tolist() == [1 + 3j] * 3


@pytest.mark.parametrize("name", ["floor", "sign", "erf", "relu", "argmax", "max", "sort", "deg2rad", "signbit"])
def test_what_has_no_complex_form_says_so(name: str) -> None:
    with pytest.raises(DtypeError, match=r"ComplexFloat|complex"):
        getattr(tensorlib, name)(tensorlib.tensor([1 + 2j]))


def test_no_order() -> None:
    z = tensorlib.tensor([1 + 2j])
    assert (z == 1 + 2j).all() and not (z != z).any()
    with pytest.raises(DtypeError, match="not implemented for 'ComplexFloat'"):
        z < 1  # noqa: B015


def test_promotion() -> None:
    """A Python complex number makes floats complex, of their own precision."""
    assert (tensorlib.ones(2) * 1j).dtype is tensorlib.complex64
    assert (tensorlib.ones(2, dtype=tensorlib.float64) * 1j).dtype is tensorlib.complex128
    assert (tensorlib.ones(2, dtype=tensorlib.int64) * 1j).dtype is tensorlib.complex64
    with pytest.raises(DtypeError, match="can't be cast"):
        tensorlib.ones(2).mul_(1j)


def test_on_the_cpu_only() -> None:
    for make in (
        lambda: tensorlib.tensor([1j]).to("interpret"),
        lambda: tensorlib.zeros(2, dtype=tensorlib.complex64, device="interpret"),
        lambda: tensorlib.ones(2, device="interpret") * 1j,
    ):
        with pytest.raises(DtypeError, match="on the CPU only"):
            make()


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_fused_optimizers_move_both_parts(name: str) -> None:
    """A complex parameter is updated as the pair of real ones that it is."""
    z = numbers(3)
    pair = tensorlib.view_as_real(z.detach()).clone().requires_grad_()
    options = {"momentum": 0.9} if name == "SGD" else {}
    first, second = (getattr(tensorlib.optim, name)([p], lr=0.1, **options) for p in (z, pair))
    for _ in range(3):
        for optimizer, p in ((first, z), (second, tensorlib.view_as_complex(pair))):
            optimizer.zero_grad()
            ((p * p).abs() ** 2).sum().backward()
            optimizer.step()
    assert tensorlib.equal(tensorlib.view_as_real(z), pair)
