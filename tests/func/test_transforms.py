"""Transforms of functions beside PyTorch's stored numbers, and what they refuse. By operator: test_operators.py."""

import re
from pathlib import Path

import numpy as np
import pytest
from func_programs import leaves, programs

import tensorlib as tl
from tensorlib import func
from tensorlib.func import grad, jacfwd, jacrev, jvp, vmap
from tensorlib.testing import assert_close
from tensorlib.utils import _pytree

EXPECTED = dict(np.load(Path(__file__).with_name("torch.npz")))
PROGRAMS = programs(tl, func, vmap)


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_pytorch(name):
    found = leaves(PROGRAMS[name]())
    wanted = [EXPECTED[f"{name} {i}"] for i in range(len(found))]
    assert f"{name} {len(found)}" not in EXPECTED
    for got, want in zip(found, wanted, strict=True):
        got = got.detach().numpy()
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-6 if want.dtype == np.float64 else 1e-4, atol=1e-9)


def x():
    return tl.arange(6.0).reshape(2, 3) + 1


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: vmap(lambda a: a.sum().item())(x()), RuntimeError, "item"),
        (lambda: vmap(lambda a: a if a.sum() > 0 else -a)(x()), RuntimeError, "where"),
        (lambda: vmap(lambda a: a.nonzero())(x()), RuntimeError, "dynamic"),
        (lambda: vmap(lambda a: a[a > 2])(x()), RuntimeError, "dynamic"),
        (lambda: vmap(lambda a: tl.zeros(3).add_(a))(x()), RuntimeError, "inplace"),
        (lambda: vmap(lambda a: tl.rand(2) + a.sum())(x()), RuntimeError, "randomness"),
        (lambda: vmap(lambda a: a, in_dims=(0, 0))(x()), ValueError, "structure"),
        (lambda: vmap(lambda a: a, in_dims=2)(x()), ValueError, "dimensionality 2"),
        (lambda: vmap(lambda a, b: a)(x(), x().mT), ValueError, r"\[2, 3\]"),
        (lambda: vmap(lambda a: 5)(x()), ValueError, "must only return Tensors"),
        (lambda: vmap(lambda a, n: a, in_dims=(0, 0))(x(), 3), ValueError, "type int"),
        (lambda: vmap(lambda a: a, out_dims=None)(x()), ValueError, "depends on the batch"),
        (lambda: vmap(lambda a: a, chunk_size=0)(x()), ValueError, "chunk_size"),
        (lambda: grad(lambda a: a)(x()), RuntimeError, "scalar"),
        (lambda: grad(lambda a: a.sum(), argnums=2)(x()), RuntimeError, "argnum=2"),
        (lambda: grad(lambda a: a.sum())(tl.ones(3, dtype=tl.int64)), RuntimeError, "floating point"),
        (lambda: jvp(lambda a: a, x(), x()), RuntimeError, "tuple"),
        (lambda: jvp(lambda a: tl.ones(2), (x(),), (x(),), strict=True), RuntimeError, "independent"),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_random_numbers():
    different = vmap(lambda a: tl.rand(50) + 0 * a, randomness="different")(tl.zeros(2))
    same = vmap(lambda a: tl.rand(50) + 0 * a, randomness="same")(tl.zeros(2))
    assert not (different[0] == different[1]).any() and (same[0] == same[1]).all()
    order = vmap(lambda a: tl.randperm(50) + a.long(), randomness="different")(tl.zeros(2))
    assert (order[0] != order[1]).any() and order.sort(1)[0].tolist() == [list(range(50))] * 2


@pytest.mark.parametrize("randomness", ["different", "same"])
def test_a_gradient_meets_the_numbers_that_were_drawn(randomness):
    def dropped(w, a):
        out = tl.nn.functional.dropout(w * a, 0.5)
        return out.sum(), out

    gradient, out = vmap(grad(dropped, has_aux=True), (None, 0), randomness=randomness)(tl.ones(40), tl.ones(3, 40))
    assert (gradient == out).all()
    assert (out[0] == out[1]).all() == (randomness == "same")


def test_captured_tensors_keep_their_gradients():
    w = tl.ones(3).requires_grad_()
    out = vmap(lambda a: (w * a).sum())(x())
    out.sum().backward()
    assert w.grad.tolist() == x().sum(0).tolist()
    inner = grad(lambda a: (w * a**2).sum())(tl.ones(3))
    assert tl.autograd.grad(inner.sum(), w)[0].tolist() == [2.0] * 3


def test_no_graph_where_nothing_outside_wants_one():
    assert not grad(lambda a: (a**2).sum())(x()).requires_grad
    with tl.no_grad():
        assert grad(lambda a: (a**2).sum())(x()).tolist() == (2 * x()).tolist()


