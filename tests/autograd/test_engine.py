"""Backward and grad across operators: accumulation, errors, hooks, lifetimes, depth. Expected values by hand."""

import gc
import threading
import weakref

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import autograd


def leaf(*values):
    return tl.tensor(values, dtype=tl.float32).requires_grad_()


def test_chain_rule_and_accumulation():
    x = leaf(1.0, 2.0)
    (x * x).sum().backward()
    (x * 3).sum().backward()
    assert x.grad.tolist() == [5.0, 7.0]


def test_unbroadcast_sums_over_the_repeated_dimensions():
    a, b = tl.ones(3, 1).requires_grad_(), tl.ones(1, 4).requires_grad_()
    (a * b).sum().backward()
    assert a.grad.shape == (3, 1) and a.grad.tolist() == [[4.0]] * 3
    assert b.grad.tolist() == [[3.0] * 4]


def test_gradient_takes_the_dtype_of_its_leaf():
    a = tl.ones(2).requires_grad_()
    (a * tl.ones(2, dtype=tl.float64)).sum().backward()
    assert a.grad.dtype is tl.float32


def test_the_same_input_twice():
    x = leaf(3.0)
    (x * x * x).sum().backward()
    assert x.grad.item() == 27.0


def test_an_aliased_gradient_is_not_shared_between_leaves():
    a, b = leaf(1.0), leaf(2.0)
    (a + b).sum().backward()
    a.grad.mul_(10)
    assert b.grad.item() == 1.0


def test_the_seed_is_not_taken_over():
    a, seed = leaf(1.0), tl.ones(1)
    (a + 0).backward(seed)
    a.grad.mul_(5)
    assert seed.item() == 1.0


def test_grad_of_grad():
    x = leaf(2.0)
    (g,) = autograd.grad((x**3).sum(), x, create_graph=True)
    assert g.item() == 12.0
    (gg,) = autograd.grad(g.sum(), x)
    assert gg.item() == 12.0


def test_grad_of_an_intermediate_leaves_leaves_alone():
    x = leaf(2.0)
    y = x * 3
    (g,) = autograd.grad((y * y).sum(), y)
    assert g.item() == 12.0 and x.grad is None


def test_unused_inputs():
    x, y = leaf(1.0), leaf(1.0)
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        autograd.grad((x * 2).sum(), y)
    assert autograd.grad((x * 2).sum(), y, allow_unused=True) == (None,)
    assert autograd.grad((x * 2).sum(), y, materialize_grads=True)[0].item() == 0.0


def test_second_backward_needs_retain_graph():
    x = leaf(1.0)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 4.0
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_only_scalars_start_by_themselves():
    with pytest.raises(RuntimeError, match="only for scalar outputs"):
        (leaf(1.0, 2.0) * 2).backward()
    with pytest.raises(RuntimeError, match="does not require grad"):
        tl.ones(1).backward()
    with pytest.raises(RuntimeError, match="Mismatch in shape"):
        (leaf(1.0, 2.0) * 2).backward(tl.ones(3))


def test_modes():
    x = leaf(1.0)
    with tl.no_grad():
        assert not (x * 2).requires_grad
        with tl.enable_grad():
            assert (x * 2).requires_grad
    with tl.inference_mode():
        assert not (x * 2).requires_grad and tl.is_inference_mode_enabled()

    @tl.no_grad()
    def f():
        return x * 2

    @tl.no_grad
    def g():
        return x * 2

    assert not f().requires_grad and not g().requires_grad and (x * 2).requires_grad
    with tl.set_grad_enabled(False):
        assert not tl.is_grad_enabled()
    assert tl.is_grad_enabled()


