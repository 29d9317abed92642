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


@op(
    mutates=("params", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step"),
    kernel=kernels.adam,
    exact=True,
    on="",
    bytes=lambda params, *_, **__: 28 * sum(p.size for p in params),
    samples=each(
        draw(_shapes, _shapes, (33,), _positive, None, _like([0.0, 0.0, 0.0]), 1e-2, **_adam, **_plain),
        draw(_shapes, _shapes, (33,), _positive, _positive, _like([4.0, 9.0, 4.0]), 1e-2, **_adam,
             weight_decay=0.1, decoupled_weight_decay=True, maximize=True),
        draw([(1500,)], [(1500,)], (1500,), Draw((1500,), "uniform", 0.1, 2.0), None, _like([2.0]), 1e-2, offsets=(0,),
             index=(0,), beta1=0.9, beta2=0.99, eps=1e-6, weight_decay=0.1, decoupled_weight_decay=False,
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
        params, grads, exp_avg, exp_avg_sq, max_exp_avg_sq, step, lr, offsets=offsets, index=index, beta1=beta1,
        beta2=beta2, eps=eps, weight_decay=weight_decay, decoupled_weight_decay=decoupled_weight_decay,
        maximize=maximize,
    )  # fmt: skip


@op(
    mutates=("params", "momentum_buffer"),
    kernel=kernels.sgd,
    exact=True,
    on="",
    bytes=lambda params, *_, **__: 20 * sum(p.size for p in params),
    samples=each(
        draw(_shapes, _shapes, None, 0.1, offsets=(0, 16, 32), momentum=0.0, dampening=0.0, weight_decay=0.0,
             nesterov=False, maximize=False),
        draw(_shapes, _shapes, (33,), 0.1, offsets=(0, 16, 32), momentum=0.9, dampening=0.1, weight_decay=0.01,
             nesterov=False, maximize=True),
        draw([(1500,)], [(1500,)], (1500,), 0.1, offsets=(0,), momentum=0.9, dampening=0.0, weight_decay=0.01,
             nesterov=True, maximize=False),
    ),
)  # fmt: skip
def sgd_(
    params: Arrays,
    grads: Arrays,
    momentum_buffer: Array | None,
    lr: Array,
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
        params, grads, momentum_buffer, lr, offsets=offsets, momentum=momentum, dampening=dampening,
        weight_decay=weight_decay, nesterov=nesterov, maximize=maximize,
    )  # fmt: skip
