"""What programs written for PyTorch rely on: found by running public programs and PyTorch's own tests."""

import numpy as np
import pytest
from tensorlib.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
)

import tensorlib as T
from tensorlib import distributed as dist
from tensorlib import nn
from tensorlib._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from tensorlib.distributed import nn as collectives
from tensorlib.nn.utils.stateless import functional_call
from tensorlib.utils.checkpoint import checkpoint


def test_saved_leaves_come_back_as_themselves() -> None:
    """The adjoint method: backward asks for gradients of what it saved, by a graph of its own."""

    class Again(T.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return (x * w).sin()

        @staticmethod
        def backward(ctx, g):
            x, w = ctx.saved_tensors
            assert w is weight and w.requires_grad
            with T.enable_grad():
                x = x.detach().requires_grad_()
                return T.autograd.grad((x * w).sin(), (x, w), g)

    x, weight = T.tensor(2.0, requires_grad=True), T.tensor(3.0, requires_grad=True)
    Again.apply(x, weight).backward()
    np.testing.assert_allclose([x.grad.item(), weight.grad.item()], [3 * np.cos(6), 2 * np.cos(6)], rtol=1e-6)


def test_numpy_of_a_parameter_without_grad_mode() -> None:
    p = nn.Parameter(T.ones(2))
    with T.no_grad():
        assert p.numpy().tolist() == [1.0, 1.0]


def test_deleting_grad() -> None:
    p = T.ones(2, requires_grad=True)
    p.sum().backward()
    del p.grad
    assert p.grad is None


def test_a_given_gradient_takes_the_outputs_dtype() -> None:
    p = T.ones(2, dtype=T.float64, requires_grad=True)
    (g,) = T.autograd.grad(p * 2, p, T.ones(2))
    assert g.dtype is T.float64


def test_hooks_after_accumulation_may_step() -> None:
    p = T.ones(2, requires_grad=True)

    def step(t: T.Tensor) -> None:
        t.sub_(t.grad)

    p.register_post_accumulate_grad_hook(step)
    (p * 3).sum().backward()
    assert p.tolist() == [-2.0, -2.0] and T.is_grad_enabled()


def test_checkpoint_computes_again_under_the_same_autocast() -> None:
    layer, x = nn.Linear(4, 4), T.ones(2, 4, requires_grad=True)
    with T.autocast("cpu", dtype=T.bfloat16):
        out = checkpoint(lambda x: layer(layer(x)), x, use_reentrant=False)
        assert out.dtype is T.bfloat16
    out.float().sum().backward()
    assert x.grad.dtype is T.float32 and x.grad.abs().sum() > 0


def test_jvp_gets_zeros_for_constant_tensors() -> None:
    class Product(T.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_forward(x, y)
            return x * y

        @staticmethod
        def jvp(ctx, dx, dy):
            x, y = ctx.saved_tensors
            return dx * y + x * dy

    with T.autograd.forward_ad.dual_level():
        x = T.autograd.forward_ad.make_dual(T.tensor(2.0), T.tensor(1.0))
        assert T.autograd.forward_ad.unpack_dual(Product.apply(x, T.tensor(5.0))).tangent.item() == 5.0


def test_hooks_of_all_modules() -> None:
    seen = []
    handles = [
        register_module_forward_pre_hook(lambda m, args: seen.append(("pre", type(m).__name__))),
        register_module_forward_hook(lambda m, args, out: out * 2),
        register_module_full_backward_hook(lambda m, gi, go: seen.append(("back", type(m).__name__))),
    ]
    try:
        model = nn.Sequential(nn.Identity())
        x = T.ones(2, requires_grad=True)
        assert model(x).tolist() == [4.0, 4.0]
        model(x).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    assert seen[:2] == [("pre", "Sequential"), ("pre", "Identity")]
    assert seen[-2:] == [("back", "Identity"), ("back", "Sequential")]
    before = len(seen)
    assert model(x).tolist() == [1.0, 1.0] and len(seen) == before


def test_deprecated_initialisers_and_functional_call() -> None:
    with pytest.warns(FutureWarning, match="in favor of `nn.init.constant_`"):
        assert nn.init.constant(T.empty(2), 3).tolist() == [3.0, 3.0]
    m = nn.Linear(2, 1, bias=False)
    assert functional_call(m, {"weight": T.ones(1, 2)}, (T.ones(2),)).item() == 2.0


def test_a_group_of_one_process() -> None:
    parts = [T.ones(2, 2), T.zeros(3)]
    again = _unflatten_dense_tensors(_flatten_dense_tensors(parts), parts)
    assert [t.shape for t in again] == [(2, 2), (3,)] and again[0].sum() == 4
    dist.init_process_group("gloo", rank=0, world_size=1)
    try:
        x = T.ones(2, requires_grad=True)
        collectives.all_reduce(x).sum().backward()
        out = T.empty(2)
        assert dist.all_reduce(out, async_op=True).wait() and dist.new_group([0]).size() == 1
        dist.all_gather_into_tensor(out, T.full((2,), 5.0))
        assert out.tolist() == [5.0, 5.0] and x.grad.tolist() == [1.0, 1.0]
        assert dist.group.WORLD.rank() == 0 and len(collectives.all_gather(x)) == 1
    finally:
        dist.destroy_process_group()
