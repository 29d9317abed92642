"""Optimizers of one launch, and the clipping of gradients: rules by hand, launches counted, tables kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import nn
from tensorlib.kernels import optim as kernels
from tensorlib.ops._optim_numpy import RULES
from tensorlib.runtime import launch

SIZES = ((3, 5), (7,), (), (0,), (40, 33))


def parameters(device: str, dtype: Any = tl.float32, seed: int = 0) -> list[Any]:
    draws = np.random.default_rng(seed)
    made = [nn.Parameter(tl.tensor(draws.standard_normal(s)).to(dtype).to(device)) for s in SIZES]
    for p in made:
        p.grad = tl.tensor(draws.standard_normal(tuple(p.shape))).to(dtype).to(device)
    return made


def numbers(params: Any) -> np.ndarray:
    return np.concatenate([p.detach().to("cpu").double().numpy().reshape(-1) for p in params])


def test_every_rule_has_both_forms() -> None:
    assert RULES.keys() == kernels.RULES.keys()


@pytest.mark.parametrize("device", ["cpu", "interpret"])
@pytest.mark.parametrize("dtype", [tl.float32, tl.float64, tl.bfloat16])
def test_lion(device: str, dtype: Any) -> None:
    """Three steps of algorithm 2 of Chen et al. 2023, in float64."""
    params = parameters(device, dtype)
    p, g = numbers(params), np.concatenate([q.grad.to("cpu").double().numpy().reshape(-1) for q in params])
    m = np.zeros_like(p)
    lr, b1, b2, wd = 0.01, 0.9, 0.99, 0.1
    opt = tl.optim.Lion(params, lr=lr, betas=(b1, b2), weight_decay=wd)
    for _ in range(3):
        p = p * (1 - lr * wd) - lr * np.sign(b1 * m + (1 - b1) * g)
        m = b2 * m + (1 - b2) * g
        opt.step()
    limit = {tl.float32: 1e-6, tl.float64: 1e-14, tl.bfloat16: 2e-2}[dtype]
    np.testing.assert_allclose(numbers(params), p, rtol=limit, atol=limit)
    np.testing.assert_allclose(numbers([opt.state[q]["exp_avg"] for q in params]), m, rtol=2 * limit, atol=limit)
    assert set(opt.state[params[0]]) == {"exp_avg"}


@pytest.mark.parametrize(
    ("name", "options"),
    [("Lion", {"maximize": True}), ("RMSprop", {"momentum": 0.5, "centered": True}), ("RMSprop", {"weight_decay": 0.1}),
     ("Adagrad", {"lr_decay": 0.1}), ("Adadelta", {}), ("Adamax", {"weight_decay": 0.1})],
)  # fmt: skip
def test_the_kernel_follows_the_cpu(name: str, options: dict[str, Any]) -> None:
    """Also where a parameter joins later, and with a learning rate on the device."""
    both = []
    for device in ("cpu", "interpret"):
        params = parameters(device)
        late, params[1].grad = params[1].grad, None
        opt = getattr(tl.optim, name)(params, lr=tl.tensor(0.02).to(device), **options)
        opt.step()
        params[1].grad = late
        opt.step()
        both.append((numbers(params), numbers([v for p in params for v in opt.state[p].values()])))
    for a, b in zip(*both, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)


def test_launches_do_not_grow_with_the_parameters() -> None:
    params = parameters("interpret") + parameters("interpret", seed=1)
    for name, most in (("Lion", 1), ("RMSprop", 2), ("Adadelta", 2), ("AdamW", 2), ("SGD", 1)):
        opt = getattr(tl.optim, name)(params)
        opt.step()
        seen: list[Any] = []
        launch.observers.append(seen.append)
        try:
            opt.step()
        finally:
            launch.observers.remove(seen.append)
        assert len(seen) == most, name


def test_states_load_from_those_of_separate_tensors() -> None:
    """What PyTorch saved has a step on the CPU and tensors of their own."""
    first, second = parameters("cpu"), parameters("cpu")
    a, b = tl.optim.RMSprop(first, momentum=0.9), tl.optim.RMSprop(second, momentum=0.9)
    a.step()
    saved = a.state_dict()
    saved["state"] = {k: {n: v.clone() for n, v in s.items()} for k, s in saved["state"].items()}
    b.load_state_dict(saved)
    for p, q in zip(first, second, strict=True):
        q.data.copy_(p.data)
    a.step()
    b.step()
    np.testing.assert_array_equal(numbers(first), numbers(second))
    assert b.state[second[0]]["step"].item() == 2


@pytest.mark.parametrize("device", ["cpu", "interpret"])
@pytest.mark.parametrize("norm_type", [1, 2, 3.5, float("inf"), 0, -1])
@pytest.mark.parametrize("max_norm", [0.1, 1e6])
def test_clipping(device: str, norm_type: float, max_norm: float) -> None:
    params = parameters(device)[:3] + parameters(device, tl.float64)[4:]
    grads = np.concatenate([p.grad.to("cpu").double().numpy().reshape(-1) for p in params])
    if norm_type > 0:
        want = np.linalg.norm(grads, norm_type)
    else:  # PyTorch's: the norm of the tensors' norms
        each = [np.linalg.norm(p.grad.to("cpu").double().numpy().reshape(-1), norm_type) for p in params]
        want = np.linalg.norm(each, norm_type)
    total = nn.utils.clip_grad_norm_(params, max_norm, norm_type)
    np.testing.assert_allclose(total.item(), want, rtol=1e-6)
    got = np.concatenate([p.grad.to("cpu").double().numpy().reshape(-1) for p in params])
    np.testing.assert_allclose(got, grads * min(1.0, max_norm / (want + 1e-6)), rtol=1e-5, atol=1e-7)


def test_clipping_takes_three_launches_and_tells_of_what_is_not_finite() -> None:
    params = parameters("interpret") + parameters("interpret", seed=1)
    seen: list[Any] = []
    launch.observers.append(seen.append)
    try:
        nn.utils.clip_grad_norm_(params, 0.5)
    finally:
        launch.observers.remove(seen.append)
    assert [r.kernel.__name__ for r in seen] == ["norm_kernel", "norm_sum_kernel", "clip_kernel"]
    params[4].grad[3, 4] = float("nan")
    for norm_type in (1, 2, float("inf")):
        assert nn.utils.get_total_norm([p.grad for p in params], norm_type).isnan().item()
    with pytest.raises(RuntimeError, match="non-finite"):
        nn.utils.clip_grad_norm_(params, 0.5, error_if_nonfinite=True)
    before = params[0].grad.clone()
    nn.utils.clip_grad_norm_(params, 0.5)
    assert not before.isnan().any().item() and params[0].grad.isnan().all().item()

