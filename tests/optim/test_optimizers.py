"""Optimizers beside PyTorch's stored runs, and the behaviour of groups, state, hooks, copies and moves."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from optim_cases import AVERAGES, LBFGS, OPTIMIZERS, PLAIN, average, minimise, train

import tensorlib
from tensorlib import nn, optim

EXPECTED = np.load(Path(__file__).with_name("expected.npz"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("number", range(len(OPTIMIZERS)))
def test_runs_follow_pytorch(number, dtype):
    """Parameters and state after 14 steps within rounding; groups, keys and text exactly."""
    name, options = OPTIMIZERS[number]
    found = train(tensorlib, name, options, dtype)
    prefix = f"{number}/{dtype}/"
    assert sorted(found) == sorted(k.removeprefix(prefix) for k in EXPECTED.files if k.startswith(prefix))
    for key, value in found.items():
        want = EXPECTED[prefix + key]
        if value.dtype.kind in "US":
            assert value.item() == want.item()
        else:
            assert value.shape == want.shape and value.dtype == want.dtype, key
            tolerance = 2e-6 if dtype == "float32" else 1e-13
            np.testing.assert_allclose(value, want, rtol=tolerance, atol=tolerance, err_msg=key)


@pytest.mark.parametrize("number", range(len(PLAIN)))
def test_rprop_and_muon_follow_pytorch(number):
    """As above; Muon's products are in bfloat16, whose rounding depends on the order of sums."""
    name, options, shapes = PLAIN[number]
    for key, value in train(tensorlib, name, options, "float32", shapes).items():
        want = EXPECTED[f"plain{number}/{key}"]
        if value.dtype.kind in "US":
            assert value.item() == want.item()
        else:
            tolerance = 2e-2 if name == "Muon" and key.startswith("param") else 2e-6
            np.testing.assert_allclose(value, want, rtol=tolerance, atol=tolerance, err_msg=key)


@pytest.mark.parametrize("number", range(len(LBFGS)))
def test_lbfgs_follows_pytorch(number):
    """Every loss that the closure was asked for, and where it ends."""
    for key, value in minimise(tensorlib, LBFGS[number]).items():
        want = EXPECTED[f"lbfgs{number}/{key}"]
        assert value.shape == want.shape, key
        np.testing.assert_allclose(value, want, rtol=1e-6, atol=1e-9, err_msg=key)


