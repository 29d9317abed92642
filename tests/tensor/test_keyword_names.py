"""Parameters by every name that PyTorch's parser has for them: programs call by keyword what its stubs say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as T

F, L = T.nn.functional, T.linalg
x = T.arange(6.0).reshape(2, 3) + 1
i = T.tensor([[1, 2, 0], [2, 0, 1]])
c = T.arange(8.0).reshape(2, 2, 2)
image = T.arange(32.0).reshape(1, 2, 4, 4)
sq, v = T.tensor([[4.0, 1.0], [1.0, 3.0]]), T.tensor([1.0, 2.0])


def o(*shape: int, dtype: Any = T.float32) -> T.Tensor:
    return T.empty(shape, dtype=dtype)


#: The call by PyTorch's other name, and the same by position or by the documented one.
SAME: list[tuple[Callable[[], Any], Callable[[], Any]]] = [
    (lambda: T.flip(x, dims=(0, 1)), lambda: T.flip(x, (0, 1))),
    (lambda: x.flip(dims=[1]), lambda: x.flip(1)),
    (lambda: T.asarray(obj=[1.0, 2.0]), lambda: T.tensor([1.0, 2.0])),
    (lambda: T.cholesky_solve(sq, input2=sq), lambda: T.cholesky_solve(sq, sq)),
    (lambda: sq.cholesky_solve(input2=sq, upper=True), lambda: T.cholesky_solve(sq, sq, True)),
    (lambda: T.dropout(x, p=0.5, train=False), lambda: x),
    (lambda: T.alpha_dropout(x, p=0.0, train=True), lambda: x),
    (lambda: T.feature_alpha_dropout(image, p=0.0, train=True), lambda: image),
    (lambda: T.group_norm(image, 2, None, None, 1e-5, True), lambda: T.group_norm(image, 2)),
    (lambda: T.group_norm(image, 2, cudnn_enabled=False), lambda: T.group_norm(image, 2)),
    (lambda: T.layer_norm(x, (3,), cudnn_enable=False), lambda: T.layer_norm(x, (3,))),
    (lambda: T.hsplit(x, sections=3)[1], lambda: T.hsplit(x, 3)[1]),
    (lambda: x.hsplit(indices=[1])[1], lambda: T.hsplit(x, [1])[1]),
    (lambda: T.vsplit(x, sections=2)[1], lambda: T.vsplit(x, 2)[1]),
    (lambda: c.dsplit(indices=(1,))[0], lambda: T.dsplit(c, (1,))[0]),
    (lambda: x.tensor_split(sections=2, dim=1)[0], lambda: x.tensor_split(2, 1)[0]),
    (lambda: T.tensor_split(x, indices=(1,), dim=1)[1], lambda: T.tensor_split(x, (1,), 1)[1]),
    (lambda: T.tensor_split(x, tensor_indices_or_sections=T.tensor(2))[1], lambda: T.tensor_split(x, 2)[1]),
    (lambda: T.isin(element=1, test_elements=i), lambda: T.isin(1, i)),
    (lambda: T.isin(i, test_element=1), lambda: T.isin(i, 1)),
    (lambda: T.swapaxes(x, axis0=0, axis1=1), lambda: x.T),
    (lambda: x.clone().swapaxes_(axis0=0, axis1=1), lambda: x.T),
    (lambda: T.orgqr(sq, input2=v), lambda: T.orgqr(sq, v)),
    (lambda: sq.ormqr(input2=v, input3=sq), lambda: T.ormqr(sq, v, sq)),
    (lambda: T.view_copy(x, dtype=T.int32), lambda: x.view(T.int32)),
    (lambda: T.split_copy(input=x, split_size=1)[1], lambda: x[1:]),
    (lambda: F.one_hot(input=i), lambda: F.one_hot(i)),
    (lambda: F.relu_(input=x.clone()), lambda: F.relu(x)),
    (lambda: T.addmv_(input=v.clone(), mat=sq, vec=v), lambda: T.addmv(v, sq, v)),
    (lambda: T.abs_(input=x.clone()), lambda: x.abs()),
    (lambda: L.tensorinv(input=sq, ind=1), lambda: L.tensorinv(sq, 1)),
    (lambda: L.tensorsolve(input=sq, other=v), lambda: L.tensorsolve(sq, v)),
    (lambda: L.vector_norm(input=x), lambda: L.vector_norm(x)),
    (lambda: L.vector_norm(x=x), lambda: L.vector_norm(x)),
    (lambda: T.exp(x=x), lambda: T.exp(x)),
    (lambda: T.zeros(2, 3).copy_(other=x), lambda: x),
    (lambda: x.clone().resize_(size=(3,)), lambda: x.flatten()[:3]),
    (lambda: x.sum_to_size(size=(1, 3)), lambda: x.sum_to_size(1, 3)),
    (lambda: x.view(size=(3, 2)), lambda: x.view(3, 2)),
    (lambda: T.tril_indices(3, 3, requires_grad=False), lambda: T.tril_indices(3, 3)),
]

#: Calls with ``out=`` of what had none, and without.
OUT: list[tuple[Callable[[Any], Any], Callable[[], Any], Any]] = [
    (lambda t: T.clamp_max(x, 2, out=t), lambda: T.clamp_max(x, 2), o(2, 3)),
    (lambda t: T.clamp_min(x, 2, out=t), lambda: T.clamp_min(x, 2), o(2, 3)),
    (lambda t: T.deg2rad(x, out=t), lambda: T.deg2rad(x), o(2, 3)),
    (lambda t: T.rad2deg(x, out=t), lambda: T.rad2deg(x), o(2, 3)),
    (lambda t: T.diag(v, 1, out=t), lambda: T.diag(v, 1), o(3, 3)),
    (lambda t: T.isposinf(x, out=t), lambda: T.isposinf(x), o(2, 3, dtype=T.bool)),
    (lambda t: T.isneginf(x, out=t), lambda: T.isneginf(x), o(2, 3, dtype=T.bool)),
    (lambda t: T.max(x, out=t), lambda: T.max(x), o()),
    (lambda t: T.min(x, x, out=t), lambda: T.min(x, x), o(2, 3)),
    (lambda t: T.std(x, 1, out=t), lambda: T.std(x, 1), o(2)),
    (lambda t: T.var(x, dim=1, correction=0, keepdim=True, out=t), lambda: x.var(1, False, True), o(2, 1)),
    (lambda t: T.threshold(x, 2, 0, out=t), lambda: F.threshold(x, 2, 0), o(2, 3)),
    (lambda t: F.gelu(x, approximate="tanh", out=t), lambda: F.gelu(x, approximate="tanh"), o(2, 3)),
    (lambda t: F.softshrink(x, out=t), lambda: F.softshrink(x), o(2, 3)),
    (lambda t: F.avg_pool2d(image, 2, out=t), lambda: F.avg_pool2d(image, 2), o(1, 2, 2, 2)),
    (lambda t: F.avg_pool3d(image, 2, out=t), lambda: F.avg_pool3d(image, 2), o(1, 1, 2, 2)),
    (lambda t: T.linspace(0, 1, 3, out=t), lambda: T.linspace(0, 1, 3), o(3)),
]


@pytest.mark.parametrize("number", range(len(SAME)))
def test_by_another_name(number: int) -> None:
    by_name, plain = SAME[number]
    assert T.equal(by_name(), plain())


@pytest.mark.parametrize("number", range(len(OUT)))
def test_into_a_tensor_that_is_given(number: int) -> None:
    into, plain, out = OUT[number]
    assert into(out) is out and T.equal(out, plain())


def test_extrema_along_a_dim_into_a_pair() -> None:
    out = o(2), o(2, dtype=T.int64)
    found = T.max(x, 1, out=out)
    assert found.values is out[0] and found.indices is out[1] and out[0].tolist() == [3.0, 6.0]


def test_result_type_by_name() -> None:
    assert T.result_type(tensor=x, other=i) is T.result_type(scalar=1, tensor=x) is T.float32
    assert T.result_type(scalar1=1, scalar2=2.0) is T.float32 and T.result_type(i, 1) is T.int64
    with pytest.raises(TypeError, match="expected two tensors or numbers"):
        T.result_type(x)


def test_asarray_shares_copies_and_keeps_history() -> None:
    n, leaf = np.ones(3), T.ones(3, requires_grad=True)
    assert T.asarray(n).data_ptr() == n.ctypes.data != T.asarray(n, copy=True).data_ptr()
    assert T.asarray(leaf) is leaf and not T.asarray(leaf, copy=True).is_leaf
    assert not T.asarray(leaf, requires_grad=False).requires_grad
    assert T.asarray(n, copy=False, requires_grad=True).requires_grad
    for given, options in (([1.0], {}), (leaf, {"dtype": T.float64})):
        with pytest.raises(ValueError, match="can't alias"):
            T.asarray(given, copy=False, **options)


def test_names_given_twice_or_not_at_all() -> None:
    for call, match in (
        (lambda: T.hsplit(x, sections=3, indices=[1]), "multiple values"),
        (lambda: x.flip(), "missing required argument: 'dims'"),
        (lambda: T.flip(x, [0], dims=[1]), "one by one"),
        (lambda: x.view(3, 2, size=(3, 2)), "one by one"),
        (lambda: x.copy_(), "one tensor to copy from"),
        (lambda: T.hsplit(x, parts=3), "unexpected keyword argument"),
        (lambda: T.clamp_(min=2), "missing required argument: 'input'"),
    ):
        with pytest.raises(TypeError, match=match):
            call()
