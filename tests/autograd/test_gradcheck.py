"""gradcheck finds a wrong gradient, of either order, and takes PyTorch's arguments."""

from __future__ import annotations

import numpy as np
import pytest

import tensorlib
from tensorlib.autograd.gradcheck import GradcheckError, gradcheck, gradgradcheck


def leaf(*shape: int, dtype: type = np.float64) -> tensorlib.Tensor:
    values = np.random.default_rng(3).standard_normal(shape).astype(dtype)
    return tensorlib.tensor(values, requires_grad=True)


@pytest.mark.parametrize("fast", [False, True])
def test_right_gradients_pass(fast: bool) -> None:
    x, y = leaf(3, 2), leaf(2)
    assert gradcheck(lambda a, b: (a * b).exp() * a, (x, y), fast_mode=fast, check_grad_dtypes=True)
    assert gradgradcheck(lambda a, b: (a * b).exp() * a, (x, y), fast_mode=fast, gen_non_contig_grad_outputs=True)
    assert gradcheck(lambda a: (a * a, a.exp()), x, fast_mode=fast)


@pytest.mark.parametrize("fast", [False, True])
def test_a_lost_gradient_is_found(fast: bool) -> None:
    x = leaf(3)
    with pytest.raises(GradcheckError, match="Jacobian mismatch"):
        gradcheck(lambda a: a * a.detach(), x, fast_mode=fast)
    assert not gradcheck(lambda a: a * a.detach(), x, fast_mode=fast, raise_exception=False)


def test_a_lost_second_order_is_found() -> None:
    def half(a: tensorlib.Tensor) -> tensorlib.Tensor:
        return a * a.detach() + (a * a.detach()).detach()

    x = leaf(3)
    with pytest.raises(GradcheckError):
        gradgradcheck(half, x)


def test_no_gradient_where_one_is_due() -> None:
    with pytest.raises(GradcheckError, match="expected to be zero"):
        gradcheck(lambda a: a.detach().exp(), leaf(2))


def test_arguments() -> None:
    with pytest.raises(ValueError, match="at least one input tensor to require gradient"):
        gradcheck(lambda a: a, tensorlib.ones(2))
    with pytest.raises(ValueError, match="requires check_forward_ad"):
        gradcheck(lambda a: a * 2, leaf(2), check_batched_forward_grad=True)
    with pytest.warns(UserWarning, match="double precision"):
        gradcheck(lambda a: a * 2, leaf(2, dtype=np.float32), eps=1e-2)


class Wrong(tensorlib.autograd.Function):
    """x squared, with a tangent of half the size."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        return 2 * g * ctx.saved_tensors[0]

    @staticmethod
    def jvp(ctx, t):  # type: ignore[no-untyped-def]
        return t * ctx.saved_tensors[0]


def test_forward_mode_and_batches() -> None:
    everything = dict(check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradcheck(lambda a, b: ((a @ b).softmax(0), a.sum() * b), (leaf(2, 3), leaf(3, 2)), **everything)
    assert gradgradcheck(lambda a: (a * a).cumsum(0).sin(), leaf(3), check_fwd_over_rev=True, check_batched_grad=True)
    assert gradcheck(Wrong.apply, leaf(2))
    with pytest.raises(GradcheckError, match="forward mode"):
        gradcheck(Wrong.apply, leaf(2), check_forward_ad=True)
