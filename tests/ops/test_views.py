"""Views across operators: shared memory, writes that reach the base, parts that share one Node, other dtypes."""

import numpy as np
import pytest

import tensorlib as L
from tensorlib.errors import ShapeError


def grid(*shape):
    return L.tensor(np.arange(float(np.prod(shape)), dtype=np.float32).reshape(shape))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.T,
        lambda x: x.view(-1)[1:7:2],
        lambda x: x.unsqueeze(0).squeeze(),
        lambda x: x.diagonal(1),
        lambda x: x.unfold(1, 2, 2),
        lambda x: x.split(2, 1)[1],
        lambda x: x.unbind(0)[2],
        lambda x: x.as_strided((2, 2), (4, 1), 1),
        lambda x: x.movedim(0, 1)[1:].narrow(1, 0, 2),
        lambda x: x.reshape(2, 6).select(1, 3),
    ],
)
def test_a_write_into_a_view_reaches_its_base_and_its_history(view):
    leaf = grid(3, 4).requires_grad_()
    base = leaf * 1
    part = view(base)
    assert part._base is base
    part.mul_(3)
    got = base.detach().numpy()
    want = np.arange(12.0).reshape(3, 4)
    mask = L.zeros(3, 4)
    view(mask).fill_(1)
    want = np.where(mask.numpy() > 0, 3 * want, want)
    np.testing.assert_array_equal(got, want)
    (base * base).sum().backward()
    np.testing.assert_array_equal(leaf.grad.numpy(), 2 * want * np.where(mask.numpy() > 0, 3, 1))


def test_parts_share_one_node_and_a_missing_gradient_is_zero():
    x = grid(2, 6).requires_grad_()
    q, k, v = x.chunk(3, -1)
    assert q.grad_fn is k.grad_fn is v.grad_fn
    (q * 2 + v * 5).sum().backward()
    assert x.grad.tolist() == [[2, 2, 0, 0, 5, 5]] * 2
    y = grid(2, 6).requires_grad_()
    y.split([1, 2, 3], 1)[1].sum().backward()
    assert y.grad.tolist() == [[0, 1, 1, 0, 0, 0]] * 2


def test_parts_can_be_differentiated_twice():
    x = grid(4).to(L.float64).requires_grad_()
    a, b = x.split(2)
    (g,) = L.autograd.grad((a * b * b).sum(), [x], create_graph=True)
    (h,) = L.autograd.grad(g.sum(), [x])
    assert g.tolist() == [4, 9, 0, 6]
    assert h.tolist() == [4, 6, 4 + 0, 6 + 2]


def test_reshape_views_where_it_can_and_copies_otherwise():
    x = grid(12).clone().reshape(3, 4)
    assert x.reshape(2, 6).data_ptr() == x.data_ptr()
    copied = x.T.reshape(2, 6)
    copied[0] = -1.0
    assert x.min().item() == 0
    with pytest.raises(ShapeError, match=r"reshape"):
        x.T.view(2, 6)
    with pytest.raises(ShapeError, match=r"shape '\[5, -1\]' is invalid for input of size 12"):
        x.reshape(5, -1)


def test_another_dtype_over_the_same_bytes():
    x = L.tensor([[1.0, -2.0], [0.5, 4.0]])
    assert x.view(L.int32).tolist() == x.numpy().view(np.int32).tolist()
    assert x.view(L.uint8).shape == (2, 8)
    assert x.view(L.uint8).view(L.float32).tolist() == x.tolist()
    assert x.view(L.float64).shape == (2, 1)
    x.view(L.int32)[0, 0] = 0
    assert x[0, 0].item() == 0
    half = L.ones(4, dtype=L.bfloat16)
    assert half.view(L.int16).tolist() == [0x3F80] * 4
    assert half.view(L.float32).view(L.bfloat16).tolist() == [1] * 4
    with pytest.raises(ShapeError, match="divisible by 2"):
        L.ones(3).view(L.float64)
    with pytest.raises(ShapeError, match="must be 1"):
        L.ones(2, 4).T.view(L.float64)


def test_as_strided_reads_the_memory_of_the_base():
    x = grid(12)
    tail = x[4:]
    assert tail.as_strided((2,), (1,)).tolist() == [4, 5]
    assert tail.as_strided((2,), (1,), 0).tolist() == [0, 1]
    with pytest.raises(ShapeError, match="out of bounds"):
        x.as_strided((13,), (1,))
    w = grid(4).requires_grad_()
    w.as_strided((3, 2), (1, 1)).sum().backward()
    assert w.grad.tolist() == [1, 2, 2, 1]


def test_properties():
    x = grid(2, 3, 4)
    assert (x.mT.shape, x.T.shape, x[0].H.shape, x.mH.shape) == ((2, 4, 3), (4, 3, 2), (4, 3), (2, 4, 3))
    with pytest.raises(ShapeError, match="matrices"):
        _ = x[0, 0].mT
    with pytest.raises(ShapeError, match="2-D"):
        _ = x.H
    z = L.tensor([[1 + 2j, 3.0]])
    assert z.H.tolist() == [[1 - 2j], [3 + 0j]]


def test_broadcast_shapes_and_errors_name_both():
    assert tuple(L.broadcast_shapes((2, 1), (3,), 1)) == (2, 3)
    with pytest.raises(ShapeError, match=r"\(2, 1\) and \(3, 4\)"):
        L.broadcast_shapes((2, 1), (3, 4))


def test_a_leaf_that_is_a_view_keeps_its_gradient_through_as_strided() -> None:
    x = L.arange(6.0).view(2, 3).requires_grad_()
    y = x.as_strided((2,), (1,), 1)
    assert y.requires_grad
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]


def test_no_dims_squeeze_nothing():
    x = L.ones(1, 2, 1)
    for found in (x.squeeze(()), L.squeeze(x, dim=[]), x.clone().squeeze_(())):
        assert found.shape == (1, 2, 1)
    assert x.squeeze().shape == (2,) and x.squeeze((0, 1)).shape == (2, 1)


def test_elements_with_several_places_are_not_written():
    x = L.ones(1, 3)
    for several in (x.as_strided((3, 3), (0, 1)), x.expand(3, 3)):
        with pytest.raises(ShapeError, match="more than one element of the written-to tensor"):
            several.add_(1)
        with pytest.raises(ShapeError, match="more than one element of the written-to tensor"):
            L.add(L.ones(3, 3), 1, out=several)
    x.as_strided((1, 3), (0, 1)).add_(1)
    assert x.tolist() == [[2, 2, 2]]
