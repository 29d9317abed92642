"""Gradient clipping and parameter vectors."""

import math

import numpy as np
import pytest

import tensorlib
from tensorlib import nn
from tensorlib.nn.utils import (
    clip_grad_norm_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_total_norm,
    parameters_to_vector,
    vector_to_parameters,
)


def params(*grads):
    """Parameters with these gradients; None for one without."""
    made = []
    for grad in grads:
        p = nn.Parameter(tensorlib.zeros(1 if grad is None else len(grad)))
        p.grad = None if grad is None else tensorlib.tensor(grad)
        made.append(p)
    return made


@pytest.mark.parametrize(
    ("order", "norm"), [(2.0, math.sqrt(9 + 16 + 144)), (1.0, 19.0), (math.inf, 12.0), (3, (27 + 64 + 1728) ** (1 / 3))]
)
def test_clip_grad_norm(order, norm):
    """The norm of all gradients as one vector is returned; they shrink to max_norm and never grow."""
    ps = params([3.0, -4.0], None, [12.0])
    assert math.isclose(get_total_norm([p.grad for p in ps if p.grad is not None], order).item(), norm, rel_tol=1e-6)
    total = clip_grad_norm_(iter(ps), 2.0, order)
    assert total.shape == () and math.isclose(total.item(), norm, rel_tol=1e-6)
    np.testing.assert_allclose(ps[0].grad.numpy(), np.array([3.0, -4.0]) * 2 / norm, rtol=1e-5)
    np.testing.assert_allclose(ps[2].grad.numpy(), [12 * 2 / norm], rtol=1e-5)
    before = ps[0].grad.numpy().copy()
    assert math.isclose(clip_grad_norm_(ps, 100.0, order).item(), 2.0, rel_tol=1e-5)
    np.testing.assert_array_equal(ps[0].grad.numpy(), before)


def test_clip_grad_norm_edges():
    """No gradients: zero. Not finite: an error on request, otherwise what the arithmetic gives."""
    assert clip_grad_norm_(params(None), 1.0).item() == 0.0
    assert clip_grad_norm_([], 1.0).item() == 0.0
    single = params([3.0, 4.0])[0]
    assert clip_grad_norm_(single, 1.0).item() == 5.0
    ps = params([1.0, math.inf])
    with pytest.raises(RuntimeError, match=r"total norm of order 2.0 .* is non-finite"):
        clip_grad_norm_(ps, 1.0, error_if_nonfinite=True)
    assert ps[0].grad.tolist() == [1.0, math.inf]
    assert clip_grad_norm_(ps, 1.0).item() == math.inf and ps[0].grad[0].item() == 0.0
    ps = params([2.0])
    clip_grads_with_norm_(ps, 1.0, tensorlib.tensor(4.0))
    assert math.isclose(ps[0].grad.item(), 0.5, rel_tol=1e-5)


def test_clip_grad_value():
    """Elementwise, in place."""
    ps = params([3.0, -4.0, 0.5], None)
    grad = ps[0].grad
    clip_grad_value_(ps, 1)
    assert ps[0].grad is grad and grad.tolist() == [1.0, -1.0, 0.5]


def test_vectors():
    """Flattened in order; written back as views."""
    m = nn.Linear(2, 3)
    vector = parameters_to_vector(m.parameters())
    assert vector.shape == (9,) and vector.requires_grad
    np.testing.assert_array_equal(vector.detach().numpy()[:6], m.weight.detach().numpy().ravel())
    new = tensorlib.arange(9, dtype=tensorlib.float32)
    vector_to_parameters(new, m.parameters())
    assert m.weight.tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]] and m.bias.tolist() == [6.0, 7.0, 8.0]
    assert isinstance(m.weight, nn.Parameter) and m.weight.requires_grad
    with pytest.raises(TypeError, match="Tensor, but got: list"):
        vector_to_parameters([1.0], m.parameters())