def test_modes_belong_to_a_thread():
    seen = []
    with tl.no_grad():
        thread = threading.Thread(target=lambda: seen.append(tl.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_tensor_hooks_replace_the_gradient():
    x = leaf(1.0)
    y = x * 2
    handle = y.register_hook(lambda g: g * 10)
    x.register_hook(lambda g: g + 1)
    y.sum().backward(retain_graph=True)
    assert x.grad.item() == 21.0
    handle.remove()
    x.grad = None
    y.sum().backward()
    assert x.grad.item() == 3.0


def test_retain_grad_and_post_accumulate_hook():
    x = leaf(1.0)
    seen = []
    x.register_post_accumulate_grad_hook(lambda t: seen.append(t.grad.item()))
    y = x * 2
    y.retain_grad()
    (y * 3).sum().backward()
    assert y.grad.item() == 3.0 and seen == [6.0]


def test_detach_and_requires_grad():
    x = leaf(1.0)
    assert not (x * 2).detach().requires_grad
    with pytest.raises(RuntimeError, match="floating point"):
        tl.tensor([1]).requires_grad_()
    with pytest.raises(RuntimeError, match="leaf variables"):
        (x * 2).requires_grad_(False)


def test_depth_of_100_000_without_recursion():
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = y * 1.0
    y.sum().backward()
    assert x.grad.item() == 1.0
    del y  # freeing the chain must not recurse either


def test_the_graph_is_freed_by_reference_counting_alone():
    gc.collect()
    gc.disable()
    try:
        x = tl.ones(1000).requires_grad_()
        y = x.exp()  # keeps its own output
        y = (y * y.view(10, 100).transpose(0, 1).reshape(1000)).sum()
        array = weakref.ref(y._node)
        y.backward()
        del y
        assert array() is None
        z = (x.exp() * 2).tanh()
        nodes = weakref.ref(z._node)
        del z
        assert nodes() is None
    finally:
        gc.enable()


def test_backward_inputs_only():
    x, y = leaf(1.0), leaf(1.0)
    (x * y).sum().backward(inputs=[x])
    assert x.grad.item() == 1.0 and y.grad is None
    with pytest.raises(RuntimeError, match="cannot be empty"):
        (x * y).sum().backward(inputs=[])


def test_anomaly_mode_names_the_operator_and_its_line():
    x = leaf(-1.0)
    with pytest.warns(UserWarning, match="Anomaly Detection"):
        mode = autograd.detect_anomaly()
    with pytest.raises(RuntimeError, match=r"SqrtBackward0.*returned nan") as caught:
        with mode:
            y = x.sqrt()
            y.sum().backward()
    assert "y = x.sqrt()" in str(caught.value) and __file__ in str(caught.value)


def test_functions_of_ones_own():
    class Cube(autograd.Function):
        @staticmethod
        def forward(ctx, x, scale):
            ctx.save_for_backward(x)
            ctx.scale = scale
            return x * x * x * scale

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return 3 * x * x * ctx.scale * g, None

    x = leaf(2.0)
    y = Cube.apply(x, 2.0)
    assert type(y.grad_fn.rule).__name__ and "CubeBackward" in repr(y)
    (g,) = autograd.grad(y.sum(), x, create_graph=True)
    assert g.item() == 24.0
    assert autograd.grad(g.sum(), x)[0].item() == 24.0


def test_function_with_setup_context_and_several_outputs():
    class Both(autograd.Function):
        @staticmethod
        def forward(x):
            return x * 2, x * 3

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.n = len(inputs)

        @staticmethod
        def backward(ctx, a, b):
            return a * 2 + b * 3

    x = leaf(1.0)
    _, b = Both.apply(x)
    b.sum().backward()  # the first output's gradient comes as zeros
    assert x.grad.item() == 3.0


def test_function_errors():
    class Wrong(autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            return x * y

        @staticmethod
        def backward(ctx, g):
            return g

    with pytest.raises(RuntimeError, match="incorrect number of gradients"):
        Wrong.apply(leaf(1.0), leaf(1.0)).sum().backward()


def test_once_differentiable():
    class Once(autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @autograd.once_differentiable
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g * 2 * x

    x = leaf(3.0)
    (g,) = autograd.grad(Once.apply(x).sum(), x, create_graph=True)
    assert g.item() == 6.0
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


def test_saved_tensor_hooks_see_everything_that_is_kept():
    packed = []

    def pack(t):
        packed.append(t)
        return t.detach().numpy().copy()

    x, y = leaf(2.0), leaf(3.0)
    with autograd.saved_tensors_hooks(pack, lambda a: tl.from_numpy(a)):
        z = x * y
    z.sum().backward()
    assert len(packed) == 2 and x.grad.item() == 3.0 and y.grad.item() == 2.0


def test_checkpoint_gives_the_same_gradients_and_keeps_nothing():
    w = leaf(0.5, -0.5)
    calls = []

    def f(x):
        calls.append(1)
        return (x * w).tanh() * w

    x = leaf(1.0, 2.0)
    f(x).sum().backward()
    want_x, want_w = x.grad.clone(), w.grad.clone()
    x.grad = w.grad = None
    y = tl.utils.checkpoint.checkpoint(f, x, use_reentrant=False)
    assert len(calls) == 2
    y.sum().backward()
    assert len(calls) == 3
    assert tl.equal(x.grad, want_x) and tl.equal(w.grad, want_w)


def test_checkpoint_draws_the_same_random_numbers_again():
    x = tl.ones(1000).requires_grad_()

    def f(t):
        return tl.nn.functional.dropout(t, 0.5) * 2

    y = tl.utils.checkpoint.checkpoint(f, x, use_reentrant=False)
    after = tl.get_rng_state()
    y.sum().backward()
    assert tl.equal(x.grad, y.detach()) and tl.equal(tl.get_rng_state(), after)


def test_two_threads_may_go_back_at_once():
    results = []

    def work(k):
        x = tl.full((50,), float(k)).requires_grad_()
        for _ in range(20):
            x.grad = None
            (x * x).sum().backward()
        results.append((k, x.grad.numpy().copy()))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 4
    for k, g in results:
        assert np.all(g == 2 * k)
