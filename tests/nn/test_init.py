"""Initialisation: moments, bounds, structure, and the gains and fans of PyTorch."""

import math

import numpy as np
import pytest

import tensorlib
from tensorlib import nn
from tensorlib.nn import init


def values(tensor):
    """As an array."""
    return tensor.detach().numpy()


@pytest.fixture(autouse=True)
def seeded():
    """The same draws every time."""
    tensorlib.manual_seed(0)


def test_results_are_the_tensor_and_not_recorded():
    """In place, outside autograd, also on parameters that require a gradient."""
    p = nn.Parameter(tensorlib.empty(4, 6))
    for fill in (init.uniform_, init.normal_, init.trunc_normal_, init.ones_, init.zeros_, init.eye_,
                 init.xavier_normal_, init.xavier_uniform_, init.kaiming_normal_, init.kaiming_uniform_,
                 init.orthogonal_):  # fmt: skip
        assert fill(p) is p and p.is_leaf and p.requires_grad
    assert init.constant_(p, 3.5) is p and (values(p) == 3.5).all()
    assert init.sparse_(p, 0.5) is p


def test_moments():
    """Mean and spread of 10⁵ draws within five standard errors."""
    x = tensorlib.empty(250, 400)
    n = x.numel()
    cases = (
        (lambda: init.uniform_(x, -1.0, 3.0), 1.0, 4 / math.sqrt(12)),
        (lambda: init.normal_(x, 2.0, 0.5), 2.0, 0.5),
        (lambda: init.xavier_uniform_(x, gain=2.0), 0.0, 2 * math.sqrt(2 / 650)),
        (lambda: init.xavier_normal_(x), 0.0, math.sqrt(2 / 650)),
        (lambda: init.kaiming_uniform_(x, a=math.sqrt(5)), 0.0, math.sqrt(1 / 3 / 400)),
        (lambda: init.kaiming_normal_(x, mode="fan_out", nonlinearity="relu"), 0.0, math.sqrt(2 / 250)),
    )
    for fill, mean, std in cases:
        got = values(fill())
        assert abs(got.mean() - mean) < 5 * std / math.sqrt(n)
        assert abs(got.std() / std - 1) < 5 / math.sqrt(n)
    init.uniform_(x, -1.0, 3.0)
    assert values(x).min() >= -1.0 and values(x).max() < 3.0


@pytest.mark.parametrize(
    ("mean", "std", "a", "b", "want_mean", "want_std"),
    [
        (0.0, 1.0, -2.0, 2.0, 0.0, 0.8796),
        (0.0, 1.0, 1.5, 4.0, 1.93759, 0.38355),
        (1.0, 0.5, 1.0, 1.1, 1.04983, 0.02885),
    ],
)
def test_trunc_normal(mean, std, a, b, want_mean, want_std):
    """Within the bounds, with the truncated distribution's moments (SciPy's truncnorm), by both methods."""
    x = values(init.trunc_normal_(tensorlib.empty(200, 200), mean, std, a, b))
    assert x.min() >= a and x.max() <= b
    assert abs(x.mean() - want_mean) < 5 * want_std / 200 + 5e-5 and abs(x.std() / want_std - 1) < 0.03


def test_trunc_normal_warns_far_from_the_bounds():
    """Two deviations outside is probably a mistake."""
    with pytest.warns(UserWarning, match="more than 2 std"):
        init.trunc_normal_(tensorlib.empty(3), 0.0, 1.0, 3.0, 4.0)


def test_structure():
    """eye, dirac, sparse and orthogonal are what they say."""
    assert np.array_equal(values(init.eye_(tensorlib.empty(2, 3))), np.eye(2, 3))
    weight = init.dirac_(tensorlib.empty(4, 2, 3, 3), groups=2)
    image = tensorlib.rand(1, 4, 5, 5)
    out = nn.functional.conv2d(image, weight, padding=1, groups=2)
    np.testing.assert_allclose(values(out), values(image), rtol=1e-6)
    assert (values(init.sparse_(tensorlib.empty(10, 7), 0.25)) == 0).sum(0).tolist() == [3] * 7
    for shape in ((5, 3), (3, 5), (4, 2, 3)):
        q = values(init.orthogonal_(tensorlib.empty(*shape), gain=2.0)).reshape(shape[0], -1)
        small = q @ q.T if q.shape[0] <= q.shape[1] else q.T @ q
        np.testing.assert_allclose(small, 4 * np.eye(len(small)), atol=1e-5)


def test_gains():
    """PyTorch's table."""
    assert [init.calculate_gain(n) for n in ("linear", "conv2d", "sigmoid", "tanh", "relu", "selu")] == [
        1, 1, 1, 5 / 3, math.sqrt(2), 0.75,
    ]  # fmt: skip
    assert init.calculate_gain("leaky_relu", 0.2) == math.sqrt(2 / 1.04)
    for act, match in (
        (lambda: init.calculate_gain("softmax"), "Unsupported nonlinearity softmax"),
        (lambda: init.calculate_gain("leaky_relu", True), "not a valid number"),
        (lambda: init.xavier_normal_(tensorlib.empty(3)), "fewer than 2 dimensions"),
        (lambda: init.kaiming_normal_(tensorlib.empty(3, 3), mode="fan"), "Mode fan not supported"),
        (lambda: init.eye_(tensorlib.empty(3)), "Only tensors with 2 dimensions"),
        (lambda: init.dirac_(tensorlib.empty(3, 3)), "3, 4, or 5 dimensions"),
        (lambda: init.dirac_(tensorlib.empty(3, 3, 3), groups=2), "divisible by groups"),
    ):
        with pytest.raises(ValueError, match=match):
            act()
    with pytest.warns(UserWarning, match="no-op"):
        init.kaiming_uniform_(tensorlib.empty(0, 3))