def test_chunks_and_rows_agree():
    def f(a):
        return (a**2).cumsum(1)

    assert_close(jacrev(f, chunk_size=4)(x()), jacrev(f)(x()))
    assert_close(jacrev(f, chunk_size=1)(x()), jacfwd(f)(x()))


def test_batched_gradients():
    a = tl.arange(3.0).requires_grad_()
    rows = tl.autograd.grad(a**2, a, tl.eye(3), is_grads_batched=True)[0]
    assert rows.tolist() == tl.diag(2 * a).tolist()


def test_writing_what_came_from_outside():
    a = x()
    assert vmap(lambda r: r.mul_(2))(a).tolist() == (x() * 2).tolist() == a.tolist()
    b = x().requires_grad_() * 1
    with pytest.raises(RuntimeError, match="requires grad outside"):
        vmap(lambda r: r[0].mul_(2))(b)


def test_trees():
    class Pair:
        def __init__(self, a, b):
            self.a, self.b = a, b

    _pytree.register_pytree_node(Pair, lambda p: ([p.a, p.b], None), lambda parts, _: Pair(*parts))
    out = vmap(lambda p: Pair(p.a + p.b, {"c": (p.a,)}))(Pair(x(), x()))
    assert out.a.tolist() == (x() * 2).tolist() and out.b["c"][0].tolist() == x().tolist()
    leaves, spec = _pytree.tree_flatten([1, (2, {"a": 3}), None])
    assert leaves == [1, 2, 3, None] and _pytree.tree_unflatten(leaves, spec) == [1, (2, {"a": 3}), None]


def test_stacked_modules():
    models = [tl.nn.Linear(3, 2) for _ in range(4)]
    params, buffers = func.stack_module_state(models)
    assert params["weight"].shape == (4, 2, 3) and not buffers
    out = vmap(lambda p: func.functional_call(models[0], p, (x(),)))(params)
    assert_close(out, tl.stack([m(x()) for m in models]))


def test_tied_weights_are_replaced_together():
    net = tl.nn.Sequential(tl.nn.Linear(3, 3), tl.nn.Linear(3, 3))
    net[1].weight = net[0].weight
    eye = tl.eye(3)
    out = func.functional_call(net, {"0.weight": eye, "0.bias": tl.zeros(3), "1.bias": tl.zeros(3)}, (x(),))
    assert out.tolist() == x().tolist()
    assert net[0].weight is net[1].weight and net[0].weight is not eye
    with pytest.raises(ValueError, match="tied"):
        func.functional_call(net, {"0.weight": eye, "1.weight": eye * 2}, (x(),))


class Sine(tl.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0].cos()

    @staticmethod
    def jvp(ctx, t):
        return t * ctx.saved_tensors[0].cos()


class Doubled(tl.autograd.Function):
    @staticmethod
    def forward(x):
        return x * 2

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g * 2

    @staticmethod
    def vmap(info, in_dims, x):
        assert info.batch_size == 2 and in_dims == (0,) and x.shape == (2, 3)
        return x * 2, 0


