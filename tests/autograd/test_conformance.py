"""What programs written for PyTorch rely on: attributes of the graph, the order of hooks, what is freed and kept."""

from __future__ import annotations

import gc
import pickle
import warnings
import weakref

import numpy as np
import pytest

import tensorlib as T
from tensorlib import nn
from tensorlib.autograd import Function, graph
from tensorlib.utils.checkpoint import CheckpointError, checkpoint, set_checkpoint_early_stop


def leaf(*values: float) -> T.Tensor:
    return T.tensor(list(values), requires_grad=True)


# -------------------------------------------------------------------------------------------------- what is freed


def test_what_keeps_no_values_can_be_gone_through_again() -> None:
    x = leaf(1.0, 2.0)
    y = (x + 1).reshape(2, 1).expand(2, 3).sum()
    y.backward()
    y.backward()
    assert x.grad.tolist() == [6.0, 6.0]
    y = (x * 2).sum()
    y.backward()
    with pytest.raises(RuntimeError, match=r"second time.*Specify retain_graph=True"):
        y.backward()


def test_a_functions_saved_tensors_are_freed_with_the_graph() -> None:
    class Keep(Function):
        @staticmethod
        def forward(ctx, x, held):
            ctx.save_for_backward(held)
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * ctx.saved_tensors[0], None

    held = T.ones(2)
    alive = weakref.ref(held)
    out = Keep.apply(leaf(1.0, 2.0), held)
    del held
    out.sum().backward()
    gc.collect()
    assert alive() is None
    with pytest.raises(RuntimeError, match="already been freed"):
        _ = out.grad_fn.saved_tensors


# -------------------------------------------------------------------------------------------------- nodes


def test_nodes_have_the_class_of_their_operator_and_show_what_they_keep() -> None:
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    y = x * w
    assert type(y.grad_fn).__name__ == "MulBackward0" and y.grad_fn.name() == "MulBackward0"
    assert isinstance(y.grad_fn, graph.Node)
    assert y.grad_fn._saved_self is x and y.grad_fn._saved_other is w
    assert {"_saved_self", "_saved_other"} <= set(dir(y.grad_fn))
    e = y.exp()
    assert T.equal(e.grad_fn._saved_result, e) and T.stack([x, w], dim=1).grad_fn._saved_dim == 1
    assert [g.tolist() for g in y.grad_fn(T.ones(2))] == [[3.0, 4.0], [1.0, 2.0]]
    with pytest.raises(TypeError, match="expected 1 arguments, got 2"):
        y.grad_fn(T.ones(2), T.ones(2))
    e.sum().backward()
    with pytest.raises(RuntimeError, match="already been freed"):
        _ = e.grad_fn._saved_result
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = e.grad_fn.nothing


def test_a_kept_tensor_can_be_packed_by_hand() -> None:
    x = leaf(3.0)
    y = x * x
    y.grad_fn._raw_saved_self.register_hooks(lambda t: t.numpy(force=True) * 2, lambda a: T.from_numpy(a))
    y.backward()
    assert x.grad.item() == 3 + 6  # one of the two factors came back doubled
    with pytest.raises(RuntimeError, match="forbidden"):
        T.autograd.SavedTensor()


def test_hooks_on_kept_leaves_reach_second_order() -> None:
    x = leaf(2.0)
    with graph.saved_tensors_hooks(lambda t: t * 2, lambda t: t):
        y = x**3
    (g,) = T.autograd.grad(y, x, create_graph=True)
    g.backward()
    assert g.item() == 3 * 16 and x.grad.item() == 6 * 4  # of the doubled x


def test_versions_are_numbers() -> None:
    x = T.zeros(2)
    assert x._version == 0
    x.add_(1).mul_(2)
    assert x._version == 2 and x[:1]._version == 2
    x.resize_(1)
    assert x._version == 3


# -------------------------------------------------------------------------------------------------- hooks


def test_hooks_at_a_leaf_run_in_pytorchs_order() -> None:
    log: list[str] = []
    x = leaf(1.0)
    place = x.clone().grad_fn.next_functions[0][0]

    def after(t: T.Tensor) -> None:
        log.append("after")

    place.register_prehook(lambda gs: log.append("pre") or (gs[0] * 10,))
    place.register_hook(lambda ins, outs: log.append(f"done {len(ins)} {outs[0].item():.0f}"))
    x.register_post_accumulate_grad_hook(after)
    x.register_hook(lambda g: log.append("tensor") or g + 1)
    (x * 3).backward()
    assert log == ["tensor", "pre", "after", "done 0 40"] and x.grad.item() == 40
    log.clear()
    assert T.autograd.grad(x * 3, x)[0].item() == 4 and log == ["tensor"]
    log.clear()
    (x * 3).backward(inputs=[x])
    assert log == ["tensor", "pre", "after", "done 0 40"]