@pytest.mark.parametrize("name", AVERAGES)
def test_averages_follow_pytorch(name):
    """Averaged weights, renewed statistics, the rates of SWALR and the averaged model's result."""
    for key, value in average(tensorlib, name).items():
        want = EXPECTED[f"average/{name}/{key}"]
        np.testing.assert_allclose(value, want, rtol=2e-5, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("name", ["RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "Rprop", "ASGD"])
def test_options_out_of_range(name):
    """ValueError, and nothing made."""
    make = getattr(optim, name)
    bad = [{"lr": -0.1}]
    bad += [{"etas": (1.2, 0.5)}] if name == "Rprop" else [{"weight_decay": -1.0}]
    if name in ("Adamax", "NAdam", "RAdam"):
        bad.append({"betas": (0.9, 1.0)})
    for options in bad:
        with pytest.raises(ValueError, match="Invalid"):
            make([param(1.0)], **options)


def test_each_takes_complex_parameters_as_pairs():
    """A complex parameter moves as its real and imaginary parts do."""
    values = np.array([1 + 2j, -0.5j], np.complex64)
    for name in ("RMSprop", "Adadelta", "Adamax", "Rprop"):
        z = nn.Parameter(tensorlib.tensor(values))
        pair = nn.Parameter(tensorlib.view_as_real(tensorlib.tensor(values)).clone())
        both = [getattr(optim, name)([p], lr=0.1) for p in (z, pair)]
        for scale in (1.0, -0.5, 2.0):
            z.grad = tensorlib.tensor(values * scale)
            pair.grad = tensorlib.view_as_real(z.grad).clone()
            for opt in both:
                opt.step()
        np.testing.assert_allclose(tensorlib.view_as_real(z.detach()).numpy(), pair.detach().numpy(), rtol=1e-6)


def param(*values, dtype=tensorlib.float32):
    """A parameter whose gradient is 1 everywhere."""
    p = nn.Parameter(tensorlib.tensor(list(values), dtype=dtype))
    p.grad = tensorlib.ones_like(p.detach())
    return p


def test_state_slices_share_one_buffer():
    """The state tensors of a group are slices of one flat buffer, and users may write to them."""
    a, b = param(1.0, 2.0), param(3.0)
    opt = optim.Adam([a, b], lr=0.1)
    opt.step()
    first, second = opt.state[a]["exp_avg"], opt.state[b]["exp_avg"]
    assert first._base is second._base is not None
    assert first.shape == (2,) and opt.state[a]["step"].shape == () and opt.state[a]["step"].item() == 1.0
    first.fill_(0.0)
    opt.step()
    np.testing.assert_allclose(opt.state[a]["exp_avg"].numpy(), 0.1, rtol=1e-6)
    assert opt.state[a]["exp_avg"] is first


def test_replaced_state_is_taken():
    """An entry put in place of a slice is what the next step works on."""
    p = param(1.0)
    opt = optim.SGD([p], lr=1.0, momentum=0.5)
    opt.step()
    opt.state[p]["momentum_buffer"] = tensorlib.tensor([4.0])
    opt.step()
    assert p.item() == 1.0 - 1.0 - (0.5 * 4.0 + 1.0) and opt.state[p]["momentum_buffer"].item() == 3.0


def test_late_and_frozen_parameters():
    """State is made at a parameter's first gradient; steps are counted for each."""
    a, b, c = param(1.0), param(2.0), nn.Parameter(tensorlib.ones(1), requires_grad=False)
    b.grad = None
    opt = optim.AdamW([a, b, c], lr=0.1, weight_decay=0.0)
    opt.step()
    assert list(opt.state) == [a] and b.item() == 2.0
    kept = opt.state[a]["exp_avg"].item()
    b.grad = tensorlib.ones(1)
    opt.step()
    assert opt.state[a]["step"].item() == 2.0 and opt.state[b]["step"].item() == 1.0 and c not in opt.state
    assert np.isclose(opt.state[a]["exp_avg"].item(), kept * 0.9 + 0.1)
    np.testing.assert_allclose([a.item(), b.item()], [0.8, 1.9], rtol=1e-5)  # each step is lr for a constant gradient


def test_moved_and_reassigned_parameters():
    """A cast keeps the state, in the new dtype; .data may be replaced at any time."""
    layer = nn.Linear(2, 1)
    opt = optim.Adam(layer.parameters(), lr=0.1)
    for p in layer.parameters():
        p.grad = tensorlib.ones_like(p.detach())
    opt.step()
    before = opt.state[layer.bias]["exp_avg"].item()
    layer.double()
    opt.step()
    state = opt.state[layer.bias]
    assert state["exp_avg"].dtype == tensorlib.float64 and state["step"].item() == 2.0
    assert np.isclose(state["exp_avg"].item(), before * 0.9 + 0.1)
    layer.bias.data = tensorlib.tensor([5.0], dtype=tensorlib.float64)
    opt.step()
    assert np.isclose(layer.bias.item(), 4.9, rtol=1e-4)


def test_half_parameters_compute_in_float32():
    """State has the parameter's dtype; one step equals the float32 step rounded once."""
    for dtype in (tensorlib.float16, tensorlib.bfloat16):
        p, q = param(1.0, -3.0, dtype=dtype), param(1.0, -3.0)
        for x in (p, q):
            opt = optim.AdamW([x], lr=0.01)
            opt.step()
        assert opt.state[q]["exp_avg"].dtype == tensorlib.float32 and p.dtype == dtype
        assert q.detach().to(dtype).tolist() == p.tolist()


def test_groups():
    """Options a group gives override the defaults; PyTorch's errors for what cannot be."""
    a, b = param(1.0), param(1.0)
    opt = optim.SGD([{"params": a, "lr": 0.5}], lr=0.1)
    opt.add_param_group({"params": [b]})
    opt.step()
    np.testing.assert_allclose([a.item(), b.item()], [0.5, 0.9], rtol=1e-6)
    assert [g["lr"] for g in opt.param_groups] == [0.5, 0.1]
    named = optim.SGD([("w", a), ("b", b)], lr=0.1)
    assert named.param_groups[0]["param_names"] == ["w", "b"]
    assert named.state_dict()["param_groups"][0]["params"] == [0, 1]


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda p: optim.SGD([]), ValueError, "empty parameter list"),
        (lambda p: optim.SGD(p), TypeError, "iterable of Tensors or dicts"),
        (lambda p: optim.SGD([3]), TypeError, "can only optimize Tensors, but one of the params is .*int"),
        (lambda p: optim.SGD([p * 2]), ValueError, "can't optimize a non-leaf Tensor"),
        (lambda p: optim.SGD([{"params": {p}}]), TypeError, "ordered collections"),
        (lambda p: optim.SGD([{"params": [p]}, {"params": [p]}]), ValueError, "more than one parameter group"),
        (lambda p: optim.SGD([("a", p), param(1.0)]), ValueError, "with/without names"),
        (lambda p: optim.SGD([p], lr=-1.0), ValueError, "Invalid learning rate: -1.0"),
        (lambda p: optim.SGD([p], momentum=-1.0), ValueError, "Invalid momentum value"),
        (lambda p: optim.SGD([p], nesterov=True), ValueError, "Nesterov momentum requires"),
        (lambda p: optim.SGD([p], fused=True, foreach=True), RuntimeError, "cannot be `True` together"),
        (lambda p: optim.Adam([p], betas=(1.0, 0.9)), ValueError, "Invalid beta parameter at index 0: 1.0"),
        (lambda p: optim.Adam([p], eps=-1.0), ValueError, "Invalid epsilon value"),
        (lambda p: optim.Adam([p], weight_decay=-1.0), ValueError, "Invalid weight_decay value"),
        (lambda p: optim.Adam([p], lr=tensorlib.ones(2)), ValueError, "Tensor lr must be 1-element"),
        (lambda p: optim.SGD([p]).add_param_group([p]), TypeError, "param_group must be a dict"),
    ],
)
def test_errors(make, error, match):
    """PyTorch's checks."""
    with pytest.raises(error, match=match):
        make(param(1.0))


