"""Module: registration, iteration, state, hooks, conversions, text. What PyTorch does, stated."""

import copy
import pickle
from collections import OrderedDict

import numpy as np
import pytest

import tensorlib
from tensorlib import nn


class Block(nn.Module):
    """A submodule with everything: parameter, buffer, non-persistent buffer, child."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(tensorlib.ones(2))
        self.register_buffer("count", tensorlib.zeros(1))
        self.register_buffer("cache", tensorlib.zeros(3), persistent=False)
        self.lin = nn.Linear(2, 2)

    def forward(self, x):
        """Scaled linear."""
        return self.lin(x) * self.scale


class Model(nn.Module):
    """Two blocks and a weight shared between them."""

    def __init__(self):
        super().__init__()
        self.a = Block()
        self.b = Block()
        self.b.lin.weight = self.a.lin.weight
        self.none = None
        self.register_parameter("absent", None)

    def forward(self, x):
        """One after the other."""
        return self.b(self.a(x))


def test_names_in_order_shared_once():
    """Own members first, then children; a shared parameter is listed under its first name."""
    m = Model()
    names = ["a.scale", "a.lin.weight", "a.lin.bias", "b.scale", "b.lin.bias"]
    assert [n for n, _ in m.named_parameters()] == names
    both = [n for n, _ in m.named_parameters(remove_duplicate=False)]
    assert both == ["a.scale", "a.lin.weight", "a.lin.bias", "b.scale", "b.lin.weight", "b.lin.bias"]
    assert [n for n, _ in m.named_parameters(prefix="p", recurse=False)] == []
    assert [n for n, _ in m.a.named_parameters(prefix="p", recurse=False)] == ["p.scale"]
    assert [n for n, _ in m.named_buffers()] == ["a.count", "a.cache", "b.count", "b.cache"]
    assert [n for n, _ in m.named_modules()] == ["", "a", "a.lin", "b", "b.lin"]
    assert [n for n, _ in m.named_children()] == ["a", "b"]
    assert len(list(m.parameters())) == 5 and len(list(m.buffers())) == 4 and len(list(m.modules())) == 5


def test_assignment_moves_between_registries():
    """A name is a parameter, a buffer, a module or a plain attribute, never two of them."""
    m = nn.Module()
    m.x = nn.Parameter(tensorlib.ones(1))
    with pytest.raises(TypeError, match=r"cannot assign '.*' as parameter 'x' \(.*nn.Parameter or None expected\)"):
        m.x = tensorlib.ones(1)
    m.x = None
    assert m.x is None and "x" in m._parameters and list(m.parameters()) == []
    del m.x
    m.x = nn.Linear(1, 1)
    with pytest.raises(TypeError, match=r"cannot assign 'int' as child module 'x'"):
        m.x = 3
    m.x = nn.Parameter(tensorlib.ones(1))
    assert "x" in m._parameters and "x" not in m._modules
    m.register_buffer("y", tensorlib.zeros(2), persistent=False)
    m.y = tensorlib.ones(2)
    assert list(m._buffers) == ["y"] and m.state_dict().keys() == {"x"}
    with pytest.raises(TypeError, match="cannot assign 'str' as buffer 'y'"):
        m.y = "no"
    m.plain = tensorlib.ones(1)
    assert "plain" in m.__dict__
    m.z = nn.Buffer(tensorlib.ones(1), persistent=True)
    assert "z" in m._buffers and "z" in m.state_dict()
    del m.y
    with pytest.raises(AttributeError, match="'Module' object has no attribute 'y'"):
        _ = m.y
    with pytest.raises(AttributeError):
        del m.y


@pytest.mark.parametrize(
    ("act", "error", "match"),
    [
        (lambda m: m.register_parameter("a.b", None), KeyError, "parameter name can.*contain"),
        (lambda m: m.register_parameter("", None), KeyError, "parameter name can.*be empty"),
        (lambda m: m.register_parameter(3, None), TypeError, "parameter name should be a string. Got int"),
        (lambda m: m.register_parameter("forward", None), KeyError, "attribute 'forward' already exists"),
        (lambda m: m.register_parameter("p", tensorlib.ones(1)), TypeError, "object to parameter 'p'"),
        (lambda m: m.register_buffer("b", 3), TypeError, "cannot assign 'int' object to buffer 'b'"),
        (lambda m: m.add_module("m", 3), TypeError, "int is not a Module subclass"),
        (lambda m: m.get_submodule("lin.weight"), AttributeError, "`weight` is not an nn.Module"),
        (lambda m: m.get_submodule("nothing"), AttributeError, "has no attribute `nothing`"),
        (lambda m: m.get_parameter("lin"), AttributeError, "`lin` is not an nn.Parameter"),
        (lambda m: m.get_buffer("scale"), AttributeError, "`scale` is not a buffer"),
        (lambda m: m.train("yes"), ValueError, "training mode is expected to be boolean"),
        (lambda m: m.to(tensorlib.int32), TypeError, "only accepts floating point"),
    ],
)
def test_errors(act, error, match):
    """Each misuse is named."""
    with pytest.raises(error, match=match):
        act(Block())


def test_before_init():
    """Members cannot be assigned before super().__init__()."""

    class Early(nn.Module):
        def __init__(self, value):
            self.x = value

    for value, what in ((nn.Parameter(tensorlib.ones(1)), "parameters"), (nn.Identity(), "module")):
        with pytest.raises(AttributeError, match=f"cannot assign {what} before Module.__init__"):
            Early(value)


def test_paths():
    """Dotted access."""
    m = Model()
    assert m.get_submodule("a.lin") is m.a.lin and m.get_submodule("") is m
    assert m.get_parameter("b.scale") is m.b.scale and m.get_buffer("b.cache") is m.b.cache
    m.set_submodule("a.lin", nn.Identity())
    assert isinstance(m.a.lin, nn.Identity)


def test_state_dict_shares_memory_and_leaves_out_what_is_not_persistent():
    """Keys in registration order; detached tensors over the same memory; metadata with versions."""
    m = Model()
    state = m.state_dict()
    assert list(state) == ["a.scale", "a.count", "a.lin.weight", "a.lin.bias", "b.scale", "b.count", "b.lin.weight",
                           "b.lin.bias"]  # fmt: skip
    assert not state["a.scale"].requires_grad and state._metadata["a.lin"] == {"version": 1}
    with tensorlib.no_grad():
        m.a.scale.fill_(5.0)
    assert state["a.scale"].tolist() == [5.0, 5.0]
    assert m.state_dict(keep_vars=True)["a.scale"] is m.a.scale
    assert next(iter(m.a.state_dict(prefix="x."))) == "x.scale"


def test_load_state_dict_copies_or_assigns():
    """Copying keeps the parameters, assigning takes the tensors."""
    m, other = Model(), Model()
    kept = m.a.scale
    with tensorlib.no_grad():
        other.a.scale.fill_(7.0)
    result = m.load_state_dict(other.state_dict())
    assert str(result) == "<All keys matched successfully>" and result.missing_keys == []
    assert m.a.scale is kept and kept.tolist() == [7.0, 7.0]
    with tensorlib.no_grad():
        other.a.scale.fill_(8.0)
    assert kept.tolist() == [7.0, 7.0]
    m.load_state_dict({k: v.double() for k, v in other.state_dict().items()})
    assert m.a.scale.dtype == tensorlib.float32
    m.a.scale.requires_grad_(False)
    m.load_state_dict({k: v.double() for k, v in other.state_dict().items()}, assign=True)
    assert m.a.scale is not kept and m.a.scale.dtype == tensorlib.float64
    assert isinstance(m.a.scale, nn.Parameter) and not m.a.scale.requires_grad and m.b.scale.requires_grad


def test_load_state_dict_reports_everything_at_once():
    """Missing, unexpected and mismatched in one error; what fits is loaded; strict=False returns the lists."""
    m = Block()
    state = m.state_dict()
    del state["scale"]
    state["lin.extra"] = state["other.x"] = tensorlib.ones(1)
    state["lin.weight"] = tensorlib.ones(3, 2)
    state["lin.bias"] = tensorlib.full((2,), 3.0)
    with pytest.raises(RuntimeError) as caught:
        m.load_state_dict(state)
    text = str(caught.value)
    assert text.startswith('Error(s) in loading state_dict for Block:\n\tMissing key(s) in state_dict: "scale". \n\t')
    assert 'Unexpected key(s) in state_dict: "other.x", "lin.extra". ' in text
    assert "size mismatch for lin.weight: copying a param with shape" in text
    assert "[3, 2]) from checkpoint, the shape in current model is" in text and text.endswith("[2, 2]).")
    assert m.lin.bias.tolist() == [3.0, 3.0]
    del state["lin.weight"]
    result = m.load_state_dict(state, strict=False)
    assert result == (["scale", "lin.weight"], ["other.x", "lin.extra"])
    assert "missing_keys=['scale', 'lin.weight']" in repr(result)
    with pytest.raises(TypeError, match="dict-like"):
        m.load_state_dict([1])
    with pytest.raises(RuntimeError, match='parameter named "scale", expected'):
        m.load_state_dict({**m.state_dict(), "scale": 3.0})


def test_extra_state():
    """get_extra_state and set_extra_state travel under _extra_state."""

    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"epoch": self.epoch}

        def set_extra_state(self, state):
            self.epoch = state["epoch"]

    a, b = nn.Sequential(Extra(1, 1)), nn.Sequential(Extra(1, 1))
    a[0].epoch, b[0].epoch = 4, 0
    state = a.state_dict()
    assert list(state) == ["0.weight", "0.bias", "0._extra_state"]
    b.load_state_dict(state)
    assert b[0].epoch == 4
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "0._extra_state"'):
        nn.Sequential(nn.Linear(1, 1)).load_state_dict(state)
    del state["0._extra_state"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "0._extra_state"'):
        b.load_state_dict(state)


def test_state_dict_hooks():
    """Before and after saving and loading; the post-load hook may edit the lists."""
    m = nn.Sequential(nn.Linear(1, 1))
    seen = []
    m[0].register_state_dict_pre_hook(lambda mod, prefix, keep: seen.append(("pre", prefix, keep)))
    m[0].register_state_dict_post_hook(lambda mod, state, prefix, meta: state.pop(prefix + "bias") and None)
    state = m.state_dict()
    assert list(state) == ["0.weight"] and seen == [("pre", "0.", False)]

    def fill(mod, state, prefix, meta, strict, missing, unexpected, errors):
        seen.append(("load", type(mod).__name__, prefix))

    handle = m[0].register_load_state_dict_pre_hook(fill)
    forgive = m.register_load_state_dict_post_hook(lambda mod, keys: keys.missing_keys.clear())
    m.load_state_dict(state)
    assert seen[1:] == [("load", "Linear", "0.")]
    handle.remove()
    forgive.remove()
    with pytest.raises(RuntimeError, match=r'"0\.bias"'):
        m.load_state_dict(state)
    assert len(seen) == 2


def test_forward_hooks():
    """Order, replacement, kwargs, prepend, removal, and always_call after an error."""
    seen = []

    class Twice(nn.Module):
        def forward(self, x, factor=2.0):
            if factor < 0:
                raise ValueError("negative")
            return x * factor

    m = Twice()
    m.register_forward_pre_hook(lambda mod, args: seen.append("pre1"))
    m.register_forward_pre_hook(lambda mod, args: args[0] + 1, prepend=True)
    m.register_forward_pre_hook(lambda mod, args, kwargs: (args, {**kwargs, "factor": 3.0}), with_kwargs=True)
    assert m(tensorlib.ones(1)).item() == 6.0 and seen == ["pre1"]
    m.register_forward_hook(lambda mod, args, out: out + 1)
    handle = m.register_forward_hook(lambda mod, args, kwargs, out: seen.append(kwargs), with_kwargs=True)
    assert m(tensorlib.ones(1)).item() == 7.0 and seen[-1] == {"factor": 3.0}
    handle.remove()
    with m.register_forward_hook(lambda mod, args, out: out * 10, prepend=True):
        assert m(tensorlib.ones(1)).item() == 61.0
    assert m(tensorlib.ones(1)).item() == 7.0 and len(seen) == 5

    m = Twice()
    m.register_forward_hook(lambda mod, args, out: seen.append("skipped"))
    m.register_forward_hook(lambda mod, args, out: seen.append("always"), always_call=True)
    with pytest.raises(ValueError, match="negative"):
        m(tensorlib.ones(1), factor=-1.0)
    assert seen[-1] == "always" and "skipped" not in seen
    m.register_forward_pre_hook(lambda mod, args, kwargs: 3, with_kwargs=True)
    with pytest.raises(RuntimeError, match="must return None or a tuple"):
        m(tensorlib.ones(1))


def test_full_backward_hooks():
    """grad_input and grad_output over positional inputs and outputs; both can be replaced."""
    seen = []

    class Product(nn.Module):
        def forward(self, x, y, scale):
            return x * y * scale, x + y

    m = Product()
    x, y = (tensorlib.tensor([v], requires_grad=True) for v in (2.0, 3.0))
    m.register_full_backward_pre_hook(lambda mod, grad_output: seen.append(("pre", [g.item() for g in grad_output])))
    handle = m.register_full_backward_hook(
        lambda mod, gi, go: seen.append(([g if g is None else g.item() for g in gi], [g.item() for g in go]))
    )
    a, b = m(x, y, 10.0)
    (a + 2 * b).sum().backward()
    assert seen == [("pre", [1.0, 2.0]), ([32.0, 22.0, None], [1.0, 2.0])]
    assert (x.grad.item(), y.grad.item()) == (32.0, 22.0)
    handle.remove()

    x.grad = y.grad = None
    m.register_full_backward_hook(lambda mod, gi, go: (gi[0] * 0, gi[1] + 1, None))
    m.register_full_backward_pre_hook(lambda mod, go: (go[0] * 2, go[1]))
    a, b = m(x, y, 1.0)
    (a + b).sum().backward()
    assert (x.grad.item(), y.grad.item()) == (0.0, 2 * 2.0 + 1 + 1)

    linear = nn.Linear(1, 1)
    linear.register_full_backward_hook(lambda mod, gi, go: seen.append(gi))
    with tensorlib.no_grad():
        linear(tensorlib.ones(1, 1))
    with pytest.warns(UserWarning, match="no inputs require gradients"):
        linear(tensorlib.ones(1, 1)).sum().backward()
    assert seen[-1] == (None,) and linear.weight.grad is not None


def test_train_eval_requires_grad_zero_grad():
    """Modes reach every child."""
    m = Model()
    assert m.training and m.eval() is m and not m.b.lin.training and m.train().a.training
    m.requires_grad_(False)
    assert not any(p.requires_grad for p in m.parameters())
    m.requires_grad_(True)
    m(tensorlib.ones(1, 2)).sum().backward()
    grad = m.a.scale.grad
    m.zero_grad(set_to_none=False)
    assert m.a.scale.grad is grad and grad.tolist() == [0.0, 0.0]
    m.zero_grad()
    assert m.a.scale.grad is None


def test_to_keeps_parameters_and_casts_only_floats():
    """The parameter objects stay; integer buffers keep their dtype; gradients are cast along."""
    m = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    params = list(m.parameters())
    m(tensorlib.ones(3, 2)).sum().backward()
    assert m.double() is m
    assert all(a is b for a, b in zip(params, m.parameters(), strict=True))
    assert m[0].weight.dtype == tensorlib.float64 == m[0].weight.grad.dtype
    assert m[1].running_mean.dtype == tensorlib.float64 and m[1].num_batches_tracked.dtype == tensorlib.int64
    assert m[0].weight.requires_grad and m[0].weight.is_leaf
    for cast, dtype in ((m.half, tensorlib.float16), (m.bfloat16, tensorlib.bfloat16), (m.float, tensorlib.float32)):
        assert cast()[0].bias.dtype == dtype
    assert m.to("cpu", tensorlib.float64)[0].bias.dtype == tensorlib.float64
    assert m.to(tensorlib.zeros(1))[0].bias.dtype == tensorlib.float32
    assert m.to(dtype=tensorlib.float16)[0].bias.dtype == tensorlib.float16
    assert m.cpu()[0].bias.dtype == tensorlib.float16


def test_apply_visits_children_first():
    """fn sees every module, the module itself last."""
    names = []
    m = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.ReLU()))
    assert m.apply(lambda mod: names.append(type(mod).__name__)) is m
    assert names == ["Linear", "ReLU", "Sequential", "Sequential"]


def test_copies_and_pickles():
    """deepcopy and pickle keep structure, values, sharing and flags, and nothing is shared with the original."""
    m = Model()
    m.a.scale.requires_grad_(False)
    m.register_forward_hook(print_nothing)
    for made in (copy.deepcopy(m), pickle.loads(pickle.dumps(m))):
        assert [n for n, _ in made.named_parameters()] == [n for n, _ in m.named_parameters()]
        assert made.a.lin.weight is made.b.lin.weight and made.a.lin.weight is not m.a.lin.weight
        assert isinstance(made.a.lin.weight, nn.Parameter) and not made.a.scale.requires_grad
        assert np.array_equal(made.a.lin.weight.detach().numpy(), m.a.lin.weight.detach().numpy())
        with tensorlib.no_grad():
            made.a.lin.weight.fill_(0.0)
        assert np.abs(m.a.lin.weight.detach().numpy()).sum() > 0
        assert len(made._forward_hooks) == 1 and made(tensorlib.ones(1, 2)).shape == (1, 2)


def print_nothing(module, args, out):
    """A hook that pickles."""


def test_parameter():
    """A leaf over the same memory that requires a gradient, also when made under no_grad; operations give tensors."""
    data = tensorlib.ones(2)
    with tensorlib.no_grad():
        p = nn.Parameter(data)
    assert p.requires_grad and p.is_leaf and isinstance(p, tensorlib.Tensor)
    data[0] = 5.0
    assert p.tolist() == [5.0, 1.0]
    assert type(p * 2) is tensorlib.Tensor and type(p.detach()) is tensorlib.Tensor
    assert repr(nn.Parameter(tensorlib.ones(1))).startswith("Parameter containing:\ntensor([1.]")
    assert not nn.Parameter(tensorlib.ones(2, dtype=tensorlib.int64), requires_grad=False).requires_grad
    assert nn.Parameter().numel() == 0
    copied = copy.deepcopy(p)
    assert type(copied) is nn.Parameter and copied.requires_grad and copied.tolist() == p.tolist()
    with pytest.raises(ValueError, match="non-leaf"):
        nn.Module().register_parameter("w", non_leaf())


def non_leaf():
    """A Parameter with a history, as an in-place operation makes it."""
    p = nn.Parameter(tensorlib.ones(1))
    q = nn.Parameter(tensorlib.ones(1), requires_grad=False)
    q.mul_(p)
    return q


def test_repr_and_dir():
    """PyTorch's text, nested modules indented, several lines of extra_repr, and attribute names for completion."""

    class Noted(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def extra_repr(self):
            return "first\nsecond"

    m = nn.Sequential(OrderedDict(lin=nn.Linear(2, 3, bias=False), noted=Noted()))
    assert repr(m) == (
        "Sequential(\n"
        "  (lin): Linear(in_features=2, out_features=3, bias=False)\n"
        "  (noted): Noted(\n"
        "    first\n"
        "    second\n"
        "    (act): ReLU()\n"
        "  )\n"
        ")"
    )
    assert repr(nn.Module()) == "Module()" and repr(nn.Linear(1, 2)).startswith("Linear(in_features=1")
    assert {"lin", "noted", "forward", "training"} <= set(dir(m)) and "0" not in dir(nn.Sequential(nn.ReLU()))


def test_call_without_forward():
    """A module that defines no forward says so."""
    with pytest.raises((TypeError, NotImplementedError), match=r'Module \[Module\] is missing the required "forward"'):
        nn.Module()(1)