def test_retain_grad_follows_views_of_what_is_written() -> None:
    base = leaf(1.0).clone()
    view, other = base[:], base[:]
    view.retain_grad()
    other.retain_grad()
    view.mul_(2)
    (view + other).sum().backward()
    assert view.grad.item() == 1 and other.grad.item() == 1


def test_callbacks_run_at_the_end_of_a_backward() -> None:
    x, log = leaf(1.0), []
    queue = T.autograd.Variable._execution_engine.queue_callback
    x.register_hook(lambda g: queue(lambda: log.append(x.grad.item())))
    (x * 3).backward()
    assert log == [3.0]
    with pytest.raises(RuntimeError, match="during backward"):
        queue(lambda: None)


def test_grad_of_what_is_no_leaf_warns() -> None:
    y = leaf(1.0) * 2
    with pytest.warns(UserWarning, match="not a leaf"):
        assert y.grad is None
    y.retain_grad()
    assert y.grad is None


# -------------------------------------------------------------------------------------------------- edges


def test_gradients_from_and_to_edges_of_the_graph() -> None:
    x = leaf(1.0, 2.0)
    middle = x.sin().cos()
    edge = graph.get_gradient_edge(middle)
    (g,) = T.autograd.grad(middle.exp().sum(), (edge,))
    (through,) = T.autograd.grad(edge, (x,), grad_outputs=(g,))
    (whole,) = T.autograd.grad(x.sin().cos().exp().sum(), (x,))
    np.testing.assert_allclose(through.numpy(), whole.numpy())
    with pytest.raises(RuntimeError, match="Mismatch in shape"):
        T.autograd.grad(graph.get_gradient_edge(x.sin()), (x,), grad_outputs=(T.ones(3),))


def test_materialized_gradients_can_be_differentiated() -> None:
    x, a = leaf(0.5), leaf(1.0)
    first = T.autograd.grad(x * a, x, create_graph=True)
    second = T.autograd.grad(first, x, create_graph=True, materialize_grads=True)
    assert T.autograd.grad(second, x, materialize_grads=True)[0].item() == 0
    with pytest.raises(ValueError, match="allow_unused"):
        T.autograd.grad(x * a, x, allow_unused=False, materialize_grads=True)
    with pytest.raises(ValueError, match="non-empty"):
        T.autograd.grad(x * a, [])


# -------------------------------------------------------------------------------------------------- functions


def test_gradients_of_a_function_are_summed_over_what_was_broadcast() -> None:
    class Add(Function):
        @staticmethod
        def forward(ctx, x, y):
            return x + y

        @staticmethod
        def vjp(ctx, g):
            return g, g.double()

    x, y = leaf(1.0), T.zeros(2, 3, requires_grad=True)
    Add.apply(x, y).sum().backward()
    assert x.grad.tolist() == [6.0] and y.grad.dtype is T.float32

    class Wrong(Function):
        @staticmethod
        def forward(ctx, x):
            return x.sum()

        @staticmethod
        def backward(ctx, g):
            return T.ones(7)

    with pytest.raises(RuntimeError, match=r"invalid gradient at index 0 - got \[7\] but expected shape compatible"):
        Wrong.apply(y).backward()


