"""The graph from outside: nodes and edges, hooks, forward mode by hand, what grad computes and what it does not."""

import pytest

import tensorlib as tl
from tensorlib import autograd
from tensorlib.autograd import forward_ad, graph
from tensorlib.op import registry


def leaf(*values):
    return tl.tensor(values, dtype=tl.float32).requires_grad_()


def test_nodes():
    a = leaf(1.0, 2.0)
    node = (a * 2).grad_fn
    (source, index), rest = node.next_functions
    assert node.name() == "MulBackward0" and source.variable is a and index == 0 and rest == (None, 0)
    node.metadata["key"] = 1
    assert node.metadata == {"key": 1} and source.next_functions == ()


def test_node_hooks():
    a = leaf(1.0, 2.0)
    out = a * 2
    seen = []
    out.grad_fn.register_prehook(lambda grads: (grads[0] * 10,))
    handle = out.grad_fn.register_hook(lambda ins, outs: seen.append((ins[0].tolist(), outs[0].tolist())))
    out.sum().backward(retain_graph=True)
    assert seen == [([20.0, 20.0], [10.0, 10.0])] and a.grad.tolist() == [20.0, 20.0]
    handle.remove()
    out.sum().backward()
    assert len(seen) == 1


def test_gradient_edges_are_inputs_of_grad():
    a = leaf(1.0, 2.0)
    b = a * 3
    edges = graph.get_gradient_edge(b), graph.get_gradient_edge(a)
    assert [g.tolist() for g in autograd.grad((b * b).sum(), edges)] == [[6.0, 12.0], [18.0, 36.0]]
    with pytest.raises(RuntimeError, match="does not require"):
        graph.get_gradient_edge(tl.ones(2))


def test_hooks_on_several_tensors():
    a, b, c = leaf(1.0), leaf(2.0), leaf(3.0)
    every, first = [], []
    handle = graph.register_multi_grad_hook([a, b, c], every.append)
    graph.register_multi_grad_hook([a, b], first.append, mode="any")
    (a * b).sum().backward()
    assert [None if g is None else g.tolist() for g in every[0]] == [[2.0], [1.0], None] and len(first) == 1
    handle.remove()
    (a * b).sum().backward()
    assert len(every) == 1 and len(first) == 2


def test_kept_values_may_be_written_inside():
    a = leaf(1.0, 2.0)
    with graph.allow_mutation_on_saved_tensors():
        b = a * 1
        out = b.sin()
        b.mul_(0)
        assert autograd.grad(out.sum(), a)[0].tolist() == a.cos().tolist()
    b = a * 1
    out = b.sin()
    graph.increment_version(b)
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        autograd.grad(out.sum(), a)


def test_kept_values_elsewhere():
    a = leaf(1.0, 2.0)
    with graph.save_on_cpu():
        out = (a.exp() * a).sum()
    out.backward()
    assert a.grad.tolist() == (a.exp() * (1 + a)).tolist()
    with graph.disable_saved_tensors_hooks("not here"), pytest.raises(RuntimeError, match="not here"):
        graph.save_on_cpu().__enter__()


def test_grad_computes_no_gradient_that_nobody_wants(monkeypatch):
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    out = (a * b).sum()
    rule = registry["mul"].vjps["other"]
    monkeypatch.setattr(rule, "function", lambda *args: pytest.fail("the gradient of `other` was computed"))
    assert autograd.grad(out, a)[0].tolist() == [3.0, 4.0]


def test_dual_tensors():
    a, t = tl.tensor([1.0, 2.0]), tl.tensor([10.0, 20.0])
    with forward_ad.dual_level():
        made = forward_ad.make_dual(a, t)
        out = forward_ad.unpack_dual(made * made)
        assert out.primal.tolist() == [1.0, 4.0] and out.tangent.tolist() == [20.0, 80.0]
        assert forward_ad.unpack_dual(a).tangent is None
        buffer = tl.zeros(3, 2)
        buffer[1] = made
        assert forward_ad.unpack_dual(buffer).tangent.tolist() == [[0.0, 0.0], [10.0, 20.0], [0.0, 0.0]]
        with pytest.raises(RuntimeError, match="Nested"):
            forward_ad.enter_dual_level()
        with pytest.raises(RuntimeError, match="size"):
            forward_ad.make_dual(a, tl.ones(3))
    with pytest.raises(RuntimeError, match="no level"):
        forward_ad.make_dual(a, t)


def test_a_leaf_keeps_no_tangent():
    w = leaf(2.0, 3.0)
    with forward_ad.dual_level():
        (forward_ad.make_dual(tl.ones(2), tl.ones(2)) * w).sum().backward()
        assert forward_ad.unpack_dual(w.grad).tangent is None
    assert w.grad.numpy().tolist() == [1.0, 1.0]
