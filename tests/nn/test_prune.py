"""Pruning: masks, their composition, what gradients and forwards see, and how it is made permanent or undone."""

import pytest

import tensorlib as T
from tensorlib import nn
from tensorlib.nn.utils import prune


def layer() -> nn.Linear:
    m = nn.Linear(3, 2, bias=False)
    with T.no_grad():
        m.weight.copy_(T.tensor([[1.0, -2.0, 3.0], [-4.0, 5.0, -6.0]]))
    return m


def test_l1_unstructured_and_its_gradient() -> None:
    m = prune.l1_unstructured(layer(), "weight", amount=2)
    assert [name for name, _ in m.named_parameters()] == ["weight_orig"]
    assert m.weight_mask.tolist() == [[0, 0, 1], [1, 1, 1]]
    m(T.ones(1, 3)).sum().backward()
    assert m.weight_orig.grad.tolist() == [[0, 0, 1], [1, 1, 1]]
    with T.no_grad():
        m.weight_orig.mul_(2)
    assert m(T.ones(1, 3)).tolist() == [[6.0, -10.0]]


def test_pruning_again_prunes_what_is_left() -> None:
    m = prune.l1_unstructured(layer(), "weight", amount=2)
    prune.l1_unstructured(m, "weight", amount=0.5)
    assert m.weight_mask.tolist() == [[0, 0, 0], [0, 1, 1]]
    (hook,) = m._forward_pre_hooks.values()
    assert isinstance(hook, prune.PruningContainer) and len(hook) == 2
    prune.ln_structured(m, "weight", amount=1, n=2, dim=1)
    assert m.weight_mask.tolist() == [[0, 0, 0], [0, 0, 1]]


def test_structured_random_identity_and_custom() -> None:
    m = prune.ln_structured(layer(), "weight", amount=0.5, n=float("inf"), dim=0)
    assert m.weight_mask.tolist() == [[0, 0, 0], [1, 1, 1]]
    m = prune.random_structured(layer(), "weight", amount=1, dim=1)
    assert m.weight_mask.sum(0).sort()[0].tolist() == [0, 2, 2]
    m = prune.random_unstructured(layer(), "weight", amount=4)
    assert m.weight_mask.sum() == 2
    m = prune.custom_from_mask(prune.identity(layer(), "weight"), "weight", T.eye(2, 3))
    assert m.weight.tolist() == [[1, 0, 0], [0, 5, 0]]


def test_global_pruning_takes_the_weakest_of_all() -> None:
    a, b = layer(), layer()
    with T.no_grad():
        b.weight.mul_(0.1)
    prune.global_unstructured([(a, "weight"), (b, "weight")], pruning_method=prune.L1Unstructured, amount=7)
    assert b.weight_mask.sum() == 0 and a.weight_mask.tolist() == [[0, 1, 1], [1, 1, 1]]
    assert prune.is_pruned(nn.Sequential(a, b)) and not prune.is_pruned(layer())


def test_removal_keeps_the_zeros_and_the_parameter() -> None:
    m = prune.l1_unstructured(layer(), "weight", amount=2)
    original = m.weight_orig
    prune.remove(m, "weight")
    assert m.weight is original and not prune.is_pruned(m) and list(m.state_dict()) == ["weight"]
    assert m.weight.tolist() == [[0, 0, 3], [-4, 5, -6]]
    with pytest.raises(ValueError, match="has to be pruned"):
        prune.remove(m, "weight")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: prune.l1_unstructured(layer(), "weight", amount="2"), TypeError),
        (lambda: prune.l1_unstructured(layer(), "weight", amount=1.5), ValueError),
        (lambda: prune.l1_unstructured(layer(), "weight", amount=7), ValueError),
        (lambda: prune.ln_structured(nn.Linear(2, 2), "bias", 1, 2, 0), ValueError),
        (lambda: prune.random_structured(layer(), "weight", 1, 5), IndexError),
        (lambda: prune.custom_from_mask(layer(), "weight", T.ones(2)), ValueError),
        (lambda: prune.global_unstructured([(layer(), "weight")], prune.LnStructured, amount=1, n=2), TypeError),
    ],
)
def test_refusals_leave_the_module_as_it_was(call, error) -> None:
    with pytest.raises(error):
        call()


def test_a_refused_pruning_is_taken_back() -> None:
    m = layer()
    with pytest.raises(ValueError, match="smaller"):
        prune.l1_unstructured(m, "weight", amount=7)
    assert [name for name, _ in m.named_parameters()] == ["weight"] and m(T.ones(1, 3)).shape == (1, 2)