def test_a_function_may_write_into_a_view() -> None:
    class Add(Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.mark_dirty(x)
            return x.add_(y)

        @staticmethod
        def backward(ctx, g):
            return g, g * 2

    root, y = T.zeros(3, 2, requires_grad=True), T.ones(2, requires_grad=True)
    x = root.clone()
    out = Add.apply(x[1], y)
    assert out._base is x and x.tolist() == [[0, 0], [1, 1], [0, 0]]
    (x * T.arange(6.0).reshape(3, 2)).sum().backward()
    assert y.grad.tolist() == [4.0, 6.0] and root.grad.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert x.grad_fn.name() == "CopySlices"
    with pytest.raises(RuntimeError, match="leaf Variable"):
        Add.apply(root, T.zeros(2))


def test_setup_context_sees_forwards_defaults() -> None:
    class Power(Function):
        @staticmethod
        def forward(x, n=3):
            return x**n

        @staticmethod
        def setup_context(ctx, inputs, output):
            x, ctx.n = inputs
            ctx.save_for_backward(x)

        @staticmethod
        def backward(ctx, g):
            return g * ctx.n * ctx.saved_tensors[0] ** (ctx.n - 1), None

    x = leaf(2.0)
    Power.apply(x).backward()
    assert x.grad.item() == 12


def test_old_forms_of_functions_are_refused() -> None:
    class Old(Function):
        def forward(self, x):
            return x

    with pytest.warns(DeprecationWarning, match="should not be instantiated"):
        old = Old()
    with pytest.raises(RuntimeError, match="Legacy autograd function"):
        old(T.ones(1))
    with pytest.raises(NotImplementedError, match="implement the forward"):
        type("Empty", (Function,), {}).apply(T.ones(1))


# -------------------------------------------------------------------------------------------------- checkpoints


def test_checkpoints_compute_again_in_each_backward_and_check_what_they_get() -> None:
    calls = [0]

    def count(x):
        calls[0] += 1
        return x.sin().exp()

    x = leaf(1.0)
    y = checkpoint(count, x, use_reentrant=False)
    y.sum().backward(retain_graph=True)
    y.sum().backward()
    assert calls == [3]

    first = [True]

    def changes(x):
        grown, first[0] = not first[0], False
        return (x.sin() * T.ones(2) if grown else x.sin() * 2).exp()

    with pytest.raises(CheckpointError, match="different metadata"):
        checkpoint(changes, leaf(1.0), use_reentrant=False).sum().backward()
    with pytest.raises(ValueError, match="use_reentrant=False"):
        checkpoint(count, x, use_reentrant=True, debug=True)


def test_checkpoints_contexts_and_early_stop() -> None:
    log = []

    class Say:
        def __init__(self, what):
            self.what = what

        def __enter__(self):
            log.append(self.what)

        def __exit__(self, *_):
            log.append(f"end of {self.what}")

    last = [0]

    def function(x):
        y = x.sin()
        last[0] += 1
        return y.cos() + 1 if log is None else y.clone()

    for stop, runs in ((True, 1), (False, 2)):
        last[0] = 0
        log.clear()
        with set_checkpoint_early_stop(stop):
            y = checkpoint(function, leaf(1.0), use_reentrant=False, context_fn=lambda: (Say("one"), Say("two")))
        y.backward()
        assert log == ["one", "end of one", "two", "end of two"] and last == [runs]


# -------------------------------------------------------------------------------------------------- modes


def test_generators_get_what_is_thrown_into_them() -> None:
    class Stop(Exception):
        pass

    @T.no_grad()
    def steps():
        try:
            yield T.is_grad_enabled()
        except Stop:
            yield "caught" if not T.is_grad_enabled() else "with gradients"
        finally:
            done.append(T.is_grad_enabled())

    done: list[bool] = []
    made = steps()
    assert next(made) is False and T.is_grad_enabled()
    assert made.throw(Stop()) == "caught"
    made.close()
    assert done == [False]


def test_hooks_entered_and_not_left_are_one_stack() -> None:
    hooks = graph.saved_tensors_hooks(lambda t: t, lambda t: t)
    hooks.__enter__()
    hooks.__enter__()
    hooks.__exit__()
    hooks.__exit__()
    hooks.__exit__()
    x = leaf(2.0)
    y = x.exp()
    y.grad_fn._raw_saved_result.register_hooks(lambda t: t, lambda t: t)
    with pytest.raises(RuntimeError, match="modifying its input"), graph.saved_tensors_hooks(
        lambda t: t.mul_(2), lambda t: t
    ):
        x.exp()


# -------------------------------------------------------------------------------------------------- other habits


def test_the_oldest_forms_of_add_and_its_kin() -> None:
    x, y = T.ones(2), T.tensor([2.0, 4.0])
    for call in (
        lambda: x.add(0.5, y), lambda: T.add(x, 0.5, y), lambda: x.clone().add_(0.5, y),
        lambda: x.addcmul(0.25, y, 2 * x), lambda: x.clone().addcdiv_(0.5, y, x), lambda: x.clone().sub_(-0.5, y),
    ):  # fmt: skip
        with pytest.warns(UserWarning, match="deprecated"):
            assert call().tolist() == [2.0, 3.0]
    with pytest.raises(TypeError, match="positional"):
        x.add(y, 2)


def test_factories_write_into_out_as_it_lies() -> None:
    x = T.zeros(2, 3)
    T.linspace(0, 3, 4, out=x[:, 1:])
    assert x.tolist() == [[0, 0, 1], [0, 2, 3]]
    assert T.arange(3, out=T.empty(0, dtype=T.int32)).dtype is T.int32
    assert T.randn(3, 2, out=T.empty(0)).shape == (3, 2) and T.randperm(4, out=T.empty(0, dtype=T.int64)).numel() == 4
    with pytest.raises(RuntimeError, match="does not match dtype of out"):
        T.zeros(2, dtype=T.int64, out=T.zeros(2))


def test_set_takes_storages_and_places() -> None:
    x = T.arange(6.0)
    assert T.empty(0).set_(x.storage(), 1, (2, 2), (2, 1)).tolist() == [[1, 2], [3, 4]]
    assert T.empty(0).set_(x, 2, (2,)).tolist() == [2, 3] and T.ones(2).set_().numel() == 0
    wide = T.zeros(7, 3, 2)[:, 1]
    wide.fill_diagonal_(1, wrap=True)
    assert wide.tolist() == [[1, 0], [0, 1], [0, 0], [1, 0], [0, 1], [0, 0], [1, 0]]


def test_an_empty_batch_leaves_the_running_statistics() -> None:
    m = nn.BatchNorm2d(3)
    m(T.ones(0, 3, 2, 2)).sum().backward()
    assert m.running_mean.tolist() == [0] * 3 and m.running_var.tolist() == [1] * 3
    assert m.weight.grad.tolist() == [0] * 3


def test_modules_registration_hooks_and_init_of_the_next_class() -> None:
    from tensorlib.nn.module import register_module_parameter_registration_hook

    seen = []
    with register_module_parameter_registration_hook(lambda module, name, p: seen.append(name)):
        m = nn.Linear(2, 2)
    assert seen == ["weight", "bias"]

    class Beside:
        def __init__(self, n):
            self.n = n

    class Both(nn.Module, Beside):
        call_super_init = True

    assert Both(3).n == 3
    with pytest.raises(TypeError, match="takes 1 positional argument but 2"):
        nn.Module(3)
    gc.collect()
    gc.disable()
    try:
        m.load_state_dict(m.state_dict())
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_functions_are_pickled_by_their_place() -> None:
    for f in (nn.functional.softsign, nn.functional.softmax, T.linalg.qr, T.add, T.add_):
        assert pickle.loads(pickle.dumps(f)) is f


def test_gradcheck_moves_what_a_module_holds() -> None:
    m = nn.Linear(2, 1).double()
    x = T.ones(3, 2, dtype=T.float64)
    assert T.autograd.gradcheck(lambda *_: m(x), tuple(m.parameters()))


def test_set_detect_anomaly_may_leave_nan_alone() -> None:
    x = leaf(0.0)
    with T.autograd.set_detect_anomaly(True, check_nan=False), warnings.catch_warnings():
        (x / x).sqrt().sum().backward()
    assert np.isnan(x.grad.item())


def test_a_checkpointed_function_may_take_a_gradient_itself() -> None:
    def function(x):
        y = x.sin().exp().sin()
        return T.autograd.grad(y, x, create_graph=True)[0]

    x = leaf(0.7)
    (plain,) = T.autograd.grad(function(x), x)
    for stop in (True, False):
        with set_checkpoint_early_stop(stop):
            (again,) = T.autograd.grad(checkpoint(function, x, use_reentrant=False), x)
        assert again.item() == pytest.approx(plain.item(), rel=1e-6)


def test_the_gradient_of_a_negative_number_to_a_complex_power() -> None:
    base = T.tensor([-3.0, 2.0], dtype=T.float64, requires_grad=True)
    exponent = T.tensor([1 + 2j, 0.5 - 1j], dtype=T.complex128, requires_grad=True)
    assert T.autograd.gradcheck(T.pow, (base, exponent))


# ------------------------------------------------------------------------- derivatives that PyTorch's OpInfos ask for


def derivatives_agree(f, *values: T.Tensor) -> None:
    """Forward mode, and forward over reverse mode, beside central differences."""
    rng = np.random.default_rng(3)
    xs = [v.double() for v in values]
    ts = [T.tensor(rng.standard_normal(tuple(x.shape))) for x in xs]
    g = T.tensor(rng.standard_normal(tuple(f(*xs).shape)))

    def gradients(*at: T.Tensor) -> tuple[T.Tensor, ...]:
        return T.func.vjp(f, *at)[1](g)

    ends = [[x + e * t for x, t in zip(xs, ts, strict=True)] for e in (1e-5, -1e-5)]
    for function in (lambda *at: (f(*at),), gradients):
        found = T.func.jvp(function, tuple(xs), tuple(ts))[1]
        for high, low, tangent in zip(*(function(*at) for at in ends), found, strict=True):
            np.testing.assert_allclose(tangent.numpy(), ((high - low) / 2e-5).numpy(), rtol=1e-6, atol=1e-7)


def test_places_that_are_written_twice_count_once() -> None:
    index = T.tensor([[0, 0, 1], [1, 1, 1]])
    derivatives_agree(lambda x, s: x.scatter(1, index, s), T.randn(2, 3), T.randn(2, 3))
    derivatives_agree(lambda x, s: x.index_put((index[0],), s), T.randn(2, 3), T.randn(3, 3))
    derivatives_agree(lambda x, v: x.index_fill(1, index[0], v), T.randn(2, 3), T.tensor(2.0))
    derivatives_agree(lambda x, v: (x * 1).index_fill_(0, index[0], v), T.randn(2, 3), T.tensor(2.0))
    places = T.tensor([[[0, 0, 5], [1, 5, 5]]])
    derivatives_agree(lambda x: T.nn.functional.max_unpool1d(x, places, 2), T.randn(1, 2, 3))


def test_products_with_several_zeros_have_second_derivatives() -> None:
    index = T.tensor([[0, 0, 1], [1, 1, 1], [0, 2, 2]])
    src = T.tensor([[0.0, 2, 3], [0, 1, 0], [1, 0, 0]])
    for x in (T.randn(3, 3), T.tensor([[1.0, 2, 3], [4, 0, 5], [6, 7, 0]])):
        derivatives_agree(lambda x, s: x.scatter_reduce(1, index, s, "prod"), x, src)


def test_norms_of_zeros_have_derivatives_of_zero() -> None:
    for p in (2, 3, 1.5):
        for x in (T.zeros(3), T.zeros(0)):
            assert T.func.jvp(lambda x, p=p: T.linalg.vector_norm(x, p), (x,), (T.ones_like(x),))[1].item() == 0
            if p == 2:
                assert T.func.hessian(T.linalg.vector_norm)(x).abs().sum().item() == 0
    assert T.linalg.pinv(T.zeros(0, 3, requires_grad=True)).requires_grad


def test_the_hessian_of_logcumsumexp() -> None:
    derivatives_agree(lambda x: x.logcumsumexp(0), T.tensor([1.0, -2, 30, 29.5]))
    found = T.func.hessian(lambda x: x.logcumsumexp(0)[-1])(T.tensor([1.0, 2.0]))
    p = T.softmax(T.tensor([1.0, 2.0]), 0)
    np.testing.assert_allclose(found.numpy(), (p.diag() - T.outer(p, p)).numpy(), rtol=1e-5)


def test_masked_scatter_of_a_batch_of_masks() -> None:
    x, mask, source = T.randn(3, 4), T.tensor([[1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1]]).bool(), T.randn(3, 4)
    found = T.func.vmap(T.masked_scatter)(x, mask, source)
    expected = T.stack([a.masked_scatter(m, b) for a, m, b in zip(x, mask, source, strict=True)])
    assert found.equal(expected)


def test_a_normal_draw_has_gradients_of_zero() -> None:
    mean, std = leaf(1.0, 2.0), leaf(0.5, 1.0)
    T.normal(mean, std).sum().backward()
    assert mean.grad.tolist() == std.grad.tolist() == [0.0, 0.0]


def test_layers_have_pytorchs_classes_and_edges() -> None:
    modules = nn.modules
    assert isinstance(nn.ReLU6(), nn.Hardtanh) and repr(nn.ReLU6(True)) == "ReLU6(inplace=True)"
    for layer, base in (
        (nn.Dropout2d(), modules.dropout._DropoutNd), (nn.ConvTranspose1d(1, 1, 1), modules.conv._ConvTransposeNd),
        (nn.BatchNorm1d(1), modules.batchnorm._NormBase), (nn.MaxPool2d(2), modules.pooling._MaxPoolNd),
        (nn.AvgPool1d(2), modules.pooling._AvgPoolNd), (nn.ZeroPad2d(1), modules.padding._ConstantPadNd),
        (nn.ReflectionPad1d(1), modules.padding._ReflectionPadNd),
    ):  # fmt: skip
        assert isinstance(layer, base)
    assert "(out_proj): NonDynamicallyQuantizableLinear(in_features=4" in repr(nn.MultiheadAttention(4, 2))
    with pytest.raises(TypeError, match="delta"):
        nn.HuberLoss(delta=1j)
    assert nn.GRUCell(3, 0)(T.zeros(2, 3)).shape == (2, 0)
    assert [h.shape for h in nn.LSTMCell(3, 0)(T.zeros(2, 3))] == [(2, 0), (2, 0)]
