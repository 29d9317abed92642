"""Parametrizations, weight and spectral norm, orthogonal weights, fused norms: identities that define them."""

import copy
import pickle

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import nn
from tensorlib.nn.utils import fusion, parametrizations, parametrize


class Symmetric(nn.Module):
    def forward(self, x):
        return x.triu() + x.triu(1).mT

    def right_inverse(self, a):
        return a.triu()


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x

    def right_inverse(self, a):
        return a / 2


@pytest.fixture(autouse=True)
def seeded():
    tl.manual_seed(0)


def test_an_attribute_becomes_a_function_of_its_original():
    layer = nn.Linear(3, 3)
    before = layer.weight.detach().clone()
    parametrize.register_parametrization(layer, "weight", Symmetric())
    assert tl.equal(layer.weight, layer.weight.mT) and tl.equal(layer.weight.triu(), before.triu())
    assert [n for n, _ in layer.named_parameters()] == ["bias", "parametrizations.weight.original"]
    assert type(layer).__name__ == "ParametrizedLinear"
    assert parametrize.type_before_parametrizations(layer) is nn.Linear
    layer(tl.ones(2, 3)).sum().backward()
    assert layer.parametrizations.weight.original.grad is not None
    layer.weight = tl.eye(3)
    assert tl.equal(layer.weight, tl.eye(3))
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is nn.Linear and isinstance(layer.weight, nn.Parameter) and tl.equal(layer.weight, tl.eye(3))


def test_several_are_applied_in_order_and_cached():
    layer = nn.Linear(3, 3)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    parametrize.register_parametrization(layer, "weight", Doubled())
    original = layer.parametrizations.weight.original
    assert tl.equal(layer.weight, 2 * (original.triu() + original.triu(1).mT))
    assert layer.weight is not layer.weight
    with parametrize.cached():
        assert layer.weight is layer.weight
    twin = copy.deepcopy(layer)
    twin.load_state_dict(layer.state_dict())
    assert tl.equal(twin.weight, layer.weight) and twin.weight is not layer.weight
    with pytest.raises(RuntimeError, match="state_dict"):
        pickle.dumps(layer)
    other = parametrize.transfer_parametrizations_and_params(layer, nn.Linear(3, 3))
    assert tl.equal(other.weight, layer.weight)
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    assert tl.equal(layer.weight, original)


def test_what_is_refused():
    class Taller(nn.Module):
        def forward(self, x):
            return tl.cat([x, x])

    layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="may not change the shape"):
        parametrize.register_parametrization(layer, "weight", Taller())
    assert type(layer) is nn.Linear and tuple(layer.weight.shape) == (2, 2)  # nothing was lost
    parametrize.register_parametrization(layer, "weight", Taller(), unsafe=True)
    assert tuple(layer.weight.shape) == (4, 2)
    for call in (
        lambda: parametrize.register_parametrization(nn.Linear(2, 2), "wait", Doubled()),
        lambda: parametrize.remove_parametrizations(nn.Linear(2, 2), "weight"),
        lambda: parametrizations.orthogonal(nn.LayerNorm(3)),
        lambda: parametrizations.orthogonal(nn.Linear(2, 2), orthogonal_map="qr"),
        lambda: parametrizations.spectral_norm(nn.Linear(2, 2), n_power_iterations=0),
        lambda: nn.utils.remove_weight_norm(nn.Linear(2, 2)),
        lambda: nn.utils.remove_spectral_norm(nn.Linear(2, 2)),
    ):
        with pytest.raises(ValueError):
            call()


@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_both_ways(dim):
    layer = nn.Linear(3, 4)
    before = layer.weight.detach().clone()
    old = nn.utils.weight_norm(copy.deepcopy(layer), dim=dim)
    parametrizations.weight_norm(layer, dim=dim)
    for weight in (layer.weight, old.weight):
        np.testing.assert_allclose(weight.detach().numpy(), before.numpy(), rtol=1e-6)
    with tl.no_grad():
        layer.parametrizations.weight.original0.mul_(3)
    np.testing.assert_allclose(layer.weight.detach().numpy(), 3 * before.numpy(), rtol=1e-6)
    x = tl.randn(2, 3)
    old(x).sum().backward()
    along = (old.weight_v.grad * old.weight_v).sum(dim=None if dim is None else 1 - dim)
    np.testing.assert_allclose(along.detach().numpy(), 0, atol=1e-6)  # v's length does not matter
    again = nn.Linear(3, 4)
    parametrizations.weight_norm(again, dim=dim)
    again.load_state_dict(old.state_dict())  # the older form's names are understood
    np.testing.assert_allclose(again.weight.detach().numpy(), old.weight.detach().numpy(), rtol=1e-6)
    nn.utils.remove_weight_norm(old)
    assert isinstance(old.weight, nn.Parameter) and list(old.state_dict()) == ["bias", "weight"]


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3)])
@pytest.mark.parametrize("chosen", [None, "matrix_exp", "cayley", "householder"])
def test_orthogonal_whatever_is_learnt(shape, chosen):
    layer = nn.Linear(shape[1], shape[0])
    nn.init.orthogonal_(layer.weight)
    start = layer.weight.detach().clone()
    parametrizations.orthogonal(layer, orthogonal_map=chosen)
    np.testing.assert_allclose(layer.weight.detach().numpy(), start.numpy(), atol=1e-5)
    optimizer = tl.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        layer(tl.randn(6, shape[1])).pow(3).sum().backward()
        optimizer.step()
    w = layer.weight.detach()
    w = w if shape[0] >= shape[1] else w.mT
    np.testing.assert_allclose((w.mT @ w).numpy(), np.eye(min(shape)), atol=2e-5)
    assert not np.allclose(layer.weight.detach().numpy(), start.numpy(), atol=1e-3)


def test_spectral_norm_both_ways():
    layer, old = nn.Linear(4, 6), nn.ConvTranspose2d(4, 6, 1)
    parametrizations.spectral_norm(layer, n_power_iterations=20)
    nn.utils.spectral_norm(old, n_power_iterations=50)
    old(tl.randn(1, 4, 2, 2))
    for weight in (layer.weight, old.weight.flatten(1)):
        assert abs(np.linalg.norm(weight.detach().numpy(), 2) - 1) < 1e-3
    assert "weight_orig" in old.state_dict() and "weight_u" in old.state_dict()
    nn.utils.remove_spectral_norm(old)
    assert isinstance(old.weight, nn.Parameter)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_batch_norm_folds_into_a_convolution(transposed):
    conv = (nn.ConvTranspose2d if transposed else nn.Conv2d)(2, 3, 2, bias=transposed).eval()
    norm = nn.BatchNorm2d(3)
    norm(tl.randn(8, 3, 4, 4) * 2 + 1)
    norm.eval()
    x = tl.randn(2, 2, 5, 5)
    fused = fusion.fuse_conv_bn_eval(conv, norm, transposed)
    np.testing.assert_allclose(fused(x).detach().numpy(), norm(conv(x)).detach().numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(AssertionError, match="eval"):
        fusion.fuse_conv_bn_eval(conv, norm.train(), transposed)
    linear, flat = nn.Linear(4, 3).eval(), nn.BatchNorm1d(3).eval()
    y = tl.randn(5, 4)
    whole = fusion.fuse_linear_bn_eval(linear, flat)
    np.testing.assert_allclose(whole(y).detach().numpy(), flat(linear(y)).detach().numpy(), rtol=1e-4, atol=1e-6)
