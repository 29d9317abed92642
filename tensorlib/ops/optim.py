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
