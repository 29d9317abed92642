"""autocast and GradScaler: dtypes by PyTorch's lists, casts kept and renewed, scaled gradients, skipped steps."""

from __future__ import annotations

import threading

import pytest

import tensorlib as tl
import tensorlib.nn.functional as F
from tensorlib._autocast import POLICIES
from tensorlib._core import observers
from tensorlib.op import composites, registry


def test_products_narrow_losses_wide_the_rest_as_it_comes() -> None:
    x, w = tl.randn(3, 4), tl.randn(5, 4, requires_grad=True)
    with tl.autocast("cpu"):
        h = F.linear(x, w)
        assert h.dtype is tl.bfloat16
        assert (x @ x.T).dtype is tl.einsum("ij,kj->ik", x, x).dtype is tl.bfloat16
        assert F.mse_loss(h, tl.zeros(3, 5)).dtype is tl.float32
        assert F.cross_entropy(h, tl.tensor([0, 1, 2])).dtype is tl.float32
        assert F.relu(h).dtype is tl.bfloat16 and F.softmax(h, -1).dtype is tl.bfloat16
        assert (x + h.sum()).dtype is tl.float32
        assert tl.mv(x, x[0]).dtype is tl.float32  # PyTorch's CPU list leaves it alone
        assert tl.cat([h, x[:, :1]], 1).dtype is tl.float32 and tl.cat([h, h]).dtype is tl.bfloat16
        assert (x.double() @ x.double().T).dtype is tl.float64
        loss = h.float().square().mean()
    assert (x @ x.T).dtype is tl.float32
    loss.backward()
    assert w.grad.dtype is tl.float32


def test_gpu_list_on_a_device_without_a_gpu() -> None:
    x = tl.randn(3, 4).to("interpret")
    with tl.autocast("interpret", dtype=tl.float16):
        h = x @ x.mT
        assert h.dtype is tl.float16
        assert F.softmax(h, -1).dtype is h.sum().dtype is tl.exp(h).dtype is tl.float32
        assert (tl.randn(2, 2) @ tl.randn(2, 2)).dtype is tl.float32  # another device


def test_values_are_those_of_explicit_casts() -> None:
    x, w = tl.randn(7, 9), tl.randn(5, 9)
    with tl.autocast("cpu"):
        assert tl.equal(F.linear(x, w), F.linear(x.bfloat16(), w.bfloat16()))
    a = tl.zeros(3, 3)
    with tl.autocast("cpu"):
        a.addmm_(x[:3, :3], x[:3, :3])  # writes in the dtype of its target
    assert tl.allclose(a, x[:3, :3] @ x[:3, :3], atol=1e-6)


def test_regions_nest_and_belong_to_their_thread() -> None:
    x = tl.ones(2, 2)
    seen = []
    with tl.autocast("cpu", dtype=tl.float16):
        assert tl.is_autocast_enabled("cpu") and tl.get_autocast_dtype("cpu") is tl.float16
        with tl.autocast("cpu", enabled=False):
            assert (x @ x).dtype is tl.float32 and not tl.is_autocast_enabled("cpu")
        with tl.autocast("cpu", dtype=tl.bfloat16):
            assert (x @ x).dtype is tl.bfloat16
        assert (x @ x).dtype is tl.float16
        thread = threading.Thread(target=lambda: seen.append((x @ x).dtype))
        thread.start()
        thread.join()
    assert seen == [tl.float32]

    @tl.autocast("cpu")
    def product() -> tl.Tensor:
        return x @ x

    assert product().dtype is tl.bfloat16 and (x @ x).dtype is tl.float32


def test_a_parameter_is_cast_once_until_it_is_written() -> None:
    w = tl.ones(4, 4, requires_grad=True)
    x = tl.ones(1, 4, dtype=tl.bfloat16)
    casts = []

    def watch(op, inputs, attrs, outputs) -> None:
        if op.name == "cast":
            casts.append(inputs[0].shape)

    observers.append(watch)
    try:
        with tl.autocast("cpu"):
            loss = F.linear(x, w).sum() + F.linear(x, w).sum()
            assert casts.count((4, 4)) == 1
            with tl.no_grad():
                w.mul_(2)
            assert F.linear(x, w)[0, 0].item() == 8
            assert casts.count((4, 4)) == 2
    finally:
        observers.remove(watch)
    loss.backward()
    assert tl.all(w.grad == 2)