@pytest.mark.parametrize(
    "name, options",
    [
        ("SGD", {"weight_decay": 0.1}), ("SGD", {"momentum": 0.9, "nesterov": True}), ("Adam", {"weight_decay": 0.1}),
        ("AdamW", {"amsgrad": True, "maximize": True}), ("Adagrad", {"lr_decay": 0.1}), ("Adadelta", {}),
        ("Adamax", {"weight_decay": 0.1}), ("NAdam", {"decoupled_weight_decay": True, "weight_decay": 0.1}),
        ("RAdam", {"betas": (0.5, 0.5)}), ("RMSprop", {}), ("RMSprop", {"centered": True, "momentum": 0.5}),
        ("ASGD", {"lambd": 0.1, "t0": 1}), ("Rprop", {}), ("Lion", {"betas": (0.9, 0.9)}),
    ],
)  # fmt: skip
def test_differentiable(name, options):
    """Three recorded steps give what fused steps give, and their gradient is that of what was computed."""
    start = tensorlib.tensor([0.3, -1.2, 2.0], dtype=tensorlib.float64)
    grads = [tensorlib.tensor(g, dtype=tensorlib.float64) for g in ([1.0, -2.0, 0.5], [0.7, -1.0, 3.0], [0.2, 1.0, -1])]

    def steps(p, scale, lr, differentiable):
        optimizer = getattr(optim, name)([p], lr=lr, differentiable=differentiable, **options)
        for g in grads:
            p.grad = g * scale
            optimizer.step()
        return p, optimizer.state_dict()

    fused, state = steps(start.clone().requires_grad_(), 1.0, 0.1, False)
    inputs = [start.clone().requires_grad_(), tensorlib.ones((), dtype=tensorlib.float64, requires_grad=True),
              tensorlib.tensor(0.1, dtype=tensorlib.float64, requires_grad=True)]  # fmt: skip
    p, recorded = steps(inputs[0].clone(), inputs[1], inputs[2], True)
    np.testing.assert_allclose(p.detach().numpy(), fused.detach().numpy(), rtol=1e-6)
    assert sorted(recorded["state"].get(0, {})) == sorted(state["state"].get(0, {}))
    if "momentum" in options and name == "SGD":  # whose first buffer is a constant, as in PyTorch
        return
    found = tensorlib.autograd.grad(p.sum(), inputs, allow_unused=True)
    for i, given in enumerate(found):
        if i == 2 and name in ("ASGD", "Rprop"):  # the rate is a number in their states
            continue
        ends = []
        for move in (1e-5, -1e-5):
            x, scale, lr = (v.detach().clone() for v in inputs)
            (x, scale, lr)[i].add_(move)
            ends.append(steps(x.requires_grad_(), scale, lr.item(), False)[0].sum().item())
        slope = 0.0 if given is None else given.sum().item()
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-5, rtol=2e-3, atol=1e-4)