class Plain(tl.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * 2


def test_custom_functions():
    def f(a):
        return Sine.apply(a).sum()

    a = x()
    assert_close(vmap(grad(f))(a), a.cos())
    assert_close(jvp(Sine.apply, (a,), (a,))[1], a * a.cos())
    assert_close(jvp(grad(f), (a,), (a,))[1], -a * a.sin())
    assert_close(grad(lambda a: jvp(Sine.apply, (a,), (tl.ones(2, 3),))[1].sum())(a), -a.sin())
    assert vmap(Doubled.apply)(a).tolist() == (a * 2).tolist()
    assert vmap(grad(lambda r: Doubled.apply(r).sum()))(a).tolist() == [[2.0] * 3] * 2
    with pytest.raises(RuntimeError, match="vmap support"):
        vmap(Plain.apply)(a)
    with pytest.raises(RuntimeError, match="jvp"):
        jvp(Plain.apply, (a,), (a,))


class ByNumPy(tl.autograd.Function):
    """x[at] ** 2 scale, in NumPy: no transform can look into forward, only at the rules."""

    @staticmethod
    def forward(x, at, scale=3.0):
        return tl.tensor(x.numpy()[at.numpy()] ** 2 * scale)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, at, ctx.scale = inputs
        ctx.save_for_backward(x, at)
        ctx.save_for_forward(x, at)

    @staticmethod
    def backward(ctx, g):
        x, at = ctx.saved_tensors
        out = x.new_zeros(x.shape)
        out[at] = 2 * ctx.scale * x[at] * g
        return out, None, None

    @staticmethod
    def jvp(ctx, t, none, nothing):
        assert none is None and nothing is None  # what is no real number has no tangent
        x, at = ctx.saved_tensors
        return 2 * ctx.scale * x[at] * t[at]

    @staticmethod
    def vmap(info, in_dims, x, at, scale):
        assert in_dims == (0, None, None)
        return ByNumPy.apply(x.T, at, scale).T, 0


def test_custom_functions_that_transforms_cannot_look_into():
    at, a, t = tl.tensor([2, 0]), x(), x().cos()

    def f(r):
        return ByNumPy.apply(r, at)

    def same(r):
        return r[at] ** 2 * 3

    def pull(h):
        return lambda r: func.vjp(h, r)[1](tl.tensor([1.0, -2.0]))[0]

    def push(h):
        return lambda r: jvp(h, (r,), (r.cos(),))[1]

    for chain in (
        lambda h: h, pull, push, lambda h: push(pull(h)), lambda h: grad(lambda r: (push(h)(r) ** 2).sum()),
        lambda h: grad(lambda r: (jvp(h, (r,), (t[0],))[1] ** 2).sum()),
        lambda h: grad(lambda r: (jvp(h, (t[0],), (r,))[1] ** 2).sum()),
    ):  # fmt: skip
        assert_close(chain(f)(a[0]), chain(same)(a[0]))
        assert_close(vmap(chain(f))(a), vmap(chain(same))(a))


def test_a_custom_rule_is_used_inside_of_a_batch():
    class Scaled(tl.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x.clone()

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def jvp(ctx, t):
            return t * 5

    a = x()
    assert_close(jvp(vmap(Scaled.apply), (a,), (a,))[1], a * 5)
    assert_close(vmap(lambda r: jvp(Scaled.apply, (r,), (r,))[1])(a), a * 5)


def test_a_written_input_can_be_saved():
    class Doubled_(tl.autograd.Function):
        @staticmethod
        def forward(x):
            np.multiply(x.numpy(), 2, out=x.numpy())
            return x

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.mark_dirty(inputs[0])
            ctx.save_for_backward(output)

        @staticmethod
        def backward(ctx, g):
            return 2 * g + 0 * ctx.saved_tensors[0]

    a = x().requires_grad_()
    assert_close(tl.autograd.grad(Doubled_.apply(a.clone()).sum(), a)[0], tl.full((2, 3), 2.0))


def test_the_page_says_of_every_operator_how_it_runs():
    root = Path(__file__).parents[2]
    page = (root / "docs" / "func.md").read_text()
    table = (root / "docs" / "operators.md").read_text()
    rows = [line.split(" | ") for line in table.split("\n") if line.startswith("| `")]
    said = {name: row[4] for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    explained = set(re.findall(r"^\| ([\w, –]+) \| (?:at|the|once|not)", page, re.M))
    assert set(said.values()) == explained
    assert said["histc"] == "loop" and said["add"] == "rule" and said["addmm"] == "parts"
    loops = re.findall(r"`(\w+)`", page[page.index("- `dropout`") : page.index("- A rule may")])
    loops = [name for name in loops if name in said]
    assert len(loops) > 4 and {said[name] for name in loops} == {"parts, loop"}


@pytest.mark.parametrize(
    "write",
    [
        lambda b, x, at: b.__setitem__(at, x[:2]), lambda b, x, at: b.__setitem__(b != b, x[:0]),
        lambda b, x, at: b.index_put_((at,), x[:2] ** 2, accumulate=True),
        lambda b, x, at: b.scatter_(0, at, x[:2] ** 2),
        lambda b, x, at: b.index_add_(0, at, x[:2] ** 2), lambda b, x, at: b.index_copy_(0, at, x[:2] ** 3),
        lambda b, x, at: b.copy_(x).clamp_(0.1).exp_(), lambda b, x, at: b.unsqueeze(0)[0, at].mul_(x[0]),
        lambda b, x, at: b.masked_fill_(at[0] == tl.arange(3), x[0] ** 2),
        lambda b, x, at: b.view(3, 1)[1:].add_(x[1:, None]).mul_(x[0]),
    ],
)  # fmt: skip
def test_writes_into_new_tensors_have_tangents(write):
    def f(x):
        b = tl.zeros(3)
        write(b, x, tl.tensor([2, 0]))
        return b

    a, t, g = tl.tensor([0.5, -1.2, 2.0]), tl.tensor([1.0, 2.0, -0.5]), tl.tensor([0.3, 0.7, -1.0])
    assert_close((jvp(f, (a,), (t,))[1] * g).sum(), (func.vjp(f, a)[1](g)[0] * t).sum())
    assert_close(func.hessian(lambda x: (f(x) ** 2).sum())(a), jacrev(grad(lambda x: (f(x) ** 2).sum()))(a))
