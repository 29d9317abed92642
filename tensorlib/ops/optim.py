"""The fused optimizer updates: one mutating operator a step for all parameters of a group.

Not public: ``optim`` calls them.
"""

from __future__ import annotations

from typing import Any

from tensorlib._samples import Draw, draw, each, values
from tensorlib.kernels import optim as kernels
from tensorlib.op import Array, Arrays, op
from tensorlib.ops import _optim_numpy

_positive = Draw((33,), "uniform", 0.1, 2.0)
_shapes: list[Any] = [(4, 4), (16,), ()]  # whose slices leave no padding: what happens to padding is nobody's business
_adam = dict(offsets=(0, 16, 32), index=(0, 1, 2), beta1=0.9, beta2=0.999, eps=1e-8)
_long: list[Any] = [(1 << 20,)] * 4
_at = dict(offsets=(0, 1 << 20, 2 << 20, 3 << 20), beta1=0.9, beta2=0.999, eps=1e-8)
_plain = dict(weight_decay=0.0, decoupled_weight_decay=False, maximize=False)


def _like(data: list[float]) -> Draw:
    return values(data, "float32")


def _flag(value: float) -> Draw:
    return values(value, "float32")


@op(
    mutates=("params", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step"),
    kernel=kernels.adam,
    exact=True,
    on="",
    bytes=lambda params, *_, **__: 28 * sum(p.size for p in params),
    bench=[draw(_long, _long, (1 << 22,), Draw((1 << 22,), "uniform", 0.1, 2.0), None, _like([1.0] * 4), 1e-2, None,
                **_at, index=(0, 1, 2, 3), **_plain)],
    samples=each(
        draw(_shapes, _shapes, (33,), _positive, None, _like([0.0, 0.0, 0.0]), 1e-2, None, **_adam, **_plain),
        draw(_shapes, _shapes, (33,), _positive, None, _like([1.0, 1.0, 1.0]), 1e-2, _flag(0.0), **_adam, **_plain),
        draw(_shapes, _shapes, (33,), _positive, None, _like([1.0, 1.0, 1.0]), 1e-2, _flag(1.0), **_adam, **_plain),
        draw(_shapes, _shapes, (33,), _positive, _positive, _like([4.0, 9.0, 4.0]), 1e-2, None, **_adam,
             weight_decay=0.1, decoupled_weight_decay=True, maximize=True),
        draw([(1500,)], [(1500,)], (1500,), Draw((1500,), "uniform", 0.1, 2.0), None, _like([2.0]), 1e-2, None,
             offsets=(0,), index=(0,), beta1=0.9, beta2=0.99, eps=1e-6, weight_decay=0.1, decoupled_weight_decay=False,
             maximize=False),
    ),
)  # fmt: skip
def adam_(
    params: Arrays,
    grads: Arrays,
    exp_avg: Array,
    exp_avg_sq: Array,
    max_exp_avg_sq: Array | None,
    step: Array,
    lr: Array,
    found_inf: Array | None,
    *,
    offsets: Any,
    index: Any,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled_weight_decay: bool,
    maximize: bool,
):
    """p - lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps), in place.

    See ``_optim_numpy.adam_`` for the layout.
    """
    _optim_numpy.adam_(
        params, grads, exp_avg, exp_avg_sq, max_exp_avg_sq, step, lr, found_inf, offsets=offsets, index=index,
        beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay, decoupled_weight_decay=decoupled_weight_decay,
        maximize=maximize,
    )  # fmt: skip


@op(
    mutates=("params", "momentum_buffer"),
    kernel=kernels.sgd,
    exact=True,
    on="",
    bytes=lambda params, *_, **__: 20 * sum(p.size for p in params),
    bench=[draw(_long, _long, (1 << 22,), 0.1, None, offsets=_at["offsets"], momentum=0.9, dampening=0.0,
                weight_decay=0.01, nesterov=False, maximize=False)],
    samples=each(
        draw(_shapes, _shapes, None, 0.1, None, offsets=(0, 16, 32), momentum=0.0, dampening=0.0, weight_decay=0.0,
             nesterov=False, maximize=False),
        draw(_shapes, _shapes, (33,), 0.1, _flag(0.0), offsets=(0, 16, 32), momentum=0.9, dampening=0.1,
             weight_decay=0.01, nesterov=False, maximize=True),
        draw(_shapes, _shapes, (33,), 0.1, _flag(1.0), offsets=(0, 16, 32), momentum=0.9, dampening=0.1,
             weight_decay=0.01, nesterov=False, maximize=True),
        draw([(1500,)], [(1500,)], (1500,), 0.1, None, offsets=(0,), momentum=0.9, dampening=0.0, weight_decay=0.01,
             nesterov=True, maximize=False),
    ),
)  # fmt: skip
def sgd_(
    params: Arrays,
    grads: Arrays,
    momentum_buffer: Array | None,
    lr: Array,
    found_inf: Array | None,
    *,
    offsets: Any,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
):
    """p - lr * (momentum * b + (1 - dampening) * (g + weight_decay * p)), in place. See ``_optim_numpy.sgd_``."""
    _optim_numpy.sgd_(
        params, grads, momentum_buffer, lr, found_inf, offsets=offsets, momentum=momentum, dampening=dampening,
        weight_decay=weight_decay, nesterov=nesterov, maximize=maximize,
    )  # fmt: skip


def _rules() -> Any:
    """Every rule, with numbers of use and states that leave no padding."""
    numbers = {
        "lion": (0.9, 0.1, 0.99, 0.01), "adagrad": (0.1, 1e-8), "adadelta": (0.9, 0.1, 1e-6),
        "adamax": (0.1, 0.999, 1e-8, -0.105), "nadam": (0.1, 0.999, 0.001, 1e-8, 0.9, -1.6e-4, -1.0005e-3),
        "radam": (0.1, 0.99, 0.01, 1e-8, -0.10536, -0.01005, 199.0), "asgd": (1e-2, 0.75, 2.0),
        "rprop": (0.5, 1.2, 1e-6, 0.2), **dict.fromkeys(
            ("rmsprop", "rmsprop_centered", "rmsprop_momentum", "rmsprop_momentum_centered"), (0.99, 0.01, 1e-3, 0.9)
        ),
    }  # fmt: skip
    size = {"lion": 1, "adagrad": 1, "asgd": 1, "rmsprop": 1, "rmsprop_momentum_centered": 3}
    own = {"nadam": values([[0.9, 0.5, 0.7]], "float32"),
           "asgd": values([[0.1, 0.2, 0.1], [1.0, 0.5, 0.7]], "float32")}  # fmt: skip
    for i, (rule, given) in enumerate(numbers.items()):
        states = [Draw((33,), "uniform", 0.5, 2.0), *[Draw((33,), "uniform", 0.1, 0.4)] * (size.get(rule, 2) - 1)]
        step = _like([0.0, 8.0, 0.0]) if rule in ("adagrad", "adamax", "nadam", "radam", "asgd") else None
        yield draw(
            _shapes, _shapes, states, step, own.get(rule), 1e-2, _flag(0.0) if i % 2 else None,
            offsets=(0, 16, 32), index=(0, 1, 2), rule=rule, numbers=given, weight_decay=0.1 if i % 3 else 0.0,
            decoupled_weight_decay=rule == "lion", maximize=i % 4 == 3,
        )  # fmt: skip
    for rule, flag in (("lion", 1.0), ("adamax", 0.0)):
        states = [Draw((1500,), "uniform", 0.5, 2.0)] * size.get(rule, 2)
        yield draw(
            [(1500,)], [(1500,)], states, _like([2.0]) if rule == "adamax" else None, None, 1e-2, _flag(flag),
            offsets=(0,), index=(0,), rule=rule, numbers=numbers[rule], weight_decay=0.1, decoupled_weight_decay=True,
            maximize=False,
        )  # fmt: skip


@op(
    mutates=("params", "states", "step", "own"),
    kernel=kernels.fused,
    exact=True,
    on="",
    bytes=lambda params, grads, states, *_, **__: (12 + 8 * len(states)) * sum(p.size for p in params),
    samples=list(_rules()),
)
def fused_(
    params: Arrays,
    grads: Arrays,
    states: Arrays,
    step: Array | None,
    own: Array | None,
    lr: Array,
    found_inf: Array | None,
    *,
    offsets: Any,
    index: Any,
    rule: str,
    numbers: Any,
    weight_decay: float,
    decoupled_weight_decay: bool,
    maximize: bool,
):
    """A step of a pointwise rule with flat states, in place: see ``_optim_numpy.RULES`` and ``fused_``."""
    _optim_numpy.fused_(
        params, grads, states, step, own, lr, found_inf, offsets=offsets, index=index, rule=rule, numbers=numbers,
        weight_decay=weight_decay, decoupled_weight_decay=decoupled_weight_decay, maximize=maximize,
    )  # fmt: skip


@op(
    mutates=("grads", "found_inf"),
    kernel=kernels.unscale,
    exact=True,
    on="",
    bytes=lambda grads, *_, **__: 8 * sum(g.size for g in grads),
    samples=each(
        draw(_shapes, _flag(0.0), _flag(3.0)),
        draw([(1500,), (2,)], _flag(1.0), _flag(65536.0)),
        draw([values([1.0, -float("inf"), 2.0])], _flag(0.0), _flag(0.5)),
        draw([values([[1.0, 2.0], [float("nan"), 0.0]]), (3,)], _flag(0.0), _flag(0.5)),
    ),
)  # fmt: skip
def amp_unscale_(grads: Arrays, found_inf: Array, scale: Array):
    """grads / scale, in place, and found_inf 1 where one of them is infinite or NaN. See ``_optim_numpy``."""
    _optim_numpy.amp_unscale_(grads, found_inf, scale)


@op(
    spec=lambda tensors, owner, norm_type: ((), tensors[0].dtype),
    kernel=kernels.norm,
    exact=True,
    differentiable=False,
    on="",
    bytes=lambda tensors, *_, **__: sum(t.nbytes for t in tensors),
    samples=each(
        draw(_shapes, None, norm_type=2.0), draw([(1500,), (2, 3), (0,)], None, norm_type=2.0),
        draw([(40000,), (7,)], None, norm_type=2.0), draw(_shapes, (3,), norm_type=1.0),
        draw(_shapes, None, norm_type=3.0), draw(_shapes, None, norm_type=float("inf")),
        draw([(0,)], None, norm_type=2.0),
        draw([values([1.0, float("nan"), 2.0]), (3,)], None, norm_type=float("inf")),
        draw([values([1.0, float("inf"), 2.0]), (3,)], None, norm_type=2.0),
    ),
)  # fmt: skip
def multi_tensor_norm(tensors: Arrays, owner: Array | None, norm_type: float):
    """(Σ |x|^norm_type)^(1/norm_type) over all elements of all tensors, of one dtype; ``inf``: the largest |x|.

    norm_type > 0. Sums in float32 or wider; two launches for any number of tensors, and nothing is read back. The
    table of their addresses is kept for as long as ``owner`` lives: gradients are new arrays in each step.
    """
    return _optim_numpy.norm(tensors, norm_type)


@op(
    mutates=("grads",),
    kernel=kernels.clip,
    exact=True,
    on="",
    bytes=lambda grads, *_, **__: 2 * sum(g.nbytes for g in grads),
    samples=each(
        draw(_shapes, _flag(3.0), None, max_norm=1.0), draw([(1500,), (2,)], _flag(3.0), (3,), max_norm=5.0),
        draw([(1500,), (2, 3), (0,)], _flag(2.5), None, max_norm=1.0),
        draw([(5,)], _flag(float("nan")), None, max_norm=1.0),
        draw([(5,)], _flag(float("inf")), None, max_norm=1.0),
    ),
)  # fmt: skip
def multi_tensor_clip_(grads: Arrays, norm: Array, owner: Array | None, *, max_norm: float):
    """grads · min(1, max_norm / (norm + 1e-6)), in place, in one launch; the norm is read on the device."""
    _optim_numpy.clip_(grads, norm, max_norm=max_norm)


_tracker: Any = {"growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 3}


@op(
    mutates=("scale", "growth_tracker"),
    kernel=kernels.update_scale,
    exact=True,
    on="",
    samples=each(
        draw(_flag(8.0), values(1, "int32"), _flag(0.0), **_tracker),
        draw(_flag(8.0), values(2, "int32"), _flag(0.0), **_tracker),
        draw(_flag(3e38), values(2, "int32"), _flag(0.0), **_tracker),
        draw(_flag(8.0), values(2, "int32"), _flag(1.0), growth_factor=1.7, backoff_factor=0.3, growth_interval=3),
    ),
)  # fmt: skip
def amp_update_scale_(
    scale: Array,
    growth_tracker: Array,
    found_inf: Array,
    *,
    growth_factor: float,
    backoff_factor: float,
    growth_interval: int,
):
    """The scale of the loss for the next step, in place. See ``_optim_numpy.amp_update_scale_``."""
    _optim_numpy.amp_update_scale_(
        scale, growth_tracker, found_inf, growth_factor=growth_factor, backoff_factor=backoff_factor,
        growth_interval=growth_interval,
    )  # fmt: skip
