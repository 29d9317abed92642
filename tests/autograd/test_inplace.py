"""Writes into tensors that autograd knows: versions, leaves, views and their bases. Semantics are PyTorch's."""

import pytest

import tensorlib as tl
from tensorlib import autograd


def leaf(*values):
    return tl.tensor(values, dtype=tl.float32).requires_grad_()


def test_a_leaf_that_requires_grad_cannot_be_written():
    x = leaf(1.0, 2.0)
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        x.add_(1)
    with pytest.raises(RuntimeError, match="a view of a leaf Variable that requires grad"):
        x[0:1].add_(1)
    with tl.no_grad():
        x.add_(1)
    assert x.tolist() == [2.0, 3.0]


def test_history_follows_the_new_values():
    x = leaf(1.0, 2.0)
    y = x * 2
    y.mul_(3)
    y.add_(x)
    y.sum().backward()
    assert x.grad.tolist() == [7.0, 7.0]


def test_an_operator_keeps_a_copy_of_what_it_overwrites_itself():
    x = leaf(1.0, 2.0)
    y = x * 2
    y.mul_(x)
    y.sum().backward()
    assert x.grad.tolist() == [4.0, 8.0]


def test_a_kept_array_that_was_written_is_an_error_that_names_the_operator():
    x = leaf(1.0, 2.0)
    y = x * 2
    z = y * y
    y.add_(1)
    with pytest.raises(RuntimeError, match=r"mul.*modified by an inplace operation.*version 1.*expected version 0"):
        z.sum().backward()


def test_a_write_through_a_view_is_seen_too():
    x = leaf(1.0, 2.0)
    y = x * 2
    z = y.exp() * y
    with tl.no_grad():
        y[0] = 5.0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_writing_what_nobody_kept_is_fine():
    x = leaf(1.0, 2.0)
    y = x + 1
    z = y + 1
    y.mul_(2)
    (z.sum() + y.sum()).backward()
    assert x.grad.tolist() == [3.0, 3.0]


def test_a_write_into_a_view_rebases_its_base():
    x = leaf(1.0, 2.0, 3.0)
    y = x * 1
    y[1:2].mul_(10)
    y.sum().backward()
    assert y.tolist() == [1.0, 20.0, 3.0]
    assert x.grad.tolist() == [1.0, 10.0, 1.0]


def test_other_views_follow_the_base():
    x = leaf(1.0, 2.0, 3.0, 4.0)
    y = x * 1
    before = y.view(2, 2)
    row = y[0:2]
    y[1:3] = 0.0
    assert before.tolist() == [[1.0, 0.0], [0.0, 4.0]]
    (before.sum() + row.sum()).backward()
    assert x.grad.tolist() == [2.0, 0.0, 0.0, 1.0]


def test_a_view_of_a_view_through_a_transpose():
    x = leaf(*range(6))
    y = (x * 1).view(2, 3)
    y.transpose(0, 1)[1].mul_(5)
    y.sum().backward()
    assert x.grad.tolist() == [1.0, 5.0, 1.0, 1.0, 5.0, 1.0]


def test_writing_something_with_a_gradient_into_something_without():
    a = tl.zeros(3)
    v = a[1:]
    w = leaf(5.0, 6.0)
    a[1:] = w * 2
    assert a.requires_grad and v.requires_grad
    (a * a).sum().backward()
    assert w.grad.tolist() == [40.0, 48.0]
    assert a.tolist() == [0.0, 10.0, 12.0]


def test_the_view_itself_carries_the_gradient_on():
    x = leaf(1.0, 2.0, 3.0)
    y = x * 1
    v = y[:2]
    v.mul_(3)
    v.sum().backward()
    assert x.grad.tolist() == [3.0, 3.0, 0.0]


def test_copy_broadcasts_and_its_source_gets_the_sum():
    a, w = tl.zeros(2, 3), leaf(1.0, 2.0, 3.0)
    a.copy_(w)
    a.sum().backward()
    assert w.grad.tolist() == [2.0, 2.0, 2.0]


def test_overwriting_ends_the_history():
    x = leaf(1.0, 2.0)
    y = x * 2
    y.zero_()
    assert y.requires_grad
    y.sum().backward()
    assert x.grad.tolist() == [0.0, 0.0]


def test_gradients_of_gradients_through_a_write():
    x = leaf(2.0, 3.0)
    y = x * x
    y[0:1].add_(x[1:2] * x[1:2] * x[1:2])
    (g,) = autograd.grad(y.sum(), x, create_graph=True)
    assert g.tolist() == [4.0, 6.0 + 27.0]
    (gg,) = autograd.grad(g.sum(), x)
    assert gg.tolist() == [2.0, 2.0 + 18.0]


def test_versions_count_writes_and_are_shared_by_views_and_detach():
    y = tl.ones(4)
    v, d, data = y[:2], y.detach(), y.data
    y.add_(1)
    v.mul_(2)
    assert y._writes == v._writes == d._writes and y._writes[0] == 2
    assert data._writes is None or data._writes[0] == 0


def test_dtype_and_shape_rules():
    with pytest.raises(RuntimeError, match="can't be cast"):
        tl.tensor([1]).add_(1.5)
    with pytest.raises(RuntimeError, match="doesn't match the broadcast shape"):
        tl.ones(1).add_(tl.ones(3))
    with pytest.raises(RuntimeError, match="single memory location"):
        tl.ones(1).expand(3).add_(1)
    x = tl.tensor([1, 2])
    x += 1
    assert x.tolist() == [2, 3] and x.dtype is tl.int64


def test_augmented_assignment_is_in_place():
    x = tl.ones(2)
    alias = x
    x += 1
    x *= 3
    x -= 1
    x /= 5
    assert alias is x and x.tolist() == [1.0, 1.0]


def test_relu_in_place_keeps_its_output():
    x = leaf(-1.0, 2.0)
    y = x * 3
    tl.relu_(y) if hasattr(tl, "relu_") else y.relu_()
    y.sum().backward()
    assert x.grad.tolist() == [0.0, 3.0]


def test_requires_grad_on_a_view_of_something_without():
    base = tl.zeros(4)
    v = base[:2].requires_grad_()
    (v * 2).sum().backward()
    assert v.grad.tolist() == [2.0, 2.0]


def test_views_in_place_change_the_tensor_itself():
    x = leaf(*range(6))
    y = (x * 2).view(2, 3)
    assert y.unsqueeze_(0) is y and y.shape == (1, 2, 3)
    y.squeeze_().t_()
    assert y.tolist() == [[0.0, 6.0], [2.0, 8.0], [4.0, 10.0]]
    (y * tl.tensor([[1.0, 10.0]])).sum().backward()
    assert x.grad.tolist() == [2.0, 2.0, 2.0, 20.0, 20.0, 20.0]
    with pytest.raises(RuntimeError, match="a leaf Variable"):
        x.unsqueeze_(0)
    z = tl.zeros(2, 3)
    z.transpose_(0, 1)
    assert z.shape == (3, 2) and z.stride() == (1, 3)