def test_what_is_refused() -> None:
    with pytest.raises(RuntimeError, match="unknown device"):
        tl.autocast("gpu!")
    with pytest.raises(ValueError, match="device_type"):
        tl.autocast(3)
    with pytest.warns(UserWarning, match="only supports dtypes of"):
        region = tl.autocast("cpu", dtype=tl.float64)
    with region:
        assert not tl.is_autocast_enabled("cpu")


def test_the_lists_name_what_exists() -> None:
    """Each name is an operator or a composite here."""
    unknown = {n for n in POLICIES if n not in registry and n not in composites}
    assert not unknown


@pytest.mark.parametrize(
    ("name", "narrow"),
    [("RNN", True), ("LSTM", True), ("GRU", False), ("RNNCell", True), ("LSTMCell", False), ("GRUCell", False)],
)
def test_recurrent_layers_narrow_as_pytorch_does(name: str, narrow: bool) -> None:
    """On the CPU what PyTorch lists, and what its products alone decide: a float32 state keeps a GRU's wide."""
    layer = getattr(tl.nn, name)(4, 5)
    with tl.autocast("cpu"):
        result = layer(tl.randn(2, 4))
        again = layer(tl.randn(2, 4, dtype=tl.bfloat16))
    for out, want in ((result, tl.bfloat16 if narrow else tl.float32), (again, tl.bfloat16)):
        while isinstance(out, tuple):
            out = out[0]
        assert out.dtype is want


def test_custom_functions_choose_their_dtype() -> None:
    class Product(tl.autograd.Function):
        @staticmethod
        @tl.amp.custom_fwd(device_type="cpu", cast_inputs=tl.float32)
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            ctx.saw = (x @ w).dtype
            return x @ w

        @staticmethod
        @tl.amp.custom_bwd(device_type="cpu")
        def backward(ctx, g):
            x, w = ctx.saved_tensors
            return g @ w.mT, x.mT @ g

    x, w = tl.randn(2, 3, dtype=tl.bfloat16), tl.randn(3, 2, requires_grad=True)
    with tl.autocast("cpu"):
        out = Product.apply(x, w)
    assert out.dtype is tl.float32
    out.sum().backward()
    assert w.grad.dtype is tl.float32


def _model() -> tuple[tl.nn.Module, tl.optim.Optimizer, tl.amp.GradScaler]:
    model = tl.nn.Linear(2, 2)
    return model, tl.optim.SGD(model.parameters(), lr=0.1), tl.GradScaler("cpu", init_scale=4.0, growth_interval=1)


def test_the_scaler_grows_skips_and_backs_off() -> None:
    model, optimizer, scaler = _model()
    x = tl.ones(1, 2)
    for factor, grad, scale in ((1.0, 1.0, 8.0), (float("inf"), float("inf"), 4.0), (1.0, 1.0, 8.0)):
        optimizer.zero_grad()
        before = model.weight.detach().clone()
        scaler.scale(model(x).sum() * factor).backward()
        scaler.unscale_(optimizer)
        assert model.weight.grad[0, 0].item() == grad
        scaler.step(optimizer)
        assert tl.equal(before, model.weight) == (factor == float("inf"))
        scaler.update()
        assert scaler.get_scale() == scale
    again = tl.GradScaler("cpu")
    again.load_state_dict(scaler.state_dict())
    assert again.state_dict() == scaler.state_dict()


def test_the_scalers_calls_have_an_order() -> None:
    model, optimizer, scaler = _model()
    with pytest.raises(AssertionError, match=r"scaler\.scale"):
        scaler.step(optimizer)
    scaler.scale(model(tl.ones(1, 2)).sum()).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="already been called"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="after step"):
        scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="already been called"):
        scaler.step(optimizer)
    scaler.update()
    model.half()
    scaler.scale(model(tl.ones(1, 2, dtype=tl.float16)).sum()).backward()
    with pytest.raises(ValueError, match="FP16"):
        scaler.unscale_(optimizer)


def test_a_disabled_scaler_is_not_there() -> None:
    model, optimizer, _ = _model()
    scaler = tl.GradScaler("cpu", enabled=False)
    loss = model(tl.ones(1, 2)).sum()
    assert scaler.scale(loss) is loss and scaler.state_dict() == {} and scaler.get_scale() == 1.0
    loss.backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    with pytest.warns(UserWarning, match="CUDA is not available"):
        assert not tl.cuda.is_available() and not tl.GradScaler().is_enabled()
