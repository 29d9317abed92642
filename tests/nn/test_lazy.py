"""Lazy layers: shapes from the first input, or from a state_dict; moving and copying before there are any."""

import copy

import pytest

import tensorlib as tl
from tensorlib import nn

CASES = [
    (lambda: nn.LazyLinear(3), (2, 5), nn.Linear),
    (lambda: nn.LazyConv1d(4, 3), (2, 5, 7), nn.Conv1d),
    (lambda: nn.LazyConv2d(4, 3, padding=1, groups=2, bias=False), (2, 6, 5, 5), nn.Conv2d),
    (lambda: nn.LazyConv3d(4, 2), (3, 4, 4, 4), nn.Conv3d),
    (lambda: nn.LazyConvTranspose1d(4, 3), (2, 5, 7), nn.ConvTranspose1d),
    (lambda: nn.LazyConvTranspose2d(4, 3, 2), (2, 6, 5, 5), nn.ConvTranspose2d),
    (lambda: nn.LazyConvTranspose3d(4, 2), (1, 3, 4, 4, 4), nn.ConvTranspose3d),
    (lambda: nn.LazyBatchNorm1d(), (4, 5), nn.BatchNorm1d),
    (lambda: nn.LazyBatchNorm2d(affine=False), (4, 5, 2, 2), nn.BatchNorm2d),
    (lambda: nn.LazyBatchNorm3d(), (4, 5, 2, 2, 2), nn.BatchNorm3d),
    (lambda: nn.LazyInstanceNorm1d(affine=True), (4, 5, 3), nn.InstanceNorm1d),
    (lambda: nn.LazyInstanceNorm2d(affine=True), (5, 3, 2), nn.InstanceNorm2d),
    (lambda: nn.LazyInstanceNorm3d(), (4, 5, 3, 2, 2), nn.InstanceNorm3d),
]


@pytest.mark.parametrize(("make", "shape", "becomes"), CASES, ids=lambda v: getattr(v, "__name__", None))
def test_it_becomes_the_layer_that_fits(make, shape, becomes):
    lazy = make()
    optimizer = tl.optim.SGD(lazy.parameters(), lr=0.1) if list(lazy.parameters()) else None
    parameters = list(lazy.parameters())
    twin = copy.deepcopy(lazy)
    out = lazy(tl.randn(*shape))
    assert type(lazy) is becomes and not lazy._forward_pre_hooks
    assert [id(p) for p in lazy.parameters()] == [id(p) for p in parameters]  # what an optimizer was given
    if optimizer is not None:
        out.square().sum().backward()
        optimizer.step()
    twin.load_state_dict(lazy.state_dict())
    if isinstance(lazy, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
        lazy.eval(), twin.eval()
    assert tl.equal(twin(x := tl.randn(*shape)), lazy(x)) and type(twin) is becomes


def test_before_the_first_input():
    lazy = nn.LazyLinear(3)
    weight = lazy.weight
    assert isinstance(weight, nn.UninitializedParameter) and lazy.has_uninitialized_params()
    with pytest.raises(RuntimeError, match="uninitialized"):
        _ = weight.shape
    lazy.double()
    assert lazy(tl.ones(1, 2, dtype=tl.float64)).dtype is tl.float64
    assert type(weight) is nn.Parameter and weight is lazy.weight
    with pytest.raises(RuntimeError, match="input"):
        nn.LazyConv2d(2, 3)(tl.ones(4, 4))
    fresh = nn.LazyLinear(3)
    assert "UninitializedParameter" in repr(fresh.state_dict()["weight"])


def test_a_whole_model():
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    assert tuple(model(tl.randn(3, 1, 6, 6)).shape) == (3, 2)
    assert model[4].in_features == 64