def test_differentiable_needs_more_than_leaves():
    """As in PyTorch: a leaf cannot be written while autograd records, and the fused step cannot be recorded."""
    with pytest.raises(RuntimeError, match="`fused` does not support `differentiable`"):
        optim.Adam([param(1.0)], differentiable=True, fused=True)
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        optimizer = optim.Adam([param(1.0)], differentiable=True)
        optimizer.step()
    with pytest.raises(ValueError, match="non-leaf"):
        optim.Adam([param(1.0) * 1])
    with pytest.raises(ValueError, match="either both floats or both Tensors"):
        optim.Adam([param(1.0)], betas=(0.9, tensorlib.tensor(0.99)))
    matrix = tensorlib.zeros(2, 2, dtype=tensorlib.complex64, requires_grad=True)
    matrix.grad = matrix.detach()
    with pytest.raises(RuntimeError, match="Muon does not support complex parameters"):
        optim.Muon([matrix]).step()


def test_load_state_dict_errors_and_casts():
    """Sizes must match; state takes the parameter's dtype, the step stays float32."""
    a = optim.Adam([param(1.0)], lr=0.1)
    a.step()
    with pytest.raises(ValueError, match="different number of parameter groups"):
        optim.Adam([{"params": [param(1.0)]}, {"params": [param(1.0)]}]).load_state_dict(a.state_dict())
    with pytest.raises(ValueError, match="doesn't match the size"):
        optim.Adam([param(1.0), param(1.0)]).load_state_dict(a.state_dict())
    p = param(1.0, dtype=tensorlib.float64)
    b = optim.Adam([p], lr=0.7)
    b.load_state_dict(a.state_dict())
    assert b.param_groups[0]["lr"] == 0.1 and b.param_groups[0]["params"][0] is p
    assert b.state[p]["exp_avg"].dtype == tensorlib.float64 and b.state[p]["step"].dtype == tensorlib.float32
    b.step()
    a.step()
    assert b.state[p]["step"].item() == 2.0 == a.state_dict()["state"][0]["step"].item()
    assert np.isclose(p.item(), 0.9) and np.isclose(a.param_groups[0]["params"][0].item(), 0.8)


def test_closure_zero_grad_and_hooks():
    """The closure runs with gradients on; hooks run around the step."""
    p = nn.Parameter(tensorlib.tensor([3.0]))
    opt = optim.SGD([p], lr=0.1)
    seen = []
    opt.register_step_pre_hook(lambda o, args, kwargs: seen.append("pre"))
    handle = opt.register_step_post_hook(lambda o, args, kwargs: seen.append("post"))

    def closure():
        seen.append("closure")
        opt.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with tensorlib.no_grad():
        loss = opt.step(closure)
    assert loss.item() == 9.0 and np.isclose(p.item(), 3.0 - 0.6) and seen == ["pre", "closure", "post"]
    grad = p.grad
    opt.zero_grad(set_to_none=False)
    assert p.grad is grad and grad.item() == 0.0
    opt.zero_grad()
    assert p.grad is None
    handle.remove()
    opt.step()
    assert seen[3:] == ["pre"] and np.isclose(p.item(), 2.4)
    opt.register_step_pre_hook(lambda o, args, kwargs: 3)
    with pytest.raises(RuntimeError, match="must return None or a tuple"):
        opt.step()
    opt.register_state_dict_post_hook(lambda o, state: {**state, "extra": 1})
    opt.register_load_state_dict_pre_hook(lambda o, state: seen.append(state.pop("extra")))
    opt.load_state_dict(opt.state_dict())
    assert seen[-1] == 1


def test_copies_and_pickles_step_alike():
    """deepcopy and pickle carry parameters, options and state, and step as the original does."""
    p = param(1.0, 2.0)
    opt = optim.Adam([p], lr=0.1)
    opt.step()
    for made in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        q = made.param_groups[0]["params"][0]
        assert q is not p and list(made.state) == [q]
        q.grad = tensorlib.ones(2)
        made.step()
        np.testing.assert_allclose(q.detach().numpy(), np.array([0.8, 1.8]), rtol=1e-5)
        assert made.state[q]["step"].item() == 2.0
    assert opt.state[p]["step"].item() == 1.0 and repr(copy.deepcopy(opt)) == repr(opt)


def test_own_optimizer():
    """A subclass with its own step: hooks work, required options are asked for."""
    from tensorlib.optim.optimizer import required

    class Sign(optim.Optimizer):
        def __init__(self, params, lr=required):
            super().__init__(params, {"lr": lr})

        def step(self, closure=None):
            with tensorlib.no_grad():
                for group in self.param_groups:
                    for p in group["params"]:
                        p.sub_(group["lr"] * p.grad.sign())

    with pytest.raises(ValueError, match="didn't specify a value of required optimization parameter lr"):
        Sign([param(1.0)])
    p = param(1.0)
    opt = Sign([p], lr=0.5)
    opt.register_step_post_hook(lambda o, args, kwargs: p.add_(10.0) if not p.requires_grad else None)
    opt.step()
    assert p.item() == 0.5
